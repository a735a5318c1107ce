# What fails is tried again: first from memory, then from the table, until it
# is dead.
#
# Promises:
# - The local tier makes local_retry_times retries,
#   local_failed_retry_interval apart; nobody else retries them meanwhile.
# - The persistent tier waits failed_retry_interval, longer by retry_backoff
#   each time, up to max_retry_interval; never less than
#   minimum_retry_interval.
# - After max_retry_times retries the event is dead, and says why.
# - Every try of an event is the same, byte for byte.
# - Retry-After is honoured.
# - Events that failed, died or were given up can be sent again by hand, and
#   given up before they are published.
# - What a crashed relay was about is taken up after minimum_retry_interval.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest qw(:DEFAULT !/^(check_value|dapr_error|event_value|fails_with|publish|publish_sql|query|restart_relay|stat_value|states|wait_states)$/);

use constant {
	EARLY => 0.02,    # the relay counts from the beginning of its step
	SLACK => 1,       # how much later something may happen on a busy machine
};

my $receiver = start_receiver(mode => 'dapr');
my $node = new_node(
	'retry',
	conf => {
		'outbox.dapr_endpoint' => $receiver->url,
		'outbox.poll_interval' => '1h',
		'outbox.breaker_threshold' => 0,
		'outbox.retry_batch_size' => 7,
		'outbox.request_timeout' => '60s',
		'outbox.local_retry_times' => 2,
		'outbox.local_failed_retry_interval' => '1200ms',
		'outbox.failed_retry_interval' => '10min',
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
		  . ' FROM generate_series(1, ' . ($count // 1) . ') n');
}

# Every try of an event of this topic fails at the broker.
sub fail_topic
{
	my ($topic) = @_;
	$receiver->faults(
		[ { match => { topic => $topic }, component_error => 'no broker' } ]);
	return;
}

# Seconds between the tries of an event
sub waits
{
	my ($id) = @_;
	my @times = map { $_->{time} } $receiver->log(id => $id);
	return map { $times[$_] - $times[ $_ - 1 ] } 1 .. $#times;
}

# A wait between two tries is as promised.
sub wait_is
{
	my ($wait, $from, $to, $name) = @_;
	cmp_ok($wait, '>=', $from - EARLY, $name);
	cmp_ok($wait, '<', $to + SLACK, 'and not much later');
	return;
}

# An error with this code, when the statement is run
sub fails_with
{
	my ($sql, $code, $name) = @_;
	my ($status, undef, $stderr) =
	  $node->psql('postgres', "\\set VERBOSITY sqlstate\n$sql");
	isnt($status, 0, $name);
	like($stderr, qr/ERROR:\s+\Q$code\E/, "with code $code");
	return;
}

#
# The local tier
#

fail_topic('local');
my ($id) = publish('local');
wait_state($node, $id, 'in_progress', 1 + 2);
wait_state($node, $id, 'failed');
my @waits = waits($id);
is(scalar(@waits), 2, 'the local tier retries local_retry_times');
wait_is($_, 1.2, 1.2, 'local_failed_retry_interval apart') foreach @waits;
is( query(qq{
	SELECT state, attempts, last_status,
		next_attempt_at - now() BETWEEN interval '9 min' AND interval '11 min'
	FROM outbox_events WHERE event_id = '$id'}),
	'failed|3|500|t',
	'then it waits in the table for failed_retry_interval');

#
# The persistent tier
#

reload(
	$node,
	'outbox.local_retry_times' => 0,
	'outbox.failed_retry_interval' => '200ms',
	'outbox.retry_backoff' => 2,
	'outbox.max_retry_interval' => '1s',
	'outbox.max_retry_times' => 5);
fail_topic('persistent');
$node->safe_psql('postgres', q{SELECT outbox_publish_bytes('persistent',
	'\x00ff', 'application/octet-stream', key => 'k',
	metadata => '{"a": "b"}')});
$id = query(q{SELECT event_id FROM outbox_events WHERE topic = 'persistent'});
wait_state($node, $id, 'dead');
@waits = waits($id);
is(scalar(@waits), 5, 'max_retry_times retries are made');
my @promised = (0.2, 0.4, 0.8, 1.0, 1.0);
foreach my $n (0 .. $#promised)
{
	wait_is($waits[$n], $promised[$n], $promised[$n] * 1.1,
		"a wait of $promised[$n] s");
}
my ($state, $attempts, $status, $due, $error) = split /\|/, query(qq{
	SELECT state, attempts, last_status, next_attempt_at IS NULL, last_error
	FROM outbox_events WHERE event_id = '$id'});
is("$state $attempts $status $due", 'dead 6 500 t', 'then the event is dead');
like($error, qr/^HTTP 500 ERR_PUBSUB_PUBLISH_MESSAGE: .*no broker$/,
	'with the reason in one line');
is(query('SELECT dead FROM outbox_stats'), '1', 'outbox_stats counts it');

my ($first, @again) = map { [ @{$_}{qw(method path query headers body)} ] }
  $receiver->log(id => $id);
is_deeply(\@again, [ ($first) x 5 ], 'every try is the same, byte for byte');

reload($node, 'outbox.minimum_retry_interval' => '1s');
fail_topic('minimum');
($id) = publish('minimum');
poll_until(sub { waits($id) >= 1 }, 'a retry');
@waits = waits($id);
cmp_ok($waits[0], '>=', 1,
	'what is failed in the table is not retried before minimum_retry_interval');

#
# Retry-After
#

# topic, header, minimum_retry_interval (above which a wait leaves memory), and
# between how many seconds the retry shall come
my @asked = (
	[ 'memory', '2', '60s', 2, 2 ],
	[ 'table', '2', '0', 2, 2.2 ],
	[ 'capped', '100000', '0', 2.5, 2.75 ],
	[ 'zero', '0', '0', 0.05, 0.05 ],
	[ 'negative', '-7', '0', 0.05, 0.05 ],
	[ 'garbage', 'soon', '0', 0.05, 0.05 ]);
reload(
	$node,
	'outbox.failed_retry_interval' => '50ms',
	'outbox.max_retry_interval' => '2500ms');
$receiver->faults([ map { {
	match => { topic => "asked $_->[0]" },
	times => 1,
	status => 503,
	headers => { 'Retry-After' => $_->[1] },
} } @asked ]);
foreach my $case (@asked)
{
	my ($name, $header, $minimum, $from, $to) = @$case;

	reload(
		$node,
		'outbox.minimum_retry_interval' => $minimum,
		'outbox.local_failed_retry_interval' => '50ms',
		'outbox.local_retry_times' => $minimum eq '0' ? 0 : 1);
	($id) = publish("asked $name");
	wait_delivered($receiver, [$id]);
	wait_is((waits($id))[0], $from, $to, "Retry-After: $header ($name)");
}

#
# By hand
#

reload(
	$node,
	'outbox.failed_retry_interval' => '10min',
	'outbox.max_retry_interval' => '10min',
	'outbox.local_retry_times' => 0,
	'outbox.minimum_retry_interval' => '0');
fail_topic('by hand');
my ($retried, $discarded) = publish('by hand', 2);
wait_state($node, $_, 'failed') foreach $retried, $discarded;
query("SELECT outbox_discard('$discarded')");
is( query("SELECT state, next_attempt_at IS NULL, last_error"
		  . " FROM outbox_events WHERE event_id = '$discarded'"),
	'discarded|t|discarded by ' . query('SELECT session_user'),
	'a failed event can be given up');
$receiver->faults([]);
query("SELECT outbox_retry('$retried')");
wait_state($node, $retried, 'published');
is( query(qq{
		SELECT attempts, published_at > created_at
		FROM outbox_events WHERE event_id = '$retried'}),
	'1|t',
	'a failed event is sent when told to, with fresh attempts');
is(scalar($receiver->log(id => $discarded)), 1, 'one that was given up is not');

fails_with("SELECT outbox_retry('$retried')",
	'55000', 'a published event cannot be retried');
fails_with("SELECT outbox_discard('$retried')", '55000', 'nor given up');
fails_with("SELECT outbox_discard('$discarded')",
	'55000', 'nor an event be given up twice');
fails_with('SELECT outbox_retry(gen_random_uuid())',
	'P0002', 'an event that is not there cannot be retried');
fails_with('SELECT outbox_discard(gen_random_uuid())', 'P0002', 'nor given up');

query("SELECT outbox_retry('$discarded')");
wait_state($node, $discarded, 'published');
is(scalar($receiver->accepted(id => $discarded)),
	1, 'an event that was given up can be sent after all');

my $scheduled = query(
	q{SELECT outbox_publish('by hand', '3', deliver_after => now() + '1 h')});
wait_state($node, $scheduled, 'scheduled');
query("SELECT outbox_retry('$scheduled')");
wait_delivered($receiver, [$scheduled]);
$scheduled = query(
	q{SELECT outbox_publish('by hand', '4', deliver_after => now() + '1 s')});
query("SELECT outbox_discard('$scheduled')");

reload($node, 'outbox.max_retry_times' => 0);
$receiver->faults(
	[ map { { match => { topic => $_ }, component_error => 'no' } }
		  qw(flood drop) ]);
my @flood = publish('flood', 100);
my @drop = publish('drop', 3);
my $count_dead = q{SELECT count(*) FROM outbox_events
	WHERE state = 'dead' AND topic IN ('flood', 'drop')};
poll_until(sub { query($count_dead) == 103 }, 'all to be dead');
is( query(q{SELECT string_agg(DISTINCT attempts::text, ',')
		FROM outbox_events WHERE topic = 'flood'}),
	'1', 'without retries an event dies of its first try');
$receiver->faults([]);
is(query(q{SELECT outbox_retry_dead('nothing')}), '0', 'no such topic');
is(query(q{SELECT outbox_retry_dead('flood')}), '100', 'one topic');
wait_delivered($receiver, \@flood);
is(query($count_dead), '3', 'more than retry_batch_size are sent');
is(scalar($receiver->log(topic => 'drop')), 3, 'those of that topic only');
is(query(q{SELECT outbox_retry_dead()}),
	3 + 1, 'all topics: these, and that of the persistent tier');
wait_delivered($receiver, \@drop);

#
# A row that somebody has locked
#

reload(
	$node,
	'outbox.max_retry_times' => 10,
	'outbox.minimum_retry_interval' => '500ms',
	'outbox.failed_retry_interval' => '500ms',
	'outbox.local_retry_times' => 0);
$receiver->faults(
	[ { match => { topic => 'locked' }, component_error => 'no', times => 1 } ]);
my ($locked) = publish('locked');
wait_state($node, $locked, 'failed');
my $operator = $node->background_psql('postgres');
$operator->query_safe("BEGIN; SELECT outbox_retry('$locked')");
poll_until(
	sub {
		query(qq{SELECT next_attempt_at < now() FROM outbox_events
				 WHERE event_id = '$locked'}) eq 't';
	},
	'the locked event to be due');
wait_delivered($receiver, [ publish('beside', 5) ]);
is(scalar($receiver->accepted(id => $locked)),
	0, 'an event that somebody has locked waits, the others do not');
$operator->query_safe('COMMIT');
$operator->quit;
wait_delivered($receiver, [$locked]);

#
# A crash
#

reload(
	$node,
	'outbox.max_retry_times' => 10,
	'outbox.minimum_retry_interval' => '4s');
$receiver->faults([ { match => { topic => 'crash' }, action => 'hang' } ]);
($id) = publish('crash');
wait_state($node, $id, 'in_progress', 1 + 2);
query('CHECKPOINT');    # what the relay wrote is not durable at once
my $since = query(q{
	SELECT extract(epoch FROM updated_at)
	FROM outbox_delivery WHERE state = 'in_progress'});
kill 'KILL', relay_pid($node, 'postgres');
poll_until(sub { $receiver->stats->{concurrent} == 0 },
	'the relay to be gone');
$receiver->faults([]);
wait_state($node, $id, 'failed');
wait_delivered($receiver, [$id]);
my ($entry) = $receiver->accepted(id => $id);
wait_is($entry->{time} - $since, 4, 5,
	'what a crash left in progress is taken after minimum_retry_interval');
my ($try) = $receiver->log(id => $id);
is($entry->{body}, $try->{body}, 'the same as before');

# That took the crash some seconds.
is(scalar($receiver->log(id => $scheduled)), 0,
	'a scheduled event that was given up is not sent when its time has come');

done_testing();
