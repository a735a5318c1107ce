# Promises, against a real Redis server:
# - Two lines of configuration, and what is published is in a stream, as any client
#   reads it: id, key, type, metadata and body as published.
# - In structured mode, it is an envelope; a stream keeps as much as it shall.
# - What is no stream holds its own topic only.
# - The events of a key are in their order.
# - With "wait", replicas have an event before it is published.
# - A server that is killed twice under load loses nothing; one that hangs keeps
#   nothing but its own events waiting, and the relay ends within a second when it
#   is told to, with 30 MB in flight.
# - A reload under load is enough to have other settings, which repeats nothing, or
#   another publisher.
# - A server that takes entries slower than they come does not make the relay grow.
# - A server that stops answering while it is probed is left, and that is said.
# - When a connection is lost over the entries of one topic, it is that topic's failure,
#   and the others go on.
# - Only the id of an entry says that there is one, and no answer makes the relay
#   keep more of it than an answer can have.
# - An outage (nobody there, wrong password, out of memory, no right) is shown with
#   its reason, costs no attempt, and is over when its cause is.
# - A file that has changed is read again, and one that cannot be used is not.
# - With TLS, only a certificate of the authority, and for the name in the URL, is
#   taken; and ours is shown.  A Unix-domain socket will do, too.

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
use Real::Listener;
use Real::Redis;
use Real::SlowProxy;

my $missing = Real::Redis->missing;
plan skip_all => $missing if $missing;

my $authority = Real::Certificates->new;
my $server = $authority->issue('server', 'IP:127.0.0.1');
my $client = $authority->issue('client', 'DNS:client');
my $tls_port = Real::Server::free_port();
my $redis = Real::Redis->new(
	arguments => [
		'--unixsocket' => PostgreSQL::Test::Utils::tempdir_short() . '/redis',
		'--tls-port' => $tls_port,
		'--tls-cert-file' => $server->{cert},
		'--tls-key-file' => $server->{key},
		'--tls-ca-cert-file' => $authority->authority,
	]);
my %settings = ('outbox_redis.url' => 'redis://127.0.0.1:' . $redis->port);
my $node = new_node(
	'redis',
	conf => {
		shared_preload_libraries => 'outbox, outbox_redis',
		'outbox.publisher' => 'outbox_redis',
		'outbox.relay_memory' => '64MB',
		%settings,
	});
query($node, 'CREATE EXTENSION outbox');

# Test that each of these is in the stream, and how many of them twice at most.
sub all_are_there
{
	my ($ids, $stream, $max_twice) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my %seen;

	$seen{ $_->{id} }++ foreach $redis->entries($stream);
	is(scalar(grep { !$seen{$_} } @$ids), 0, 'nothing is lost');
	my $twice = grep { ($seen{$_} // 0) > 1 } @$ids;
	cmp_ok($twice, '<=', $max_twice, "$twice events are there twice");
	return;
}

# Wait until so many events have been published.
sub wait_published
{
	my ($n) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return poll_until(sub { (stat_value($node, 'published') || 0) >= $n },
		"$n events to be published", 120);
}

# With these settings nothing is sent, for this reason; without them it is.
sub is_outage_of
{
	my ($error, %other) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is_outage_with($node, 'outage', $error, \%settings, %other);
}

promise 'an event is in the stream as it was published' => sub {
	my $id = publish($node, 'orders',
		key => "K\x{e4}se 1",
		payload => q{'{"total": 12345678901234567890.10}'},
		more => q{type => 'shop.order', metadata => '{"tenant": "a b", "id": "forged"}',
			expires_at => '2999-01-01 00:00Z'});
	my $binary = query($node,
		q{SELECT outbox_publish_bytes('orders', '\x00ff0a0d', 'image/png')});
	wait_state($node, [ $id, $binary ], 'published');

	my %entries = map { $_->{id} => $_ } $redis->entries('orders');
	my %entry = %{ $entries{$id} };
	like(delete $entry{time}, qr/^\d{4}-.*Z$/, 'the time');
	like(delete $entry{source}, qr{^/}, 'the source');
	is_deeply(
		\%entry,
		{
			specversion => '1.0',
			id => $id,
			type => 'shop.order',
			topic => 'orders',
			expirytime => '2999-01-01T00:00:00.000000Z',
			datacontenttype => 'application/json',
			partitionkey => "K\xc3\xa4se 1",
			metadata => '{"id":"forged","tenant":"a b"}',
			data => '{"total": 12345678901234567890.10}',
		},
		'the fields');
	is($entries{$binary}{data}, "\x00\xff\x0a\x0d", 'bytes are bytes');
	is($entries{$binary}{datacontenttype}, 'image/png', 'and say what they are');
};

promise 'in structured mode it is an envelope, in a stream that is made by a template' => sub {
	reload(
		$node,
		'outbox_redis.content_mode' => 'structured',
		'outbox_redis.stream' => 'outbox:{topic}',
		'outbox_redis.maxlen' => 1000);
	my $id = publish($node, 'enveloped', key => 'k1', payload => q{'{"n": 1}'});
	wait_state($node, $id, 'published');
	my ($entry) = $redis->entries('outbox:enveloped');
	is($entry->{'content-type'}, 'application/cloudevents+json', 'it says so');
	my $event = JSON::PP->new->decode($entry->{data});
	is_deeply([ @$event{qw(id topic partitionkey data)} ],
		[ $id, 'enveloped', 'k1', { n => 1 } ], 'the envelope');

	publish($node, 'many', count => 5000);
	wait_sent($node);
	my $length = $redis->cli('XLEN', 'outbox:many');
	ok($length >= 1000 && $length < 2000, "the stream has $length entries");
};

promise 'what is no stream, or may not be written to, holds its own topic only' => sub {
	$redis->cli('SET', 'text', 'x');
	my $wrong = publish($node, 'text');
	my $good = publish($node, 'beside');
	wait_state($node, $good, 'published');
	poll_until(sub { event_value($node, $wrong, 'last_error') =~ /^WRONGTYPE/ },
		'the reason');
	$redis->cli('DEL', 'text');
	wait_state($node, $wrong, 'published');

	reload($node, 'outbox_redis.stream' => '{key}');
	my $nameless = publish($node, 'nameless');
	wait_state($node, $nameless, 'dead');
	like(event_value($node, $nameless, 'last_error'),
		qr/the name of its stream is empty/, 'without a name, it is dead');
};

promise 'the events of a key are in their order' => sub {
	publish($node, 'keys', count => 3000, more => q{key => 'k' || n % 7});
	wait_states($node, 'keys', 'published*3000', 'all are published');
	my %last;
	my @late;
	my @numbers = map { $_->{data} } $redis->entries('keys');
	foreach my $n (@numbers)
	{
		push @late, $n if $n < ($last{ $n % 7 } // 0);
		$last{ $n % 7 } = $n;
	}
	is_deeply(\@late, [], 'no event is behind a later one of its key');
	is(scalar(@numbers), 3000, 'and each is there once');
};

promise 'with "wait", replicas have an event before it is published' => sub {
	is_outage_of(qr/0 of 1 replicas have stored it/,
		'outbox.request_timeout' => '1s', 'outbox_redis.wait' => 1);
	my $replica = Real::Redis->new(
		arguments => [ '--replicaof' => '127.0.0.1 ' . $redis->port ]);
	poll_until(sub { $replica->cli('INFO', 'replication') =~ /master_link_status:up/ },
		'the replica to follow');
	reload($node, 'outbox_redis.wait' => 1);
	my @ids = publish($node, 'replicated', count => 500);
	wait_sent($node);
	is($replica->cli('XLEN', 'replicated'), 500, 'the replica has them');
	all_are_there(\@ids, 'replicated', 0);
};

promise 'a server that is killed twice under load loses nothing' => sub {
	my @ids = publish($node, 'killed', count => 3000);
	wait_published((stat_value($node, 'published') || 0) + 100);
	$redis->kill;
	push @ids, publish($node, 'killed', count => 3000);
	wait_relay_value($node, state => 'endpoint down');
	my $before = stat_value($node, 'published');
	$redis->start;
	wait_published($before + 100);
	$redis->kill;
	$redis->start;
	wait_sent($node);
	all_are_there(\@ids, 'killed', 2000);
};

promise 'a server that hangs is noticed, and goes on' => sub {
	reload($node, 'outbox.request_timeout' => '1s');
	my $id = publish($node, 'hung');
	wait_state($node, $id, 'published');
	$redis->hang;
	my @ids = ($id, publish($node, 'hung', count => 500));
	wait_relay_value($node, state => 'endpoint down');
	like(relay_value($node, 'last_error'), qr/timed out/, 'the reason is shown');
	$redis->go_on;
	wait_sent($node);
	all_are_there(\@ids, 'hung', 1000);
};

# The relay's own memory, in MB
sub relay_mb
{
	my ($pid) = @_;
	slurp_file("/proc/$pid/status") =~ /^RssAnon:\s+(\d+) kB/m or die;
	return $1 / 1024;
}

promise 'settings that change under load lose and repeat nothing' => sub {
	my @ids = settings_change_under_load($node, 'reloaded', 'outbox_redis');
	all_are_there(\@ids, 'reloaded', 0);
};

promise 'a reload under load is enough for another publisher, and back' => sub {
	my @ids = publisher_changes_under_load($node, 'switched', 'outbox_redis',
		start_receiver(mode => 'http'));
	all_are_there(\@ids, 'switched', 1000);
};

promise 'a server that takes entries slower than they come does not make the relay grow' => sub {
	plan skip_all => 'no /proc/PID/status' unless -r "/proc/$$/status";
	my $proxy = Real::SlowProxy->new($redis->port, 30);
	reload($node,
		'outbox.relay_memory' => '32MB',
		'outbox_redis.maxlen' => 10,
		'outbox_redis.url' => 'redis://127.0.0.1:' . $proxy->port);
	publish($node, 'slow', count => 3000, payload => q{to_jsonb(repeat('x', 50000))});
	my $pid = wait_relay($node);
	my $most = 0;
	poll_until(
		sub {
			my $mb = relay_mb($pid);
			$most = $mb if $mb > $most;
			stat_value($node, 'backlog') eq '0';
		},
		'all to be sent', 120);
	cmp_ok($most, '<', 100, "with 150 MB sent, it had $most MB");
	reload($node, 'outbox_redis.maxlen' => 0, %settings);
};

promise 'a server that stops answering while it is probed is left' => sub {
	reload($node, 'outbox.request_timeout' => '1s');
	$redis->cli('REPLICAOF', '127.0.0.1', Real::Server::free_port());
	my $id = publish($node, 'probed');
	wait_relay_value($node, last_error => qr/^READONLY /);
	$redis->hang;
	wait_relay_value($node, last_error => qr/timed out waiting for the server/);
	like(relay_value($node, 'last_error'), qr/timed out/, 'the reason is shown');
	$redis->go_on;
	$redis->cli('REPLICAOF', 'NO', 'ONE');
	wait_state($node, $id, 'published');
};

promise 'with 30 MB in flight to a server that hangs, the relay ends in a second' => sub {
	relay_ends_beside_hanging($node, $redis, 'large');
	wait_states($node, 'large', 'published*60', 'all are published');
};

promise 'an outage is shown with its reason, and costs no attempt' => sub {
	my $port = Real::Server::free_port();
	is_outage_of(qr/could not connect to "127\.0\.0\.1": Connection refused/,
		'outbox_redis.url' => "redis://127.0.0.1:$port");
	is_outage_of(qr/could not resolve "nowhere\.invalid"/,
		'outbox_redis.url' => 'redis://nowhere.invalid');
	my $mute = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 1) or die;
	is_outage_of(qr/timed out logging in/,
		'outbox.connect_timeout' => '300ms',
		'outbox.request_timeout' => '300ms',
		'outbox_redis.url' => 'redis://127.0.0.1:' . $mute->sockport);
	is_outage(
		$node, 'outage',
		qr/^OOM /,
		sub { $redis->cli('CONFIG', 'SET', 'maxmemory', '1mb') },
		sub { $redis->cli('CONFIG', 'SET', 'maxmemory', '0') });
	is_outage(
		$node, 'outage',
		qr/^READONLY /,
		sub { $redis->cli('REPLICAOF', '127.0.0.1', $port) },
		sub { $redis->cli('REPLICAOF', 'NO', 'ONE') });
};

# A server that answers this to XADD, over and over again, and is fine otherwise.
sub impostor
{
	my ($answer) = @_;
	return Real::Listener->new(
		sub {
			my ($client) = @_;
			while (sysread($client, my $command, 65536))
			{
				syswrite($client, "+PONG\r\n") if $command =~ /PING/;
				next unless $command =~ /XADD/;
				while (syswrite($client, $answer)) { }
			}
		});
}

promise 'a connection that is lost over one topic is that topic\'s failure' => sub {
	my $poisoned = Real::Listener->new(
		sub {
			my ($client) = @_;
			while (sysread($client, my $commands, 65536))
			{
				return close($client) if $commands =~ /poison/;
				syswrite($client, "+PONG\r\n" x (() = $commands =~ /PING\r/g)
					  . "\$3\r\n1-1\r\n" x (() = $commands =~ /XADD\r/g));
			}
		});
	reload($node, 'outbox_redis.url' => 'redis://127.0.0.1:' . $poisoned->port);
	wait_state($node, scalar publish($node, 'healthy'), 'published');
	my $id = publish($node, 'poison');
	poll_until(
		sub {
			wait_state($node, scalar publish($node, 'healthy'), 'published');
			query($node, q{SELECT state FROM outbox_topics WHERE topic = 'poison'}) eq 'down';
		},
		'the topic to be down');
	wait_state($node, scalar publish($node, 'healthy'), 'published');
	like(event_value($node, $id, 'last_error'), qr/closed the connection/, 'the reason');
	reload($node, %settings);
	wait_state($node, $id, 'published');
};

promise 'only the id of an entry says that there is one' => sub {
	my %answers = (
		"+OK\r\n" => qr/does not answer XADD with an id/,
		"\$500000000\r\n" . 'x' x 100000 => qr/answer is too long/);
	foreach my $answer (sort keys %answers)
	{
		my $impostor = impostor($answer);
		reload($node,
			'outbox.max_retry_times' => 1000,
			'outbox_redis.url' => 'redis://127.0.0.1:' . $impostor->port);
		my $id = publish($node, 'believed');
		wait_relay_value($node, last_error => $answers{$answer});
		isnt(event_value($node, $id, 'state'), 'published', "$answers{$answer}");
		reload($node, 'outbox.max_retry_times' => undef, %settings);
		wait_state($node, $id, 'published');
		all_are_there([$id], 'believed', 0);
	}
};

promise 'a user logs in with the password of a file, and has to have the right one' => sub {
	my $file = $redis->dir . '/password';
	$redis->cli(qw(ACL SETUSER outbox on >secret ~allowed* +@all));
	write_secret($file, "secret\n");
	my %login = ('outbox_redis.user' => 'outbox', 'outbox_redis.password_file' => $file);
	reload($node, %login);
	my $id = publish($node, 'allowed');
	wait_state($node, $id, 'published');
	my $forbidden = publish($node, 'forbidden');
	poll_until(sub { event_value($node, $forbidden, 'last_error') =~ /^NOPERM/ },
		'the reason');
	query($node, "SELECT outbox_discard('$forbidden')");
	wait_settled($node);
	write_secret($file, "wrong\n");
	is_outage_of(qr/^WRONGPASS/, %login);
	unlike(slurp_file($node->logfile), qr/secret\b/, 'no password is in the log');
};

promise 'with TLS, both show who they are; a Unix-domain socket will do' => sub {
	my %tls = (
		'outbox_redis.url' => "rediss://127.0.0.1:$tls_port",
		'outbox_redis.tls_ca_file' => $authority->authority,
		'outbox_redis.tls_cert_file' => $client->{cert},
		'outbox_redis.tls_key_file' => $client->{key});
	reload($node, %tls);
	my @ids = publish($node, 'tls', count => 300,
		payload => q{to_jsonb(repeat('x', 20000))});
	wait_sent($node);
	all_are_there(\@ids, 'tls', 0);
	is_outage_of(qr/certificate/,
		%tls, 'outbox_redis.tls_ca_file' => Real::Certificates->new->authority);
	is_outage_of(qr/hostname mismatch/,
		%tls, 'outbox_redis.url' => "rediss://localhost:$tls_port");

	reload($node, 'outbox_redis.url' => 'unix://' . $redis->socket);
	my $id = publish($node, 'socket');
	wait_state($node, $id, 'published');
	all_are_there([$id], 'socket', 0);
};

promise 'settings that cannot be are refused' => sub {
	foreach my $case (
		[ 'outbox_redis.url' => 'http://x', qr/scheme is not known/ ],
		[ 'outbox_redis.url' => 'redis://u:p@x', qr/must not contain a user name/ ],
		[ 'outbox_redis.url' => 'redis://x/3', qr/must not have a path/ ],
		[ 'outbox_redis.url' => 'unix://x', qr/must be absolute/ ],
		[ 'outbox_redis.stream' => '{nothing}', qr/Braces can only be/ ],
		[ 'outbox_redis.maxlen' => '-1', qr/outside the valid range/ ])
	{
		my ($name, $value, $reason) = @$case;
		my (undef, undef, $stderr) =
		  $node->psql('postgres', "SET $name = '$value'");
		like($stderr, $reason, "$name = $value");
	}
};

promise 'a file that has changed is read again' => sub {
	reload($node, 'outbox_redis.user' => 'outbox');
	follows_file($node, 'allowed', 'outbox_redis.password_file',
		$redis->dir . '/rotated', "wrong\n", "secret\n");
};

done_testing();
