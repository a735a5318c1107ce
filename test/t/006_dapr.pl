# The dapr publisher: what each answer means, the token, and the ways to it.
#
# Promises:
# - An answer that this event will get for ever makes it dead at once; what may
#   be its fault or the broker's is tried a limited number of times; what is
#   the sidecar's or the operator's costs no event an attempt.
# - The token comes from a file that nobody else may read, and is shown nowhere.
# - Dapr is reached over a Unix socket and by https, which is verified.
# - Redirects are not followed, proxies of the environment not used.

use strict;
use warnings FATAL => 'all';

use JSON::PP ();
use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;

use constant {
	TOKEN => 'canary-token-3f9a',
	NEW_TOKEN => 'canary-token-77be',
	MANY_TRIES => 5,    # more than any event is allowed here
};

my $dir = PostgreSQL::Test::Utils::tempdir_short();
my $receiver = start_receiver(
	mode => 'dapr',
	max_body => 50_000,
	components => {
		pubsub => {},
		scoped => { allowed_topics => ['allowed'] },
		broken => { down => JSON::PP::true() },
	});
my $proxy = start_receiver(mode => 'http');
my $node;
{
	my @names = qw(http_proxy https_proxy HTTPS_PROXY all_proxy ALL_PROXY);
	local @ENV{@names} = ($proxy->url) x @names;
	$node = new_node(
		'dapr',
		conf => {
			'outbox.dapr_endpoint' => $receiver->url,
			'outbox.breaker_threshold' => 1,
			'outbox.breaker_probe_interval' => '20ms',
			'outbox.request_timeout' => '1s',
			'outbox.max_retry_times' => 1,
			'outbox.local_retry_times' => 0,
			'outbox.local_failed_retry_interval' => '20ms',
			'outbox.failed_retry_interval' => '20ms',
			'outbox.max_retry_interval' => '20ms',
			'outbox.minimum_retry_interval' => '0',
		});
}
query($node, 'CREATE EXTENSION outbox');

# The requests of an event; those that are refused before they are read as well
sub tries
{
	my ($topic) = @_;
	return $receiver->log(topic => $topic, method => 'POST');
}

promise 'the endpoint is probed before there are events' => sub {
	restart_relay($node);
	poll_until(sub { check_value($node, 'endpoint answers', 'ok') eq 't' },
		'the endpoint to answer');
	my ($probe) = $receiver->log;
	is("$probe->{method} $probe->{path} $probe->{status}",
		'GET /v1.0/healthz/outbound 204', 'it is probed before there are events');
};

# --- Error classes

# The message's: dead at once.  Name, rule (undef: the stand-in's own answer),
# payload, status, error and metadata.
foreach my $case (
	[ 'rawPayload', undef, q{'{}'},
		400, qr/ERR_PUBSUB_REQUEST_METADATA: .*rawPayload/,
		q{metadata => '{"rawPayload": "maybe"}'} ],
	[ 'too large', undef, q{to_jsonb(repeat('x', 60000))},
		500, qr/ERR_PUBSUB_PUBLISH_MESSAGE: .*stream too large/ ],
	[ 'events', dapr_error(400, 'ERR_PUBSUB_EVENTS_SER'), q{'{}'},
		400, qr/ERR_PUBSUB_EVENTS_SER: scripted/ ],
	[ 'cloud event', dapr_error(500, 'ERR_PUBSUB_CLOUD_EVENTS_SER'), q{'{}'},
		500, qr/ERR_PUBSUB_CLOUD_EVENTS_SER: scripted/ ],
	[ '413', { status => 413 }, q{'{}'}, 413, qr/$/ ],
	[ '431', { status => 431, body => 'no' }, q{'{}'}, 431, qr/: no$/ ])
{
	my ($name, $rule, $payload, $status, $error, $metadata) = @$case;

	promise "what can never be taken is dead at once: $name" => sub {

		# as long as something is taken, it is the event's fault
		wait_delivered($receiver, [ scalar publish($node, 'good') ]);
		$receiver->faults([ $rule // () ]);
		my $id = publish($node, $name, payload => $payload, more => $metadata);
		wait_state($node, $id, 'dead');
		is(event_value($node, $id, 'attempts, last_status'),
			"1|$status", "$name: dead at once");
		like(event_value($node, $id, 'last_error'), qr/^HTTP $status ?$error/,
			"$name: with the reason");
		is(scalar(tries($name)), 1, "$name: after one try");
	};
}

# The message's or the broker's: counted, whatever the circuit breaker says.
foreach my $case (
	[ 'broker', { component_error => 'boom' }, 'pubsub',
		500, qr/ERR_PUBSUB_PUBLISH_MESSAGE: .*boom$/ ],
	[ 'forbidden', undef, 'scoped',
		403, qr/ERR_PUBSUB_FORBIDDEN: topic forbidden is not allowed/ ],
	[ 'plain 400', { status => 400, body => 'no' }, 'pubsub', 400, qr/: no$/ ])
{
	my ($name, $rule, $pubsub, $status, $error) = @$case;

	promise "what may be the event's fault is tried max_retry_times: $name" => sub {
		reload(
			$node,
			'outbox.dapr_pubsub_name' => $pubsub,
			'outbox.breaker_threshold' => 0);
		$receiver->faults([ $rule // () ]);
		my $id = publish($node, $name);
		wait_state($node, $id, 'dead');
		is(event_value($node, $id, 'attempts, last_status'),
			"2|$status", "$name: dead after max_retry_times");
		like(event_value($node, $id, 'last_error'), qr/^HTTP $status ?$error/,
			"$name: with the reason");
		is(scalar(tries($name)), 2, "$name: after as many tries");
	};
}

# The destination's: no try counts, and when all is well again it arrives.
my $redirect = { Location => $receiver->url . '/elsewhere' };
my $nested = { details => [ { errorCode => 'ERR_PUBSUB_CLOUD_EVENTS_SER' } ] };
foreach my $case (
	[ 'no pubsub', undef, 'nope', 404, qr/ERR_PUBSUB_NOT_FOUND: pubsub nope/ ],
	[ 'component gone', undef, 'broken', 400, qr/ERR_PUBSUB_NOT_FOUND/ ],
	[ 'not configured', dapr_error(400, 'ERR_PUBSUB_NOT_CONFIGURED'),
		'pubsub', 400, qr/ERR_PUBSUB_NOT_CONFIGURED/ ],
	[ 'no route', dapr_error(404, 'ERR_DIRECT_INVOKE'),
		'pubsub', 404, qr/ERR_DIRECT_INVOKE/ ],
	(map { [ $_, { status => $_ }, 'pubsub', $_, qr/$/ ] }
		  401, 402, 408, 418, 425, 429, 500, 502, 503, 504),
	[ 'plain 403', { status => 403, body => 'no' }, 'pubsub', 403, qr/: no$/ ],
	[ 'redirect', { status => 307, headers => $redirect },
		'pubsub', 307, qr/: redirects are not followed/ ],
	[ 'nested', { status => 500, body => $nested }, 'pubsub', 500, qr/: / ],
	[ 'escape', { status => 500, body => '{"errorCode":"\\ud800"}' },
		'pubsub', 500, qr/.+: / ],
	[ 'nul', { status => 500, action => 'nul_body' }, 'pubsub', 500, qr// ],
	[ 'long', { status => 500, body => 'x' x 40_000 },
		'pubsub', 500, qr/: x+$/ ],
	[ 'reset', { action => 'rst' }, 'pubsub', '', qr/./ ],
	[ 'dropped', { action => 'drop_before_commit' }, 'pubsub', '', qr/./ ],
	[ 'garbage', { action => 'garbage' }, 'pubsub', '', qr/./ ])
{
	my ($name, $rule, $pubsub, $status, $error) = @$case;

	promise "what is the destination's fault costs no attempt: $name" => sub {
		reload($node, 'outbox.dapr_pubsub_name' => $pubsub)
		  if $pubsub ne 'pubsub';
		$receiver->faults([ $rule // () ]);
		my $id = publish($node, $name);
		poll_until(sub { tries($name) >= MANY_TRIES }, "$name: many tries");
		unlike(event_state($node, $id), qr/^(dead|)$/, "$name: not dead");
		is(event_value($node, $id, 'attempts'),
			'0', "$name: nor has it lost an attempt");
		like(
			relay_value($node, 'last_error'),
			$status ? qr/^HTTP $status ?$error/ : qr/^(?!HTTP)$error/,
			"$name: but outbox_relays says why");
		is(scalar($receiver->log(path => '/elsewhere')),
			0, 'no redirect was followed')
		  if $name eq 'redirect';
		$receiver->faults([]);
		reload($node, 'outbox.dapr_pubsub_name' => 'pubsub')
		  if $pubsub ne 'pubsub';
		wait_delivered($receiver, [$id]);
	};
}

# --- The token

# A sidecar that wants the new token, and the file of the token to send it
my $token_file = "$dir/token";

sub guard
{
	my $guarded = start_receiver(mode => 'dapr', token => NEW_TOKEN);
	unlink $token_file;
	reload(
		$node,
		'outbox.dapr_endpoint' => $guarded->url,
		'outbox.dapr_api_token_file' => $token_file);
	return $guarded;
}

# Put a token in place of the one that is in the file.
sub change_token
{
	my ($text) = @_;
	write_secret($token_file, $text);
	$node->reload;
	return;
}

promise 'without the file of its token nothing is sent' => sub {
	my $guarded = guard();
	poll_until(
		sub { check_value($node, 'publisher configured', 'ok') eq 'f' },
		'the publisher not to be configured');
	like(check_value($node, 'publisher configured', 'detail'),
		qr/could not open file "\Q$token_file\E"/, 'a missing file is reported');
	my $id = publish($node, 'guarded');
	change_token(NEW_TOKEN);
	wait_delivered($guarded, [$id]);
	is_deeply(
		[ grep { $_ ne NEW_TOKEN } map { $_->{headers}{'dapr-api-token'} // '' }
			  $guarded->log(topic => 'guarded') ],
		[], 'nothing was sent without it');
};

promise 'a token that others may read is not used' => sub {
	my $guarded = guard();
	foreach my $mode (0640, 0604, 0620)
	{
		write_secret($token_file, NEW_TOKEN);
		chmod $mode, $token_file or die "chmod: $!";
		my $shown = sprintf('permissions 0%o, it must have 0600 or less', $mode);
		$node->reload;
		poll_until(
			sub { check_value($node, 'publisher configured', 'detail') =~ /$shown/ },
			$shown);
		like(check_value($node, 'publisher configured', 'detail'), qr/$shown/, $shown);
	}
	my $id = publish($node, 'guarded-by-mode');
	chmod 0400, $token_file or die "chmod: $!";
	$node->reload;
	wait_delivered($guarded, [$id]);
};

promise 'with a wrong token nothing is taken, a new one counts after a reload' =>
  sub {
	my $guarded = guard();
	change_token(TOKEN . "\n");
	my $id = publish($node, 'guarded');
	poll_until(sub { $guarded->log(status => 401) >= MANY_TRIES },
		'many refusals');
	is_deeply(
		[ grep { $_ ne TOKEN } map { $_->{headers}{'dapr-api-token'} // '' }
			  $guarded->log(topic => 'guarded') ],
		[], 'the token of the file is sent');
	is(event_value($node, $id, 'attempts'),
		'0', 'a wrong token costs no attempts');
	like(relay_value($node, 'last_error'),
		qr/^HTTP 401: invalid api token/, 'it is reported');

	change_token(NEW_TOKEN);
	wait_delivered($guarded, [$id]);
	is(scalar($guarded->accepted(id => $id)),
		1, 'a new token counts after a reload');
  };

# A sidecar, or a proxy before it, may repeat what it was sent.
promise 'the token is shown nowhere' => sub {
	my $guarded = guard();
	change_token(TOKEN);
	$guarded->faults([ {
		status => 503,
		body => { errorCode => 'ERR_' . TOKEN, message => 'you sent ' . TOKEN },
	} ]);
	publish($node, 'guarded');
	my $stars = '*' x length(TOKEN);
	wait_relay_value($node,
		last_error => "HTTP 503 ERR_$stars: you sent $stars");
	foreach my $what (
		'outbox_events', 'outbox_relays', 'outbox_stats', 'outbox_check()',
		'outbox_topics', 'outbox_relay_status()', 'pg_settings', 'pg_stat_activity',
		'outbox_event', 'outbox_delivery')
	{
		unlike(query($node, "SELECT * FROM $what"),
			qr/canary/, "no token in $what");
	}
	unlike(slurp_file($node->logfile), qr/canary/, 'nor in the log');
};

# --- Other ways

promise 'Dapr is reached over a Unix socket' => sub {
	my $local = start_receiver(mode => 'dapr', unix => "$dir/dapr.sock");
	reload($node, 'outbox.dapr_endpoint' => "unix:$dir/dapr.sock");
	my $id = publish($node, 'local');
	wait_delivered($local, [$id]);
	my ($entry) = $local->log(id => $id);
	is($entry->{path}, '/v1.0/publish/pubsub/local', 'a Unix socket');
};

# A certificate for this name, signed by nobody: a receiver's options.
sub make_certificate
{
	my ($name, $subject) = @_;
	system_or_bail(
		'openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes',
		'-days', '1', '-subj', '/CN=test', '-addext',
		"subjectAltName=$subject", '-keyout', "$dir/$name.key",
		'-out', "$dir/$name.crt");
	return (tls_cert => "$dir/$name.crt", tls_key => "$dir/$name.key");
}

promise 'Dapr is reached by https, which is verified' => sub {
	my $secure = start_receiver(
		mode => 'dapr', make_certificate('good', 'IP:127.0.0.1'));
	my $other = start_receiver(
		mode => 'dapr', make_certificate('other', 'DNS:other'));
	my $id;
	foreach my $case (
		[ 'a certificate that nobody vouches for',
			$secure, undef, qr/certificate/ ],
		[ 'one for another host', $other, "$dir/other.crt", qr/subject name/ ])
	{
		my ($name, $to, $ca, $error) = @$case;

		reload(
			$node,
			'outbox.dapr_endpoint' => $to->url,
			'outbox.tls_ca_file' => $ca);
		$id = publish($node, 'secure');
		wait_relay_value($node, last_error => $error);
		is($to->stats->{requests}, 0, "$name is refused before anything is sent");
		is(event_value($node, $id, 'attempts'), '0', 'and costs no attempts');
	}
	reload(
		$node,
		'outbox.dapr_endpoint' => $secure->url,
		'outbox.tls_ca_file' => "$dir/good.crt");
	wait_delivered($secure, [$id]);
	is(scalar($secure->accepted(id => $id)),
		1, 'with its authority in tls_ca_file https works');
};

promise 'proxies of the environment are not used' => sub {
	wait_delivered($receiver, [ publish($node, 'direct') ]);
	is($proxy->stats->{connections}, 0,
		'proxies of the environment are not used');
};

is($proxy->stats->{connections}, 0, 'by none of all these ways');

done_testing();
