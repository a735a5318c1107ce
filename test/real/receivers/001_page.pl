# What docs/receivers.md says to whoever takes events.
#
# Promises:
# - The receivers of the page do their work once for an event that comes twice; what fails
#   is undone and comes again.
# - Answers and limits of express 4 and nginx are as the page has them, and what it says
#   to write helps; at the sender's limit, the application is told.
# - Dapr's SDK for node hands on no id, the envelope in place of some payloads, and takes
#   an exception for success; the routes of the page have the event.
#
# Only ports are other ones here, and daprd's part, to hand over an event to its
# subscriber, is played by the test.

use strict;
use warnings FATAL => 'all';

use HTTP::Tiny;
use JSON::PP ();
use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;
use OutboxTest::Page qw(page_blocks);
use Real::Nginx;
use Real::Pasted;
use Real::Server;

use constant PAGE => 'docs/receivers.md';

my ($modules) = glob(($ENV{OUTBOX_CACHE} // '') . '/receivers-*');
my $python = $ENV{PYTHON} // '/usr/bin/python3';
my $json = JSON::PP->new->utf8->allow_nonref;
plan skip_all => 'there is no express: tools/setup-real receivers'
  unless defined $modules && defined Real::Server::find_program('node');
if (my $missing = Real::Nginx->missing) { plan skip_all => $missing; }
plan skip_all => 'there is no psycopg 3: tools/setup-real receivers'
  unless system($python, '-c', 'import psycopg') == 0;

my %block;
push @{ $block{ $_->{language} } }, $_->{text} foreach page_blocks(PAGE, 'The same event twice');
my $dapr = (page_blocks(PAGE, "Dapr's SDK for node"))[0]{text};

my $node = new_node(
	'receivers',
	conf => {
		listen_addresses => '127.0.0.1',
		'outbox.publisher' => 'http',
		'outbox.http_url' => 'http://127.0.0.1:1/{topic}',
		'outbox.max_payload_size' => '4MB',
		# what fails is tried until it goes through
		'outbox.max_retry_times' => 1000,
	});
query($node, 'CREATE EXTENSION outbox; CREATE DATABASE inbox');
query($node, $block{sql}[0], 'inbox');
my %inbox = (
	PGHOST => '127.0.0.1',
	PGPORT => $node->port,
	PGDATABASE => 'inbox',
	PGUSER => query($node, 'SELECT current_user'));

# A program in node
sub in_node
{
	my ($text, $listens) = @_;
	return Real::Pasted->new(
		text => $text,
		listens => $listens,
		file => 'receiver.mjs',
		run => ['node'],
		modules => $modules,
		env => \%inbox);
}

# Have events sent there
sub send_to
{
	my ($url, %more) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	reload($node, 'outbox.http_url' => "$url/{topic}", %more);
	return restart_relay($node);
}

sub wait_printed
{
	my ($receiver, $text) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return poll_until(sub { $receiver->log =~ /^\Q$text\E/m }, "the receiver to print $text")
	  || diag($receiver->log);
}

# --- Twice

my %receiver = (
	node => sub { return in_node($block{js}[0], 8080); },
	Python => sub {
		return Real::Pasted->new(
			text => $block{python}[0],
			listens => 8080,
			file => 'receiver.py',
			run => [$python],
			env => \%inbox);
	});

foreach my $language (sort keys %receiver)
{
	promise "$language: the work is done once" => sub {
		query($node, 'TRUNCATE received, shipments', 'inbox');
		my $receiver = $receiver{$language}->();
		send_to($receiver->url);
		my $id = publish($node, 'orders', payload => q{'{"order": 1, "total": 42}'});
		wait_printed($receiver, "$id done");
		wait_state($node, $id, 'published');
		query($node, "SELECT outbox_replay('default', 'orders', since => created_at) FROM outbox_events WHERE event_id = '$id'");
		wait_printed($receiver, "$id was done");
		is(query($node, 'SELECT * FROM shipments', 'inbox'), '1|42', 'one shipment of two deliveries');
		is(query($node, 'SELECT event_id FROM received', 'inbox'), $id, 'and its id');
	};

	promise "$language: what fails is undone and comes again" => sub {
		query($node, 'TRUNCATE received, shipments; ALTER TABLE shipments RENAME TO gone', 'inbox');
		my $receiver = $receiver{$language}->();
		send_to($receiver->url);
		my $id = publish($node, 'orders', payload => q{'{"order": 2, "total": 7}'});
		wait_printed($receiver, "$id relation \"shipments\" does not exist");
		is(query($node, 'SELECT count(*) FROM received', 'inbox'), 0, 'no id without the work');
		query($node, 'ALTER TABLE gone RENAME TO shipments', 'inbox');
		wait_printed($receiver, "$id done");
		wait_state($node, $id, 'published');
		is(query($node, 'SELECT * FROM shipments', 'inbox'), '2|7', 'the work is done');
	};
}

# --- Limits

# An event of so many kB
sub publish_large
{
	my ($kilobytes) = @_;
	return scalar publish($node, 'orders', payload => "jsonb_build_object('text', repeat('x', $kilobytes * 1000))");
}

# express with these readers of bodies, which answers what it has read
sub express
{
	my ($readers) = @_;
	return in_node(<<"JS", 8080);
import express from "express";
const app = express();
$readers
app.post("*", (request, response) => {
  const body = request.body;
  console.log(Buffer.isBuffer(body) ? "bytes " + body.toString("hex") : "body " + JSON.stringify(body).slice(0, 40));
  response.sendStatus(204);
});
app.listen(8080, "127.0.0.1");
JS
}

# Test that an event gets there, or is dead with this status.
sub ends_as
{
	my ($id, $end, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	poll_until(sub { event_state($node, $id) =~ /^(published|dead)$/ }, "$name: an end");
	return is(event_value($node, $id, q{concat_ws(' ', state, CASE state WHEN 'dead' THEN last_status END)}), $end, $name);
}

promise 'limits of express' => sub {
	my $plain = express('app.use(express.json());');
	send_to($plain->url);
	ends_as(publish_large(99), 'published', '99 kB');
	ends_as(publish_large(103), 'dead 413', '103 kB');
	ends_as(scalar publish($node, 'orders', payload => q{'42'}), 'dead 400', 'a number');
	is(query($node, 'SELECT max(attempts) FROM outbox_events WHERE state = ' . literal('dead')), 1, 'at once');

	my ($reader) = $block{js}[0] =~ /^(app\.use\(.*\);)$/m;
	my $raised = express($reader);
	send_to($raised->url);
	ends_as(publish_large(103), 'published', '103 kB, with the page\'s reader');
	ends_as(scalar publish($node, 'orders', payload => q{'42'}), 'published', 'a number');
};

promise 'what express reads' => sub {
	my ($bytes_sql) = q{SELECT outbox_publish_bytes('bytes', '\x00ff', 'image/png')};
	my $plain = express('app.use(express.json());');
	send_to($plain->url);
	ends_as(query($node, $bytes_sql), 'published', 'bytes');
	wait_printed($plain, 'body {}');
	reload($node, 'outbox.http_content_mode' => 'structured');
	restart_relay($node);
	ends_as(scalar publish($node, 'orders', payload => q{'{"order": 1}'}), 'published', 'structured');
	unlike($plain->log, qr/specversion|order/, 'neither is read');

	my $page = slurp_file(PAGE);
	my ($json_reader) = $page =~ /^`(express\.json\(\{ type: .*?\}\))`/m;
	my ($raw_reader) = $page =~ /`(express\.raw\(.*?\))`/;
	my $reads = express("app.use($json_reader);\napp.use($raw_reader);");
	send_to($reads->url);
	ends_as(scalar publish($node, 'orders', payload => q{'{"order": 1}'}), 'published', 'structured');
	wait_printed($reads, 'body {"specversion"');
	reload($node, 'outbox.http_content_mode' => 'binary');
	restart_relay($node);
	ends_as(query($node, $bytes_sql), 'published', 'bytes');
	wait_printed($reads, 'bytes 00ff');
};

promise 'what express answers by itself' => sub {
	my $async = in_node(<<'JS', 8080);
import express from "express";
const app = express();
app.post("/orders", () => { throw new Error("this did not work"); });
app.post("/async", async () => { throw new Error("this did not work"); });
app.listen(8080, "127.0.0.1");
JS
	send_to($async->url);
	publish($node, 'orders');
	poll_until(
		sub { query($node, q{SELECT last_error FROM outbox_topics WHERE topic = 'orders'}) =~ /^HTTP 500/ },
		'500 for a handler that throws');
	ok($async->is_running, 'express goes on');
	publish($node, 'async');
	poll_until(sub { !$async->is_running }, 'express 4 to end when an async handler throws');
	like($async->log, qr/this did not work/, 'because of it');
	query($node, q{SELECT outbox_discard(event_id) FROM outbox_events WHERE state <> 'published'});
};

promise 'limits of nginx, and of the sender' => sub {
	my @servers = map { Real::Nginx->new(servers => <<"CONF") } '', 'client_max_body_size 2m;';
	server {
		listen 127.0.0.1:PORT;
		$_
		location / { proxy_pass http://unix:/nowhere; error_page 502 = \@taken; }
		location \@taken { return 204; }
	}
CONF
	send_to($servers[0]->url);
	ends_as(publish_large(1000), 'published', 'up to 1 MB');
	ends_as(publish_large(1100), 'dead 413', '1.1 MB');
	send_to($servers[1]->url);
	ends_as(publish_large(1100), 'published', '1.1 MB, with client_max_body_size 2m');
	reload($node, 'outbox.max_payload_size' => '1000kB');
	fails_with($node, q{SELECT outbox_publish('orders', to_jsonb(repeat('x', 1100000)))}, '54000',
		'a lower outbox.max_payload_size tells the application');
};

# --- Dapr

# The event of a payload as daprd hands it over: what the relay has sent to it
sub enveloped
{
	my ($payload) = @_;
	my $daprd = start_receiver(mode => 'dapr');
	reload($node,
		'outbox.publisher' => 'dapr',
		'outbox.dapr_endpoint' => $daprd->url);
	my $id = publish($node, 'orders', payload => literal($payload));
	wait_delivered($daprd, [$id]);
	return ($id, ($daprd->accepted)[0]{body});
}

my $http = HTTP::Tiny->new(proxy => undef, http_proxy => undef);

# What an application wants to be handed, as daprd asks for it
sub subscription
{
	my ($application) = @_;
	return $json->decode($http->get($application->url . '/dapr/subscribe')->{content})->[0];
}

# What a subscriber answers to an event
sub hand_over
{
	my ($application, $body) = @_;
	my $subscription = subscription($application);
	my $route = ($subscription->{route} // $subscription->{routes}{default}) =~ s{^/*}{/}r;
	my $answer = $http->post($application->url . $route,
		{ content => $body, headers => { 'Content-Type' => 'application/cloudevents+json' } });
	return $answer->{success} ? $json->decode($answer->{content})->{status} : $answer->{content};
}

promise "Dapr's SDK for node" => sub {
	my $sidecar = start_receiver(mode => 'dapr');
	my $application = in_node(<<"JS", 6000);
import { DaprServer, HttpMethod } from "\@dapr/dapr";
const server = new DaprServer({
  serverHost: "127.0.0.1", serverPort: "6000",
  clientOptions: { daprHost: "127.0.0.1", daprPort: "@{[$sidecar->port]}" },
});
await server.pubsub.subscribe("pubsub", "orders", async (...given) => {
  console.log("given " + JSON.stringify(given));
  if (given[0].fail) throw new Error("this did not work");
}, "/orders");
await server.start();
JS
	my ($id, $body) = enveloped('{"order": 1}');
	is(hand_over($application, $body), 'SUCCESS', 'an event');
	my ($given) = $application->log =~ /^given (.*)/m;
	is_deeply($json->decode($given)->[0], { order => 1 }, 'the payload is handed on');
	unlike($given, qr/$id/, 'the id is not');

	($id, $body) = enveloped('0');
	hand_over($application, $body);
	($given) = ($application->log =~ /^given (.*)/mg)[-1];
	is($json->decode($given)->[0]{id}, $id, 'the envelope is in place of 0');

	(undef, $body) = enveloped('{"fail": true}');
	is(hand_over($application, $body), 'SUCCESS', 'an exception counts as success');
};

promise 'the routes of the page' => sub {
	my $application = in_node(<<"JS", 8080);
import express from "express";
const app = express();
$dapr
app.post("/orders", (request, response) => {
  console.log(request.body.id + " " + JSON.stringify(request.body.data));
  response.json({ status: "SUCCESS" });
});
app.listen(8080, "127.0.0.1");
JS
	is_deeply(subscription($application),
		{ pubsubname => 'pubsub', topic => 'orders', route => '/orders' }, 'the subscription');
	my ($id, $body) = enveloped('{"order": 1}');
	is(hand_over($application, $body), 'SUCCESS', 'an event');
	wait_printed($application, qq{$id {"order":1}});
};

done_testing();
