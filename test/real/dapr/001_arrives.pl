# Every kind of event goes through the real daprd, with real brokers behind it, and
# its application is handed what was published.
#
# Promises, of each line of Dapr, each component and each setting of
# outbox.dapr_bulk:
# - An event arrives once, with its id, source, type, time, key and trace context.
# - JSON arrives as it was stored, its numbers digit by digit; with dapr_bulk = on
#   as doubles.  Bytes and texts arrive byte by byte, with their content types.
# - Topics and keys arrive whatever they consist of.
# - With rawPayload the broker has our envelope byte by byte.

use strict;
use warnings FATAL => 'all';

use JSON::PP ();
use MIME::Base64 qw(decode_base64);
use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;
use Real::Dapr;
use Real::DaprSubscriber;
use Real::Kafka;
use Real::RabbitMQ;
use Real::Redis;

use constant {
	TRACEPARENT => '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
	TIMEOUT => 60,
};

my $missing = Real::Redis->missing // Real::Dapr->missing;
plan skip_all => $missing if $missing;

my @odd_topics = (
	'a/b', 'a b', 'a+b', '.', '..', 'a/../b', '%', '%2F', 'a?b=c&d#e;f',
	'"quoted"\\', "\x{fc}\x{20ac}\x{1f600}", '/a/', '<&>');

# The components: name, type, metadata.  Each is a broker of its own, as far as
# they are installed.
my @brokers = (my $redis = Real::Redis->new);
my %components = (
	redis => [
		'pubsub.redis',
		{
			redisHost => '127.0.0.1:' . $redis->port,
			redisPassword => ''
		}
	],
	memory => ['pubsub.in-memory']);
my %topics = map { $_ => \@odd_topics } keys %components;

if (my $reason = Real::RabbitMQ->missing)
{
	diag("without RabbitMQ: $reason");
}
else
{
	push @brokers, my $rabbit = Real::RabbitMQ->new;
	$components{rabbitmq} = [
		'pubsub.rabbitmq',
		{
			connectionString => $rabbit->url_with_password,
			publisherConfirm => 'true',
			deliveryMode => '2'
		}
	];
	$topics{rabbitmq} = \@odd_topics;
}

if (my $reason = Real::Kafka->missing)
{
	diag("without Kafka: $reason");
}
else
{
	push @brokers, my $kafka = Real::Kafka->new;
	$components{kafka} = [
		'pubsub.kafka',
		{
			brokers => $kafka->bootstrap,
			authType => 'none',
			consumerGroup => 'relay',
			initialOffset => 'oldest'
		}
	];
	# Others it does not have.
	$topics{kafka} = [ 'a.b', 'A_b-C' ];
	$kafka->create_topic($_) foreach 'kinds', 'raw', @{ $topics{kafka} };
}

my $node = new_node('arrives', conf => { 'outbox.source' => '/shop' });
query($node, 'CREATE EXTENSION outbox');

# Events of every kind: name, payload in SQL, and the data as it is in the JSON
# that the application is handed.
my @kinds = (
	[ 'object', q{'{"order": 1, "tags": ["a", "b"], "none": null, "deep": {"x": {}}}'},
		'{"deep":{"x":{}},"none":null,"order":1,"tags":["a","b"]}' ],
	[ 'markup', q{'{"html": "<a href=\"?b&c\">"}'},
		'{"html":"\u003ca href=\"?b\u0026c\"\u003e"}' ],
	[ 'unicode', qq{'"\x{fc}\x{20ac}\x{1f600}\\u0007\\ud83d\\ude00"'}, undef ],
	[ 'null', q{'null'}, 'null' ],
	[ 'true', q{'true'}, 'true' ],
	[ 'empty', q{'""'}, '""' ],
	[ 'text', q{'"plain"'}, '"plain"' ],
	[ 'list', q{'[[], {}, [1]]'}, '[[],{},[1]]' ]);

# What float64 does not have as it is
my @numbers = (
	'9007199254740993', '12345678901234567890.123456789012345678901', '0.10',
	'-170141183460469231731687303715884105727');

sub bytes_sql
{
	my ($topic, $hex, $content_type) = @_;
	return "SELECT outbox_publish_bytes('$topic', '\\x$hex', '$content_type')";
}

# The one event with this id that the application was handed
sub handed
{
	my ($subscriber, $id) = @_;
	my @found;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	poll_until(sub { @found = $subscriber->events(id => $id) },
		"event $id to be handed to the application", TIMEOUT);
	return $found[0];
}

sub handed_once
{
	my ($subscriber, $topic, @ids) = @_;
	my %counts = $subscriber->counts($topic);
	return is_deeply([ @counts{@ids} ], [ (1) x @ids ], "$topic: each event once");
}

sub all_kinds_arrive
{
	my ($subscriber) = @_;

	# All at once, so that they share requests where they may.
	my @ids = split /\n/, query($node,
		'BEGIN;' . join(';', map { utf8_bytes(publish_sql('kinds', payload => $_->[1])) } @kinds)
		  . '; COMMIT');
	foreach my $n (0 .. $#kinds)
	{
		my ($name, undef, $data) = @{ $kinds[$n] };
		my $body = handed($subscriber, $ids[$n])->{body};
		$data //= '"' . utf8_bytes("\x{fc}\x{20ac}\x{1f600}") . '\u0007'
		  . utf8_bytes("\x{1f600}") . '"';
		ok($body =~ /"data":\Q$data\E[,}]/, "$name arrives as it is")
		  or diag($body);
	}
	handed_once($subscriber, 'kinds', @ids);
	return;
}

sub attributes_arrive
{
	my ($subscriber, $pubsub) = @_;
	my $wanted = query($node, 'SELECT gen_random_uuid()');
	my $id = publish($node, 'kinds', key => 'customer 7', more => qq{
		type => 'order.created', event_id => '$wanted',
		metadata => '{"traceparent": "@{[TRACEPARENT]}", "tenant": "a \\"b\\""}'});
	my $event = handed($subscriber, $id)->{event};
	my $time = query($node, qq{
		SELECT to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
		FROM outbox_event WHERE event_id = '$id'});

	is_deeply(
		[ @{$event}{qw(specversion id source type topic pubsubname time
			  partitionkey traceparent datacontenttype data)} ],
		[ '1.0', $wanted, '/shop', 'order.created', 'kinds', $pubsub, $time,
			'customer 7', TRACEPARENT, 'application/json', 1 ],
		'the attributes of an event');
	return;
}

# A double's digits are Go's, not ours: what counts is its value.
sub numbers_arrive
{
	my ($subscriber, $bulk) = @_;
	my $list = join(', ', @numbers);
	my $id = publish($node, 'kinds', payload => "'[$list]'");
	my $body = handed($subscriber, $id)->{body};
	my ($data) = $body =~ /"data":\[([^]]*)\]/;
	my @arrived = split /,/, $data // '';

	if ($bulk eq 'on')
	{
		is_deeply([ map { $_ + 0 } @arrived ], [ map { $_ + 0 } @numbers ],
			'numbers arrive as doubles');
		return;
	}
	is_deeply(\@arrived, \@numbers, 'numbers arrive digit by digit');
	return;
}

sub bytes_arrive
{
	my ($subscriber) = @_;
	my $all = join('', map { chr } 0 .. 255);
	my $text = utf8_bytes("gr\x{fc}n");

	foreach my $case (
		[ 'application/octet-stream', $all ],
		[ 'image/png', $all ],
		[ 'text/plain; charset=utf-8', $text ],
		[ 'text/plain; charset=iso-8859-1', "gr\xfcn" ],
		[ 'application/xml', "<a>$text</a>" ],
		[ 'text/plain', '' ])
	{
		my ($content_type, $bytes) = @$case;
		my $id = query($node, bytes_sql('kinds', unpack('H*', $bytes), $content_type));
		my $event = handed($subscriber, $id)->{event};
		my $arrived =
		  defined $event->{data_base64} ? decode_base64($event->{data_base64})
		  : defined $event->{data}      ? utf8_bytes($event->{data})
		  :                               undef;
		is($event->{datacontenttype}, $content_type, "$content_type is said");
		ok(defined $arrived && $arrived eq $bytes, "and its bytes arrive")
		  or diag(explain $event);
	}
	return;
}

sub names_arrive
{
	my ($subscriber, $topics) = @_;
	my %id_of = map { $_ => scalar publish($node, $_, key => $_) } @$topics;

	foreach my $name (@$topics)
	{
		my $event = handed($subscriber, $id_of{$name})->{event};
		is_deeply([ @{$event}{qw(topic partitionkey)} ],
			[ $name, $name ], 'topic and key ' . utf8_bytes($name));
	}
	return;
}

# The broker has our own envelope then, byte by byte; to its application the
# sidecar hands it as the bytes of another one.
sub raw_arrives
{
	my ($subscriber) = @_;
	my $data;
	my $id = publish($node, 'raw', payload => q{'{"n": 0.10}'},
		more => q{metadata => '{"rawPayload": "true"}'});
	poll_until(
		sub {
			my ($last) = (reverse $subscriber->events(topic => 'raw'))[0] or return 0;
			$data = decode_base64($last->{event}{data_base64} // '');
			return $data =~ /\Q$id\E/;
		},
		'the raw event to be handed to the application', TIMEOUT);
	like($data, qr/^\{"specversion":"1.0","id":"$id",.*"data":\Q{"n": 0.10}\E\}$/,
		'with rawPayload our envelope arrives as it is');
	return;
}

sub utf8_bytes
{
	my ($text) = @_;
	utf8::encode($text);
	return $text;
}

foreach my $line ('1.18', '1.16')
{
	my $reason = Real::Dapr->missing($line);
  SKIP:
	{
		skip $reason, 1 if $reason;
		my $subscriber = Real::DaprSubscriber->new(
			topics => { map { $_ => [ 'kinds', @{ $topics{$_} } ] } keys %topics },
			raw_topics => { map { $_ => ['raw'] } keys %components });
		my $dapr = Real::Dapr->new(
			line => $line,
			components => \%components,
			subscriber => $subscriber);

		foreach my $pubsub (sort keys %components)
		{
			foreach my $bulk (qw(off on auto))
			{
				promise "daprd $line, $components{$pubsub}[0], bulk $bulk" => sub {
					reload($node,
						'outbox.dapr_endpoint' => $dapr->endpoint,
						'outbox.dapr_pubsub_name' => $pubsub,
						'outbox.dapr_bulk' => $bulk);
					all_kinds_arrive($subscriber);
					attributes_arrive($subscriber, $pubsub);
					numbers_arrive($subscriber, $bulk);
					bytes_arrive($subscriber);
					names_arrive($subscriber, $topics{$pubsub});
					raw_arrives($subscriber);
					is(stat_value($node, 'failed_attempts'), 0, 'nothing failed on the way');
				};
			}
		}
	}
}

done_testing();
