# What a broker refuses is judged by its word: of an event, of its topic, or of us.
#
# Promises:
# - An event that is too large, for its topic or for librdkafka, is dead at once;
#   those that shared a batch with it go through, without an attempt.
# - Small events that are too large together go through one by one.
# - An event without a key, for a topic that keeps the last one of each key, is
#   dead at once.
# - A topic that is not there, that was deleted, or that we have no right on fails
#   by itself: others go on, and so does it when its cause is gone.
# - Without the right to be idempotent librdkafka makes no further attempt; we do.
# - A wrong password is shown at once, costs no attempt, and is over with the right
#   one.
# - With TLS, only a certificate of the authority, and for the name of the broker,
#   is taken; and ours is shown if the broker wants one.
# - A relay that ends in the middle of TLS takes no other process with it.

use strict;
use warnings FATAL => 'all';

use Test::More;
use Time::HiRes qw(time);

use lib 'test/lib';
use OutboxTest;
use PostgreSQL::Test::Utils;
use Real::Certificates;
use Real::Kafka;

my $missing = Real::Kafka->missing;
plan skip_all => $missing if $missing;

my $broker = Real::Kafka->new(secure => 1);
my $node = new_node(
	'kafka_refusals',
	conf => {
		'shared_preload_libraries' => 'outbox, outbox_kafka',
		'outbox.publisher' => 'outbox_kafka',
		'outbox.request_timeout' => '5s',
		'outbox.max_payload_size' => '8MB',
		'outbox_kafka.bootstrap_servers' => $broker->bootstrap,
	});
query($node, 'CREATE EXTENSION outbox');

my $options = $node->basedir . '/options';

# Settings that go to a listener, with these options of librdkafka
sub by_listener
{
	my ($listener, @lines) = @_;
	write_secret($options, join('', map { "$_\n" } @lines));
	return (
		'outbox_kafka.bootstrap_servers' => $broker->bootstrap($listener),
		'outbox_kafka.options_file' => $options);
}

# The options of a user
sub as_user
{
	my ($user, $password) = @_;
	return (
		'security.protocol = sasl_plaintext',
		'sasl.mechanism = PLAIN',
		"sasl.username = $user",
		'sasl.password = ' . ($password // 'secret'));
}

# How many records there are of each of these ids, as "1 1 1"
sub copies
{
	my ($topic, @ids) = @_;
	my %seen;
	$seen{$_}++ foreach $broker->ids($topic);
	return join ' ', map { $seen{$_} // 0 } @ids;
}

# This event is dead after one attempt, with this reason and Kafka's number.
sub is_refused
{
	my ($id, $error, $status) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_state($node, $id, 'dead');
	is(event_value($node, $id, 'attempts, last_status'),
		"1|$status", 'it is dead at the first try, with its number');
	like(event_value($node, $id, 'last_error'), $error, 'and the reason');
	return;
}

promise 'an event that its topic does not take is dead, and nothing else is' => sub {
	$broker->create_topic('small', config => { 'max.message.bytes' => 2000 });
	my @ids = split /\n/,
	  query($node, q{SELECT outbox_publish('small',
		to_jsonb(repeat('x', CASE WHEN n = 3 THEN 3000 ELSE 10 END)))
		FROM generate_series(1, 5) n});
	is_refused($ids[2], qr/Message size too large/, 10);
	wait_settled($node);
	is(copies('small', @ids), '1 1 0 1 1', 'the others are there, once');
	is(query($node, q{SELECT max(attempts) FROM outbox_events WHERE state = 'published'}),
		1, 'with one attempt each');
};

promise 'events that are too large together go one by one' => sub {
	$broker->create_topic('together', config => { 'max.message.bytes' => 2000 });
	my @ids = publish($node, 'together', count => 100,
		payload => q{to_jsonb(repeat('x', 100))});
	wait_settled($node);
	is(copies('together', @ids), join(' ', (1) x 100), 'each is there, once');
};

promise 'an event that librdkafka does not take is dead, and what it takes can be changed' => sub {
	$broker->create_topic('large', config => { 'max.message.bytes' => 5_000_000 });
	my %event = (payload => q{to_jsonb(repeat('x', 2000000))});
	is_refused(scalar publish($node, 'large', %event), qr/larger than message\.max\.bytes/, '');
	reload($node, by_listener('plaintext', 'message.max.bytes = 5000000'));
	restart_relay($node);
	my $id = publish($node, 'large', %event);
	wait_state($node, $id, 'published');
	is(length(($broker->records('large'))[0]{value}), 2_000_002, 'it is there');
};

promise 'a compacted topic takes no event without a key' => sub {
	$broker->create_topic('compacted', config => { 'cleanup.policy' => 'compact' });
	my @ids = (
		scalar publish($node, 'compacted', key => 'k'),
		scalar publish($node, 'compacted'),
		scalar publish($node, 'compacted', key => 'l'));
	is_refused($ids[1], qr/Broker/, 87);
	wait_settled($node);
	is(copies('compacted', @ids), '1 0 1', 'those that have one are there');
};

# These events fail for this reason, while others go on.
sub fails_alone
{
	my ($topic, $error, $other) = @_;
	my @ids = publish($node, $topic, count => 20);
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	poll_until(
		sub {
			query($node, q{SELECT last_error FROM outbox_topics WHERE topic = }
				  . literal($topic)) =~ $error;
		},
		"$topic to be down for $error");
	wait_state($node, scalar publish($node, $other), 'published');
	is(query($node, q{SELECT count(*) FROM outbox_events WHERE state = 'dead' AND topic = }
			  . literal($topic)),
		0, 'no event dies of it');
	return @ids;
}

promise 'a topic that is not there fails alone, until it is' => sub {
	$broker->create_topic('there');
	wait_state($node, scalar publish($node, 'there'), 'published');
	my @ids = fails_alone('absent', qr/Unknown topic/i, 'there');
	$broker->create_topic('absent');
	wait_state($node, \@ids, 'published');
	is(copies('absent', @ids), join(' ', (1) x 20), 'all are there then');
};

promise 'a topic that is deleted and made again goes on' => sub {
	$broker->create_topic('again');
	wait_state($node, scalar publish($node, 'again'), 'published');
	my @ids = publish($node, 'again', count => 5000);
	$broker->delete_topic('again');
	push @ids, publish($node, 'again', count => 100);
	$broker->create_topic('again');
	poll_until(sub { stat_value($node, 'backlog') eq '0' }, 'the rest', 60);
	is(states($node, 'again'), 'published*5101', 'all were published');
};

promise 'a topic that we have no right on fails alone' => sub {
	$broker->create_topic($_) foreach qw(bobs not.bobs);
	reload($node, by_listener('sasl', as_user('bob')));
	restart_relay($node);
	wait_state($node, scalar publish($node, 'bobs'), 'published');
	my @ids = fails_alone('not.bobs', qr/Topic authorization failed/, 'bobs');
	reload($node, by_listener('sasl', as_user('alice')));
	wait_state($node, \@ids, 'published');
};

promise 'without the right to be idempotent, a producer is made anew' => sub {
	$broker->create_topic('carols');
	reload($node, by_listener('sasl', as_user('carol')));
	restart_relay($node);
	my $id = publish($node, 'carols');
	wait_relay_value($node, last_error => qr/authorization failed/);
	wait_relay_value($node, state => 'endpoint down');
	is(event_value($node, $id, 'attempts'), 0, 'it is no attempt');
	$broker->allow('carol', 'carols');
	wait_state($node, $id, 'published');
	my $pid = wait_relay($node);
	poll_until(sub { (() = glob("/proc/$pid/task/*")) < 12 },
		'the threads of the others to end');
};

promise 'a wrong password is shown, and is over with the right one' => sub {
	$broker->create_topic('password');
	reload($node, by_listener('sasl', as_user('alice', 'canary')));
	restart_relay($node);
	my $start = time();
	my $id = publish($node, 'password');
	wait_relay_value($node, state => 'endpoint down');
	wait_relay_value($node, last_error => qr/Authentication failed/i);
	cmp_ok(time() - $start, '<', 4, 'before the event has timed out');
	is(event_value($node, $id, 'attempts'), 0, 'it is no attempt');
	reload($node, by_listener('sasl', as_user('alice')));
	wait_state($node, $id, 'published');
	unlike(slurp_file($node->logfile), qr/canary/, 'it is not in the log');
};

# With these settings an event is not sent, for this reason.
sub is_not_trusted
{
	my ($error, %settings) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	reload($node, %settings);
	restart_relay($node);
	my $id = publish($node, 'tls');
	wait_relay_value($node, state => 'endpoint down');
	wait_relay_value($node, last_error => $error);
	is(event_value($node, $id, 'attempts'), 0, 'it is no attempt');
	return;
}

promise 'with TLS, both show who they are' => sub {
	$broker->create_topic('tls');
	my %tls = (
		by_listener('tls', 'security.protocol = ssl'),
		'outbox_kafka.tls_ca_file' => $broker->authority->authority);
	my ($port) = $broker->bootstrap('tls') =~ /:(\d+)$/;

	is_not_trusted(qr/certificate verify failed|unable to get local issuer/,
		%tls, 'outbox_kafka.tls_ca_file' => Real::Certificates->new->authority);
	is_not_trusted(qr/certificate verify failed|hostname mismatch/i,
		%tls, 'outbox_kafka.bootstrap_servers' => "localhost:$port");
	reload($node, %tls);
	wait_settled($node);
	is(scalar($broker->ids('tls')), 2, 'with the right ones it is sent');

	%tls = (%tls, 'outbox_kafka.bootstrap_servers' => $broker->bootstrap('mtls'));
	is_not_trusted(qr/SSL handshake|Disconnected|alert|certificate/i, %tls);
	my $client = $broker->authority->issue('client', 'DNS:client');
	reload(
		$node, %tls,
		'outbox_kafka.tls_cert_file' => $client->{cert},
		'outbox_kafka.tls_key_file' => $client->{key});
	wait_settled($node);
	is(scalar($broker->ids('tls')), 3, 'a certificate of ours is shown');
	reload($node, 'outbox_kafka.tls_cert_file' => undef, 'outbox_kafka.tls_key_file' => undef,
		by_listener('sasltls', as_user('alice'), 'security.protocol = sasl_ssl'));
	wait_state($node, scalar publish($node, 'tls'), 'published');
};

promise 'a relay that ends in the middle of TLS takes no other process with it' => sub {
	$broker->create_topic('ends');
	reload($node, by_listener('tls', 'security.protocol = ssl'),
		'outbox_kafka.tls_ca_file' => $broker->authority->authority);
	restart_relay($node);
	my @ids;
	foreach (1 .. 10)
	{
		push @ids, publish($node, 'ends', count => 2000,
			payload => q{to_jsonb(repeat('x', 3000))});
		poll_until(sub { relay_value($node, 'in_flight') > 0 || stat_value($node, 'backlog') eq '0' },
			'events in flight');
		restart_relay($node);
	}
	poll_until(sub { stat_value($node, 'backlog') eq '0' }, 'the rest', 60);
	unlike(slurp_file($node->logfile), qr/was terminated by signal/, 'none has crashed');
	is(scalar(grep { $_ eq '0' } split / /, copies('ends', @ids)), 0, 'nothing is lost');
};

done_testing();
