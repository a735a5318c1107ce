# The http publisher: requests as CloudEvents has them, answers of all kinds.
#
# Promises:
# - Binary and structured mode are those of CloudEvents 1.0; {topic} in the URL
#   is the topic, percent-encoded.
# - A topic that could lead to another path of the URL is dead, with the reason.
# - 2xx is delivered, even if the body of the answer is broken; 400, 413, 415 and
#   422 are dead at once; all else is tried again, with the same id.
# - Headers of the setting and of the file are sent; the file's are shown
#   nowhere.
# - A URL in a secret file is used like that of the setting, follows a reload, and
#   is shown nowhere.
# - Nothing in an event can make a header or a request of its own.

use strict;
use warnings FATAL => 'all';

use JSON::PP ();
use MIME::Base64 qw(encode_base64);
use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;

use constant {
	TRACEPARENT => '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
	SECRET => 'canary-5bd1e7',
};

my $receiver = start_receiver(mode => 'http');
my $headers_file = PostgreSQL::Test::Utils::tempdir() . '/headers';
my $url_file = PostgreSQL::Test::Utils::tempdir() . '/url';
my $node = new_node(
	'http',
	conf => {
		'outbox.publisher' => 'http',
		'outbox.http_url' => $receiver->url . '/in/{topic}?q={topic}',
		'outbox.source' => '/shop',
		'outbox.breaker_threshold' => 0,
		'outbox.request_timeout' => '500ms',
		'outbox.local_retry_times' => 20,
		'outbox.max_retry_times' => 20,
	});
query($node, 'CREATE EXTENSION outbox');

# Wait for an event; its log entry, with the headers that it came with and that
# are not of HTTP itself in "attributes".
sub delivered
{
	my ($id) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_delivered($receiver, [$id]);
	my ($entry) = $receiver->accepted(id => $id);
	my %attributes = %{ $entry->{headers} };
	delete @attributes{qw(host accept user-agent content-length)};
	return { %$entry, attributes => \%attributes };
}

# Wait for outbox_check() to say this of the publisher.
sub wait_check
{
	my ($pattern) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return poll_until(
		sub {
			check_value($node, 'publisher configured', 'detail') =~ $pattern;
		},
		"outbox_check() to say $pattern");
}

# Publish bytes, given in SQL with their content type; the id.
sub publish_bytes
{
	my ($arguments) = @_;
	return query($node, "SELECT outbox_publish_bytes('t', $arguments)");
}

# An event's time as CloudEvents writes it
sub time_of
{
	my ($id) = @_;
	return event_value($node, $id, q{
		to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')});
}

# An event that has everything; its id.
sub publish_full
{
	return publish(
		$node, 'a+b c',
		payload => q{'{"n": 9007199254740993.10}'},
		key => "k \"1\" 100% \x{fc}",
		more => qq{type => 'made',
			metadata => '{"traceparent": "@{[TRACEPARENT]}", "tenant": "x y"}',
			expires_at => '2999-01-01 00:00Z'});
}

# The tries of each event by its id, in their order
sub tries_by_id
{
	my %tries;
	push @{ $tries{ $_->{id} // '' } }, $_ foreach $receiver->log;
	return %tries;
}

# --- The request

promise 'binary mode is that of CloudEvents' => sub {
	my $id = publish_full();
	my $entry = delivered($id);
	is("$entry->{method} $entry->{path}?$entry->{query}",
		'POST /in/a%2Bb%20c?q=a%2Bb%20c',
		'{topic} is the topic, percent-encoded');
	is_deeply(
		$entry->{attributes},
		{
			'content-type' => 'application/json',
			'traceparent' => TRACEPARENT,
			'ce-specversion' => '1.0',
			'ce-id' => $id,
			'ce-source' => '/shop',
			'ce-type' => 'made',
			'ce-time' => time_of($id),
			'ce-expirytime' => '2999-01-01T00:00:00.000000Z',
			'ce-topic' => 'a+b%20c',
			'ce-partitionkey' => 'k%20%221%22%20100%25%20%C3%BC',
			'ce-traceparent' => TRACEPARENT,
			'ce-metadata' => '{%22tenant%22:%22x%20y%22}',
		},
		'binary mode: attributes are headers');
	is($entry->{body}, '{"n": 9007199254740993.10}', 'the payload is the body');
};

promise 'in binary mode bytes are the body' => sub {
	my $entry = delivered(publish_bytes(q{'\xff00fe', 'image/png'}));
	is($entry->{headers}{'content-type'}, 'image/png', 'bytes have their type');
	is($entry->{body}, encode_base64("\xff\x00\xfe", ''),
		'and arrive as they are');

	$entry = delivered(publish_bytes(q{'', 'text/plain; charset=utf-8'}));
	is($entry->{headers}{'content-length'}, '0', 'no bytes are no body');
	is($entry->{headers}{'content-type'}, 'text/plain; charset=utf-8',
		'with the type all the same');
};

promise 'a large payload arrives whole' => sub {
	my $big = 900 * 1000;
	my $id = publish($node, 't', payload => "to_jsonb(repeat('x', $big))");
	is(length(delivered($id)->{body}),
		$big + 2, 'a large payload arrives whole');
};

promise 'structured mode is that of CloudEvents' => sub {
	reload($node, 'outbox.http_content_mode' => 'structured');
	my $id = publish_full();
	my $entry = delivered($id);
	is_deeply(
		$entry->{attributes},
		{
			'content-type' => 'application/cloudevents+json',
			'traceparent' => TRACEPARENT,
		},
		'structured mode: no attribute is a header');
	my $event = cloud_event($entry);
	is_deeply(
		[ delete @{$event}{qw(data time)} ],
		[ JSON::PP->new->decode('{"n": 9007199254740993.10}'), time_of($id) ],
		'data and time of the envelope');
	is_deeply(
		$event,
		{
			specversion => '1.0',
			id => $id,
			source => '/shop',
			type => 'made',
			expirytime => '2999-01-01T00:00:00.000000Z',
			datacontenttype => 'application/json',
			partitionkey => "k \"1\" 100% \x{fc}",
			traceparent => TRACEPARENT,
			topic => 'a+b c',
			metadata => '{"tenant":"x y"}',
		},
		'its attributes');
	like($entry->{body}, qr/"n": 9007199254740993\.10/, 'numbers digit by digit');

	$event = cloud_event(delivered(publish_bytes(q{'\xff00fe', 'image/png'})));
	is_deeply(
		[ @{$event}{qw(data_base64 datacontenttype data)} ],
		[ encode_base64("\xff\x00\xfe", ''), 'image/png', undef ],
		'bytes are data_base64');
};

# --- Headers

# A secret that is a part of another, and one with a blank behind it
promise 'headers are sent, and those of the file are shown nowhere' => sub {
	write_secret($headers_file,
		"X-Part: @{[substr(SECRET, 0, 8)]}\nAuthorization: Bearer @{[SECRET]} \r\n\nX-File: a: b\n");
	reload(
		$node,
		'outbox.http_headers' => 'X-Setting: one',
		'outbox.http_headers_file' => $headers_file);
	$receiver->faults([ {
		times => 1,
		status => 500,
		body => "who is Bearer @{[SECRET]}?\nline two",
	} ]);
	my $entry = delivered(scalar publish($node, 't'));
	is_deeply(
		[ @{ $entry->{headers} }{qw(x-setting x-file authorization)} ],
		[ 'one', 'a: b', 'Bearer ' . SECRET ],
		'headers of the setting and of the file');
	my $error = relay_value($node, 'last_error');
	like($error, qr/^HTTP 500: who is .*line two$/,
		'what the receiver says is shown in one line');
	unlike($error, qr/@{[SECRET]}/, 'without a secret that it repeats');
	unlike($error, qr/@{[substr(SECRET, 8)]}/, 'and without what is left of one');
	unlike(slurp_file($node->logfile), qr/@{[SECRET]}/, 'nor has the log one');
};

promise 'a secret is hidden however the receiver writes it, and every part of one' => sub {
	write_secret($headers_file,
		qq(Authorization: Basic dXNl/cj"p\\w+YXNz\xc3\xbc\nX-Two: canary-first canary-second\n));
	reload($node, 'outbox.http_headers_file' => $headers_file);
	$receiver->faults([ { times => 1, status => 500,
		body => '{"a":"dXNl\/cj\"p\\\\w\u002BYXNz\u00fc","b":"Basic%20dXNl%2Fcj%22p%5cw%2bYXNz%C3%bc",'
		  . '"c":"canary-first","d":"dXNl/cj\"p\u005cw+YXN"}' } ]);
	delivered(scalar publish($node, 't'));
	is(relay_value($node, 'last_error') =~ s/\*+/*/gr,
		'HTTP 500: {"a":"*","b":"*","c":"*","d":"dXNl/cj\"p\u005cw+YXN"}',
		'but not what is none');
};

promise 'a bad line of the file is reported by its number' => sub {
	write_secret($headers_file, "X-One: 1\n\nEvil\n");
	reload($node, 'outbox.http_headers_file' => $headers_file);
	poll_until(
		sub {
			check_value($node, 'publisher configured', 'detail') =~
			  /^line 3 of file/;
		},
		'the bad line of the file to be reported by its number');
	pass('a bad line of the file is reported by its number');
};

# --- The URL

# Put a text into the file of the URL, and have it read.
sub use_url_file
{
	my ($text) = @_;
	write_secret($url_file, $text);
	return reload(
		$node,
		'outbox.http_url' => undef,
		'outbox.http_url_file' => $url_file);
}

promise 'a URL in a secret file is used, and read again on reload' => sub {
	foreach my $place ('one', 'two')
	{
		use_url_file($receiver->url . "/$place/{topic}\n");
		poll_until(
			sub { delivered(scalar publish($node, 'a b'))->{path} eq "/$place/a%20b" },
			"an event at $place");
	}
	pass('with a line break behind it');
	use_url_file($receiver->url . '/three');
	poll_until(
		sub { delivered(scalar publish($node, 'a b'))->{path} eq '/three' },
		'an event at three');
	pass('and without');
};

promise 'a URL in a secret file is shown nowhere' => sub {
	my $query = "sig=@{[SECRET]}%2Bend&v=1";
	my $offset = -s $node->logfile;
	use_url_file($receiver->url . "/hook/@{[SECRET]}-path/{topic}?$query");
	poll_until(
		sub { delivered(scalar publish($node, 'here'))->{path} =~ /^\/hook/ },
		'an event at the secret URL');

	# How a server may repeat it, each followed by what is to be left of it
	my @said = (
		$receiver->url . "/hook/@{[SECRET]}-path/t?$query", qr/HTTP 400: \*+t\*+$/,
		"hook/@{[SECRET]}-path/t", qr/HTTP 400: \*+t$/,
		"/t?$query not found", qr/\/t\*+ not found$/,
		"query sig=@{[SECRET]}%2Bend&v=1 of t", qr/query \*+ of t$/,
		"token @{[SECRET]}-path", qr/token \*{18}$/,
		"signature @{[SECRET]}+end of t", qr/signature \*{17} of t$/);
	while (my ($text, $left) = splice @said, 0, 2)
	{
		$receiver->faults([ { status => 400, body => $text, times => 1 } ]);
		my $id = publish($node, 't');
		wait_state($node, $id, 'dead');
		like(event_value($node, $id, 'last_error'), $left, "not when it is '$text'");
	}
	unlike(slurp_file($node->logfile, $offset), qr/@{[SECRET]}/, 'nor in the log');
	is( query($node, "SELECT count(*) FROM pg_settings WHERE setting ~ '@{[SECRET]}'"),
		0, 'nor among the settings');
};

promise 'a URL in a file that cannot be used is refused without being shown' => sub {
	my $offset = -s $node->logfile;
	my $canary = 'canary-81f0c2';
	foreach my $bad (
		[ '', 'must start with' ],
		[ "\n", 'must start with' ],
		[ "ftp://$canary/", 'must start with' ],
		[ "http://u:$canary\@127.0.0.1/", 'user name or a password' ],
		[ "http://127.0.0.1/$canary\n\n", 'must not contain spaces' ],
		[ "http://127.0.0.1/$canary\nhttp://x", 'must not contain spaces' ],
		[ "http://$canary:x/", 'host or its port' ],
		[ "http://{topic}.$canary/", 'before the path' ])
	{
		my ($text, $reason) = @$bad;

		# a file that is not there comes between
		reload(
			$node,
			'outbox.http_url' => undef,
			'outbox.http_url_file' => "$url_file.none");
		wait_check(qr/^could not open file "\Q$url_file.none\E"/);
		use_url_file($text);
		wait_check(
			qr/^the URL in file "\Q$url_file\E" cannot be used: .*$reason/);
		unlike(check_value($node, 'publisher configured', 'detail'),
			qr/$canary/, $reason);
	}
	write_secret($url_file, $receiver->url);
	chmod 0644, $url_file;
	reload($node);
	wait_check(qr/permissions 0644/);
	unlike(slurp_file($node->logfile, $offset), qr/$canary/, 'nor in the log');
};

promise 'one of the URLs must be set, and not both' => sub {
	write_secret($url_file, $receiver->url);
	reload($node, 'outbox.http_url_file' => $url_file);
	wait_check(qr/^both outbox\.http_url and outbox\.http_url_file are set$/);
	my $id = publish($node, 'both');
	reload(
		$node,
		'outbox.http_url' => undef,
		'outbox.http_url_file' => undef);
	wait_check(qr/^neither outbox\.http_url nor outbox\.http_url_file is set$/);
	is(event_state($node, $id), 'pending', 'an event waits meanwhile');
	reload($node, 'outbox.http_url_file' => $url_file);
	wait_delivered($receiver, [$id]);
};

# Publish to a topic that must not be sent, and test the reason.
sub topic_is_refused
{
	my ($topic, $reason) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $id = publish($node, $topic);
	wait_state($node, $id, 'dead');
	like(event_value($node, $id, 'last_error'), $reason, "topic $topic is dead");
	return is(scalar($receiver->log(id => $id)), 0, 'and not sent');
}

promise 'a topic that could lead to another path is dead, with the reason' => sub {
	topic_is_refused('.', qr/a segment "\." or "\.\."/);
	topic_is_refused('..', qr/a segment "\." or "\.\."/);
	topic_is_refused('a/b', qr/a slash.*outbox\.http_topic_slashes/);
	topic_is_refused('a\\b', qr/a backslash/);
	is(delivered(scalar publish($node, $_))->{path}, "/in/$_", "but not $_")
	  foreach '...', 'a.', '..a';
};

promise 'with outbox.http_topic_slashes a topic has segments, none of them a step' => sub {
	reload($node, 'outbox.http_topic_slashes' => 'on');
	is(delivered(scalar publish($node, 'a/b c//d'))->{path},
		'/in/a%2Fb%20c%2F%2Fd', 'a slash is sent, encoded');
	topic_is_refused($_, qr/a segment/)
	  foreach '.', 'a/..', '../a', 'a/./b', '/..', 'a/../';
	topic_is_refused('a/..\\..', qr/a backslash/);
};

promise 'a topic behind the path is refused nothing' => sub {
	reload($node, 'outbox.http_url' => $receiver->url . '/all?q={topic}');
	is(delivered(scalar publish($node, '../\\'))->{query},
		'q=..%2F%5C', 'all of it is encoded');
	is(delivered(scalar publish($node, '..'))->{query}, 'q=%2E%2E', 'dots too');
	reload($node, 'outbox.http_url' => $receiver->url . '/all');
	is(delivered(scalar publish($node, '../a'))->{path}, '/all',
		'nor is one that is not in the URL');
};

# --- Answers

promise 'the status of the answer decides' => sub {
	my @refusals = (400, 413, 415, 422);
	my @retried = (
		300, 301, 302, 304, 307, 308, 401, 402, 403, 404, 405, 406, 408, 409,
		410, 411, 412, 414, 418, 421, 423, 425, 426, 428, 429, 431, 451, 500,
		501, 502, 503, 504, 507, 599);
	my @taken = (200, 201, 202, 203, 204, 205, 206, 299);

	# for so long, 410 holds a topic
	reload($node, 'outbox.max_retry_interval' => '100ms');
	$receiver->faults([ map { {
		match => { path => "/in/status%20$_\\b" },
		times => 1,
		status => $_,
		headers => { Location => $receiver->url . '/elsewhere' },
	} } @refusals, @retried, @taken ]);
	my %id_of = map { split /\|/ } split /\n/, query($node,
		"SELECT status, outbox_publish('status ' || status, '{}')"
		  . ' FROM unnest(ARRAY[' . join(',', @refusals, @retried, @taken)
		  . ']) status');
	wait_state($node, [ @id_of{@refusals} ], 'dead');
	wait_delivered($receiver, [ @id_of{ @retried, @taken } ]);
	wait_state($node, [ @id_of{ @retried, @taken } ], 'published');
	my %tries_of = tries_by_id();
	foreach my $status (sort keys %id_of)
	{
		my $tries =
		  join ' ', map { $_->{status} } @{ $tries_of{ $id_of{$status} } };
		my $rejected = grep { $_ == $status } @refusals;
		my $retried = grep { $_ == $status } @retried;

		is($tries, $retried ? "$status 204" : $status,
			"$status is "
			  . ($rejected ? 'final' : $retried ? 'tried again' : 'delivered'));
		next unless $rejected;
		is( event_value($node, $id_of{$status},
				'state, attempts, last_status, last_error'),
			"dead|1|$status|HTTP $status",
			"$status: dead with the reason");
	}
	is(scalar($receiver->log(path => '/elsewhere')), 0,
		'no redirect was followed');
};

# Status and headers decide: when they are complete and say 2xx, the event is
# delivered, whatever follows.
promise 'a broken answer is delivered if its head says so, else tried again' =>
  sub {
	my @good = qw(partial partialrst chunkbad nolen hugebody slowbody);
	my @bad = qw(half_response hugehdr slowhdr badlen badstatus flood1xx garbage
	  http09 commit_then_drop drop_before_commit rst hang nul_body);
	my %broken = ((map { $_ => 1 } @good), (map { $_ => 0 } @bad));
	$receiver->faults([ map { {
		match => { path => "/in/$_\\b" },
		times => 1,
		action => $_,
	} } sort keys %broken ]);
	my $names = join(',', map { "'$_'" } sort keys %broken);
	my %id_of = map { split /\|/ } split /\n/, query($node,
		"SELECT name, outbox_publish(name, '{}') FROM unnest(ARRAY[$names]) name");
	wait_state($node, [ values %id_of ], 'published');
	my %tries_of = tries_by_id();
	foreach my $name (sort keys %broken)
	{
		my @tries = @{ $tries_of{ $id_of{$name} } };

		is(scalar(@tries), $broken{$name} ? 1 : 2,
			$name . ($broken{$name} ? ' behind 2xx is delivered' : ' is retried'));
		is_deeply(
			[ @{ $tries[-1] }{qw(path query headers body)} ],
			[ @{ $tries[0] }{qw(path query headers body)} ],
			"$name: each try is the same");
	}
	is(scalar($receiver->accepted(id => $id_of{commit_then_drop})),
		2, 'an answer that was lost means a duplicate with the same id');
	is( query($node, qq{SELECT count(*) FROM outbox_events
			WHERE state = 'dead' AND topic IN ($names)}),
		'0', 'none of them died');
  };

promise 'control characters of an answer are not shown' => sub {
	$receiver->faults([ {
		match => { path => '/in/nul' },
		status => 422,
		action => 'nul_body',
	} ]);
	my $id = publish($node, 'nul');
	wait_state($node, $id, 'dead');
	unlike(event_value($node, $id, 'last_error'), qr/[\x00-\x1f\x7f]/,
		'control characters of an answer are not shown');
};

promise 'an answer whose body shows nothing has the reason that it has without' => sub {
	$receiver->faults([ {
		match => { path => '/in/blank' },
		status => 422,
		body => " \t\r\n\x01 ",
	} ]);
	my $id = publish($node, 'blank');
	wait_state($node, $id, 'dead');
	is(event_value($node, $id, 'last_error'), 'HTTP 422', 'nothing behind the status');
};

# --- Injection

promise 'a line break is refused on the way in' => sub {
	foreach my $case (
		[ 'topic', q{E'a\r\nX-Evil: 1', '{}'} ],
		[ 'key', q{'t', '{}', key => E'a\r\nX-Evil: 1'} ],
		[ 'type', q{'t', '{}', type => E'a\nX-Evil: 1'} ],
		[ 'metadata', q{'t', '{}', metadata => '{"a\r\nX-Evil": "1"}'} ],
		[ 'metadata', q{'t', '{}', metadata => '{"a": "1\r\nX-Evil: 1"}'} ])
	{
		my ($what, $arguments) = @$case;
		fails_with($node, "SELECT outbox_publish($arguments)",
			'22023', "a line break in $what is refused");
	}
	fails_with($node,
		q{SELECT outbox_publish_bytes('t', '', E'text/plain\r\nX-Evil: 1')},
		'22023', 'a line break in content_type is refused');
	fails_with($node, q{INSERT INTO outbox_event (topic, payload, traceparent)
			VALUES ('t', '{}', E'\r\nX-Evil: 1')},
		'22023', 'a line break in traceparent is refused');
	foreach my $setting ('outbox.http_headers', 'outbox.http_url', 'outbox.source')
	{
		fails_with($node, "SET $setting = E'http://x/ a\\rX-Evil: 1'",
			'22023', "and in $setting");
	}
};

# Somebody wrote it otherwise.
promise 'what the trigger did not see is not sent either' => sub {
	my $id = publish($node, 't', more => q{deliver_after => now() + '1 h'});
	query($node, qq{
		ALTER TABLE outbox_event DISABLE TRIGGER outbox_event_update;
		UPDATE outbox_event SET type = E'a\r\nX-Evil: 1' WHERE event_id = '$id';
		ALTER TABLE outbox_event ENABLE ALWAYS TRIGGER outbox_event_update;
		SELECT outbox_retry('$id')});
	wait_state($node, $id, 'dead');
	like(event_value($node, $id, 'last_error'),
		qr/control character/, 'what got past the trigger is set aside');
	is(scalar($receiver->log(id => $id)), 0, 'and not sent');
};

promise 'a line break in the trace context of a caller is not sent' => sub {
	my $id = publish($node, 't',
		more => q{metadata => '{"traceparent": "\r\nX-Evil: 1"}'});
	is_deeply([ grep { /evil|traceparent/ } keys %{ delivered($id)->{headers} } ],
		[], 'nothing of it');
};

promise 'texts that look like syntax stay texts' => sub {
	my $id = publish(
		$node, '?x=1#f@h:80;..%2F',
		key => 'a: b; c=d, "e"',
		more => q{type => 'x/../y?z', metadata => '{"X-Evil": "1"}'});
	is(delivered($id)->{path}, '/in/%3Fx%3D1%23f%40h%3A80%3B..%252F',
		'a topic stays one segment of the path');
	is_deeply(
		[ grep { /evil/ } map { keys %{ $_->{headers} } } $receiver->log ],
		[], 'no event has made a header of its own');
};

done_testing();
