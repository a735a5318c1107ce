# Promise: Debian's packages can be built from the tree, and lintian finds no error in
# them.  What they install delivers events, to a broker by the package of its
# publisher as well.  They are upgraded below a server at work, which loses nothing, and
# leave nothing behind when they are purged.  Who removes them too early has a server where
# new sessions cannot publish, and that does not start again; with the package, or without
# the line that preloads the library, it does, and has its events.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;
use OutboxTest::Upgrade;
use Real::Debian;
use Real::Redis;
use Real::Source qw(has_programs);

plan skip_all => 'the extension is not staged by tools/stage'
  unless defined staged_dest();
my $missing = Real::Debian->missing // Real::Redis->missing;
plan skip_all => $missing if $missing;
plan skip_all => 'no lintian here: tools/setup-real package' unless has_programs('lintian');

my $package = Real::Debian->package;
my @publishers = Real::Debian->publishers;

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

# Remove the package below a server that preloads it, and have it again.
sub removed_too_early
{
	my ($debian, $node, $receiver, $folder) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$debian->dpkg(1, '--remove', $package);
	fails_with($node, publish_sql('removed'), '58P01', 'new sessions cannot publish');
	$node->stop;
	my $seen = -s $node->logfile;
	ok(!$node->start(fail_ok => 1), 'a server that preloads what was removed does not start');
	like(slurp_file($node->logfile, $seen), qr/FATAL:  could not access file "outbox"/, 'and says why');
	$debian->install($folder, $package);
	$node->start;
	wait_delivered($receiver, [ publish($node, 'again') ]);
	return;
}

promise 'from the first package to the purge' => sub {
	my $first = Real::Debian->build('tree');
	my $next = Real::Debian->build('next');
	my ($said) = run_command([ 'sh', '-c', "lintian --fail-on none '$first'/*.changes 2>&1" ]);
	unlike($said, qr/^E:/m, 'lintian finds no error');

	# Install
	my $debian = Real::Debian->new;
	$debian->install($first, $package, @publishers);
	my $documents = $debian->root . "/usr/share/doc/$package/docs";
	is_deeply([ map { s{.*/}{}r } glob "$documents/*" ], [ map { s{.*/}{}r } glob 'docs/*' ],
		'the documents are there');
	my $redis = Real::Redis->new;
	my $receiver = start_receiver(mode => 'dapr');
	my $node = new_node('packaged',
		conf => {
			conf_of_installation($debian->root),
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
		sub { $debian->install($next, $package, @publishers) }, 30);
	# one whose library is loaded by each relay anew: that is the new one now
	query($node, q{SELECT pg_terminate_backend(pid) FROM outbox_relays WHERE destination = 'redis'});
	goes_to_redis($node);
	query($node, q{SELECT outbox_drop_destination('redis')});

	$node->restart;
	like(check_value($node, 'versions match', 'ok, detail'),
		qr/^t\|library 1\.1\.0, SQL 1\.0; they work together/, 'the restart is no end of delivery');
	under_load($node, 'update',
		sub { query($node, 'ALTER EXTENSION outbox UPDATE') });
	is(check_value($node, 'versions match', 'ok, detail'), 't|library 1.1.0, SQL 1.1', 'updated');
	nothing_lost($node, $receiver);

	# Remove
	$debian->dpkg(0, '--remove', $package);
	like($debian->dpkg(1, '--remove', @publishers), qr/Removing \Q$publishers[0]\E/, 'publishers first');
	$node->adjust_conf('postgresql.conf', 'shared_preload_libraries', "'outbox'");
	$node->restart;
	removed_too_early($debian, $node, $receiver, $next);
	$node->adjust_conf('postgresql.conf', 'shared_preload_libraries', "''");
	$node->restart;
	$debian->dpkg(1, '--remove', $package);
	$node->restart;
	is(query($node, 'SELECT count(*) > 0 FROM outbox_event'),
		't', 'the server starts without the preload line; what was published is there');
	$node->stop;
	$debian->dpkg(1, '--purge', $package, @publishers);
	is_deeply([ $debian->files ], [], 'nothing is left');
};

done_testing();
