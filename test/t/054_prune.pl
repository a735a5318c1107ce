# Promise: what was published longer ago than outbox.published_expire_time is
# deleted, all of it, whenever its transaction committed; what is not settled,
# and what is dead, never is.
#
# It reads no more than that takes, whatever the planner knew of the tables.
#
# And rows that cannot be deleted hold up neither the others nor delivery, and
# outbox_check() says so.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use lib 'test/lib';
use OutboxTest;

my $receiver = start_receiver(mode => 'dapr');
my $node = new_node(
	'prune',
	conf => {
		'outbox.dapr_endpoint' => $receiver->url,
		'outbox.local_retry_times' => 0,
		'outbox.failed_retry_interval' => '50ms',
		'outbox.cleaning_expire_interval' => '100ms',
		'outbox.delete_batch_count' => 100,
		'outbox.published_expire_time' => '1h',
	});
query($node, 'CREATE EXTENSION outbox');

# How many events there are of each of these topics
sub kept
{
	my (@topics) = @_;
	my $list = join ', ', map { literal($_) } @topics;
	return {
		map { split /\|/ } split /\n/,
		query($node, "SELECT topic, count(*) FROM outbox_events
			WHERE topic IN ($list) GROUP BY 1")
	};
}

# Wait until no event of these topics is there.
sub wait_pruned
{
	my (@topics) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return poll_until(sub { !%{ kept(@topics) } },
		join(', ', @topics) . ' to go');
}

# Events that are never deleted; how many there are of each topic.  One is
# blocked behind the failed one.
sub leave_unsettled
{
	my ($name) = @_;
	my ($dead, $failed, $scheduled) =
	  map { "$name $_" } qw(dead failed scheduled);

	$receiver->faults([
		{ match => { topic => "$name again" }, component_error => 'x', times => 1 },
		{ match => { topic => $failed }, component_error => 'x' },
		{ match => { topic => $dead }, status => 413 }
	]);
	wait_state($node, scalar publish($node, $dead), 'dead');
	reload($node, 'outbox.failed_retry_interval' => '1h');
	wait_state($node, scalar publish($node, $failed, key => $name), 'failed');
	wait_state($node, scalar publish($node, $failed, key => $name), 'blocked');
	publish($node, $scheduled, more => q{deliver_after => now() + '1 hour'});
	reload($node, 'outbox.failed_retry_interval' => '50ms');
	return ($dead => 1, $failed => 2, $scheduled => 1);
}

# An old transaction commits after everything else.
promise 'what was published long ago is deleted, all of it and nothing else' =>
  sub {
	my $pruned = stat_value($node, 'pruned');
	my $late = $node->background_psql('postgres');
	$late->query_safe('BEGIN');
	my @ids = split /\n/, $late->query_safe(publish_sql('late', count => 150));
	my %unsettled = leave_unsettled('old');
	push @ids, publish($node, 'many', count => 1000), publish($node, 'old again');
	my $discarded =
	  publish($node, 'discarded', more => q{deliver_after => now() + '1 hour'});
	query($node, "SELECT outbox_discard('$discarded')");
	$late->query_safe('COMMIT');
	$late->quit;
	wait_delivered($receiver, \@ids);
	my $published = q{FROM outbox_events WHERE state = 'published'
		AND topic IN ('late', 'many', 'old again')};
	poll_until(sub { query($node, "SELECT count(*) $published") == 1151 },
		'everything to be published');
	is( query($node, "SELECT count(*) $published
			AND published_at BETWEEN created_at AND clock_timestamp()"),
		1151,
		'published_at tells when');
	is(stat_value($node, 'pruned') - $pruned, 0, 'nothing is pruned yet');

	reload($node, 'outbox.published_expire_time' => '1s');
	wait_pruned('many', 'late');
	wait_pruned('old again', 'discarded');
	is_deeply(
		kept(keys %unsettled),
		\%unsettled,
		'what is not settled stays, and so does what is dead');
	is( query($node, q{
			SELECT count(*) FROM outbox_delivery d
			WHERE NOT EXISTS (SELECT 1 FROM outbox_event e WHERE e.id = d.id)}),
		0,
		'no row is left of those that went');
	poll_until(sub { stat_value($node, 'pruned') - $pruned >= 1152 },
		'outbox_stats to count them');
	is(stat_value($node, 'pruned') - $pruned, 1152, 'outbox_stats counts them');
  };

promise 'nothing is deleted before it is old enough' => sub {
	my @young = publish($node, 'young', count => 50);
	wait_delivered($receiver, \@young);
	wait_state($node, $young[-1], 'published');
	reload($node, 'outbox.published_expire_time' => '2s');
	my $youngest = query($node, q{
		SELECT extract(epoch FROM max(published_at)) FROM outbox_events
		WHERE topic = 'young'});
	wait_pruned('young');
	cmp_ok(
		query($node, 'SELECT extract(epoch FROM clock_timestamp())') - $youngest,
		'>=', 2, 'not before their time');
};

promise 'what waited for longer than it would be kept is deleted as well' => sub {
	reload($node, 'outbox.published_expire_time' => '1s');
	$receiver->faults([ { match => { topic => 'waited' }, status => 413, times => 1 } ]);
	my $dead = publish($node, 'waited', key => 'k');
	wait_state($node, $dead, 'dead');
	my @blocked = publish($node, 'waited', key => 'k', count => 20);
	wait_state($node, \@blocked, 'blocked');
	wait_delivered($receiver, [ publish($node, 'passing') ]);
	wait_pruned('passing');
	is_deeply(kept('waited'), { waited => 21 }, 'they stay while they wait');

	query($node, "SELECT outbox_discard('$dead')");
	wait_delivered($receiver, \@blocked);
	wait_pruned('waited');
};

# One row a checkpoint would be many: the log of positions is thinned to one a
# second, long before its rows expire.
promise 'the log of positions is thinned' => sub {
	foreach my $n (1 .. 50)
	{
		wait_state($node, scalar publish($node, 'progress'), 'published');
	}
	poll_until(
		sub {
			query($node, q{
				SELECT count(*) <= count(DISTINCT date_trunc('second', at)) + 1
				FROM outbox_progress}) eq 't';
		},
		'outbox_progress to be thinned');
	cmp_ok(query($node, 'SELECT count(*) FROM outbox_progress'),
		'>=', 1, 'there is always a newest position');
};

promise 'the table does not grow when as many come as go' => sub {
	my %unsettled = leave_unsettled('rest');
	reload(
		$node,
		'outbox.published_expire_time' => '0',
		'outbox.delete_batch_count' => 1000);
	my $n = 0;
	poll_until(
		sub {
			publish($node, 'rate', count => 200);
			$n += 200;
			return $n >= 4000
			  && query($node, 'SELECT count(*) FROM outbox_event') < $n / 2;
		},
		'the table to be smaller than half of what was published',
		60);
	wait_pruned('rate');
	is_deeply(
		kept(keys %unsettled),
		\%unsettled,
		'the rest is still there');
};

promise 'what is noted of a restore goes when a published event would' => sub {
	# which wants to know of each row that goes which one it was
	query($node, 'CREATE PUBLICATION p FOR ALL TABLES');
	query($node,
		q{INSERT INTO outbox_event (topic, payload, xid) VALUES ('restored', '1', '3')});
	like(check_value($node, 'events restored', 'detail'),
		qr/^1 undelivered events/, 'it is noted');
	reload($node, 'outbox.published_expire_time' => '0');
	wait_pruned('restored');
	poll_until(
		sub { check_value($node, 'events restored', 'ok, detail') eq 't|none lately' },
		'the note to go');
	query($node, 'DROP PUBLICATION p');
};

# The plans are made for tables that a VACUUM found empty, and kept.
promise 'what it reads does not depend on what the planner knew' => sub {
	query($node, 'CREATE DATABASE planned');
	query($node, 'CREATE EXTENSION outbox', 'planned');
	my $publish = sub {
		my ($topic, $count, $more) = @_;
		return query($node, publish_sql($topic, count => $count, more => $more), 'planned');
	};
	my $wait_left = sub {
		my ($count) = @_;
		return poll_until(
			sub {
				query($node, q{SELECT count(*) FROM outbox_event
					WHERE topic = 'planned'}, 'planned') == $count;
			},
			"$count events to be left");
	};
	reload($node, 'outbox.published_expire_time' => '0', autovacuum => 'off');
	$publish->('planned', 1);
	$wait_left->(0);
	query($node, 'VACUUM outbox_event, outbox_delivery, outbox_progress', 'planned');
	$publish->('planned', 1);
	$wait_left->(0);

	my $late = $node->background_psql('planned');
	$late->query_safe('BEGIN');
	$late->query_safe(publish_sql('planned', count => 500));
	$publish->('scheduled', 3000, q{deliver_after => now() + '1 hour'});
	$publish->('planned', 1500);
	$wait_left->(0);
	$late->query_safe('COMMIT');
	$late->quit;
	$wait_left->(0);
	restart_relay($node, 'planned');    # it reports what it has read
	cmp_ok(
		query($node, q{SELECT sum(idx_tup_read) FROM pg_stat_user_indexes}, 'planned'),
		'<', 50_000, 'each row is read a few times');
	query($node, 'DROP DATABASE planned');
};

promise 'a relay that has an hour to wait follows a reload' => sub {
	reload(
		$node,
		'outbox.published_expire_time' => '0',
		'outbox.cleaning_expire_interval' => '1h');
	restart_relay($node);
	wait_state($node, scalar publish($node, 'patient'), 'published');
	reload($node, 'outbox.cleaning_expire_interval' => '100ms');
	wait_pruned('patient');
	pass('a shorter interval is followed at once');
};

unlike(slurp_file($node->logfile), qr/ERROR/, 'the log has no error');

# An application's table refers to events of each kind: of a transaction that
# ended late, of others, and one with a row of its own.
promise 'rows that resist hold up nothing else' => sub {
	query($node, q{CREATE TABLE reference (id bigint REFERENCES outbox_event)});
	my $late = $node->background_psql('postgres');
	$late->query_safe('BEGIN');
	my @late = split /\n/, $late->query_safe(publish_sql('held late', count => 150));
	my @walked = publish($node, 'held', count => 250);
	my $discarded =
	  publish($node, 'held discarded', more => q{deliver_after => now() + '1 hour'});
	my $held = publish($node, 'held row', more => q{deliver_after => now() + '1 hour'});
	query($node, "SELECT outbox_discard('$discarded'), outbox_discard('$held')");
	wait_state($node, \@walked, 'published');
	foreach my $id (@walked[ 0, 120 ], $held)
	{
		query($node, qq{INSERT INTO reference
			SELECT id FROM outbox_event WHERE event_id = '$id'});
	}
	reload($node, 'outbox.published_expire_time' => '1s');
	poll_until(sub { kept('held')->{held} == 2 }, 'the others to go');
	$late->query_safe(qq{INSERT INTO reference
		SELECT id FROM outbox_event WHERE event_id = '$late[100]'});
	$late->query_safe('COMMIT');
	$late->quit;
	wait_pruned('held discarded');
	reload($node, 'outbox.delete_batch_count' => 99);    # prunes at once
	poll_until(sub { (kept('held late')->{'held late'} // 0) == 1 },
		'those that came late to go');
	like(
		check_value($node, 'pruning works', 'ok, detail'),
		qr/^f\|\d+ rows cannot be deleted: .*violates foreign key constraint/,
		'outbox_check() says so');
	is_deeply(
		kept('held', 'held late', 'held row'),
		{ held => 2, 'held late' => 1, 'held row' => 1 },
		'those that are held stay');
	poll_until(
		sub {
			query($node, q{
				SELECT count(*) <= count(DISTINCT date_trunc('second', at)) + 1
				FROM outbox_progress WHERE at < now() - interval '1 second'}) eq 't';
		},
		'positions to be thinned');
	is(relay_value($node, 'last_error'), '', 'delivery knows of nothing');

	query($node, 'DROP TABLE reference');
	reload($node, 'outbox.delete_batch_count' => 98);
	wait_pruned('held', 'held late', 'held row');
	poll_until(sub { check_value($node, 'pruning works', 'ok') eq 't' },
		'all to be well');
};

promise 'a prune that fails does not have delivery pause' => sub {
	query($node, q{
		CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
			$$ BEGIN RAISE EXCEPTION 'not these'; END $$;
		CREATE TRIGGER refuse BEFORE DELETE ON outbox_event
			FOR EACH STATEMENT EXECUTE FUNCTION refuse()});
	reload($node, 'outbox.published_expire_time' => '0');
	my $start = time;
	foreach my $n (1 .. 30)
	{
		wait_state($node, scalar publish($node, 'meanwhile'), 'published');
		reload($node, 'outbox.delete_batch_count' => 100 + $n);
	}
	cmp_ok(time - $start, '<', 15, 'it goes on');
	poll_until(
		sub {
			check_value($node, 'pruning works', 'ok, detail') =~
			  /^f\|\d+ rows cannot be deleted: not these/;
		},
		'outbox_check() to say so');
	query($node, 'DROP FUNCTION refuse CASCADE');
};
$node->stop;
done_testing();
