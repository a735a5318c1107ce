# What waits in the table holds nobody else up, and comes back in order.
#
# Promises:
# - A deep backlog of one key is delivered in order, once, and leaves no rows
#   behind; it is not read again and again.
# - A backlog that is quickly sent is not written down first.
# - Nor does it keep others waiting for all of it.
# - Nor is one that is slowly sent, while there is nothing else to be sent: not what
#   is behind it, nor what comes later or has come late, and not even of a key that
#   was waiting itself.
# - Order is by topic and key: an event of the same key in another topic does
#   not wait.
# - Thousands of dead events of one key are sent again in order by one call.
# - However many rows wait in the table, and whatever the planner was told about
#   it, delivering the events of others reads no more of it.
# - Nor is a key overtaken when there are more of them than are remembered, also
#   if the table is rewritten meanwhile.
# - Rather than by an index that is not valid, nothing is taken back.
# - What comes back from the table leaves room for new events.
# - A request that is committed late does not have an event sent again.
# - After a restart, what waits is found, in order; also behind what has to be
#   read again, however far the relay had read.
# - What came back from the table and failed keeps its attempts when the relay
#   ends.
# - What waits for the reader is sent once that has read everything, whether or not
#   anything is published later.
# - An open transaction that deletes an event holds up no other one.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use lib 'test/lib';
use OutboxTest;

use constant {
	DEEP => 6000,       # more than four times batch_size, which stay in memory
	QUICK => 300,       # the same, of ten
	SLOW => 300,        # of one key, which take 6 seconds
	ROWS => 20_000,     # that wait
	HEALTHY => 1000,
	STATISTICS => 1.5,  # seconds after which statistics have been sent
};

my $receiver = start_receiver(mode => 'dapr');
my $node = new_node(
	'tails',
	conf => {
		'outbox.dapr_endpoint' => $receiver->url,
		'outbox.batch_size' => 500,
		'outbox.breaker_threshold' => 0,
		'outbox.local_retry_times' => 0,
		autovacuum => 'off',
	});
query($node, 'CREATE EXTENSION outbox');

# The numbers of the events of a topic in the order in which they were taken
sub taken
{
	my ($topic) = @_;
	return [ map { cloud_event($_)->{data} }
		  $receiver->accepted(topic => $topic, fields => ['body']) ];
}

# Wait until all events of a topic are published.
sub wait_published
{
	my ($topic, $timeout) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return poll_until(
		sub {
			query($node, 'SELECT count(*) FROM outbox_events WHERE topic = '
				  . literal($topic) . q{ AND state <> 'published'}) eq '0';
		},
		"$topic to be published", $timeout);
}

sub rows_of
{
	my ($topic) = @_;
	return query($node,
		'SELECT count(*) FROM outbox_delivery WHERE topic = ' . literal($topic));
}

# Entries of the indexes of outbox_delivery, and rows, that were read so far
sub rows_read
{
	return query($node, q{
		SELECT sum(idx_tup_read + idx_tup_fetch)
		FROM pg_stat_all_indexes WHERE relname = 'outbox_delivery'});
}

# Rows of outbox_delivery that were written so far
sub rows_written
{
	return query($node, q{
		SELECT n_tup_ins FROM pg_stat_all_tables WHERE relname = 'outbox_delivery'});
}

# What $count returns when the relay has told all: it does so once a second, if
# it has something to do.
sub settled
{
	my ($count) = @_;
	my ($read, $since) = (-1, 0);
	poll_until(
		sub {
			my $now = $count->();
			publish($node, 'tick');
			($read, $since) = ($now, time) if $now != $read;
			return time - $since > STATISTICS;
		},
		'the statistics to be there');
	return $read;
}

# One dead event of a key and many that wait behind it.
sub dead_key
{
	my ($topic, $count) = @_;
	$receiver->faults([ { match => { topic => $topic }, status => 413, times => 1 } ]);
	publish($node, $topic, key => 'k');
	wait_states($node, $topic, 'dead*1');
	publish($node, $topic, key => 'k', payload => 'to_jsonb(n + 1)', count => $count);
	poll_until(sub { rows_of($topic) == $count + 1 }, 'all to have rows');
	return;
}

# Events of one key that fill the memory, each of which takes its time.
sub publish_slowly_sent
{
	my ($topic) = @_;
	reload($node, 'outbox.batch_size' => 10);
	$receiver->faults([ { match => { topic => $topic }, delay_response => 0.02 } ]);
	publish($node, $topic, key => 'k', count => SLOW);
	return;
}

# The event arrives long before the backlog of a topic is done.
sub does_not_wait_for
{
	my ($id, $topic, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_delivered($receiver, [$id]);
	cmp_ok(scalar(@{ taken($topic) }), '<', SLOW * 0.8, "$what does not wait");
	$receiver->faults([]);
	wait_published($topic, 120);
	is_deeply(taken($topic), [ 1 .. SLOW ], 'all are sent, in order');
	return;
}

promise 'a deep backlog of one key goes in order' => sub {
	reload($node, 'outbox.enabled' => 'off');
	publish($node, 'deep', key => 'k', count => DEEP);
	publish($node, 'behind', key => 'other');
	my $read = settled(\&rows_read);
	my $before = $receiver->stats->{distinct_ids};
	reload($node, 'outbox.enabled' => 'on');
	wait_delivered($receiver, $before + DEEP + 1, 120);
	cmp_ok(settled(\&rows_read) - $read, '<', 8 * DEEP,
		'rows are not read again and again');
	is_deeply(taken('deep'), [ 1 .. DEEP ], 'in order, each of them once');
	wait_published('deep');
	cmp_ok(rows_of('deep'), '<', 100, 'rows that only waited are gone');
};

promise 'a backlog that is quickly sent is not written down' => sub {
	my $written = settled(\&rows_written);
	reload($node, 'outbox.enabled' => 'off', 'outbox.batch_size' => 10);
	publish($node, 'quick', key => 'k', count => QUICK);
	reload($node, 'outbox.enabled' => 'on');
	wait_published('quick');
	cmp_ok(settled(\&rows_written) - $written, '<', QUICK / 2, 'rows are few');
	is_deeply(taken('quick'), [ 1 .. QUICK ], 'all are sent, in order');
};

promise 'a backlog that is quickly sent does not keep others waiting' => sub {
	reload($node, 'outbox.enabled' => 'off', 'outbox.batch_size' => 10);
	$receiver->faults([ { match => { topic => 'quick-and-deep' }, delay_response => 0.001 } ]);
	publish($node, 'quick-and-deep', key => 'k', count => DEEP);
	my $other = publish($node, 'other', key => 'other');
	reload($node, 'outbox.enabled' => 'on');
	wait_delivered($receiver, [$other]);
	cmp_ok(scalar(@{ taken('quick-and-deep') }), '<', DEEP / 2, 'most of it is still to be sent');
	wait_published('quick-and-deep', 120);
};

promise 'a backlog that nobody waits behind is not written down' => sub {
	my $written = settled(\&rows_written);
	publish_slowly_sent('alone');
	poll_until(sub { @{ taken('alone') } > SLOW / 2 }, 'half of it to be sent');
	$receiver->faults([]);
	wait_published('alone');
	cmp_ok(settled(\&rows_written) - $written, '<', 10, 'there are no rows');
	is_deeply(taken('alone'), [ 1 .. SLOW ], 'all are sent, in order');
};

promise 'somebody may come to wait behind it' => sub {
	publish_slowly_sent('comes');
	poll_until(sub { @{ taken('comes') } > SLOW / 20 }, 'some of it to be sent');
	does_not_wait_for(publish($node, 'later', key => 'other'), 'comes', 'what comes later');
};

promise 'or come late' => sub {
	my $session = $node->background_psql('postgres');
	my $id = $session->query_safe(q{BEGIN; SELECT outbox_publish('late', '{}', key => 'other')});
	publish_slowly_sent('early');
	poll_until(sub { @{ taken('early') } > SLOW / 20 }, 'some of it to be sent');
	$session->query_safe('COMMIT');
	$session->quit;
	does_not_wait_for($id, 'early', 'what comes late');
};

promise 'or have nothing in front of it any more' => sub {
	reload($node, 'outbox.enabled' => 'off');
	my $first = publish($node, 'short', key => 'a');
	publish_slowly_sent('long');
	$receiver->faults([
		{ match => { id => $first }, delay_response => 1 },
		{ match => { topic => 'long' }, delay_response => 0.02 } ]);
	my $second = publish($node, 'short', key => 'a');
	reload($node, 'outbox.enabled' => 'on');
	does_not_wait_for($second, 'long', 'the second of a short key');
};

promise 'the same key in another topic does not wait' => sub {
	$receiver->faults([ { match => { topic => 'bad' }, component_error => 'no' } ]);
	my $bad = publish($node, 'bad', key => 'same');
	wait_state($node, $bad, 'failed');
	wait_delivered($receiver, [ publish($node, 'good', key => 'same', count => 3) ]);
	is_deeply(taken('good'), [ 1 .. 3 ], 'in order of its own');
	isnt(event_state($node, $bad), 'published', 'while the other one fails');
};

promise 'thousands of dead events of a key are sent again in order' => sub {
	reload($node,
		'outbox.max_retry_times' => 0,
		'outbox.dead_key_policy' => 'skip');
	$receiver->faults([ { match => { topic => 'dead' }, component_error => 'no' } ]);
	publish($node, 'dead', key => 'k', count => 3000);
	wait_states($node, 'dead', 'dead*3000');
	reload($node,
		'outbox.max_retry_times' => undef,
		'outbox.dead_key_policy' => undef);
	$receiver->faults([]);
	is(query($node, q{SELECT outbox_retry_dead('dead')}), '3000', 'all of them');
	wait_published('dead', 60);
	is_deeply(taken('dead'), [ 1 .. 3000 ], 'in order, each of them once');
};

promise 'what waits costs the others nothing, whatever the planner knows' => sub {
	query($node, 'ANALYZE outbox_delivery');
	dead_key('rows', ROWS);
	foreach my $when ('before ANALYZE', 'after ANALYZE')
	{
		my $read = settled(\&rows_read);
		wait_delivered($receiver,
			[ publish($node, "beside $when",
				more => q{key => 'beside ' || n}, count => HEALTHY) ]);
		cmp_ok(settled(\&rows_read) - $read, '<', HEALTHY,
			"$when: the table is not read for events of other keys");
		query($node, 'ANALYZE outbox_delivery');
	}
};

promise 'more keys with rows than are remembered, and none is overtaken' => sub {
	my $keys = 1500;    # 1365 fit into this memory
	my $publish = sub {
		my ($key) = @_;
		return publish($node, 'keys', more => "key => $key", count => $keys);
	};
	reload($node, 'outbox.relay_memory' => '512kB');
	$receiver->faults(
		[ { match => { topic => 'keys' }, status => 413, times => $keys } ]);
	$publish->("'k' || n");
	wait_states($node, 'keys', "dead*$keys");
	reload($node, 'outbox.retry_batch_size' => 17);    # has it look at all rows
	wait_delivered($receiver, [ publish($node, 'keys', key => 'tick') ]) for 1 .. 10;
	$publish->("'k' || $keys + 1 - n");
	wait_states($node, 'keys', "dead*$keys published*10 blocked*$keys");

	# The relay waits for the table within the transaction that looks for rows.
	my $session = $node->background_psql('postgres');
	$session->query_safe(
		'BEGIN; ALTER TABLE outbox_delivery ADD rewritten timestamptz'
		  . ' DEFAULT clock_timestamp()');
	my $pid = wait_relay($node);
	publish($node, 'keys', key => "k$keys");
	poll_until(
		sub {
			query($node, qq{
				SELECT count(*) FROM pg_locks WHERE pid = $pid AND NOT granted});
		},
		'the relay to wait for the table');
	$session->query_safe('COMMIT; ALTER TABLE outbox_delivery DROP rewritten');
	$session->quit;
	wait_delivered($receiver, [ publish($node, 'keys', key => 'tick') ]);
	wait_states($node, 'keys',
		"dead*$keys published*10 blocked*" . ($keys + 1) . ' published*1');
};

promise 'an index that is not valid is not relied on' => sub {
	dead_key('invalid', 2);
	query($node, q{UPDATE pg_index SET indisvalid = false
		WHERE indexrelid = 'outbox_delivery_key_idx'::regclass});
	my $offset = -s $node->logfile;
	query($node, q{SELECT outbox_discard(event_id) FROM outbox_events
		WHERE topic = 'invalid' AND state = 'dead'});
	wait_log($node, qr/index "outbox_delivery_key_idx" is not valid/, $offset);
	is_deeply(taken('invalid'), [], 'nothing is sent');
	query($node, 'REINDEX INDEX outbox_delivery_key_idx');
	wait_states($node, 'invalid', 'discarded*1 published*2');
	is_deeply(taken('invalid'), [ 2, 3 ], 'in order, when it is');
};

promise 'what comes back leaves room for new events' => sub {
	my ($keys, $each) = (100, 60);
	$receiver->faults(
		[ { match => { topic => 'back' }, component_error => 'no' } ]);
	reload($node, 'outbox.failed_retry_interval' => '1h');
	publish($node, 'back', more => "key => 'k' || n % $keys", count => $keys * $each);
	poll_until(sub { rows_of('back') == $keys * $each }, 'all to wait');
	$receiver->faults(
		[ { match => { topic => 'back' }, delay_response => 0.05 } ]);
	query($node, q{SELECT outbox_retry(event_id) FROM outbox_events
		WHERE topic = 'back' AND state = 'failed'});
	poll_until(sub { @{ taken('back') } > 200 }, 'them to come back');
	wait_delivered($receiver, [ publish($node, 'new', count => 20) ]);
	cmp_ok(scalar(@{ taken('back') }), '<', $keys * $each / 2,
		'new ones arrive while most of them wait');
	wait_published('back', 60);
};

promise 'who asks late that an event be sent does not have it sent again' => sub {
	my $id = publish($node, 'late', more => q{deliver_after => now() + '1 day'});
	wait_state($node, $id, 'scheduled');
	my $session = $node->background_psql('postgres');
	$session->query_safe("BEGIN; SELECT outbox_retry('$id')");
	query($node, "SELECT outbox_retry('$id')");
	wait_delivered($receiver, [$id]);
	poll_until(sub { rows_of('late') == 0 }, 'its row to be gone');
	$session->query_safe('COMMIT');
	$session->quit;
	poll_until(sub { query($node, 'SELECT count(*) FROM outbox_request') == 0 },
		'the request to be served');
	wait_delivered($receiver, [ publish($node, 'late') ]);
	is(scalar($receiver->accepted(id => $id)), 1, 'it is sent once');
};

promise 'what was to be sent later is sent now if that is asked before it is read' => sub {
	reload($node, 'outbox.enabled' => 'off');
	my $id = publish($node, 'now', more => q{deliver_after => now() + '1 day'});
	query($node, "SELECT outbox_discard('$id'), outbox_retry('$id')");
	poll_until(sub { query($node, 'SELECT count(*) FROM outbox_request') == 0 },
		'the requests to be served');
	is(event_state($node, $id), 'pending', 'it is due');
	reload($node, 'outbox.enabled' => 'on');
	wait_delivered($receiver, [$id]);
};

promise 'after a restart, what waits is found in order' => sub {
	dead_key('restart', 2000);
	$node->restart;
	wait_relay($node);
	publish($node, 'restart', key => 'k', payload => q{'2002'});
	poll_until(sub { rows_of('restart') == 2002 }, 'a new one to wait behind');
	query($node, q{SELECT outbox_discard(event_id) FROM outbox_events
		WHERE topic = 'restart' AND state = 'dead'});
	poll_until(
		sub {
			states($node, 'restart') eq 'discarded*1 published*2001';
		},
		'the others to go on', 60);
	is_deeply(taken('restart'), [ 2 .. 2002 ], 'in order, each of them once');
};

# The table is made to say what a relay leaves that has read two windows when it
# crashes: the position is before both of them, and only what was scheduled has a
# row.
promise 'after a crash, a row waits for what is read again in front of it' => sub {
	disable($node);
	publish($node, 'first window');
	query($node, q{
		INSERT INTO outbox_progress (lo, hi, last_id, clean)
		SELECT hi, pg_current_snapshot(), 0, false
		FROM outbox_progress ORDER BY id DESC LIMIT 1});
	publish($node, 'again', key => 'k', payload => q{'1'});
	publish($node, 'again', key => 'k', payload => q{'2'},
		more => 'deliver_after => now()');
	query($node, q{
		INSERT INTO outbox_delivery (id, topic, key, state, next_attempt_at)
		SELECT id, topic, key, 'scheduled', deliver_after FROM outbox_event
		WHERE topic = 'again' AND deliver_after IS NOT NULL});
	$node->stop('immediate');
	$node->start;
	wait_relay($node);
	reload($node, 'outbox.enabled' => 'on');
	wait_published('again');
	is_deeply(taken('again'), [ 1, 2 ], 'in order, each of them once');
};

promise 'what came back from the table and failed keeps its attempts' => sub {
	reload($node,
		'outbox.batch_size' => 10,
		'outbox.local_retry_times' => 5,
		'outbox.local_failed_retry_interval' => '1h');
	$receiver->faults([ { match => { topic => 'attempts' }, delay_response => 0.02 } ]);
	publish($node, 'attempts', key => 'k', count => 120);
	publish($node, 'behind', key => 'other');
	my $id = query($node, q{SELECT event_id FROM outbox_event WHERE topic = 'attempts' AND payload = '100'});
	poll_until(sub { rows_of('attempts') > 50 }, 'some to have rows');
	$receiver->faults([ { match => { id => $id }, component_error => 'no' } ]);
	poll_until(sub { @{ taken('attempts') } == 99 && stat_value($node, 'failed_attempts') > 0 },
		'it to fail');
	$receiver->faults([]);
	restart_relay($node);
	wait_published('attempts', 60);
	is(event_value($node, $id, 'attempts'), '2', 'the one that failed counts');
};

# Publish events that are not answered, to be read in batches, and one behind them
# whose row is there before it is read, as if a dump had brought it.  Returns the
# seconds between the first of them and that one.
sub last_one_after
{
	my ($topic) = @_;
	disable($node);
	publish($node, 'unanswered', count => 25);
	my $last = publish($node, $topic, key => 'k');
	query($node, qq{
		INSERT INTO outbox_delivery (id, topic, key, state)
		SELECT id, topic, key, 'pending' FROM outbox_event WHERE topic = '$topic'});
	$receiver->reset;
	$receiver->faults([ { match => { topic => 'unanswered' }, action => 'hang' } ]);
	reload($node, 'outbox.enabled' => 'on');
	wait_delivered($receiver, [$last]);
	my ($first) = $receiver->log(topic => 'unanswered', fields => ['time']);
	my ($sent) = $receiver->log(topic => $topic, fields => ['time']);
	$receiver->faults([]);
	wait_published('unanswered');
	return $sent->{time} - $first->{time};
}

# After a second, the others get rows, which is a reason to look for new events.
promise 'a row that waits for the reader is sent when all is read' => sub {
	my $seconds;
	reload($node, 'outbox.batch_size' => 10, 'outbox.poll_interval' => '1h');
	foreach my $round (1 .. 3)
	{
		$seconds = last_one_after("read-$round");
		last if $seconds < 1;
	}
	cmp_ok($seconds, '<', 1, 'it waits for nothing else');
};

promise 'an open transaction that deletes an event holds up no other' => sub {
	$receiver->faults([ { match => { topic => 'deleted' }, action => 'hang' } ]);
	my $id = publish($node, 'deleted', key => 'k');
	wait_state($node, $id, 'in_progress');
	my $next = publish($node, 'deleted', key => 'k', payload => q{'2'});
	my $session = $node->background_psql('postgres');
	$session->query_safe("BEGIN; DELETE FROM outbox_event WHERE event_id = '$id'");
	$receiver->faults([]);
	wait_delivered($receiver, [ publish($node, 'others', count => 50) ]);
	is(query($node, q{SELECT ok FROM outbox_check() WHERE "check" = 'relay alive'}),
		't', 'the relay is alive');
	$session->query_safe('COMMIT');
	$session->quit;
	wait_delivered($receiver, [$next]);
	poll_until(sub { rows_of('deleted') == 0 || event_state($node, $next) eq 'published' },
		'the next one to be published');
};

done_testing();
