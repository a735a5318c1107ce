# nginx as the endpoint of the http publisher.
#
# Promises:
# - No topic reaches another location than the URL's, whatever is in it, though
#   nginx decodes a path and resolves its steps before it looks for a location.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;
use Real::Nginx;

if (my $missing = Real::Nginx->missing) { plan skip_all => $missing; }

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

done_testing();
