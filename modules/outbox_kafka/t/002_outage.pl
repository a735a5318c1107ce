# Whatever becomes of the broker and of the way to it, no event is lost, the relay
# does not wait, and it is said what is wrong.
#
# Promises:
# - A broker that is killed twice under load loses nothing that was published, and
#   has nothing twice: a producer that lives on sends again what was not
#   acknowledged, and the broker knows it.
# - A broker that hangs keeps nothing but its own events waiting: after five
#   seconds all goes on, without a duplicate.  When it hangs longer than a request
#   may take, that is shown; what was in flight then may arrive twice.
# - The relay ends within a second when it is told to, with 30 MB in flight to a
#   broker that hangs, or with a name server that does not answer; and so it goes
#   on with another publisher.
# - An outage (nobody there, a name that is not known, a name server that does not
#   answer, no TLS where we want it) is shown at once with its reason, costs no
#   attempt, and is over without anybody's doing when its cause is.  When the reason
#   changes meanwhile, the new one is shown.
# - A connection that was closed while nothing was sent is no outage.
# - A file that has changed is read again, and one that cannot be used is not.

use strict;
use warnings FATAL => 'all';

use Test::More;
use Time::HiRes qw(time);

use lib 'test/lib';
use OutboxTest;
use OutboxTest::Outage qw(follows_file relay_ends_soon);
use PostgreSQL::Test::Utils;
use Real::Kafka;
use Real::Listener;

my $missing = Real::Kafka->missing;
plan skip_all => $missing if $missing;

# How many events may be in flight
my $window = 1000;

my $broker = Real::Kafka->new(properties => <<"EOF");
connections.max.idle.ms=3000
EOF

# For the name server that does not answer
my ($libraries) = slurp_file($ENV{TEMP_CONFIG}) =~ /dynamic_library_path = '([^:']+)/;
my $node;
{
	local $ENV{LD_PRELOAD} = "$libraries/outbox_test_resolver.so";
	$node = new_node(
		'kafka_outage',
		conf => {
			'shared_preload_libraries' => 'outbox, outbox_kafka',
			'outbox.publisher' => 'outbox_kafka',
			'outbox_kafka.bootstrap_servers' => $broker->bootstrap,
			'outbox.relay_memory' => '64MB'
		});
}
query($node, 'CREATE EXTENSION outbox');

# Test that each of these is in the topic, and at most so many of them twice.
sub all_are_there
{
	my ($topic, $ids, $max_twice) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my %seen;

	$seen{$_}++ foreach $broker->ids($topic);
	is(scalar(grep { !$seen{$_} } @$ids), 0, 'nothing is lost');
	my $twice = grep { ($seen{$_} // 0) > 1 } @$ids;
	cmp_ok($twice, '<=', $max_twice, "$twice events are there twice");
	return;
}

sub wait_published
{
	my ($n) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return poll_until(sub { (stat_value($node, 'published') || 0) >= $n },
		"$n events to be published", 120);
}

sub wait_rest
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return poll_until(sub { stat_value($node, 'backlog') eq '0' },
		'all to be published', 120);
}

promise 'a broker that is killed twice under load loses and repeats nothing' => sub {
	# so that nothing times out while the broker starts
	reload($node, 'outbox.request_timeout' => '2min');
	$broker->create_topic('killed', partitions => 3);
	my $before = stat_value($node, 'published') || 0;
	my @ids = publish($node, 'killed', count => 20000);
	wait_published($before + 1000);
	$broker->kill->start;
	wait_published($before + 5000);
	push @ids, publish($node, 'killed', count => 10000);
	$broker->kill->start;
	wait_rest();
	all_are_there('killed', \@ids, 0);
	is(query($node, q{SELECT count(*) FROM outbox_events WHERE attempts > 1}),
		0, 'no attempt failed');
};

promise 'a broker that hangs for five seconds delays its events' => sub {
	$broker->create_topic('hung');
	my $before = stat_value($node, 'published') || 0;
	my @ids = publish($node, 'hung', count => 20000);
	wait_published($before + 1000);
	$broker->hang;
	my $start = time();
	poll_until(sub { time() > $start + 5 }, 'five seconds to pass');
	$broker->go_on;
	wait_rest();
	all_are_there('hung', \@ids, 0);
};

promise 'a broker that hangs longer than a request may take is noticed' => sub {
	reload($node, 'outbox.request_timeout' => '3s');
	$broker->create_topic('stuck');
	my @ids = publish($node, 'stuck');
	wait_state($node, $ids[0], 'published');
	$broker->hang;
	push @ids, publish($node, 'stuck', count => 1000);
	wait_relay_value($node, last_error => qr/timed out/i);
	wait_relay_value($node, state => 'endpoint down');
	$broker->go_on;
	wait_rest();
	all_are_there('stuck', \@ids, $window);
	is(query($node, q{SELECT count(*) FROM outbox_events WHERE state <> 'published'}),
		0, 'all are published');
};

promise 'with 30 MB in flight to a broker that hangs, the relay ends in a second, or goes on with another publisher'
  => sub {
	my $receiver = start_receiver(mode => 'http');
	my %large = (count => 60, payload => q{to_jsonb(repeat('x', 500000))});

	$broker->create_topic($_) foreach qw(large larger);
	wait_state($node, scalar publish($node, 'large'), 'published');
	$broker->hang;
	my @ids = publish($node, 'large', %large);
	wait_relay_value($node, in_flight => 60);
	relay_ends_soon($node, 'with 30 MB in flight');
	wait_relay($node);
	my @more = publish($node, 'larger', %large);
	reload(
		$node,
		'outbox.publisher' => 'http',
		'outbox.http_url' => $receiver->url . '/events');
	wait_delivered($receiver, [ @ids, @more ], 60);
	wait_rest();
	reload($node, 'outbox.publisher' => 'outbox_kafka');
	$broker->go_on;
	my $id = publish($node, 'large');
	wait_state($node, $id, 'published');
};

# With these brokers an event is not sent, for this reason and without an attempt;
# with the right ones it is.
sub is_outage
{
	my ($error, $bootstrap, %settings) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	reload($node, 'outbox_kafka.bootstrap_servers' => $bootstrap, %settings);
	my $start = time();
	my $id = publish($node, 'outage');
	wait_relay_value($node, state => 'endpoint down');
	wait_relay_value($node, last_error => $error);
	my $seconds = time() - $start;
	cmp_ok($seconds, '<', 10, sprintf('it is noticed in %.1f s', $seconds));
	like(check_value($node, 'endpoint answers', 'detail'), $error, "it is said: $error");
	is(event_value($node, $id, 'attempts'), 0, 'no attempt');
	reload(
		$node,
		'outbox_kafka.bootstrap_servers' => $broker->bootstrap,
		map { $_ => undef } keys %settings);
	wait_state($node, $id, 'published');
	return;
}

promise 'an outage is shown with its reason, and costs no attempt' => sub {
	$broker->create_topic('outage');
	my $port = Real::Server::free_port();
	is_outage(qr/Connect to .*:$port failed: Connection refused/, "127.0.0.1:$port");
	is_outage(qr/Failed to resolve 'nowhere\.invalid/, 'nowhere.invalid');
	my $file = $node->basedir . '/tls';
	write_secret($file, "security.protocol = ssl\n");
	is_outage(qr/in state SSL_HANDSHAKE/, $broker->bootstrap,
		'outbox_kafka.options_file' => $file);
};

promise 'when the reason of an outage changes, the new one is shown' => sub {
	my $hasty = Real::Listener->new(sub { close($_[0]) });
	$broker->create_topic('changing');
	reload($node, 'outbox_kafka.bootstrap_servers' => '127.0.0.1:' . $hasty->port);
	my $start = time();
	my $id = publish($node, 'changing');
	wait_relay_value($node, last_error => qr/Disconnected/i);
	undef $hasty;
	wait_relay_value($node, last_error => qr/Connection refused/);
	my $seconds = time() - $start;
	cmp_ok($seconds, '<', 10, sprintf('both are noticed in %.1f s', $seconds));
	reload($node, 'outbox_kafka.bootstrap_servers' => $broker->bootstrap);
	wait_state($node, $id, 'published');
};

promise 'an outage ends when the broker is there' => sub {
	$broker->create_topic('stopped');
	wait_state($node, scalar publish($node, 'stopped'), 'published');
	$broker->stop;

	# by then, librdkafka has said all that it has to say of that
	my $start = time();
	poll_until(sub { time() > $start + 2 }, 'two seconds to pass');
	my @ids = publish($node, 'stopped', count => 100);
	$start = time();
	wait_relay_value($node, state => 'endpoint down');
	cmp_ok(time() - $start, '<', 10, 'it is noticed soon');
	$broker->start;
	wait_state($node, $ids[-1], 'published');
	wait_rest();
	all_are_there('stopped', \@ids, 0);
	is(query($node, q{SELECT max(attempts) FROM outbox_events WHERE topic = 'stopped'}),
		1, 'it cost no attempt');
};

promise 'a name server that does not answer keeps nobody waiting' => sub {
	$broker->create_topic('silent');
	reload($node, 'outbox_kafka.bootstrap_servers' => 'kafka.silent:9092',
		'outbox.request_timeout' => '3s');
	my $id = publish($node, 'silent');
	wait_relay_value($node, last_error => qr/timed out/i);
	my $pid = wait_relay($node);
	reload($node, 'outbox_kafka.bootstrap_servers' => $broker->bootstrap);
	wait_state($node, $id, 'published');
	is(wait_relay($node), $pid, 'the relay goes on with other brokers');
	relay_ends_soon($node, 'while a thread still asks');
};

promise 'a connection that was closed while nothing was sent is no outage' => sub {
	$broker->create_topic('idle');
	wait_state($node, scalar publish($node, 'idle'), 'published');
	my $pid = wait_relay($node);
	my $is_connected = sub {
		my ($hex) = map { sprintf '%04X', $_ } $broker->port;
		my %mine = map { (readlink($_) // '') =~ /socket:\[(\d+)\]/ ? ($1 => 1) : () }
		  glob("/proc/$pid/fd/*");
		return grep { /:$hex 01 / && $mine{ (split)[9] } } split /\n/,
		  slurp_file("/proc/$pid/net/tcp");
	};
	ok($is_connected->(), 'there is a connection');
	poll_until(sub { !$is_connected->() }, 'the broker to close it');
	isnt(relay_value($node, 'state'), 'endpoint down', 'nobody is alarmed');
	my $start = time();
	wait_state($node, scalar publish($node, 'idle'), 'published');
	cmp_ok(time() - $start, '<', 4, 'the next event goes at once');
};

promise 'a file that has changed is read again' => sub {
	$broker->create_topic('file');
	follows_file($node, 'file', 'outbox_kafka.options_file',
		$node->basedir . '/rotated', "security.protocol = ssl\n", "client.id = again\n");
};

done_testing();
