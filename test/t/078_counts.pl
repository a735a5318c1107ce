# How much there is to do: outbox_topics, outbox_stats, outbox_destinations and
# outbox_check(), with few events and with more than are counted one by one.
#
# Promises:
# - With up to 10000 of a kind, the numbers are exact: they are those of the states
#   in outbox_events, for each scope of keys and policy of dead keys.
# - The same of a destination that takes some topics, by the version of its patterns
#   that counts for each event.
# - With more that was not read, the number is an estimate that says so, and a topic
#   behind another one is there.
# - So it is with more rows of outbox_delivery; a topic of few, dead or waiting, behind one
#   of many is there.
# - A window of which the most is settled is not counted, nor what is settled of it read.
# - However much there is, no more rows are read than for a sample.
# - outbox_check() says that nothing moves, also of what is behind a topic that is down.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;

use constant {
	MANY => 50000,
	READ => 100000,    # of four times as many
};

# The relay is off, so that each promise says what is there.
my $node = new_node('counts', conf => { 'outbox.enabled' => 'off' });

# A database of its own, with what is there settled
my $ndatabases = 0;

sub new_database
{
	my $db = 'counts' . $ndatabases++;
	query($node, "CREATE DATABASE $db");
	query($node, 'CREATE EXTENSION outbox', $db);
	return $db;
}

# The position passes what is there.
sub pass_all
{
	my ($db) = @_;
	query($node, 'UPDATE outbox_progress SET lo = s, hi = s, last_id = 0 FROM pg_current_snapshot() s', $db);
	return;
}

# How many rows of events and of what is said of them a statement reads
sub rows_read
{
	my ($db, $what) = @_;
	my $read = query($node, qq{
		SELECT count(*) > 0 FROM $what;
		SELECT sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0))
		FROM pg_stat_xact_all_tables WHERE relname IN ('outbox_event', 'outbox_delivery')}, $db);
	return $read =~ s/^.*\n//r;
}

# Topics as the states in outbox_events have them, in the columns of outbox_topics, where
# what is due is pending before the relay takes it
my $by_state = q{
	SELECT destination, topic,
		count(*) FILTER (WHERE state IN ('pending', 'blocked', 'in_progress', 'failed')
			OR (state = 'scheduled' AND next_attempt_at <= now())) AS pending,
		count(*) FILTER (WHERE state = 'scheduled' AND next_attempt_at > now()) AS scheduled,
		count(*) FILTER (WHERE state = 'failed') AS failed,
		count(*) FILTER (WHERE state = 'blocked') AS blocked,
		count(*) FILTER (WHERE state = 'dead') AS dead, true AS exact
	FROM outbox_events
	WHERE state NOT IN ('published', 'discarded', 'expired', 'unrouted')
	GROUP BY destination, topic};
my $columns = 'destination, topic, pending, scheduled, failed, blocked, dead, exact';

# 4000 events of 7 topics and 50 keys; what the first were is settled, or has a row.
sub mix
{
	my ($db, $destination) = @_;
	query($node, qq{
		INSERT INTO outbox_event (topic, payload, key, deliver_after)
		SELECT 'topic' || n % 7, '1', nullif('k' || n * 31 % 50, 'k7'),
			CASE WHEN n % 11 = 0 THEN now() + '1 day'::interval * (n % 3 - 1) END
		FROM generate_series(1, 2000) n;
		INSERT INTO outbox_delivery (destination, id, topic, key, state, next_attempt_at)
		SELECT $destination, id, topic, key, s.state,
			CASE WHEN s.state IN ('failed', 'scheduled') THEN now() + '1 day'::interval * s.days END
		FROM outbox_event e, LATERAL (SELECT (ARRAY['scheduled', 'pending', 'pending', 'in_progress',
			'published', 'failed', 'dead', 'discarded', 'expired'])[hashint8(id)::bigint % 9 + 1] AS state,
			hashint8(id) % 3 AS days) s
		WHERE hashint8(id) % 2 = 0 AND s.state IS NOT NULL
		AND (s.state = 'scheduled') = (s.state = 'scheduled' AND e.deliver_after IS NOT NULL)}, $db);
	pass_all($db);
	query($node, q{
		INSERT INTO outbox_event (topic, payload, key, deliver_after)
		SELECT 'topic' || n % 7, '1', 'k' || n % 50,
			CASE WHEN n % 11 = 0 THEN now() + '1 day'::interval * (n % 3 - 1) END
		FROM generate_series(1, 2000) n}, $db);
	return;
}

sub same_as_states
{
	my ($db, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is( query($node, "
		(SELECT 'counted', $columns FROM outbox_topics EXCEPT SELECT 'counted', $columns FROM ($by_state) s)
		UNION ALL
		(SELECT 'states', $columns FROM ($by_state) s EXCEPT SELECT 'states', $columns FROM outbox_topics)", $db),
		'', $name);
}

promise 'up to 10000 of a kind are counted as outbox_events shows them' => sub {
	my $db = new_database();
	mix($db, 0);
	foreach my $scope (qw(topic all))
	{
		foreach my $policy (qw(block skip))
		{
			reload($node, 'outbox.key_scope' => $scope, 'outbox.dead_key_policy' => $policy);
			same_as_states($db, "scope $scope, policy $policy");
		}
	}
	is( query($node, q{
			SELECT count(*) FROM outbox_stats s, (SELECT sum(pending), sum(scheduled), sum(failed), sum(blocked), sum(dead), min(oldest)
				FROM outbox_topics) t(p, s, f, b, d, o)
			WHERE (backlog, scheduled, failed, blocked, dead, oldest_unsettled_at, backlog_exact) = (p, s, f, b, d, o, true)
			AND least(p, s, f, b, d) > 0}, $db),
		1, 'outbox_stats has the sums, of which none is 0');
};

promise 'a destination counts what its patterns match' => sub {
	my $db = new_database();
	query($node, q{SELECT outbox_add_destination('some', '{topic1, topic2}')}, $db);
	mix($db, 1);
	same_as_states($db, 'by the first version');
	query($node, q{
		SELECT outbox_alter_destination('some', '{topic3}');
		UPDATE outbox_filter SET since = pg_current_snapshot() WHERE since IS NULL}, $db);
	mix($db, 0);
	query($node, q{UPDATE outbox_progress SET lo = '3:3:', hi = '3:3:' WHERE destination = 1}, $db);
	same_as_states($db, 'by the first and the second');
};

promise 'what is not read is estimated, topic by topic' => sub {
	my $db = new_database();
	pass_all($db);
	query($node, q{
		INSERT INTO outbox_event (topic, payload) SELECT 'in front', '1' FROM generate_series(1, 20000);
		INSERT INTO outbox_event (topic, payload) SELECT 'behind', '1' FROM generate_series(1, 10000)}, $db);
	is( query($node, q{SELECT topic, pending BETWEEN 0.8 * n AND 1.2 * n, exact
			FROM outbox_topics JOIN (VALUES ('in front', 20000), ('behind', 10000)) v(topic, n) USING (topic)
			ORDER BY topic}, $db),
		"behind|t|f\nin front|t|f", 'both topics are there');
	is( query($node, q{SELECT backlog BETWEEN 27000 AND 33000, backlog_exact FROM outbox_stats}, $db),
		't|f', 'and their sum');
	query($node, q{DELETE FROM outbox_event WHERE topic = 'behind' OR id % 2 = 0;
		DELETE FROM outbox_request}, $db);
	is(query($node, q{SELECT backlog, backlog_exact FROM outbox_stats}, $db),
		'10000|t', '10000 are counted');
};

# A database with MANY rows in each of three states, of one topic, and some of others
my $large;

sub large_database
{
	return $large if $large;
	$large = new_database();
	query($node, q{
		INSERT INTO outbox_event (topic, payload, key)
		SELECT 'm', '1', 'k' || n % 10 FROM generate_series(1, } . 3 * MANY . q{) n;
		INSERT INTO outbox_delivery (id, topic, key, state, next_attempt_at)
		SELECT id, topic, key, (ARRAY['pending', 'dead', 'scheduled'])[id % 3 + 1],
			CASE id % 3 WHEN 2 THEN now() + interval '1 day' END
		FROM outbox_event;
		INSERT INTO outbox_event (topic, payload) SELECT 'z' || n % 2, '1' FROM generate_series(1, 20) n;
		INSERT INTO outbox_delivery (id, topic, state)
		SELECT id, topic, CASE topic WHEN 'z0' THEN 'dead' ELSE 'pending' END FROM outbox_event WHERE topic <> 'm'}, $large);
	pass_all($large);
	return $large;
}

promise 'more rows are estimated, and no topic behind them is lost' => sub {
	my $db = large_database();
	my $near = join ', ', map { "$_ BETWEEN 0.8 * " . MANY . " AND 1.2 * " . MANY } qw(pending scheduled dead blocked);
	is(query($node, "SELECT $near, exact FROM outbox_topics WHERE topic = 'm'", $db),
		't|t|t|t|f', 'a topic of many');
	is(query($node, q{SELECT topic, pending, dead FROM outbox_topics WHERE topic <> 'm' ORDER BY topic}, $db),
		"z0|0|10\nz1|10|0", 'topics of few');
	is(query($node, q{SELECT backlog_exact FROM outbox_stats}, $db), 'f', 'outbox_stats says so');
	is( query($node, q{BEGIN;
			DELETE FROM outbox_delivery WHERE state = 'pending' AND id % 7 > 0;
			SELECT backlog = (SELECT count(*) FROM outbox_delivery WHERE state = 'pending'), backlog_exact
			FROM outbox_stats; ROLLBACK}, $db),
		't|t', 'the backlog is exact whatever else there is');
};

promise 'what is settled of a window is not counted' => sub {
	my $db = new_database();
	query($node, q{BEGIN; SELECT outbox_publish('late', '1'); PREPARE TRANSACTION 'late'}, $db);
	query($node, q{UPDATE outbox_progress SET lo = s FROM pg_current_snapshot() s;
		SELECT outbox_publish('window', '1') FROM generate_series(1, } . MANY . q{)}, $db);
	query($node, q{COMMIT PREPARED 'late'}, $db);
	query($node, q{UPDATE outbox_progress SET hi = s, last_id = (SELECT max(id) - 7 FROM outbox_event)
		FROM pg_current_snapshot() s;
		SELECT outbox_publish('new', '1')}, $db);
	is(query($node, q{SELECT topic, pending, exact FROM outbox_topics ORDER BY topic}, $db),
		"new|1|t\nwindow|7|t", 'but the rest, and what is new');
	cmp_ok(rows_read($db, 'outbox_stats'), '<', 100, 'nor is it read');
	query($node, q{UPDATE outbox_progress SET open = ARRAY(SELECT min(id) FROM outbox_event)}, $db);
	is(query($node, q{SELECT topic, pending FROM outbox_topics WHERE topic = 'late'}, $db),
		'late|1', 'what is open is');
	query($node, q{UPDATE outbox_progress SET open = NULL, last_id = 0}, $db);
	is(query($node, q{SELECT topic, pending FROM outbox_topics WHERE topic = 'late'}, $db),
		'late|1', 'and what committed late');
};

promise 'few rows are read, however much there is' => sub {
	my $db = large_database();
	query($node, q{SELECT outbox_publish('new', '1') FROM generate_series(1, } . MANY . q{)}, $db);
	foreach my $look ('outbox_stats', 'outbox_topics', 'outbox_destinations', 'outbox_check()')
	{
		cmp_ok(rows_read($db, $look), '<', READ, $look);
		query($node, 'ANALYZE', $db);
		cmp_ok(rows_read($db, $look), '<', READ, "$look, analyzed");
	}
};

promise 'outbox_check() says what could be sent' => sub {
	my $db = new_database();
	my $moves = sub { check_value($node, 'backlog moving', 'ok', $db) };
	query($node, q{SELECT outbox_publish('a', '1', key => 'k') FROM generate_series(1, 3)}, $db);
	is($moves->(), 't', 'not yet');
	query($node, q{
		ALTER TABLE outbox_event DISABLE TRIGGER outbox_event_update;
		UPDATE outbox_event SET created_at = created_at - interval '1 hour'}, $db);
	is($moves->(), 'f', 'what is not read');
	query($node, q{INSERT INTO outbox_delivery (id, topic, key, state, updated_at)
		SELECT id, topic, key, 'pending', now() - interval '1 hour' FROM outbox_event}, $db);
	pass_all($db);
	is($moves->(), 'f', 'a row that waits for nothing');
	query($node, q{UPDATE outbox_delivery SET state = 'failed', next_attempt_at = now()
		WHERE id = (SELECT min(id) FROM outbox_delivery)}, $db);
	is($moves->(), 't', 'not what waits for another of its key');
};

done_testing();
