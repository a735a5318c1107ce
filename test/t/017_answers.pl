# What lies between a destination and the word "published": no answer that means
# nothing, no connection that is dead, no pause of the process.
#
# Promises:
# - A list of failed entries counts only as far as it is of the request: with a
#   name that is not, every event is sent again, alone; lists of another name
#   say nothing, nor do those that are not JSON.
# - What nobody could ever get is dead at once, with the reason.
# - Key and metadata that do not fit into a URL go in the body of a bulk request;
#   where that cannot be, the event is dead and says what to raise.
# - A request that meets a dead connection is sent once more on a fresh one, and
#   that is no attempt; without an answer there, it is.
# - An answer is read in the same way whatever the encoding of the database.
# - What a request was sent with is hidden in its answer, whatever the settings are
#   by then.
# - It is hidden however the receiver spells it. Nothing is shown that turns a text
#   around, and with outbox.log_responses = off nothing of an answer at all.
# - A process that was stopped for longer than all time-outs takes the answers
#   that came in meanwhile.

use strict;
use warnings FATAL => 'all';

use MIME::Base64 qw(encode_base64);
use PostgreSQL::Test::Utils;
use Time::HiRes qw(time);
use Test::More;

use lib 'test/lib';
use OutboxTest;

my $dapr = start_receiver(mode => 'dapr');
my $node = new_node(
	'answers',
	conf => {
		'outbox.dapr_bulk' => 'auto',
		'outbox.dapr_endpoint' => $dapr->url,
		'outbox.breaker_threshold' => 0,
		'outbox.request_timeout' => '30s',
		'outbox.local_retry_times' => 1,
		'outbox.max_retry_times' => 2,
	});
query($node, 'CREATE EXTENSION outbox');

# Tries that the relay has seen fail so far
sub failed_attempts
{
	return stat_value($node, 'failed_attempts');
}

# --- Dapr's list of what failed

# With a $body that names none of the request's events as failed: whatever it
# means, it does not mean that they were taken.  Where the first attempt is the
# last one, each would be dead if it had cost one.
sub list_says_nothing
{
	my ($topic, $body, $name) = @_;
	$dapr->faults([ { match => { path => "/bulk/.*/$topic" },
		status => 500, body => $body, times => 1 } ]);
	my @ids = publish($node, $topic, count => 5);
	wait_states($node, $topic, 'published*5', "$name: published");
	is($dapr->faults->[0]{fired}, 1, "$name: met a request that they shared");
	taken_once($dapr, \@ids, "$name: taken");
	return;
}

promise 'a list of failed entries with a name not of the request is worthless' => sub {
	my %entries = (
		empty => '{"entryId":"","error":"x"}',
		upper => '{"entryId":"0197C9F2-AAAA-7000-8000-000000000001"}',
		text => '{"entryId":"2"}',
		number => '{"entryId":2}',
		none => '{"error":"x"}',
		array => '[]',
		scalar => '"2"');
	reload($node, 'outbox.max_retry_times' => 0);
	foreach my $case (sort keys %entries)
	{
		list_says_nothing("list_$case",
			qq({"failedEntries":[$entries{$case}],"errorCode":"ERR_PUBSUB_PUBLISH_MESSAGE"}),
			"an entry that is $case");
		is(scalar(grep { $_->{path} !~ /bulk/ } $dapr->log(topic => "list_$case")),
			5, 'each was sent alone');
	}
};

promise 'one name not of the request makes those that are worthless' => sub {
	my ($first, $second) = map { "0197c9f2-0000-7000-8000-00000000000$_" } 1, 2;
	$dapr->faults([ { match => { path => '/bulk/.*/half' }, status => 500, times => 1,
		body => qq({"failedEntries":[{"entryId":"$first"},{"entryId":"x"}]}) } ]);
	query($node, qq{
		SELECT outbox_publish('half', '1', event_id => id::uuid)
		FROM unnest('{$first, $second}'::text[]) id});
	wait_states($node, 'half', 'published*2');
	taken_once($dapr, [ $first, $second ], 'both are sent again');
};

promise 'what is no object among the failed entries makes those that are worthless' => sub {
	my ($first, $second) = map { "0197c9f2-0000-7000-8000-00000000003$_" } 1, 2;
	$dapr->faults([ { match => { path => '/bulk/.*/mixed' }, status => 500, times => 1,
		body => qq({"failedEntries":[{"entryId":"$first"},"$second"]}) } ]);
	query($node, qq{
		SELECT outbox_publish('mixed', '1', event_id => id::uuid)
		FROM unnest('{$first, $second}'::text[]) id});
	wait_states($node, 'mixed', 'published*2');
	taken_once($dapr, [ $first, $second ], 'both are sent again');
};

# Each names but one of the two, as far as it can be read.
promise 'a list of failed entries that is not JSON is worthless' => sub {
	my $n = 0;
	foreach my $list (
		'[{"entryId":"%s","err%s"}]', '[{"entryId":"%s"}},{"entryId":"%s"}',
		'[{"entryId":"%s"}] "%s"', '[{"entryId":"%s" "error":"%s"}]')
	{
		my @ids = map { "0197c9f2-0000-7000-8000-00000000004$_" } $n++, $n++;
		my $topic = "broken$n";
		my $body = sprintf qq({"failedEntries":$list}), @ids;
		$dapr->faults([ { match => { path => "/bulk/.*/$topic" }, status => 500,
			times => 1, body => $body } ]);
		query($node, qq{
			SELECT outbox_publish('$topic', '1', event_id => id::uuid)
			FROM unnest('{$ids[0], $ids[1]}'::text[]) id});
		wait_states($node, $topic, 'published*2');
		is($dapr->faults->[0]{fired}, 1, "$body was met");
		taken_once($dapr, \@ids, 'both are sent again');
	}
};

# More than is kept of an answer; its end, with the errorCode, is not seen.
promise 'a list of failed entries that is too long to be read is the topic\'s failure' => sub {
	reload($node, 'outbox.breaker_threshold' => 1);
	$dapr->faults([ { match => { path => '/bulk/.*/lengthy' }, status => 500, times => 1,
		body => '{"failedEntries":[{"entryId":"x","error":"' . 'y' x 150_000
		  . '"}],"errorCode":"ERR_PUBSUB_PUBLISH_MESSAGE"}' } ]);
	my $offset = -s $node->logfile;
	publish($node, 'lengthy', count => 3);
	wait_states($node, 'lengthy', 'published*3');
	is($dapr->faults->[0]{fired}, 1, 'it was met');
	like(slurp_file($node->logfile, $offset), qr/topic "lengthy" is down/,
		'and the topic was down for it');
};

promise 'only the member failedEntries is a list of what failed' => sub {
	my ($first, $second) = map { "0197c9f2-0000-7000-8000-00000000001$_" } 1, 2;
	my $entry = qq({"entryId":"$first","error":"x"});
	$dapr->faults([ { match => { path => '/bulk/.*/other' }, status => 500, times => 1,
		body => qq({"errorCode":"ERR_PUBSUB_PUBLISH_MESSAGE","details":[$entry]}) } ]);
	query($node, qq{
		SELECT outbox_publish('other', '1', event_id => id::uuid)
		FROM unnest('{$first, $second}'::text[]) id});
	wait_states($node, 'other', 'published*2');
	taken_once($dapr, [ $first, $second ], 'another list says nothing');
};

# --- What daprd would take, and nobody get

promise 'a number that no subscriber of Dapr can decode is refused' => sub {
	foreach my $bulk (qw(off auto on))
	{
		reload($node, 'outbox.dapr_bulk' => $bulk);
		my @bad = ('1e400', '-1e309', '1.8e308', '[1, {"a": 1e400}]');
		my @good = ('1e308', '-1.7e308', '1e-400', '"1e400 ' . ('9' x 400) . '"',
			"1.0${\ ('0' x 400)}1");
		my @ids = map { publish($node, "numbers_$bulk", payload => literal($_)) }
		  @bad, @good;
		wait_states($node, "numbers_$bulk", 'dead*4 published*5', "dapr_bulk = $bulk");
		is(event_value($node, $ids[1], 'attempts, last_status, last_error'),
			'1||the payload has a number outside of float64:'
			  . ' no subscriber of Dapr could decode the event',
			'dead at once, with the reason');
		is(scalar(map { $dapr->log(id => $_) } @ids[ 0 .. 3 ]), 0, 'and never sent');
	}
	my $raw = publish($node, 'numbers_raw',
		payload => q{'1e400'},
		more => q{metadata => '{"rawPayload": "true"}'});
	ok(wait_state($node, $raw, 'published'), 'raw, nobody decodes it');
};

# --- What does not fit into a URL

# Four times as long when it is percent-encoded as it is here
my $long = q{jsonb_build_object('long', repeat(chr(252), 1500))};

promise 'what does not fit into a URL arrives all the same' => sub {
	foreach my $bulk (qw(off auto on))
	{
		reload($node, 'outbox.dapr_bulk' => $bulk);
		my $failed = failed_attempts();
		my @ids = publish($node, "long_$bulk",
			count => 3,
			key => '%' x 200,
			more => "metadata => $long");
		wait_states($node, "long_$bulk", 'published*3', "dapr_bulk = $bulk");
		taken_once($dapr, \@ids, 'each is taken');
		my ($entry) = $dapr->accepted(id => $ids[0]);
		is_deeply($entry->{metadata},
			{ long => "\x{fc}" x 1500, partitionKey => '%' x 200 },
			'with key and metadata');
		is(failed_attempts() - $failed, 0, 'and without an attempt');
	}
};

# That it cannot arrive: the reason
sub is_too_long
{
	my ($topic, $reason, %event) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $id = publish($node, $topic, more => "metadata => $long", %event);
	wait_state($node, $id, 'dead');
	is(event_value($node, $id, 'attempts, last_error'),
		"1|key and metadata do not fit into daprd's limit for a URL,"
		  . " and $reason: raise its --read-buffer-size", $topic);
	return $id;
}

promise 'what does not fit into a URL and not into bulk is dead, and says why' => sub {
	is_too_long('long_exact', 'its bulk API would change the numbers',
		payload => q{'1.10'});
	is_too_long('long_raw', 'its bulk API has no rawPayload',
		more => qq(metadata => $long || '{"rawPayload": "true"}'));
	reload($node, 'outbox.dapr_bulk' => 'on');
	my $id = publish($node, 'long_inexact', payload => q{'1.10'}, more => "metadata => $long");
	ok(wait_state($node, $id, 'published'), 'with dapr_bulk = on numbers may change');
};

promise 'what does not fit into a URL is dead where there is no bulk API' => sub {
	reload($node, 'outbox.dapr_bulk' => 'off');
	$dapr->faults([ dapr_error(404, 'ERR_DIRECT_INVOKE', match => { path => '/bulk/' }) ]);
	my @ids = map { is_too_long('long_denied', 'it has no bulk API') } 1 .. 2;
	is_deeply(
		[ sort map { $_->{path} =~ s/long_denied$//r } $dapr->log(topic => 'long_denied', id => $ids[1]) ],
		[ '/v1.0-alpha1/publish/bulk/pubsub/', '/v1.0/publish/bulk/pubsub/' ],
		'both routes were tried for each');
	$dapr->faults([]);
	query($node, "SELECT outbox_retry('$ids[1]')");
	ok(wait_state($node, $ids[1], 'published'), 'and are again: once there is one, it arrives');
};

# An API allowlist that has v1.0 only: its version is not shown either.
promise 'what does not fit into a URL finds the route that is there' => sub {
	$dapr->faults([ dapr_error(404, 'ERR_DIRECT_INVOKE', match => { path => '/v1.0-alpha1/' }),
		dapr_error(404, 'ERR_DIRECT_INVOKE', match => { path => '/v1.0/metadata' }) ]);
	reload($node, 'outbox.dapr_bulk' => 'off');
	my $id = publish($node, 'long_stable', more => "metadata => $long");
	ok(wait_state($node, $id, 'published'), 'that of a new daprd without its version');
	taken_once($dapr, [$id], 'taken');

	# To an old one, the new route is that of a single event, as here.
	my $old = start_receiver(mode => 'dapr', profile => '1.16',
		components => { pubsub => {}, bulk => {} });
	$old->faults([ dapr_error(404, 'ERR_DIRECT_INVOKE', match => { path => '/v1.0-alpha1/' }) ]);
	reload($node, 'outbox.dapr_endpoint' => $old->url);
	$id = publish($node, 'long_old', more => "metadata => $long");
	ok(wait_state($node, $id, 'dead'), 'with none it is dead');
	is(scalar($old->accepted), 0, 'and not published to a component of that name');
};

promise 'in bulk alone, an event has the attempts of any other' => sub {
	$dapr->faults([ { match => { topic => 'long_fails' }, component_error => 'boom' } ]);
	my $id = publish($node, 'long_fails', more => "metadata => $long");
	wait_state($node, $id, 'dead');
	like(event_value($node, $id, 'attempts, last_error'),
		qr/^3\|HTTP 500 ERR_PUBSUB_PUBLISH_MESSAGE: .*boom$/, 'and dies of its own failures');
	$dapr->faults([ { match => { topic => 'long_unknown' }, status => 500, times => 1,
		body => '{"failedEntries":[{"entryId":"x"}]}' } ]);
	$id = publish($node, 'long_unknown', more => "metadata => $long");
	wait_state($node, $id, 'published');
	taken_once($dapr, [$id], 'a list without it says nothing');
};

# --- Connections

promise 'a kept connection that dies under a request costs no attempt' => sub {
	reload($node, 'outbox.max_in_flight' => 1);
	$dapr->faults([ { match => { topic => 'stale', nth => 2 },
		action => 'drop_before_commit' } ]);
	my $failed = failed_attempts();
	my @ids = publish($node, 'stale', count => 40, key => 'k');
	wait_states($node, 'stale', 'published*40');
	taken_once($dapr, \@ids, 'each event is taken');
	cmp_ok($dapr->faults->[0]{fired}, '>=', 20, 'many met a dead connection');
	is(failed_attempts() - $failed, 0, 'and none lost an attempt by it');
};

promise 'a connection that dies again is a failure' => sub {
	reload($node,
		'outbox.dapr_bulk' => 'off',
		'outbox.max_retry_times' => 0,
		'outbox.local_retry_times' => 0);

	# ten connections, which are kept
	publish($node, 'alive', count => 30);
	wait_states($node, 'alive', 'published*30');
	$dapr->faults([ { match => { topic => 'alive' }, action => 'hang', on_release => 'answer' } ]);
	publish($node, 'alive', count => 10);
	poll_until(sub { $dapr->stats->{concurrent} == 10 }, 'all to be under way');
	$dapr->faults([]);
	wait_states($node, 'alive', 'published*40');
	$dapr->faults([ { match => { topic => 'dead' }, action => 'drop_before_commit' } ]);
	my $failed = failed_attempts();
	my $id = publish($node, 'dead');
	poll_until(sub { failed_attempts() > $failed }, 'the event to fail');
	is(scalar($dapr->log(topic => 'dead', id => $id)), 2,
		'it was sent on a kept connection at first, and on a fresh one');
	$dapr->faults([]);
};

# --- Databases of other encodings

# A database of this encoding, with the extension
sub make_database
{
	my ($encoding) = @_;
	my $db = lc $encoding;
	query($node, "CREATE DATABASE $db TEMPLATE template0 ENCODING '$encoding' LOCALE 'C'");
	query($node, 'CREATE EXTENSION outbox', $db);
	return $db;
}

promise 'a list of failed entries is read whatever the encoding of the database' => sub {
	foreach my $encoding (qw(SQL_ASCII LATIN1))
	{
		my $db = make_database($encoding);
		my $topic = "list_$db";
		my @ids = map { '0197c9f2-0000-7000-8000-0000000000' . (20 + $_) } 1 .. 3;
		$dapr->faults([ { match => { path => "/bulk/.*/$topic" }, status => 500, times => 1,
			body => qq({"failedEntries":[{"entryId":"$ids[0]","error":"\\u00fc \\ufffd"},)
			  . qq({"entryId":"$ids[1]"}],"errorCode":"ERR_PUBSUB_PUBLISH_MESSAGE"}) } ]);
		query($node, qq{
			SELECT outbox_publish('$topic', '1', event_id => id::uuid)
			FROM unnest('{@{[join ', ', @ids]}}'::text[]) id}, $db);
		poll_until(
			sub {
				query($node, q{SELECT count(*) FROM outbox_events
					WHERE state = 'published'}, $db) == 3;
			},
			'the events to be published');
		is($dapr->faults->[0]{fired}, 1, "$encoding: a list was met");
		is(scalar($dapr->log(topic => $topic, id => $ids[2])), 1,
			"$encoding: what it does not name is not sent again");
		is(scalar($dapr->log(topic => $topic, id => $ids[1])), 2,
			"$encoding: what it names is");
		query($node, "DROP DATABASE $db");
	}
};

promise 'strings in an answer are read as UTF-8 whatever the encoding of the database' => sub {
	my $json = '{"a": "\ud83d\ude00 \u00fc\"\\\\\/\b\n", "\u0061b": {"c": "\ud800x\udc00\u0000"},'
	  . ' "d": ["\u0065", 1, {"e": "'
	  . "\xc3\xbc" . '"}, ["f"]], "g": null}';
	my $lines = join "\n",
	  "1 a: a = \xf0\x9f\x98\x80 \xc3\xbc\"\\/\b\n",
	  "2 ab: c = \xef\xbf\xbdx\xef\xbf\xbd\xef\xbf\xbd", '2 ab: end',
	  '2 d: element', '2 d: element', "3 d: e = \xc3\xbc", '3 d: end',
	  '2 d: element', '3 d: element', '1 g: end', 't';
	foreach my $encoding (qw(SQL_ASCII LATIN1 UTF8))
	{
		my $db = make_database($encoding);
		query($node, q{CREATE FUNCTION outbox_test_json(answer bytea) RETURNS bytea
			LANGUAGE c STRICT AS 'outbox_test_json'}, $db);
		my $read = sub {
			return pack 'H*',
			  query($node, sprintf(q{SELECT encode(outbox_test_json('\x%s'), 'hex')},
				unpack('H*', $_[0])), $db);
		};
		is($read->($json), $lines, "$encoding: every string");
		is($read->(substr($json, 0, -1)), $lines =~ s/1 g: end\nt/f/r,
			"$encoding: without an end");
		is($read->('{"a":"b"}}'), "1 a: a = b\n1 a: end\nf", "$encoding: with two");
		is($read->('{"a":"b","c" "d":"e"}'), "1 a: a = b\nf",
			"$encoding: up to where it is no JSON");
		is($read->(qq({"a":"b","c":"\\\0"})), "1 a: a = b\nf", "$encoding: up to a NUL");
		is($read->(qq({"a":"b"}\0)), "1 a: a = b\n1 a: end\nf",
			"$encoding: with a NUL behind it");
		query($node, "DROP DATABASE $db");
	}
};

# --- Secrets

promise 'a secret that a request was sent with is hidden after a reload, too' => sub {
	my $file = PostgreSQL::Test::Utils::tempdir() . '/token';
	write_secret($file, 'canary-old');
	reload($node, 'outbox.dapr_api_token_file' => $file);
	$dapr->faults([ { match => { topic => 'told' }, status => 400, delay_response => 3,
		body => { errorCode => 'ERR_PUBSUB_EVENTS_SER', message => 'seen: canary-old' } } ]);
	my $id = publish($node, 'told');
	poll_until(sub { $dapr->log(topic => 'told') }, 'the request to be under way');
	write_secret($file, 'canary-new');
	$node->reload;
	poll_until(
		sub {
			my $next = publish($node, 'next');
			wait_delivered($dapr, [$next]);
			my ($entry) = $dapr->log(id => $next);
			return $entry->{headers}{'dapr-api-token'} eq 'canary-new';
		},
		'the new secret to be used');
	wait_state($node, $id, 'dead');
	is(event_value($node, $id, 'last_error'),
		'HTTP 400 ERR_PUBSUB_EVENTS_SER: seen: **********', 'the old one is hidden');
};

# --- What is shown of an answer

# Have Dapr refuse an event of this topic with a body, and return the event's error.
sub error_of
{
	my ($topic, $body) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$dapr->faults([ { match => { topic => $topic }, times => 1, status => 413, body => $body } ]);
	my $id = publish($node, $topic);
	wait_state($node, $id, 'dead');
	my $error = event_value($node, $id, 'last_error');
	utf8::decode($error);
	return $error;
}

promise 'a secret is hidden in every spelling that a machine has for it' => sub {
	my $secret = 'Canary>>>Secret???+of/Dapr';
	my $file = PostgreSQL::Test::Utils::tempdir() . '/spelled';
	write_secret($file, $secret);
	reload($node, 'outbox.dapr_api_token_file' => $file);
	my $encoded = $secret =~ s/([^A-Za-z])/sprintf '%%%02x', ord $1/ger;
	foreach my $case (
		[ 'as it is', $secret ],
		[ 'in upper case', uc $secret ],
		[ 'in lower case', lc $secret ],
		[ 'percent-encoded', $encoded ],
		[ 'percent-encoded, in upper case', uc $encoded ],
		[ 'in JSON', 'C\\u0061nary>>>Secret???+of\\/Dapr' ],
		[ 'in base64', encode_base64($secret, '') ],
		[ 'in base64 of upper case', uc encode_base64($secret, '') ],
		[ 'in the base64 of URLs', encode_base64($secret, '') =~ tr{+/}{-_}r ],
		[ 'in base64, behind a byte', encode_base64("x$secret", '') ],
		[ 'in base64, behind two bytes', encode_base64("xx$secret", '') ],
		[ 'in base64, percent-encoded', encode_base64("xxxx$secret?", '') =~ s/([^\w])/sprintf '%%%02X', ord $1/ger ],
		[ 'in base64, between others', encode_base64("user:$secret\n", '') ])
	{
		my ($name, $text) = @$case;
		my $error = error_of('spelled', "($text)");

		# at its ends, base64 has characters that others have a share of
		like($error, qr/^HTTP 413: \((?:[\w+\/]|%..){0,8}\*{16,}(?:[\w+\/=-]|%..){0,8}\)$/, $name);
	}
	unlike(error_of('spelled', ' ' x 999 . 'x' x 230 . $secret . 'y' x 100_000), qr/canary/i,
		'at the end of what is shown of a long text');
	is(error_of('spelled', 'Canary-Secret of Dapr'), 'HTTP 413: Canary-Secret of Dapr',
		'but not what is none');
};

promise 'a secret that looks as if it were encoded is hidden, too' => sub {
	my $secret = 'Canary%25%2b\\\\u0041Secret"';
	my $file = PostgreSQL::Test::Utils::tempdir() . '/looks';
	write_secret($file, $secret);
	reload($node, 'outbox.dapr_api_token_file' => $file);
	foreach my $case (
		[ 'as it is', $secret ],
		[ 'percent-encoded', $secret =~ s/([^A-Za-z0-9])/sprintf '%%%02x', ord $1/ger ],
		[ 'in JSON', $secret =~ s/(["\\])/\\$1/gr ],
		[ 'in JSON, percent-encoded', $secret =~ s/(["\\])/\\$1/gr =~ s/([^A-Za-z0-9\\"])/sprintf '%%%02x', ord $1/ger ])
	{
		my ($name, $text) = @$case;
		like(error_of('looks', "($text)"), qr/^HTTP 413: \(\*{16,}\)$/, $name);
	}
};

promise 'characters that turn a text around, or end a line, are not shown' => sub {
	my $error = error_of('bidi',
		join('', map { "a$_" } qw(\u061c \u200e \u200f \u2028 \u2029 \u202a \u202e \u2066 \u2069))
		  =~ s/\\u(....)/chr hex $1/ger . "z\x{2026}\x{200d}");
	is($error, 'HTTP 413: ' . 'a??' . 'a???' x 8 . "z\x{2026}\x{200d}", 'others are');
};

promise 'of a long answer, less than 300 bytes are shown' => sub {
	my $error = error_of('long', "\x{2603}" x 5000);
	like($error, qr/^HTTP 413: \x{2603}{50,}$/, 'whole characters');
	utf8::encode($error);
	cmp_ok(length($error), '<=', 300, 'of so many bytes');
};

promise 'with outbox.log_responses = off nothing of an answer is shown' => sub {
	reload($node, 'outbox.log_responses' => 'off');
	my $offset = -s $node->logfile;
	poll_until(sub { error_of('quiet', 'Jane Doe') eq 'HTTP 413' }, 'the status alone');
	$dapr->faults([ { match => { topic => 'quiet' }, times => 1, status => 400,
		body => { errorCode => 'ERR_PUBSUB_EVENTS_SER', message => 'Jane Doe' } } ]);
	my $id = publish($node, 'quiet');
	wait_state($node, $id, 'dead');
	is(event_value($node, $id, 'last_error'), 'HTTP 400', 'it counts all the same');
	$dapr->faults([ { match => { topic => 'quiet' }, times => 2, action => 'rst' } ]);
	publish($node, 'quiet');
	wait_relay_value($node, last_error => qr/reset|failure/i);
	unlike(slurp_file($node->logfile, $offset) =~ s/.*HTTP 413: Jane Doe.*//gr,
		qr/Jane Doe/, 'nor in the log');
};

# --- Time

# What a stop of the process is to outlast: request_timeout, and the second that
# the relay gives a publisher beyond that.
promise 'answers that came in while the process was stopped count' => sub {
	reload($node,
		'outbox.dapr_bulk' => 'off',
		'outbox.request_timeout' => '2s',
		'outbox.max_in_flight' => 30);

	# A topic that has been answered may have many requests under way.
	publish($node, 'stopped', count => 30);
	wait_states($node, 'stopped', 'published*30');
	$dapr->faults([ { match => { topic => 'stopped' }, action => 'hang',
		on_release => 'answer' } ]);
	my $failed = failed_attempts();
	my @ids = publish($node, 'stopped', count => 10);
	poll_until(sub { $dapr->stats->{concurrent} == 10 }, 'all to be under way');
	my $pid = relay_pid($node);
	kill('STOP', $pid);
	$dapr->faults([]);
	wait_delivered($dapr, \@ids);
	my $begin = time;
	poll_until(sub { time > $begin + 3.5 }, 'the time-outs to be over');
	kill('CONT', $pid);
	wait_states($node, 'stopped', 'published*40');
	taken_once($dapr, \@ids, 'none was sent again');
	is(failed_attempts() - $failed, 0, 'none lost an attempt');
};

promise 'a request without an answer ends when its time is up' => sub {
	reload($node,
		'outbox.dapr_bulk' => 'off',
		'outbox.request_timeout' => '300ms');
	$dapr->faults([ { match => { topic => 'silent' }, action => 'hang', times => 1 } ]);
	my $begin = time;
	my $id = publish($node, 'silent');
	wait_state($node, $id, 'published');
	cmp_ok(time - $begin, '>=', 0.3, 'not before');
	like(relay_value($node, 'last_error'), qr/no complete answer in 300 ms/,
		'by the deadline of the request');
	is(failed_attempts() > 0, 1, 'and is a failure');
};

done_testing();
