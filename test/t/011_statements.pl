# Promise: no statement of the relay runs on and on.  One that takes longer than
# a second is cancelled, and the log says which; it has more time when it is
# tried again, so that what is slow gets through all the same.  A request to end
# does not wait for a statement.

use strict;
use warnings FATAL => 'all';

use lib 'test/lib';
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use constant LEAVE_LIMIT => 1.5;    # a second, and what a busy machine adds

my $receiver = start_receiver(mode => 'dapr');
my $node = new_node(
	'statements',
	conf => {
		'outbox.dapr_endpoint' => $receiver->url,
		'outbox.poll_interval' => '100ms',
	});

# Make every checkpoint of a database wait, from now on: by the time that
# $seconds, an SQL expression, says, 0 being not at all.
sub slow_checkpoints
{
	my ($db, $seconds) = @_;
	$node->safe_psql(
		$db, qq{
		CREATE OR REPLACE FUNCTION public.be_slow() RETURNS trigger
		LANGUAGE plpgsql AS \$\$BEGIN
			PERFORM pg_catalog.pg_sleep($seconds);
			RETURN NEW;
		END\$\$});
	return;
}

# A database of its own with the extension, whose checkpoints can be made slow.
sub make_database
{
	my ($db) = @_;
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db, 'CREATE EXTENSION outbox');
	wait_relay($node, db => $db);
	slow_checkpoints($db, 0);
	$node->safe_psql(
		$db, q{
		CREATE TRIGGER be_slow BEFORE INSERT ON outbox_progress
			FOR EACH ROW EXECUTE FUNCTION public.be_slow()});
	return;
}

sub publish_one
{
	my ($db) = @_;
	return $node->safe_psql($db, q{SELECT outbox_publish('statement', '{}')});
}

sub state_is
{
	my ($db, $id, $state) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return poll_until(
		sub {
			$node->safe_psql($db,
				"SELECT state FROM outbox_events WHERE event_id = '$id'") eq $state;
		},
		"the event to be $state");
}

# Wait until the relay of the database is in a checkpoint that is slow; its pid.
sub wait_slow
{
	my ($db) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return poll_until(
		sub {
			$node->safe_psql(
				'postgres', qq{
				SELECT pid FROM pg_stat_activity
				WHERE backend_type = 'outbox relay' AND datname = '$db'
				AND wait_event = 'PgSleep'});
		},
		'a checkpoint that is slow');
}

# The log as far as one database's relay is concerned: the message of each error
# with its context.
sub complaints
{
	my ($db, $offset) = @_;
	return grep { /outbox relay of database "\Q$db\E"/ }
	  split /^(?=\d{4}-.*?(?:ERROR|FATAL|PANIC|LOG):)/m,
	  slurp_file($node->logfile, $offset);
}

my $timeout = qr/ERROR:  canceling statement due to statement timeout/;

subtest 'a statement that does not end' => sub {
	make_database('endless');
	my $offset = -s $node->logfile;
	slow_checkpoints('endless', 30);
	my $id = publish_one('endless');
	wait_delivered($receiver, [$id]);
	wait_slow('endless');
	my $pid = relay_pid($node, 'endless');
	poll_until(sub { complaints('endless', $offset) >= 2 },
		'the statement to be cancelled twice');
	my @log = complaints('endless', $offset);
	like($log[0], $timeout, 'it is cancelled');
	like($log[0], qr/SQL statement "INSERT INTO public\.outbox_progress/,
		'the log says which one it was');
	like($log[0], qr/limited to 1000 ms/, 'that it had a second');
	like($log[1], qr/limited to 2000 ms/, 'and two when it was tried again');
	like(
		$node->safe_psql('endless',
			q{SELECT last_error FROM outbox_relays WHERE datname = 'endless'}),
		qr/^a transaction took longer than \d+ ms; the server log has its statement$/,
		'outbox_relays shows it');

	slow_checkpoints('endless', 0);
	state_is('endless', $id, 'published');
	my $next = publish_one('endless');
	state_is('endless', $next, 'published');
	is(relay_pid($node, 'endless'), $pid, 'the same relay goes on');
	taken_once($receiver, [ $id, $next ], 'nothing was sent twice');
};

subtest 'a statement that is slow' => sub {
	make_database('slow');
	my $offset = -s $node->logfile;
	slow_checkpoints('slow', 1.5);
	my $id = publish_one('slow');
	state_is('slow', $id, 'published');
	my $next = publish_one('slow');
	state_is('slow', $next, 'published');
	is(scalar(complaints('slow', $offset)),
		1, 'after one failure it has the time that it needs');
	taken_once($receiver, [ $id, $next ], 'nothing was sent twice');
};

# Every checkpoint but the last one of a relay is slow.
subtest 'a request to end during a statement' => sub {
	make_database('leaving');
	my $offset = -s $node->logfile;
	my (@ids, $pid);

	# In the middle of a statement, run the command, which ends the relay.
	my $run = sub {
		my ($db, $command) = @_;
		slow_checkpoints($db, 'CASE WHEN NEW.clean THEN 0 ELSE 30 END');
		push @ids, publish_one($db);
		$pid = wait_slow($db);
		$command =~ s/PID/$pid/;
		my $start = time();
		$node->safe_psql('postgres', $command);
		cmp_ok(time() - $start, '<=', LEAVE_LIMIT, "$command: at once");
	};
	# The next one can write down what it does.
	my $recover = sub {
		my ($db) = @_;
		slow_checkpoints($db, 0);
		isnt(wait_relay($node, db => $db), $pid, 'another relay takes over');
		state_is($db, $ids[-1], 'published');
	};
	$run->('leaving', 'SELECT pg_terminate_backend(PID, 5000)');
	$recover->('leaving');
	$run->('leaving', 'ALTER DATABASE leaving RENAME TO renamed');
	$recover->('renamed');
	$run->('renamed', 'DROP DATABASE renamed');

	my @log = (complaints('leaving', $offset), complaints('renamed', $offset));
	is_deeply([ grep { !/$timeout/ } @log ], [], 'the log has no complaint of it');
	taken_once($receiver, \@ids, 'nothing was sent twice');
};

subtest 'a request to end when not even the last checkpoint is possible' => sub {
	make_database('stuck');
	slow_checkpoints('stuck', 30);
	my $id = publish_one('stuck');
	foreach my $n (1 .. 3)
	{
		my $pid = wait_slow('stuck');
		my $start = time();
		is( $node->safe_psql('postgres', "SELECT pg_terminate_backend($pid, 5000)"),
			't',
			"relay $n is gone");
		cmp_ok(time() - $start, '<=', LEAVE_LIMIT, 'within a second');
		wait_relay($node, db => 'stuck', not => $pid);
	}
	my $start = time();
	$node->restart;
	cmp_ok(time() - $start, '<=', 5, 'nor is the server kept from a restart');
	slow_checkpoints('stuck', 0);
	state_is('stuck', $id, 'published');
	my $next = publish_one('stuck');
	state_is('stuck', $next, 'published');
	pass('the next relay goes on as soon as it can');
};

subtest 'a request to end while a table is locked' => sub {
	make_database('locked');
	foreach my $table ('outbox_progress', 'outbox_delivery')
	{
		my $locker = $node->background_psql('locked');
		$locker->query_safe(
			"BEGIN; LOCK TABLE $table IN ACCESS EXCLUSIVE MODE");
		my $id = publish_one('locked');
		my $pid = wait_relay($node, db => 'locked');
		poll_until(
			sub {
				$node->safe_psql('postgres', qq{
					SELECT count(*) FROM pg_locks WHERE pid = $pid AND NOT granted});
			},
			'the relay to wait for the table');
		my $start = time();
		is( $node->safe_psql('postgres', "SELECT pg_terminate_backend($pid, 5000)"),
			't',
			"$table: the relay is gone");
		cmp_ok(time() - $start, '<=', LEAVE_LIMIT, 'within a second');
		$locker->query_safe('ROLLBACK');
		$locker->quit;
		state_is('locked', $id, 'published');
	}
};

$node->stop;
done_testing();
