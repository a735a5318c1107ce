# receiver.py, against which most of what this project promises for Dapr is tested,
# is held against the real daprd.
#
# Promise: to each of a table of requests, good and bad, both answer with the same
# status, errorCode and message, and what the stand-in would give to a broker is
# what the real one's application is handed, character by character.
#
# What is not compared: ids and times that a sidecar makes up, what Go's JSON
# decoder says of bad JSON, and what a broken component says.

use strict;
use warnings FATAL => 'all';

use IO::Socket::INET;
use JSON::PP ();
use MIME::Base64 qw(encode_base64);
use Test::More;

use lib 'test/lib';
use OutboxTest;
use Real::Dapr;
use Real::DaprSubscriber;
use Real::Redis;

use constant {
	TOKEN => 'secret',
	TRACEPARENT => '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
	TIMEOUT => 20,
	ANSWER_TIMEOUT => 30,
};

my $missing = Real::Redis->missing // Real::Dapr->missing;
plan skip_all => $missing if $missing;

my $json = JSON::PP->new->utf8->canonical->allow_nonref;
my @topics = ('t', 'a/b', 'a/b/c', 'a b', 'a+b', "\x{fc}", '..', '%', '/', 'y', 'z');
my $cloud_event = 'application/cloudevents+json';

# --- Requests

# A request: method, target, headers (as lines), body.  Without a name of its own
# it is called by what it asks.
sub request_of
{
	my ($method, $target, $headers, $body) = @_;
	return { method => $method, target => $target, headers => $headers, body => $body };
}

# POST to the single or the bulk API
sub single
{
	my ($target, $body, $type, @headers) = @_;
	return request_of('POST', "/v1.0/publish/$target",
		[ defined $type ? "Content-Type: $type" : (), @headers ], $body // '1');
}

sub event
{
	my ($body, $query) = @_;
	return single('pubsub/t' . ($query // ''), $body, $cloud_event);
}

sub json_event
{
	my ($body, $query, @headers) = @_;
	return single('pubsub/t' . ($query // ''), $body, 'application/json', @headers);
}

sub bulk
{
	my ($body, $query) = @_;
	return request_of('POST', '/v1.0-alpha1/publish/bulk/pubsub/t' . ($query // ''),
		['Content-Type: application/json'], $body);
}

sub entry
{
	my ($id, $event, $type, $more) = @_;
	return qq({"entryId":"$id","event":$event,"contentType":"$type") . ($more // '') . '}';
}

my $whole = '{"specversion":"1.0","id":"1","source":"/s","type":"t","data":1}';
my @requests = (
	# Paths
	(map { single("pubsub/$_", '1', 'application/json') }
		  't', 'a/b/c', 'a%2Fb', 'a//b', 't/', 'a+b', 'a%2Bb', 'a%20b', '%C3%BC',
		'x/../y', './z', '%2E%2E', '%25', '%2F'),
	(map { request_of('POST', $_, ['Content-Type: application/json'], '1') }
		  '/v1.0/publish/pubsub', '/v1.0/publish/pubsub/', '/v1.0/publish//t', '/x', '/',
		'/v1.0/publish/pubsub/..', '/v1.0/publish/pubsub/t/../../..',
		'/v1.0/publish/pubsub/%zz', '/v1.0/publish/nope/t?metadata.k=v&other=1',
		'/v1.0/publish/scoped/allowed', '/v1.0/publish/scoped/forbidden',
		'/v1.0-alpha1/publish/pubsub/t'),
	request_of('PUT', '/v1.0/publish/pubsub/t', ['Content-Type: application/json'], '1'),
	request_of('GET', '/v1.0/publish/pubsub/t', [], ''),
	request_of('DELETE', '/v1.0/publish/pubsub/t', [], ''),
	(map { request_of('GET', $_, [], '') }
		  '/v1.0/healthz', '/v1.0/healthz/outbound', '/v1.0/healthz?appid=relay',
		'/v1.0/healthz?appid=other'),

	# Events that are complete
	event($whole), event($whole, '?metadata.ttlInSeconds=60'),
	event('{"id":"1"}'), event('{}'), event('{"id":null,"source":null}'),
	event('{"id":1,"type":true}'), event('{"id":"1","topic":"other","pubsubname":"p"}'),
	event('{"id":"1","data":{"z":1,"a":[1.50,1E5,-0,9007199254740993,12345678901234567890.123]}}'),
	event('{"id":"1","data":{"t":"<&>\u2028\ud83d\ude00\u00e9"}}'),
	event("{\"id\":\"1\",\"data\":\"\xc3\xbc\xff\"}"),
	event('{"id":"1","id":"2","data":null}'), event('{"id":"1","data_base64":"AP8="}'),
	event('{"id":"1","traceparent":"' . TRACEPARENT . '"}'),
	event('{"id":"1","traceid":"' . TRACEPARENT . '","traceparent":"' . TRACEPARENT . '"}'),
	event('{"id":"1","partitionkey":"k","ext":"x"}', '?metadata.partitionKey=k'),
	event('{"id":"1"} trailing'),
	(map { event($_) } 'null', '', 'x', '[]', '"text"', '1', '{', '{"id":"1",}', '{"a":tru}', "\xff"),
	single('pubsub/t', $whole, "$cloud_event; charset=utf-8"),
	single('pubsub/t', $whole, 'Application/CloudEvents+JSON'),
	single('pubsub/t', $whole, $cloud_event, 'traceparent: ' . TRACEPARENT, 'tracestate: a=b'),

	# Events that get an envelope
	(map { json_event($_) } '{"a":1}', '{bad', '', '[1] trailing', '{"a":1,"a":2}', 'null', '"x"',
		'[1.50,1E5,-0,9007199254740993,12345678901234567890.123]', '"<&>"', "\"\xff\"", '"\ud800"'),
	(map { single('pubsub/t', '{"a":1}', $_) }
		  'Application/JSON; charset=utf-8', 'text/plain', 'application/foo+json', 'text/xml',
		'application/xml', 'application/octet-stream', 'application/x-www-form-urlencoded', undef),
	single('pubsub/t', "a\xffb<\xe2\x82>", 'text/plain'),
	json_event("\"a\xe2\x82b\""),
	single('pubsub/t', "\0\xff", 'application/octet-stream'),
	json_event('1', '?metadata.cloudevent.id=i1&metadata.CloudEvent.Source=s&metadata.cloudevent'
		  . '.type=ty&metadata.cloudevent.subject=su&metadata.cloudevent.topic=no'),
	json_event('1', '?metadata.cloudevent.traceparent=' . TRACEPARENT),
	json_event('1', '?metadata.cloudevent.traceid=x&metadata.cloudevent.tracestate=y'),
	(map { json_event('1', "?metadata.rawPayload=$_") } 'maybe', '', 'yes', 'TRUe'),
	(map { json_event('1', "?metadata.ttlInSeconds=$_") } '60', '-1', 'x'),
	json_event('1', '?metadata.ttl=1h'),
	json_event('1', '', 'traceparent: ' . TRACEPARENT),
	json_event('1', '', 'traceparent: ' . TRACEPARENT, 'tracestate: a=b'),
	json_event('1', '', 'traceparent: nonsense'),
	json_event('1', '', 'traceparent: ' . TRACEPARENT . '-more'),
	json_event('1', '', 'traceparent: 01-' . substr(TRACEPARENT, 3) . '-more'),
	json_event('1', '', 'traceparent: 01-' . substr(TRACEPARENT, 3)),
	json_event('1', '', 'traceparent: ' . substr(TRACEPARENT, 0, -2) . 'ff'),
	single('raw/raw?metadata.rawPayload=true', 'as it is', 'text/plain'),
	single('raw/raw?metadata.rawPayload=1', "\0\xff", 'application/octet-stream'),

	# Bulk requests
	(map { bulk($_) } '[]', 'null', '', '{}', '1', '[1]', '[null]', '[{}]', '[',
		'[{"entryId":1}]', '[] trailing'),
	bulk('[' . entry('1', '{"id":"e1","data":1}', $cloud_event) . ']'),
	bulk('[' . join(',', map { entry($_, qq({"id":"e$_","data":$_}), $cloud_event) } 1 .. 3) . ']'),
	bulk('[' . entry('1', '{"id":"e1","data":[9007199254740993,1e20,1e21,1e-6,1e-7,0.10,-0]}', $cloud_event) . ']'),
	bulk('[' . entry('1', '{"data":1e400}', $cloud_event) . ']'),
	bulk('[' . entry('1', '{"a":1}', 'application/json') . ']'),
	bulk('[' . entry('1', '"text"', 'text/plain') . ']'),
	bulk('[' . entry('1', '"AP8="', 'application/octet-stream') . ']'),
	bulk('[' . entry('1', '"no base64"', 'application/octet-stream') . ']'),
	bulk('[' . entry('1', '1', 'text/plain') . ']'),
	bulk('[' . entry('1', '1', 'application/foo+json') . ']'),
	bulk('[' . entry('1', '1', '') . ']'),
	bulk('[' . entry('1', '[]', $cloud_event) . ']'),
	bulk('[' . entry('', '1', 'application/json') . ']'),
	bulk('[' . join(',', (entry('1', '1', 'application/json')) x 2) . ']'),
	bulk('[{"EntryID":"1","EVENT":1,"contenttype":"application/json"}]'),
	bulk('[' . entry('1', '1', 'application/json', ',"metadata":{"cloudevent.id":"m1","a":"b"}') . ']'),
	bulk('[' . entry('1', '1', 'application/json', ',"metadata":{}') . ']', '?metadata.cloudevent.id=q1'),
	bulk('[' . entry('1', '1', 'application/json') . ']', '?metadata.cloudevent.type=ty'),
	bulk('[' . entry('1', '1', 'application/json', ',"metadata":{"n":1}') . ']'),
	bulk('[' . entry('1', '1', 'application/json') . ']', '?metadata.rawPayload=maybe'),
	request_of('POST', '/v1.0-alpha1/publish/bulk/nope/t', [], '[]'),
	request_of('POST', '/v1.0-alpha1/publish/bulk/scoped/forbidden', [],
		'[' . entry('1', '1', 'application/json') . ']'),
	request_of('POST', '/v1.0/publish/bulk/pubsub/t', [],
		'[' . entry('1', '{"id":"e1"}', $cloud_event) . ']'),

	# Sizes
	json_event('"' . 'x' x 3_000_000 . '"'),
	json_event('"' . 'x' x 5_000_000 . '"'),
	bulk('[' . entry('1', '"' . 'x' x 5_000_000 . '"', 'application/json') . ']'),
	json_event('1', '', 'X-Long: ' . 'x' x 5_000),
	json_event('1', '', 'X-Long: ' . 'x' x 20_000),
	json_event('1', '?metadata.long=' . 'x' x 5_000),
	json_event('1', '?metadata.long=' . 'x' x 20_000));

sub name_of
{
	my ($request) = @_;
	my $name = join(' ', $request->{method}, $request->{target},
		@{ $request->{headers} }, $request->{body});
	$name =~ s/[^ -~]/?/g;
	return length $name > 120 ? substr($name, 0, 117) . '...' : $name;
}

# send_to($port, $request, @headers): the answer's status, headers and body
sub send_to
{
	my ($port, $request, @headers) = @_;
	my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port)
	  // die "connect: $!";
	local $SIG{PIPE} = 'IGNORE';
	local $SIG{ALRM} = sub { die "no answer in time\n" };

	alarm(ANSWER_TIMEOUT);
	print $socket join("\r\n",
		"$request->{method} $request->{target} HTTP/1.1",
		'Host: 127.0.0.1',
		'Connection: close',
		@{ $request->{headers} },
		@headers,
		'Content-Length: ' . length($request->{body}),
		'',
		$request->{body});
	my $answer = do { local $/; <$socket> } // '';
	alarm(0);

	my ($head, $body) = split /\r\n\r\n/, $answer, 2;
	my ($status) = ($head // '') =~ m{^HTTP/1\.1 (\d+)};
	my %header = map { (/^([^:]+): *(.*?)\r?$/ ? (lc($1), $2) : ()) }
	  split /\n/, $head // '';
	return { status => $status // 'none', header => \%header, body => $body // '' };
}

# What is to agree
sub essence
{
	my ($answer) = @_;
	my $error = eval { $json->decode($answer->{body}) };
	return {
		status => $answer->{status},
		traceparent => $answer->{header}{traceparent},
		$answer->{status} eq '204' ? ()
		: ref $error ne 'HASH' ? (text => $answer->{body})
		: (
			code => $error->{errorCode},
			message => without_go($error->{message}),
			reasons => [ map { $_->{reason} // () } @{ $error->{details} // [] } ])
	};
}

# Without the words of Go's decoders, and of Python's
sub without_go
{
	my ($message) = @_;
	$message //= '';
	$message =~ s/: (?:json: |invalid character|unexpected |EOF|illegal base64|Expecting |Extra |Unterminated |Only base64|Incorrect padding).*/: .../s;
	return $message;
}

# Wait until the application has been handed what the stand-in has taken of a
# request, beyond so many events; returns how many it was handed.
sub wait_handed
{
	my ($subscriber, $before, $stand_in, $name) = @_;
	my $wanted = $stand_in->stats->{accepted} - $before;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	poll_until(sub { $subscriber->events >= $before + $wanted },
		"the application to be handed what was taken: $name", TIMEOUT)
	  if $wanted > 0;
	return $subscriber->events - $before;
}

# What an application is handed for an entry of the stand-in's log: what has no
# envelope gets one from the sidecar that hands it on.
sub handed_for
{
	my ($entry) = @_;
	my ($text, $body) = @{$entry}{qw(envelope body)};

	utf8::encode($_) foreach grep { defined } $text, $body;
	return $text if defined $text;
	$body = encode_base64($body, '') unless $entry->{body_is_base64};
	return qq({"data_base64":"$body","datacontenttype":"application/octet-stream",)
	  . qq("id":"...","pubsubname":"$entry->{pubsub}","source":"Dapr","specversion":"1.0",)
	  . qq("topic":"$entry->{topic}","type":"com.dapr.event.sent"});
}

# What the first list has more of than the second
sub only_in
{
	my ($list, $other) = @_;
	my %count;
	$count{$_}++ foreach @$other;
	return [ grep { --$count{$_} < 0 } map { $count{$_} //= 0; $_ } sort @$list ];
}

# Without what a sidecar makes up
sub without_made_up
{
	my ($text) = @_;
	$text =~ s/"id":"[0-9a-f]{8}-[0-9a-f-]{27}"/"id":"..."/;
	$text =~ s/"(time|expiration)":"[0-9T:.-]+(?:Z|[+]\d\d:\d\d)"/"$1":"..."/g;
	return $text;
}

# --- Both

foreach my $line ('1.18', '1.16')
{
	my $reason = Real::Dapr->missing($line);
  SKIP:
	{
		skip $reason, 1 if $reason;
		my $subscriber = Real::DaprSubscriber->new(
			topics => { pubsub => \@topics, scoped => ['allowed'] },
			raw_topics => { raw => ['raw'] });
		my $real = Real::Dapr->new(
			line => $line,
			subscriber => $subscriber,
			components => {
				pubsub => ['pubsub.in-memory'],
				raw => ['pubsub.in-memory'],
				scoped => [ 'pubsub.in-memory', { allowedTopics => 'allowed' } ]
			});
		my $stand_in = start_receiver(
			mode => 'dapr',
			profile => $line,
			components => {
				pubsub => {},
				raw => {},
				scoped => { allowed_topics => ['allowed'] }
			});

		promise "daprd $line answers as receiver.py does" => sub {
			my $taken = 0;
			foreach my $request (@requests)
			{
				my ($expected, $seen) = map { send_to($_->port, $request) } $stand_in, $real;
				is_deeply(essence($seen), essence($expected), name_of($request))
				  or diag("$seen->{body}\n$expected->{body}");
				$taken += wait_handed($subscriber, $taken, $stand_in, name_of($request));
			}
			my @expected = map { without_made_up(handed_for($_)) } $stand_in->accepted;
			my @seen = map { without_made_up($_->{body}) } $subscriber->events;
			is_deeply(only_in(\@seen, \@expected), [], 'it hands on no other events');
			is_deeply(only_in(\@expected, \@seen), [], 'and all of these');
		};
	}
}

promise 'daprd answers as receiver.py does without the token' => sub {
	my $real = Real::Dapr->new(token => TOKEN, components => { pubsub => ['pubsub.in-memory'] });
	my $stand_in = start_receiver(mode => 'dapr', token => TOKEN);

	foreach my $request (
		single('pubsub/t', '1', 'application/json'),
		single('nope/t', '1', 'application/json'),
		(map { request_of('GET', $_, [], '') } '/nowhere', '/v1.0/metadata', '/v1.0/healthz',
			'/v1.0/healthz/outbound'))
	{
		foreach my $token ([], ['dapr-api-token: wrong'], [ 'dapr-api-token: ' . TOKEN ])
		{
			my ($expected, $seen) =
			  map { essence(send_to($_->port, $request, @$token)) } $stand_in, $real;
			delete @{$_}{qw(text)} foreach grep { $_->{status} eq '200' } $expected, $seen;
			is_deeply($seen, $expected, "@$token " . name_of($request));
		}
	}
};

done_testing();
