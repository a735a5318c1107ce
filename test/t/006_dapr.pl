# The dapr publisher: what each answer means, the token, and the ways to it.
#
# Promises:
# - An answer that this event will get for ever makes it dead at once; what may
#   be its fault or the broker's is tried a limited number of times; what is
#   the sidecar's or the operator's costs no event an attempt.
# - The token comes from a file, and is shown nowhere.
# - Dapr is reached over a Unix socket and by https, which is verified.
# - Redirects are not followed, proxies of the environment not used.

use strict;
use warnings FATAL => 'all';

use JSON::PP ();
use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest qw(:DEFAULT !/^(check_value|dapr_error|event_value|fails_with|publish|publish_sql|query|restart_relay|stat_value|states|wait_states)$/);

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
			'outbox.poll_interval' => '100ms',
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
$node->safe_psql('postgres', 'CREATE EXTENSION outbox');

sub query
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

sub publish
{
	my ($arguments) = @_;
	return query("SELECT outbox_publish($arguments)");
}

# A column of outbox_events, or several of them with | in between
sub event_value
{
	my ($id, $columns) = @_;
	return query("SELECT $columns FROM outbox_events WHERE event_id = '$id'");
}

sub check_value
{
	my ($check, $column) = @_;
	return query(
		qq{SELECT $column FROM outbox_check() WHERE "check" = '$check'});
}

# The requests of an event; those that are refused before they are read as well
sub tries
{
	my ($topic) = @_;
	return $receiver->log(topic => $topic, method => 'POST');
}

poll_until(sub { check_value('endpoint answers', 'ok') eq 't' },
	'the endpoint to answer');
my ($probe) = $receiver->log;
is("$probe->{method} $probe->{path} $probe->{status}",
	'GET /v1.0/healthz/outbound 204', 'it is probed before there are events');

#
# Error classes
#

# One of Dapr's errors, scripted
sub dapr_error
{
	my ($status, $code) = @_;
	return {
		status => $status,
		body => { errorCode => $code, message => 'scripted' },
	};
}

# The message's: dead at once.  Name, rule (undef: the stand-in's own answer),
# arguments of outbox_publish() behind the topic, status and error.
foreach my $case (
	[ 'rawPayload', undef, q{'{}', metadata => '{"rawPayload": "maybe"}'},
		400, qr/ERR_PUBSUB_REQUEST_METADATA: .*rawPayload/ ],
	[ 'too large', undef, q{to_jsonb(repeat('x', 60000))},
		500, qr/ERR_PUBSUB_PUBLISH_MESSAGE: .*stream too large/ ],
	[ 'events', dapr_error(400, 'ERR_PUBSUB_EVENTS_SER'), q{'{}'},
		400, qr/ERR_PUBSUB_EVENTS_SER: scripted/ ],
	[ 'cloud event', dapr_error(500, 'ERR_PUBSUB_CLOUD_EVENTS_SER'), q{'{}'},
		500, qr/ERR_PUBSUB_CLOUD_EVENTS_SER: scripted/ ],
	[ '413', { status => 413 }, q{'{}'}, 413, qr/$/ ],
	[ '431', { status => 431, body => 'no' }, q{'{}'}, 431, qr/: no$/ ])
{
	my ($name, $rule, $arguments, $status, $error) = @$case;

	$receiver->faults([ $rule // () ]);
	my $id = publish("'$name', $arguments");
	wait_state($node, $id, 'dead');
	is(event_value($id, 'attempts, last_status'), "1|$status",
		"$name: dead at once");
	like(event_value($id, 'last_error'), qr/^HTTP $status ?$error/,
		"$name: with the reason");
	is(scalar(tries($name)), 1, "$name: after one try");
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

	reload($node, 'outbox.dapr_pubsub_name' => $pubsub);
	$receiver->faults([ $rule // () ]);
	my $id = publish("'$name', '{}'");
	wait_state($node, $id, 'dead');
	is(event_value($id, 'attempts, last_status'), "2|$status",
		"$name: dead after max_retry_times");
	like(event_value($id, 'last_error'), qr/^HTTP $status ?$error/,
		"$name: with the reason");
	is(scalar(tries($name)), 2, "$name: after as many tries");
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
		'pubsub', 500, qr/: / ],
	[ 'nul', { status => 500, action => 'nul_body' }, 'pubsub', 500, qr// ],
	[ 'long', { status => 500, body => 'x' x 40_000 },
		'pubsub', 500, qr/: x+$/ ],
	[ 'reset', { action => 'rst' }, 'pubsub', '', qr/./ ],
	[ 'dropped', { action => 'drop_before_commit' }, 'pubsub', '', qr/./ ],
	[ 'garbage', { action => 'garbage' }, 'pubsub', '', qr/./ ])
{
	my ($name, $rule, $pubsub, $status, $error) = @$case;

	reload($node, 'outbox.dapr_pubsub_name' => $pubsub)
	  if query('SHOW outbox.dapr_pubsub_name') ne $pubsub;
	$receiver->faults([ $rule // () ]);
	my $id = publish("'$name', '{}'");
	poll_until(sub { tries($name) >= MANY_TRIES }, "$name: many tries");
	unlike(event_state($node, $id), qr/dead/, "$name: not dead");
	is(event_value($id, 'attempts'), '0', "$name: nor has it lost an attempt");
	like(
		query('SELECT last_error FROM outbox_relays'),
		$status ? qr/^HTTP $status ?$error/ : qr/^(?!HTTP)$error/,
		"$name: but outbox_relays says why");
	$receiver->faults([]);
	reload($node, 'outbox.dapr_pubsub_name' => 'pubsub') if $pubsub ne 'pubsub';
	wait_delivered($receiver, [$id]);
}
is(scalar($receiver->log(path => '/elsewhere')), 0, 'no redirect was followed');
is($proxy->stats->{connections}, 0, 'proxies of the environment are not used');

#
# The token
#

my $token_file = "$dir/token";
my $guarded = start_receiver(mode => 'dapr', token => NEW_TOKEN);

# Without its file nothing is sent.
reload(
	$node,
	'outbox.dapr_endpoint' => $guarded->url,
	'outbox.dapr_api_token_file' => $token_file);
poll_until(
	sub { check_value('publisher configured', 'ok') eq 'f' },
	'the publisher not to be configured');
like(check_value('publisher configured', 'detail'),
	qr/could not open file "\Q$token_file\E"/, 'a missing file is reported');
my $id = publish(q{'guarded', '{}'});

# With a wrong one nothing is taken.
append_to_file($token_file, TOKEN . "\n");
$node->reload;
poll_until(sub { $guarded->log(status => 401) >= MANY_TRIES }, 'many refusals');
is_deeply(
	[ grep { $_ ne TOKEN } map { $_->{headers}{'dapr-api-token'} // '' }
		  $guarded->log(topic => 'guarded') ],
	[], 'the token of the file is sent');
is(event_value($id, 'attempts'), '0', 'a wrong token costs no attempts');
like(query('SELECT last_error FROM outbox_relays'),
	qr/^HTTP 401: invalid api token/, 'it is reported');

# A sidecar, or a proxy before it, may repeat what it was sent.
$guarded->faults([ {
	status => 503,
	body => { errorCode => 'ERR_' . TOKEN, message => 'you sent ' . TOKEN },
} ]);
my $stars = '*' x length(TOKEN);
poll_until(
	sub {
		query('SELECT last_error FROM outbox_relays') eq
		  "HTTP 503 ERR_$stars: you sent $stars";
	},
	'the repeated token to be hidden');
$guarded->faults([]);

# The right one, in the same file
unlink $token_file;
append_to_file($token_file, NEW_TOKEN);
$node->reload;
wait_delivered($guarded, [$id]);
is(scalar($guarded->accepted(id => $id)),
	1, 'a new token counts after a reload');

foreach my $what (
	'outbox_events', 'outbox_relays', 'outbox_stats', 'outbox_check()',
	'outbox_relay_status()', 'pg_settings', 'pg_stat_activity',
	'outbox_event', 'outbox_delivery')
{
	unlike(query("SELECT * FROM $what"), qr/canary/, "no token in $what");
}
unlike(slurp_file($node->logfile), qr/canary/, 'nor in the log');
reload($node, 'outbox.dapr_api_token_file' => undef);

#
# Other ways
#

my $local = start_receiver(mode => 'dapr', unix => "$dir/dapr.sock");
reload($node, 'outbox.dapr_endpoint' => "unix:$dir/dapr.sock");
$id = publish(q{'local', '{}'});
wait_delivered($local, [$id]);
my ($entry) = $local->log(id => $id);
is($entry->{path}, '/v1.0/publish/pubsub/local', 'a Unix socket');

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

my $secure = start_receiver(
	mode => 'dapr', make_certificate('good', 'IP:127.0.0.1'));
my $other = start_receiver(
	mode => 'dapr', make_certificate('other', 'DNS:other'));
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
	$id = publish(q{'secure', '{}'});
	poll_until(
		sub { query('SELECT last_error FROM outbox_relays') =~ $error },
		"$name to be refused");
	is($to->stats->{requests}, 0, "$name is refused before anything is sent");
	is(event_value($id, 'attempts'), '0', 'and costs no attempts');
}
reload(
	$node,
	'outbox.dapr_endpoint' => $secure->url,
	'outbox.tls_ca_file' => "$dir/good.crt");
wait_delivered($secure, [$id]);
is(scalar($secure->accepted(id => $id)),
	1, 'with its authority in tls_ca_file https works');

is($proxy->stats->{connections}, 0, 'still no proxy was used');

done_testing();
