# Promises:
# - What a crash has sent again is what was in flight, and what was settled in the
#   last fraction of a second, however long other events take meanwhile: one that
#   hangs, some in each of many transactions, more than a position can name.
# - The position passes such events and names them as open.  The views, a dump,
#   a prune, a relay that starts, and what people ask treat them as what they
#   are: not settled, and in front of what was published later.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;

use constant {
	BEHIND => 2000,    # events behind those that are held
	AGAIN => 600,     # that were settled: far more than can be in 30 ms
	SLOW => 300,       # more than a position names
	NAMED => 256,
};

my $receiver = start_receiver(mode => 'dapr');
my $node = new_node(
	'open',
	conf => {
		'outbox.dapr_bulk' => 'auto',
		'outbox.dapr_endpoint' => $receiver->url,
		'outbox.request_timeout' => '1min',
		'wal_writer_delay' => '10ms',    # 30 ms may be sent again
	});
query($node, 'CREATE EXTENSION outbox');

my $newest = 'FROM outbox_progress ORDER BY id DESC LIMIT 1';
my @hang = ({ match => { topic => 'slow' }, action => 'hang' });

# How many of these events the receiver has taken more than once
sub taken_again
{
	my (@ids) = @_;
	my %wanted = map { $_ => 1 } @ids;
	my %count;
	$count{ $_->{id} }++ foreach $receiver->accepted(fields => ['id']);
	return scalar grep { $wanted{$_} && $count{$_} > 1 } keys %count;
}

# The server is killed, and begins anew while nothing hangs any more.
sub crash
{
	$node->kill9;
	$receiver->faults([]);
	restart_after_kill9($node);
	return;
}

# Test that a checkpoint has passed one of these events.
sub has_passed
{
	my (@ids) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $list = join ', ', map { literal($_) } @ids;
	return is(query($node, "SELECT count(*) > 0 FROM outbox_event e
			JOIN outbox_progress p ON e.id = ANY (p.open)
			WHERE e.event_id IN ($list)"),
		't',
		'the position passes what hangs');
}

# Have the table say what a relay leaves that has read everything, of which
# events of this topic were not settled when it crashed, and pause.
sub leave_open
{
	my ($topic, %opts) = @_;
	my $at = $opts{at} // 'now()';
	query($node, "INSERT INTO outbox_progress
			(lo, hi, last_id, largest_read, clean, at, open)
		SELECT s, s, 0, (SELECT max(id) FROM outbox_event), false, $at,
			(SELECT array_agg(id ORDER BY id DESC) FROM outbox_event
			 WHERE topic = '$topic')
		FROM pg_current_snapshot() s");
	$node->stop('immediate');
	$node->start;
	return wait_relay_value($node, state => 'disabled');
}

promise 'a crash beside one event that hangs has little sent again' => sub {
	$receiver->faults(\@hang);
	my ($slow, @ids) = split /\n/,
	  query($node, publish_sql('slow') . ' UNION ALL '
		  . publish_sql('quick', count => BEHIND));
	wait_delivered($receiver, BEHIND);
	has_passed($slow);
	crash();
	wait_delivered($receiver, [ $slow, @ids ]);
	wait_state($node, $slow, 'published');
	my $n = taken_again(@ids);
	note("$n were sent again");
	cmp_ok($n, '<=', AGAIN, 'of ' . BEHIND);
};

# Each transaction has an event that hangs, in front of the others.
promise 'a crash beside events that hang in many transactions has little sent again' =>
  sub {
	$receiver->faults(\@hang);
	my (@slow, @ids);
	my $session = $node->background_psql('postgres');
	foreach my $n (1 .. 10)
	{
		my ($slow, @quick) = split /\n/,
		  $session->query_safe(publish_sql('slow') . ' UNION ALL '
			  . publish_sql('quick', count => BEHIND / 10));
		push @slow, $slow;
		push @ids, @quick;
	}
	wait_delivered($receiver, BEHIND);
	has_passed(@slow);
	crash();
	eval { $session->quit };
	wait_delivered($receiver, [ @slow, @ids ]);
	wait_states($node, 'slow', 'published*' . (1 + @slow));
	my $n = taken_again(@ids);
	note("$n were sent again");
	cmp_ok($n, '<=', AGAIN, 'of ' . BEHIND);
  };

# There are rows for what the position does not name, once it is a second old.
promise 'more events than a position names hold it for no longer than a second' =>
  sub {
	reload($node, 'outbox.max_in_flight' => 1000, 'outbox.dapr_bulk' => 'off');
	$receiver->faults([ { match => { path => '/many' }, action => 'hang' } ]);
	my @slow = split /\n/, query($node,
		'SELECT outbox_publish(\'many\' || n, to_jsonb(n), key => \'k\')'
		  . ' FROM generate_series(1, ' . SLOW . ') n');
	my @ids = publish($node, 'quick', count => 500);
	wait_delivered($receiver, \@ids);
	poll_until(
		sub {
			query($node, q{SELECT count(*) FROM outbox_delivery
				WHERE topic LIKE 'many%'}) == SLOW;
		},
		'each to have a row');
	my $named =
	  query($node, 'SELECT max(cardinality(open)) FROM outbox_progress');
	note("$named were named");
	cmp_ok($named, '<=', NAMED, 'so many are named at most');
	poll_until(
		sub {
			query($node, "SELECT pg_current_wal_flush_lsn() >= '"
				. query($node, 'SELECT pg_current_wal_insert_lsn()') . "'") eq 't';
		},
		'all that is written to be on disk');
	crash();
	wait_delivered($receiver, [ @slow, @ids ]);
	is(taken_again(@ids), 0, 'what is settled is not sent again');
	poll_until(
		sub { query($node, 'SELECT backlog FROM outbox_stats') == 0 },
		'all to be settled');
  };

promise 'what is open is not settled, in every view and in a dump' => sub {
	disable($node);
	my @open = publish($node, 'open', count => 3);
	my @done = publish($node, 'done', count => 4);
	leave_open('open');
	is(states($node, 'open'), 'pending*3', 'it is pending');
	is(states($node, 'done'), 'published*4', 'what is beside it is published');
	is( query($node, q{SELECT count(*) FROM outbox_events
			WHERE topic = 'open' AND published_at IS NOT NULL}),
		0,
		'no checkpoint has seen it published');
	is(stat_value($node, 'backlog'), 3, 'it is the backlog');
	is( query($node,
			'SELECT topic, pending FROM outbox_topics WHERE pending > 0'),
		'open|3',
		'of its topic');
	is(query($node, "SELECT cardinality(open) $newest"),
		3, 'a relay that only looks leaves it open');

	my $file = PostgreSQL::Test::Utils::tempdir() . '/dump';
	$node->command_ok([ 'pg_dump', '-f', $file, '-d', 'postgres' ], 'pg_dump');
	my $dump = slurp_file($file);
	is((grep { index($dump, $_) >= 0 } @open), 3, 'a dump carries it');
	is((grep { index($dump, $_) >= 0 } @done), 0, 'and nothing else');

	my ($notice) = ($node->psql('postgres', 'BEGIN; DROP EXTENSION outbox; ROLLBACK'))[2];
	like($notice, qr/\b3\b/, 'DROP EXTENSION says what it would lose');

	reload($node, 'outbox.enabled' => 'on');
	wait_delivered($receiver, \@open);
	taken_once($receiver, \@open, 'it is sent once');
	wait_states($node, 'open', 'published*3');
	is((grep { $_->{topic} eq 'done' } $receiver->accepted(fields => ['topic'])),
		0, 'and what is settled is not');
	poll_until(sub { query($node, "SELECT open IS NULL $newest") eq 't' },
		'nothing to be open any more');
};

# Some have a key, with rows and new events of it behind them; and memory takes
# few at a time.
promise 'a relay reads what is open first, in order' => sub {
	disable($node);
	reload($node, 'outbox.batch_size' => 2);
	publish($node, 'key', key => 'k', payload => "to_jsonb(n)", count => 7);
	publish($node, 'open', count => 6);
	query($node, q{INSERT INTO outbox_delivery
			(id, topic, key, state, next_attempt_at, updated_at)
		SELECT id, topic, key, 'failed', now() - interval '1 hour', now()
		FROM outbox_event WHERE topic = 'key' AND payload = '7'});
	leave_open('key');
	publish($node, 'key', key => 'k', payload => 'to_jsonb(n + 7)', count => 3);
	reload($node, 'outbox.enabled' => 'on');
	wait_states($node, 'key', 'published*10');
	is_deeply(
		[ map { cloud_event($_)->{data} }
			  $receiver->accepted(topic => 'key', fields => ['body']) ],
		[ 1 .. 10 ],
		'in order, each once');
};

promise 'what is asked of an open event is done' => sub {
	disable($node);
	my ($keep, $discard, $retry, $delete, $later) =
	  publish($node, 'asked', key => 'k', count => 5);
	leave_open('asked');
	query($node, "SELECT outbox_discard('$_')") foreach $discard, $retry;
	wait_states($node, 'asked', 'pending*1 discarded*2 pending*2');
	poll_until(sub { query($node, 'SELECT count(*) FROM outbox_request') == 0 },
		'the requests to be served');
	query($node, "SELECT outbox_retry('$retry')");
	query($node, "DELETE FROM outbox_event WHERE event_id = '$delete'");
	poll_until(sub { query($node, 'SELECT count(*) FROM outbox_request') == 0 },
		'these to be served, too');
	is(states($node, 'asked'), 'pending*1 discarded*1 pending*2',
		'as they were asked');

	reload($node, 'outbox.enabled' => 'on');
	wait_states($node, 'asked', 'published*1 discarded*1 published*2');
	is_deeply(
		[ map { $_->{id} } $receiver->accepted(topic => 'asked', fields => ['id']) ],
		[ $keep, $retry, $later ],
		'the others are sent, in order');
};

promise 'what is open and cannot be read is dead' => sub {
	disable($node);
	my ($bad, $good) = publish($node, 'damaged', count => 2);
	query($node, qq{
		ALTER TABLE outbox_event DISABLE TRIGGER outbox_event_update;
		UPDATE outbox_event SET payload = NULL WHERE event_id = '$bad';
		ALTER TABLE outbox_event ENABLE ALWAYS TRIGGER outbox_event_update});
	leave_open('damaged');
	reload($node, 'outbox.enabled' => 'on');
	wait_state($node, $bad, 'dead');
	wait_state($node, $good, 'published');
	taken_once($receiver, [$good], 'the other one is sent');
};

promise 'an open event is pruned once it is published for long, and not before' =>
  sub {
	disable($node);
	reload(
		$node,
		'outbox.cleaning_expire_interval' => '100ms',
		'outbox.published_expire_time' => '1h');
	my ($open) = publish($node, 'kept');
	publish($node, 'gone');
	my $pruned = stat_value($node, 'pruned');
	leave_open('kept', at => q{now() - interval '2 hours'});
	poll_until(sub { states($node, 'gone') eq '' },
		'what was published to be pruned');
	publish($node, 'later');
	poll_until(sub { query($node, q{SELECT count(*) > 0 FROM outbox_events
		WHERE topic = 'later'}) eq 't' }, 'a later one');
	is(event_state($node, $open), 'pending', 'the open one stays');

	reload($node, 'outbox.enabled' => 'on');
	wait_delivered($receiver, [$open]);
	wait_state($node, $open, 'published');
	reload($node, 'outbox.published_expire_time' => '1s');
	poll_until(sub { event_state($node, $open) eq '' },
		'it to be pruned in its turn');
  };

$node->stop;
done_testing();
