# Compressed requests, and servers that do or do not take them.
#
# Promises:
# - express reads what is compressed; with "inflate: false" it answers 415, and so may
#   nginx: then it gets requests as they are, and no event loses an attempt.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;
use Real::Nginx;
use Real::Server;

my $cache = $ENV{OUTBOX_CACHE} // '';
my ($express) = glob "$cache/express-*";
my $program = Real::Server::find_program('node');
plan skip_all => 'there is no express: tools/setup-real http'
  unless defined $express && defined $program;
if (my $missing = Real::Nginx->missing) { plan skip_all => $missing; }

# express, which prints the encoding and the length of each body that it has read
package Express
{
	use parent -norequire, 'Real::Server';

	sub prepare
	{
		my ($self) = @_;
		$self->write_file('server.js', <<'JS');
const express = require('express');
const [port, inflate] = process.argv.slice(2);
const read = express.raw({ type: () => true, limit: '10mb', inflate: inflate === '1' });
express()
	.post('*', read, (request, response) => {
		console.log(`read ${request.get('content-encoding') ?? 'plain'} ${request.body.length}`);
		response.sendStatus(204);
	})
	.listen(Number(port), '127.0.0.1');
JS
		return;
	}

	sub environment { return (NODE_PATH => "$express/node_modules"); }
	sub command { return ($program, $_[0]->dir . '/server.js', $_[0]->port, $_[0]{inflate}); }
	sub is_ready { return Real::Server::can_connect($_[0]->port); }
}

my $node = new_node(
	'compressed',
	conf => {
		'outbox.publisher' => 'http',
		'outbox.http_url' => 'http://127.0.0.1:1/',
		'outbox.http_compression' => 'gzip',
	});
query($node, 'CREATE EXTENSION outbox');

# Have some large events sent there, and test that no try has failed.
sub send_to
{
	my ($server) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	reload($node, 'outbox.http_url' => 'http://127.0.0.1:' . $server->port . '/');
	restart_relay($node);
	my $failed = stat_value($node, 'failed_attempts');
	wait_state($node, [ publish($node, 't', count => 3, payload => q{to_jsonb(repeat('x', 4998))}) ],
		'published');
	return is(stat_value($node, 'failed_attempts') - $failed, 0, 'no try has failed');
}

foreach my $case ([ 1, 'gzip' ], [ 0, 'plain' ])
{
	my ($inflate, $encoding) = @$case;

	promise "express with inflate: $inflate" => sub {
		my $server = Express->new(inflate => $inflate);
		send_to($server);
		my @read = $server->log =~ /^(read \w+ \d+)$/mg;
		is_deeply(\@read, [ ("read $encoding 5000") x 3 ], "it has read them, $encoding");
	};
}

promise 'nginx that takes nothing compressed' => sub {
	my $nginx = Real::Nginx->new(servers => <<'CONF');
	server {
		listen 127.0.0.1:PORT;
		location / {
			set $where $http_content_encoding;
			if ($http_content_encoding) { return 415; }
			return 204;
		}
	}
CONF
	send_to($nginx);
	my %seen;
	$seen{ (split / /)[0] }++ foreach $nginx->requests;
	is($seen{204}, 3, 'it has taken them as they are');
	cmp_ok($seen{415}, '>', 0, 'after it had refused some');
};

done_testing();
