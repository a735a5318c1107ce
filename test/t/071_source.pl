# Promise: the CloudEvents source of a database's events is made once, by CREATE
# EXTENSION, and stays what it is: between two tries of an event, when the database
# gets another name, and where a dump is restored.  (By pg_upgrade and by the other
# ways of docs/move.md as well: 061_move.pl.)  A copy has the same, until somebody
# gives it one of its own.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;

my $receiver = start_receiver(mode => 'dapr');
my $node = new_node('source',
	conf => { 'outbox.dapr_endpoint' => $receiver->url, max_worker_processes => 40 });
my $dir = PostgreSQL::Test::Utils::tempdir();

# A new database with the extension
sub new_database
{
	my ($db) = @_;
	query($node, qq{CREATE DATABASE "$db"});
	query($node, 'CREATE EXTENSION outbox', $db);
	return;
}

# Test that what is published there arrives with this source
sub sends_with
{
	my ($db, $source, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $id = publish($node, 'source', db => $db);
	wait_delivered($receiver, [$id]);
	my ($sent) = $receiver->accepted(id => $id);
	return is(cloud_event($sent)->{source}, $source, $name);
}

# Wait until the relay of this database, which may begin anew, has this state
sub wait_database
{
	my ($db, $state) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return poll_until(sub { relay_value($node, 'state', $db) eq $state },
		"the relay of $db to be $state");
}

promise 'it is made of the name, as a part of a path, and of random digits' => sub {
	my %path = (
		'plain-1.0_~' => 'plain-1.0_~',
		'a b/c?d%e' => 'a%20b%2Fc%3Fd%25e',
		"gr\xc3\xbc\xc3\x9f" => 'gr%C3%BC%C3%9F',
		'..' => '%2E%2E');
	my %digits;
	foreach my $db (sort keys %path)
	{
		new_database($db);
		my $source = database_source($node, $db);
		like($source, qr{^/postgresql/\Q$path{$db}\E/[0-9a-f]{8}$}, $source);
		$digits{ substr($source, -8) } = 1;
		sends_with($db, $source, 'events have it');
	}
	cmp_ok(scalar keys %digits, '>', 1, 'the digits are random');
};

promise 'an event has the same at each try, whatever the database is called' => sub {
	new_database('before');
	my $source = database_source($node, 'before');
	$receiver->faults([ { component_error => 'broken' } ]);
	my $id = publish($node, 'renamed', db => 'before');
	poll_until(sub { $receiver->log(id => $id) >= 1 }, 'a first try');
	query($node, 'ALTER DATABASE before RENAME TO afterwards');
	$receiver->faults([]);
	wait_delivered($receiver, [$id]);
	my @tries = $receiver->log(id => $id);
	cmp_ok(scalar @tries, '>', 1, 'there was more than one try');
	is(join(' ', map { cloud_event($_)->{source} } @tries),
		join(' ', ($source) x @tries), 'all with the same source');
};

# Restored while a relay runs, which knows the row that CREATE EXTENSION has made
foreach my $way (
	[ 'plain', 'by psql', [], [ 'psql', '-qX', '-v', 'ON_ERROR_STOP=1', '-f' ] ],
	[ 'steps', 'by pg_restore', ['-Fc'], [ 'pg_restore', '-e' ] ],
	[ 'once', 'by pg_restore -1', ['-Fc'], [ 'pg_restore', '-1' ] ],
	[ 'data', 'by pg_restore --data-only', [ '-Fc', '-a' ], [ 'pg_restore', '-e', '-a' ], 1 ],
	[ 'replica', 'in session_replication_role = replica', [], [ 'psql', '-qX', '-v', 'ON_ERROR_STOP=1', '-f' ] ])
{
	my ($db, $name, $dump, $restore, $made) = @$way;
	promise "a dump carries it, restored $name" => sub {
		my ($from, $to) = ("from_$db", "to_$db");
		new_database($from);
		my $source = database_source($node, $from);
		query($node, qq{CREATE DATABASE $to});
		query($node, 'CREATE EXTENSION outbox', $to) if $made;
		reload($node, 'outbox.enabled' => 'off');
		wait_database($from, 'disabled');
		my $id = publish($node, 'restored', db => $from);
		$node->command_ok([ 'pg_dump', @$dump, '-f', "$dir/$db", $from ], 'pg_dump');
		query($node, "DROP DATABASE $from");
		wait_database($to, 'disabled') if $made;
		{
			local $ENV{PGOPTIONS} =
			  $db eq 'replica' ? '-c session_replication_role=replica' : '';
			$node->command_ok(
				[ @$restore, $restore->[0] eq 'psql' ? () : '-d',
					$restore->[0] eq 'psql' ? ("$dir/$db", $to) : ($to, "$dir/$db") ],
				'the restore');
		}
		is(database_source($node, $to), $source, 'the one row is that of the dump');
		reload($node, 'outbox.enabled' => 'on');
		wait_delivered($receiver, [$id]);
		my ($sent) = $receiver->accepted(id => $id);
		is(cloud_event($sent)->{source}, $source, 'the event has it');
	};
}

promise 'a copy has the same, until it is given another one' => sub {
	new_database('original');
	my $source = database_source($node, 'original');
	query($node, 'CREATE DATABASE "copy" TEMPLATE original');
	is(database_source($node, 'copy'), $source, 'the same source');
	sends_with('copy', $source, 'which events of the copy have');

	my $pid = wait_relay($node, db => 'copy');
	query($node, 'INSERT INTO outbox_source DEFAULT VALUES', 'copy');
	my $new = database_source($node, 'copy');
	like($new, qr{^/postgresql/copy/[0-9a-f]{8}$}, 'one of its own');
	wait_relay($node, db => 'copy', not => $pid);
	sends_with('copy', $new, 'which events have from then on');
	sends_with('original', $source, 'the original has its own');
};

promise 'a row that somebody has deleted is made again' => sub {
	new_database('deleted');
	wait_database('deleted', 'idle');
	query($node, 'DELETE FROM outbox_source', 'deleted');
	restart_relay($node, 'deleted');
	my $id = publish($node, 'deleted', db => 'deleted');
	wait_delivered($receiver, [$id]);
	my ($sent) = $receiver->accepted(id => $id);
	like(cloud_event($sent)->{source}, qr{^/postgresql/deleted/[0-9a-f]{8}$},
		'events have a source');
	is(cloud_event($sent)->{source}, database_source($node, 'deleted'),
		'that of the row');
};

# Wait until outbox_check() shows this.
sub wait_source
{
	my ($db, $wanted, $name) = @_;
	my $found;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	poll_until(
		sub {
			$found = check_value($node, 'source of events', 'ok, destination, detail', $db);
			return $found eq $wanted;
		},
		"the source: $name");
	return is($found, $wanted, $name);
}

promise 'outbox_check() shows which one is used' => sub {
	new_database('shown');
	my $source = database_source($node, 'shown');
	wait_source('shown',
		"t|default|$source, made for this database; a copy of it has the same",
		'that of the database');
	query($node, q{ALTER DATABASE shown SET outbox.source = '/shop'});
	is(check_value($node, 'source of events', 'ok, detail', 'shown'),
		"t|$source, made for this database; a copy of it has the same",
		'not that of a setting that the relay has not read');
	restart_relay($node, 'shown');
	wait_source('shown', 't|default|/shop, by outbox.source', 'but that of one which it has');
	sends_with('shown', '/shop', 'which events have');
	query($node,
		q{SELECT outbox_add_destination('other', settings => '{"source": "/other"}')},
		'shown');
	wait_source('shown',
		"t|default|/shop, by outbox.source\nt|other|/other, by outbox.source",
		'of each destination');
};

promise 'what no setting would take is refused' => sub {
	new_database('refused');
	my $source = database_source($node, 'refused');
	my @refused = (
		[ 'a b', qr/invalid value for parameter "outbox.source": "a b"/ ],
		[ '', qr/source of events must not be empty/ ]);
	foreach my $case (@refused)
	{
		my (undef, undef, $stderr) =
		  $node->psql('refused', "INSERT INTO outbox_source VALUES ('$case->[0]')");
		like($stderr, $case->[1], "'$case->[0]'");
	}
	query($node, q{INSERT INTO outbox_source VALUES ('https://shop.example/1')}, 'refused');
	is(database_source($node, 'refused'), 'https://shop.example/1', 'others are taken');
};

$node->stop;
done_testing();
