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
#   given up before they are published; not after that, even if the position
#   does not say so yet.
# - What a crashed relay was about is taken up after minimum_retry_interval.
#
# Intervals are as long as in production; time is let pass.  One promise waits
# for milliseconds, so that the clocks themselves are tested.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;

use constant {
	EARLY => 0.02,    # the relay counts from the beginning of its step
	SLACK => 1,       # how much later something may happen on a busy machine
	MARGIN => 10,     # how much time a busy machine may take between two looks
	JITTER => 1.1,    # waits of the persistent tier are longer by up to a tenth
	RETRY_BATCH => 7,
};

my $receiver = start_receiver(mode => 'dapr');
my $node = new_node(
	'retry',
	clock => 1,
	conf => {
		'outbox.dapr_endpoint' => $receiver->url,
		'outbox.poll_interval' => '1h',
		'outbox.breaker_threshold' => 0,
		'outbox.retry_batch_size' => RETRY_BATCH,
		'outbox.request_timeout' => '1d',
		'outbox.local_retry_times' => 0,
		'outbox.local_failed_retry_interval' => '1min',
		'outbox.failed_retry_interval' => '10min',
		'outbox.max_retry_interval' => '1h',
		'outbox.minimum_retry_interval' => '0',
	});
query($node, 'CREATE EXTENSION outbox');

# Every try of an event of these topics fails at the broker.
sub fail_topics
{
	my (@topics) = @_;
	$receiver->faults([ map { {
		match => { topic => $_ }, component_error => 'no broker' } } @topics ]);
	return;
}

sub tries
{
	my ($id) = @_;
	return scalar($receiver->log(id => $id));
}

# Wait until an event has been tried so often.
sub wait_tries
{
	my ($id, $n) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return poll_until(sub { tries($id) >= $n }, "try $n");
}

# Let so many seconds pass, and the relay do all that is due by then: it sends
# and settles an event in a later step.
sub let_seconds_pass
{
	my ($seconds) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	let_time_pass($node, $seconds * 1000);
	return wait_state($node, scalar publish($node, 'beside'), 'published');
}

# An event that has been tried so often is tried again when it has waited for
# between $from and $to seconds.
sub retried_after
{
	my ($id, $tries, $from, $to, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	let_seconds_pass($from - MARGIN);
	is(tries($id), $tries, "$name: not before");
	let_seconds_pass($to - $from + MARGIN);
	wait_tries($id, $tries + 1);
	is(tries($id), $tries + 1, "$name: then once");
	return;
}

# An event waits in the table, and for so long: seconds by the relay's clock.
sub waits_in_table
{
	my ($id, $from, $to, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_state($node, $id, 'failed');
	my $wait = event_value($node, $id, q{extract(epoch FROM next_attempt_at
		- clock_timestamp() - current_setting('outbox_test.clock_skew')::interval)});
	cmp_ok($wait, '>', $from - MARGIN, "$name: it waits in the table");
	cmp_ok($wait, '<=', $to, "$name: no longer than it should");
	return;
}

# --- The local tier

promise 'the local tier retries, local_failed_retry_interval apart' => sub {
	reload(
		$node,
		'outbox.local_retry_times' => 2,
		'outbox.minimum_retry_interval' => '1min');
	fail_topics('local');
	my $id = publish($node, 'local');
	wait_tries($id, 1);
	retried_after($id, 1, 60, 60, 'the first retry');
	wait_state($node, $id, 'in_progress');
	retried_after($id, 2, 60, 60, 'the second retry');
	waits_in_table($id, 600, 600 * JITTER, 'failed_retry_interval');
	is(tries($id), 3, 'the local tier retries local_retry_times');
	is(event_value($node, $id, 'state, attempts, last_status'),
		'failed|3|500', 'then it is failed');
};

# --- The persistent tier

promise 'the persistent tier waits longer each time, then the event is dead' =>
  sub {
	my @minutes = (1, 2, 4, 8, 16, 32, 60, 60);
	my $dead = stat_value($node, 'died');
	reload(
		$node,
		'outbox.failed_retry_interval' => '1min',
		'outbox.max_retry_times' => scalar(@minutes));
	fail_topics('persistent');
	my $id = publish($node, 'persistent');
	foreach my $n (1 .. @minutes)
	{
		my $wait = 60 * $minutes[ $n - 1 ];
		my $name = "retry $n, $minutes[$n - 1] min";

		wait_tries($id, $n);
		waits_in_table($id, $wait, $wait * JITTER, $name);
		retried_after($id, $n, $wait, $wait * JITTER, $name);
	}
	wait_state($node, $id, 'dead');
	is(tries($id), 1 + @minutes, 'max_retry_times retries are made');
	is( event_value($node, $id,
			'state, attempts, last_status, next_attempt_at IS NULL'),
		'dead|9|500|t',
		'then the event is dead');
	like(event_value($node, $id, 'last_error'),
		qr/^HTTP 500 ERR_PUBSUB_PUBLISH_MESSAGE: .*no broker$/,
		'with the reason in one line');
	wait_stat($node, 'died', $dead + 1, 'outbox_stats counts it');
  };

# docs/guarantees.md says so.
promise 'with the defaults an event is tried for two hours' => sub {
	my @minutes = (1, 2, 4, 8, 16, 32, 60);
	reload($node,
		map { $_ => undef } 'outbox.local_retry_times',
		'outbox.local_failed_retry_interval',
		'outbox.failed_retry_interval',
		'outbox.max_retry_interval',
		'outbox.minimum_retry_interval');
	fail_topics('defaults');
	my $id = publish($node, 'defaults');
	foreach my $n (1 .. 3)
	{
		wait_tries($id, $n);
		let_time_pass($node, 3000);
	}
	wait_tries($id, 4);
	foreach my $minutes (@minutes)
	{
		wait_state($node, $id, 'failed');
		let_seconds_pass($minutes * 60 * JITTER);
	}
	wait_state($node, $id, 'dead');
	is(event_value($node, $id, 'attempts'), '11', 'after ten retries it is dead');
};

promise 'no wait in the table is shorter than minimum_retry_interval' => sub {
	reload(
		$node,
		'outbox.failed_retry_interval' => '1s',
		'outbox.minimum_retry_interval' => '10min');
	fail_topics('minimum');
	my $id = publish($node, 'minimum');
	waits_in_table($id, 600, 600, 'minimum_retry_interval');
	retried_after($id, 1, 600, 600, 'minimum_retry_interval');
};

# --- Real time

promise 'waits of milliseconds are kept to, and every try is the same' => sub {
	reload(
		$node,
		'outbox.local_retry_times' => 2,
		'outbox.local_failed_retry_interval' => '150ms',
		'outbox.failed_retry_interval' => '200ms',
		'outbox.max_retry_interval' => '500ms',
		'outbox.max_retry_times' => 5);
	fail_topics('real');
	my $id = query($node, q{SELECT outbox_publish_bytes('real',
		'\x00ff', 'application/octet-stream', key => 'real',
		metadata => '{"a": "b"}')});
	wait_state($node, $id, 'dead');

	my @tries = $receiver->log(id => $id);
	my @promised = (
		[ 0.15, 1 ], [ 0.15, 1 ], [ 0.2, JITTER ], [ 0.4, JITTER ], [ 0.5, JITTER ]);
	is(scalar(@tries), 1 + @promised, 'max_retry_times retries are made');
	foreach my $n (0 .. $#promised)
	{
		my ($from, $jitter) = @{ $promised[$n] };
		my $wait = $tries[ $n + 1 ]{time} - $tries[$n]{time};
		cmp_ok($wait, '>=', $from - EARLY, "a wait of $from s");
		cmp_ok($wait, '<', $from * $jitter + SLACK, 'and not much later');
	}
	my ($first, @again) =
	  map { [ @{$_}{qw(method path query headers body)} ] } @tries;
	is_deeply(\@again, [ ($first) x @promised ],
		'every try is the same, byte for byte');
};

# --- Retry-After

# Name, header, minimum_retry_interval (above which a wait leaves memory), and
# between how many seconds the retry shall come
foreach my $case (
	[ 'memory', '120', '10min', 120, 120 ],
	[ 'table', '120', '0', 120, 120 ],
	[ 'capped', '100000', '0', 3600, 3600 ],
	[ 'zero', '0', '0', 60, 60 * JITTER ],
	[ 'negative', '-7', '0', 60, 60 * JITTER ],
	[ 'garbage', 'soon', '0', 60, 60 * JITTER ])
{
	my ($name, $header, $minimum, $from, $to) = @$case;

	promise "Retry-After: $header means a wait of $from s ($name)" => sub {
		reload(
			$node,
			'outbox.failed_retry_interval' => '1min',
			'outbox.minimum_retry_interval' => $minimum,
			'outbox.local_retry_times' => $name eq 'memory' ? 1 : 0);
		$receiver->faults([ {
			match => { topic => "asked $name" },
			times => 1,
			status => 503,
			headers => { 'Retry-After' => $header },
		} ]);
		my $id = publish($node, "asked $name");
		wait_tries($id, 1);
		waits_in_table($id, $from, $to, $header) if $name ne 'memory';
		retried_after($id, 1, $from, $to, $header);
		wait_delivered($receiver, [$id]);
	};
}

# --- By hand

promise 'a failed event can be sent again by hand, or given up' => sub {
	fail_topics('by hand');
	my ($retried, $discarded) = publish($node, 'by hand', count => 2);
	wait_state($node, [ $retried, $discarded ], 'failed');
	query($node, "SELECT outbox_discard('$discarded')");
	is( event_value($node, $discarded,
			'state, next_attempt_at IS NULL, last_error'),
		'discarded|t|discarded by ' . query($node, 'SELECT session_user'),
		'a failed event can be given up');
	$receiver->faults([]);
	query($node, "SELECT outbox_retry('$retried')");
	wait_state($node, $retried, 'published');
	is(event_value($node, $retried, 'attempts, published_at > created_at'),
		'1|t', 'a failed event is sent when told to, with fresh attempts');
	is(tries($discarded), 1, 'one that was given up is not');

	fails_with($node, "SELECT outbox_retry('$retried')",
		'55000', 'a published event cannot be retried');
	fails_with($node, "SELECT outbox_discard('$retried')",
		'55000', 'nor given up');
	fails_with($node, "SELECT outbox_discard('$discarded')",
		'55000', 'nor an event be given up twice');
	query($node, "SELECT outbox_retry('$discarded')");
	wait_state($node, $discarded, 'published');
	is(scalar($receiver->accepted(id => $discarded)),
		1, 'an event that was given up can be sent after all');
};

promise 'an event that is not there cannot be sent again or given up' => sub {
	fails_with($node, 'SELECT outbox_retry(gen_random_uuid())',
		'P0002', 'an event that is not there cannot be retried');
	fails_with($node, 'SELECT outbox_discard(gen_random_uuid())',
		'P0002', 'nor given up');
};

promise 'a scheduled event can be sent at once, or given up' => sub {
	my @later = (more => q{deliver_after => now() + '1 h'});
	my $sent = publish($node, 'scheduled', @later);
	wait_state($node, $sent, 'scheduled');
	query($node, "SELECT outbox_retry('$sent')");
	wait_delivered($receiver, [$sent]);

	my $discarded = publish($node, 'scheduled', @later);
	my $kept = publish($node, 'scheduled', @later);
	query($node, "SELECT outbox_discard('$discarded')");
	let_seconds_pass(3600);
	wait_delivered($receiver, [$kept]);
	is(tries($discarded), 0,
		'a scheduled event that was given up is not sent when its time has come');
};

promise 'the dead events of a topic, or all, can be sent again' => sub {
	my @topics = qw(flood drop other);
	my $count_dead = q{SELECT count(*) FROM outbox_events WHERE state = 'dead'};
	my $before = query($node, $count_dead);
	reload($node, 'outbox.max_retry_times' => 0);
	fail_topics(@topics);
	my @flood = publish($node, 'flood', count => 100);
	my @drop = publish($node, 'drop', count => 3);
	my $other = publish($node, 'other');
	poll_until(sub { query($node, $count_dead) == $before + 104 },
		'all to be dead');
	is( query($node, q{SELECT string_agg(DISTINCT attempts::text, ',')
			FROM outbox_events WHERE topic = 'flood'}),
		'1', 'without retries an event dies of its first try');
	$receiver->faults([]);
	is(query($node, q{SELECT outbox_retry_dead('nothing')}), '0', 'no such topic');
	is(query($node, q{SELECT outbox_retry_dead('flood')}), '100', 'one topic');
	wait_delivered($receiver, \@flood);
	is(query($node, $count_dead),
		$before + 4, 'more than retry_batch_size are sent');
	is(scalar($receiver->log(topic => 'drop')), 3, 'those of that topic only');
	is(query($node, q{SELECT outbox_retry_dead()}), $before + 4, 'all topics');
	wait_delivered($receiver, [ @drop, $other ]);
};

# --- An open transaction of an administrator

promise 'what somebody asks for in an open transaction holds nothing up' => sub {
	fail_topics('asked for');
	my ($retried, $discarded) = publish($node, 'asked for', count => 2);
	wait_state($node, [ $retried, $discarded ], 'failed');
	$receiver->faults([]);
	my $operator = $node->background_psql('postgres');
	$operator->query_safe("BEGIN; SELECT outbox_retry('$retried')");
	$operator->query_safe("SELECT outbox_discard('$discarded')");
	is($operator->query_safe(
			"SELECT state FROM outbox_events WHERE event_id = '$discarded'"),
		'discarded', 'who has asked sees it as done');
	is(event_state($node, $discarded), 'failed', 'the others do not');
	let_seconds_pass(600 * JITTER);
	wait_delivered($receiver,
		[ $retried, $discarded, publish($node, 'beside', count => 5) ]);
	$operator->query_safe('COMMIT');
	$operator->quit;
	poll_until(sub { query($node, 'SELECT count(*) FROM outbox_request') eq '0' },
		'the requests to be served');
	wait_state($node, [ $retried, $discarded ], 'published');
	taken_once($receiver, [ $retried, $discarded ],
		'what is published meanwhile stays so');
};

# What hangs holds the position for a second.
promise 'what is given up too late is published, and the log says so' => sub {
	disable($node);
	$receiver->faults([ { match => { topic => 'holds' }, action => 'hang' } ]);
	my $holds = publish($node, 'holds');
	my $id = publish($node, 'too late');
	my $operator = $node->background_psql('postgres');
	$operator->query_safe("BEGIN; SELECT outbox_discard('$id')");
	my $offset = -s $node->logfile;
	reload($node, 'outbox.enabled' => 'on');
	wait_delivered($receiver, [$id]);
	$operator->query_safe('COMMIT');
	$operator->quit;
	wait_log($node,
		qr/event "$id" was published before it could be discarded/, $offset);
	query($node, "SELECT outbox_discard('$holds')");
	wait_state($node, $id, 'published');
	wait_state($node, $holds, 'discarded');
	taken_once($receiver, [$id], 'it was sent once');
};

# --- A crash

promise 'what a crash left is taken up after minimum_retry_interval' => sub {
	reload($node, 'outbox.minimum_retry_interval' => '1min');
	$receiver->faults([ { match => { topic => 'crash' }, action => 'hang' } ]);
	my $id = publish($node, 'crash');
	wait_tries($id, 1);
	let_seconds_pass(2);
	wait_state($node, $id, 'in_progress');
	query($node, 'CHECKPOINT');    # what the relay wrote is not durable at once
	my $pid = relay_pid($node);
	kill 'KILL', $pid;
	wait_relay($node, not => $pid);
	$receiver->faults([]);
	waits_in_table($id, 60 - 2, 60, 'what a crash left in progress');
	is(tries($id), 1, 'it is not tried at once');
	retried_after($id, 1, 60, 60, 'what a crash left in progress');
	wait_delivered($receiver, [$id]);
	my ($try, $again) = $receiver->log(id => $id);
	is($again->{body}, $try->{body}, 'the same as before');
};

done_testing();
