# Where the publishers http and dapr connect to: names, addresses, kept connections.
#
# Promises:
# - With outbox.http_allowed_addresses it connects to these and no others, however a
#   name is resolved, and also by connections that are kept.
# - A name that moves is followed, although the old server answers, by either publisher.
# - An address that does not answer costs less than a second if the host has another.
# - A server that closes its connections all the time costs no attempt.

use strict;
use warnings FATAL => 'all';

use lib 'test/lib';
use OutboxTest::Hosts;

use IO::Socket::IP;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use OutboxTest;

my $hosts = OutboxTest::Hosts->new
  or plan skip_all => 'this user may not have namespaces';

my $http = start_receiver(mode => 'http');
my $other = start_receiver(mode => 'http', host => '127.0.0.2', port => $http->port);
my $node = new_node(
	'addresses',
	conf => {
		'outbox.publisher' => 'http',
		'outbox.http_url' => 'http://endpoint.test:' . $http->port . '/',
		'outbox.request_timeout' => '3s',
	});
query($node, 'CREATE EXTENSION outbox');

# Wait for the relay to say that the endpoint is down, for this reason.
sub wait_refused
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_relay_value($node,
		last_error => qr/no address that may be connected to/);
}

promise 'only addresses of the list are connected to, of all that a name has' => sub {
	$hosts->set('endpoint.test' => [ '127.0.0.2', '127.0.0.1' ]);
	reload($node, 'outbox.http_allowed_addresses' => '10.0.0.0/8, 127.0.0.1/32');
	my @ids = publish($node, 'list', count => 100);
	wait_delivered($http, \@ids);
	is($other->stats->{connections}, 0, 'and not to the first one');

	reload($node, 'outbox.http_allowed_addresses' => '10.0.0.0/8, ::/0');
	my $id = publish($node, 'list');
	wait_refused();
	is(event_value($node, $id, 'attempts'), 0, 'none of them costs no attempt');
	reload($node, 'outbox.http_url' => 'http://[::ffff:127.0.0.1]:' . $http->port . '/');
	wait_relay_value($node, state => 'endpoint down');
	is(scalar($http->log(id => $id)), 0, 'nor is one reached by writing it in another way');
	reload($node, 'outbox.http_allowed_addresses' => undef);
	wait_delivered($http, [$id]);
};

promise 'nor is an access token fetched from another address' => sub {
	my $file = PostgreSQL::Test::Utils::tempdir() . '/secret';
	write_secret($file, 'secret');
	reload(
		$node,
		'outbox.http_url' => $other->url . '/',
		'outbox.http_allowed_addresses' => '127.0.0.2',
		'outbox.http_oauth_token_url' => $http->url . '/token',
		'outbox.http_oauth_client_id' => 'outbox',
		'outbox.http_oauth_client_secret_file' => $file);
	restart_relay($node);
	wait_relay_value($node, last_error => qr/^no access token: .*no address that may be connected to/);
	is($http->log, 0, 'the server of tokens has heard nothing');
};

promise 'a name that is resolved to another address later does not lead there' => sub {
	$hosts->set('endpoint.test' => ['127.0.0.1']);
	reload($node, 'outbox.http_allowed_addresses' => '127.0.0.1', 'outbox.http_connection_age' => '1s');
	wait_delivered($http, [ scalar publish($node, 'rebind') ]);
	$hosts->set('endpoint.test' => ['127.0.0.2']);
	poll_until(
		sub {
			publish($node, 'rebind');
			relay_value($node, 'state') eq 'endpoint down';
		},
		'the name to be resolved anew', 60);
	wait_refused();
	is($other->stats->{connections}, 0, 'nobody has connected');
};

promise 'a kept connection to an address that is not in the list any more is not used' => sub {
	$hosts->set('endpoint.test' => ['127.0.0.1']);
	reload($node, 'outbox.http_allowed_addresses' => '127.0.0.0/8');
	restart_relay($node);
	wait_delivered($http, [ scalar publish($node, 'kept') ]);
	reload($node, 'outbox.http_allowed_addresses' => '127.0.0.2');

	# until the relay has read it, it may still use the connection
	poll_until(
		sub {
			publish($node, 'kept');
			relay_value($node, 'last_error') =~ /no address that may be connected to/;
		},
		'the list to be obeyed');
	my $id = publish($node, 'kept');
	wait_relay_value($node, state => 'endpoint down');
	is(scalar($http->log(id => $id)), 0, 'nothing is sent there');
};

promise 'a name that moves is followed, although the old server answers' => sub {
	my $dapr = start_receiver(mode => 'dapr');
	my $other_dapr = start_receiver(mode => 'dapr', host => '127.0.0.2', port => $dapr->port);
	foreach my $pair ([ 'http', $http, $other ], [ 'dapr', $dapr, $other_dapr ])
	{
		my ($publisher, $here, $there) = @$pair;
		$hosts->set('endpoint.test' => ['127.0.0.1']);
		$here->faults([ { match => { path => '.' }, status => 503 } ]);
		reload(
			$node,
			'outbox.http_connection_age' => '2s',
			'outbox.publisher' => $publisher,
			'outbox.dapr_endpoint' => 'http://endpoint.test:' . $dapr->port);
		my @ids = publish($node, "moved $publisher", count => 20);
		poll_until(sub { $here->log(fields => ['path']) > 20 }, 'it to be tried again and again');
		$hosts->set('endpoint.test' => ['127.0.0.2']);
		my $moved = time();
		wait_delivered($there, \@ids, 60);

		# a name is remembered for 10 s, the setting says how long a connection is
		cmp_ok(time() - $moved, '<', 10 + 2 + 10, "in time, by $publisher");
	}
};

# An address at which connections are neither accepted nor refused
sub swallow
{
	my ($address, $port) = @_;
	my $listener = IO::Socket::IP->new(
		LocalHost => $address, LocalPort => $port, Listen => 1, ReuseAddr => 1)
	  or die "cannot listen: $!";
	my @clients = map {
		IO::Socket::IP->new(PeerHost => $address, PeerPort => $port, Blocking => 0)
	} 1 .. 10;
	return [ $listener, @clients ];
}

promise 'an address that swallows packets costs less than a second' => sub {
	my $swallowing = swallow('::1', $http->port);
	$hosts->set('endpoint.test' => [ '::1', '127.0.0.1' ]);
	restart_relay($node);
	my $failed = stat_value($node, 'failed_attempts');
	my $begun = time();
	wait_delivered($http, [ scalar publish($node, 'eyeballs') ]);
	cmp_ok(time() - $begun, '<', 3, 'in less than the time for connecting');
	is(stat_value($node, 'failed_attempts') - $failed, 0, 'and no try');
};

promise 'a server that closes its connections all the time costs no attempt' => sub {
	$hosts->set('endpoint.test' => ['127.0.0.1']);
	restart_relay($node);
	my $failed = stat_value($node, 'failed_attempts');
	$http->faults([ { action => 'pass', close_after => 1, announce => 0, close_delay => 0.2 } ]);
	foreach my $round (1 .. 20)
	{
		wait_delivered($http, [ publish($node, 'closing', count => 5) ]);
		select(undef, undef, undef, 0.15 + rand(0.1));
	}
	is(stat_value($node, 'failed_attempts') - $failed, 0, 'not one try has failed');
};

done_testing();
