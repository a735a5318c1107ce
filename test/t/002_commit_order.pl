# Transactions commit in another order than they take their ids.
#
# Promises:
# - A transaction that takes its id early and commits late loses nothing and
#   stalls nobody, whatever snapshots and transactions are open meanwhile.
# - Exactly what committed arrives, once, however transactions, savepoints and
#   prepared transactions are interleaved, and across restarts.
# - An event is not sent before its commit is durable.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;

use constant MAX_IN_FLIGHT => 32;

my $receiver = start_receiver(mode => 'dapr');
my $node = new_node(
	'order',
	conf => {
		'outbox.dapr_endpoint' => $receiver->url,
		'outbox.batch_size' => 100,
		'outbox.max_in_flight' => MAX_IN_FLIGHT,
		'outbox.request_timeout' => '60s',
		'wal_writer_delay' => '10s',
		'autovacuum' => 'off',
	});
query($node, 'CREATE EXTENSION outbox');

# A session that stays open between statements
sub open_session
{
	return $node->background_psql('postgres');
}

# Publish so many events of a topic in a session, within its transaction if it
# has one; their ids.
sub publish_in
{
	my ($session, $topic, $count) = @_;
	return split /\n/,
	  $session->query_safe(publish_sql($topic, count => $count));
}

# Publish an event of a topic in each of five transactions; the ids.
sub publish_others
{
	my ($topic) = @_;
	return map { publish($node, $topic) } 1 .. 5;
}

# Exactly these events of a topic were delivered, each of them once.
sub delivered_exactly
{
	my ($topic, $ids, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_delivered($receiver, $ids);
	is_deeply(
		[ sort map { $_->{id} } $receiver->log(
				topic => $topic, fields => ['id']) ],
		[ sort @$ids ],
		$name);
	return;
}

sub undelivered
{
	my ($topic, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(scalar($receiver->log(topic => $topic, fields => ['seq'])), 0, $name);
	return;
}

# --- An id taken early, a commit late

promise 'an open transaction stalls nobody and arrives when it has committed' =>
  sub {
	my $early = open_session();
	$early->query_safe('BEGIN');
	my @ids = publish_in($early, 'early');
	delivered_exactly('others', [ publish_others('others') ],
		'an open transaction stalls nobody');
	undelivered('early', 'its event is not sent');
	$early->query_safe('COMMIT');
	delivered_exactly('early', \@ids, 'and arrives when it has committed');
	$early->quit;
  };

promise 'an old snapshot and an old writer stall nobody' => sub {
	my ($early, $reader, $writer) = map { open_session() } 1 .. 3;
	$writer->query_safe('BEGIN; CREATE TABLE held (n int)');
	$reader->query_safe(
		'BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class');
	$early->query_safe('BEGIN');
	my @ids = publish_in($early, 'early held');
	delivered_exactly('others held', [ publish_others('others held') ],
		'nor do an old snapshot and a transaction that has written');
	$early->query_safe('COMMIT');
	delivered_exactly('early held', \@ids,
		'the late one arrives behind them as well');
	@ids = map { publish_in($writer, 'writer') } 1 .. 2;
	$writer->query_safe('COMMIT');
	delivered_exactly('writer', \@ids,
		'a transaction that wrote early and published late');
	$reader->query_safe('COMMIT');
	$_->quit foreach $early, $reader, $writer;
};

# A transaction that has an xid, and its events between those of others
promise 'ids in between are no obstacle' => sub {
	my $late = open_session();
	my (@late_ids, @between_ids);
	$late->query_safe('BEGIN');
	for (1 .. 5)
	{
		push @late_ids, publish_in($late, 'late');
		push @between_ids, publish($node, 'between');
	}
	delivered_exactly('between', \@between_ids, 'ids in between are no obstacle');
	$late->query_safe('COMMIT');
	delivered_exactly('late', \@late_ids, 'and none of them is lost');
	$late->quit;
};

# A bulk that took all its ids before those of others
promise 'a bulk that commits late stalls nobody and arrives completely' => sub {
	my $early = open_session();
	$early->query_safe('BEGIN');
	my @ids = publish_in($early, 'bulk', 4000);
	delivered_exactly('beside bulk',
		[ map { publish($node, 'beside bulk', count => 20) } 1 .. 3 ],
		'a bulk that is not committed stalls nobody');
	undelivered('bulk', 'nothing of it is sent');
	$early->query_safe('COMMIT');
	delivered_exactly('bulk', \@ids, 'a late bulk arrives completely');
	$early->quit;
};

# --- Many at a time

# Each of the sessions opens transactions, publishes, sets savepoints, and
# commits or rolls back when chance will have it.
promise 'exactly what committed arrives, however it is interleaved' => sub {
	srand(20);
	my @sessions = map { { session => open_session(), ids => undef } } 1 .. 6;
	my @committed;
	for (1 .. 200)
	{
		my $s = $sessions[ rand @sessions ];
		my $session = $s->{session};
		my $dice = rand;

		if (!$s->{ids})
		{
			$session->query_safe('BEGIN');
			$s->{ids} = [];
		}
		if ($dice < 0.5)
		{
			push @{ $s->{ids} }, publish_in($session, 'mixed');
		}
		elsif ($dice < 0.6)
		{
			$session->query_safe('SAVEPOINT s');
			publish_in($session, 'mixed');
			$session->query_safe('ROLLBACK TO s');
		}
		elsif ($dice < 0.7)
		{
			$session->query_safe('SAVEPOINT s');
			push @{ $s->{ids} }, publish_in($session, 'mixed');
			$session->query_safe('RELEASE s');
		}
		else
		{
			my $commits = $dice < 0.9;
			$session->query_safe($commits ? 'COMMIT' : 'ROLLBACK');
			push @committed, @{ $s->{ids} } if $commits;
			$s->{ids} = undef;
		}
	}
	foreach my $s (grep { $_->{ids} } @sessions)
	{
		$s->{session}->query_safe('COMMIT');
		push @committed, @{ $s->{ids} };
	}
	$_->{session}->quit foreach @sessions;
	cmp_ok(scalar(@committed), '>', 50, 'transactions were interleaved');
	delivered_exactly('mixed', \@committed,
		'exactly what committed arrives, each event once');
};

# --- Restarts

promise 'prepared transactions stall nobody and outlive a restart' => sub {
	my $sql = 'BEGIN; ' . publish_sql('prepared', count => 3) . ';';
	my @ids = split /\n/, query($node, "$sql PREPARE TRANSACTION 'held'");
	query($node, "$sql PREPARE TRANSACTION 'undone'");
	delivered_exactly('before restart',
		[ publish($node, 'before restart', count => 5) ],
		'prepared transactions stall nobody');
	$node->restart;
	delivered_exactly('after restart',
		[ publish($node, 'after restart', count => 5) ],
		'nor after a restart');
	undelivered('prepared', 'their events are not sent');
	query($node, q{ROLLBACK PREPARED 'undone'});
	query($node, q{COMMIT PREPARED 'held'});
	delivered_exactly('prepared', \@ids,
		'what was prepared before the restart and committed after it arrives');
};

promise 'a relay that stops in the middle of a window goes on there' => sub {
	$receiver->faults(
		[ { match => { topic => 'window' }, skip => 300, action => 'hang' } ]);
	my $published = stat_value($node, 'published');
	my @ids = map { publish($node, 'window', count => 250) } 1 .. 4;
	poll_until(sub { stat_value($node, 'published') - $published >= 300 },
		'a part of the window to be delivered');
	$node->stop;
	is(scalar($receiver->accepted(topic => 'window', fields => ['seq'])),
		300, 'the relay stopped in the middle of a window');
	$receiver->faults([]);
	$node->start;
	wait_delivered($receiver, \@ids);
	my %taken;
	$taken{ $_->{id} }++
	  foreach $receiver->accepted(topic => 'window', fields => ['id']);
	is_deeply([ sort keys %taken ],
		[ sort @ids ], 'the next one goes on there, nothing is lost');
	cmp_ok(scalar(grep { $_ > 1 } values %taken),
		'<', MAX_IN_FLIGHT, 'and nothing sent twice that was long settled');
};

# --- Durability: nobody but the relay flushes WAL within the next ten seconds

promise 'what was sent survives a crash' => sub {
	my @async_ids;
	foreach my $round (1 .. 3)
	{
		my @ids = split /\n/, query($node,
			'SET synchronous_commit = off; ' . publish_sql('async', count => 2));
		wait_delivered($receiver, \@ids);
		$node->stop('immediate');
		$node->start;
		push @async_ids, @ids;
		is( query($node,
				q{SELECT count(*) FROM outbox_event WHERE topic = 'async'}),
			scalar(@async_ids),
			"what was sent survives a crash, round $round");
	}
};

# An event with a row of its own is claimed, not read from a window.
promise 'so does what was sent from the persistent tier' => sub {
	my @claimed = split /\n/, query($node, q{
		SET synchronous_commit = off;
		BEGIN;
		SELECT outbox_publish('claimed', '1', deliver_after => now() + interval '1 h') AS id \gset
		SELECT outbox_retry(:'id');
		COMMIT;
		SELECT :'id'});
	wait_delivered($receiver, [ $claimed[-1] ]);
	$node->stop('immediate');
	$node->start;
	is( query($node,
			q{SELECT count(*) FROM outbox_event WHERE topic = 'claimed'}),
		1, 'so does what was sent from the persistent tier');
};

done_testing();
