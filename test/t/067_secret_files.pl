# Secrets are rotated while events flow.
#
# Promises:
# - A file that a setting names is read again when it has changed, without a reload,
#   however it is replaced: written to, renamed, behind a symbolic link.
# - It is looked at when the receiver says 401, before the next try.
# - What has come in the place of a file and cannot be used is not: what was read
#   before stays in use. That is a line of the log, and a row of outbox_check() until
#   it is mended. Other files are read again meanwhile.
# - Nor is a reload needed to mend what a relay has found when it started, and without
#   which it sends nothing.
# - A client certificate is used with the key that belongs to it only.
# - All of this is so for Dapr, too.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;
use Real::Certificates;

my $dir = PostgreSQL::Test::Utils::tempdir();
my $receiver = start_receiver(mode => 'http');
my $node = new_node(
	'secret_files',
	conf => {
		'outbox.publisher' => 'http',
		'outbox.http_url' => $receiver->url . '/{topic}',
		'outbox.breaker_threshold' => 0,
		'outbox.local_retry_times' => 20,
		'outbox.max_retry_times' => 20,
	});
query($node, 'CREATE EXTENSION outbox');

# The last request of an event that is published now
sub sent_now
{
	my ($from) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$from //= $receiver;
	my $id = publish($node, 'now');
	wait_delivered($from, [$id]);
	return ($from->accepted(id => $id))[-1];
}

# Wait until events have this header, and no other one any more.
sub wait_header
{
	my ($name, $value, $from) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	poll_until(sub { (sent_now($from)->{headers}{$name} // '') eq $value },
		"$name to be $value");
	return is(sent_now($from)->{headers}{$name}, $value, "$name is $value");
}

sub wait_files
{
	my ($ok, $detail) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $found = '';
	poll_until(
		sub {
			sent_now();
			$found = check_value($node, 'files usable', 'ok, detail');
			return $found =~ /^$ok\|/ && $found =~ $detail;
		},
		"'files usable' to be $ok: $detail");
	return like($found, $detail, "it is $detail");
}

# How often the log says, from there on, that a file cannot be used
sub complaints
{
	my ($offset) = @_;
	my @lines = slurp_file($node->logfile, $offset) =~ /LOG: .*a file has changed and cannot be used/g;
	return scalar @lines;
}

# Write to a file that is there.
sub write_to
{
	my ($path, $text) = @_;
	open(my $file, '>', $path) or die "open $path: $!";
	print $file $text;
	return close($file);
}

# --- Without a reload

promise 'a file that changes is read again, however it is replaced' => sub {
	my ($file, $link, $elsewhere) = map { "$dir/$_" } qw(headers link elsewhere);
	write_secret($file, 'X-Key: one');
	symlink($file, $link) or die "symlink: $!";
	reload($node, 'outbox.http_headers_file' => $link);
	wait_header('x-key', 'one');

	write_to($file, 'X-Key: two');
	wait_header('x-key', 'two');

	write_secret("$file.new", 'X-Key: six');
	rename("$file.new", $file) or die "rename: $!";
	wait_header('x-key', 'six');

	write_secret($elsewhere, 'X-Key: ten');
	symlink($elsewhere, "$link.new") or die "symlink: $!";
	rename("$link.new", $link) or die "rename: $!";
	wait_header('x-key', 'ten');
};

promise 'so is the file of a URL, and that of signatures' => sub {
	my ($url, $secrets) = map { "$dir/$_" } qw(url secrets);
	write_secret($url, $receiver->url . '/first');
	write_secret($secrets, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n");
	reload($node,
		'outbox.http_url' => undef,
		'outbox.http_url_file' => $url,
		'outbox.http_signature_secret_file' => $secrets);
	poll_until(sub { sent_now()->{path} eq '/first' }, 'an event at the first URL');
	write_to($url, $receiver->url . '/second');
	poll_until(sub { sent_now()->{path} eq '/second' }, 'an event at the second URL');
	write_to($secrets, join("\n", ('whsec_' . 'A' x 32) x 3));
	poll_until(sub { (() = sent_now()->{headers}{'webhook-signature'} =~ /v1,/g) == 3 },
		'an event with the signatures of another file');
	pass('both are followed');
};

# Two tries in less than the second in which nobody looks without a reason
promise 'a file is looked at after a 401' => sub {
	my $file = "$dir/refused";
	my $n = 100;
	write_secret($file, "X-Key: $n");
	reload($node, 'outbox.http_headers_file' => $file);
	wait_header('x-key', $n);
	poll_until(
		sub {
			my $old = $n++;
			wait_header('x-key', $old);
			$receiver->faults([ { times => 1, status => 401 } ]);
			write_to($file, "X-Key: $n");
			my $id = publish($node, 'refused');
			wait_delivered($receiver, [$id]);
			my @tries = $receiver->log(id => $id);
			$receiver->faults([]);
			return 0
			  unless @tries > 1
			  && $tries[0]{headers}{'x-key'} == $old
			  && $tries[1]{time} - $tries[0]{time} < 0.5;
			is($tries[1]{headers}{'x-key'}, $n, 'the next try has what is in it then');
			is(scalar(@tries), 2, 'and is the last');
			return 1;
		},
		'a try with the old header and a quick one behind it');
};

# --- What cannot be used

promise 'what cannot be used is not, and the old stays in use' => sub {
	my ($file, $other) = map { "$dir/$_" } qw(good other);
	write_secret($file, 'X-Key: good');
	write_secret($other, 'whsec_' . 'A' x 32);
	reload($node,
		'outbox.http_headers_file' => $file,
		'outbox.http_signature_secret_file' => $other);
	wait_header('x-key', 'good');
	is(check_value($node, 'files usable', 'ok'), 't', 'all is well');
	foreach my $case (
		[ 'a bad line', sub { write_to($file, "X-Key: canary-3fa\nEvil\n") },
			qr/line 2 of file "\Q$file\E": .*stays in use/ ],
		[ 'others may read it', sub { write_to($file, 'X-Key: canary-3fa'); chmod 0644, $file },
			qr/permissions 0644/ ],
		[ 'it is gone', sub { unlink $file }, qr/could not open file "\Q$file\E"/ ],
		[ 'a folder is there', sub { mkdir $file }, qr/not a regular file/ ])
	{
		my ($name, $break, $detail) = @$case;
		my $offset = -s $node->logfile;
		$break->();
		wait_files('f', $detail);
		sent_now() foreach 1 .. 3;
		is(sent_now()->{headers}{'x-key'}, 'good', "$name: the old one is in use");
		reload($node);
		is(sent_now()->{headers}{'x-key'}, 'good', "$name: after a reload, too");
		is(complaints($offset), 1, "$name: one line of the log");
		unlike(slurp_file($node->logfile, $offset), qr/canary-3fa/, "$name: not what is in it");
	}

	# meanwhile another one changes
	write_to($other, 'whsec_' . 'A' x 32 . "\nwhsec_" . 'B' x 32);
	poll_until(sub { sent_now()->{headers}{'webhook-signature'} =~ / / },
		'an event with two signatures');
	is(sent_now()->{headers}{'x-key'}, 'good', 'that one is followed, this one is not');

	rmdir $file;
	write_secret($file, 'X-Key: mended');
	wait_header('x-key', 'mended');
	wait_files('t', qr/in use as they are/);
};

promise 'a file is mended by its permissions alone' => sub {
	my $file = "$dir/permissions";
	write_secret($file, 'X-Key: first');
	reload($node, 'outbox.http_headers_file' => $file);
	wait_header('x-key', 'first');
	write_secret("$file.new", 'X-Key: second');
	chmod 0640, "$file.new" or die "chmod: $!";
	rename("$file.new", $file) or die "rename: $!";
	wait_files('f', qr/permissions 0640/);
	chmod 0600, $file or die "chmod: $!";
	wait_header('x-key', 'second');
};

promise 'without anything read before, the publisher is not configured' => sub {
	my $file = "$dir/never";
	my $offset = -s $node->logfile;
	write_secret($file, 'Evil');
	reload($node, 'outbox.http_headers_file' => $file);
	poll_until(sub { check_value($node, 'publisher configured', 'ok') eq 'f' },
		'the publisher not to be configured');
	my $id = publish($node, 'never');
	is(event_state($node, $id), 'pending', 'an event waits');
	is(complaints($offset), 0, 'that is said in another way');
	write_secret($file, 'X-Key: mended');
	wait_delivered($receiver, [$id]);
};

# Each with a relay that has read nothing before
promise 'what a relay has found when it started needs no reload to be mended' => sub {
	my $authority = Real::Certificates->new;
	my ($one, $two) = map { $authority->issue($_, 'DNS:client') } qw(one two);
	my ($headers, $url, $key) = map { "$dir/start-$_" } qw(headers url key);
	write_secret($key, slurp_file($two->{key}));
	foreach my $case (
		[ 'a file that is not there', { 'outbox.http_headers_file' => $headers },
			sub { write_secret($headers, 'X-Key: there') } ],
		[ 'the file of the URL', { 'outbox.http_url' => undef, 'outbox.http_url_file' => $url },
			sub { write_secret($url, $receiver->url . '/there') } ],
		[ 'a key of another certificate', {
				'outbox.http_url_file' => undef,
				'outbox.http_url' => $receiver->url . '/{topic}',
				'outbox.tls_cert_file' => $one->{cert},
				'outbox.tls_key_file' => $key },
			sub { write_to($key, slurp_file($one->{key})) } ])
	{
		my ($name, $settings, $mend) = @$case;
		reload($node, %$settings);
		restart_relay($node);
		poll_until(sub { check_value($node, 'publisher configured', 'ok') eq 'f' }, "$name: not configured");
		my $offset = -s $node->logfile;
		my $id = publish($node, 'start');
		$mend->();
		ok(wait_delivered($receiver, [$id]), "$name: it is sent then");
		unlike(slurp_file($node->logfile, $offset), qr/is not configured/, "$name: meanwhile the log says nothing");
	}
};

# --- Dapr

promise 'the token for Dapr is rotated, and costs no event more than a try' => sub {
	my $file = "$dir/token";
	my $dapr = start_receiver(mode => 'dapr', token => 'old-token');
	write_secret($file, "old-token\n");
	reload($node,
		'outbox.publisher' => 'dapr',
		'outbox.dapr_endpoint' => $dapr->url,
		'outbox.dapr_api_token_file' => $file);
	wait_header('dapr-api-token', 'old-token', $dapr);
	$dapr->stop;
	$dapr->{options}{token} = 'new-token';
	$dapr->start;
	my $id = publish($node, 'rotated');
	poll_until(sub { scalar $dapr->log(status => 401) }, 'a refusal');
	write_to($file, 'new-token');
	wait_delivered($dapr, [$id]);
	wait_header('dapr-api-token', 'new-token', $dapr);
	write_to($file, "\n");
	poll_until(
		sub {
			sent_now($dapr);
			return check_value($node, 'files usable', 'detail') =~ /contains no token/;
		},
		'an empty file to be seen');
	is(sent_now($dapr)->{headers}{'dapr-api-token'}, 'new-token', 'the old one stays in use');
	is( query($node, "SELECT count(*) FROM outbox_events WHERE state = 'dead' AND topic = 'rotated'"),
		0, 'nothing is dead');
	reload($node, 'outbox.publisher' => 'http');
	$dapr->stop;
};

# --- Settings of certificates

promise 'a certificate is used with its key only' => sub {
	my $authority = Real::Certificates->new;
	my ($one, $two) = map { $authority->issue($_, 'DNS:client') } qw(one two);
	write_secret("$dir/keyless", 'none');
	my $check = sub {
		my ($name, $detail, %settings) = @_;
		reload($node, 'outbox.tls_cert_file' => undef, 'outbox.tls_key_file' => undef, %settings);
		poll_until(
			sub { check_value($node, 'publisher configured', 'detail') =~ $detail },
			"$name: $detail");
		pass($name);
	};
	$check->('a pair is good', qr/^outbox\.publisher = http/,
		'outbox.tls_cert_file' => $one->{cert}, 'outbox.tls_key_file' => $one->{key});
	$check->('a key without a certificate', qr/only one is set/,
		'outbox.tls_key_file' => $one->{key});
	$check->('a certificate without a key', qr/only one is set/,
		'outbox.tls_cert_file' => $one->{cert});
	$check->('the key of another one', qr/does not belong to the certificate/,
		'outbox.tls_cert_file' => $one->{cert}, 'outbox.tls_key_file' => $two->{key});
	$check->('no key', qr/could not read a private key from file/,
		'outbox.tls_cert_file' => $one->{cert}, 'outbox.tls_key_file' => "$dir/keyless");
	$check->('no certificate', qr/could not read a certificate from file/,
		'outbox.tls_cert_file' => "$dir/keyless", 'outbox.tls_key_file' => $one->{key});
};

done_testing();
