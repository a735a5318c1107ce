# Events go to a Kafka broker, and a consumer reads them as they were published.
#
# Promises:
# - Two lines of configuration are enough: the publisher and the brokers.
# - Id, key, type, time, metadata, trace and body arrive as published: numbers
#   digit by digit, bytes as bytes.  In structured mode, in the envelope.
# - The client in Java reads the same.
# - The events of a key are in one partition, that of the client in Java, in
#   their order.
# - The topic of Kafka is what the template makes of topic, key and type.
# - What Kafka cannot carry is dead at once, with the reason.
# - A reload is enough to have other settings, which repeats nothing, or another
#   publisher.
# - Settings and the options' file are checked.

use strict;
use warnings FATAL => 'all';

use JSON::PP ();
use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;
use Real::Kafka;

my $missing = Real::Kafka->missing;
plan skip_all => $missing if $missing;

my $broker = Real::Kafka->new;
my $node = new_node(
	'kafka',
	conf => {
		'shared_preload_libraries' => 'outbox, outbox_kafka',
		'outbox.publisher' => 'outbox_kafka',
		'outbox_kafka.bootstrap_servers' => $broker->bootstrap,
	});
query($node, 'CREATE EXTENSION outbox');
my $json = JSON::PP->new->utf8->allow_bignum->canonical;

my $ntopics = 0;

# A new topic, with its options
sub new_topic
{
	my (%options) = @_;
	my $topic = 'topic-' . ++$ntopics;
	$broker->create_topic($topic, %options);
	return $topic;
}

# Publish an event to a topic of its own, with these arguments, wait until it has
# been, and return the record: a hash.
sub arrives
{
	my ($arguments, $function) = @_;
	my $topic = new_topic();
	$function //= 'outbox_publish';
	my $id = query($node, "SELECT $function('$topic', $arguments)");
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	wait_state($node, $id, 'published');
	my @records = $broker->records($topic);
	is(scalar @records, 1, 'there is one record');
	return { %{ $records[0] }, id => $id, topic => $topic };
}

promise 'two lines of configuration, and an event is in the topic as published' => sub {
	my $record = arrives(q{'{"order": 1, "total": 42.10}',
		key => 'customer-7', type => 'order.placed', metadata => '{"tenant": "a"}',
		expires_at => '2999-01-01 00:00Z'});

	is($record->{value}, '{"order": 1, "total": 42.10}', 'the value');
	is($record->{key}, 'customer-7', 'the key');
	cmp_ok(abs($record->{timestamp} / 1000 - time()), '<', 300, 'the time');
	my $headers = $record->{headers};
	like(delete $headers->{ce_time}, qr/^\d{4}-\d\d-\d\dT.*Z$/,
		'the time as an attribute');
	is_deeply(
		$headers,
		{
			'content-type' => 'application/json',
			ce_specversion => '1.0',
			ce_id => $record->{id},
			ce_source => database_source($node),
			ce_type => 'order.placed',
			ce_topic => $record->{topic},
			ce_expirytime => '2999-01-01T00:00:00.000000Z',
			ce_partitionkey => 'customer-7',
			tenant => 'a'
		},
		'the other attributes, and the metadata');
	is(query($node, 'SELECT count(*) FROM outbox_check() WHERE NOT ok'),
		0, 'and outbox_check() is content');
};

promise 'a body arrives byte by byte' => sub {
	my $number = '12345678901234567890.123456789012345678901234567890';
	is(arrives(qq{'[$number, "\\u00e4"]'})->{value},
		"[$number, \"\xc3\xa4\"]", 'numbers digit by digit, text in UTF-8');
	my $bytes =
	  arrives(q{'\x00ff0d0a00ce', 'text/plain; charset=latin1'},
		'outbox_publish_bytes');
	is($bytes->{value}, "\x00\xff\x0d\x0a\x00\xce", 'bytes');
	is($bytes->{headers}{'content-type'}, 'text/plain; charset=latin1',
		'and their type');
	is(arrives(q{'', 'text/plain'}, 'outbox_publish_bytes')->{value},
		'', 'none, which is not null');
	my $large =
	  arrives(q{decode(repeat('ab', 1000000), 'hex'), 'a/b'}, 'outbox_publish_bytes');
	ok($large->{value} eq "\xab" x 1_000_000, 'as many as a topic takes by default');
};

promise 'an event has no key, an empty one, or one in UTF-8' => sub {
	is(arrives(q{'1'})->{key}, undef, 'none');
	is(arrives(q{'1', key => E'\u00e4'})->{key}, "\xc3\xa4", 'in UTF-8');
};

promise 'an event has its trace as an attribute and as a header by itself' => sub {
	my $trace = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';
	my $headers =
	  arrives(qq{'1', metadata => '{"traceparent": "$trace"}'})->{headers};
	is($headers->{traceparent}, $trace, 'by itself');
	is($headers->{ce_traceparent}, $trace, 'and as an attribute');
};

promise 'in structured mode the value is the envelope' => sub {
	reload($node, 'outbox_kafka.content_mode' => 'structured');
	restart_relay($node);
	my $record =
	  arrives(q{'{"n": 1.0}', key => 'k', metadata => '{"a": "b"}'});
	my $event = $json->decode($record->{value});
	is($event->{id}, $record->{id}, 'the id');
	is($event->{partitionkey}, 'k', 'the key in it');
	is($record->{key}, 'k', 'the key of the record');
	like($record->{value}, qr/"data":\{"n": 1\.0\}\}$/, 'the data, digit by digit');
	is_deeply(
		$record->{headers},
		{ 'content-type' => 'application/cloudevents+json', a => 'b' },
		'metadata are headers there, too');
};

promise 'the client in Java reads what was published, and knows the key by its partition' => sub {
	my $topic = new_topic(partitions => 7);
	my @keys = map { "key-$_" } 1 .. 20;
	my @ids = map { publish($node, $topic, key => $_, payload => q{'"o:1"'}) } @keys;
	wait_settled($node);
	my $theirs = new_topic(partitions => 7);
	$broker->java_produce($theirs, map { [ $_, 'x' ] } @keys);
	my %partition = map { $_->{key} => $_->{partition} } $broker->records($theirs);
	is_deeply(
		{ map { $_->{key} => $_->{partition} } $broker->records($topic) },
		\%partition, 'the partition of each key is that of Java');

	my @lines = $broker->java_consume($topic, scalar @keys);
	is_deeply(
		[ sort map { /ce_id:([-0-9a-f]+)/ } @lines ],
		[ sort @ids ],
		'it reads the id of each');
	is(scalar(grep { /^Partition:\d.*content-type:application\/json.*\tkey-\d+\t"o:1"$/ } @lines),
		20, 'and type, key and value');
};

promise 'the events of a key arrive in their order' => sub {
	my $topic = new_topic(partitions => 3);
	foreach my $key ('a' .. 'j')
	{
		publish($node, $topic, count => 200, key => $key);
	}
	wait_settled($node);
	my @records = $broker->records($topic);
	my %seen;
	is(scalar @records, 2000, 'each is there once');
	is(scalar(grep { ++$seen{ $_->{key} } == $_->{value} } @records),
		2000, 'and in its place');
};

promise 'the topic of Kafka is what its template makes of the event' => sub {
	reload($node, 'outbox_kafka.topic' => 'v1.{type}.{key}-{topic}');
	restart_relay($node);
	$broker->create_topic('v1.t.k-orders');
	my $id = query($node,
		q{SELECT outbox_publish('orders', '1', key => 'k', type => 't')});
	wait_state($node, $id, 'published');
	my ($record) = $broker->records('v1.t.k-orders');
	is($record->{headers}{ce_id}, $id, 'of topic, key and type');
};

promise 'what Kafka cannot carry, or consumers would take for ours, is dead at once' => sub {
	foreach my $case (
		[ q{'orders/eu', '1'}, 'the name of a topic of Kafka has only the characters' ],
		[ q{'..', '1'}, 'no topic of Kafka is named "." or ".."' ],
		[ q{repeat('t', 250), '1'}, 'the name of a topic of Kafka has from 1 to 249' ],
		[
			q{'orders', '1', metadata => '{"ce_id": "a"}'},
			'metadata must not have the name "ce_id"'
		],
		[
			q{'orders', '1', metadata => '{"Content-Type": "a"}'},
			'metadata must not have the name "Content-Type"'
		])
	{
		my ($arguments, $error) = @$case;
		my $id = query($node, "SELECT outbox_publish($arguments)");
		wait_state($node, $id, 'dead');
		like(event_value($node, $id, 'last_error'), qr/\Q$error\E/, $arguments);
		is(event_value($node, $id, 'attempts'), 1, 'at the first try');
	}
	my $longest = 't' x 249;
	$broker->create_topic($longest);
	wait_state($node, scalar publish($node, $longest), 'published');
	is(arrives(q{'1', metadata => '{"tenant": "\u00e4"}'})->{headers}{tenant},
		"\xc3\xa4", 'other names are fine');
};

# Of these events: how many are lost and repeated, by the ids that arrived
sub lost_and_repeated
{
	my ($ids, @arrived) = @_;
	my %seen;
	$seen{$_}++ foreach @arrived;
	return (
		scalar(grep { !$seen{$_} } @$ids),
		scalar(grep { ($seen{$_} // 0) > 1 } @$ids));
}

promise 'a reload under load takes another producer, and nothing is lost or repeated' => sub {
	my $topic = new_topic();
	my @ids = publish($node, $topic, count => 10000);
	reload($node, 'outbox.connect_timeout' => "${_}s") foreach 4 .. 6;
	push @ids, publish($node, $topic, count => 1000);
	wait_settled($node);
	my ($lost, $repeated) =
	  lost_and_repeated(\@ids, $broker->ids($topic));
	is($lost, 0, 'nothing is lost');
	is($repeated, 0, 'nothing is repeated');
};

# What the broker does not answer within 200 ms goes to the next publisher too.
promise 'a reload under load changes the publisher, and nothing is lost' => sub {
	my $receiver = start_receiver(mode => 'http');
	my $topic = new_topic();
	my @ids = publish($node, $topic, count => 3000);
	reload(
		$node,
		'outbox.publisher' => 'http',
		'outbox.http_url' => $receiver->url . '/events');
	push @ids, publish($node, $topic, count => 1000);
	wait_settled($node);
	reload($node, 'outbox.publisher' => 'outbox_kafka');
	push @ids, publish($node, $topic, count => 1000);
	wait_settled($node);
	my @taken = $broker->ids($topic);
	my ($lost, $repeated) = lost_and_repeated(
		\@ids, @taken,
		(map { $_->{id} } $receiver->accepted(fields => ['id'])));
	is($lost, 0, 'nothing is lost');
	cmp_ok($repeated, '<=', 1000, 'no more is repeated than was in flight');
	cmp_ok(scalar @taken, '>=', 1000, 'the second time, it goes on as well');
};

# The publisher is not configured, and this pattern is why.
sub is_unconfigured
{
	my ($reason) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return poll_until(
		sub {
			check_value($node, 'publisher configured', 'ok, detail') =~
			  /^f\|.*$reason/;
		},
		"outbox_check() to say $reason");
}

promise 'settings and the file of options are checked' => sub {
	fails_with($node, q{SET outbox_kafka.topic = '{nothing}'},
		'22023', 'a template of something else');
	fails_with($node, q{SET outbox_kafka.bootstrap_servers = E'a\nb'},
		'22023', 'a control character');

	my $file = $node->basedir . '/options';
	foreach my $case (
		[ 'acks = 0', 'must not set "acks"' ],
		[ 'bootstrap.servers=a:1', 'which is for outbox_kafka.bootstrap_servers' ],
		[ "# fine\n\nnothing", 'line 3 of file .* is not name = value' ],
		[ 'sasl.pasword = canary', 'librdkafka has no option "sasl.pasword"' ],
		[ 'linger.ms = canary', 'does not take the value of option "linger.ms"' ],
		[
			"security.protocol = sasl_plaintext\nsasl.mechanism = MAGIC",
			'librdkafka cannot work with its options: .*MAGIC'
		])
	{
		my ($text, $reason) = @$case;
		write_secret($file, $text);
		reload($node, 'outbox_kafka.options_file' => $file);
		is_unconfigured($reason);
	}
	write_secret($file, 'security.protocol = ssl');
	reload($node, 'outbox_kafka.tls_ca_file' => '/nowhere');
	is_unconfigured('ssl.ca.location failed');
	write_secret($file, '');
	reload($node, 'outbox_kafka.tls_ca_file' => '/nowhere');
	is_unconfigured('security.protocol .* is not ssl');
	chmod 0644, $file;
	reload($node, 'outbox_kafka.tls_ca_file' => undef);
	is_unconfigured('has permissions 0644');
	reload($node, 'outbox_kafka.bootstrap_servers' => undef);
	is_unconfigured('outbox_kafka.bootstrap_servers is not set');
	unlike(slurp_file($node->logfile), qr/canary/, 'no value is in the log');
};

done_testing();
