# The unit of order: a key within its topic, or with outbox.key_scope = all the
# key across all topics.
#
# Promises:
# - With all, events of a key go one at a time and in order, whatever their
#   topics are; with topic, each topic goes at its own speed.
# - With all, a topic that is down blocks the keys whose turn it is, in every
#   topic, and no others; once it is mended they go on in order.
# - Two topics that are down do not keep each other so.
# - A dead event blocks its key in all topics until it is discarded or retried, or
#   not at all if the policy is skip.
# - A deep backlog keeps the order across topics, though the relay is killed.
# - So it does when there are more keys with rows than are remembered.
# - The setting can be changed under load, in both directions: nothing is lost or
#   sent twice, and the order is that of the setting; no topic is shown as down that
#   is not.
# - That also holds while a change cannot be written down.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;

use constant {
	TOPICS => 3,
	DEEP => 4000,       # ten times what stays in memory
	DEEP_KEYS => 10,
	BEHIND => 1500,     # keys that a topic that is down has in front of others
	LOAD => 4000,
	LOAD_KEYS => 8,
	CHANGES => 6,
	PART => 200,        # events between two changes
};

my $receiver = start_receiver(mode => 'dapr');
my $node = new_node(
	'scope',
	conf => {
		'outbox.dapr_endpoint' => $receiver->url,
		'outbox.batch_size' => 100,
		'outbox.breaker_threshold' => 5,
		'outbox.local_retry_times' => 1,
	});
query($node, 'CREATE EXTENSION outbox');

# Have a relay with this scope, whatever another promise has left.
sub set_scope
{
	my ($scope, %settings) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	reload($node, 'outbox.key_scope' => $scope, %settings);
	return restart_relay($node);
}

# Publish numbered events of topics "$name-0", "$name-1" and so on in turn, with
# keys that each have events in all of them.
sub publish_mixed
{
	my ($name, $count, $keys, $from) = @_;
	$from //= 1;
	query($node, sprintf(q{
		SELECT count(outbox_publish('%s-' || n %% %d, to_jsonb(n),
			key => '%s ' || (n / %d) %% %d))
		FROM generate_series(%d, %d) n},
		$name, TOPICS, $name, TOPICS, $keys, $from, $from + $count - 1));
	return;
}

# Publish an event with its number; the event's id
sub publish_one
{
	my ($topic, $key, $number) = @_;
	return scalar publish($node, $topic, key => $key, payload => "'$number'");
}

# What was taken: number, key, topic of each event, in order; those that came
# again are left out
sub taken
{
	my ($name, %filter) = @_;
	my %seen;
	return map { { n => cloud_event($_)->{data}, key => $_->{key}, topic => $_->{topic} } }
	  grep { !$seen{ $_->{id} }++ } $receiver->accepted(
		%filter,
		topic => qr/^\Q$name\E-/,
		fields => [qw(id key body)]);
}

# The numbers that were taken of a name's topics
sub numbers
{
	my ($name) = @_;
	return [ map { $_->{n} } taken($name) ];
}

# How many events came after a later one of their unit of order
sub misplaced
{
	my ($scope, @events) = @_;
	my %last;
	my $misplaced = 0;
	foreach my $event (@events)
	{
		my $unit = $event->{key} . ($scope eq 'all' ? '' : " $event->{topic}");
		$misplaced++ if $event->{n} < ($last{$unit} // 0);
		$last{$unit} = $event->{n};
	}
	return $misplaced;
}

sub wait_published
{
	my ($name, $timeout) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return poll_until(
		sub {
			try_query($node, 'SELECT count(*) FROM outbox_events WHERE topic LIKE '
				  . literal("$name-%") . q{ AND state <> 'published'}) eq '0';
		},
		"$name to be published", $timeout // 120);
}

sub fail_topics
{
	my (@topics) = @_;
	$receiver->faults(
		[ { match => { topic => \@topics }, component_error => 'no broker' } ]);
	return;
}

# A topic is down, and the log says so.
sub bring_down
{
	my ($topic, $offset) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	publish($node, $topic, count => 10);
	return wait_log($node, qr/topic "\Q$topic\E" is down/, $offset);
}

# --- Order

promise 'with all, a key has one order across topics' => sub {
	set_scope('all');
	$receiver->faults(
		[ { match => { topic => 'across-0' }, delay_commit => 0.02 } ]);
	publish_mixed('across', 60, 1);
	wait_published('across');
	is_deeply(numbers('across'), [ 1 .. 60 ], 'in the order of their ids');
	is($receiver->stats->{max_concurrent}, 1, 'one at a time');
};

promise 'with topic, each topic has its own' => sub {
	set_scope('topic');
	$receiver->faults([ { match => { topic => 'apart-0' }, action => 'hang' } ]);
	publish_mixed('apart', 30, 1);
	poll_until(sub { @{ numbers('apart') } == 20 }, 'two thirds of them');
	is(misplaced('topic', taken('apart')), 0, 'in order');
	$receiver->faults([]);
	wait_published('apart');
};

# --- Topics that are down

promise 'with all, a topic that is down blocks its keys in the others' => sub {
	my $offset = -s $node->logfile;
	set_scope('all');
	wait_delivered($receiver, [ publish($node, 'warm-up') ]);
	fail_topics('down-0');
	bring_down('down-0', $offset);
	publish_one('down-0', 'down', 1);
	publish_one('down-1', 'down', 2);
	publish_one('down-0', 'down', 3);
	publish_one('down-1', 'down', 4);
	wait_delivered($receiver,
		[ publish($node, 'down-1', key => 'another', count => 3, payload => 'to_jsonb(10 + n)') ]);
	is_deeply(numbers('down'), [ 11 .. 13 ], 'another key goes on');
	$receiver->faults([]);
	wait_published('down');
	is_deeply([ grep { $_->{key} && $_->{key} eq 'down' } taken('down') ],
		[ map { { n => $_, key => 'down', topic => 'down-' . ($_ + 1) % 2 } } 1 .. 4 ],
		'mended, the key goes on in order');
};

# More of them than stay in memory, so that they wait in the table, where the
# other topic's own walk comes to them as well.
promise 'and if they are many, the other goes on and their order is kept' => sub {
	my $offset = -s $node->logfile;
	set_scope('all', 'outbox.retry_batch_size' => 30);
	wait_delivered($receiver, [ publish($node, 'warm-up') ]);
	fail_topics('many-0');
	bring_down('many-0', $offset);
	publish($node, "many-$_", more => q{key => 'many ' || n}, count => BEHIND,
		payload => "to_jsonb(n + $_ * " . BEHIND . ")")
	  foreach 0, 1;
	foreach my $round (1 .. 3)
	{
		wait_delivered($receiver, [
			publish($node, 'many-1', more => "key => 'free $round ' || n", count => 50,
				payload => 'to_jsonb(n + 10 * ' . BEHIND . " + 100 * $round)"),
			publish($node, 'many-1', count => 10, payload => "to_jsonb(-100 * $round - n)"),
		]);
	}
	is(scalar(grep { ($_->{key} // '') =~ /^many/ } taken('many')), 0,
		'none of those that wait is sent');
	$receiver->faults([]);
	wait_published('many');
	my @keyed = grep { defined $_->{key} } taken('many');
	is(misplaced('all', @keyed), 0, 'then they come in order');
	is(scalar(grep { $_->{key} =~ /^many/ } @keyed), 2 * BEHIND, 'all of them');
};

# There is room for three events in memory.  One that stays there is the second
# topic's, and waits for the first topic: another one can tell whether it is well.
promise 'two topics that are down do not keep each other so' => sub {
	set_scope('all', 'outbox.batch_size' => 1);
	wait_delivered($receiver, [ publish($node, 'warm-up') ]);
	fail_topics('both-0', 'both-1');
	publish_one('both-0', 'shared', 1);
	my @own = publish_one('both-1', 'own', 1);
	publish_one('both-1', 'shared', 2);
	push @own, publish($node, 'both-1', more => q{key => 'own ' || n}, count => 10);
	wait_relay_value($node, state => 'endpoint down');
	poll_until(
		sub {
			query($node, q{SELECT count(*) FROM outbox_delivery
				WHERE topic = 'both-1' AND key LIKE 'own %' AND state = 'pending'})
			  == 10;
		},
		'the others to wait in the table');
	fail_topics('both-0');
	wait_delivered($receiver, \@own);
	$receiver->faults([]);
	wait_published('both');
	is_deeply([ map { $_->{n} } grep { $_->{key} eq 'shared' } taken('both') ],
		[ 1, 2 ], 'the one that waited comes in order');
};

# --- Dead events

promise 'with all, a dead event blocks its key in all topics' => sub {
	set_scope('all');
	$receiver->faults([ { match => { topic => 'dead-0' }, status => 413, times => 2 } ]);
	my $dead = publish_one('dead-0', 'dead', 1);
	wait_state($node, $dead, 'dead');
	my @behind = map { publish_one("dead-$_", 'dead', $_ + 1) } 1 .. 2;
	wait_state($node, \@behind, 'blocked');
	wait_delivered($receiver, [ publish_one('dead-1', 'alive', 10) ]);
	restart_relay($node);
	push @behind, publish_one('dead-1', 'dead', 4);
	wait_state($node, $behind[-1], 'blocked');
	is_deeply(numbers('dead'), [10], 'none of its key was sent');
	query($node, "SELECT outbox_discard('$dead')");
	wait_state($node, \@behind, 'published');
	is_deeply(numbers('dead'), [ 10, 2 .. 4 ], 'discarded, it lets them go in order');

	$dead = publish_one('dead-0', 'dead', 5);
	wait_state($node, $dead, 'dead');
	my $next = publish_one('dead-1', 'dead', 6);
	wait_state($node, $next, 'blocked');
	query($node, q{SELECT outbox_retry_dead('dead-0')});
	wait_published('dead-1');
	is_deeply([ @{ numbers('dead') }[ 4, 5 ] ], [ 5, 6 ], 'and so it does when it is retried');
};

promise 'or not, if they shall pass' => sub {
	set_scope('all', 'outbox.dead_key_policy' => 'skip');
	$receiver->faults([ { match => { topic => 'skip-0' }, status => 413 } ]);
	my $dead = publish_one('skip-0', 'skip', 1);
	wait_state($node, $dead, 'dead');
	my $next = publish_one('skip-1', 'skip', 2);
	wait_delivered($receiver, [$next]);
	is(event_state($node, $dead), 'dead', 'the dead one stays');
};

promise 'the view says of a row what the scope means' => sub {
	my $key = 'seen';
	set_scope('topic');
	$receiver->faults([ { match => { topic => 'view-0' }, status => 413 } ]);
	wait_state($node, publish_one('view-0', $key, 1), 'dead');
	$receiver->faults([ { match => { topic => 'view-1' }, component_error => 'no' } ]);
	reload($node,
		'outbox.failed_retry_interval' => '1h',
		'outbox.breaker_threshold' => 0);
	my @waiting = map { publish_one('view-1', $key, $_) } 2 .. 3;
	wait_state($node, $waiting[0], 'failed');
	wait_state($node, $waiting[1], 'blocked');
	my $other = publish_one('view-2', $key, 4);
	wait_delivered($receiver, [$other]);
	set_scope('all');
	wait_state($node, $waiting[1], 'blocked');
	my $last = publish_one('view-2', $key, 5);
	wait_state($node, $last, 'blocked');
	is(scalar($receiver->accepted(id => $last)), 0, 'and it is not sent');
	set_scope('topic');
	wait_delivered($receiver, [$last]);
};

# --- Backlogs

promise 'a deep backlog keeps the order across topics' => sub {
	set_scope('all', 'outbox.enabled' => 'off');
	publish_mixed('deep', DEEP, DEEP_KEYS);
	reload($node, 'outbox.enabled' => 'on');
	foreach my $part (1 .. 3)
	{
		poll_until(sub { $receiver->stats->{distinct_ids} > $part * DEEP / 5 },
			"part $part", 60);
		my $pid = wait_relay($node);
		kill 'KILL', $pid;
		wait_relay($node, not => $pid);
	}
	publish_mixed('deep', 300, DEEP_KEYS, DEEP + 1);
	wait_published('deep');
	my @taken = taken('deep');
	is(scalar(@taken), DEEP + 300, 'all arrive');
	is(misplaced('all', @taken), 0, 'in the order of their keys');
};

# The first topic is down and has a tail.  So its events become rows as they are
# read, and none of the others, which are read along with them, may pass.
promise 'more keys with rows than are remembered, and none is overtaken' => sub {
	my $offset = -s $node->logfile;
	my $keys = 2000;    # 1365 fit into this memory
	set_scope('all', 'outbox.relay_memory' => '512kB', 'outbox.batch_size' => 1000);
	wait_delivered($receiver, [ publish($node, 'warm-up') ]);
	fail_topics('room-0');
	bring_down('room-0', $offset);
	publish($node, 'room-0', more => q{key => 'first ' || n}, count => $keys);
	wait_delivered($receiver, [ publish($node, 'warm-up') ]);
	poll_until(
		sub {
			query($node, q{SELECT count(*) FROM outbox_delivery
				WHERE topic = 'room-0' AND state = 'pending'}) > $keys / 2;
		},
		'it to have a tail');
	query($node, qq{
		SELECT count(outbox_publish('room-' || i % 2, to_jsonb(i), 'room ' || i / 2))
		FROM generate_series(0, 2 * $keys - 1) i});
	my $none_passes = sub {
		my ($topic, $name) = @_;
		wait_delivered($receiver, [ publish($node, $topic, payload => q{'-1'}) ], 120);
		return is(scalar(grep { ($_->{key} // '') =~ /^room/ } taken('room')), 0, $name);
	};
	$none_passes->('room-1', 'none passes that is read along with them');
	publish($node, 'room-2', more => q{key => 'room ' || n - 1}, count => $keys,
		payload => "to_jsonb(2 * $keys + n)");
	$none_passes->('room-2', 'nor one that is read later');
	$receiver->faults([]);
	wait_published('room');
	is(misplaced('all', grep { ($_->{key} // '') =~ /^room/ } taken('room')), 0,
		'nor when the topic is mended');
};

# --- Changes

# What the relay has begun anew so far: each end in order is written down
sub nbegun
{
	return query($node, 'SELECT count(*) FROM outbox_progress WHERE clean');
}

# Wait until so many more events were taken, and return the last one's number in
# the receiver's log.
sub wait_part
{
	my ($part) = @_;
	my $wanted = $receiver->stats->{accepted} + $part;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	poll_until(sub { $receiver->stats->{accepted} >= $wanted }, "$part events");
	return $receiver->stats->{last_seq};
}

promise 'the setting is changed under load' => sub {
	set_scope('topic');
	my $pid = wait_relay($node);
	my $scope = 'topic';
	$receiver->faults([ { action => 'pass', delay_response => 0.01 } ]);
	publish_mixed('load', LOAD, LOAD_KEYS);
	foreach my $change (1 .. CHANGES)
	{
		wait_part(PART);
		my $begun = nbegun();
		$scope = $scope eq 'topic' ? 'all' : 'topic';
		reload($node, 'outbox.key_scope' => $scope);
		poll_until(sub { nbegun() > $begun }, 'the relay to follow');
		next if $scope eq 'topic';
		my $from = $receiver->stats->{last_seq};
		my $until = wait_part(PART);
		my @part = grep { $_->{n} } taken('load', since => $from,
			seq => sub { $_[0] <= $until });
		cmp_ok(scalar(@part), '>=', PART / 2, "change $change: many are sent");
		is(misplaced('all', @part), 0, "change $change: in order across topics");
	}
	cmp_ok(scalar(taken('load')), '<', LOAD, 'all that was in the middle of its work');
	wait_published('load');
	is(misplaced('topic', taken('load')), 0, 'always in order within a topic');
	is(scalar($receiver->accepted(topic => qr/^load-/, fields => ['topic'])), LOAD,
		'all arrive, once');
	is(relay_pid($node), $pid, 'in one relay');
};

promise 'a topic that was down is not shown as down for ever' => sub {
	set_scope('topic');
	$receiver->faults([ { match => { topic => 'shown' }, component_error => 'no' } ]);
	publish($node, 'shown', count => 10);
	poll_until(sub { query($node, q{SELECT state FROM outbox_topics WHERE topic = 'shown'}) eq 'down' },
		'it to be down');
	$receiver->faults([]);
	reload($node, 'outbox.key_scope' => 'all');
	wait_published('shown');
	ok( poll_until(sub { query($node, q{SELECT count(*) FROM outbox_topics WHERE topic = 'shown'}) eq '0' },
			'nothing to be shown'),
		'not when the relay began anew meanwhile');
};

promise 'a change that cannot be written down at once loses nothing' => sub {
	set_scope('topic');
	$receiver->faults([ { action => 'pass', delay_response => 0.5 } ]);
	publish_mixed('locked', 300, 100);
	poll_until(sub { $receiver->stats->{concurrent} > 10 }, 'it to be sent');
	my $locker = $node->background_psql('postgres');
	$locker->query_safe('BEGIN; LOCK TABLE outbox_delivery IN ACCESS EXCLUSIVE MODE');
	my $begun = nbegun();
	reload($node, 'outbox.key_scope' => 'all');
	my $failed = q{CASE WHEN last_error ~ 'canceling statement due to lock timeout' THEN last_error_at END};
	my $once = poll_until(sub { relay_value($node, $failed) }, 'the change to fail');
	poll_until(sub { relay_value($node, $failed) gt $once }, 'it to fail again');
	poll_until(sub { $receiver->stats->{concurrent} == 0 }, 'the last answers');
	$locker->query_safe('ROLLBACK');
	$locker->quit;
	$receiver->faults([]);
	poll_until(sub { nbegun() > $begun }, 'the relay to follow');
	wait_published('locked');
	is(scalar($receiver->accepted(topic => qr/^locked-/, fields => ['topic'])), 300,
		'all arrive, once');
};

done_testing();
