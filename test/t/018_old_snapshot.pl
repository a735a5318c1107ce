# What the relay has settled leaves dead entries in the indexes, which stay while
# somebody holds an old snapshot.  They are not passed again and again.
#
# Promises: what is read for these does not grow with what has come and gone
# - what people ask for
# - the dead that shall be sent again
# - the rows that are due
# - the rows of a key; nor is a row passed over that has many entries itself
# - the look whether a new event's key has rows, when there are more keys with
#   rows than are remembered
# - the looks at what is behind a memory that is full: nor with what an open
#   transaction has published
# - rows by their id, when VACUUM has found hardly any
#
# Nor is anything passed over that is between them, and order by key holds
# - for an event whose transaction commits late, and that fails
# - for one that commits late and cannot be read: what is behind it waits

use strict;
use warnings FATAL => 'all';

use Test::More;
use Time::HiRes qw(time);

use lib 'test/lib';
use OutboxTest;

use constant {
	GONE => $ENV{OUTBOX_GONE} // 3000,    # events that come and go
	FEW => 20,          # what is measured by
	ENTRIES => 300,     # that may be read for each of them
	STATISTICS => 1.5,  # seconds after which statistics have been sent
};

my $receiver = start_receiver(mode => 'dapr');
my $node = new_node(
	'old_snapshot',
	conf => {
		'outbox.dapr_endpoint' => $receiver->url,
		'outbox.batch_size' => 500,
		'outbox.breaker_threshold' => 0,
		'outbox.local_retry_times' => 0,
		'outbox.minimum_retry_interval' => '0',
		autovacuum => 'off',
	});
query($node, 'CREATE EXTENSION outbox; CREATE EXTENSION pg_surgery');

# An old snapshot, held until the end
my $old = $node->background_psql('postgres');
$old->query_safe(
	'BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class');

# Entries of the indexes of this name that were read so far.  The relay tells once a second, if it
# has something to do, for which a few are read.
sub entries_read
{
	my ($index) = @_;
	my ($read, $since) = (-ENTRIES, 0);
	poll_until(
		sub {
			my $now = query($node, 'SELECT sum(idx_tup_read) FROM pg_stat_all_indexes'
				  . ' WHERE indexrelname ~ ' . literal($index));
			publish($node, 'tick');
			($read, $since) = ($now, time) if $now >= $read + ENTRIES;
			return time - $since > STATISTICS;
		},
		'the statistics to be there');
	return $read;
}

# Do something a few times, without a look at outbox_events: no more than this is read of an index.
sub reads_little
{
	my ($index, $limit, $sub) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $before = entries_read($index);
	$sub->();
	my $read = entries_read($index) - $before;
	note("$read entries of $index");
	return cmp_ok($read, '<', $limit, "little is read of $index");
}

sub wait_served
{
	return poll_until(sub { query($node, 'SELECT count(*) FROM outbox_request') eq '0' },
		'the requests to be served');
}

# Scheduled events are given up: each leaves a request, and a time when it would
# have been due.
sub give_up
{
	my ($topic, $count) = @_;
	publish($node, $topic, count => $count, more => q{deliver_after => now() + '1 day'});
	wait_states($node, $topic, "scheduled*$count");
	query($node, 'SELECT outbox_discard(event_id) FROM outbox_events WHERE topic = '
		  . literal($topic));
	return wait_served();
}

# Events of a key wait behind one that is dead, until that is given up.
sub come_and_go
{
	my ($topic) = @_;
	$receiver->faults([ { match => { topic => $topic }, status => 413, times => 1 } ]);
	my $dead = publish($node, $topic, key => 'k');
	wait_state($node, $dead, 'dead');
	publish($node, $topic, key => 'k', count => GONE);
	wait_states($node, $topic, 'dead*1 blocked*' . GONE);
	query($node, "SELECT outbox_discard('$dead')");
	wait_states($node, $topic, 'discarded*1 published*' . GONE);
	return poll_until(
		sub {
			query($node, 'SELECT count(*) FROM outbox_delivery WHERE topic = '
				  . literal($topic)) < GONE / 10;
		},
		'the rows to be gone');
}

# Publish events one by one, of which each fails once.
sub fail_once
{
	my ($topic, %opts) = @_;
	foreach (1 .. FEW)
	{
		$receiver->faults(
			[ { match => { topic => $topic }, component_error => 'no', times => 1 } ]);
		wait_delivered($receiver, [ publish($node, $topic, %opts) ]);
	}
	return;
}

promise 'requests' => sub {
	give_up('many requests', GONE);
	reads_little('outbox_request_pkey', FEW * ENTRIES,
		sub { give_up("request $_", 1) for 1 .. FEW });

	# A dump brings requests with ids that were served here long ago.
	my $id = publish($node, 'restored', more => q{deliver_after => now() + '1 day'});
	query($node, q{
		INSERT INTO outbox_request (id, action, event, requested_at)
		SELECT 1, 'discard', id, now() - interval '1 day'
		FROM outbox_event WHERE topic = 'restored'});
	wait_served();
	wait_state($node, $id, 'discarded');
};

# Many at a time, of which each was dead before; not those of another topic.
promise 'the dead that shall be sent again' => sub {
	my $dead = sub {
		my ($topic) = @_;
		$receiver->faults(
			[ { match => { topic => $topic }, status => 413, times => GONE } ]);
		publish($node, $topic, count => GONE);
		wait_states($node, $topic, 'dead*' . GONE);
	};
	$dead->('others');
	$dead->('dead');
	reads_little(
		'outbox_delivery_(dead|state)_idx',
		5 * GONE + FEW * ENTRIES,
		sub {
			query($node, q{SELECT outbox_retry_dead('dead')});
			poll_until(sub { scalar($receiver->accepted(topic => 'dead')) == GONE },
				'them to be sent');
		});
	is(states($node, 'others'), 'dead*' . GONE, 'the others are dead');
};

promise 'rows that are due' => sub {
	give_up('many due', GONE);
	reads_little('outbox_delivery_due_idx', FEW * ENTRIES, sub { fail_once('due') });
};

promise 'rows of a key' => sub {
	come_and_go('key');
	reads_little(
		'outbox_delivery_key_idx',
		GONE + FEW * ENTRIES,
		sub { fail_once('key', key => 'k') });
};

# Each try leaves an entry of the same row, more of them than one scan passes.
promise 'a row that was tried often' => sub {
	reload($node,
		'outbox.failed_retry_interval' => '1ms',
		'outbox.retry_backoff' => 1,
		'outbox.max_retry_times' => 1000);
	$receiver->faults(
		[ { match => { topic => 'often' }, component_error => 'no', times => 700 } ]);
	wait_delivered($receiver, [ publish($node, 'often', key => 'k', count => 2) ]);
	is_deeply([ map { cloud_event($_)->{data} }
			  $receiver->accepted(topic => 'often', fields => ['body']) ],
		[ 1, 2 ], 'it arrives, in order');
};

promise 'a new event of one of too many keys' => sub {
	my $keys = 1500;    # 1365 fit into this memory
	reload($node, 'outbox.relay_memory' => '512kB');
	$receiver->faults(
		[ { match => { topic => 'keys' }, status => 413, times => $keys } ]);
	publish($node, 'keys', more => q{key => 'k' || n}, count => $keys);
	wait_states($node, 'keys', "dead*$keys");
	come_and_go('new');
	reads_little(
		'outbox_delivery_key_idx',
		GONE + FEW * ENTRIES,
		sub {
			wait_delivered($receiver, [ publish($node, 'new', key => 'k', count => FEW) ]);
		});
};

# The relay is so many steps further then.
sub pass_steps
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_delivered($receiver, [ publish($node, 'tick') ]) for 1 .. 2;
	return;
}

# Begin a transaction that publishes an event of key k, for SQL that follows.
sub begin_late
{
	my ($topic, $payload) = @_;
	my $writer = $node->background_psql('postgres');
	my $id = $writer->query_safe("BEGIN; SELECT outbox_publish('$topic', $payload, key => 'k')");
	$id =~ s/\s//g;
	return ($writer, $id);
}

sub commit_late
{
	my ($writer) = @_;
	$writer->query_safe('COMMIT');
	return $writer->quit;
}

# Events of a key fill memory.  They commit late: their ids are in front of those
# of many that are gone, and of many that are not committed.
promise 'looks behind a memory that is full' => sub {
	my $batch_size = 10;
	my $count = 30 * $batch_size;    # much more than is in memory
	my $late = $node->background_psql('postgres');
	my $open = $node->background_psql('postgres');
	$late->query_safe('BEGIN; ' . publish_sql('full', key => 'k', count => $count));
	publish($node, 'gone', count => GONE);
	wait_states($node, 'gone', 'published*' . GONE);
	query($node, q{DELETE FROM outbox_event WHERE topic = 'gone'});
	wait_served();
	$open->query_safe('BEGIN; ' . publish_sql('open', count => GONE));
	reload($node, 'outbox.batch_size' => $batch_size);
	$receiver->faults([ { match => { topic => 'full' }, delay_response => 0.02 } ]);
	reads_little(
		'outbox_event_xid_id_idx',
		2 * GONE,
		sub {
			$late->query_safe('COMMIT');
			poll_until(
				sub { scalar($receiver->accepted(topic => 'full')) == $count },
				'all to be sent');
		});
	$open->query_safe('ROLLBACK');
	$_->quit foreach $late, $open;
	reload($node, 'outbox.batch_size' => 500);
};

promise 'a table that seems to be empty' => sub {
	publish($node, 'many', count => GONE);
	query($node, q{UPDATE pg_class SET relpages = 100, reltuples = 0
		WHERE oid = 'outbox_event'::regclass});
	reads_little('outbox_event_xid_id_idx', FEW * ENTRIES,
		sub { fail_once('seems empty') });

	# the sessions of this test go by it as well
	query($node, 'ANALYZE outbox_event');
};

promise 'an event that comes late and fails keeps its place' => sub {
	come_and_go('late');
	my ($writer, $late) = begin_late('late', q{'"late"'});
	$receiver->faults([ { match => { topic => 'late' }, status => 413, times => 1 } ]);
	my $dead = publish($node, 'late', key => 'k');
	wait_state($node, $dead, 'dead');
	query($node, "SELECT outbox_discard('$dead')");
	wait_state($node, $dead, 'discarded');
	wait_served();

	# what is known of the key by now is forgotten with other settings
	reload($node, 'outbox.failed_retry_interval' => '1h');
	pass_steps();
	$receiver->faults(
		[ { match => { topic => 'late' }, component_error => 'no', times => 1 } ]);
	commit_late($writer);
	wait_state($node, $late, 'failed');

	my @behind;
	foreach (1 .. 2)
	{
		push @behind, publish($node, 'late', key => 'k');
		pass_steps();
	}
	query($node, "SELECT outbox_retry('$late')");
	wait_delivered($receiver, [ $late, @behind ]);
	my %those = map { $_ => 1 } $late, @behind;
	is_deeply(
		[ grep { $those{$_} } map { cloud_event($_)->{id} }
			  $receiver->accepted(topic => 'late', fields => ['body']) ],
		[ $late, @behind ], 'they arrive in order');
};

promise 'an event that comes late and cannot be read keeps its place' => sub {
	my ($writer, $bad) = begin_late('damaged',
		q{(SELECT jsonb_agg(md5(i::text)) FROM generate_series(1, 1000) i)});
	my $toast = query($node, q{
		SELECT reltoastrelid::regclass FROM pg_class WHERE oid = 'outbox_event'::regclass});
	$writer->query_safe(qq{
		SELECT heap_force_kill('$toast', ARRAY(SELECT ctid FROM $toast WHERE chunk_seq = 1))});

	# a later one, whose row is looked for from the first entry on
	come_and_go('damaged');
	$receiver->faults(
		[ { match => { topic => 'damaged' }, component_error => 'no', times => 1 } ]);
	wait_delivered($receiver, [ publish($node, 'damaged', key => 'k') ]);
	wait_settled($node);
	commit_late($writer);
	wait_state($node, $bad, 'dead');
	my $behind = publish($node, 'damaged', key => 'k');
	pass_steps();
	is(event_state($node, $behind), 'blocked', 'what is behind it waits');
	query($node, "SELECT outbox_discard('$bad')");
	wait_delivered($receiver, [$behind]);
};

$old->query_safe('COMMIT');
$old->quit;
done_testing();
