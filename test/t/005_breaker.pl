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
use OutboxTest qw(:DEFAULT !/^(check_value|dapr_error|event_value|fails_with|publish|publish_sql|query|restart_relay|stat_value|states|wait_states)$/);

use constant {
	PROBE_INTERVAL => 0.5,
	SLACK => 1,    # how much later something may happen on a busy machine
	MAX_IN_FLIGHT => 4,
	MAX_PROBES => 40,    # while a test looks on
};

my $dapr = start_receiver(mode => 'dapr');
my $http = start_receiver(mode => 'http');
my $node = new_node(
	'breaker',
	conf => {
		'outbox.dapr_endpoint' => $dapr->url,
		'outbox.poll_interval' => '100ms',
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
$node->safe_psql('postgres', 'CREATE EXTENSION outbox');

sub query
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

sub publish
{
	my ($topic, $count) = @_;
	return split /\n/,
	  query("SELECT outbox_publish('$topic', to_jsonb(n))"
		  . " FROM generate_series(1, $count) n");
}

sub relay_state
{
	return query(
		'SELECT state FROM outbox_relays WHERE datname = current_database()');
}

# Wait for the outage to be noticed, and for more time than it would take to
# use up all attempts of an event.
sub wait_outage
{
	my ($topic) = @_;
	poll_until(sub { relay_state() eq 'endpoint down'; }, 'endpoint down');
	my $started = query('SELECT clock_timestamp()');
	poll_until(
		sub {
			query("SELECT clock_timestamp() - '$started' > interval '1.5 s'")
			  eq 't';
		},
		'the outage to last');
	is(relay_state(), 'endpoint down', "$topic: the endpoint is down");
	is( query(qq{
		SELECT count(*) FROM outbox_events
		WHERE topic = '$topic' AND (state = 'dead' OR attempts > 1)}),
		'0',
		"$topic: no event loses more than the try that noticed it");
	cmp_ok(
		query(qq{
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
	cmp_ok(
		query(qq{
			SELECT count(*) FROM outbox_delivery
			JOIN outbox_event USING (id) WHERE topic = '$topic'}),
		'<=', MAX_IN_FLIGHT + MAX_PROBES, "$topic: the backlog is not copied");
	return;
}

# All is well again: each event arrives, once.
sub recovered
{
	my ($receiver, $ids, $topic) = @_;
	wait_delivered($receiver, $ids);
	taken_once($receiver, $ids, "$topic: then each is delivered once");
	poll_until(sub { relay_state() eq 'idle' }, "$topic: the relay to be idle");
	return;
}

#
# Nobody listens
#

my @ids = publish('warm-up', 1);
wait_delivered($dapr, \@ids);
$dapr->state(listening => 0);
@ids = publish('refused', 500);
wait_outage('refused');
backlog_untouched('refused');
like(query('SELECT last_error FROM outbox_relays'),
	qr/connect/i, 'outbox_relays says why');
is( query(q{SELECT ok FROM outbox_check() WHERE "check" = 'endpoint answers'}),
	'f', 'so does outbox_check()');
$dapr->state(listening => 1);
my $since = time;
recovered($dapr, \@ids, 'refused');
my ($first) = $dapr->accepted(topic => 'refused', fields => ['time']);
cmp_ok($first->{time} - $since, '<', PROBE_INTERVAL + SLACK,
	'the first one within the probe interval');
is( query(q{SELECT ok FROM outbox_check() WHERE "check" = 'endpoint answers'}),
	't', 'and outbox_check() is content');

# A lone event: no other could tell that the endpoint is down.
reload($node, 'outbox.breaker_threshold' => 1000);
$dapr->state(listening => 0);
@ids = publish('alone', 1);
poll_until(sub { relay_state() eq 'endpoint down' }, 'endpoint down');
is(event_state($node, $ids[0]),
	'in_progress', 'not even a lone event dies of an outage');
$dapr->state(listening => 1);
recovered($dapr, \@ids, 'alone');
reload($node, 'outbox.breaker_threshold' => 3);

#
# Nobody answers
#

$dapr->faults([ { action => 'hang' } ]);
@ids = publish('hang', 50);
wait_outage('hang');
backlog_untouched('hang');
like(query('SELECT last_error FROM outbox_relays'),
	qr/timed? ?out/i, 'outbox_relays says why');
$dapr->reset;
recovered($dapr, \@ids, 'hang');

#
# Dapr's health
#

sub probes
{
	return scalar($dapr->log(
		method => 'GET', path => '/v1.0/healthz/outbound', fields => ['seq']));
}

$dapr->state(outbound => 0);
$dapr->faults([ { status => 503 } ]);
@ids = publish('unhealthy', 50);
wait_outage('unhealthy');
backlog_untouched('unhealthy');
$dapr->reset;
poll_until(sub { probes() >= 3 }, 'probes');
is(scalar($dapr->log(topic => 'unhealthy', fields => ['seq'])),
	0, 'nothing is sent while healthz/outbound says no');
cmp_ok(probes(), '<=', 4, 'and it is not asked more often than it should be');
$dapr->state(outbound => 1);
recovered($dapr, \@ids, 'unhealthy');

#
# Down, and not configured
#

sub cpu_ticks
{
	my @fields = split / /, slurp_file('/proc/' . relay_pid($node, 'postgres') . '/stat');
	return $fields[13] + $fields[14];
}

reload($node, 'outbox.breaker_probe_interval' => '10s');
$dapr->state(listening => 0);
@ids = publish('idle', 20);
poll_until(sub { relay_state() eq 'endpoint down' }, 'endpoint down');
reload($node, 'outbox.publisher' => 'http', 'outbox.http_url' => '');
poll_until(
	sub {
		query(q{SELECT ok FROM outbox_check() WHERE "check" = 'publisher configured'})
		  ne 't';
	},
	'the publisher not to be configured');
my ($ticks, $started) = (cpu_ticks(), time);
poll_until(sub { time - $started > 1 }, 'a second');
cmp_ok(cpu_ticks() - $ticks, '<', 30, 'a relay that can send nothing rests');
$dapr->state(listening => 1);
reload($node, 'outbox.publisher' => 'dapr');
recovered($dapr, \@ids, 'idle');

#
# A wrong URL
#

reload(
	$node,
	'outbox.publisher' => 'http',
	'outbox.http_url' => $http->url . '/wrong',
	'outbox.breaker_probe_interval' => '100ms');
$http->faults([ { match => { path => '^/wrong' }, status => 404 } ]);
@ids = publish('wrong URL', 200);
wait_outage('wrong URL');
backlog_untouched('wrong URL');
my @tries = $http->log(fields => ['time']);
cmp_ok(scalar(@tries), '>', MAX_IN_FLIGHT,
	'without a probe an event is tried now and then');
cmp_ok(scalar(@tries), '<', MAX_IN_FLIGHT + MAX_PROBES, 'one at a time');

# The next try on its own account would be an hour away.
reload($node, 'outbox.breaker_probe_interval' => '1h');
reload($node, 'outbox.http_url' => $http->url . '/right');
recovered($http, \@ids, 'wrong URL');

#
# Without a breaker
#

reload($node, 'outbox.breaker_threshold' => 0);
$http->faults([ { status => 503 } ]);
@ids = publish('mortal', 1);
wait_state($node, $ids[0], 'dead');
is( query("SELECT attempts, last_status FROM outbox_events"
		  . " WHERE event_id = '$ids[0]'"),
	'4|503',
	'with breaker_threshold = 0 failures of the endpoint count');

done_testing();
