# squid between the http publisher and its endpoint.
#
# Promises:
# - With outbox.http_proxy everything goes through the proxy, by CONNECT to https,
#   whatever the environment says.
# - Credentials are those of the file; no text shows them.
# - 407, any refusal of CONNECT and a proxy that is not there are the destination's
#   fault, and cost no attempt.
# - A proxy and a list of addresses exclude each other.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;
use Real::Certificates;
use Real::Squid;

if (my $missing = Real::Squid->missing) { plan skip_all => $missing; }

use constant PASSWORD => 'canary-9c1f77';

my $certificates = Real::Certificates->new;
my $server = $certificates->issue('endpoint', 'IP:127.0.0.1');
my $https = start_receiver(mode => 'http', tls_cert => $server->{cert}, tls_key => $server->{key});
my $http = start_receiver(mode => 'http');
my $file = PostgreSQL::Test::Utils::tempdir() . '/credentials';
my $open = Real::Squid->new;
my $guarded = Real::Squid->new(
	users => { outbox => PASSWORD },
	access => "http_access deny !known\nhttp_access allow all");
my $node;
{
	local @ENV{qw(no_proxy NO_PROXY)} = ('*', '*');
	$node = new_node(
		'squid',
		conf => {
			'outbox.publisher' => 'http',
			'outbox.http_url' => $https->url . '/{topic}',
			'outbox.http_proxy' => $open->url,
			'outbox.tls_ca_file' => $server->{ca},
		});
}
query($node, 'CREATE EXTENSION outbox');

# Both kinds of endpoint, and what squid is asked for of each
my %asked = (
	$https->url => qr/CONNECT 127\.0\.0\.1:@{[$https->port]}$/,
	$http->url => qr/POST @{[$http->url]}\/ways$/);

promise 'events go through the proxy' => sub {
	foreach my $receiver ($https, $http)
	{
		my $seen = $open->requests;
		reload($node, 'outbox.http_url' => $receiver->url . '/{topic}');
		wait_delivered($receiver, [ publish($node, 'ways', count => 5) ]);

		# squid tells of a tunnel when it ends
		restart_relay($node);
		poll_until(
			sub {
				my @lines = $open->requests;
				grep { $_ =~ $asked{ $receiver->url } } @lines[ $seen .. $#lines ];
			},
			'squid to have been asked for ' . $receiver->url);
		pass($receiver->url);
	}
};

# Wait for an event that fails for this reason, and costs no attempt.
sub wait_down
{
	my ($topic, $reason, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $id = publish($node, $topic);
	wait_relay_value($node, last_error => $reason);
	wait_relay_value($node, state => 'endpoint down');
	is(relay_value($node, 'topics_down'), 0, 'no topic is to blame');
	is(event_value($node, $id, 'attempts'), 0, "$name costs no attempt");
	return $id;
}

promise 'credentials are those of the file, and shown nowhere' => sub {
	foreach my $receiver ($https, $http)
	{
		my $offset = -s $node->logfile;
		write_secret($file, 'outbox:wrong-' . PASSWORD);
		reload(
			$node,
			'outbox.http_url' => $receiver->url . '/{topic}',
			'outbox.http_proxy' => $guarded->url,
			'outbox.http_proxy_credentials_file' => $file);
		restart_relay($node);
		my $id = wait_down('known', qr/407/, '407');
		is($receiver->log, 0, 'and the endpoint hears nothing');
		write_secret($file, 'outbox:' . PASSWORD . "\n");
		wait_delivered($receiver, [$id]);
		my $log = slurp_file($node->logfile, $offset);
		unlike($log, qr/@{[PASSWORD]}/, 'the log has no password');
		is_deeply(
			[ grep { exists $_->{headers}{'proxy-authorization'} } $receiver->log ],
			[], 'nor has the endpoint seen it');
		$receiver->reset;
	}
};

promise 'a file without a name and a password is refused, and not shown' => sub {
	write_secret($file, PASSWORD);
	reload(
		$node,
		'outbox.http_proxy' => $guarded->url,
		'outbox.http_proxy_credentials_file' => $file);
	poll_until(
		sub {
			check_value($node, 'publisher configured', 'detail') eq
			  qq(file "$file" must have a line of the form "name:password");
		},
		'outbox_check() to say so');
	pass('outbox_check() says so');
};

promise 'any refusal of CONNECT is the destination\'s' => sub {
	my $strict = Real::Squid->new(
		access => "acl connect method CONNECT\nhttp_access deny connect\nhttp_access allow all");
	reload($node, 'outbox.http_proxy' => $strict->url);
	restart_relay($node);
	my $id = wait_down('refused', qr/403/, '403');

	# nobody listens where the tunnel is to end
	$https->stop;
	reload($node, 'outbox.http_proxy' => $open->url);
	wait_relay_value($node, last_error => qr/50[0-9]/);
	$https->start;
	wait_delivered($https, [$id]);
	wait_state($node, $id, 'published');
	is(event_value($node, $id, 'attempts'), 1, 'nor has that cost one');
};

promise 'a proxy that is not there is a destination that is not there' => sub {
	$open->stop;
	restart_relay($node);
	my $id = wait_down('gone', qr/connect/i, 'that');
	$open->start;
	wait_delivered($https, [$id]);
};

promise 'a proxy and a list of addresses exclude each other' => sub {
	reload($node, 'outbox.http_allowed_addresses' => '127.0.0.0/8');
	poll_until(
		sub {
			check_value($node, 'publisher configured', 'detail') eq
			  'both outbox.http_proxy and outbox.http_allowed_addresses are set';
		},
		'outbox_check() to say so');
	pass('outbox_check() says so');
};

done_testing();
