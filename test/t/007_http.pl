# The http publisher: requests as CloudEvents has them, answers of all kinds.
#
# Promises:
# - Binary and structured mode are those of CloudEvents 1.0; {topic} in the URL
#   is the topic, percent-encoded.
# - 2xx is delivered, even if the body of the answer is broken; 400, 413, 415 and
#   422 are dead at once; all else is tried again, with the same id.
# - Headers of the setting and of the file are sent; the file's are shown
#   nowhere.
# - Nothing in an event can make a header or a request of its own.

use strict;
use warnings FATAL => 'all';

use JSON::PP ();
use MIME::Base64 qw(encode_base64);
use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest qw(:DEFAULT !/^(check_value|dapr_error|event_value|fails_with|publish|publish_sql|query|restart_relay|stat_value|states|wait_states)$/);

use constant {
	TRACEPARENT => '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
	SECRET => 'canary-5bd1e7',
};

my $receiver = start_receiver(mode => 'http');
my $headers_file = PostgreSQL::Test::Utils::tempdir() . '/headers';
my $node = new_node(
	'http',
	conf => {
		'outbox.publisher' => 'http',
		'outbox.http_url' => $receiver->url . '/in/{topic}?q={topic}',
		'outbox.source' => '/shop',
		'outbox.poll_interval' => '100ms',
		'outbox.breaker_threshold' => 0,
		'outbox.request_timeout' => '500ms',
		'outbox.local_retry_times' => 20,
		'outbox.max_retry_times' => 20,
		'outbox.local_failed_retry_interval' => '50ms',
	});
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

# Wait for an event; its log entry, with the headers that it came with and that
# are not of HTTP itself in "attributes".
sub delivered
{
	my ($id) = @_;
	wait_delivered($receiver, [$id]);
	my ($entry) = $receiver->accepted(id => $id);
	my %attributes = %{ $entry->{headers} };
	delete @attributes{qw(host accept user-agent content-length)};
	return { %$entry, attributes => \%attributes };
}

# An event's time as CloudEvents writes it
sub time_of
{
	my ($id) = @_;
	return query(qq{
		SELECT to_char(created_at AT TIME ZONE 'UTC',
					   'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
		FROM outbox_events WHERE event_id = '$id'});
}

#
# Binary mode
#

my $arguments = qq['a/b c', '{"n": 9007199254740993.10}',
	key => U&'k "1" 100% \\00fc', type => 'made',
	metadata => '{"traceparent": "@{[TRACEPARENT]}", "tenant": "x y"}'];
my $id = publish($arguments);
my $entry = delivered($id);
is("$entry->{method} $entry->{path}?$entry->{query}",
	'POST /in/a%2Fb%20c?q=a%2Fb%20c', '{topic} is the topic, percent-encoded');
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
		'ce-topic' => 'a/b%20c',
		'ce-partitionkey' => 'k%20%221%22%20100%25%20%C3%BC',
		'ce-traceparent' => TRACEPARENT,
		'ce-metadata' => '{%22tenant%22:%22x%20y%22}',
	},
	'binary mode: attributes are headers');
is($entry->{body}, '{"n": 9007199254740993.10}', 'the payload is the body');

$id = query(q{SELECT outbox_publish_bytes('t', '\xff00fe', 'image/png')});
$entry = delivered($id);
is($entry->{headers}{'content-type'}, 'image/png', 'bytes have their type');
is($entry->{body}, encode_base64("\xff\x00\xfe", ''), 'and arrive as they are');

$id = query(
	q{SELECT outbox_publish_bytes('t', '', 'text/plain; charset=utf-8')});
$entry = delivered($id);
is($entry->{headers}{'content-length'}, '0', 'no bytes are no body');
is($entry->{headers}{'content-type'}, 'text/plain; charset=utf-8',
	'with the type all the same');

my $big = 900 * 1000;
$id = publish(qq{'t', to_jsonb(repeat('x', $big))});
is(length(delivered($id)->{body}), $big + 2, 'a large payload arrives whole');

#
# Structured mode
#

reload($node, 'outbox.http_content_mode' => 'structured');
$id = publish($arguments);
$entry = delivered($id);
is_deeply(
	$entry->{attributes},
	{
		'content-type' => 'application/cloudevents+json',
		'traceparent' => TRACEPARENT,
	},
	'structured mode: no attribute is a header');
my $event = JSON::PP->new->decode($entry->{body});
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
		datacontenttype => 'application/json',
		partitionkey => "k \"1\" 100% \x{fc}",
		traceparent => TRACEPARENT,
		topic => 'a/b c',
		metadata => '{"tenant":"x y"}',
	},
	'its attributes');
like($entry->{body}, qr/"n": 9007199254740993\.10/, 'numbers digit by digit');

$id = query(q{SELECT outbox_publish_bytes('t', '\xff00fe', 'image/png')});
$event = JSON::PP->new->decode(delivered($id)->{body});
is_deeply(
	[ @{$event}{qw(data_base64 datacontenttype data)} ],
	[ encode_base64("\xff\x00\xfe", ''), 'image/png', undef ],
	'bytes are data_base64');
reload($node, 'outbox.http_content_mode' => undef);

#
# Headers
#

# A secret that is a part of another, and one with a blank behind it.
append_to_file($headers_file,
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
$id = publish(q{'t', '{}'});
$entry = delivered($id);
is_deeply(
	[ @{ $entry->{headers} }{qw(x-setting x-file authorization)} ],
	[ 'one', 'a: b', 'Bearer ' . SECRET ],
	'headers of the setting and of the file');
my $error = query('SELECT last_error FROM outbox_relays');
like($error, qr/^HTTP 500: who is .*line two$/,
	'what the receiver says is shown in one line');
unlike($error, qr/@{[SECRET]}/, 'without a secret that it repeats');
unlike($error, qr/@{[substr(SECRET, 8)]}/, 'and without what is left of one');
unlike(slurp_file($node->logfile), qr/@{[SECRET]}/, 'nor has the log one');

append_to_file($headers_file, "Evil\n");
$node->reload;
poll_until(
	sub {
		query(q{SELECT detail FROM outbox_check()
			WHERE "check" = 'publisher configured'}) =~ /^line 5 of file/;
	},
	'the bad line of the file to be reported by its number');
unlink $headers_file;
reload($node,
	map { $_ => undef } qw(outbox.http_headers outbox.http_headers_file));

#
# Statuses
#

my @refusals = (400, 413, 415, 422);
my @retried = (
	300, 301, 302, 304, 307, 308, 401, 402, 403, 404, 405, 406, 408, 409,
	410, 411, 412, 414, 418, 421, 423, 425, 426, 428, 429, 431, 451, 500,
	501, 502, 503, 504, 507, 599);
my @taken = (200, 201, 202, 203, 204, 205, 206, 299);
$receiver->reset;
$receiver->faults([ map { {
	match => { path => "/in/status%20$_\\b" },
	times => 1,
	status => $_,
	headers => { Location => $receiver->url . '/elsewhere' },
} } @refusals, @retried, @taken ]);
my %id_of = map { split /\|/ } split /\n/, query(
	"SELECT status, outbox_publish('status ' || status, '{}')"
	  . ' FROM unnest(ARRAY[' . join(',', @refusals, @retried, @taken)
	  . ']) status');
wait_state($node, $_, 'dead') foreach @id_of{@refusals};
wait_delivered($receiver, [ @id_of{ @retried, @taken } ]);
wait_state($node, $_, 'published') foreach @id_of{ @retried, @taken };
foreach my $status (sort keys %id_of)
{
	my $tries =
	  join ' ', map { $_->{status} } $receiver->log(id => $id_of{$status});
	my $rejected = grep { $_ == $status } @refusals;
	my $retried = grep { $_ == $status } @retried;

	is($tries, $retried ? "$status 204" : $status,
		"$status is "
		  . ($rejected ? 'final' : $retried ? 'tried again' : 'delivered'));
	next unless $rejected;
	is( query(qq{
			SELECT state, attempts, last_status, last_error
			FROM outbox_events WHERE event_id = '$id_of{$status}'}),
		"dead|1|$status|HTTP $status",
		"$status: dead with the reason");
}
is(scalar($receiver->log(path => '/elsewhere')), 0, 'no redirect was followed');

#
# Broken answers
#

# Status and headers decide: when they are complete and say 2xx, the event is
# delivered, whatever follows.
my @good = qw(partial partialrst chunkbad nolen hugebody slowbody);
my @bad = qw(half_response hugehdr slowhdr badlen flood1xx garbage http09
  commit_then_drop drop_before_commit rst hang nul_body);
my %broken = ((map { $_ => 1 } @good), (map { $_ => 0 } @bad));
$receiver->faults([ map { {
	match => { path => "/in/$_\\b" },
	times => 1,
	action => $_,
} } sort keys %broken ]);
%id_of = map { split /\|/ } split /\n/, query(
	'SELECT name, outbox_publish(name, \'{}\') FROM unnest(ARRAY['
	  . join(',', map { "'$_'" } sort keys %broken) . ']) name');
wait_state($node, $_, 'published') foreach values %id_of;
foreach my $name (sort keys %broken)
{
	my @tries = $receiver->log(id => $id_of{$name});

	is(scalar(@tries), $broken{$name} ? 1 : 2,
		$name . ($broken{$name} ? ' behind 2xx is delivered' : ' is retried'));
	is_deeply(
		[ @{ $tries[-1] }{qw(path query headers body)} ],
		[ @{ $tries[0] }{qw(path query headers body)} ],
		"$name: each try is the same");
}
is(scalar($receiver->accepted(id => $id_of{commit_then_drop})),
	2, 'an answer that was lost means a duplicate with the same id');
is(query(q{SELECT count(*) FROM outbox_events WHERE state = 'dead'}),
	scalar(@refusals), 'none of them died');

$receiver->faults([ {
	match => { path => '/in/nul' },
	status => 422,
	action => 'nul_body',
} ]);
$id = publish(q{'nul', '{}'});
wait_state($node, $id, 'dead');
unlike(
	query("SELECT last_error FROM outbox_events WHERE event_id = '$id'"),
	qr/[\x00-\x1f\x7f]/,
	'control characters of an answer are not shown');
$receiver->faults([]);

#
# Injection
#

# Refused on the way in ...
foreach my $case (
	[ 'topic', q{E'a\r\nX-Evil: 1', '{}'} ],
	[ 'key', q{'t', '{}', key => E'a\r\nX-Evil: 1'} ],
	[ 'type', q{'t', '{}', type => E'a\nX-Evil: 1'} ],
	[ 'metadata', q{'t', '{}', metadata => '{"a\r\nX-Evil": "1"}'} ],
	[ 'metadata', q{'t', '{}', metadata => '{"a": "1\r\nX-Evil: 1"}'} ],
	[ 'traceparent', q{'t', '{}', metadata => '{"traceparent": "\r\nX: 1"}'} ])
{
	my ($what, $arguments) = @$case;
	my ($status, undef, $stderr) = $node->psql('postgres',
		"\\set VERBOSITY sqlstate\nSELECT outbox_publish($arguments)");
	is("$status $stderr", '3 psql:<stdin>:2: ERROR:  22023',
		"a line break in $what is refused");
}
isnt(
	$node->psql('postgres',
		q{SELECT outbox_publish_bytes('t', '', E'text/plain\r\nX-Evil: 1')}),
	0, 'a line break in content_type is refused');
foreach my $setting ('outbox.http_headers', 'outbox.http_url', 'outbox.source')
{
	isnt(
		$node->psql('postgres', "SET $setting = E'http://x/ a\\rX-Evil: 1'"),
		0, "and in $setting");
}

# ... and what the trigger did not see, because somebody wrote it otherwise,
# is not sent either.
$id = publish(q{'t', '{}', deliver_after => now() + interval '1 h'});
query(qq{
	UPDATE outbox_event SET type = E'a\r\nX-Evil: 1' WHERE event_id = '$id';
	SELECT outbox_retry('$id')});
wait_state($node, $id, 'dead');
like(
	query("SELECT last_error FROM outbox_events WHERE event_id = '$id'"),
	qr/control character/, 'what got past the trigger is set aside');
is(scalar($receiver->log(id => $id)), 0, 'and not sent');

# Texts that look like syntax stay texts.
$id = publish(q{'?x=1#f@h:80/\\', '{}', key => 'a: b; c=d, "e"',
	type => 'x/../y?z', metadata => '{"X-Evil": "1"}'});
$entry = delivered($id);
is($entry->{path}, '/in/%3Fx%3D1%23f%40h%3A80%2F%5C',
	'a topic stays one segment of the path');
is_deeply(
	[ grep { /evil/ } map { keys %{ $_->{headers} } } $receiver->log ],
	[], 'no event has made a header of its own');

done_testing();
