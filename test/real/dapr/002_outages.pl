# The sidecar or the broker behind it goes away while events are being sent.
#
# Promises, each with a backlog of 5,000 events of 50 keys, counted at the end:
# - The sidecar is killed, again and again, with single and with bulk requests: each
#   event is in the broker, twice at most if it was in flight at a kill, and
#   those of a key in order.
# - The same for a sidecar that is ended in order.
# - The broker dies, or hangs, behind a sidecar that answers: nothing is lost or
#   dead, and what is twice there is explained by tries that failed.
# - A component that is reloaded under load costs no event; one that is taken away
#   stops its events, and they go on when it is back.

use strict;
use warnings FATAL => 'all';

use JSON::PP ();
use Test::More;

use lib 'test/lib';
use OutboxTest;
use Real::Dapr;
use Real::DaprSubscriber;
use Real::Redis;

use constant {
	EVENTS => 5000,
	KEYS => 50,
	IN_FLIGHT => 16,
	IN_REQUEST => 100,    # of a bulk request, at most
	KILLS => 4,
	TIMEOUT => 180,
};

my $missing = Real::Redis->missing // Real::Dapr->missing;
plan skip_all => $missing if $missing;

my $json = JSON::PP->new->utf8;
my $redis = Real::Redis->new;
# What the application did not acknowledge is handed to it again soon.
my %metadata = (
	redisHost => '127.0.0.1:' . $redis->port,
	redisPassword => '',
	processingTimeout => '2s',
	redeliverInterval => '1s');
my $subscriber = Real::DaprSubscriber->new(
	topics => {
		pubsub => [qw(killed killed_bulk ended broker_killed broker_hung reloaded)]
	});
my $dapr = Real::Dapr->new(
	components => { pubsub => [ 'pubsub.redis', \%metadata ] },
	subscriber => $subscriber,
	features => ['HotReload']);
my $node = new_node(
	'outages',
	conf => {
		'outbox.dapr_endpoint' => $dapr->endpoint,
		'outbox.max_in_flight' => IN_FLIGHT,
		'outbox.request_timeout' => '2s',
	});
query($node, 'CREATE EXTENSION outbox');

# The entries of a topic's stream: [ id, key, number ] of each, in order
sub in_broker
{
	my ($topic) = @_;
	my @events = map { $json->decode($_) }
	  grep { /^\{.*"specversion"/ } split /\n/, $redis->cli('XRANGE', $topic, '-', '+');
	return map { [ $_->{id}, $_->{partitionkey}, $_->{data} ] } @events;
}

sub length_in_broker
{
	my ($topic) = @_;
	return eval { $redis->cli('XLEN', $topic) } // 0;
}

# Publish a backlog, and call $sub each time that another part of it is there.
sub with_backlog
{
	my ($topic, $times, $sub) = @_;
	my @ids = publish($node, $topic, count => EVENTS,
		more => sprintf(q{key => 'k' || n %% %d}, KEYS));

	foreach my $n (1 .. $times)
	{
		my $enough = EVENTS * $n / ($times + 2);
		poll_until(sub { length_in_broker($topic) >= $enough },
			"$enough events to be in the broker", TIMEOUT);
		$sub->();
	}
	return @ids;
}

# All are in the broker, at most $duplicates of them again, in order by key, and
# the application has seen each.
sub all_arrived
{
	my ($topic, $duplicates, @ids) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	poll_until(sub { stat_value($node, 'backlog') eq '0' },
		'the backlog to be empty', TIMEOUT);
	is(states($node, $topic), 'published*' . EVENTS, "$topic: all are published");

	my (%seen, %last, @disorder);
	foreach my $event (in_broker($topic))
	{
		my ($id, $key, $number) = @$event;
		next if $seen{$id}++;
		push @disorder, "$key: $number after $last{$key}"
		  if $number < ($last{$key} // 0);
		$last{$key} = $number;
	}
	is(scalar(grep { !$seen{$_} } @ids), 0, "$topic: none is lost");
	is_deeply(\@disorder, [], "$topic: in order by key");

	my $again = 0;
	$again += $_ - 1 foreach values %seen;
	cmp_ok($again, '<=', $duplicates, "$topic: $again twice, of $duplicates explained");

	my %counts;
	poll_until(sub { %counts = $subscriber->counts($topic); keys %counts >= @ids },
		"$topic: the application to have seen each", TIMEOUT);
	is(scalar(grep { !$counts{$_} } @ids), 0, "$topic: the application has seen each");
	return;
}

foreach my $bulk (qw(off auto))
{
	promise "a sidecar that is killed loses nothing, dapr_bulk = $bulk" => sub {
		my $topic = $bulk eq 'off' ? 'killed' : 'killed_bulk';
		reload($node, 'outbox.dapr_bulk' => $bulk);
		my @ids = with_backlog($topic, KILLS, sub { $dapr->kill->start });
		all_arrived($topic, KILLS * IN_FLIGHT * ($bulk eq 'off' ? 1 : IN_REQUEST), @ids);
	};
}

promise 'a sidecar that is ended in order loses nothing' => sub {
	my @ids = with_backlog('ended', KILLS, sub { $dapr->restart });
	all_arrived('ended', KILLS * IN_FLIGHT, @ids);
};

# Of a try that failed the event may have been taken all the same.
promise 'a broker that dies behind its sidecar loses nothing' => sub {
	my $failed = stat_value($node, 'failed_attempts');
	my @ids = with_backlog('broker_killed', 1, sub {
		$redis->kill;
		poll_until(
			sub { query($node, q{SELECT count(*) FROM outbox_topics
				WHERE topic = 'broker_killed' AND state = 'down'}) eq '1' },
			'the topic to be down', TIMEOUT);
		is($dapr->request('GET', '/v1.0/healthz/outbound')->{status}, 204,
			'the sidecar says that it is well');
		$redis->start;
	});
	all_arrived('broker_killed', stat_value($node, 'failed_attempts') - $failed, @ids);
};

promise 'a broker that hangs behind its sidecar loses nothing' => sub {
	my $failed = stat_value($node, 'failed_attempts');
	my @ids = with_backlog('broker_hung', 1, sub {
		$redis->hang;
		poll_until(
			sub { stat_value($node, 'failed_attempts') > $failed },
			'tries to fail', TIMEOUT);
		$redis->go_on;
	});
	all_arrived('broker_hung', stat_value($node, 'failed_attempts') - $failed, @ids);
};

promise 'a component that is reloaded costs no event' => sub {
	my $n = 0;
	my $failed = stat_value($node, 'failed_attempts');
	my @ids = with_backlog('reloaded', KILLS, sub {
		my $offset = length $dapr->log;
		$dapr->component('pubsub', 'pubsub.redis',
			{ %metadata, queueDepth => 100 + ++$n });
		poll_until(sub { $dapr->log($offset) =~ /Component loaded: pubsub/ },
			'the component to be reloaded', TIMEOUT);
	});
	all_arrived('reloaded', stat_value($node, 'failed_attempts') - $failed, @ids);

	$dapr->remove_component('pubsub');
	my $id = publish($node, 'reloaded');
	wait_relay_value($node, last_error => qr/ERR_PUBSUB_NOT_FOUND/, TIMEOUT);
	like(event_value($node, $id, 'state'), qr/^(?:pending|in_progress|failed)$/,
		'without its component an event waits');
	$dapr->component('pubsub', 'pubsub.redis', \%metadata);
	wait_state($node, $id, 'published', TIMEOUT);
};

done_testing();
