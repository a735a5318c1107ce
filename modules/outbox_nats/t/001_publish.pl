# Promises, against a real NATS server with JetStream:
# - Two lines of configuration, and what is published is in a stream, as any client
#   reads it: id, key, type, metadata and body as published.
# - In structured mode, it is an envelope.
# - What no message can carry is dead, with the reason; nothing else notices.
# - Only JetStream's word counts: without a stream there is no delivery.
# - A stream that is full, or takes less, holds its own topic only.
# - The events of a key are in their order.

use strict;
use warnings FATAL => 'all';

use JSON::PP ();
use Test::More;

use lib 'test/lib';
use OutboxTest;
use Real::Nats;

my $missing = Real::Nats->missing;
plan skip_all => $missing if $missing;

my $nats = Real::Nats->new(config => "max_payload: 200000\n");
my $node = new_node(
	'nats',
	conf => {
		shared_preload_libraries => 'outbox, outbox_nats',
		'outbox.publisher' => 'outbox_nats',
		'outbox_nats.url' => $nats->url,
	});
query($node, 'CREATE EXTENSION outbox');

# The messages of a stream by the event's id
sub by_id
{
	my ($stream) = @_;
	return map { $_->{headers}{'Nats-Msg-Id'} => $_ } $nats->messages($stream);
}

# An event is dead for this reason.
sub is_dead
{
	my ($id, $reason, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	wait_state($node, $id, 'dead');
	like(event_value($node, $id, 'last_error'), $reason, $name);
	return;
}

promise 'an event is in the stream as it was published' => sub {
	$nats->create_stream('ORDERS', 'orders.>');
	my $trace = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';
	my $id = publish($node, 'orders.created',
		key => "K\x{e4}se 1",
		payload => q{'{"total": 12345678901234567890.10}'},
		more => qq{type => 'shop.order',
			metadata => '{"tenant": "a b", "traceparent": "$trace"}',
			expires_at => '2999-01-01 00:00Z'});
	my $binary = query($node,
		q{SELECT outbox_publish_bytes('orders.file', '\x00ff0a', 'image/png')});
	wait_state($node, [ $id, $binary ], 'published');

	my %messages = by_id('ORDERS');
	my $message = $messages{$id};
	is($message->{subject}, 'orders.created', 'the topic is the subject');
	is($message->{data}, '{"total": 12345678901234567890.10}', 'the body');
	my %headers = %{ $message->{headers} };
	like(delete $headers{'ce-time'}, qr/^\d{4}-.*Z$/, 'the time');
	like(delete $headers{'ce-source'}, qr{^/}, 'the source');
	is_deeply(
		\%headers,
		{
			'Nats-Msg-Id' => $id,
			'Content-Type' => 'application/json',
			'ce-specversion' => '1.0',
			'ce-id' => $id,
			'ce-type' => 'shop.order',
			'ce-topic' => 'orders.created',
			'ce-expirytime' => '2999-01-01T00:00:00.000000Z',
			'ce-datacontenttype' => 'application/json',
			'ce-partitionkey' => 'K%C3%A4se%201',
			'ce-traceparent' => $trace,
			'traceparent' => $trace,
			'tenant' => 'a%20b',
		},
		'the headers');
	is($messages{$binary}{data}, "\x00\xff\x0a", 'bytes are bytes');
	is($messages{$binary}{headers}{'Content-Type'},
		'image/png', 'and say what they are');
};

promise 'in structured mode it is an envelope, and the subject is made of a template' => sub {
	$nats->create_stream('ENVELOPES', 'shop.>');
	reload(
		$node,
		'outbox_nats.content_mode' => 'structured',
		'outbox_nats.subject' => 'shop.{topic}.{key}',
		'outbox_nats.expect_stream' => 'ENVELOPES');
	my $id = publish($node, 'enveloped', key => 'k1', payload => q{'{"n": 1}'});
	wait_state($node, $id, 'published');
	my %messages = by_id('ENVELOPES');
	is($messages{$id}{subject}, 'shop.enveloped.k1', 'the subject');
	is($messages{$id}{headers}{'Content-Type'},
		'application/cloudevents+json', 'it says so');
	is($messages{$id}{headers}{'Nats-Expected-Stream'},
		'ENVELOPES', 'the stream is named');
	my $event = JSON::PP->new->decode($messages{$id}{data});
	is_deeply([ @$event{qw(id topic partitionkey data)} ],
		[ $id, 'enveloped', 'k1', { n => 1 } ], 'the envelope');

	reload($node, 'outbox_nats.expect_stream' => 'ANOTHER');
	my $other = publish($node, 'unexpected', key => 'k1');
	poll_until(
		sub { event_value($node, $other, 'last_error') =~ /expected stream/ },
		'another stream to be refused');
	reload($node, 'outbox_nats.expect_stream' => undef);
	wait_state($node, $other, 'published');
};

promise 'what no message can carry is dead with the reason, and nothing else is' => sub {
	$nats->create_stream('ODD', 'odd.>');
	my $large = publish($node, 'odd.large', payload => q{to_jsonb(repeat('x', 300000))});
	my %reasons = (
		'odd..empty' => qr/a part of it is empty/,
		'odd.*' => qr/wildcard/,
		'$JS.API.STREAM.PURGE.ODD' => qr/reserved by NATS/,
		'_INBOX.somebody' => qr/reserved by NATS/,
		'odd. blank' => qr/space/,
	);
	my %ids = map { $_ => scalar publish($node, $_) } keys %reasons;
	my %names = (
		'Nats-Rollup' => qr/"Nats-Rollup" in metadata is reserved/,
		'CE-id' => qr/"CE-id" in metadata is reserved/,
		'a b' => qr/"a b" in metadata cannot be that of a header/,
		'a:b' => qr/"a:b" in metadata cannot be that of a header/,
	);
	my %named = map {
		$_ => scalar publish($node, 'odd.named',
			more => qq{metadata => '{"$_": "all"}'})
	} keys %names;
	my $good = publish($node, 'odd.good');

	is_dead($large, qr/larger than the server's max_payload/, 'a large one');
	is_dead($ids{$_}, $reasons{$_}, "the topic $_") foreach sort keys %reasons;
	is_dead($named{$_}, $names{$_}, "metadata named $_") foreach sort keys %names;
	wait_state($node, $good, 'published');
	is(scalar($nats->messages('ODD')), 1, 'only the good one is there');
};

promise 'only JetStream says that an event is delivered' => sub {
	my $responder = $nats->start_responder('nowhere.>', 'hello');
	reload(
		$node,
		'outbox.max_retry_times' => 1,
		'outbox.local_retry_times' => 0);
	my $unheard = publish($node, 'unheard.of');
	is_dead($unheard, qr/no stream takes this subject/, 'nobody is there');
	is(event_value($node, $unheard, 'last_status'), 503, 'the status is there');
	my $answered = publish($node, 'nowhere.near');
	wait_relay_value($node, last_error => qr/not an acknowledgement/);
	isnt(event_value($node, $answered, 'state'),
		'published', 'an answer that is none delivers nothing');
	Real::Nats::finish_responder($responder);

	$nats->create_stream('HERE', 'unheard.>');
	query($node, "SELECT outbox_retry('$unheard')");
	wait_state($node, $unheard, 'published');
	is(scalar($nats->messages('HERE')), 1, 'it is there once there is a stream');
};

promise 'a stream that is full, or takes less, holds its own topic only' => sub {
	$nats->create_stream('FULL', 'full', max_msgs => 2, discard => '"new"');
	$nats->create_stream('SMALL', 'small', max_msg_size => 2000);
	$nats->create_stream('WIDE', 'wide');
	publish($node, 'full', count => 3);
	my $small = publish($node, 'small', payload => q{to_jsonb(repeat('x', 3000))});
	publish($node, 'wide', count => 100);
	wait_states($node, 'wide', 'published*100', 'the others are published');
	is_dead($small, qr/exceeds maximum/, 'too large for the stream');
	poll_until(
		sub {
			query($node, q{SELECT last_error FROM outbox_events
				WHERE topic = 'full' AND last_error IS NOT NULL LIMIT 1}) =~
			  /10077/;
		},
		'the stream to be full');
	$nats->delete_stream('FULL');
	$nats->create_stream('FULL', 'full');
	wait_states($node, 'full', 'published*3', 'it has room again');
	is(scalar($nats->messages('WIDE')), 100, 'nothing is there twice');
};

promise 'the events of a key are in their order' => sub {
	$nats->create_stream('KEYS', 'keys');
	publish($node, 'keys', count => 3000, more => q{key => 'k' || n % 7});
	wait_states($node, 'keys', 'published*3000', 'all are published');
	my %last;
	my @late;
	my @numbers = map { $_->{data} } $nats->messages('KEYS');
	foreach my $n (@numbers)
	{
		push @late, $n if $n < ($last{ $n % 7 } // 0);
		$last{ $n % 7 } = $n;
	}
	is_deeply(\@late, [], 'no event is behind a later one of its key');
	is(scalar(@numbers), 3000, 'and each is there once');
};

done_testing();
