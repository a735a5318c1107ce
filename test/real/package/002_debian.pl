# Promise: Debian's packages can be built from the tree, and lintian finds no error in
# them.  What they install delivers events, to a broker by the package of its
# publisher as well.  They are upgraded below a server at work, which loses nothing, and
# leave nothing behind when they are purged.
#
# dpkg works below a folder of its own, with a copy of this system's list of packages, so
# that dependencies are those of this system and nothing is installed into it.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;
use OutboxTest::Upgrade;
use Real::Redis;
use Real::Source qw(copy_tree has_programs);

plan skip_all => 'no devscripts, lintian or pg_buildext here: tools/setup-real package'
  unless has_programs(qw(dch dpkg-buildpackage fakeroot git lintian pg_buildext));
plan skip_all => 'the extension is not staged by tools/stage'
  unless defined staged_dest();
my $missing = Real::Redis->missing;
plan skip_all => $missing if $missing;

my $dir = PostgreSQL::Test::Utils::tempdir();
my $root = "$dir/root";
my ($version) = run_command([ $ENV{PG_CONFIG} // 'pg_config', '--version' ]);
my ($major) = $version =~ /(\d+)/;
my $package = "postgresql-$major-outbox";
my @publishers = map { "$package-$_" } qw(kafka mqtt nats rabbitmq redis);
my ($supported) = run_command([ 'pg_buildext', 'supported-versions' ]);
plan skip_all => "packages are not built for PostgreSQL $major here"
  unless $supported =~ /^$major$/m;

# What dpkg wants to find in PATH
local $ENV{PATH} = "$ENV{PATH}:/usr/local/sbin:/usr/sbin:/sbin";

# Build the packages of a tree, in $dir/$name; the folder that they are in
sub build_packages
{
	my ($name, $patch) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	local $ENV{DEB_BUILD_OPTIONS} = 'parallel=2 noautodbgsym';
	copy_tree("$dir/$name/src", $patch);
	if ($patch)
	{
		local @ENV{qw(DEBFULLNAME DEBEMAIL)} = ('test', 'test@localhost');
		system_or_bail('sh', '-c', "cd '$dir/$name/src' && dch -v 1.1.0-1 'Next version.'");
	}
	# for the versions that are there, which need not be those of debian/control
	command_ok(
		[ 'sh', '-c', "cd '$dir/$name/src' && pg_buildext updatecontrol && dpkg-buildpackage -b -us -uc" ],
		"the packages of $name");
	return "$dir/$name";
}

# The file of a package in a folder
sub deb
{
	my ($folder, $name) = @_;
	my ($file) = glob "$folder/${name}_*.deb";
	return $file // "$folder/$name.deb";
}

# Run dpkg below $root; what it says
sub dpkg
{
	my ($ok, @arguments) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $command = "fakeroot dpkg --root='$root' --log=/dev/null @arguments 2>&1";
	my $said = `$command`;
	is($? == 0 ? 'done' : 'refused', $ok ? 'done' : 'refused',
		join(' ', 'dpkg', map { s{.*/}{}r } @arguments))
	  or diag($said);
	return $said;
}

sub files_below_root
{
	my ($found) = run_command([ 'find', $root, '-type', 'f' ]);
	return grep { !m{/var/lib/dpkg/} } split /\n/, $found;
}

# Test that an event is delivered to destination "redis"
sub goes_to_redis
{
	my ($node) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $id = publish($node, 'to.redis');
	return poll_until(
		sub {
			return try_query($node, qq{
				SELECT state FROM outbox_events
				WHERE event_id = '$id' AND destination = 'redis'}) eq 'published';
		},
		'an event to be delivered to Redis');
}

promise 'from the first package to the purge' => sub {
	my $first = build_packages('first');
	my $next = build_packages('next', 'test/upgrade/next.patch');
	my ($said) = run_command([ 'sh', '-c', "lintian --fail-on none '$first'/*.changes 2>&1" ]);
	unlike($said, qr/^E:/m, 'lintian finds no error');

	# Install
	system_or_bail('mkdir', '-p', map { "$root/var/lib/dpkg/$_" } qw(info updates triggers));
	system_or_bail('cp', '/var/lib/dpkg/status', "$root/var/lib/dpkg/status");
	dpkg(1, '--install', map { deb($first, $_) } $package, @publishers);
	my $redis = Real::Redis->new;
	my $receiver = start_receiver(mode => 'dapr');
	my $node = new_node('packaged',
		conf => {
			conf_of_installation($root),
			shared_preload_libraries => 'outbox, outbox_rabbitmq',
			'outbox.dapr_endpoint' => $receiver->url
		});
	query($node, q{
		CREATE EXTENSION outbox;
		CREATE ROLE app LOGIN;
		GRANT EXECUTE ON FUNCTION outbox_publish TO app});
	wait_delivered($receiver, [ publish($node, 'packaged') ]);
	query($node, sprintf(
			q{SELECT outbox_add_destination('redis', '{to.redis}', '{"publisher": "outbox_redis", "outbox_redis.url": "redis://127.0.0.1:%d"}')},
			$redis->port));
	goes_to_redis($node);

	# Upgrade: the files first, a restart some time later, the SQL when it suits
	under_load($node, 'files',
		sub { dpkg(1, '--install', map { deb($next, $_) } $package, @publishers) }, 30);
	# one whose library is loaded by each relay anew: that is the new one now
	query($node, q{SELECT pg_terminate_backend(pid) FROM outbox_relays WHERE destination = 'redis'});
	goes_to_redis($node);
	query($node, q{SELECT outbox_drop_destination('redis')});

	$node->restart;
	like(check_value($node, 'versions match', 'ok, detail'),
		qr/^t\|library 1\.1, SQL 1\.0; they work together/, 'the restart is no end of delivery');
	under_load($node, 'update',
		sub { query($node, 'ALTER EXTENSION outbox UPDATE') });
	is(check_value($node, 'versions match', 'ok, detail'), 't|library 1.1, SQL 1.1', 'updated');
	nothing_lost($node, $receiver);

	# Remove
	dpkg(0, '--remove', $package);
	like($said = dpkg(1, '--remove', @publishers), qr/Removing \Q$publishers[0]\E/, 'publishers first');
	$node->adjust_conf('postgresql.conf', 'shared_preload_libraries', "''");
	$node->restart;
	dpkg(1, '--remove', $package);
	$node->restart;
	is(query($node, 'SELECT count(*) > 0 FROM outbox_event'),
		't', 'the server starts without the preload line; what was published is there');
	$node->stop;
	dpkg(1, '--purge', $package, @publishers);
	is_deeply([ files_below_root() ], [], 'nothing is left');
};

done_testing();
