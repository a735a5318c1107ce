# The main way: a transaction commits, and Dapr has exactly its event.
#
# Promises:
# - A committed event arrives with its own id, source, type, time, key, trace
#   context and data; JSON byte for byte as the server shows it, bytes as base64.
# - What rolled back, be it only a savepoint, is never delivered.
# - INSERT and COPY into outbox_event publish as outbox_publish() does.
# - An event_id that is there already is not published again, and counted.
# - Topics, keys and metadata arrive as they are, whatever they consist of.
# - deliver_after is kept to.
# - A commit wakes the relay, in a crowd and after it was disabled as well; only
#   COMMIT PREPARED is found by the poll.

use strict;
use warnings FATAL => 'all';

use JSON::PP ();
use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest qw(:DEFAULT !/^(check_value|dapr_error|event_value|fails_with|publish|publish_sql|query|restart_relay|stat_value|states|wait_states)$/);

use constant TRACEPARENT =>
  '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';

my $receiver = start_receiver(mode => 'dapr');
my $node = new_node(
	'publish',
	conf => {
		'outbox.dapr_endpoint' => $receiver->url,
		'outbox.poll_interval' => '1h',
	});
$node->safe_psql('postgres', 'CREATE EXTENSION outbox');

# Publish and return the event's id.  The arguments are those of
# outbox_publish() in SQL.
sub publish
{
	my ($arguments) = @_;
	return $node->safe_psql('postgres', "SELECT outbox_publish($arguments)");
}

# Wait for an event; its log entry, with the CloudEvent in "event".
sub delivered
{
	my ($id) = @_;
	wait_delivered($receiver, [$id]);
	my @entries = $receiver->log(id => $id);
	is(scalar(@entries), 1, "event $id was sent once");
	my $event = JSON::PP->new->decode($entries[0]{body});
	return { %{ $entries[0] }, event => $event };
}

# Everything that was published before is settled when a later event is.
sub settle_all
{
	delivered(publish(q{'settle', '{}'}));
	poll_until(
		sub {
			$node->safe_psql('postgres', 'SELECT backlog FROM outbox_stats') eq
			  '0';
		},
		'the backlog to be empty');
	return;
}

sub stat_value
{
	my ($name) = @_;
	return $node->safe_psql('postgres', "SELECT $name FROM outbox_stats");
}

#
# The event
#

my $payload = '{"big": 9007199254740993, "tiny": 0.10, "deep": [1e2, null], '
  . '"sum": 123456789012345678901234567890.123456789, "text": "\\"\u00fc\\\\"}';
my $id = publish(qq{'orders', '$payload', key => 'customer 7',
	type => 'order.created',
	metadata => '{"traceparent": "@{[TRACEPARENT]}", "ttlInSeconds": "60"}'});
my $entry = delivered($id);
my $event = $entry->{event};
my ($stored, $time) = split /\|/,
  $node->safe_psql('postgres', qq{
	SELECT payload,
		   to_char(created_at AT TIME ZONE 'UTC',
				   'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
	FROM outbox_event WHERE event_id = '$id'});

like($id, qr/^[0-9a-f]{8}-[0-9a-f]{4}-7/, 'the id is a UUIDv7');
is("$entry->{method} $entry->{path}",
	'POST /v1.0/publish/pubsub/orders', 'it is posted to the publish API');
is($entry->{headers}{'content-type'},
	'application/cloudevents+json', 'as a CloudEvent');
is($event->{specversion}, '1.0', 'specversion');
is($event->{id}, $id, 'id is what outbox_publish() returned');
is($event->{source}, '/publish/postgres',
	'source is made of the names of cluster and database');
is($event->{type}, 'order.created', 'type');
is($event->{time}, $time, 'time is that of publishing, in UTC');
is($event->{partitionkey}, 'customer 7', 'partitionkey is the key');
is($event->{traceparent}, TRACEPARENT, 'traceparent in the event');
is($entry->{headers}{traceparent}, TRACEPARENT, 'traceparent of the request');
is($event->{datacontenttype}, 'application/json', 'datacontenttype');
ok(utf8_text($entry->{body}) =~ /\Q"data":$stored}\E$/,
	'data is the JSON as it is stored, its numbers digit by digit')
  or diag("$entry->{body}\n$stored");
is_deeply(
	$entry->{metadata},
	{ ttlInSeconds => '60', partitionKey => 'customer 7' },
	'metadata and key are query parameters');

# The log's texts are characters, psql's are bytes.
sub utf8_text
{
	my ($text) = @_;
	utf8::encode($text);
	return $text;
}

# Every character, at every place in a word of eight bytes, and what JSON has
# besides strings.
$id = publish(q{'orders', jsonb_build_object('strings',
		(SELECT jsonb_agg(repeat('x', n) || chr(c) || 'ü')
		 FROM generate_series(0, 17) n, generate_series(1, 127) c),
		'others', '[[], {}, [[1, -0.5], {"a": {"b": []}}], "", true, false]'::jsonb)});
$stored = $node->safe_psql('postgres',
	"SELECT payload FROM outbox_event WHERE event_id = '$id'");
ok(utf8_text(delivered($id)->{body}) =~ /\Q"data":$stored}\E$/,
	'data is what the cast to text makes of the payload');

$event = delivered(publish(q{'orders', 'null'}))->{event};
is($event->{type}, 'orders', 'without a type it is the topic');
ok(exists $event->{data} && !defined $event->{data}, 'JSON null is data');
ok(!grep({ exists $event->{$_} } qw(partitionkey traceparent)),
	'no key and no trace context, no attribute');

$id = $node->safe_psql('postgres',
	q{SELECT outbox_publish_bytes('scans', '\x00ff0a', 'image/png')});
$event = delivered($id)->{event};
is($event->{data_base64}, 'AP8K', 'bytes arrive in base64');
is($event->{datacontenttype}, 'image/png', 'with their content type');
ok(!exists $event->{data}, 'and without data');

#
# What rolled back is never delivered
#

$node->safe_psql('postgres', q{
	CREATE TABLE stock (n int UNIQUE DEFERRABLE INITIALLY DEFERRED);
	INSERT INTO stock VALUES (1)});
$node->safe_psql('postgres', q{
	BEGIN;
	SELECT outbox_publish('phantom', '"rollback"');
	ROLLBACK});
$node->safe_psql('postgres', q{
	BEGIN;
	SELECT outbox_publish('real', '"before the savepoint"');
	SAVEPOINT s;
	SELECT outbox_publish('phantom', '"savepoint"');
	ROLLBACK TO s;
	SELECT outbox_publish('real', '"after the savepoint"');
	COMMIT});
$node->safe_psql('postgres', q{
	DO $$
	BEGIN
		PERFORM outbox_publish('phantom', '"exception block"');
		RAISE division_by_zero;
	EXCEPTION WHEN division_by_zero THEN
		PERFORM outbox_publish('real', '"exception handler"');
	END $$});
isnt(
	$node->psql('postgres', q{
		BEGIN;
		SELECT outbox_publish('phantom', '"deferred constraint"');
		INSERT INTO stock VALUES (1);
		COMMIT}),
	0,
	'a deferred constraint fails at commit');
settle_all();

is_deeply(
	[ sort map { JSON::PP->new->decode($_->{body})->{data} }
		  $receiver->log(topic => 'real') ],
	[ 'after the savepoint', 'before the savepoint', 'exception handler' ],
	'what committed around it is delivered');
is(scalar($receiver->log(topic => 'phantom')),
	0, 'nothing that rolled back is delivered');
is( $node->safe_psql('postgres',
		q{SELECT count(*) FROM outbox_events WHERE topic = 'phantom'}),
	'0',
	'nor stored');

#
# Plain SQL
#

$id = $node->safe_psql('postgres', q{
	INSERT INTO outbox_event (topic, payload) VALUES ('insert', '{"n": 1}')
	RETURNING event_id});
is_deeply(delivered($id)->{event}{data}, { n => 1 }, 'INSERT publishes');

$node->safe_psql('postgres',
	    "COPY outbox_event (topic, payload, key) FROM STDIN;\n"
	  . join('', map { "copy\t{\"n\": $_}\tk\n" } 1 .. 3)
	  . "\\.\n");
settle_all();
is_deeply(
	[ map { JSON::PP->new->decode($_->{body})->{data}{n} }
		  $receiver->log(topic => 'copy') ],
	[ 1, 2, 3 ],
	'COPY publishes');

#
# The caller's idempotency key
#

$id = '11111111-2222-4333-8444-555555555555';
my $suppressed = stat_value('duplicates_suppressed');
is(publish(qq{'orders', '1', event_id => '$id'}), $id, 'an id of one\'s own');
is(delivered($id)->{event}{id}, $id, 'is the event\'s');
is(publish(qq{'orders', '2', event_id => '$id'}),
	$id, 'published again, the same id comes back');
is( $node->safe_psql('postgres', qq{
		SELECT outbox_publish('orders', to_jsonb(n), event_id => '$id')
		FROM generate_series(1, 3) n}),
	"$id\n$id\n$id",
	'however often');
settle_all();
is(scalar($receiver->log(id => $id)), 1, 'but it is delivered once');
is(stat_value('duplicates_suppressed') - $suppressed,
	4, 'outbox_stats counts the duplicates');

#
# Names
#

# Each is topic, key and metadata of an event, made of SQL's U& notation.
my %odd = (
	'a/b' => 'a/b',
	'a b' => 'a b',
	'a+b' => 'a+b',
	'.' => '.',
	'..' => '..',
	'a/../b' => 'a/../b',
	'%' => '%',
	'%2F' => '%2F',
	'a?b=c&d#e;f' => 'a?b=c&d#e;f',
	'"quoted"\\' => '"quoted"\\\\',
	"\x{fc}\x{20ac}\x{1f600}" => '\00fc\20ac\+01f600',
	'/a/' => '/a/',
);
my %id_of;
foreach my $name (sort keys %odd)
{
	my $literal = "U&'$odd{$name}'";
	$id_of{$name} = publish(qq{$literal, '{}', key => $literal,
		metadata => jsonb_build_object($literal, $literal)});
}
wait_delivered($receiver, [ values %id_of ]);
foreach my $name (sort keys %odd)
{
	my ($found) = $receiver->log(id => $id_of{$name});
	is_deeply(
		[ @{$found}{qw(pubsub topic key metadata)} ],
		[ 'pubsub', $name, $name, { $name => $name, partitionKey => $name } ],
		'topic, key and metadata ' . utf8_text($name))
	  or diag("$found->{path}?$found->{query}");
}

#
# Time
#

$id = publish(q{'later', '{}', deliver_after => clock_timestamp() + '1.5 s'});
my $soon = publish(q{'sooner', '{}'});
delivered($soon);
is(event_state($node, $id), 'scheduled', 'a scheduled event waits');
my $late_by = delivered($id)->{time} - $node->safe_psql('postgres',
	qq{SELECT extract(epoch FROM deliver_after)
	   FROM outbox_event WHERE event_id = '$id'});
cmp_ok($late_by, '>=', 0, 'and is not delivered before its time');
cmp_ok($late_by, '<', 2, 'but soon after, whatever the poll interval');

# A crowd of commits does not wake the relay one by one.  When it is over, and
# that comes at another moment each time, none of them has been missed.
my $crowd = $node->basedir . '/crowd.sql';
append_to_file($crowd, q{SELECT outbox_publish('crowd', '{}');});
foreach my $round (1 .. 5)
{
	$node->command_ok(
		[ 'pgbench', '-n', '-c', 4, '-t', 10 + $round, '-f', $crowd, 'postgres' ],
		"crowd of commits, round $round");
	poll_until(
		sub {
			$node->safe_psql('postgres', 'SELECT backlog FROM outbox_stats') eq
			  '0';
		},
		"all of crowd $round to be settled");
}

# While the relay is disabled, nothing is missed either.
disable($node);
$id = publish(q{'disabled', '{}'});
reload($node, 'outbox.enabled' => 'on');
is(delivered($id)->{topic}, 'disabled',
	'what was committed while the relay was disabled is found');

# The poll is an hour away: whatever arrived up to here came of a commit.
# Nothing tells the relay of COMMIT PREPARED in another session.
$id = $node->safe_psql('postgres', q{
	BEGIN;
	SELECT outbox_publish('prepared', '{}');
	PREPARE TRANSACTION 'one'});
settle_all();
is(scalar($receiver->log(id => $id)), 0, 'a prepared event is not sent');
reload($node, 'outbox.poll_interval' => '100ms');
$node->safe_psql('postgres', q{COMMIT PREPARED 'one'});
is(delivered($id)->{topic}, 'prepared', 'the poll finds COMMIT PREPARED');

$id = $node->safe_psql('postgres', q{
	BEGIN;
	SELECT outbox_publish('prepared', '{}');
	PREPARE TRANSACTION 'two'});
$node->safe_psql('postgres', q{ROLLBACK PREPARED 'two'});
settle_all();
is(scalar($receiver->log(id => $id)), 0, 'ROLLBACK PREPARED leaves nothing');

is(stat_value('failed_attempts'), '0', 'nothing failed on the way');
is(stat_value('published'), $receiver->stats->{distinct_ids},
	'outbox_stats counts what was published');

done_testing();
