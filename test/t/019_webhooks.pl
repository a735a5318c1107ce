# What receivers of webhooks expect of a request beside the event.
#
# Promises:
# - With secrets, a request is signed as Standard Webhooks has it, in every content
#   mode, by each of them in the file's order; the id is the event's at each try, the
#   time that of the try.
# - A batch has an id made of its events: the same at each try, and another one for
#   others.
# - A secret that cannot be used is refused with the number of its line, and shown
#   nowhere.
# - Idempotency-Key, and metadata as headers, are sent on request; an event with
#   such a header goes alone. Nobody can set a header of HTTP, of CloudEvents or of
#   authorisation by them.
# - A receiver whose clock is wrong is a row of outbox_check() as long as it is.

use strict;
use warnings FATAL => 'all';

use Digest::SHA qw(hmac_sha256_base64);
use JSON::PP ();
use MIME::Base64 qw(decode_base64 encode_base64);
use POSIX qw(strftime);
use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;

use constant {
	# The example of the specification, and its signature
	SECRET => 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw',
	EXAMPLE => [
		'msg_p5jXN8AQM9LWM0D4loKWxJek', 1614265330, '{"test": 2432232314}',
		'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE='
	],
	OTHER => 'whsec_' . encode_base64("\xff" x 64, ''),
};

my $receiver = start_receiver(mode => 'http');
my $secrets = PostgreSQL::Test::Utils::tempdir() . '/secrets';
my $node = new_node(
	'webhooks',
	conf => {
		'outbox.publisher' => 'http',
		'outbox.http_url' => $receiver->url . '/{topic}',
		'outbox.breaker_threshold' => 0,
		'outbox.local_retry_times' => 20,
		'outbox.max_retry_times' => 20,
	});
query($node, 'CREATE EXTENSION outbox');

# What webhook-signature has for a message and a secret
sub signature
{
	my ($id, $time, $body, $secret) = @_;
	my $key = decode_base64($secret =~ s/^whsec_//r);
	return 'v1,' . hmac_sha256_base64("$id.$time.$body", $key) . '=';
}

sub body_of
{
	my ($entry) = @_;
	my $body = $entry->{body};
	return decode_base64($body) if $entry->{body_is_base64};
	utf8::encode($body);
	return $body;
}

# Sign with these lines from now on.
sub use_secrets
{
	my ($text, %settings) = @_;
	write_secret($secrets, $text);
	return reload($node, 'outbox.http_signature_secret_file' => $secrets, %settings);
}

# The entries of an event, once it is delivered
sub entries_of
{
	my ($id) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_delivered($receiver, [$id]);
	return $receiver->log(id => $id);
}

# Test that an entry is signed with these secrets.
sub is_signed
{
	my ($entry, $id, $name, @signers) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $headers = $entry->{headers};
	my $time = $headers->{'webhook-timestamp'};

	is($headers->{'webhook-id'}, $id, "$name: the id");
	like($time, qr/^\d{10}$/, "$name: the time");
	cmp_ok(abs($time - $entry->{time}), '<', 60, "$name: of the try");
	return is($headers->{'webhook-signature'},
		join(' ', map { signature($id, $time, body_of($entry), $_) } @signers),
		"$name: the signature");
}

sub wait_configured
{
	my ($pattern) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return poll_until(
		sub { check_value($node, 'publisher configured', 'detail') =~ $pattern },
		"outbox_check() to say $pattern");
}

# --- Signatures

promise 'requests are signed in every content mode' => sub {
	my ($id, $time, $body, $signature) = @{ (EXAMPLE) };
	is(signature($id, $time, $body, SECRET), $signature,
		'this test knows the example of the specification');
	foreach my $mode ('binary', 'structured')
	{
		use_secrets(SECRET . "\n", 'outbox.http_content_mode' => $mode);
		my $event;
		poll_until(
			sub {
				($event) = entries_of(scalar publish($node, $mode,
					payload => q{'{"text": "ü"}'}));
				return $event->{headers}{'webhook-id'}
				  && ($mode eq 'structured') == ($event->{body} =~ /specversion/);
			},
			"a signed event in mode $mode");
		is_signed($event, $event->{id}, $mode, SECRET);
	}
	my $bytes = query($node, q{SELECT outbox_publish_bytes('bytes', '\xff0000', 'image/png')});
	is_signed((entries_of($bytes))[0], $bytes, 'bytes in an envelope', SECRET);
	reload($node, 'outbox.http_content_mode' => 'binary');
	foreach my $case ([ 'bytes', '\xff00fe' ], [ 'none', '' ])
	{
		my $id = query($node,
			"SELECT outbox_publish_bytes('bytes', '$case->[1]', 'image/png')");
		is_signed((entries_of($id))[0], $id, "bytes: $case->[0]", SECRET);
	}
};

promise 'each secret signs, the first one first' => sub {
	use_secrets("@{[OTHER]} \r\n\n@{[SECRET]}");
	my $entry;
	poll_until(
		sub {
			($entry) = entries_of(scalar publish($node, 'two'));
			return ($entry->{headers}{'webhook-signature'} // '') =~ / /;
		},
		'an event with two signatures');
	is_signed($entry, $entry->{id}, 'two secrets', OTHER, SECRET);
};

promise 'each try has the same id and its own time' => sub {
	use_secrets(SECRET);
	$receiver->faults([ { times => 1, status => 503, headers => { 'Retry-After' => 1 } } ]);
	my @tries = entries_of(scalar publish($node, 'again'));
	is(scalar(@tries), 2, 'there were two');
	is_signed($_, $tries[0]{id}, 'a try', SECRET) foreach @tries;
	cmp_ok($tries[1]{headers}{'webhook-timestamp'},
		'>', $tries[0]{headers}{'webhook-timestamp'}, 'the second is later');
};

promise 'what a receiver says of a secret is not shown' => sub {
	use_secrets(SECRET);
	my $offset = -s $node->logfile;
	my $wanted = SECRET =~ s/^whsec_//r;
	$receiver->faults([ { times => 1, status => 400, body => "no $wanted, try whsec_$wanted" } ]);
	my $id = publish($node, 'told');
	wait_state($node, $id, 'dead');
	is(event_value($node, $id, 'last_error') =~ s/\*+/*/gr,
		'HTTP 400: no *, try whsec_*', 'it is hidden');
	unlike(slurp_file($node->logfile, $offset), qr/$wanted/, 'in the log, too');
};

promise 'a secret that cannot be used is refused by its line, and not shown' => sub {
	my $offset = -s $node->logfile;
	my $canary = encode_base64('canary' x 3, '');
	foreach my $bad (
		[ '', qr/contains no secret/ ],
		[ "\n \n", qr/contains no secret/ ],
		[ "$canary$canary\n", qr/^line 1 of .*begin with "whsec_"/ ],
		[ "@{[SECRET]}\n\nwhsec_$canary!\n", qr/^line 3 of .*not base64/ ],
		[ "whsec_$canary\n", qr/^line 1 of .*24 to 64 bytes/ ],
		[ 'whsec_' . encode_base64('canary' x 11, ''), qr/24 to 64 bytes/ ],
		[ 'whsec_' . encode_base64('canary' x 100, ''), qr/24 to 64 bytes/ ])
	{
		my ($text, $reason) = @$bad;
		reload($node, 'outbox.http_signature_secret_file' => "$secrets.none");
		wait_configured(qr/could not open file "\Q$secrets.none\E"/);
		use_secrets($text);
		wait_configured($reason);
		unlike(check_value($node, 'publisher configured', 'detail'),
			qr/$canary/, "$reason");
	}
	unlike(slurp_file($node->logfile, $offset), qr/$canary/, 'nor in the log');
};

# --- Batches

# The ids of the events in a batch
sub ids_in
{
	my ($entry) = @_;
	return join ' ', map { $_->{id} } @{ JSON::PP->new->utf8->decode(body_of($entry)) };
}

# The requests of a topic, when they have been seen to carry so many events
sub batches_of
{
	my ($topic, $count) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_states($node, $topic, "published*$count");
	return $receiver->log(path => "/$topic");
}

promise 'a batch has an id of its own, made of its events' => sub {
	use_secrets(SECRET, 'outbox.http_batch_size' => 100, 'outbox.http_idempotency_key' => 'on');
	disable($node);
	$receiver->faults([ { match => { path => '^/batch$' }, times => 3, status => 503 } ]);
	publish($node, 'batch', count => 5);
	publish($node, 'batches', count => 3);
	publish($node, 'single');
	reload($node, 'outbox.enabled' => 'on');
	my %id_of;
	foreach my $case ([ 'batch', 5, 3 ], [ 'batches', 3, 1 ], [ 'single', 1, 1 ])
	{
		my ($topic, $count, $tries) = @$case;
		my @requests = batches_of($topic, $count);
		foreach my $request (@requests)
		{
			my $id = $request->{headers}{'webhook-id'};
			is_signed($request, $id, $topic, SECRET);
			is($request->{headers}{'idempotency-key'}, $id, 'and a key that is the id');
			like($id, qr/^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/,
				'which is a UUID');
			push @{ $id_of{ ids_in($request) } }, $id;
		}
	}
	foreach my $events (keys %id_of)
	{
		my %different = map { $_ => 1 } @{ $id_of{$events} };
		is(scalar(keys %different), 1, 'the same events have the same id');
	}
	my %all = map { $_->[0] => 1 } values %id_of;
	is(scalar(keys %all), scalar(keys %id_of), 'others have another one');
	cmp_ok(scalar(keys %id_of), '>=', 3, 'there were several');
	cmp_ok(scalar(grep { @$_ > 1 } values %id_of), '>=', 1, 'and one was sent again');
};

# --- Other headers

promise 'who sends is said' => sub {
	my ($entry) = entries_of(scalar publish($node, 'agent'));
	is($entry->{headers}{'user-agent'}, 'outbox/1.0.0 (PostgreSQL)', 'User-Agent');
	is_deeply(
		[ grep { /^webhook-|^idempotency/ } keys %{ $entry->{headers} } ],
		[], 'nothing is signed, or has a key, that is not to');
};

promise 'Idempotency-Key is the event\'s id at each try' => sub {
	reload($node, 'outbox.http_idempotency_key' => 'on');
	$receiver->faults([ { times => 1, status => 503 } ]);
	my $id = publish($node, 'key');
	is_deeply([ map { $_->{headers}{'idempotency-key'} } entries_of($id) ],
		[ $id, $id ], 'both tries have it');
};

promise 'metadata are headers on request' => sub {
	reload($node, 'outbox.http_metadata_headers' => 'x-tenant, X-Region');
	my ($entry) = entries_of(scalar publish($node, 'metadata', more =>
		  q{metadata => '{"x-tenant": "Müller & \"100 %\"", "x-region": "eu", "X-Other": "no"}'}));
	is($entry->{headers}{'x-tenant'}, 'M%C3%BCller%20&%20%22100%20%25%22',
		'encoded like an attribute');
	is_deeply([ @{ $entry->{headers} }{qw(x-region x-other)} ],
		[ undef, undef ], 'no other name is, be it only in another case');
	like($entry->{headers}{'ce-metadata'}, qr/X-Other.*x-tenant/, 'they stay among the metadata');
	($entry) = entries_of(scalar publish($node, 'metadata'));
	is($entry->{headers}{'x-tenant'}, undef, 'and are those of their event only');
};

promise 'an event with a header of its own goes alone' => sub {
	reload($node,
		'outbox.http_metadata_headers' => 'x-tenant',
		'outbox.http_batch_size' => 100);
	disable($node);
	publish($node, 'own', count => 9,
		more => q{metadata => CASE WHEN n % 3 = 0 THEN jsonb_build_object('x-tenant', n::text) END});
	reload($node, 'outbox.enabled' => 'on');
	my @requests = batches_of('own', 9);
	is_deeply(
		[ sort map { $_->{headers}{'x-tenant'} } grep { $_->{headers}{'x-tenant'} } @requests ],
		[ 3, 6, 9 ], 'three have it');
	foreach my $request (grep { $_->{headers}{'x-tenant'} } @requests)
	{
		my @events = @{ JSON::PP->new->utf8->decode(body_of($request)) };
		is_deeply([ map { $_->{data} } @events ], [ $request->{headers}{'x-tenant'} ],
			'with the event that it is of, in a batch of one');
	}
	cmp_ok(scalar(@requests), '<', 9, 'the others share requests');
};

promise 'headers that mean something to others cannot come from metadata' => sub {
	foreach my $name (
		'Host', 'content-length', 'Content-Encoding', 'transfer-encoding', 'ce-id',
		'authorization', 'Proxy-Authorization', 'Cookie', 'webhook-id', 'webhook-other',
		'Idempotency-Key', 'traceparent', 'X-Forwarded-For', 'user-agent', 'Date',
		'x-tenant, Connection', 'x tenant:', 'x:y', "x\\ry", 'dapr-api-token', 'ü')
	{
		fails_with($node, "SET outbox.http_metadata_headers = E'$name'", '22023', $name);
	}
	foreach my $name ('x-tenant', 'x-tenant,x-region', '', 'tenant', 'x-content-type')
	{
		is(query($node, "SET outbox.http_metadata_headers = '$name'; SELECT 1"), 1,
			"'$name' can be set");
	}
	foreach my $name ('webhook-id', 'Webhook-Signature', 'webhook-timestamp', 'Idempotency-Key')
	{
		fails_with($node, "SET outbox.http_headers = '$name: 1'", '22023',
			"$name is outbox's own");
	}
	reload($node,
		'outbox.http_headers' => 'X-Tenant: all',
		'outbox.http_metadata_headers' => 'x-region, x-tenant');
	wait_configured(qr/^"x-tenant" in outbox\.http_metadata_headers is a header of every request/);
};

# --- Clocks

sub wait_clocks
{
	my ($ok, $detail) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	poll_until(
		sub {
			publish($node, 'clock');
			return check_value($node, 'clocks agree', 'ok') eq $ok;
		},
		"'clocks agree' to be $ok");
	return like(check_value($node, 'clocks agree', 'detail'), $detail, "it is $detail");
}

promise 'a receiver with another time is a row of outbox_check() while it is so' => sub {
	my $date_of = sub { strftime('%a, %d %b %Y %H:%M:%S GMT', gmtime(time() + $_[0])) };
	my $answer_at = sub {
		$receiver->faults([ { status => 200, headers => { Date => $date_of->($_[0]) } } ]);
	};
	$answer_at->(-7200);
	wait_clocks('f', qr/it is (?:119|120) minutes earlier than here/);
	$answer_at->(250);
	wait_clocks('t', qr/less than five minutes off/);
	$answer_at->(420);
	wait_clocks('f', qr/it is [67] minutes later than here/);
	reload($node);
	wait_clocks('f', qr/later than here/);
	$answer_at->(0);
	wait_clocks('t', qr/less than five minutes off/);
};

done_testing();
