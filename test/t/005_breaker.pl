# When the endpoint itself is down, the relay stops sending and probes.
#
# Promises:
# - outbox_relays says "endpoint down", and why.
# - However long it lasts, an outage uses up no event's attempts and kills
#   none; the backlog stays where it is, without a row in outbox_delivery.
# - Events flow again within outbox.breaker_probe_interval of its end, or as
#   soon as a wrong setting is mended.
# - Dapr is probed by healthz/outbound, and sent no event while that fails;
#   what has no probe is tried with one event at a time.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use lib 'test/lib';
use OutboxTest;

use constant {
	OUTAGE_HOURS => 4,
	PROBE_INTERVAL => 0.5,
	SLACK => 1,    # how much later something may happen on a busy machine
	MAX_IN_FLIGHT => 4,
	MAX_PROBES => 40,    # while a test looks on
};

my $dapr = start_receiver(mode => 'dapr');
my $http = start_receiver(mode => 'http');
my $node = new_node(
	'breaker',
	clock => 1,
	conf => {
		'outbox.dapr_endpoint' => $dapr->url,
		'outbox.breaker_threshold' => 3,
		'outbox.breaker_probe_interval' => PROBE_INTERVAL . 's',
		'outbox.max_in_flight' => MAX_IN_FLIGHT,
		'outbox.connect_timeout' => '300ms',
		'outbox.request_timeout' => '300ms',
		'outbox.max_retry_times' => 3,
		'outbox.local_retry_times' => 1,
		'outbox.local_failed_retry_interval' => '20ms',
		'outbox.failed_retry_interval' => '50ms',
		'outbox.max_retry_interval' => '50ms',
		'outbox.minimum_retry_interval' => '0',
	});
query($node, 'CREATE EXTENSION outbox');

# An event goes through.  Only then do failures count at all.
sub warm_up
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_delivered($dapr, [ publish($node, 'warm-up') ]);
}

# The endpoint is not reached, and that is noticed.
sub wait_down
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_relay_value($node, state => 'endpoint down');
}

# The outage is noticed, and lasts so much longer than it would take to use up
# all attempts of an event; the relay tries again each hour.
sub outlast
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_down();
	foreach my $hour (1 .. OUTAGE_HOURS)
	{
		my $seen = relay_value($node, 'last_error_at');
		let_time_pass($node, 3600 * 1000);
		poll_until(sub { relay_value($node, 'last_error_at') ne $seen },
			"hour $hour of the outage");
	}
	return;
}

# The outage takes no attempts but those of the tries that noticed it.
sub costs_nothing
{
	my ($topic) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	outlast();
	is(relay_value($node, 'state'),
		'endpoint down', "$topic: the endpoint is down");
	is( query($node, qq{
		SELECT count(*) FROM outbox_events
		WHERE topic = '$topic' AND (state = 'dead' OR attempts > 1)}),
		'0',
		"$topic: no event loses more than the try that noticed it");
	cmp_ok(
		query($node, qq{
			SELECT coalesce(sum(attempts), 0) FROM outbox_events
			WHERE topic = '$topic'}),
		'<=', MAX_IN_FLIGHT, "$topic: the backlog loses no attempts");
	return;
}

# Only events that were tried may have a row: those that were in flight when it
# began, and those that served as probes since then.
sub backlog_untouched
{
	my ($topic) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	cmp_ok(
		query($node,
			"SELECT count(*) FROM outbox_delivery WHERE topic = '$topic'"),
		'<=', MAX_IN_FLIGHT + MAX_PROBES, "$topic: the backlog is not copied");
	return;
}

# All is well again: each event arrives, once.
sub recovered
{
	my ($receiver, $ids, $topic) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_delivered($receiver, $ids);
	taken_once($receiver, $ids, "$topic: then each is delivered once");
	return wait_relay_value($node, state => 'idle');
}

promise 'an endpoint at which nobody listens costs nothing' => sub {
	warm_up();
	$dapr->state(listening => 0);
	my @ids = publish($node, 'refused', count => 500);
	costs_nothing('refused');
	backlog_untouched('refused');
	like(relay_value($node, 'last_error'), qr/connect/i,
		'outbox_relays says why');
	is(check_value($node, 'endpoint answers', 'ok'), 'f',
		'so does outbox_check()');
	$dapr->state(listening => 1);
	my $since = time;
	recovered($dapr, \@ids, 'refused');
	my ($first) = $dapr->accepted(topic => 'refused', fields => ['time']);
	cmp_ok($first->{time} - $since, '<', PROBE_INTERVAL + SLACK,
		'the first one within the probe interval');
	is(check_value($node, 'endpoint answers', 'ok'), 't',
		'and outbox_check() is content');
};

# No other event could tell that the endpoint is down.
promise 'not even a lone event dies of an outage' => sub {
	warm_up();
	reload($node, 'outbox.breaker_threshold' => 1000);
	$dapr->state(listening => 0);
	my $id = publish($node, 'alone');
	outlast();
	like(event_state($node, $id), qr/^(in_progress|failed)$/,
		'not even a lone event dies of an outage');
	$dapr->state(listening => 1);
	recovered($dapr, [$id], 'alone');
};

promise 'an endpoint that does not answer costs nothing' => sub {
	warm_up();
	$dapr->faults([ { action => 'hang' } ]);
	my @ids = publish($node, 'hang', count => 50);
	costs_nothing('hang');
	backlog_untouched('hang');
	like(relay_value($node, 'last_error'), qr/timed? ?out/i,
		'outbox_relays says why');
	$dapr->reset;
	recovered($dapr, \@ids, 'hang');
};

promise 'Dapr is sent nothing while healthz/outbound says no' => sub {
	my $probes = sub {
		return scalar($dapr->log(
			method => 'GET', path => '/v1.0/healthz/outbound', fields => ['seq']));
	};
	warm_up();
	$dapr->state(outbound => 0);
	$dapr->faults([ { status => 503 } ]);
	my @ids = publish($node, 'unhealthy', count => 50);
	costs_nothing('unhealthy');
	backlog_untouched('unhealthy');
	$dapr->reset;
	poll_until(sub { $probes->() >= 3 }, 'probes');
	is(scalar($dapr->log(topic => 'unhealthy', fields => ['seq'])),
		0, 'nothing is sent while healthz/outbound says no');
	cmp_ok($probes->(), '<=', 4, 'and it is not asked more often than it should be');
	$dapr->state(outbound => 1);
	recovered($dapr, \@ids, 'unhealthy');
};

promise 'a relay that can send nothing rests' => sub {
	my $cpu_ticks = sub { processor_ticks(relay_pid($node)) };
	warm_up();
	reload($node, 'outbox.breaker_probe_interval' => '10s');
	$dapr->state(listening => 0);
	my @ids = publish($node, 'idle', count => 20);
	wait_down();
	reload($node, 'outbox.publisher' => 'http', 'outbox.http_url' => '');
	poll_until(
		sub { check_value($node, 'publisher configured', 'ok') ne 't' },
		'the publisher not to be configured');
	my ($ticks, $started) = ($cpu_ticks->(), time);
	poll_until(sub { time - $started > 1 }, 'a second');
	cmp_ok($cpu_ticks->() - $ticks, '<', 30, 'a relay that can send nothing rests');
	$dapr->state(listening => 1);
	reload($node, 'outbox.publisher' => 'dapr');
	recovered($dapr, \@ids, 'idle');
};

promise 'without a probe an event is tried now and then' => sub {
	warm_up();
	reload(
		$node,
		'outbox.publisher' => 'http',
		'outbox.http_url' => $http->url . '/wrong',
		'outbox.breaker_probe_interval' => '100ms');
	$http->faults([ { match => { path => '^/wrong' }, status => 404 } ]);
	my @ids = publish($node, 'wrong URL', count => 200);
	costs_nothing('wrong URL');
	backlog_untouched('wrong URL');
	my @tries = $http->log(fields => ['time']);
	cmp_ok(scalar(@tries), '>', MAX_IN_FLIGHT,
		'without a probe an event is tried now and then');
	cmp_ok(scalar(@tries), '<', MAX_IN_FLIGHT + MAX_PROBES, 'one at a time');

	# The next try on its own account would be an hour away.
	reload($node, 'outbox.breaker_probe_interval' => '1h');
	reload($node, 'outbox.http_url' => $http->url . '/right');
	recovered($http, \@ids, 'wrong URL');
};

promise 'with breaker_threshold = 0 failures of the endpoint count' => sub {
	warm_up();
	reload(
		$node,
		'outbox.publisher' => 'http',
		'outbox.http_url' => $http->url,
		'outbox.breaker_threshold' => 0);
	$http->faults([ { status => 503 } ]);
	my $id = publish($node, 'mortal');
	wait_state($node, $id, 'dead');
	is(event_value($node, $id, 'attempts, last_status'),
		'4|503', 'with breaker_threshold = 0 failures of the endpoint count');
};

done_testing();
