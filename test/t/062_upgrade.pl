# Promise: a newer library and older SQL objects work together, so that library
# and SQL can be upgraded in this order with any time in between.  In the other
# order everything is published, and sent after the restart.  Neither loses an
# event, fails a transaction, or has the relay crash.  Several destinations each
# go on where they were, and what is paused stays so.
#
# The next version is this tree with test/upgrade/next.patch: a column, an
# argument, a column of a result and a function more.  A server uses an installation
# of its own, whose files the upgrade replaces, as a package would.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;
use OutboxTest::Destinations;
use OutboxTest::Upgrade;

plan skip_all => 'the extension is not staged by tools/stage'
  unless defined staged_dest();

my $dir = PostgreSQL::Test::Utils::tempdir();
my $receiver = start_receiver(mode => 'dapr');
my $next = "$dir/next";
system_or_bail('tools/stage', $next, 'test/upgrade/next.patch');

# Replace the files of an installation; those that are open stay what they are.
sub install_files
{
	my ($from, $installation) = @_;
	mkdir $installation;
	system_or_bail('cp', '-a', '--remove-destination', "$from/.", $installation);
	return;
}

# A node with this version installed, and where
sub node_with_installation
{
	my ($name) = @_;
	my $installation = "$dir/$name";
	install_files(staged_dest(), $installation);
	my $node = new_node($name,
		conf => {
			conf_of_installation($installation),
			'outbox.dapr_endpoint' => $receiver->url
		});
	query($node, q{
		CREATE EXTENSION outbox VERSION '1.0';
		CREATE ROLE app LOGIN;
		GRANT EXECUTE ON FUNCTION outbox_publish TO app;
		CREATE FUNCTION publish_indirectly() RETURNS uuid
			BEGIN ATOMIC SELECT outbox_publish('indirect', '1'); END});
	return ($node, $installation);
}

# The new column, argument and function do what they are for.
sub new_things_work
{
	my ($node) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $id = publish($node, 'new', more => q{tenant => 'acme'});
	wait_delivered($receiver, [$id]);
	my ($sent) = $receiver->accepted(id => $id);
	is(cloud_event($sent)->{type}, 'acme', 'the new column is read');
	is(query($node, 'SELECT * FROM outbox_tenants()'),
		'acme', 'the new function works');
	is(query($node, 'SELECT server FROM outbox_library()'),
		query($node, q{SELECT current_setting('server_version_num')::int / 10000}), 'a result has its new column');
	is(query($node, q{SET ROLE pg_monitor; SELECT serves FROM outbox_library()}),
		't', 'for those who could call the function before');
	wait_delivered($receiver, [ query($node, 'SELECT publish_indirectly()') ]);
	return;
}

promise 'library first: the older SQL is served, until ALTER EXTENSION' => sub {
	my ($node, $installation) = node_with_installation('library_first');
	my $old = publish($node, 'old');
	wait_delivered($receiver, [$old]);

	under_load($node, 'files',
		sub { install_files("$next/dest", $installation) });
	$node->restart;
	like(check_value($node, 'versions match', 'ok, detail'),
		qr/^t\|library 1\.1\.0, SQL 1\.0; they work together/,
		'outbox_check() tells');
	wait_relay($node);
	like(check_value($node, 'relay alive', 'ok, detail'),
		qr/^t\|.*(?:idle|relaying)/, 'the relay works');

	my $pid = relay_pid($node);
	my $id = publish($node, 'between', more => q{type => 'made'});
	wait_delivered($receiver, [$id]);
	is(query($node, q{
			INSERT INTO outbox_event (topic, payload) VALUES ('between', '2')
			RETURNING topic}),
		'between', 'INSERT works');
	wait_delivered($receiver, [ query($node, 'SELECT publish_indirectly()') ]);
	under_load($node, 'update', sub {
		is(relay_pid($node), $pid, 'it is still the first relay');
		query($node, q{ALTER EXTENSION outbox UPDATE TO '1.1'});
	});
	is(check_value($node, 'versions match', 'ok, detail'),
		't|library 1.1.0, SQL 1.1', 'outbox_check() is content');
	new_things_work($node);
	nothing_lost($node, $receiver);
	$node->stop;
};

# Test that a receiver was sent these events once each, and no other.
sub was_sent_once
{
	my ($name, $to, @ids) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is_deeply([ sort map { $_->{id} } $to->accepted(fields => ['id']) ], [ sort @ids ],
		"$name was sent each once");
	return;
}

promise 'destinations at different positions each go on where they were' => sub {
	my ($node, $installation) = node_with_installation('positions');
	my %to = (default => $receiver, map { $_ => start_receiver(mode => 'dapr') } qw(behind paused));
	foreach my $name ('behind', 'paused')
	{
		add_destination($node, $name, '{#}', { dapr_endpoint => $to{$name}->url });
	}
	my @ids = publish($node, 'all', count => 20, more => q{key => 'k' || n % 3});
	wait_sent_to($node, keys %to);
	query($node, q{SELECT outbox_pause('paused')});
	wait_relay_of_value($node, 'paused', state => 'paused');
	$to{behind}->state(listening => 0);
	my @before = @ids;
	push @ids, publish($node, 'old', count => 20, more => q{key => 'k' || n % 3});
	wait_sent_to($node, 'default');
	wait_relay_of_value($node, 'behind', state => 'endpoint down');

	# where each of them is, once it runs as $version
	my $each_is_there = sub {
		my ($version) = @_;
		wait_relay_of_value($node, 'behind', state => 'endpoint down');
		wait_relay_of_value($node, 'paused', state => 'paused');
		push @ids, publish($node, "as $version", count => 20, more => q{key => 'k' || n % 3});
		wait_sent_to($node, 'default');
		was_sent_once('default', $to{default}, @ids);
		was_sent_once($_, $to{$_}, @before) foreach 'behind', 'paused';
	};
	install_files("$next/dest", $installation);
	$node->restart;
	$each_is_there->('1.1 with the SQL of 1.0');
	my $pid = wait_relay_of($node, 'default');
	query($node, q{ALTER EXTENSION outbox UPDATE TO '1.1'});
	wait_relay_of($node, 'default', $pid);
	$each_is_there->('1.1');

	$to{behind}->state(listening => 1);
	query($node, q{SELECT outbox_resume('paused')});
	wait_sent_to($node, 'behind', 'paused');
	was_sent_once($_, $to{$_}, @ids) foreach keys %to;
	$node->stop;
};

promise 'ALTER EXTENSION first: all is published, and sent after the restart' =>
  sub {
	my ($node, $installation) = node_with_installation('sql_first');
	install_files("$next/dest", $installation);
	under_load($node, 'update',
		sub { query($node, q{ALTER EXTENSION outbox UPDATE TO '1.1'}) });
	wait_relay_value($node,
		last_error => qr/^library is version 1\.0\.0, extension is version 1\.1/);
	like(check_value($node, 'versions match', 'ok, detail'),
		qr/^f\|library 1\.0\.0, SQL 1\.1; /, 'outbox_check() tells');
	my ($status, undef, $stderr) = $node->psql('postgres',
		publish_sql('lost', more => q{tenant => 'acme'}));
	like(
		$stderr,
		qr/ERROR:  the library does not know argument 9 of outbox_publish\(\)/,
		'an argument that the library does not know is not dropped');
	is(query($node, 'SELECT version, server IS NULL FROM outbox_library()'),
		'1.0.0|t', 'a column that it does not know is NULL');
	publish($node, 'between', count => 10);
	$node->restart;
	new_things_work($node);
	nothing_lost($node, $receiver);
	$node->stop;
  };

promise 'a library serves earlier versions of its major version' => sub {
	my $node = new_node('versions', conf => { 'outbox.enabled' => 'off' });
	query($node, 'CREATE EXTENSION outbox');
	my %serves = (
		'1.0' => 't',
		'1.0.0' => 't',
		'1' => 't',
		'1.0dev' => 'f',
		'1.0.1' => 'f',
		'1.1' => 'f',
		'1.10' => 'f',
		'0.9' => 'f',
		'2.0' => 'f',
		'x' => 'f');
	foreach my $version (sort keys %serves)
	{
		query($node,
			"UPDATE pg_extension SET extversion = '$version' WHERE extname = 'outbox'"
		);
		is(query($node, 'SELECT serves FROM outbox_library()'),
			$serves{$version}, "library 1.0.0, SQL $version");
	}
	$node->stop;
};

done_testing();
