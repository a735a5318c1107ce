# Debian's exporter that makes metrics of statements in a file: sql_exporter.

package Real::SqlExporter;

use strict;
use warnings FATAL => 'all';

use parent 'Real::Server';

use HTTP::Tiny;

sub missing
{
	return Real::Server::find_program('prometheus-sql-exporter')
	  ? undef
	  : 'prometheus-sql-exporter is not installed';
}

# new(config => $text, %options): options are those of Real::Server
sub prepare
{
	my ($self) = @_;
	$self->{file} = $self->write_file('config.yml', $self->{config});
	return;
}

sub command
{
	my ($self) = @_;
	return (
		Real::Server::find_program('prometheus-sql-exporter'),
		'-config.file' => $self->{file},
		'-web.listen-address' => '127.0.0.1:' . $self->port);
}

sub environment { return (LOGLEVEL => 'warn'); }
sub is_ready { return defined $_[0]->metrics; }

# metrics: what it shows, as text
sub metrics
{
	my ($self) = @_;
	my $answer = HTTP::Tiny->new(proxy => undef, http_proxy => undef)
	  ->get('http://127.0.0.1:' . $self->port . '/metrics');
	return $answer->{success} ? $answer->{content} : undef;
}

1;
