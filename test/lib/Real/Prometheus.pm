# Prometheus itself, which asks exporters each second.

package Real::Prometheus;

use strict;
use warnings FATAL => 'all';

use parent 'Real::Server';

use Carp;
use HTTP::Tiny;
use JSON::PP ();

sub missing
{
	return Real::Server::find_program('prometheus') ? undef : 'prometheus is not installed';
}

# new(config => $text, %options): options are those of Real::Server; the configuration
# has all but its global part, and paths in it are absolute
sub prepare
{
	my ($self) = @_;
	$self->{file} = $self->write_file('prometheus.yml', <<"YML" . $self->{config});
global:
  scrape_interval: 1s
  evaluation_interval: 1s
YML
	return;
}

sub command
{
	my ($self) = @_;
	return (
		Real::Server::find_program('prometheus'),
		'--config.file=' . $self->{file},
		'--storage.tsdb.path=' . $self->dir . '/data',
		'--web.listen-address=127.0.0.1:' . $self->port,
		'--log.level=warn');
}

sub is_ready { return $_[0]->_get('/-/ready')->{success}; }

sub _get
{
	my ($self, $path, %parameters) = @_;
	my $http = HTTP::Tiny->new(proxy => undef, http_proxy => undef);
	my $query = $http->www_form_urlencode(\%parameters);
	return $http->get('http://127.0.0.1:' . $self->port . "$path?$query");
}

# api($what, %parameters): "data" of what the API answers; an error of it is one of ours
sub api
{
	my ($self, $what, %parameters) = @_;
	my $answer = $self->_get("/api/v1/$what", %parameters);
	croak "$what: $answer->{content}" unless $answer->{success};
	return JSON::PP->new->decode($answer->{content})->{data};
}

# ask($expression): the series that it gives now, as hashes with "metric" (labels) and
# "value"
sub ask
{
	my ($self, $expression) = @_;
	return
	  map { { metric => $_->{metric}, value => $_->{value}[1] } }
	  @{ $self->api('query', query => $expression)->{result} };
}

1;
