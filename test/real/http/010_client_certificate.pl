# A client certificate, and nginx that asks for one (ssl_verify_client).
#
# Promises:
# - Requests show the certificate that is set; the key may have a password, which is
#   in a file, and without which nothing waits for a terminal.
# - Certificate and key are replaced while events flow: each request has the one or
#   the other, none is refused, and while they do not belong together the old ones
#   are in use.
# - So it is with Dapr behind https.

use strict;
use warnings FATAL => 'all';

use File::Copy qw(copy move);
use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;
use Real::Certificates;
use Real::Nginx;

if (my $missing = Real::Nginx->missing) { plan skip_all => $missing; }

my $dir = PostgreSQL::Test::Utils::tempdir();
my $authority = Real::Certificates->new;
my $server = $authority->issue('server', 'IP:127.0.0.1');
my %client = map { $_ => $authority->issue($_, 'DNS:client') } qw(one two);
my $nginx = Real::Nginx->new(servers => <<"CONF");
	server {
		listen 127.0.0.1:PORT ssl;
		ssl_certificate $server->{cert};
		ssl_certificate_key $server->{key};
		ssl_client_certificate $server->{ca};
		ssl_verify_client on;
		location / { set \$where \$ssl_client_s_dn; return 204; }
	}
CONF
my $url = $nginx->url =~ s/^http:/https:/r;
my $node = new_node(
	'certificate',
	conf => {
		'outbox.publisher' => 'http',
		'outbox.http_url' => "$url/{topic}",
		'outbox.tls_ca_file' => $authority->authority,
		'outbox.breaker_threshold' => 0,
	});
query($node, 'CREATE EXTENSION outbox');

# Have these for the certificate, its key and the key's password.
sub use_files
{
	my ($cert, $key, $password) = @_;
	reload($node,
		'outbox.tls_cert_file' => $cert,
		'outbox.tls_key_file' => $key,
		'outbox.tls_key_password_file' => $password);
	return restart_relay($node);
}

# Publish to a topic, wait, and return who nginx has logged.
sub shown_by
{
	my ($topic) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_state($node, scalar publish($node, $topic), 'published');
	my ($line) = reverse grep { m{/\Q$topic\E$} } $nginx->requests;
	return (split / /, $line)[1];
}

promise 'a certificate is shown to a server that asks for one' => sub {
	use_files($client{one}{cert}, $client{one}{key});
	is(shown_by('shown'), 'CN=one', 'with its name');
	use_files();
	my $id = publish($node, 'none');
	poll_until(sub { event_value($node, $id, 'last_status') eq '400' }, 'a refusal');
	like(event_value($node, $id, 'last_error'), qr/No required SSL certificate/,
		'without one there is none');
};

promise 'a key may have a password, which is in a file' => sub {
	my ($key, $password) = ("$dir/locked.key", "$dir/password");
	system_or_bail('openssl', 'rsa', '-aes256', '-passout' => 'pass:open sesame',
		'-in' => $client{two}{key}, '-out' => $key);
	chmod 0600, $key or die "chmod: $!";
	write_secret($password, "open sesame\n");
	use_files($client{two}{cert}, $key, $password);
	is(shown_by('locked'), 'CN=two', 'with it');
	foreach my $case (
		[ undef, qr/could not read a private key from file ".*", without a password/ ],
		[ 'sesame', qr/with the password in file/ ],
		[ "open sesame\nor else", qr/more than one line/ ])
	{
		my ($text, $reason) = @$case;
		write_secret($password, $text) if defined $text;
		use_files($client{two}{cert}, $key, defined $text ? $password : undef);
		poll_until(
			sub { check_value($node, 'publisher configured', 'detail') =~ $reason },
			"outbox_check() to say $reason");
		pass("$reason");
	}
};

promise 'certificate and key are replaced while events flow' => sub {
	my ($cert, $key) = ("$dir/client.crt", "$dir/client.key");
	my $place = sub {
		my ($from, $to) = @_;
		copy($from, "$to.new") or die "copy: $!";
		chmod 0600, "$to.new" or die "chmod: $!";
		return move("$to.new", $to) || die "move: $!";
	};
	$place->($client{one}{cert}, $cert);
	$place->($client{one}{key}, $key);
	use_files($cert, $key);
	is(shown_by('flow'), 'CN=one', 'at first the one');
	my $failed = stat_value($node, 'failed_attempts');
	my $offset = -s $node->logfile;

	my $former = 'one';
	foreach my $next ('two', 'one', 'two')
	{
		$place->($client{$next}{cert}, $cert);
		poll_until(
			sub {
				publish($node, 'flow', count => 5);
				return check_value($node, 'files usable', 'detail') =~ /does not belong/;
			},
			'a certificate without its key');
		is(shown_by('flow'), "CN=$former", "still $former");
		$place->($client{$next}{key}, $key);
		poll_until(sub { shown_by('flow') eq "CN=$next" }, "$next to be shown");
		is(check_value($node, 'files usable', 'ok'), 't', "all is well with $next");
		$former = $next;
	}
	wait_settled($node);
	is(stat_value($node, 'failed_attempts'), $failed, 'no try was refused');
	my %statuses = map { (split / /)[0] => 1 } grep { m{/flow$} } $nginx->requests;
	is_deeply(\%statuses, { 204 => 1 }, 'nor seen by the server as one to refuse');
	my @lines = slurp_file($node->logfile, $offset) =~ /a file has changed and cannot be used/g;
	is(scalar(@lines), 1, 'a line of the log for the same, within a minute');
};

# With Dapr it is a probe that tells.
promise 'what is down for want of a certificate is back when it is replaced' => sub {
	my ($cert, $key) = ("$dir/foreign.crt", "$dir/foreign.key");
	my $foreign = Real::Certificates->new->issue('foreign', 'DNS:client');
	copy($foreign->{cert}, $cert) && copy($foreign->{key}, $key) or die "copy: $!";
	chmod 0600, $key or die "chmod: $!";
	reload($node,
		'outbox.publisher' => 'dapr',
		'outbox.dapr_endpoint' => $url,
		'outbox.breaker_threshold' => 2);
	use_files($cert, $key);
	my $id = publish($node, 'foreign');
	wait_relay_value($node, state => 'endpoint down');
	copy($client{one}{cert}, $cert) && copy($client{one}{key}, $key) or die "copy: $!";
	wait_state($node, $id, 'published');
	is((split / /, (grep { m{/foreign$} } $nginx->requests)[-1])[1], 'CN=one',
		'by the new one');
};

promise 'so it is with Dapr behind https' => sub {
	use_files($client{one}{cert}, $client{one}{key});
	reload($node,
		'outbox.publisher' => 'dapr',
		'outbox.dapr_endpoint' => $url);
	wait_state($node, scalar publish($node, 'sidecar'), 'published');
	my @lines = grep { m{POST /v1.0/publish/pubsub/sidecar} } $nginx->requests;
	is_deeply([ map { (split / /)[1] } @lines ], ['CN=one'], 'with its name');
};

done_testing();
