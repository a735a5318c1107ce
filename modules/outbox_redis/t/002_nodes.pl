# Promises, against several real servers, of Redis and of Valkey:
# - With "waitaof", an event is published when its entry is on disk.
# - A server that does not know what "waitaof" or "idmp" needs has nothing added, and it
#   is said why.
# - In a cluster, events go to the node that has their stream, though it is not the
#   one in the URL; when it moves on, they follow.  If they have streams on several
#   nodes, those of the others wait, and it is said why.

use strict;
use warnings FATAL => 'all';

use Test::More;

use lib 'test/lib';
use OutboxTest;
use OutboxTest::Outage;
use Real::Redis;

my $missing = Real::Redis->missing;
plan skip_all => $missing if $missing;

use constant SLOTS => 16384;

my $redis = Real::Redis->new;
my %settings = ('outbox_redis.url' => url($redis));
my $node = new_node(
	'redis_nodes',
	conf => {
		shared_preload_libraries => 'outbox, outbox_redis',
		'outbox.publisher' => 'outbox_redis',
		%settings,
	});
query($node, 'CREATE EXTENSION outbox');

sub url
{
	my ($server) = @_;
	return 'redis://127.0.0.1:' . $server->port;
}

# With these settings nothing is sent, for this reason; without them it is.
sub is_outage_of
{
	my ($error, %other) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is_outage_with($node, 'outage', $error, \%settings, %other);
}

# Test that a stream of a server has these events, each once.
sub has_events
{
	my ($server, $stream, @ids) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is_deeply([ sort map { $_->{id} } $server->entries($stream) ],
		[ sort @ids ], "$stream has its events, each once");
}

promise 'a server that does not know WAITAOF or IDMP is not sent anything' => sub {
	is_outage_of(qr/unknown command .?WAITAOF/, 'outbox_redis.waitaof' => 'on');
	my $id = is_outage_of(qr/the server does not know IDMP/, 'outbox_redis.idmp' => 'on');
	is(scalar(grep { $_->{id} eq $id } $redis->entries('outage')), 1,
		'what could not be sent is there once');
};

promise 'with "waitaof", an event is published when it is on disk' => sub {
	my $program = Real::Redis->valkey_program;
	plan skip_all => 'Valkey is not there (tools/setup-real redis)' unless $program;
	my $valkey = Real::Redis->new(program => $program);
	my %on_disk = ('outbox_redis.url' => url($valkey), 'outbox_redis.waitaof' => 'on');

	reload($node, %on_disk);
	my @ids = publish($node, 'on_disk', count => 500);
	wait_sent($node);
	$valkey->kill->start;
	has_events($valkey, 'on_disk', @ids);

	$valkey->cli('CONFIG', 'SET', 'appendonly', 'no');
	is_outage($node, 'on_disk', qr/WAITAOF cannot be used/,
		sub { reload($node) },
		sub { $valkey->cli('CONFIG', 'SET', 'appendonly', 'yes') });
	is_outage_with($node, 'on_disk', qr/does not have it on disk in time/, \%on_disk,
		'outbox_redis.wait' => 1, 'outbox.request_timeout' => '1s');
	reload($node, 'outbox_redis.waitaof' => undef, %settings);
};

# A cluster of two nodes, each with half of the slots
sub start_cluster
{
	my @nodes = map {
		Real::Redis->new(
			arguments => [
				'--cluster-enabled' => 'yes',
				'--cluster-port' => Real::Server::free_port(),
			])
	} 1 .. 2;
	my ($first, $second) = @nodes;

	$first->cli('CLUSTER', 'ADDSLOTSRANGE', 0, SLOTS / 2 - 1);
	$second->cli('CLUSTER', 'ADDSLOTSRANGE', SLOTS / 2, SLOTS - 1);
	my %second = @{ $second->{arguments} };
	$first->cli('CLUSTER', 'MEET', '127.0.0.1', $second->port, $second{'--cluster-port'});
	foreach my $server (@nodes)
	{
		poll_until(
			sub { $server->cli('CLUSTER', 'INFO') =~ /cluster_state:ok/ },
			'the cluster to be there');
	}
	return @nodes;
}

# The name of a stream that a node of these two has
sub stream_of
{
	my ($server, $is_second) = @_;
	my $n = 0;
	$n++ until ($server->cli('CLUSTER', 'KEYSLOT', "stream$n") >= SLOTS / 2) == $is_second;
	return "stream$n";
}

promise 'in a cluster, events go to the node that has their stream' => sub {
	my ($first, $second) = start_cluster();
	my $here = stream_of($first, 0);
	my $there = stream_of($first, 1);

	reload($node, 'outbox_redis.url' => url($first));
	my @ids = publish($node, $there, count => 500);
	wait_sent($node);
	has_events($second, $there, @ids);
	is(query($node, "SELECT max(attempts) FROM outbox_events WHERE topic = '$there'"),
		1, 'the first try was the last');

	# the connection to it is kept, and says the same of other streams
	my $wrong = publish($node, $here);
	push @ids, publish($node, $there);
	wait_state($node, $ids[-1], 'published');
	poll_until(sub { event_value($node, $wrong, 'last_error') =~ /^MOVED / },
		'the reason');
	has_events($second, $there, @ids);
	query($node, "SELECT outbox_discard('$wrong')");
	wait_settled($node);

	# a node that is gone leaves the way that the settings say
	$second->kill;
	my $waiting = publish($node, $there);
	wait_relay_value($node, state => 'endpoint down');
	$second->start;
	wait_state($node, $waiting, 'published');
	has_events($second, $there, @ids, $waiting);
	reload($node, %settings);
};

done_testing();
