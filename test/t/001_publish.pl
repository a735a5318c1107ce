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
# - A commit wakes the relay, in a crowd and after it was disabled as well; so
#   does COMMIT PREPARED.
# - outbox_stats counts what was published.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;

use constant TRACEPARENT =>
  '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';

# The poll is an hour away: whatever arrives comes of a commit.
my $receiver = start_receiver(mode => 'dapr');
my $node = new_node(
	'publish',
	conf => {
		'outbox.dapr_endpoint' => $receiver->url,
		'outbox.poll_interval' => '1h',
	});
query($node, 'CREATE EXTENSION outbox');

# Wait for an event; its log entry, with the CloudEvent in "event".
sub delivered
{
	my ($id) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_delivered($receiver, [$id]);
	my @entries = $receiver->log(id => $id);
	is(scalar(@entries), 1, "event $id was sent once");
	return { %{ $entries[0] }, event => cloud_event($entries[0]) };
}

# Everything that was published before is settled when a later event is.
sub settle_all
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	delivered(scalar publish($node, 'settle'));
	return wait_settled($node);
}

# The data of a topic's events, in the order in which they arrived
sub data_of
{
	my ($topic) = @_;
	return map { cloud_event($_)->{data} } $receiver->log(topic => $topic);
}

# The log's texts are characters, psql's are bytes.
sub utf8_text
{
	my ($text) = @_;
	utf8::encode($text);
	return $text;
}

# An event's payload as the server shows it
sub stored_payload
{
	my ($id) = @_;
	return query($node,
		"SELECT payload FROM outbox_event WHERE event_id = '$id'");
}

# --- The event

promise 'a committed event arrives with all that it was given' => sub {
	my $payload = '{"big": 9007199254740993, "tiny": 0.10, "deep": [1e2, null], '
	  . '"sum": 123456789012345678901234567890.123456789, "text": "\\"\u00fc\\\\"}';
	my $metadata = qq{{"traceparent": "@{[TRACEPARENT]}", "ttlInSeconds": "60"}};
	my $id = publish(
		$node, 'orders',
		payload => "'$payload'",
		key => 'customer 7',
		more => "type => 'order.created', metadata => '$metadata'");
	my $entry = delivered($id);
	my $event = $entry->{event};
	my $time = query($node, qq{
		SELECT to_char(created_at AT TIME ZONE 'UTC',
					   'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
		FROM outbox_event WHERE event_id = '$id'});
	my $stored = stored_payload($id);

	like($id, qr/^[0-9a-f]{8}-[0-9a-f]{4}-7/, 'the id is a UUIDv7');
	is("$entry->{method} $entry->{path}",
		'POST /v1.0/publish/pubsub/orders', 'it is posted to the publish API');
	is($entry->{headers}{'content-type'},
		'application/cloudevents+json', 'as a CloudEvent');
	is($event->{specversion}, '1.0', 'specversion');
	is($event->{id}, $id, 'id is what outbox_publish() returned');
	is($event->{source}, database_source($node),
		'source is that of the database');
	is($event->{type}, 'order.created', 'type');
	is($event->{time}, $time, 'time is that of publishing, in UTC');
	is($event->{partitionkey}, 'customer 7', 'partitionkey is the key');
	is($event->{traceparent}, TRACEPARENT, 'traceparent in the event');
	is($entry->{headers}{traceparent},
		TRACEPARENT, 'traceparent of the request');
	is($event->{datacontenttype}, 'application/json', 'datacontenttype');
	ok(utf8_text($entry->{body}) =~ /\Q"data":$stored}\E$/,
		'data is the JSON as it is stored, its numbers digit by digit')
	  or diag("$entry->{body}\n$stored");
	is_deeply(
		$entry->{metadata},
		{ ttlInSeconds => '60', partitionKey => 'customer 7' },
		'metadata and key are query parameters');
};

# Every character, at every place in a word of eight bytes, and what JSON has
# besides strings.
promise 'JSON arrives as the server shows it' => sub {
	my $id = publish($node, 'json', payload => q{jsonb_build_object('strings',
			(SELECT jsonb_agg(repeat('x', i) || chr(c) || 'ü')
			 FROM generate_series(0, 17) i, generate_series(1, 127) c),
			'others', '[[], {}, [[1, -0.5], {"a": {"b": []}}], "", true, false]'::jsonb)});
	my $stored = stored_payload($id);
	ok(utf8_text(delivered($id)->{body}) =~ /\Q"data":$stored}\E$/,
		'data is what the cast to text makes of the payload');
};

promise 'an event has no attribute that it was not given' => sub {
	my $event =
	  delivered(scalar publish($node, 'orders', payload => q{'null'}))->{event};
	is($event->{type}, 'orders', 'without a type it is the topic');
	ok(exists $event->{data} && !defined $event->{data}, 'JSON null is data');
	ok(!grep({ exists $event->{$_} } qw(partitionkey traceparent)),
		'no key and no trace context, no attribute');
};

promise 'bytes arrive in base64' => sub {
	my $id = query($node,
		q{SELECT outbox_publish_bytes('scans', '\x00ff0a', 'image/png')});
	my $event = delivered($id)->{event};
	is($event->{data_base64}, 'AP8K', 'bytes arrive in base64');
	is($event->{datacontenttype}, 'image/png', 'with their content type');
	ok(!exists $event->{data}, 'and without data');
};

# --- Transactions

promise 'what rolled back is never delivered' => sub {
	query($node, q{
		CREATE TABLE stock (n int UNIQUE DEFERRABLE INITIALLY DEFERRED);
		INSERT INTO stock VALUES (1)});
	query($node, q{
		BEGIN;
		SELECT outbox_publish('phantom', '"rollback"');
		ROLLBACK});
	query($node, q{
		BEGIN;
		SELECT outbox_publish('real', '"before the savepoint"');
		SAVEPOINT s;
		SELECT outbox_publish('phantom', '"savepoint"');
		ROLLBACK TO s;
		SELECT outbox_publish('real', '"after the savepoint"');
		COMMIT});
	query($node, q{
		DO $$
		BEGIN
			PERFORM outbox_publish('phantom', '"exception block"');
			RAISE division_by_zero;
		EXCEPTION WHEN division_by_zero THEN
			PERFORM outbox_publish('real', '"exception handler"');
		END $$});
	fails_with($node, q{
			BEGIN;
			SELECT outbox_publish('phantom', '"deferred constraint"');
			INSERT INTO stock VALUES (1);
			COMMIT},
		'23505', 'a deferred constraint fails at commit');
	settle_all();

	is_deeply(
		[ sort(data_of('real')) ],
		[ 'after the savepoint', 'before the savepoint', 'exception handler' ],
		'what committed around it is delivered');
	is(scalar($receiver->log(topic => 'phantom')),
		0, 'nothing that rolled back is delivered');
	is( query($node,
			q{SELECT count(*) FROM outbox_events WHERE topic = 'phantom'}),
		'0',
		'nor stored');
};

promise 'INSERT and COPY publish' => sub {
	my $id = query($node, q{
		INSERT INTO outbox_event (topic, payload) VALUES ('insert', '{"n": 1}')
		RETURNING event_id});
	is_deeply(delivered($id)->{event}{data}, { n => 1 }, 'INSERT publishes');

	query($node,
		    "COPY outbox_event (topic, payload, key) FROM STDIN;\n"
		  . join('', map { "copy\t{\"n\": $_}\tk\n" } 1 .. 3)
		  . "\\.\n");
	settle_all();
	is_deeply([ map { $_->{n} } data_of('copy') ],
		[ 1, 2, 3 ], 'COPY publishes');
};

promise 'an event_id that is there already is not published again' => sub {
	my $id = '11111111-2222-4333-8444-555555555555';
	my @own = (more => "event_id => '$id'");
	my $suppressed = stat_value($node, 'duplicates_suppressed');
	is(publish($node, 'orders', @own), $id, 'an id of one\'s own');
	is(delivered($id)->{event}{id}, $id, 'is the event\'s');
	is(publish($node, 'orders', @own),
		$id, 'published again, the same id comes back');
	is_deeply([ publish($node, 'orders', @own, payload => "'1'", count => 3) ],
		[ ($id) x 3 ], 'however often');
	settle_all();
	is(scalar($receiver->log(id => $id)), 1, 'but it is delivered once');
	wait_stat($node, 'duplicates_suppressed', $suppressed + 4, 'outbox_stats counts the duplicates');
	fails_with($node,
		"SELECT outbox_publish('orders', '2', event_id => '$id');",
		'23505', 'another event with this id is refused');
	is(stat_value($node, 'duplicates_suppressed') - $suppressed,
		4, 'and is no duplicate');
};

promise 'topics, keys and metadata arrive whatever they consist of' => sub {
	my @odd = (
		'a/b', 'a b', 'a+b', '.', '..', 'a/../b', '%', '%2F', 'a?b=c&d#e;f',
		'"quoted"\\', "\x{fc}\x{20ac}\x{1f600}", '/a/');
	my %id_of;
	foreach my $name (@odd)
	{
		my $literal = literal($name);
		$id_of{$name} = publish($node, $name,
			key => $name,
			more => "metadata => jsonb_build_object($literal, $literal)");
	}
	wait_delivered($receiver, [ values %id_of ]);
	foreach my $name (@odd)
	{
		my ($found) = $receiver->log(id => $id_of{$name});
		is_deeply(
			[ @{$found}{qw(pubsub topic key metadata)} ],
			[ 'pubsub', $name, $name, { $name => $name, partitionKey => $name } ],
			'topic, key and metadata ' . utf8_text($name))
		  or diag("$found->{path}?$found->{query}");
	}
};

# --- Time

promise 'no attribute has control characters in another encoding either' => sub {
	query($node, q{CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1'
		LC_COLLATE 'C' LC_CTYPE 'C'});
	query($node, 'CREATE EXTENSION outbox', 'latin');
	foreach my $argument (q{chr(133), '1'}, q{'t', '1', chr(128)},
		q{'t', '1', metadata => jsonb_build_object('a', chr(159))})
	{
		my (undef, undef, $stderr) =
		  $node->psql('latin', "SELECT outbox_publish($argument)");
		like($stderr, qr/must not contain control characters/, $argument);
	}
	is(query($node, q{SELECT outbox_publish(chr(252), '1') IS NOT NULL}, 'latin'),
		't', 'a letter is none');
	query($node, 'DROP DATABASE latin');
};

promise 'deliver_after is kept to' => sub {
	my $id = publish($node, 'later',
		more => q{deliver_after => clock_timestamp() + '1.5 s'});
	delivered(scalar publish($node, 'sooner'));
	is(event_state($node, $id), 'scheduled', 'a scheduled event waits');
	my $late_by = delivered($id)->{time} - query($node, qq{
		SELECT extract(epoch FROM deliver_after)
		FROM outbox_event WHERE event_id = '$id'});
	cmp_ok($late_by, '>=', 0, 'and is not delivered before its time');
	cmp_ok($late_by, '<', 2, 'but soon after, whatever the poll interval');
};

# A crowd of commits does not wake the relay one by one.  When it is over, and
# that comes at another moment each time, none of them has been missed.
promise 'commits in a crowd wake the relay' => sub {
	my $crowd = $node->basedir . '/crowd.sql';
	append_to_file($crowd, publish_sql('crowd') . ';');
	foreach my $round (1 .. 5)
	{
		$node->command_ok(
			[ 'pgbench', '-n', '-c', 4, '-t', 10 + $round, '-f', $crowd, 'postgres' ],
			"crowd of commits, round $round");
		wait_settled($node);
	}
};

promise 'what was committed while the relay was disabled is found' => sub {
	disable($node);
	my $id = publish($node, 'disabled');
	reload($node, 'outbox.enabled' => 'on');
	is(delivered($id)->{topic}, 'disabled',
		'what was committed while the relay was disabled is found');
};

promise 'COMMIT PREPARED wakes the relay' => sub {
	my $id = query($node,
		'BEGIN; ' . publish_sql('prepared') . q{; PREPARE TRANSACTION 'one'});
	settle_all();
	is(scalar($receiver->log(id => $id)), 0, 'a prepared event is not sent');
	query($node, q{COMMIT PREPARED 'one'});
	is(delivered($id)->{topic}, 'prepared', 'after COMMIT PREPARED it is');

	$id = publish($node, 'prepared', more => q{deliver_after => now() + interval '1 hour'});
	delivered(scalar publish($node, 'settle'));
	wait_state($node, $id, 'scheduled');
	query($node, "BEGIN; SELECT outbox_retry('$id'); PREPARE TRANSACTION 'retry'");
	query($node, q{COMMIT PREPARED 'retry'});
	wait_state($node, $id, 'published');

	$id = query($node,
		'BEGIN; ' . publish_sql('prepared') . q{; PREPARE TRANSACTION 'two'});
	query($node, q{ROLLBACK PREPARED 'two'});
	settle_all();
	is(scalar($receiver->log(id => $id)), 0, 'ROLLBACK PREPARED leaves nothing');
};

promise 'outbox_stats counts what was published' => sub {
	my $published = stat_value($node, 'published');
	my ($id) = publish($node, 'counted', count => 20);
	publish($node, 'counted', more => "event_id => '$id'");
	settle_all();
	is(stat_value($node, 'published') - $published,
		$receiver->stats->{distinct_ids}, 'each event once');
};

wait_settled($node);
is(stat_value($node, 'failed_attempts'), '0', 'nothing failed on the way');
is( stat_value($node, 'published'),
	query($node,
		q{SELECT count(*) FROM outbox_events WHERE state = 'published'}),
	'outbox_stats counts all that was published');

done_testing();
