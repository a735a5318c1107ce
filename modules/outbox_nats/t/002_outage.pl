# Whatever becomes of the server and of the way to it, no event is lost, the relay
# does not wait, and it is said what is wrong.
#
# Promises:
# - A server that is killed twice under load loses nothing that was published, and
#   what is sent twice is in the stream once.
# - A server that hangs keeps nothing but its own events waiting; the relay ends
#   within a second when it is told to, with 30 MB in flight.
# - An event that is not acknowledged by a server that is there is that event's
#   failure; others go on.
# - A reload under load is enough to have other settings, or another publisher, which
#   repeats nothing.
# - An outage (nobody there, no NATS, a wrong password, no right) is shown with its
#   reason, and is over without anybody's doing when its cause is.
# - With TLS, only a certificate of the authority, and for the name in the URL, is
#   taken; and ours is shown if the server wants one.
# - A server that stops answering while it is probed is left, and that is said.
# - A credentials file logs in, with TLS too, and its seed is in no message.
# - A server that is about to end is left in time.
# - A file that has changed is read again, and one that cannot be used is not.

use strict;
use warnings FATAL => 'all';

use IO::Socket::INET;
use Test::More;

use lib 'test/lib';
use OutboxTest;
use OutboxTest::Outage;
use PostgreSQL::Test::Utils;
use Real::Certificates;
use Real::Nats;

my $missing = Real::Nats->missing;
plan skip_all => $missing if $missing;

my $nats = Real::Nats->new(
	login => 'admin:secret',
	config => <<'CONFIG');
authorization { users = [
	{ user: admin, password: secret },
	{ user: outbox, password: "pass word", permissions: { publish: { deny: "forbidden" } } },
	{ user: deaf, password: "pass word", permissions: { subscribe: { deny: ">" } } }
] }
CONFIG
$nats->create_stream('EVENTS', 'events.>');
write_secret($nats->dir . '/password', "pass word\n");

my %login = (
	'outbox_nats.url' => $nats->url,
	'outbox_nats.user' => 'outbox',
	'outbox_nats.password_file' => $nats->dir . '/password');
my $node = new_node(
	'nats_outage',
	conf => {
		shared_preload_libraries => 'outbox, outbox_nats',
		'outbox.publisher' => 'outbox_nats',
		'outbox.relay_memory' => '64MB',
		%login,
	});
query($node, 'CREATE EXTENSION outbox');

# Test that each of these is in the stream, once.
sub all_are_there_once
{
	my ($ids, $server, $stream) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my %seen;

	$seen{ $_->{headers}{'Nats-Msg-Id'} }++
	  foreach ($server // $nats)->messages($stream // 'EVENTS');
	is(scalar(grep { !$seen{$_} } @$ids), 0, 'nothing is lost');
	is(scalar(grep { ($seen{$_} // 0) > 1 } @$ids), 0, 'nothing is there twice');
	return;
}

# With these settings nothing is sent, for this reason; without them it is.
sub is_outage_of
{
	my ($error, %other) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is_outage_with($node, 'events.outage', $error, \%login, %other);
}

promise 'a server that is killed twice under load loses nothing' => sub {
	my @ids = publish($node, 'events.killed', count => 3000);
	poll_until(sub { (stat_value($node, 'published') || 0) >= 200 },
		'some to be published', 120);
	$nats->kill;
	push @ids, publish($node, 'events.killed', count => 3000);
	wait_relay_value($node, state => 'endpoint down');
	my $before = stat_value($node, 'published');
	$nats->start;
	poll_until(sub { stat_value($node, 'published') >= $before + 200 },
		'more to be published', 120);
	$nats->kill;
	$nats->start;
	wait_sent($node);
	all_are_there_once(\@ids);
};

promise 'a server that hangs is noticed, and goes on' => sub {
	reload($node, 'outbox.request_timeout' => '1s');
	my $id = publish($node, 'events.hung');
	wait_state($node, $id, 'published');
	$nats->hang;
	my @ids = ($id, publish($node, 'events.hung', count => 500));
	wait_relay_value($node, state => 'endpoint down');
	like(relay_value($node, 'last_error'), qr/timed out/, 'the reason is shown');
	$nats->go_on;
	wait_sent($node);
	all_are_there_once(\@ids);
};

promise 'settings that change under load lose and repeat nothing' => sub {
	my @ids = settings_change_under_load($node, 'events.reloaded', 'outbox_nats');
	all_are_there_once(\@ids);
};

promise 'a reload under load is enough for another publisher, and back' => sub {
	my @ids = publisher_changes_under_load($node, 'events.switched', 'outbox_nats',
		start_receiver(mode => 'http'));
	all_are_there_once(\@ids);
};

promise 'with 30 MB in flight to a server that hangs, the relay ends in a second' => sub {
	my @ids = relay_ends_beside_hanging($node, $nats, 'events.large');
	all_are_there_once(\@ids);
};

promise 'an event that is not acknowledged fails, and no other one' => sub {
	my $responder = $nats->start_responder('silent');
	reload(
		$node,
		'outbox.request_timeout' => '1s',
		'outbox.max_retry_times' => 1,
		'outbox.local_retry_times' => 0);
	my $id = publish($node, 'silent');
	my $good = publish($node, 'events.beside');
	wait_state($node, $good, 'published');
	wait_relay_value($node, last_error => qr/timed out waiting for JetStream/);
	my $next = publish($node, 'events.beside');
	wait_state($node, $next, 'published');
	is(event_value($node, $next, 'attempts'), 1, 'the others go on');
	Real::Nats::finish_responder($responder);
	query($node, "SELECT outbox_discard('$id')");
	wait_settled($node);
};

promise 'what we may not publish is held, with the reason, and nothing else is' => sub {
	my $id = publish($node, 'forbidden');
	my $good = publish($node, 'events.allowed');
	wait_state($node, $good, 'published');
	poll_until(
		sub { event_value($node, $id, 'last_error') =~ /Permissions Violation for Publish/ },
		'its failure');
	is(event_value($node, $good, 'attempts'), 1, 'the others go on');
	query($node, "SELECT outbox_discard('$id')");
	wait_settled($node);
};

promise 'an outage is shown with its reason, and costs no attempt' => sub {
	my $port = Real::Server::free_port();
	is_outage_of(qr/could not connect to "127\.0\.0\.1": Connection refused/,
		'outbox_nats.url' => "nats://127.0.0.1:$port");
	is_outage_of(qr/could not resolve "nowhere\.invalid"/,
		'outbox_nats.url' => 'nats://nowhere.invalid');
	is_outage_of(qr/Authorization Violation/, 'outbox_nats.user' => 'somebody');
	is_outage_of(qr/Permissions Violation for Subscription/, 'outbox_nats.user' => 'deaf');
	is_outage_of(qr/does not offer TLS/,
		'outbox_nats.url' => 'tls://127.0.0.1:' . $nats->port);
	my $mute = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 1) or die;
	is_outage_of(qr/timed out logging in/,
		'outbox.connect_timeout' => '300ms',
		'outbox.request_timeout' => '300ms',
		'outbox_nats.url' => 'nats://127.0.0.1:' . $mute->sockport);
};

promise 'settings that cannot be are refused, or say why nothing is sent' => sub {
	foreach my $case (
		[ 'outbox_nats.url' => 'http://x', qr/scheme is not known/ ],
		[ 'outbox_nats.url' => 'nats://u:p@x', qr/must not contain a user name/ ],
		[ 'outbox_nats.url' => 'nats://x/y', qr/must not have a path/ ],
		[ 'outbox_nats.subject' => '{nothing}', qr/Braces can only be/ ],
		[ 'outbox_nats.expect_stream' => 'a.b', qr/No stream can have this name/ ])
	{
		my ($name, $value, $reason) = @$case;
		my (undef, undef, $stderr) =
		  $node->psql('postgres', "SET $name = '$value'");
		like($stderr, $reason, "$name = $value");
	}
	my $file = $nats->dir . '/no_credentials';
	write_secret($file, "nothing\n");
	reload($node, 'outbox_nats.credentials_file' => $file);
	poll_until(
		sub {
			check_value($node, 'publisher configured', 'detail') =~
			  /no seed of a user's key/;
		},
		'the reason to be shown');
};

promise 'with TLS, both show who they are' => sub {
	my $authority = Real::Certificates->new;
	my $server = $authority->issue('server', 'IP:127.0.0.1');
	my $client = $authority->issue('client', 'DNS:client');
	my $secure = Real::Nats->new(
		tls_files => { ca => $authority->authority, %$client },
		config => sprintf("tls { cert_file: %s, key_file: %s, ca_file: %s, verify: true }\n",
			map { qq("$_") } @$server{qw(cert key)}, $authority->authority));
	$secure->create_stream('SECURE', 'secure');
	my %tls = (
		'outbox_nats.url' => 'tls://127.0.0.1:' . $secure->port,
		'outbox_nats.tls_ca_file' => $authority->authority,
		'outbox_nats.tls_cert_file' => $client->{cert},
		'outbox_nats.tls_key_file' => $client->{key});
	reload($node, %tls);
	my @ids = publish($node, 'secure', count => 300,
		payload => q{to_jsonb(repeat('x', 20000))});
	wait_sent($node);
	all_are_there_once(\@ids, $secure, 'SECURE');

	is_outage_of(qr/certificate/,
		%tls, 'outbox_nats.tls_ca_file' => Real::Certificates->new->authority);
	is_outage_of(qr/hostname mismatch/,
		%tls, 'outbox_nats.url' => 'tls://localhost:' . $secure->port);
	is_outage_of(qr/TLS|closed the connection|could not receive/,
		%tls,
		'outbox_nats.tls_cert_file' => '',
		'outbox_nats.tls_key_file' => '');
};

promise 'a server that stops answering while it is probed is left' => sub {
	my $plain = Real::Nats->new(config => "jetstream: disabled\n");
	my %plain = (
		'outbox_nats.url' => $plain->url,
		'outbox_nats.user' => '',
		'outbox_nats.password_file' => '');
	reload($node, %plain);
	my $id = publish($node, 'events.plain');
	wait_relay_value($node, last_error => qr/JetStream does not answer/);
	wait_relay_value($node, state => 'endpoint down');
	$plain->hang;
	wait_relay_value($node, last_error => qr/timed out waiting for the server/);
	like(relay_value($node, 'last_error'), qr/timed out/, 'the reason is shown');
	$plain->go_on;
	wait_relay_value($node, last_error => qr/JetStream does not answer/);
	reload($node, %login);
	wait_state($node, $id, 'published');
};

promise 'a credentials file logs in, and only that of a user the server knows' => sub {
	my ($seed, $public) = Real::Nats::make_key();
	my ($other) = Real::Nats::make_key();
	my $authority = Real::Certificates->new;
	my $server = $authority->issue('server', 'IP:127.0.0.1');
	my $keyed = Real::Nats->new(
		key => $seed,
		tls_files => { ca => $authority->authority },
		config => "authorization { users = [ { nkey: $public } ] }\n" .
		  qq(tls { cert_file: "$server->{cert}", key_file: "$server->{key}" }\n));
	$keyed->create_stream('KEYED', 'keyed');
	my $file = $keyed->dir . '/outbox.creds';
	my $begin = '-----BEGIN USER NKEY SEED-----';
	my $end = '------END USER NKEY SEED------';
	my %keyed = (
		'outbox_nats.url' => 'tls://127.0.0.1:' . $keyed->port,
		'outbox_nats.tls_ca_file' => $authority->authority,
		'outbox_nats.user' => '',
		'outbox_nats.password_file' => '',
		'outbox_nats.credentials_file' => $file);
	write_secret($file, "$begin\n$seed\n$end\n");
	reload($node, %keyed);
	my @ids = publish($node, 'keyed', count => 10);
	wait_sent($node);
	all_are_there_once(\@ids, $keyed, 'KEYED');

	write_secret($file, "$begin\n$other\n$end\n");
	is_outage_of(qr/Authorization Violation/, %keyed);
	unlike(slurp_file($node->logfile), qr/$seed|$other/, 'no seed is in the log');
};

promise 'a server that is about to end is left in time' => sub {
	my $id = publish($node, 'events.lame');
	wait_state($node, $id, 'published');
	$nats->signal('USR2');
	poll_until(sub { !$nats->is_running }, 'the server to end', 60);
	$nats->start;
	my @ids = ($id, publish($node, 'events.lame'));
	wait_sent($node);
	all_are_there_once(\@ids);
};

promise 'a file that has changed is read again' => sub {
	follows_file($node, 'events.file', 'outbox_nats.password_file',
		$nats->dir . '/rotated', "wrong\n", "pass word\n");
};

done_testing();
