# Promise: every database that has the extension has a relay of its own, and
# just one.  Commands on whole databases and DROP EXTENSION work at once
# although a relay is connected, and are followed by relays where they belong.
# Another version of the extension, and a library that is not preloaded, are told
# by outbox_check().  The launcher that sees to all this ends when it is told to,
# without a complaint in the log.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use lib 'test/lib';
use OutboxTest;

use constant COMMAND_LIMIT => 2;    # seconds

my $receiver = start_receiver(mode => 'dapr');
my %conf = ('outbox.dapr_endpoint' => $receiver->url);
my $node = new_node('databases', conf => \%conf);

# Make a database that has the extension; its relay's pid.
sub new_database
{
	my ($db) = @_;
	query($node, "CREATE DATABASE $db");
	query($node, 'CREATE EXTENSION outbox', $db);
	return wait_relay($node, db => $db);
}

sub relay_count
{
	return query($node,
		q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'outbox relay'});
}

# Run a command, which has to be done at once.
sub quick
{
	my ($sql) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	my $start = time();
	my ($status, undef, $stderr) = $node->psql('postgres', $sql);
	is($stderr, '', "$sql: no complaint");
	cmp_ok(time() - $start, '<=', COMMAND_LIMIT, "$sql: at once");
	return;
}

# Those that are there for every promise
new_database($_) foreach 'one', 'two';

promise 'two databases have a relay each' => sub {
	my %relay = map { $_ => wait_relay($node, db => $_) } 'one', 'two';
	isnt($relay{one}, $relay{two}, 'they are different processes');

	my %id = map { $_ => publish($node, "to.$_", db => $_) } 'one', 'two';
	wait_delivered($receiver, [ values %id ]);
	is_deeply(
		{ map { $_->{topic} => [ $_->{id}, $_->{source} ] } $receiver->accepted },
		{ map { ("to.$_" => [ $id{$_}, database_source($node, $_) ]) } 'one', 'two' },
		'each has sent its own event with its own source');
	is( $node->safe_psql(
			'one',
			'SELECT datname, pid FROM outbox_relays ORDER BY datname'),
		"one|$relay{one}\ntwo|$relay{two}",
		'outbox_relays shows both');

	kill 'STOP', $relay{one};
	my $id = publish($node, 'beside', db => 'two');
	wait_delivered($receiver, [$id]);
	pass('a relay that stands still does not stop the other one');
	kill 'CONT', $relay{one};
};

promise 'default privileges give no rights' => sub {
	query($node, 'CREATE DATABASE grants');
	$node->safe_psql('grants', q{
		CREATE ROLE regress_app;
		ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO regress_app;
		ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO regress_app;
		ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO regress_app;
		CREATE EXTENSION outbox;
		CREATE TABLE mine ()});
	is( $node->safe_psql('grants', q{
			SELECT string_agg(DISTINCT c.relname, ',') FROM pg_class c, aclexplode(c.relacl) a
			WHERE a.grantee = 'regress_app'::regrole}),
		'mine', 'give no rights on tables and sequences of the extension');
	is( $node->safe_psql('grants', q{
			SELECT count(*) FROM pg_proc p, aclexplode(p.proacl) a
			WHERE a.grantee = 'regress_app'::regrole}),
		0, 'nor on functions');
	quick('DROP DATABASE grants');
	query($node, 'DROP ROLE regress_app');
};

promise 'an extension created in a prepared transaction has a relay' => sub {
	query($node, 'CREATE DATABASE prepared');
	poll_until(sub { relay_count() == 2 }, 'the new database to be looked into');
	$node->safe_psql('prepared', q{
		BEGIN; CREATE EXTENSION outbox; PREPARE TRANSACTION 'extension'});
	is(relay_count(), 2, 'not before COMMIT PREPARED');
	$node->safe_psql('prepared', q{COMMIT PREPARED 'extension'});
	wait_relay($node, db => 'prepared');
	quick('DROP DATABASE prepared');
};

# The new one needs the lock to connect.
promise 'a relay that cannot connect can be terminated' => sub {
	my $first = new_database('stuck');
	my $pid = sub {
		return query($node, q{SELECT pid FROM outbox_relays WHERE datname = 'stuck'},
			'one');
	};
	my $locker = $node->background_psql('stuck');
	$locker->query_safe('BEGIN; LOCK TABLE pg_class IN ACCESS EXCLUSIVE MODE');
	kill('TERM', $first);
	poll_until(sub { $pid->() =~ /^(?!$first$)\d/ }, 'another relay to be started');
	my $stuck = $pid->();
	poll_until(
		sub {
			query($node, "SELECT 1 FROM pg_locks WHERE pid = $stuck AND NOT granted") eq '1';
		},
		'it to be stuck');
	kill('TERM', $stuck);
	ok(poll_until(sub { !kill(0, $stuck) }, 'it to be gone'),
		'while somebody keeps it from connecting');
	$locker->query_safe('ROLLBACK');
	$locker->quit;
	wait_relay($node, db => 'stuck');
	quick('DROP DATABASE stuck');
};

promise 'the name of the schema may need quotes' => sub {
	my $schema = 'Out.Box; %s @s@';
	query($node, 'CREATE DATABASE quoted');
	$node->safe_psql('quoted',
		qq{CREATE SCHEMA "$schema"; CREATE EXTENSION outbox SCHEMA "$schema"});
	my $id = publish($node, 'quoted', db => 'quoted', schema => $schema);
	wait_delivered($receiver, [$id]);
	poll_until(
		sub {
			$node->safe_psql('quoted',
				qq{SELECT state FROM "$schema".outbox_events}) eq 'published';
		},
		'the event to be published');
	is( $node->safe_psql('quoted',
			qq{SELECT string_agg(DISTINCT ok::text, ',') FROM "$schema".outbox_check()}
		),
		'true',
		'outbox_check() finds nothing');
	quick('DROP DATABASE quoted');
};

promise 'CREATE DATABASE TEMPLATE is followed by a relay for each' => sub {
	my $pid = wait_relay($node, db => 'one');
	my $before = publish($node, 'before', db => 'one');
	wait_delivered($receiver, [$before]);
	quick('CREATE DATABASE copy TEMPLATE one');
	my %id = (
		one => publish($node, 'source', db => 'one'),
		copy => publish($node, 'copy', db => 'copy'));
	wait_delivered($receiver, [ values %id ]);
	isnt(wait_relay($node, db => 'one', not => $pid), wait_relay($node, db => 'copy'),
		'source and copy have a relay each');
	is( $node->safe_psql(
			'copy',
			q{SELECT string_agg(topic, ',' ORDER BY topic) FROM outbox_events
			  WHERE topic IN ('before', 'source', 'copy')}
		),
		'before,copy',
		'the copy has its own events and those from before');
	is(scalar($receiver->accepted(id => $before)),
		1, 'what was published before is not sent again by the copy');
	quick('DROP DATABASE copy');
};

promise 'ALTER DATABASE RENAME is followed by a relay' => sub {
	new_database('misnamed');
	my $source = database_source($node, 'misnamed');
	quick('ALTER DATABASE misnamed RENAME TO renamed');
	my $id = publish($node, 'renamed', db => 'renamed');
	wait_delivered($receiver, [$id]);
	is_deeply([ map { $_->{source} } $receiver->accepted(id => $id) ],
		[$source], 'the source is what it was');
	is(relay_pid($node, 'misnamed'), undef, 'no relay has the old name');
	quick('DROP DATABASE renamed');
};

promise 'databases can be renamed in a transaction block' => sub {
	new_database($_) foreach 'first', 'second';
	my %source = map { $_ => database_source($node, $_) } 'first', 'second';
	quick('BEGIN; ALTER DATABASE first RENAME TO third;'
		  . ' ALTER DATABASE second RENAME TO first;'
		  . ' ALTER DATABASE third RENAME TO second; COMMIT');
	my %id = map { $_ => publish($node, "to.$_", db => $_) } 'first', 'second';
	wait_delivered($receiver, [ values %id ]);
	is_deeply(
		{ map { $_->{topic} => $_->{source} } $receiver->accepted },
		{ 'to.first' => $source{second}, 'to.second' => $source{first} },
		'both have a relay, under their new names, and the sources that they had');
	quick("DROP DATABASE $_") foreach 'first', 'second';
};

promise 'a rename in a prepared transaction is followed by a relay' => sub {
	my $prepare = sub {
		$node->safe_psql('postgres',
			"BEGIN; ALTER DATABASE $_[0] RENAME TO $_[1]; PREPARE TRANSACTION 'rename'");
	};
	new_database('undecided');
	my $source = database_source($node, 'undecided');
	$prepare->('undecided', 'decided');
	$node->safe_psql('postgres', q{COMMIT PREPARED 'rename'});
	my $id = publish($node, 'decided', db => 'decided');
	wait_delivered($receiver, [$id]);
	is_deeply([ map { $_->{source} } $receiver->accepted(id => $id) ],
		[$source], 'the source is what it was');

	# Nobody can connect before the end of it: neither may the relay wait for that.
	$prepare->('decided', 'undecided');
	my $start = time();
	$node->restart;
	cmp_ok(time() - $start, '<=', 20, 'the server can be stopped meanwhile');
	wait_relay($node, db => 'one');
	is(relay_pid($node, 'decided'), undef, 'the database has no relay');
	$node->stop;
	$node->start;
	$node->safe_psql('postgres', q{ROLLBACK PREPARED 'rename'});
	wait_delivered($receiver, [ publish($node, 'kept', db => 'decided') ]);
	quick('DROP DATABASE decided');
};

promise 'ALTER DATABASE SET TABLESPACE is followed by a relay' => sub {
	my $dir = PostgreSQL::Test::Utils::tempdir();
	query($node, "CREATE TABLESPACE other LOCATION '$dir'");
	new_database('moved');
	quick('ALTER DATABASE moved SET TABLESPACE other');
	my $id = publish($node, 'moved', db => 'moved');
	wait_delivered($receiver, [$id]);
	pass('the relay is back');
	quick('DROP DATABASE moved');
};

promise 'a command that is refused lets the relay come back' => sub {
	new_database('mine');
	my ($status, undef, $stderr) =
	  $node->psql('postgres', 'ALTER DATABASE mine RENAME TO one');
	like($stderr, qr/database "one" already exists/, 'refused');
	my $id = publish($node, 'refused', db => 'mine');
	wait_delivered($receiver, [$id]);

	query($node, 'CREATE ROLE stranger CREATEDB LOGIN');
	my $pid = wait_relay($node, db => 'mine');
	(undef, undef, $stderr) = $node->psql(
		'postgres',
		'DROP DATABASE mine',
		extra_params => [ '-U', 'stranger' ]);
	like($stderr, qr/must be owner of database mine/, 'a stranger is refused');
	is(relay_pid($node, 'mine'), $pid, 'and does not disturb the relay');
	quick('DROP DATABASE mine');
};

promise 'DROP DATABASE takes the relay along' => sub {
	my $shown = q{SELECT count(*) FROM outbox_relays};
	new_database('doomed');
	my $before = relay_count();
	my $shown_before = query($node, $shown, 'one');
	my $offset = -s $node->logfile;
	quick('DROP DATABASE doomed');
	is(relay_count(), $before - 1, 'its relay is gone');
	is(query($node, $shown, 'one'), $shown_before - 1, 'outbox_relays forgets it');

	# The launcher has looked at the databases again when this is delivered.
	query($node, 'CREATE DATABASE later TEMPLATE two');
	wait_delivered($receiver, [ publish($node, 'later', db => 'later') ]);
	unlike(slurp_file($node->logfile, $offset),
		qr/FATAL|ERROR/, 'nobody misses it in the log');
	quick('DROP DATABASE later');
};

promise 'DROP EXTENSION ends the relay quietly, CREATE EXTENSION starts one' =>
  sub {
	$receiver->faults([ { action => 'pass', delay_response => 0.01 } ]);
	my $pid = wait_relay($node, db => 'two');
	my $offset = -s $node->logfile;
	$node->safe_psql('two',
		q{SELECT outbox_publish('dropped', '{}') FROM generate_series(1, 2000)}
	);
	poll_until(sub { $receiver->accepted(topic => 'dropped') >= 50 },
		'the relay to be in the middle of it');

	my $start = time();
	$node->safe_psql('two', 'DROP EXTENSION outbox');
	cmp_ok(time() - $start, '<=', COMMAND_LIMIT, 'DROP EXTENSION: at once');
	poll_until(sub { !defined relay_pid($node, 'two') }, 'the relay to end');
	poll_until(
		sub {
			$node->safe_psql('one',
				q{SELECT count(*) FROM outbox_relays WHERE datname = 'two'}) == 0;
		},
		'the database to be forgotten');
	unlike(slurp_file($node->logfile, $offset),
		qr/ERROR|FATAL|PANIC/, 'the log has no error');

	$receiver->faults([]);
	$node->safe_psql('two', 'CREATE EXTENSION outbox');
	$start = time();
	my $id = publish($node, 'again', db => 'two');
	wait_delivered($receiver, [$id]);
	cmp_ok(time() - $start, '<=', COMMAND_LIMIT, 'the new relay is there soon');
	is(event_state($node, $id, 'two') ? 1 : 0, 1, 'the new tables are used');
  };

promise 'an extension of another version stops the relay, and says so' => sub {
	my $pid = wait_relay($node, db => 'two');
	my $offset = -s $node->logfile;
	$node->safe_psql('two',
		q{UPDATE pg_extension SET extversion = '0.9' WHERE extname = 'outbox'});
	my $id = publish($node, 'version', db => 'two');
	poll_until(
		sub {
			$node->safe_psql('two',
				q{SELECT state, last_error FROM outbox_relays WHERE datname = 'two'}
			) =~ /^stopped\|library is version 1\.0\.0, extension is version 0\.9$/;
		},
		'the relay to stop');
	like(check_value($node, 'versions match', 'ok, detail', 'two'),
		qr/^f\|library 1\.0\.0, SQL 0\.9; run ALTER EXTENSION/,
		'outbox_check() tells what to do');
	like(check_value($node, 'relay alive', 'ok, detail', 'two'),
		qr/^f\|/, 'and that nothing runs');

	my $log = wait_log($node, qr/the relay of database "two" idles/, $offset);
	my $relay = wait_relay($node, db => 'two');
	$node->safe_psql('one', 'SELECT pg_reload_conf()');
	wait_delivered($receiver, [ publish($node, 'meanwhile', db => 'one') ]);
	is(relay_pid($node, 'two'), $relay, 'the process idles');
	is(scalar($receiver->accepted(id => $id)), 0, 'nothing is sent');

	$node->safe_psql('two',
		q{UPDATE pg_extension SET extversion = '1.0' WHERE extname = 'outbox'});
	wait_delivered($receiver, [$id]);
	$log = slurp_file($node->logfile, $offset);
	is(() = $log =~ /the relay of database "two" idles/g,
		1, 'the log has one line');
	unlike($log, qr/ERROR|FATAL/, 'and no error');
};

promise 'two relays never serve one database' => sub {
	# The lock that the relay of "one" holds, taken by somebody else.
	$node->safe_psql('one', q{
		CREATE FUNCTION hold_lock(classid oid, objid oid, objsubid int2)
		RETURNS void LANGUAGE c AS 'outbox_test_publisher'});
	my $pid = wait_relay($node, db => 'one');
	my $lock;
	poll_until(
		sub {
			$lock = $node->safe_psql('one',
				qq{SELECT classid, objid, objsubid FROM pg_locks
				   WHERE locktype = 'advisory' AND pid = $pid});
		},
		'the lock of the relay');
	$lock =~ tr/|/,/;
	my $rival = $node->background_psql('one');
	my $offset = -s $node->logfile;
	# It stands in line when the relay leaves; the next relay comes too late.
	$rival->query_until(qr/in line/,
		"\\echo in line\nSELECT hold_lock($lock\::int2);\n");
	poll_until(
		sub {
			$node->safe_psql('one',
				q{SELECT count(*) FROM pg_locks
				  WHERE locktype = 'advisory' AND NOT granted});
		},
		'the rival to wait for the lock');
	$node->safe_psql('one', "SELECT pg_terminate_backend($pid)");
	wait_log($node, qr/another relay for this destination of database "one"/, $offset);
	my $id = publish($node, 'rival', db => 'one');
	wait_log($node, qr/(another relay for this destination of database "one".*){2}/s, $offset);
	is(scalar($receiver->accepted(id => $id)), 0, 'the second relay is idle');

	$rival->quit;
	wait_delivered($receiver, [$id]);
	pass('it takes over when the first one has gone');
};

# The postmaster stands still, and starts the relay when its database is gone.
promise 'a relay that starts after DROP DATABASE leaves nothing' => sub {
	my $postmaster = $node->safe_psql('postgres', q{
		SELECT split_part(pg_read_file('postmaster.pid'), E'\n', 1)});
	my $shown_relays = sub {
		$node->safe_psql('one', 'SELECT count(*) FROM outbox_relays');
	};
	query($node, 'CREATE DATABASE late');
	poll_until(
		sub {
			$node->safe_psql('one',
				q{SELECT count(*) FROM outbox_relays WHERE datname = 'late'}) eq '0';
		},
		'the new database to be looked into');
	my $before = $shown_relays->();
	my %session = map { $_ => $node->background_psql($_) } 'late', 'postgres';
	$_->query_safe('SELECT 1') foreach values %session;
	kill 'STOP', $postmaster;
	$session{late}->query_safe('CREATE EXTENSION outbox');
	$session{late}->quit;
	$session{postgres}->query_safe('DROP DATABASE late');
	my $offset = -s $node->logfile;
	kill 'CONT', $postmaster;
	$session{postgres}->quit;
	poll_until(sub { $shown_relays->() == $before }, 'the slot to be free');
	query($node, 'CREATE DATABASE later TEMPLATE two');
	wait_delivered($receiver, [ publish($node, 'later', db => 'later') ]);
	is($shown_relays->(), $before + 1, 'it is used again');
	unlike(slurp_file($node->logfile, $offset), qr/FATAL/, 'nobody looks for the database');
	quick('DROP DATABASE later');
};

promise 'the launcher ends quietly, and comes back' => sub {
	my $offset = -s $node->logfile;
	my $launcher = launcher_pid($node);
	is( query($node, "SELECT pg_terminate_backend($launcher, 2000)"),
		't',
		'it ends at once');
	my $next = poll_until(sub { launcher_pid($node) }, 'the next launcher');
	isnt($next, $launcher, 'another one comes');

	# Nobody can be asked but this session while it has pg_database locked.
	my $session = $node->background_psql('postgres');
	$session->query_safe(
		'BEGIN; LOCK TABLE pg_database IN ACCESS EXCLUSIVE MODE');
	$session->query("SELECT pg_terminate_backend($next, 2000)");
	poll_until(
		sub {
			$next = $session->query_safe(q{
				SELECT pg_stat_clear_snapshot();
				SELECT pid FROM pg_stat_activity
				WHERE backend_type = 'outbox launcher'
				AND wait_event_type IN ('Extension', 'Lock')});
			$next =~ s/\s//g;
			return $next;
		},
		'a launcher that cannot read pg_database');
	is($session->query("SELECT pg_terminate_backend($next, 2000)"),
		't', 'it ends at once, too');
	$session->query_safe('COMMIT');
	$session->quit;

	query($node, 'CREATE DATABASE later TEMPLATE two');
	wait_delivered($receiver, [ publish($node, 'later', db => 'later') ]);
	quick('DROP DATABASE later');

	$node->stop;
	my $log = slurp_file($node->logfile, $offset);
	like($log, qr/database system is shut down/, 'the server stops');

	# a session of this test may have been about to end
	$log =~ s/FATAL:  terminating connection//g;
	unlike($log, qr/FATAL|ERROR/, 'the log has no complaint of all this');
};

promise 'without shared_preload_libraries events are kept' => sub {
	my $plain = new_node('plain', conf => \%conf);
	$plain->safe_psql('postgres', 'CREATE EXTENSION outbox');
	reload($plain, shared_preload_libraries => '');
	$plain->restart;

	my ($status, $ids, $stderr) = $plain->psql('postgres',
		q{SELECT outbox_publish('plain', '{}'); SELECT outbox_publish('plain', '{}')}
	);
	is($status, 0, 'events are stored');
	is(() = $stderr =~ /WARNING:  events are stored but not delivered/g,
		1, 'with one warning a session');
	like($stderr, qr/HINT:  Add outbox to shared_preload_libraries/,
		'that says what to do');
	is(check_value($plain, 'library preloaded', 'ok, detail'),
		'f|add outbox to shared_preload_libraries and restart the server',
		'so does outbox_check()');
	like(check_value($plain, 'relay alive', 'ok, detail'),
		qr/^f\|/, 'no relay');

	reload($plain, shared_preload_libraries => 'outbox');
	$plain->restart;
	wait_delivered($receiver, [ split /\n/, $ids ]);
	pass('they are delivered as soon as it is preloaded');
	$plain->stop;
};

done_testing();
