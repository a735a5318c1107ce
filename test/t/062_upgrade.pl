# Promise: a newer library and older SQL objects work together, so that library
# and SQL can be upgraded in this order with any time in between.  In the other
# order everything is published, and sent after the restart.  Neither loses an
# event, fails a transaction, or has the relay crash.
#
# The next version is this tree with test/upgrade/next.patch: a column, an
# argument and a function more.  A server uses an installation of its own, whose
# files the upgrade replaces, as a package would.

use strict;
use warnings FATAL => 'all';

use Cwd qw(abs_path);
use IPC::Run ();
use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;

# Where this version is installed, and the settings by which a server finds it
# there.
my $staged = slurp_file($ENV{TEMP_CONFIG});
my ($lib) = $staged =~ m{^dynamic_library_path = '([^:']+):}m;
my ($dest) = defined $lib ? $lib =~ m{^(.*/dest)/} : ();
plan skip_all => 'the extension is not staged by tools/stage'
  unless defined $dest;

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
	my %conf = ('outbox.dapr_endpoint' => $receiver->url);
	while ($staged =~ /^(dynamic_library_path|extension_\w+) = '(.*)'$/mg)
	{
		my ($setting, $value) = ($1, $2);
		$value =~ s/\Q$dest\E/$installation/g;
		$conf{$setting} = $value;
	}
	install_files($dest, $installation);
	my $node = new_node($name, conf => \%conf);
	query($node, q{
		CREATE EXTENSION outbox VERSION '1.0';
		CREATE ROLE app LOGIN;
		GRANT EXECUTE ON FUNCTION outbox_publish TO app;
		CREATE FUNCTION publish_indirectly() RETURNS uuid
			BEGIN ATOMIC SELECT outbox_publish('indirect', '1'); END});
	return ($node, $installation);
}

# Publish for some seconds, with plans that are made once and that are made each
# time; run $sub meanwhile, and test that no transaction has failed.
sub under_load
{
	my ($node, $topic, $sub) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $published = sub {
		return try_query($node,
			"SELECT count(*) FROM outbox_event WHERE topic = '$topic'") || 0;
	};
	my $script = "$dir/$topic.sql";
	my @runs;

	append_to_file($script,
		"SELECT outbox_publish('$topic', '1', key => 'k' || :client_id);\n");
	foreach my $mode ('simple', 'prepared')
	{
		my %run = (out => '');
		$run{handle} = IPC::Run::start(
			[
				'pgbench', '-n', '-c', 2, '-T', 6, '-R', 150,
				'-M', $mode, '-f', $script, '-h', $node->host,
				'-p', $node->port, '-U', 'app', 'postgres'
			],
			'>', \$run{out}, '2>&1');
		push @runs, \%run;
	}
	poll_until(sub { $published->() >= 50 }, 'events to be published');
	$sub->();
	my $before = $published->();
	poll_until(sub { $published->() >= $before + 50 },
		'more events to be published');
	foreach my $run (@runs)
	{
		IPC::Run::finish($run->{handle});
		is($run->{handle}->result(0), 0, "pgbench ends well ($topic)");
		like($run->{out}, qr/number of failed transactions: 0 /,
			'no transaction has failed');
		unlike($run->{out}, qr/ERROR|FATAL|aborted/, 'nor ended early');
	}
	return;
}

# Everything that the node has was delivered, and its relays never crashed.
sub nothing_lost
{
	my ($node) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_settled($node);
	my %taken = map { $_->{id} => 1 } $receiver->accepted(fields => ['id']);
	my @published = split /\n/,
	  query($node, 'SELECT event_id FROM outbox_event');
	cmp_ok(scalar(@published), '>=', 200, 'there are events');
	is(scalar(grep { !$taken{$_} } @published), 0, 'none is lost');
	unlike(
		slurp_file($node->logfile),
		qr/PANIC|terminated by signal|exited with exit code [^01]|has died by itself/,
		'no process has crashed');
	return;
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
		qr/^t\|library 1\.1, SQL 1\.0; they work together/,
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
		't|library 1.1, SQL 1.1', 'outbox_check() is content');
	new_things_work($node);
	nothing_lost($node);
	$node->stop;
};

promise 'ALTER EXTENSION first: all is published, and sent after the restart' =>
  sub {
	my ($node, $installation) = node_with_installation('sql_first');
	install_files("$next/dest", $installation);
	under_load($node, 'update',
		sub { query($node, q{ALTER EXTENSION outbox UPDATE TO '1.1'}) });
	wait_relay_value($node,
		last_error => qr/^library is version 1\.0, extension is version 1\.1/);
	like(check_value($node, 'versions match', 'ok, detail'),
		qr/^f\|library 1\.0, SQL 1\.1; /, 'outbox_check() tells');
	my ($status, undef, $stderr) = $node->psql('postgres',
		publish_sql('lost', more => q{tenant => 'acme'}));
	like(
		$stderr,
		qr/ERROR:  the library does not know argument 9 of outbox_publish\(\)/,
		'an argument that the library does not know is not dropped');
	publish($node, 'between', count => 10);
	$node->restart;
	new_things_work($node);
	nothing_lost($node);
	$node->stop;
  };

promise 'a library serves earlier versions of its major version' => sub {
	my $node = new_node('versions', conf => { 'outbox.enabled' => 'off' });
	query($node, 'CREATE EXTENSION outbox');
	my %serves = (
		'1.0' => 't',
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
			$serves{$version}, "library 1.0, SQL $version");
	}
	$node->stop;
};

done_testing();
