# Whatever is in a table, the relay goes on.
#
# Promises:
# - An upgrade of the extension, and nobody else, may change events.
# - A row that no event can be made of, which only somebody who disables triggers
#   and drops constraints can leave, is dead, with the reason.
# - An event whose payload is damaged is dead, and holds up its own key only;
#   the log and outbox_check() tell which.
# - So is one that waits in the table: what is behind it goes on waiting.
# - A page that cannot be read does not keep what is on others from going on, nor a
#   relay from starting; outbox_check() says which block of which table.
# - Nor does a request to retry or to discard one of its events.
# - Nor does a page that goes bad while its events are in memory; what is delivered
#   then is published.
# - An event that is deleted is erased: its key goes on, no row of ours has
#   anything of it, and its id is a new one.
# - One that another trigger keeps is not forgotten; what is truncated in
#   session_replication_role = replica is.
# - An event that is too large to be written as text, or to be sent, is dead, and
#   takes no more memory than it may.
# - Events that take the place of others in one transaction, even their ids, are
#   sent, and those are not.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;

use constant {
	MANY => 500,    # events on several pages
};

my $receiver = start_receiver(mode => 'dapr');
my $node = new_node(
	'rows',
	conf => {
		'outbox.dapr_endpoint' => $receiver->url,
		'outbox.breaker_threshold' => 0,
		autovacuum => 'off',
	});
query($node, 'CREATE EXTENSION outbox; CREATE EXTENSION pg_surgery');

# Where the server finds the extension's files: as tools/stage has it
sub extension_dir
{
	my ($dest) = map { /^extension_(?:destdir|control_path) = '([^':]*)/ ? $1 : () }
	  split /\n/, slurp_file($ENV{TEMP_CONFIG});
	my $share = query($node,
		q{SELECT setting FROM pg_config WHERE name = 'SHAREDIR'});
	return $dest =~ /\Q$share\E$/ ? "$dest/extension" : "$dest$share/extension";
}

promise 'an upgrade of the extension may change events' => sub {
	my $change = q{UPDATE outbox_event SET type = 'changed'};
	my $script = extension_dir() . '/outbox--1.0--test.sql';

	query($node, 'CREATE DATABASE upgraded');
	query($node, 'CREATE EXTENSION outbox', 'upgraded');
	publish($node, 'upgrade', db => 'upgraded',
		more => q{deliver_after => now() + '1 hour'});
	open(my $file, '>', $script) or die "could not write $script: $!";
	print $file $change;
	close($file);
	query($node, q{ALTER EXTENSION outbox UPDATE TO 'test'}, 'upgraded');
	unlink($script);
	is(query($node, 'SELECT type FROM outbox_event', 'upgraded'),
		'changed', 'its script does');
	my ($status) = $node->psql('upgraded', $change);
	isnt($status, 0, 'afterwards nobody does');
};

# What must be so for the rest of outbox_event's rows is switched off, as a
# superuser, and put back; the SQL in between is what it would have kept out.
sub without_guards
{
	my ($sql) = @_;
	query($node, qq{
		BEGIN;
		ALTER TABLE outbox_event DISABLE TRIGGER USER,
			ALTER event_id DROP NOT NULL, ALTER topic DROP NOT NULL,
			ALTER created_at DROP NOT NULL;
		$sql;
		ALTER TABLE outbox_event ENABLE ALWAYS TRIGGER outbox_event_insert,
			ENABLE ALWAYS TRIGGER outbox_event_update,
			ENABLE ALWAYS TRIGGER outbox_event_delete,
			ENABLE ALWAYS TRIGGER outbox_event_truncate,
			ENABLE ALWAYS TRIGGER outbox_drop_replicated;
		COMMIT});
	return;
}

promise 'what no event can be made of is dead, with the reason' => sub {
	my $relay = wait_relay($node);
	my %good = (
		id => q{nextval('outbox_event_id_seq')},
		event_id => 'gen_random_uuid()',
		topic => q{'odd'},
		payload => q{'1'},
		created_at => 'now()');
	my @odd = (
		[ event_id => 'NULL', 'column "event_id" is null' ],
		[ topic => 'NULL', 'column "topic" is null' ],
		[ topic => q{''}, 'column "topic" is empty or too long' ],
		[ topic => q{repeat('x', 4000)}, 'column "topic" is empty or too long' ],
		[ key => q{repeat('x', 4000)}, 'column "key" is empty or too long' ],
		[ created_at => 'NULL', 'column "created_at" is null' ],
		[ created_at => q{'-infinity'}, 'column "created_at" is infinite' ],
		[ deliver_after => q{'infinity'}, 'column "deliver_after" is infinite' ],
		[ expires_at => q{'infinity'}, 'column "expires_at" is infinite' ],
		[ payload => 'NULL', 'column "payload" is null, and so is "body"' ],
		[ body => q{'x'}, 'column "payload" has a value, and so has "body"' ],
		[ payload => q{NULL, 'x'}, 'column "content_type" is null', 'payload, body' ],
		[ metadata => q{'[]'}, 'column "metadata" is not an object' ],
		[ metadata => q{'"x"'}, 'column "metadata" is not an object' ],
		[ metadata => q{'{"a": 1}'}, 'column "metadata" has a value that is not a string' ],
		[ metadata => q{'{"a": {"b": "c"}}'},
			'column "metadata" has a value that is not a string' ]);
	my $sql = '';

	foreach my $row (@odd)
	{
		my ($column, $value, $reason, $columns) = @$row;
		my %row = (%good, $column => $value);
		$sql .= sprintf('INSERT INTO outbox_event (xid, %s) VALUES (pg_current_xact_id(), %s);',
			join(', ', map { $_ eq $column && $columns || $_ } sort keys %row),
			join(', ', map { $row{$_} } sort keys %row));
	}
	my $first = query($node, 'SELECT coalesce(max(id), 0) FROM outbox_event');
	my $before = publish($node, 'around');
	without_guards($sql);
	my $after = publish($node, 'around');
	wait_delivered($receiver, [ $before, $after ]);
	poll_until(
		sub { query($node, q{SELECT count(*) FROM outbox_delivery WHERE state = 'dead'}) == @odd },
		'all of them to be dead');
	is( query($node, 'SELECT last_error FROM outbox_delivery ORDER BY id'),
		join("\n", map { "cannot be read: $_->[2]" } @odd),
		'each with its reason');
	is(relay_pid($node), $relay, 'nothing has crashed');
	query($node, 'DELETE FROM outbox_event WHERE topic IS DISTINCT FROM $$around$$');
	poll_until(sub { query($node, 'SELECT count(*) FROM outbox_delivery') == 0 },
		'them to be gone');
	query($node, q{
		ALTER TABLE outbox_event ALTER event_id SET NOT NULL,
			ALTER topic SET NOT NULL, ALTER created_at SET NOT NULL});
};

# A payload that is kept outside of its row, and of which a part is lost
my $large = q{(SELECT jsonb_agg(md5(i::text)) FROM generate_series(1, 1000) i)};

my $bad_chunk = qr/(?:missing|unexpected) chunk number/;

sub damage
{
	my ($id) = @_;
	my $toast = query($node, q{
		SELECT reltoastrelid::regclass FROM pg_class WHERE oid = 'outbox_event'::regclass});
	my $chunk = $node->pg_version >= 17
	  ? "(SELECT pg_column_toast_chunk_id(payload) FROM outbox_event WHERE event_id = '$id')"
	  : "(SELECT max(chunk_id) FROM $toast)";

	# by itself: what is killed must not be pinned by a scan
	my $ctid = query($node,
		"SELECT ctid FROM $toast WHERE chunk_id = $chunk AND chunk_seq = 1");
	query($node, "SELECT heap_force_kill('$toast', ARRAY['$ctid'::tid])");
	return;
}

promise 'an event that cannot be read is dead, and holds up its key only' => sub {
	disable($node);
	my $offset = -s $node->logfile;
	my $before = publish($node, 'toast', key => 'k');
	my $bad = publish($node, 'toast', key => 'k', payload => $large);
	damage($bad);
	my $behind = publish($node, 'toast', key => 'k');
	my @others = publish($node, 'toast', count => 10);
	reload($node, 'outbox.enabled' => 'on');
	wait_delivered($receiver, [ $before, @others ]);
	wait_state($node, $bad, 'dead');
	is(event_state($node, $behind), 'blocked', 'the next of its key waits');
	like(event_value($node, $bad, 'last_error'),
		qr/^cannot be read: $bad_chunk/, 'with the reason');
	wait_log($node, qr/outbox: event "$bad" of topic "toast" is dead for .*\n.*Row \d+ of table "outbox_event": cannot be read: $bad_chunk/, $offset);
	like(check_value($node, 'events readable', 'ok, detail'),
		qr/^f\|1 cannot be read, and are dead: cannot be read: $bad_chunk/,
		'outbox_check() says so');
	query($node, "SELECT outbox_discard('$bad')");
	wait_delivered($receiver, [$behind]);
	is(check_value($node, 'events readable', 'ok'), 't', 'until it is given up');
	taken_once($receiver, [ $before, @others, $behind ], 'nothing is sent twice');
};

promise 'one that waits in the table is found as well' => sub {
	$receiver->faults([ { match => { topic => 'tail' }, status => 413, times => 1 } ]);
	my $dead = publish($node, 'tail', key => 'k');
	wait_state($node, $dead, 'dead');
	my $bad = publish($node, 'tail', key => 'k', payload => $large);
	my $behind = publish($node, 'tail', key => 'k');
	my $scheduled = publish($node, 'tail', payload => $large,
		more => q{deliver_after => now() + '1 hour'});
	wait_state($node, [ $bad, $behind ], 'blocked');
	wait_state($node, $scheduled, 'scheduled');
	damage($scheduled);
	query($node, "SELECT outbox_retry('$scheduled')");
	wait_state($node, $scheduled, 'dead');

	# it is the next that has the largest number, but for that one
	query($node, "DELETE FROM outbox_event WHERE event_id = '$scheduled'");
	query($node, 'VACUUM outbox_event');
	damage($bad);
	query($node, "SELECT outbox_discard('$dead')");
	wait_state($node, $bad, 'dead');
	is(event_state($node, $behind), 'blocked', 'what is behind it waits');
	is(scalar($receiver->log(id => $behind)), 0, 'and is not sent');
	query($node, "SELECT outbox_discard('$bad')");
	wait_delivered($receiver, [$behind]);
};

# On a server of its own, where all events can be looked at.
promise 'what is deleted is erased' => sub {
	my $node = new_node('erasing', conf => { 'outbox.dapr_endpoint' => $receiver->url });
	query($node, 'CREATE EXTENSION outbox');
	my %erased = (key => 'k', payload => q{'{"person": "canary-4711"}'});
	$receiver->faults([ {
		match => { topic => 'erased' },
		status => 413,
		body => 'canary-4711 is too large',
		times => 1,
	} ]);
	my $dead = publish($node, 'erased', %erased);
	wait_state($node, $dead, 'dead');
	my $waits = publish($node, 'erased', %erased);
	my $next = publish($node, 'erased', key => 'k');
	wait_state($node, [ $waits, $next ], 'blocked');
	like(event_value($node, $dead, 'last_error'),
		qr/canary-4711/, 'the receiver has repeated it');

	is( query($node, q{DELETE FROM outbox_event
			WHERE payload @> '{"person": "canary-4711"}' RETURNING event_id}),
		"$dead\n$waits",
		'it is found by its payload, and deleted');
	wait_delivered($receiver, [$next]);
	is(scalar($receiver->log(id => $waits)), 0, 'what had waited is not sent');
	poll_until(
		sub {
			query($node, join ' UNION ALL ',
				map { "SELECT 1 FROM $_ t WHERE t::text ~ 'canary-4711|$dead|$waits'" }
				  qw(outbox_event outbox_delivery outbox_request outbox_progress)) eq '';
		},
		'nothing of it to be left in a table');

	publish($node, 'anew', more => "event_id => '$dead'");
	wait_delivered($receiver, [$dead]);
	taken_once($receiver, [ $dead, $next ], 'its id is that of another event now');
	$node->stop;
};

# An event that is dead, and one behind it
sub leave_blocked
{
	my ($topic) = @_;
	$receiver->faults([ { match => { topic => $topic }, status => 413, times => 1 } ]);
	my $dead = publish($node, $topic, key => 'k');
	wait_state($node, $dead, 'dead');
	my $blocked = publish($node, $topic, key => 'k');
	wait_state($node, $blocked, 'blocked');
	return ($dead, $blocked);
}

promise 'an event is forgotten only if it is deleted' => sub {
	my ($dead, $blocked) = leave_blocked('kept');
	query($node, q{
		CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS
			$$ BEGIN RETURN NULL; END $$;
		CREATE TRIGGER z_keep BEFORE DELETE ON outbox_event
			FOR EACH ROW WHEN (OLD.topic = 'kept') EXECUTE FUNCTION keep()});
	my $asked = query($node, 'SELECT last_value FROM outbox_request_id_seq');
	query($node, q{DELETE FROM outbox_event WHERE topic = 'kept'});
	is(query($node, 'SELECT last_value FROM outbox_request_id_seq'),
		$asked, 'the relay is asked nothing');
	is(event_state($node, $dead), 'dead', 'what another trigger keeps is still dead');
	query($node, 'DROP FUNCTION keep CASCADE');
	query($node, "DELETE FROM outbox_event WHERE event_id = '$dead'");
	wait_delivered($receiver, [$blocked]);
};

promise 'what is truncated is forgotten in every role' => sub {
	leave_blocked('role');
	query($node, q{
		SET session_replication_role = replica;
		TRUNCATE outbox_event});
	is(query($node, 'SELECT count(*) FROM outbox_delivery'), 0, 'no row is left');
	wait_delivered($receiver, [ publish($node, 'role', key => 'k') ]);
};

# The first is what a person may do, the other one breaks the sequence as well.
foreach my $command ('TRUNCATE outbox_event RESTART IDENTITY',
	q{TRUNCATE outbox_event; SELECT setval('outbox_event_id_seq', FIRST, false)})
{
	promise "events that come in the place of others are sent: $command" => sub {
		$receiver->faults([ { action => 'hang' } ]);
		my @old = publish($node, 'old', key => 'k', count => 5);
		push @old, publish($node, 'old', count => 5);
		poll_until(sub { $receiver->log(topic => 'old') >= 6 },
			'some to be in flight');
		my $first = query($node, "SELECT min(id) FROM outbox_event WHERE topic = 'old'");
		my $last = query($node, 'SELECT max(id) FROM outbox_event');
		my $publish = publish_sql('new', key => 'k', count => 10);
		(my $replace = "BEGIN; $command; $publish; COMMIT") =~ s/FIRST/$first/;
		my @new = grep { /-/ } split /\n/, query($node, $replace);
		my $low = query($node, 'SELECT min(id) FROM outbox_event');
		cmp_ok($low, '>', $last, 'ids are not used twice')
		  if $command =~ /RESTART/;
		$receiver->faults([]);
		wait_delivered($receiver, \@new);
		wait_state($node, \@new, 'published');
		taken_once($receiver, \@new, 'what is new is sent once');
		is(scalar(grep { $_->{topic} eq 'old' } $receiver->accepted), 0,
			'what is gone is not sent');
	};
}

# Events of the topic on the table's second page
sub on_second_page
{
	my ($node, $db) = @_;
	return split /\n/, query($node, q{
		SELECT event_id FROM outbox_event WHERE ctid BETWEEN '(1,0)' AND '(1,999)'
		ORDER BY id}, $db);
}

promise 'a page that cannot be read keeps the others from nothing' => sub {
	disable($node);
	query($node, 'CREATE DATABASE damaged');
	query($node, 'CREATE EXTENSION outbox', 'damaged');
	my @ids = publish($node, 'page', count => MANY, db => 'damaged');
	my @lost = on_second_page($node, 'damaged');
	my $file =
	  query($node, q{SELECT pg_relation_filepath('outbox_event')}, 'damaged');
	$node->stop;
	damage_page($node, $file, 1);
	$node->start;
	reload($node, 'outbox.enabled' => 'on');
	my %lost = map { $_ => 1 } @lost;
	wait_delivered($receiver, [ grep { !$lost{$_} } @ids ]);
	wait_delivered($receiver,
		[ publish($node, 'page', count => 10, db => 'damaged') ]);
	cmp_ok(scalar(@lost), '>', 10, 'there was something on the page');
	like(check_value($node, 'events readable', 'ok, detail', 'damaged'),
		qr/^f\|@{[ scalar @lost ]} cannot be read.*block 1 of table "outbox_event": invalid page/,
		'outbox_check() has block and table');
};

# By the functions nobody can ask it any more, but they may have been called
# before the page went bad.
promise 'nor does a request for an event on it' => sub {
	my ($given_up, $retried) = split /\n/,
	  query($node, 'SELECT id FROM outbox_delivery ORDER BY id LIMIT 2', 'damaged');
	my $row = sub {
		return query($node,
			"SELECT $_[1] FROM outbox_delivery WHERE id = $_[0]", 'damaged');
	};
	my $died = $row->($retried, 'updated_at');
	my $readable = publish($node, 'page', db => 'damaged',
		more => q{deliver_after => now() + '1 hour'});
	query($node, qq{
		BEGIN;
		INSERT INTO outbox_request (action, event)
		VALUES ('discard', $given_up), ('retry', $retried);
		SELECT outbox_discard('$readable');
		COMMIT}, 'damaged');
	poll_until(
		sub { query($node, 'SELECT count(*) FROM outbox_request', 'damaged') == 0 },
		'all to be served');
	wait_delivered($receiver, [ publish($node, 'page', db => 'damaged') ]);
	is($row->($given_up, 'state'), 'discarded', 'its row is discarded');
	poll_until(
		sub { $row->($retried, "state = 'dead' AND updated_at > '$died'") eq 't' },
		'the one that is tried again to be dead again');
	is( query($node, qq{
			SELECT state FROM outbox_events WHERE event_id = '$readable'}, 'damaged'),
		'discarded', 'what was asked of another one is done');
	query($node, 'DROP DATABASE damaged');
};

$node->stop;

# With so few buffers, none stays there for long.
promise 'nor does one that goes bad while its events are in memory' => sub {
	my $small = new_node(
		'small',
		conf => {
			'outbox.dapr_endpoint' => $receiver->url,
			# so many events are refused that it would be nobody's fault among them
			'outbox.breaker_threshold' => 1000,
			'outbox.request_timeout' => '1s',
			'outbox.cleaning_local_queue_expire_interval' => '1s',
			shared_buffers => '128kB',
			autovacuum => 'off',
		});
	query($small, 'CREATE EXTENSION outbox');
	$receiver->faults([ { match => { topic => 'memory' }, action => 'hang' } ]);
	publish($small, 'memory', count => MANY);
	poll_until(sub { $receiver->log(topic => 'memory') > 0 }, 'them to be read');
	my @lost = on_second_page($small);
	query($small, 'CHECKPOINT');
	damage_page($small,
		query($small, q{SELECT pg_relation_filepath('outbox_event')}), 1);
	poll_until(
		sub { try_query($small, 'SELECT count(xid) FROM outbox_event') eq '' },
		'the page to be read again');

	# looking whether what is in memory was deleted from the table
	wait_log($small, qr/invalid page in block 1 .*\n.*SELECT m\.id FROM unnest/, 0);
	wait_delivered($receiver, [ publish($small, 'other', count => 10) ]);

	# writing down what became of it
	$receiver->faults([ { match => { topic => 'memory' }, status => 413 } ]);
	poll_until(
		sub { query($small, q{SELECT count(*) FROM outbox_delivery WHERE state = 'dead'}) == MANY },
		'all to be dead');
	cmp_ok(
		query($small, q{
			SELECT count(*) FROM outbox_delivery WHERE last_error LIKE 'cannot be read:%'}),
		'<=', scalar(@lost),
		'because they cannot be read only those on the page');
	wait_delivered($receiver, [ publish($small, 'other', count => 10) ]);
	$small->stop;
};

# It gets a row, because the answer takes more than a second: before its page goes
# bad, or when that has happened.
foreach my $row ('written before', 'written after')
{
	promise "what is delivered after its page went bad is published, its row $row" => sub {
		my $small = new_node(
			$row =~ s/ /_/r,
			conf => {
				'outbox.dapr_endpoint' => $receiver->url,
				'outbox.request_timeout' => '5min',
				shared_buffers => '128kB',
				autovacuum => 'off',
			});
		my $state = sub { query($small, 'SELECT state FROM outbox_delivery') };
		query($small, 'CREATE EXTENSION outbox');
		$receiver->faults([ {
			match => { topic => 'late' },
			action => 'hang', on_release => 'answer', taken => 1
		} ]);
		my $locker = $small->background_psql('postgres');
		$locker->query_safe(
			'BEGIN; LOCK TABLE outbox_delivery IN SHARE ROW EXCLUSIVE MODE')
		  if $row =~ /after/;
		my $late = publish($small, 'late', key => 'k');
		poll_until(sub { $receiver->log(id => $late) == 1 }, 'it to be in flight');
		poll_until(sub { $state->() eq 'in_progress' }, 'it to be written down')
		  if $row =~ /before/;
		query($small, 'CHECKPOINT');
		damage_page($small,
			query($small, q{SELECT pg_relation_filepath('outbox_event')}), 0);
		poll_until(
			sub { try_query($small, 'SELECT count(xid) FROM outbox_event') eq '' },
			'the page to be read again');
		$locker->quit;
		poll_until(sub { $state->() ne '' }, 'it to have a row');
		is($state->(), 'in_progress', 'nobody knows better yet');

		$receiver->faults([]);
		wait_delivered($receiver, [$late]);
		poll_until(sub { $state->() ne 'in_progress' },
			'the answer to be written down');
		is($state->(), 'published', 'as what it is');
		unlike(slurp_file($small->logfile), qr/is dead/, 'it never was dead');
		$small->stop;
	};
}

promise 'an event too large to be written is dead, and takes no more memory' => sub {
	my $large = new_node('large', conf => { 'outbox.dapr_endpoint' => $receiver->url });
	query($large, 'CREATE EXTENSION outbox');
	my $relay = wait_relay($large);
	my $highest = sub {
		return slurp_file("/proc/$relay/status") =~ /^VmHWM:\s*(\d+) kB$/m ? $1 : undef;
	};
	wait_delivered($receiver, [ publish($large, 'small') ]);
	my $before = $highest->();

	# 260 MB of text in a few kilobytes of jsonb; a gigabyte, in a single string of
	# control characters; and bytes
	query($large, q{
		INSERT INTO outbox_event (topic, xid, payload) SELECT 'large', '3',
			('[' || repeat('1e131000, ', 2050) || '1]')::jsonb;
		INSERT INTO outbox_event (topic, xid, payload) SELECT 'large', '3',
			to_jsonb(repeat(chr(1), 180000000));
		INSERT INTO outbox_event (topic, xid, body, content_type) SELECT 'large', '3',
			convert_to(repeat('x', 257 * 1024 * 1024), 'UTF8'), 'text/plain'});
	poll_until(sub { states($large, 'large') eq 'dead*3' }, 'all of them to be dead', 120);
	is( query($large, q{
			SELECT last_error FROM outbox_events WHERE topic = 'large' ORDER BY created_at}),
		join("\n", map { "cannot be read: column $_" }
			  ('"payload" has more than 256 MB as text') x 2,
			'"body" has more than 256 MB'),
		'each with its reason');
	cmp_ok($highest->() - $before, '<', 480 * 1024, 'no more memory was needed (kB)');
	wait_delivered($receiver, [ publish($large, 'small') ]);
	is(relay_pid($large), $relay, 'the relay goes on');
	$large->stop;
};

done_testing();
