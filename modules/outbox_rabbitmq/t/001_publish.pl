# Events go to a RabbitMQ broker, and a consumer with a client of its own, pika,
# reads them as they were published.
#
# Promises:
# - Two lines of configuration are enough: the publisher and the exchange.
# - Id, key, type, time, metadata, trace and body arrive as published: numbers
#   digit by digit, bytes as bytes.  In structured mode, in the envelope.
# - The events of a key arrive in their order.
# - The routing key is what the template makes of topic, key and type, and the
#   exchange without a name takes events to the queue of that name.
# - What AMQP cannot carry is dead at once, with the reason.
# - A reload is enough for other settings, which loses and repeats no event, and for
#   another publisher and back, which loses none.
# - Settings are checked, and outbox_check() says if the library is not preloaded.

use strict;
use warnings FATAL => 'all';

use JSON::PP ();
use Test::More;

use lib 'test/lib';
use OutboxTest;
use Real::RabbitMQ;

my $missing = Real::RabbitMQ->missing;
plan skip_all => $missing if $missing;

my $broker = Real::RabbitMQ->new;
$broker->declare_queue('events', exchange => 'shop');
my $node = new_node('rabbitmq', conf => { $broker->settings('shop') });
query($node, 'CREATE EXTENSION outbox');
my $json = JSON::PP->new->utf8->allow_bignum->canonical;

# Publish an event by this call, wait until it has been, and return the message: a
# hash.
sub arrives
{
	my ($call) = @_;
	my $id = query($node, "SELECT $call");
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	wait_state($node, $id, 'published');
	my ($message) = $broker->take('events');
	is($message->{message_id}, $id, 'the message has the id of the event');
	return $message;
}

promise 'two lines of configuration, and an event is in the queue as published' => sub {
	my $message = arrives(q{outbox_publish('orders', '{"order": 1, "total": 42.10}',
		key => 'customer-7', type => 'order.placed', metadata => '{"tenant": "a"}',
		expires_at => '2999-01-01 00:00Z')});

	is($message->{body}, '{"order": 1, "total": 42.10}', 'the body');
	is($message->{exchange}, 'shop', 'the exchange');
	is($message->{routing_key}, 'orders', 'the topic is the routing key');
	is($message->{type}, 'order.placed', 'the type');
	is($message->{content_type}, 'application/json', 'the content type');
	is($message->{delivery_mode}, 2, 'it is persistent');
	cmp_ok(abs($message->{timestamp} - time()), '<', 300, 'the time');
	my $headers = $message->{headers};
	like(delete $headers->{cloudEvents_time}, qr/^\d{4}-\d\d-\d\dT.*Z$/,
		'the time as an attribute');
	is_deeply(
		$headers,
		{
			cloudEvents_specversion => '1.0',
			cloudEvents_id => $message->{message_id},
			cloudEvents_source => database_source($node),
			cloudEvents_type => 'order.placed',
			cloudEvents_topic => 'orders',
			cloudEvents_expirytime => '2999-01-01T00:00:00.000000Z',
			cloudEvents_partitionkey => 'customer-7',
			tenant => 'a'
		},
		'the other attributes, and the metadata');
	is(query($node, 'SELECT count(*) FROM outbox_check() WHERE NOT ok'),
		0, 'and outbox_check() is content');
};

promise 'a body arrives byte by byte' => sub {
	my $number = '12345678901234567890.123456789012345678901234567890';
	is(arrives(qq{outbox_publish('orders', '[$number, "\\u00e4"]')})->{body},
		"[$number, \"\xc3\xa4\"]", 'numbers digit by digit, text in UTF-8');
	my $bytes = arrives(
		q{outbox_publish_bytes('orders', '\x00ff0d0a00ce', 'text/plain; charset=latin1')});
	is($bytes->{body}, "\x00\xff\x0d\x0a\x00\xce", 'bytes');
	is($bytes->{content_type}, 'text/plain; charset=latin1', 'and their type');
	is(arrives(q{outbox_publish_bytes('orders', '', 'text/plain')})->{body},
		'', 'none');
	is( length arrives(
			q{outbox_publish_bytes('orders', decode(repeat('ab', 900000), 'hex'), 'a/b')}
		)->{body},
		900_000,
		'more than fits into a frame');
};

promise 'an event has its trace as an attribute and as a header by itself' => sub {
	my $trace = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';
	my $headers = arrives(
		qq{outbox_publish('orders', '1', metadata => '{"traceparent": "$trace"}')})->{headers};
	is($headers->{traceparent}, $trace, 'by itself');
	is($headers->{cloudEvents_traceparent}, $trace, 'and as an attribute');
};

promise 'in structured mode the body is the envelope' => sub {
	reload($node, 'outbox_rabbitmq.content_mode' => 'structured');
	restart_relay($node);
	my $message = arrives(
		q{outbox_publish('orders', '{"n": 1.0}', key => 'k', metadata => '{"a": "b"}')});
	is($message->{content_type}, 'application/cloudevents+json', 'the content type');
	my $event = $json->decode($message->{body});
	is($event->{id}, $message->{message_id}, 'the id');
	is($event->{partitionkey}, 'k', 'the key');
	like($message->{body}, qr/"data":\{"n": 1\.0\}\}$/, 'the data, digit by digit');
	is_deeply($message->{headers}, { a => 'b' }, 'metadata are headers there, too');
};

promise 'the events of a key arrive in their order' => sub {
	my @ids;
	foreach my $key ('a' .. 'j')
	{
		push @ids, publish($node, 'orders', count => 200, key => $key,
			payload => "jsonb_build_object('k', '$key', 'n', n)");
	}
	wait_settled($node);
	my %seen;
	my $right = 0;
	my @messages = $broker->take('events');
	foreach my $message (@messages)
	{
		my $event = $json->decode($message->{body});
		$right++ if ++$seen{ $event->{k} } == $event->{n};
	}
	is(scalar @messages, 2000, 'each is there once');
	is($right, 2000, 'and in its place');
};

promise 'the routing key is what its template makes of the event' => sub {
	reload($node, 'outbox_rabbitmq.routing_key' => 'v1.{type}.{key}-{topic}');
	restart_relay($node);
	is( arrives(q{outbox_publish('orders', '1', key => 'k', type => 't')})->{routing_key},
		'v1.t.k-orders', 'of topic, key and type');
	is(arrives(q{outbox_publish('orders', '1')})->{routing_key},
		'v1.orders.-orders', 'without a key');
};

promise 'the exchange without a name takes an event to the queue of its name' => sub {
	reload($node, 'outbox_rabbitmq.exchange' => 'default');
	restart_relay($node);
	my $message = arrives(q{outbox_publish('events', '1')});
	is($message->{exchange}, '', 'it has no name');
	is($message->{routing_key}, 'events', 'the queue has the name of the topic');
};

promise 'what AMQP cannot carry, or would mean something to RabbitMQ, is dead at once' => sub {
	foreach my $case (
		[ q{metadata => '{"CC": "a"}'}, 'metadata must not have the name "CC"' ],
		[ q{metadata => '{"bcc": "a"}'}, 'metadata must not have the name "bcc"' ],
		[ q{metadata => '{"cloudEvents_id": "a"}'}, 'must not have the name "cloudEvents_id"' ],
		[ q{metadata => '{"x-death": "a"}'}, 'must not have the name "x-death"' ])
	{
		my ($argument, $error) = @$case;
		my $id = query($node, "SELECT outbox_publish('orders', '1', $argument)");
		wait_state($node, $id, 'dead');
		like(event_value($node, $id, 'last_error'), qr/\Q$error\E/, $argument);
		is(event_value($node, $id, 'attempts'), 1, 'at the first try');
	}
	reload($node, 'outbox_rabbitmq.routing_key' => '{topic}.{topic}');
	restart_relay($node);
	my $id = publish($node, 't' x 128);
	wait_state($node, $id, 'dead');
	is(event_value($node, $id, 'last_error'), 'its routing key has more than 255 bytes',
		'a routing key that is too long');
	is(arrives("outbox_publish('" . 't' x 127 . "', '1')")->{type}, 't' x 127,
		'one that fits');
	is(arrives(q{outbox_publish('orders', '1', metadata => '{"tenant\u00e4": "\u00e4"}')})
		->{headers}{"tenant\x{e4}"}, "\x{e4}", 'other names are fine');
};

promise 'settings that change under load lose and repeat nothing' => sub {
	my @ids = publish($node, 'reload', count => 3000);
	foreach my $mode ('structured', 'binary', 'structured')
	{
		reload($node, 'outbox_rabbitmq.content_mode' => $mode);
		push @ids, publish($node, 'reload', count => 1000);
	}
	wait_settled($node);
	is_deeply([ sort $broker->take_ids('events') ], [ sort @ids ], 'each is there once');
};

promise 'a reload under load is enough for another publisher, and back' => sub {
	my $receiver = start_receiver(mode => 'http');
	my @ids = publish($node, 'reload', count => 2000);
	reload(
		$node,
		'outbox.publisher' => 'http',
		'outbox.http_url' => $receiver->url . '/events');
	push @ids, publish($node, 'reload', count => 1000);
	poll_until(sub { $receiver->stats->{distinct_ids} > 0 }, 'the other one to have some');
	reload($node, 'outbox.publisher' => 'outbox_rabbitmq');
	push @ids, publish($node, 'reload', count => 1000);
	wait_settled($node);

	my %seen;
	$seen{$_}++ foreach $broker->take_ids('events');
	$seen{ $_->{id} }++ foreach $receiver->accepted(fields => ['id']);
	is(scalar(grep { !$seen{$_} } @ids), 0, 'nothing is lost');
	cmp_ok(scalar(grep { ($seen{$_} // 0) > 1 } @ids), '<=', 1000 + 64,
		'what is there twice had no answer within 200 ms');
};

promise 'a bad setting is refused with the reason' => sub {
	foreach my $case (
		[ url => 'http://127.0.0.1', 'scheme' ],
		[ url => 'amqp://me:secret@127.0.0.1', 'must not contain a user name' ],
		[ url => 'amqp://127.0.0.1:70000', 'port must be a number' ],
		[ url => 'amqp://[::1', 'must end with a bracket' ],
		[ url => 'amqp://127.0.0.1/a%zz', 'percent sign' ],
		[ url => 'amqp:///vhost', 'has no host' ],
		[ routing_key => '{subject}', 'Braces can only be' ],
		[ exchange => 'x' x 256, 'more than 255 bytes' ])
	{
		my ($name, $value, $detail) = @$case;
		my ($rc, undef, $stderr) =
		  $node->psql('postgres', "SET outbox_rabbitmq.$name = '$value'");
		isnt($rc, 0, "$name = " . substr($value, 0, 30));
		like($stderr, qr/DETAIL: .*\Q$detail\E/, 'with the reason');
	}
	fails_with($node, q{CREATE ROLE user1; SET ROLE user1; SET outbox_rabbitmq.url = 'amqp://a'},
		'42501', 'who is not a superuser cannot set them');
	fails_with($node, q{SET outbox_rabbitmq.unknown = 'a'}, '42602',
		'one that does not exist');
};

promise 'what is missing is said' => sub {
	reload($node, 'outbox_rabbitmq.exchange' => '');
	poll_until(sub { check_value($node, 'publisher configured', 'ok') eq 'f' },
		'the setting to be missed');
	is(check_value($node, 'publisher configured', 'detail'),
		'outbox_rabbitmq.exchange is not set', 'the exchange');
	reload($node, 'outbox_rabbitmq.exchange' => 'shop',
		'outbox_rabbitmq.password_file' => '');
	poll_until(
		sub { check_value($node, 'publisher configured', 'detail') =~ /password_file is not set/ },
		'the password to be missed');
	chmod(0644, $broker->dir . '/password') or die;
	reload($node, $broker->settings('shop'));
	poll_until(
		sub { check_value($node, 'publisher configured', 'detail') =~ /has permissions 0644/ },
		'the permissions of its file to be refused');
	chmod(0600, $broker->dir . '/password') or die;
};

promise 'without preload it works, and outbox_check() says what is missing' => sub {
	is(check_value($node, 'publisher preloaded', 'ok'), 't', 'with it, it is content');
	$node->adjust_conf('postgresql.conf', 'shared_preload_libraries', "'outbox'");
	$node->restart;
	is(arrives(q{outbox_publish('orders', '1')})->{body}, '1', 'it works');
	is(check_value($node, 'publisher preloaded', 'ok'), 'f', 'it is said');
	like(check_value($node, 'publisher preloaded', 'detail'),
		qr/^add outbox_rabbitmq to shared_preload_libraries/, 'with what to do');
	$node->adjust_conf('postgresql.conf', 'shared_preload_libraries',
		"'outbox, outbox_rabbitmq'");
	$node->restart;
};

done_testing();
