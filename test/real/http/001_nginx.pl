# nginx as the endpoint of the http publisher.
#
# Promises:
# - No topic reaches another location than the URL's, whatever is in it, though
#   nginx decodes a path and resolves its steps before it looks for a location.
# - A client certificate that has expired (400) kills no backlog.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;
use Real::Certificates;
use Real::Nginx;

if (my $missing = Real::Nginx->missing) { plan skip_all => $missing; }

my $certificates = Real::Certificates->new;
my $server = $certificates->issue('server', 'IP:127.0.0.1');
my $nginx = Real::Nginx->new(servers => <<'CONF');
	server {
		listen 127.0.0.1:PORT;
		location /in/ { set $where in; return 204; }
		location / { set $where out; return 204; }
	}
CONF
my $node = new_node(
	'nginx',
	conf => {
		'outbox.publisher' => 'http',
		'outbox.http_url' => $nginx->url . '/in/{topic}',
	});
query($node, 'CREATE EXTENSION outbox');

promise 'no topic reaches another location' => sub {
	my @bad = ('..', '.', '../out', 'a/../../out', '..\\out', '/../out', '../../out/.',
		'a/..', '/..');
	my @good = ('...', '%2e%2e', '..%2Fout', '.%2e', 'a b', '?a', '#a', ';a', '..;',
		"\x{2025}", "\x{ff0e}\x{ff0e}\x{ff0f}out");
	my @slashes = ('a/b', 'a/.../b', '/a', 'a//b');

	foreach my $slashes ('off', 'on')
	{
		reload($node, 'outbox.http_topic_slashes' => $slashes);
		wait_state($node, scalar publish($node, $_), 'dead') foreach @bad;
		wait_state($node, scalar publish($node, $_), 'published') foreach @good;
		wait_state($node, scalar publish($node, $_),
			$slashes eq 'on' ? 'published' : 'dead')
		  foreach @slashes;
	}
	my %reached;
	$reached{ (split / /)[1] }++ foreach $nginx->requests;
	is_deeply(\%reached, { in => 2 * @good + @slashes }, 'all are in the location of the URL');
};

promise 'a certificate that has expired kills no backlog' => sub {
	my $expired = $certificates->issue('expired', 'DNS:client', -1);
	my $valid = $certificates->issue('valid', 'DNS:client');
	my $guarded = Real::Nginx->new(servers => <<"CONF");
	server {
		listen 127.0.0.1:PORT ssl;
		ssl_certificate $server->{cert};
		ssl_certificate_key $server->{key};
		ssl_client_certificate $server->{ca};
		ssl_verify_client on;
		location / { return 204; }
	}
CONF
	reload(
		$node,
		'outbox.http_url' => 'https://127.0.0.1:' . $guarded->port . '/{topic}',
		'outbox.tls_ca_file' => $server->{ca},
		'outbox.tls_cert_file' => $expired->{cert},
		'outbox.tls_key_file' => $expired->{key});
	my @ids = publish($node, 'backlog', count => 1000);
	poll_until(sub { grep({ /^400 / } $guarded->requests) > 150 }, 'refusals');
	is(query($node, q{SELECT count(*) FROM outbox_events WHERE topic = 'backlog' AND state = 'dead'}),
		10, 'outbox.breaker_threshold of 1,000 events are dead');
	like(query($node, q{SELECT state, last_error FROM outbox_topics WHERE topic = 'backlog'}),
		qr/^down\|HTTP 400: .*SSL certificate error/, 'the topic is down');

	# whoever puts it right has nothing more to do
	reload(
		$node,
		'outbox.tls_cert_file' => $valid->{cert},
		'outbox.tls_key_file' => $valid->{key});
	poll_until(sub { stat_value($node, 'backlog') == 0 }, 'all others to be published');
	is(query($node, q{SELECT count(*) FROM outbox_events WHERE topic = 'backlog' AND state = 'published'}),
		990, 'the others are published');
};

done_testing();
