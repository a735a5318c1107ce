# The application behind a sidecar: test/real/dapr/subscriber.py.
#
# Options of new():
#	topics		what it subscribes to, by the pubsub component: { pubsub => [ 'a', 'b' ] }
#	raw_topics	the same, for events without an envelope (rawPayload)

package Real::DaprSubscriber;

use strict;
use warnings FATAL => 'all';

use parent 'Real::Server';

use JSON::PP ();
use MIME::Base64 qw(decode_base64);

use PostgreSQL::Test::Utils ();

my $json = JSON::PP->new->utf8;

sub command
{
	my ($self) = @_;
	my @subscriptions = (
		$self->_subscriptions('topics'),
		$self->_subscriptions('raw_topics', metadata => { rawPayload => 'true' }));
	return (
		$ENV{PYTHON} // '/usr/bin/python3',
		'test/real/dapr/subscriber.py',
		'--port' => $self->port,
		'--log' => $self->_events_file,
		'--subscriptions' => $json->encode(\@subscriptions));
}

sub _subscriptions
{
	my ($self, $kind, %more) = @_;
	my $topics = $self->{$kind} // {};
	my @subscriptions;

	foreach my $pubsub (sort keys %$topics)
	{
		push @subscriptions,
		  map { { pubsubname => $pubsub, topic => $_, route => '/events', %more } }
		  @{ $topics->{$pubsub} };
	}
	return @subscriptions;
}

sub _events_file { return $_[0]->dir . '/events'; }

sub is_ready
{
	my ($self) = @_;
	return Real::Server::can_connect($self->port);
}

# events(%filter): what it was handed, in that order.  Of each: path, headers,
# "body" as bytes, and "event", what the body says as JSON.  Filters are members
# of the event with the value wanted.
sub events
{
	my ($self, %filter) = @_;
	$self->_read_news;
	return grep { _passes($_->{event}, \%filter) } @{ $self->{events} };
}

sub _passes
{
	my ($event, $filter) = @_;
	return !grep { ($event->{$_} // '') ne $filter->{$_} } keys %$filter;
}

# Read what was written since the last time; a line without its newline is not
# complete yet.
sub _read_news
{
	my ($self) = @_;

	$self->{events} //= [];
	return unless -e $self->_events_file;
	my $news = PostgreSQL::Test::Utils::slurp_file($self->_events_file,
		$self->{offset} // 0);
	while ($news =~ /\G(.+)\n/gc)
	{
		my $entry = $json->decode($1);
		if (defined $entry->{body})
		{
			utf8::encode($entry->{body});
		}
		else
		{
			$entry->{body} = decode_base64($entry->{body_base64});
		}
		$entry->{event} = eval { $json->decode($entry->{body}) } // {};
		push @{ $self->{events} }, $entry;
	}
	$self->{offset} += pos($news) // 0;
	return;
}

# counts($topic): how often it was handed each event of a topic, by id
sub counts
{
	my ($self, $topic) = @_;
	my %counts;
	$counts{ $_->{event}{id} }++ foreach $self->events(topic => $topic);
	return %counts;
}

1;
