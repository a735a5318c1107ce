# Whatever becomes of the broker and of the way to it, no event is lost, the relay
# does not wait, and it is said what is wrong.
#
# Promises:
# - A broker that is killed twice under load loses nothing that was published;
#   what arrives twice was in flight then.
# - A broker that hangs keeps nothing but its own events waiting: the relay notices
#   by the time of a request or by heartbeats, goes on when the broker does, and
#   ends within a second when it is told to, with 30 MB in flight.
# - An outage (nobody there, a name that is not known, a name server that does not
#   answer, a wrong password, a wrong virtual host) is shown with its reason, costs
#   no attempt, and is over without anybody's doing when its cause is.
# - With TLS, only a certificate of the authority, and for the name in the URL, is
#   taken; and ours is shown if the broker wants one.
# - When an administrator closes the connection, nothing is lost.
# - A file that has changed is read again, and one that cannot be used is not.

use strict;
use warnings FATAL => 'all';

use IO::Socket::INET;
use Test::More;

use lib 'test/lib';
use OutboxTest;
use OutboxTest::Outage qw(follows_file relay_ends_beside_hanging relay_ends_soon wait_sent);
use PostgreSQL::Test::Utils;
use Real::Certificates;
use Real::RabbitMQ;

my $missing = Real::RabbitMQ->missing;
plan skip_all => $missing if $missing;

# How many events may be in flight, and so arrive twice after each crash
my $window = 200;

my $authority = Real::Certificates->new;
my $broker = Real::RabbitMQ->new(
	tls => $authority->issue('server', 'IP:127.0.0.1'),
	conf => {
		'ssl_options.verify' => 'verify_peer',
		'ssl_options.fail_if_no_peer_cert' => 'true'
	});
$broker->declare_queue('events', exchange => 'shop');

# For the name server that does not answer
my ($libraries) = slurp_file($ENV{TEMP_CONFIG}) =~ /dynamic_library_path = '([^:']+)/;
my $node;
{
	local $ENV{LD_PRELOAD} = "$libraries/outbox_test_resolver.so";
	$node = new_node(
		'rabbitmq_outage',
		conf => {
			$broker->settings('shop'),
			'outbox_rabbitmq.max_messages' => $window,
			'outbox.relay_memory' => '64MB'
		});
}
query($node, 'CREATE EXTENSION outbox');

# Test that each of these is in the queue, and at most so many of them twice.
sub all_are_there
{
	my ($ids, $max_twice) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my %seen;

	$seen{$_}++ foreach $broker->take_ids('events');
	is(scalar(grep { !$seen{$_} } @$ids), 0, 'nothing is lost');
	my $twice = grep { ($seen{$_} // 0) > 1 } @$ids;
	cmp_ok($twice, '<=', $max_twice, "$twice events are there twice");
	return;
}

# The port that the relay's connection comes from, and how many packets of it
# RabbitMQ has received
sub connection
{
	my ($line) = $broker->ctl('list_connections', 'peer_port', 'recv_cnt') =~ /^(\d+\t\d+)$/m;
	return split /\t/, $line // "0\t0";
}

# Hundredths of a second that a process has worked
sub cpu_ticks
{
	my ($pid) = @_;
	my @fields = split / /, slurp_file("/proc/$pid/stat") =~ s/^.*\) //r;
	return $fields[11] + $fields[12];
}

# Wait until so many of the events have been published.
sub wait_published
{
	my ($n) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return poll_until(sub { (stat_value($node, 'published') || 0) >= $n },
		"$n events to be published", 120);
}

# With these settings an event is not sent, for this reason and without an
# attempt; without them it is.
sub is_outage
{
	my ($error, %settings) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	reload($node, %settings);
	my $id = publish($node, 'orders');
	wait_relay_value($node, state => 'endpoint down');
	wait_relay_value($node, last_error => $error);
	like(check_value($node, 'endpoint answers', 'detail'), $error, "it is said: $error");
	is(event_value($node, $id, 'state, attempts'), 'pending|0', 'no attempt');
	reload($node, $broker->settings('shop'),
		map { $_ => undef } grep { /tls|timeout/ } keys %settings);
	wait_state($node, $id, 'published');
	all_are_there([$id], 0);
	return;
}

promise 'a broker that is killed twice under load loses nothing' => sub {
	my @ids = publish($node, 'killed', count => 3000);
	wait_published(200);
	$broker->kill;
	push @ids, publish($node, 'killed', count => 3000);
	wait_relay_value($node, state => 'endpoint down');
	my $before = stat_value($node, 'published');
	$broker->start;
	wait_published($before + 200);
	$broker->kill;
	$broker->start;
	wait_sent($node);
	all_are_there(\@ids, 2 * $window);
	is(query($node, q{SELECT count(*) FROM outbox_events WHERE state <> 'published'}),
		0, 'all are published');
};

promise 'a broker that hangs is noticed, and goes on' => sub {
	reload($node, 'outbox.request_timeout' => '2s');
	my $id = publish($node, 'hung');
	wait_state($node, $id, 'published');
	$broker->hang;
	my @ids = ($id, publish($node, 'hung', count => 1000), publish($node, 'hung.too'));
	wait_relay_value($node, state => 'endpoint down');
	like(relay_value($node, 'last_error'), qr/timed out/, 'the reason is shown');
	$broker->go_on;
	wait_state($node, $ids[-1], 'published');
	wait_settled($node);
	all_are_there(\@ids, 2 * $window);
};

promise 'an idle connection is kept by heartbeats, and one to a broker that hangs is not' => sub {
	reload($node, 'outbox_rabbitmq.heartbeat' => '1s', 'outbox.request_timeout' => '10min');
	restart_relay($node);
	my $id = publish($node, 'heart');
	wait_state($node, $id, 'published');
	like($broker->ctl('list_connections', 'timeout'), qr/^1$/m, 'RabbitMQ has agreed');
	my ($port, $received) = connection();
	poll_until(sub { (connection())[1] >= $received + 5 }, 'five more frames, of an idle relay');
	is((connection())[0], $port, 'it is the same connection');
	$broker->hang;
	my @ids = ($id, publish($node, 'heart'));
	wait_relay_value($node, last_error => qr/nothing was heard of .* for two heartbeats/);
	$broker->go_on;
	wait_state($node, $ids[-1], 'published');
	all_are_there(\@ids, 2);
};

promise 'with 30 MB in flight to a broker that hangs, the relay ends in a second' => sub {
	my @ids = relay_ends_beside_hanging($node, $broker, 'large');
	all_are_there(\@ids, 60);
};

promise 'an outage is shown with its reason, and costs no attempt' => sub {
	my $port = Real::Server::free_port();
	is_outage(qr/could not connect to "127\.0\.0\.1": Connection refused/,
		'outbox_rabbitmq.url' => "amqp://127.0.0.1:$port");
	is_outage(qr/could not resolve "nowhere\.invalid"/,
		'outbox_rabbitmq.url' => 'amqp://nowhere.invalid');
	is_outage(qr/vhost .*not found/,
		'outbox_rabbitmq.url' => $broker->url . '/nowhere');
	write_secret($broker->dir . '/wrong', 'wrong');
	is_outage(qr/ACCESS_REFUSED/,
		'outbox_rabbitmq.password_file' => $broker->dir . '/wrong');
	is_outage(qr/sent something that is not AMQP/,
		'outbox_rabbitmq.url' => 'amqp://127.0.0.1:' . $broker->tls_port);
	my $mute = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 1) or die;
	is_outage(qr/timed out logging in/,
		'outbox.connect_timeout' => '300ms',
		'outbox_rabbitmq.url' => 'amqp://127.0.0.1:' . $mute->sockport);
};

promise 'a request may take less time than a connection' => sub {
	my $pid = wait_relay($node);
	my $mute = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 1) or die;
	my $cpu = cpu_ticks($pid);
	is_outage(qr/timed out waiting for "127\.0\.0\.1"/,
		'outbox.connect_timeout' => '1min',
		'outbox.request_timeout' => '500ms',
		'outbox_rabbitmq.url' => 'amqp://127.0.0.1:' . $mute->sockport);
	cmp_ok(cpu_ticks($pid) - $cpu, '<', 40, 'it ends by that, and nobody turns in circles');
};

promise 'a name server that does not answer keeps nobody waiting' => sub {
	my $pid = wait_relay($node);
	is_outage(qr/timed out resolving "rabbit\.silent"/,
		'outbox.connect_timeout' => '300ms',
		'outbox_rabbitmq.url' => 'amqp://rabbit.silent');
	is(wait_relay($node), $pid, 'it is the same process');
	my $threads = () = glob("/proc/$pid/task/*");
	is($threads, 2, 'one thread still asks');
	relay_ends_soon($node, 'all the same');
};

promise 'with TLS, both show who they are' => sub {
	my $client = $authority->issue('client', 'DNS:client');
	my $url = 'amqps://127.0.0.1:' . $broker->tls_port;
	my %tls = (
		'outbox_rabbitmq.url' => $url,
		'outbox_rabbitmq.tls_ca_file' => $authority->authority,
		'outbox_rabbitmq.tls_cert_file' => $client->{cert},
		'outbox_rabbitmq.tls_key_file' => $client->{key});

	reload($node, %tls);
	restart_relay($node);
	my @ids = publish($node, 'tls', count => 300,
		payload => q{to_jsonb(repeat('x', 20000))});
	wait_settled($node);
	all_are_there(\@ids, 0);
	like($broker->ctl('list_connections', 'ssl'), qr/^true$/m, 'it is encrypted');

	is_outage(qr/certificate/,
		%tls, 'outbox_rabbitmq.tls_ca_file' => Real::Certificates->new->authority);
	is_outage(qr/hostname mismatch/,
		%tls, 'outbox_rabbitmq.url' => 'amqps://localhost:' . $broker->tls_port);
	is_outage(qr/TLS.*failed/,
		%tls,
		'outbox_rabbitmq.tls_cert_file' => '',
		'outbox_rabbitmq.tls_key_file' => '');
	is_outage(qr/TLS handshake with "127\.0\.0\.1" failed/,
		%tls, 'outbox_rabbitmq.url' => 'amqps://127.0.0.1:' . $broker->port);
};

promise 'nothing is lost when an administrator closes the connection' => sub {
	my @ids = publish($node, 'closed', count => 5000);
	wait_published(1);
	$broker->ctl('close_all_connections', 'by the test');
	wait_settled($node);
	all_are_there(\@ids, $window);
};

promise 'a file that has changed is read again' => sub {
	follows_file($node, 'file', 'outbox_rabbitmq.password_file',
		$broker->dir . '/rotated', "wrong\n", slurp_file($broker->dir . '/password'));
};

done_testing();
