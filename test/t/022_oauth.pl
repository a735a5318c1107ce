# Access tokens of the http publisher, by OAuth 2.0's client credentials.
#
# Promises:
# - A token is asked for as RFC 6749 has it, with the secret in a header or in the
#   body, and sent with every request; nothing else goes to the server of tokens.
# - It is renewed before it ends, and on account of a 401; what was answered 401
#   goes again with the new one, and loses no attempt.
# - A 401 to a token that has just come is the topic's failure: no token is fetched
#   in vain again and again.
# - While there is none the destination is down, and no event loses an attempt.
# - Nothing shows a secret or a token.

use strict;
use warnings FATAL => 'all';

use MIME::Base64 qw(encode_base64);
use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;

use constant {
	SECRET => 'canary-se/cret+1',
	MINUTES => 60 * 1000,
};

my $http = start_receiver(mode => 'http');
my $tokens = start_receiver(mode => 'http');
my $file = PostgreSQL::Test::Utils::tempdir() . '/secret';
write_secret($file, SECRET . "\n");
my $node = new_node(
	'oauth',
	clock => 1,
	start => 0,
	conf => {
		'outbox.publisher' => 'http',
		'outbox.http_url' => $http->url . '/in/{topic}',
		'outbox.http_headers' => 'X-Setting: one',
		'outbox.http_oauth_token_url' => $tokens->url . '/token',
		'outbox.http_oauth_client_id' => 'out:box',
		'outbox.http_oauth_client_secret_file' => $file,
		'outbox.http_oauth_scope' => 'events write',
		'outbox.request_timeout' => '5s',
		'outbox.max_retry_times' => 2,
	});

# Have the server of tokens answer so from now on.
sub grant
{
	my (%rule) = @_;
	$tokens->faults([ { status => 200, taken => 1, %rule } ]);
	return;
}

# Grant this token, with further members of the answer.
sub grant_token
{
	my ($name, %members) = @_;
	grant(body => { access_token => "canary-$name", token_type => 'Bearer', %members });
	return;
}

# Have the endpoint take what has this token, and answer 401 to all else.
sub accept_token
{
	my ($name) = @_;
	$http->faults([
		{ match => { header => "authorization: Bearer canary-$name" }, action => 'pass' },
		{ match => { path => '.' }, status => 401, body => 'who is that?' } ]);
	return;
}

# How often a token was asked for
sub nfetches { return scalar($tokens->log); }

# Wait for an event to arrive with this token.
sub arrives_with
{
	my ($id, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_delivered($http, [$id]);
	my ($entry) = $http->accepted(id => $id);
	return is($entry->{headers}{authorization}, "Bearer canary-$name", "token $name");
}

grant_token('first');
$node->start;
query($node, 'CREATE EXTENSION outbox');

promise 'a token is asked for with the secret in a header, or in the body' => sub {
	grant_token('basic');
	restart_relay($node);
	arrives_with(scalar publish($node, 'asked'), 'basic');
	my ($entry) = $tokens->log;
	is($entry->{body}, 'grant_type=client_credentials&scope=events%20write', 'the body');
	is_deeply(
		[ @{ $entry->{headers} }{qw(authorization content-type x-setting)} ],
		[
			'Basic ' . encode_base64('out%3Abox:canary-se%2Fcret%2B1', ''),
			'application/x-www-form-urlencoded', undef
		],
		'the headers, of which those for the endpoint are none');

	$tokens->reset;
	grant_token('post');
	reload(
		$node,
		'outbox.http_oauth_auth' => 'post',
		'outbox.http_oauth_audience' => 'a&b');
	poll_until(sub { nfetches() > 0 }, 'a token to be asked for');
	arrives_with(scalar publish($node, 'asked'), 'post');
	($entry) = $tokens->log;
	is($entry->{body},
		'grant_type=client_credentials&scope=events%20write&audience=a%26b'
		  . '&client_id=out%3Abox&client_secret=canary-se%2Fcret%2B1',
		'everything in the body');
	is($entry->{headers}{authorization}, undef, 'and no such header');
};

promise 'a token is renewed when nine tenths of its life are over' => sub {
	grant_token('young', expires_in => 600);
	restart_relay($node);
	my $failed = stat_value($node, 'failed_attempts');
	arrives_with(scalar publish($node, 'renewed'), 'young');
	my $fetches = nfetches();
	grant_token('next', expires_in => '600');
	let_time_pass($node, 8 * MINUTES);
	arrives_with(scalar publish($node, 'renewed'), 'young');
	let_time_pass($node, 1.5 * MINUTES);
	poll_until(sub { nfetches() == $fetches + 1 }, 'a token to be asked for');
	poll_until(
		sub {
			my $id = publish($node, 'renewed');
			wait_delivered($http, [$id]);
			my ($entry) = $http->accepted(id => $id);
			$entry->{headers}{authorization} eq 'Bearer canary-next';
		},
		'the next token');
	is(stat_value($node, 'failed_attempts') - $failed, 0, 'nothing has failed');
};

promise 'a token that cannot be renewed is used until its end, and then the destination is down' => sub {
	my $offset = -s $node->logfile;
	grant_token('short', expires_in => 100);
	restart_relay($node);
	arrives_with(scalar publish($node, 'ends'), 'short');
	grant(status => 503, body => 'not today');
	let_time_pass($node, 95 * 1000);
	wait_log($node, qr/could not renew the access token.*\n.*HTTP 503: not today/, $offset);
	arrives_with(scalar publish($node, 'ends'), 'short');
	let_time_pass($node, 10 * 1000);
	wait_relay_value($node, state => 'endpoint down');
	my @ids = publish($node, 'ends', count => 100);
	wait_relay_value($node, last_error => qr/^no access token: HTTP 503: not today/);
	like(check_value($node, 'endpoint answers', 'ok, detail'),
		qr/^f\|.*no access token/, 'outbox_check() says why');
	grant_token('later');
	wait_delivered($http, \@ids);
	wait_settled($node);
	is(query($node, q{SELECT max(attempts) FROM outbox_events WHERE topic = 'ends'}), 1,
		'no event has lost an attempt');
};

promise 'a 401 has a token fetched, once, and costs no attempt' => sub {
	grant_token('old');
	restart_relay($node);
	my $failed = stat_value($node, 'failed_attempts');
	accept_token('old');
	arrives_with(scalar publish($node, 'revoked'), 'old');

	# it is a second old, by which a 401 is not the event's fault
	let_time_pass($node, 2000);
	my $fetches = nfetches();
	grant(body => { access_token => 'canary-new' }, delay_response => 0.5);
	accept_token('new');
	my @ids = publish($node, 'revoked', count => 200, more => q{key => 'k' || n % 20});
	wait_delivered($http, \@ids);
	is(nfetches(), $fetches + 1, 'one fetch for all of them');
	is(stat_value($node, 'failed_attempts') - $failed, 0, 'and no attempt');
};

promise 'a token that does not help is the topic\'s failure, and not fetched all the time' => sub {
	grant_token('useless');
	restart_relay($node);
	accept_token('another');
	let_time_pass($node, 2000);
	my $fetches = nfetches();
	publish($node, 'useless', count => 50);
	wait_relay_value($node, topics_down => 1);
	my ($error) = query($node, q{SELECT last_error FROM outbox_topics WHERE topic = 'useless'});
	is($error, 'HTTP 401: who is that?', 'the topic is down, and why');
	is(query($node, q{SELECT count(*) FROM outbox_events WHERE state = 'dead'}), 0, 'nothing is dead');
	cmp_ok(nfetches() - $fetches, '<=', 3, 'it was fetched a few times at most');
	accept_token('useless');
	wait_settled($node);
};

promise 'while there is no token nothing is sent, and no attempt lost' => sub {
	my $offset = -s $node->logfile;
	my %reasons = (
		'HTTP 401 invalid_client: go away' =>
		  { status => 401, body => { error => 'invalid_client', error_description => 'go away' } },
		'HTTP 302: redirects are not followed' =>
		  { status => 302, headers => { Location => $tokens->url . '/elsewhere' } },
		'the answer has no access_token' => { body => { token => 'canary-x' } },
		'the token is of another type than Bearer' =>
		  { body => { access_token => 'canary-x', token_type => 'mac' } },
		'the token has characters that a header cannot have' =>
		  { body => { access_token => "canary-x\r\nX-Evil: 1" } },
		'the answer is too long, or broke off' =>
		  { body => { access_token => 'canary-x' . 'x' x 70000 } },
		'timed out: no complete answer in 5000 ms' => { action => 'hang' });

	foreach my $reason (sort keys %reasons)
	{
		grant(%{ $reasons{$reason} });
		restart_relay($node);
		my @ids = publish($node, 'none', count => 20);
		wait_relay_value($node, last_error => "no access token: $reason");
		wait_relay_value($node, state => 'endpoint down');
		grant_token('good');
		wait_delivered($http, \@ids);
		wait_settled($node);
		is(query($node, q{SELECT max(attempts) FROM outbox_events WHERE topic = 'none'}), 1,
			$reason);
	}
	is(scalar($tokens->log(path => '/elsewhere')), 0, 'no redirect was followed');
	unlike(slurp_file($node->logfile, $offset), qr/canary/, 'the log shows neither secret nor token');
};

promise 'secret and token are hidden in what a server repeats' => sub {
	grant_token('hidden');
	restart_relay($node);
	$http->faults([ { status => 400, times => 1,
		body => 'Bearer canary-hidden; canary%2Dhidden' } ]);
	my $id = publish($node, 'shown');
	wait_state($node, $id, 'dead');
	is(event_value($node, $id, 'last_error') =~ s/\*+/*/gr, 'HTTP 400: Bearer *; *', 'the token');
	grant(status => 400, body => { error => 'no', error_description => SECRET . ' '
		  . encode_base64('out%3Abox:canary-se%2Fcret%2B1', '') });
	restart_relay($node);
	wait_relay_value($node, last_error => qr/^no access token: HTTP 400 no: \*+ \*+$/);
};

promise 'another secret is used for the next token, without a reload' => sub {
	grant(status => 401, body => { error => 'invalid_client' });
	restart_relay($node);
	my $id = publish($node, 'rotated');
	wait_relay_value($node, last_error => qr/invalid_client/);
	$tokens->faults([
		{ match => { header => 'authorization: Basic ' . encode_base64('out%3Abox:second', '') },
			status => 200, taken => 1, body => { access_token => 'canary-second' } },
		{ status => 401, body => { error => 'invalid_client' } } ]);
	write_secret($file, 'second');
	arrives_with($id, 'second');
	write_secret($file, SECRET);
};

# Name, a value that does not fit, and the reason
foreach my $case (
	[ 'outbox.http_oauth_client_id', undef, qr/client_id or .* is not$/ ],
	[ 'outbox.http_headers', 'AUTHORIZATION: x', qr/Authorization header, too$/ ],
	[ 'outbox.http_oauth_client_secret_file', "$file.none", qr/could not open file/ ])
{
	my ($name, $value, $reason) = @$case;

	promise "what does not fit is refused: $name" => sub {
		reload($node, $name => $value);
		restart_relay($node);
		poll_until(
			sub { check_value($node, 'publisher configured', 'detail') =~ $reason },
			"outbox_check() to say $reason");
		pass('outbox_check() says so');
	};
}

done_testing();
