# Promises, against a real Mosquitto:
# - Two lines of configuration, and a subscriber has what is published: id, key,
#   type, metadata and body as published.
# - In structured mode, it is an envelope.
# - What no message can carry is dead, with the reason; nothing else notices.
# - Nobody who subscribes is a failure of that event, or none, as it is set.
# - The events of a key arrive in their order.
# - A broker that ends twice under load loses nothing, one that is killed is found
#   again; one that hangs keeps nothing but its own events waiting, and the relay
#   ends within a second when it is told to, with 30 MB in flight.
# - A reload under load is enough to have other settings, which repeats nothing, or
#   another publisher.
# - An outage (nobody there, wrong password, no MQTT) is shown with its reason, costs
#   no attempt, and is over when its cause is.
# - A file that has changed is read again, and one that cannot be used is not.
# - With TLS, only a certificate of the authority, and for the name in the URL, is
#   taken; and ours is shown.
# - A connection with nothing to say is kept alive.

use strict;
use warnings FATAL => 'all';

use IO::Socket::INET;
use JSON::PP ();
use Test::More;

use lib 'test/lib';
use OutboxTest;
use OutboxTest::Outage;
use PostgreSQL::Test::Utils;
use Real::Certificates;
use Real::Mosquitto;

my $missing = Real::Mosquitto->missing;
plan skip_all => $missing if $missing;

my $authority = Real::Certificates->new;
my $server = $authority->issue('server', 'IP:127.0.0.1');
my $client = $authority->issue('client', 'DNS:client');
my $broker = Real::Mosquitto->new(tls => { %$server, ca => $authority->authority },
	config => "max_packet_size 800000\n");
$broker->subscribe('events/#', 'large');
poll_until(sub { $broker->has_subscribed }, 'the subscriber');
write_secret($broker->dir . '/password', "secret\n");

my %settings = (
	'outbox_mqtt.url' => $broker->url,
	'outbox_mqtt.user' => 'writer',
	'outbox_mqtt.password_file' => $broker->dir . '/password');
my $node = new_node(
	'mqtt',
	conf => {
		shared_preload_libraries => 'outbox, outbox_mqtt',
		'outbox.publisher' => 'outbox_mqtt',
		'outbox.relay_memory' => '64MB',
		%settings,
	});
query($node, 'CREATE EXTENSION outbox');

# Test that each of these has arrived, and at most so many of them twice.
sub all_have_arrived
{
	my ($ids, $topic, $max_twice) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my %seen;

	poll_until(
		sub {
			%seen = ();
			$seen{ $_->{properties}{id} }++ foreach $broker->messages($topic);
			return !grep { !$seen{$_} } @$ids;
		},
		'all to arrive',
		120);
	is(scalar(grep { !$seen{$_} } @$ids), 0, 'nothing is lost');
	my $twice = grep { ($seen{$_} // 0) > 1 } @$ids;
	cmp_ok($twice, '<=', $max_twice, "$twice events have arrived twice");
	return;
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

# With these settings nothing is sent, for this reason; without them it is.
sub is_outage_of
{
	my ($error, %other) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is_outage_with($node, 'events/outage', $error, \%settings, %other);
}

promise 'a subscriber has an event as it was published' => sub {
	my $id = publish($node, 'events/orders',
		key => "K\x{e4}se 1",
		payload => q{'{"total": 12345678901234567890.10}'},
		more => q{type => 'shop.order', metadata => '{"tenant": "a b"}',
			expires_at => '2999-01-01 00:00Z'});
	my $binary = query($node,
		q{SELECT outbox_publish_bytes('events/orders', '\x00ff0a', 'image/png')});
	wait_state($node, [ $id, $binary ], 'published');
	all_have_arrived([ $id, $binary ], 'events/orders', 0);

	my %messages = map { $_->{properties}{id} => $_ } $broker->messages('events/orders');
	my $message = $messages{$id};
	is($message->{payload}, '{"total": 12345678901234567890.10}', 'the body');
	is($message->{content_type}, 'application/json', 'it says what it is');
	is_deeply([ $message->{qos}, $message->{retain} ], [ 1, JSON::PP::false ],
		'to be acknowledged, not to be retained');
	my %properties = %{ $message->{properties} };
	like(delete $properties{time}, qr/^\d{4}-.*Z$/, 'the time');
	like(delete $properties{source}, qr{^/}, 'the source');
	is_deeply(
		\%properties,
		{
			specversion => '1.0',
			id => $id,
			type => 'shop.order',
			topic => 'events/orders',
			expirytime => '2999-01-01T00:00:00.000000Z',
			partitionkey => "K\x{e4}se 1",
			tenant => 'a b',
		},
		'the attributes');
	is($messages{$binary}{payload}, "\x00\xff\x0a", 'bytes are bytes');
	is($messages{$binary}{content_type}, 'image/png', 'and say what they are');
};

promise 'in structured mode it is an envelope, and the topic is made of a template' => sub {
	reload(
		$node,
		'outbox_mqtt.content_mode' => 'structured',
		'outbox_mqtt.topic' => 'events/{topic}/{key}');
	my $id = publish($node, 'enveloped', key => 'k1', payload => q{'{"n": 1}'});
	wait_state($node, $id, 'published');
	my ($message) = poll_until(sub { ($broker->messages('events/enveloped/k1'))[0] },
		'the message');
	is($message->{content_type}, 'application/cloudevents+json', 'it says so');
	my $event = JSON::PP->new->decode($message->{payload});
	is_deeply([ @$event{qw(id topic partitionkey data)} ],
		[ $id, 'enveloped', 'k1', { n => 1 } ], 'the envelope');
};

promise 'what no message can carry is dead with the reason, and nothing else is' => sub {
	my %ids = map { $_ => scalar publish($node, $_) } ('a/+/b', 'a/#', '$SYS/broker');
	my $named = publish($node, 'events/named', more => q{metadata => '{"ID": "forged"}'});
	my $large = publish($node, 'large', payload => q{to_jsonb(repeat('x', 900000))});
	my $good = publish($node, 'events/good');
	is_dead($ids{'a/+/b'}, qr/wildcard/, 'one wildcard');
	is_dead($ids{'a/#'}, qr/wildcard/, 'the other one');
	is_dead($ids{'$SYS/broker'}, qr/reserved by MQTT/, 'the topics of the broker');
	is_dead($named, qr/"ID" in metadata is reserved/, 'the name of an attribute');
	is_dead($large, qr/larger than the broker takes/, 'a large one');
	wait_state($node, $good, 'published');
};

promise 'what we may not write is held, with the reason, and nothing else is' => sub {
	my $id = publish($node, 'forbidden');
	my $good = publish($node, 'events/allowed');
	wait_state($node, $good, 'published');
	poll_until(sub { event_value($node, $id, 'last_error') =~ /not authorized \(135\)/ },
		'its failure');
	is(event_value($node, $id, 'last_status'), 135, 'the status is there');
	query($node, "SELECT outbox_discard('$id')");
	wait_settled($node);
};

promise 'that nobody has subscribed is a failure, or none' => sub {
	reload(
		$node,
		'outbox.max_retry_times' => 1,
		'outbox.local_retry_times' => 0);
	my $id = publish($node, 'nobody');
	is_dead($id, qr/no matching subscribers \(16\)/, 'it failed');
	reload($node, 'outbox_mqtt.no_subscriber' => 'accept');
	query($node, "SELECT outbox_retry('$id')");
	wait_state($node, $id, 'published');
};

promise 'the events of a key arrive in their order' => sub {
	publish($node, 'events/keys', count => 3000, more => q{key => 'k' || n % 7});
	wait_sent($node);
	poll_until(sub { scalar($broker->messages('events/keys')) >= 3000 }, 'all to arrive');
	my %last;
	my @late;
	foreach my $n (map { $_->{payload} } $broker->messages('events/keys'))
	{
		push @late, $n if $n < ($last{ $n % 7 } // 0);
		$last{ $n % 7 } = $n;
	}
	is_deeply(\@late, [], 'no event is behind a later one of its key');
};

promise 'a broker that ends under load, or is killed, loses nothing of ours' => sub {
	my @ids = publish($node, 'events/killed', count => 2000);
	poll_until(sub { scalar $broker->messages('events/killed') }, 'some to arrive');
	$broker->stop;
	push @ids, publish($node, 'events/killed', count => 2000);
	wait_relay_value($node, state => 'endpoint down');
	$broker->start;
	poll_until(sub { scalar($broker->messages('events/killed')) > 100 }, 'more to arrive');
	$broker->restart;
	wait_sent($node);
	all_have_arrived(\@ids, 'events/killed', 2000);

	$broker->kill;
	my $id = publish($node, 'events/killed');
	wait_relay_value($node, state => 'endpoint down');
	$broker->start;
	wait_state($node, $id, 'published');
};

promise 'a broker that hangs is noticed, and goes on' => sub {
	reload($node, 'outbox.request_timeout' => '1s');
	my $id = publish($node, 'events/hung');
	wait_state($node, $id, 'published');
	$broker->hang;
	my @ids = ($id, publish($node, 'events/hung', count => 500));
	wait_relay_value($node, state => 'endpoint down');
	like(relay_value($node, 'last_error'), qr/timed out/, 'the reason is shown');
	$broker->go_on;
	wait_sent($node);
	all_have_arrived(\@ids, 'events/hung', 1000);
};

promise 'settings that change under load lose and repeat nothing' => sub {
	my @ids = settings_change_under_load($node, 'events/reloaded', 'outbox_mqtt');
	all_have_arrived(\@ids, 'events/reloaded', 0);
};

promise 'a reload under load is enough for another publisher, and back' => sub {
	my @ids = publisher_changes_under_load($node, 'events/switched', 'outbox_mqtt',
		start_receiver(mode => 'http'));
	all_have_arrived(\@ids, 'events/switched', 1000);
};

promise 'with 30 MB in flight to a broker that hangs, the relay ends in a second' => sub {
	relay_ends_beside_hanging($node, $broker, 'events/large');
	wait_states($node, 'events/large', 'published*60', 'all are published');
};

promise 'an outage is shown with its reason, and costs no attempt' => sub {
	my $port = Real::Server::free_port();
	is_outage_of(qr/could not connect to "127\.0\.0\.1": Connection refused/,
		'outbox_mqtt.url' => "mqtt://127.0.0.1:$port");
	is_outage_of(qr/could not resolve "nowhere\.invalid"/,
		'outbox_mqtt.url' => 'mqtt://nowhere.invalid');
	write_secret($broker->dir . '/wrong', "wrong\n");
	is_outage_of(qr/refused the connection: not authorized/,
		'outbox_mqtt.password_file' => $broker->dir . '/wrong');
	my $mute = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 1) or die;
	is_outage_of(qr/timed out logging in/,
		'outbox.connect_timeout' => '300ms',
		'outbox.request_timeout' => '300ms',
		'outbox_mqtt.url' => 'mqtt://127.0.0.1:' . $mute->sockport);
	is_outage_of(qr/closed the connection|could not receive/,
		'outbox_mqtt.url' => 'mqtt://127.0.0.1:' . $broker->tls_port);
};

promise 'with TLS, both show who they are' => sub {
	my %tls = (
		'outbox_mqtt.url' => 'mqtts://127.0.0.1:' . $broker->tls_port,
		'outbox_mqtt.tls_ca_file' => $authority->authority,
		'outbox_mqtt.tls_cert_file' => $client->{cert},
		'outbox_mqtt.tls_key_file' => $client->{key});
	reload($node, %tls);
	my @ids = publish($node, 'events/tls', count => 300,
		payload => q{to_jsonb(repeat('x', 20000))});
	wait_sent($node);
	all_have_arrived(\@ids, 'events/tls', 0);
	is_outage_of(qr/certificate/,
		%tls, 'outbox_mqtt.tls_ca_file' => Real::Certificates->new->authority);
	is_outage_of(qr/hostname mismatch/,
		%tls, 'outbox_mqtt.url' => 'mqtts://localhost:' . $broker->tls_port);
};

promise 'settings that cannot be are refused' => sub {
	foreach my $case (
		[ 'outbox_mqtt.url' => 'http://x', qr/scheme is not known/ ],
		[ 'outbox_mqtt.url' => 'mqtt://u:p@x', qr/must not contain a user name/ ],
		[ 'outbox_mqtt.url' => 'mqtt://x/y', qr/must not have a path/ ],
		[ 'outbox_mqtt.topic' => '{nothing}', qr/Braces can only be/ ],
		[ 'outbox_mqtt.client_id' => 'x' x 70000, qr/too long for MQTT/ ])
	{
		my ($name, $value, $reason) = @$case;
		my (undef, undef, $stderr) =
		  $node->psql('postgres', "SET $name = '$value'");
		like($stderr, $reason, $name);
	}
	my $file = $broker->dir . '/long';
	write_secret($file, 'x' x 65536);
	reload($node, 'outbox_mqtt.password_file' => $file);
	poll_until(
		sub {
			check_value($node, 'publisher configured', 'detail') =~
			  /password is too long for MQTT/;
		},
		'the reason to be shown');
};

promise 'a file that has changed is read again' => sub {
	follows_file($node, 'events/file', 'outbox_mqtt.password_file',
		$broker->dir . '/rotated', "wrong\n", slurp_file($broker->dir . '/password'));
};

done_testing();
