# How many databases can have a relay, and what is said when one has none.
#
# Promises:
# - A relay that finds no free worker process starts as soon as there is one.
# - outbox.max_relays limits the relays, and the log and outbox_check() say so.
#   A database that has found no place gets the next one that is free.
# - Databases without the extension take no place from those that have it, nor do
#   those that cannot be connected to.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;

my $receiver = start_receiver(mode => 'dapr');
my %conf = ('outbox.dapr_endpoint' => $receiver->url);

promise 'a relay that finds no free worker process starts as soon as one is' => sub {
	my $full = new_node(
		'full',
		conf => { %conf, max_worker_processes => 3 });
	$full->safe_psql('postgres', 'CREATE DATABASE one; CREATE DATABASE two');
	$full->safe_psql('one', 'CREATE EXTENSION outbox');
	wait_relay($full, db => 'one');
	$full->safe_psql('two', 'CREATE EXTENSION outbox');
	my $id = publish($full, 'full', db => 'two');
	poll_until(
		sub {
			check_value($full, 'relay alive', 'ok, detail', 'two') eq
			  'f|not running: no free worker process: raise max_worker_processes';
		},
		'outbox_check() to tell why');
	is(check_value($full, 'relay slots', 'ok, detail', 'two'),
		'f|no worker process is left for "default": raise max_worker_processes and restart the server',
		'and for whom');

	$full->safe_psql('one', 'DROP EXTENSION outbox');
	wait_delivered($receiver, [$id]);
	like(check_value($full, 'relay alive', 'ok, detail', 'two'),
		qr/^t\|pid \d+/, 'as soon as there is one, the relay runs');
	$full->stop;
};

promise 'outbox.max_relays limits the relays' => sub {
	my $few = new_node('few', conf => { %conf, 'outbox.max_relays' => 1 });
	$few->safe_psql('postgres', 'CREATE EXTENSION outbox');
	wait_delivered($receiver, [ publish($few, 'few') ]);

	my $offset = -s $few->logfile;
	$few->safe_psql('postgres', 'CREATE DATABASE more');
	$few->safe_psql('more', 'CREATE EXTENSION outbox');
	publish($few, 'more', db => 'more');
	wait_log(
		$few,
		qr/Raise outbox\.max_relays and restart the server\.\n.*CONTEXT:  outbox launcher/,
		$offset);
	like(check_value($few, 'relay alive', 'ok, detail', 'more'), qr/^f\|/,
		'outbox_check() says that no relay runs');
	is(check_value($few, 'relay slots', 'ok, detail', 'more'),
		'f|all 1 are taken, and "default" of this database got none: raise outbox.max_relays and restart the server',
		'and what to raise');
	is(check_value($few, 'relay slots', 'ok, detail'), 't|1 of 1 (outbox.max_relays) are taken', '... of which the first database has one');
	like(check_value($few, 'relay alive', 'ok, detail'),
		qr/^t\|/, 'the first database keeps its relay');

	my ($status, undef, $stderr) =
	  $few->psql('postgres', 'SET outbox.max_relays = 2');
	like($stderr, qr/cannot be changed without restarting/,
		'it needs a restart');
	reload($few, 'outbox.max_relays' => 2);
	$few->restart;
	wait_relay($few, db => 'more');
	$few->stop;
};

promise 'a database that found no place gets the next one that is free' => sub {
	my $next = new_node('next',
		conf => { %conf, 'outbox.max_relays' => 1, log_min_messages => 'debug1' });
	$next->safe_psql('postgres', 'CREATE DATABASE first; CREATE DATABASE second');
	wait_log($next, qr/("outbox relay" \(PID \d+\) exited with exit code 0.*){4}/s, 0);
	$next->safe_psql('first', 'CREATE EXTENSION outbox');
	wait_relay($next, db => 'first');

	my $offset = -s $next->logfile;
	$next->safe_psql('second', 'CREATE EXTENSION outbox');
	my @ids = map { publish($next, 'second', db => 'second') } 1 .. 10;
	wait_log($next, qr/there is no relay for database/, $offset);
	push @ids, map { publish($next, 'second', db => 'second') } 1 .. 10;
	is(() = slurp_file($next->logfile, $offset) =~ /there is no relay for database/g,
		1, 'the log says so, but not for every publish');

	$next->safe_psql('first', 'DROP EXTENSION outbox');
	wait_delivered($receiver, \@ids);
	is($next->safe_psql('second', 'SELECT datname FROM outbox_relays'),
		'second', 'it has the place');
	$next->stop;
};

# More than a server has slots or processes for
promise 'among many databases the one with the extension is found soon' => sub {
	my $many = new_node('many',
		conf => { %conf, max_worker_processes => 4, 'outbox.max_relays' => 3,
			autovacuum => 'off' });
	reload($many, 'outbox.enabled' => 'off');
	$many->safe_psql('postgres', join "\n", map { "CREATE DATABASE d$_;" } 1 .. 30);
	$many->safe_psql('d30', 'CREATE EXTENSION outbox');
	my $id = publish($many, 'found', db => 'd30');
	reload($many, 'outbox.enabled' => 'on');
	$many->stop;
	my $offset = -s $many->logfile;
	$many->start;
	wait_delivered($receiver, [$id], 30);
	poll_until(
		sub {
			$many->safe_psql('d30', 'SELECT count(*) FROM outbox_relays') eq '1';
		},
		'all databases to be looked into');
	unlike(slurp_file($many->logfile, $offset), qr/outbox\.max_relays|max_worker_processes/,
		'nobody is told to raise a limit');
	$many->stop;
};

promise 'databases that cannot be connected to keep nobody waiting' => sub {
	my $damaged = new_node('damaged', conf => \%conf);
	my %id;
	my @broken = map { "broken$_" } 1 .. 5;
	reload($damaged, 'outbox.enabled' => 'off');
	foreach my $db (@broken, 'sound')
	{
		query($damaged, "CREATE DATABASE $db");
		query($damaged, 'CREATE EXTENSION outbox', $db);
		$id{$db} = publish($damaged, $db, db => $db);
	}
	my %version = map {
		my ($db, $oid) = split /\|/;
		$db => $damaged->data_dir . "/base/$oid/PG_VERSION";
	} split /\n/, query($damaged, q{SELECT datname, oid FROM pg_database WHERE datname ~ 'broken'});
	$damaged->stop;
	$damaged->adjust_conf('postgresql.conf', 'outbox.enabled', 'on');
	rename $_, "$_.away" or die "could not rename $_: $!" foreach values %version;
	$damaged->start;
	wait_delivered($receiver, [ $id{sound} ]);

	rename "$_.away", $_ or die "could not rename $_: $!" foreach values %version;
	wait_delivered($receiver, [ @id{@broken} ]);
	pass('once mended, they are looked into without being asked');
	$damaged->stop;
};

done_testing();
