# Promise: a dump carries what is not settled, and the dead events.  In the
# cluster that it is restored to, the relay goes on where the other one stood,
# and what was published already is not sent again; in whatever way it is
# restored.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;

my $receiver = start_receiver(mode => 'dapr');
my %conf = (
	'outbox.dapr_endpoint' => $receiver->url,
	'outbox.local_retry_times' => 0);
my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump';
my $old = new_node('old', conf => \%conf);
query($old, 'CREATE EXTENSION outbox');

# All events but those published, as the view shows them.  A try that no relay
# remembers any more (in_progress) has failed.
sub unsettled
{
	my ($node) = @_;
	return query($node, q{
		SELECT topic, event_id, key, replace(state, 'in_progress', 'failed'),
			   attempts, last_status, last_error, published_by
		FROM outbox_events WHERE state <> 'published' ORDER BY topic, event_id});
}

# Publish an event to $topic; its id.
sub publish_one
{
	my ($topic, %opts) = @_;
	return scalar publish($old, $topic, payload => q{'{"n": 1.10}'}, %opts);
}

# Have the old node have an event in every state, and its relay pause; the ids
# by state, of those that are published in an array.
sub leave_events
{
	my @made = (more => q{metadata => '{"a": "b"}', type => 'made'});
	my @later = (more => q{deliver_after => now() + interval '1 hour'});
	my %id;

	$receiver->faults([
		{ match => { topic => 'again' }, component_error => 'x', times => 1 },
		{ match => { topic => 'e.failed' }, component_error => 'broken' },
		{ match => { topic => 'expired' }, component_error => 'broken' },
		{ match => { topic => 'a.dead' }, status => 413 },
		{ match => { topic => 'h.hanging' }, action => 'hang' }
	]);
	$id{published} = [ map { publish_one($_) } ('published') x 3, 'again' ];
	wait_state($old, $id{published}, 'published');

	reload($old, 'outbox.failed_retry_interval' => '1h');
	$id{failed} = publish_one('e.failed', key => 'k');
	wait_state($old, $id{failed}, 'failed');
	$id{blocked} = publish_one('e.failed', key => 'k');
	wait_state($old, $id{blocked}, 'blocked');
	$id{expired} = publish_one('expired',
		more => q{expires_at => clock_timestamp() + interval '1 s'});
	poll_until(
		sub { query($old, q{SELECT state FROM outbox_delivery WHERE topic = 'expired'}) eq 'expired' },
		'one to be expired');
	$id{dead} = publish_one('a.dead', @made);
	wait_state($old, $id{dead}, 'dead');
	$id{scheduled} = publish_one('g.scheduled', @later);
	wait_state($old, $id{scheduled}, 'scheduled');
	$id{discarded} = publish_one('discarded', @later);
	query($old, "SELECT outbox_discard('$id{discarded}')");
	$id{hanging} = publish_one('h.hanging');
	wait_state($old, $id{hanging}, 'in_progress');
	disable($old);
	$id{pending} = publish_one('i.pending', @made);

	# by somebody who is not there where the dump is restored
	$id{bytes} = query($old, q{
		CREATE ROLE shop SUPERUSER;
		SET SESSION AUTHORIZATION shop;
		SELECT outbox_publish_bytes('j.bytes', '\x00ff27', 'image/png')});
	return %id;
}

promise 'the definitions can be dumped, as pg_upgrade does it as well' => sub {
	foreach my $option ('--schema-only', '--binary-upgrade')
	{
		$old->command_ok(
			[ 'pg_dump', '-s', $option, '-f', "$dump.sql", '-d', 'postgres' ],
			"pg_dump $option");
	}
};

promise 'where a dump is restored, the relay goes on where the other stood' =>
  sub {
	my %id = leave_events();
	is( query($old, q{
			SELECT string_agg(state || ' ' || n, ', ' ORDER BY state)
			FROM (SELECT state, count(*) n FROM outbox_events GROUP BY state) s}),
		'blocked 1, dead 1, discarded 1, expired 1, failed 1, in_progress 1, pending 2,'
		  . ' published 4, scheduled 1',
		'an event in every state');

	# Dump
	my $before = unsettled($old);
	my $highest = query($old, 'SELECT max(id) FROM outbox_event');
	$old->command_ok([ 'pg_dump', '-Fc', '-f', $dump, '-d', 'postgres' ],
		'pg_dump');
	$old->stop;
	my %sent_before =
	  map { $_->{id} => 1 } $receiver->accepted(fields => ['id']);
	is_deeply([ sort keys %sent_before ], [ sort @{ $id{published} } ],
		'the old relay has sent what it calls published');
	$receiver->reset;

	# Restore
	my $new = new_node('new', conf => { %conf, 'outbox.enabled' => 'off' });
	my @restore = ('pg_restore', '-e', '-d', 'postgres');
	$new->command_ok([ @restore, '--section=pre-data', $dump ],
		'pg_restore of the definitions');
	wait_relay_value($new, state => 'disabled');
	$new->command_ok([ @restore, '--section=data', $dump ],
		'pg_restore of the data, while a relay is there');
	(my $expected = $before) =~ s/^.*\|(?:discarded|expired)\|.*\n//mg;
	is(unsettled($new), $expected,
		'what is not settled arrives, and the dead one');
	is( query($new,
			q{SELECT count(*) FROM outbox_events WHERE state = 'published'}),
		0,
		'what is published stays behind');
	my $fresh = publish($new, 'fresh');
	is( query($new, "SELECT id FROM outbox_event WHERE event_id = '$fresh'"),
		$highest + 1,
		'ids go on');

	# The new relay
	reload($new, 'outbox.enabled' => 'on');
	wait_delivered($receiver, [ @id{ 'pending', 'bytes' }, $fresh ]);
	wait_delivered($receiver, [ $id{hanging} ]);
	query($new, "SELECT outbox_retry('$id{failed}')");
	wait_delivered($receiver, [ @id{ 'failed', 'blocked' } ]);
	poll_until(
		sub {
			unsettled($new) =~
			  /\A a\.dead \| \Q$id{dead}\E \| [^\n]* \n
			      g\.scheduled \| \Q$id{scheduled}\E \| [^\n]* \z/x;
		},
		'only the dead and the scheduled event to be left');

	my %count;
	$count{ $_->{id} }++ foreach $receiver->accepted;
	is_deeply(
		\%count,
		{
			map { $_ => 1 } $fresh,
			@id{ 'pending', 'bytes', 'hanging', 'failed', 'blocked' }
		},
		'each event is sent once, the others are not');
	my ($sent) = $receiver->accepted(id => $id{pending});
	is($sent->{type}, 'made', 'with its type');
	is($sent->{metadata}{a}, 'b', 'with its metadata');
	like($sent->{body}, qr/"data":\{"n":\s?1\.10\}/, 'with its payload');
	query($new, "SELECT outbox_retry('$id{dead}')");
	wait_delivered($receiver, [ $id{dead} ]);
	$new->stop;
  };

# pg_restore copies outbox_delivery in a transaction before that of
# outbox_event, and the relay does not wait for the second one.
promise 'rows that are restored before their events are found, in order' => sub {
	my $node = new_node('late', conf => \%conf);
	query($node, 'CREATE EXTENSION outbox');
	wait_relay($node);
	query($node, q{
		INSERT INTO outbox_delivery (id, topic, key, state, next_attempt_at)
		VALUES (1001, 'late', 'k', 'pending', NULL),
			   (1002, 'late', 'k', 'failed', now()),
			   (1003, 'late', NULL, 'pending', NULL),
			   (1004, 'late', NULL, 'failed', now()),
			   (1005, 'late', NULL, 'scheduled', now()),
			   (1006, 'late', NULL, 'in_progress', NULL)});

	# by now it has looked at them
	wait_delivered($receiver, [ publish($node, 'tick') ]) for 1 .. 2;
	poll_until(
		sub {
			query($node, q{SELECT state FROM outbox_delivery WHERE id = 1006}) ne
			  'in_progress';
		},
		'what was in progress to be taken over');
	query($node, q{
		INSERT INTO outbox_event (id, xid, topic, key, payload)
		OVERRIDING SYSTEM VALUE
		SELECT i, '3', 'late', CASE WHEN i IN (1001, 1002, 1007) THEN 'k' END,
			   to_jsonb(i)
		FROM generate_series(1001, 1007) i});
	my $ids = sub {
		return map { cloud_event($_)->{data} }
		  $receiver->accepted(topic => 'late', fields => ['body']);
	};
	poll_until(sub { $ids->() >= 7 }, 'all to be delivered');
	is_deeply([ sort $ids->() ], [ 1001 .. 1007 ], 'each of them once');
	is_deeply([ grep { /100[127]/ } $ids->() ],
		[ 1001, 1002, 1007 ], 'those of the key in order');
	$node->stop;
};

# A server with a dump, $file, of a database "from", which is gone: of an event
# that is dead, two that are to be sent, and those whose ids $more->($node)
# returns.  Returns the server and the ids.
sub dumped
{
	my ($name, $file, $more) = @_;
	my $node = new_node($name, conf => \%conf);
	query($node, 'CREATE DATABASE "from"');
	query($node, 'CREATE DATABASE "to"');
	query($node, 'CREATE EXTENSION outbox', 'from');
	$receiver->faults([ { match => { topic => "$name.dead" }, status => 413 } ]);
	my @ids = publish($node, "$name.dead", db => 'from');
	poll_until(sub { event_state($node, $ids[0], 'from') eq 'dead' },
		'the event to be dead');
	reload($node, 'outbox.enabled' => 'off');
	poll_until(sub { relay_value($node, 'state', 'from') eq 'disabled' },
		'the relay to pause');
	push @ids, publish($node, $name, db => 'from', count => 2);
	push @ids, $more->($node) if $more;
	$node->command_ok([ 'pg_dump', '-f', $file, '-d', 'from' ], 'pg_dump');
	query($node, 'DROP DATABASE "from"');
	return ($node, @ids);
}

promise 'a restore in session_replication_role = replica loses nothing' => sub {
	my ($node, @ids) = dumped('replica', "$dump.replica");
	{
		local $ENV{PGOPTIONS} = '-c session_replication_role=replica';
		$node->command_ok(
			[ 'psql', '-qX', '-v', 'ON_ERROR_STOP=1', '-f', "$dump.replica", 'to' ],
			'the restore');
	}
	is( query($node,
			'SELECT event_id, state FROM outbox_events ORDER BY created_at', 'to'),
		"$ids[0]|dead\n$ids[1]|pending\n$ids[2]|pending",
		'everything is there');
	reload($node, 'outbox.enabled' => 'on');
	wait_delivered($receiver, [ @ids[ 1, 2 ] ]);
	is_deeply([ sort map { $_->{id} } $receiver->accepted(fields => ['id']) ],
		[ sort @ids[ 1, 2 ] ], 'what is to be sent is sent, once');
	$node->stop('immediate');
	$node->start;
	like(
		check_value($node, 'events restored', 'ok, detail', 'to'),
		qr/^t\|3 undelivered events were restored at 20/,
		'outbox_check() says how many came, after a crash as well');
	$node->stop;
};

promise 'an event larger than may be published is restored, and sent' => sub {
	my ($node, undef, @ids) = dumped('large', "$dump.large", sub {
			return query($_[0], q{
				SET outbox.max_payload_size = '8MB';
				SELECT outbox_publish('large', to_jsonb(repeat('x', 2097152)))}, 'from');
		});
	$node->command_ok(
		[ 'psql', '-qX', '-v', 'ON_ERROR_STOP=1', '-f', "$dump.large", 'to' ],
		'the restore');
	reload($node, 'outbox.enabled' => 'on');
	wait_delivered($receiver, \@ids);
	my ($sent) = $receiver->accepted(id => $ids[-1]);
	is(length(cloud_event($sent)->{data}), 2097152, 'with all of its payload');
	$node->stop;
};

promise 'the owner of a database can dump it with pg_read_all_data' => sub {
	my $node = new_node('owned', conf => { %conf, 'outbox.enabled' => 'off' });
	my @dump = ('pg_dump', '-U', 'dumper', '-f', "$dump.owned", '-d', 'owned');
	query($node, 'CREATE ROLE dumper LOGIN');
	query($node, 'CREATE DATABASE owned OWNER dumper');
	query($node, 'CREATE DATABASE copy');
	query($node, 'CREATE EXTENSION outbox', 'owned');
	my $id = publish($node, 'owned', db => 'owned');
	$node->command_fails_like(\@dump, qr/permission denied for .* outbox_/,
		'without it, there is no dump that lacks the events');
	query($node, 'GRANT pg_read_all_data TO dumper');
	$node->command_ok(\@dump, 'with it, there is one');
	$node->command_ok(
		[ 'psql', '-qX', '-v', 'ON_ERROR_STOP=1', '-f', "$dump.owned", 'copy' ],
		'the restore');
	is(query($node, 'SELECT event_id FROM outbox_events', 'copy'),
		$id, 'and it has the event');
	$node->stop;
};

done_testing();
