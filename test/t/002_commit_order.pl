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

use IPC::Run ();
use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest qw(:DEFAULT !/^(check_value|dapr_error|event_value|fails_with|publish|publish_sql|query|restart_relay|stat_value|states|wait_states)$/);

use constant {
	SESSION_TIMEOUT => 120,
	MAX_IN_FLIGHT => 32,
};

my $receiver = start_receiver(mode => 'dapr');
my $node = new_node(
	'order',
	conf => {
		'outbox.dapr_endpoint' => $receiver->url,
		'outbox.poll_interval' => '100ms',
		'outbox.batch_size' => 100,
		'outbox.max_in_flight' => MAX_IN_FLIGHT,
		'outbox.request_timeout' => '60s',
		'wal_writer_delay' => '10s',
		'autovacuum' => 'off',
	});
$node->safe_psql('postgres', 'CREATE EXTENSION outbox');

# A session that stays open between statements.
sub open_session
{
	my %session = (in => '', out => '', err => '');
	$session{psql} = IPC::Run::start(
		[ 'psql', '-XAtq', '-f', '-', '-d', $node->connstr('postgres') ],
		'<', \$session{in}, '>', \$session{out}, '2>', \$session{err},
		IPC::Run::timeout(SESSION_TIMEOUT));
	return \%session;
}

# Run statements in a session; their output.
sub run_in
{
	my ($session, $sql) = @_;
	$session->{out} = '';
	$session->{in} .= "$sql;\n\\echo --done\n";
	$session->{psql}->pump until $session->{out} =~ s/^--done\n//m;
	die $session->{err} if $session->{err} ne '';
	chomp $session->{out};
	return $session->{out};
}

sub close_session
{
	my ($session) = @_;
	$session->{in} .= "\\q\n";
	$session->{psql}->finish;
	return;
}

# SQL that publishes so many events and shows their ids
sub publish_sql
{
	my ($topic, $count) = @_;
	return "SELECT outbox_publish('$topic', to_jsonb(n))"
	  . ' FROM generate_series(1, ' . ($count // 1) . ') n';
}

# Publish in a transaction of its own; the ids.
sub publish
{
	my @arguments = @_;
	return split /\n/, $node->safe_psql('postgres', publish_sql(@arguments));
}

# Exactly these events of a topic were delivered, each of them once.
sub delivered_exactly
{
	my ($topic, $ids, $name) = @_;
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
	is(scalar($receiver->log(topic => $topic, fields => ['seq'])), 0, $name);
	return;
}

#
# An id taken early, a commit late
#

my $early = open_session();
my @early_ids = run_in($early, 'BEGIN; ' . publish_sql('early'));
delivered_exactly('others', [ map { publish('others') } 1 .. 5 ],
	'an open transaction stalls nobody');
undelivered('early', 'its event is not sent');
run_in($early, 'COMMIT');
delivered_exactly('early', \@early_ids, 'and arrives when it has committed');

# The same while somebody holds a snapshot, and somebody else has written.
my $reader = open_session();
my $writer = open_session();
run_in($writer, 'BEGIN; CREATE TABLE held (n int)');
run_in($reader,
	'BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class');
@early_ids = run_in($early, 'BEGIN; ' . publish_sql('early held'));
delivered_exactly('others held', [ map { publish('others held') } 1 .. 5 ],
	'nor do an old snapshot and a transaction that has written');
run_in($early, 'COMMIT');
delivered_exactly('early held', \@early_ids,
	'the late one arrives behind them as well');
my @writer_ids = map { run_in($writer, publish_sql('writer')) } 1 .. 2;
run_in($writer, 'COMMIT');
delivered_exactly('writer', \@writer_ids,
	'a transaction that wrote early and published late');
run_in($reader, 'COMMIT');

# A transaction that has an xid, and its events between those of others.
my @late_ids;
run_in($early, 'BEGIN');
my @between_ids;
for (1 .. 5)
{
	push @late_ids, run_in($early, publish_sql('late'));
	push @between_ids, publish('between');
}
delivered_exactly('between', \@between_ids, 'ids in between are no obstacle');
run_in($early, 'COMMIT');
delivered_exactly('late', \@late_ids, 'and none of them is lost');

#
# Many at a time
#

# Each of the sessions opens transactions, publishes, sets savepoints, and
# commits or rolls back when chance will have it.
srand(20);
my @sessions = map { { session => open_session(), ids => undef } } 1 .. 6;
my @committed;
for (1 .. 200)
{
	my $s = $sessions[ rand @sessions ];
	my $dice = rand;

	if (!$s->{ids})
	{
		run_in($s->{session}, 'BEGIN');
		$s->{ids} = [];
	}
	if ($dice < 0.5)
	{
		push @{ $s->{ids} },
		  run_in($s->{session}, publish_sql('mixed'));
	}
	elsif ($dice < 0.6)
	{
		run_in($s->{session},
			'SAVEPOINT s; ' . publish_sql('mixed') . '; ROLLBACK TO s');
	}
	elsif ($dice < 0.7)
	{
		push @{ $s->{ids} },
		  run_in($s->{session},
			'SAVEPOINT s; ' . publish_sql('mixed') . '; RELEASE s');
	}
	else
	{
		my $commits = $dice < 0.9;
		run_in($s->{session}, $commits ? 'COMMIT' : 'ROLLBACK');
		push @committed, @{ $s->{ids} } if $commits;
		$s->{ids} = undef;
	}
}
foreach my $s (grep { $_->{ids} } @sessions)
{
	run_in($s->{session}, 'COMMIT');
	push @committed, @{ $s->{ids} };
}
cmp_ok(scalar(@committed), '>', 50, 'transactions were interleaved');
delivered_exactly('mixed', \@committed,
	'exactly what committed arrives, each event once');

# A bulk that took all its ids before those of others
my @bulk_ids = split /\n/,
  run_in($early, 'BEGIN; ' . publish_sql('bulk', 4000));
delivered_exactly('beside bulk', [ map { publish('beside bulk', 20) } 1 .. 3 ],
	'a bulk that is not committed stalls nobody');
undelivered('bulk', 'nothing of it is sent');
run_in($early, 'COMMIT');
delivered_exactly('bulk', \@bulk_ids, 'a late bulk arrives completely');

#
# Restarts
#

close_session($_)
  foreach $early, $reader, $writer, map { $_->{session} } @sessions;

my @prepared_ids = split /\n/, $node->safe_psql('postgres',
	'BEGIN; ' . publish_sql('prepared', 3) . "; PREPARE TRANSACTION 'held'");
my @rolled_back = split /\n/, $node->safe_psql('postgres',
	'BEGIN; ' . publish_sql('prepared', 3) . "; PREPARE TRANSACTION 'undone'");
delivered_exactly('before restart', [ publish('before restart', 5) ],
	'prepared transactions stall nobody');
$node->restart;
delivered_exactly('after restart', [ publish('after restart', 5) ],
	'nor after a restart');
undelivered('prepared', 'their events are not sent');
$node->safe_psql('postgres', q{ROLLBACK PREPARED 'undone'});
$node->safe_psql('postgres', q{COMMIT PREPARED 'held'});
delivered_exactly('prepared', \@prepared_ids,
	'what was prepared before the restart and committed after it arrives');

# The relay stops in the middle of a window, with requests in flight.
$receiver->faults(
	[ { match => { topic => 'window' }, skip => 300, action => 'hang' } ]);
my $published =
  $node->safe_psql('postgres', 'SELECT published FROM outbox_stats');
my @window_ids = map { publish('window', 250) } 1 .. 4;
poll_until(
	sub {
		$node->safe_psql('postgres',
			"SELECT published - $published FROM outbox_stats") >= 300;
	},
	'a part of the window to be delivered');
$node->stop;
is(scalar($receiver->accepted(topic => 'window', fields => ['seq'])),
	300, 'the relay stopped in the middle of a window');
$receiver->faults([]);
$node->start;
wait_delivered($receiver, \@window_ids);
my %taken;
$taken{ $_->{id} }++
  foreach $receiver->accepted(topic => 'window', fields => ['id']);
is_deeply([ sort keys %taken ],
	[ sort @window_ids ], 'the next one goes on there, nothing is lost');
cmp_ok(scalar(grep { $_ > 1 } values %taken),
	'<', MAX_IN_FLIGHT, 'and nothing sent twice that was long settled');

#
# Durability
#

# Nobody but the relay flushes WAL within the next ten seconds.
my @async_ids;
foreach my $round (1 .. 3)
{
	my @ids = split /\n/, $node->safe_psql('postgres',
		'SET synchronous_commit = off; ' . publish_sql('async', 2));
	wait_delivered($receiver, \@ids);
	$node->stop('immediate');
	$node->start;
	push @async_ids, @ids;
	is( $node->safe_psql('postgres',
			q{SELECT count(*) FROM outbox_event WHERE topic = 'async'}),
		scalar(@async_ids),
		"what was sent survives a crash, round $round");
}

# An event with a row of its own is claimed, not read from a window.
my @claimed = split /\n/, $node->safe_psql('postgres', q{
	SET synchronous_commit = off;
	BEGIN;
	SELECT outbox_publish('claimed', '1', deliver_after => now() + interval '1 h') AS id \gset
	SELECT outbox_retry(:'id');
	COMMIT;
	SELECT :'id'});
wait_delivered($receiver, [ $claimed[-1] ]);
$node->stop('immediate');
$node->start;
is( $node->safe_psql('postgres',
		q{SELECT count(*) FROM outbox_event WHERE topic = 'claimed'}),
	1, 'so does what was sent from the persistent tier');

done_testing();
