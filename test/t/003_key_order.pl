# Events of one key are delivered in order, one at a time.
#
# Promises:
# - While an event of a key fails, the later ones of this key wait (blocked);
#   those of other keys and without a key are not delayed.
# - Behind a dead event the later ones wait for an operator, who retries or
#   discards it; with outbox.dead_key_policy = skip they pass.
# - The order holds across restarts of the relay, across chance failures of
#   many keys at a time, and for hundreds of events that had to wait.
# - Scheduled events of a key are delivered when they are due.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;

my $receiver = start_receiver(mode => 'dapr');
my $node = new_node(
	'keys',
	conf => {
		'outbox.dapr_endpoint' => $receiver->url,
		'outbox.local_retry_times' => 1,
		'outbox.local_failed_retry_interval' => '20ms',
		'outbox.failed_retry_interval' => '200ms',
		'outbox.minimum_retry_interval' => '200ms',
		'outbox.max_retry_interval' => '200ms',
		'outbox.max_retry_times' => 1000,
		'outbox.breaker_threshold' => 0,
	});
query($node, 'CREATE EXTENSION outbox');

# The numbers of the events of a topic in the order in which they were taken
sub taken
{
	my ($topic) = @_;
	return map { cloud_event($_)->{data} }
	  $receiver->accepted(topic => $topic, fields => ['body']);
}

# Every try of an event that meets the condition fails.
sub fail_where
{
	my ($condition) = @_;
	$receiver->faults(
		[ { match => $condition, component_error => 'scripted' } ]);
	return;
}

sub let_pass
{
	$receiver->faults([]);
	return;
}

# Publish events of a key, numbered from 1 on, and have all tries of the first
# one fail; its id.
sub publish_failing
{
	my ($topic, $key, $count) = @_;
	my $id = query($node, 'SELECT gen_random_uuid()');
	fail_where({ id => $id });
	publish($node, $topic, key => $key, more => "event_id => '$id'");
	publish($node, $topic,
		key => $key,
		payload => 'to_jsonb(n + 1)',
		count => $count - 1);
	return $id;
}

# --- A failure

promise 'without failures events of a key arrive in order' => sub {
	wait_delivered($receiver, [ publish($node, 'one', key => 'one', count => 5) ]);
	is_deeply([ taken('one') ], [ 1 .. 5 ], 'without failures: in order');
};

promise 'while an event fails, the others of its key wait, and only they' => sub {
	publish_failing('two', 'two', 5);
	wait_states($node, 'two', 'failed*1 blocked*4',
		'the others of the key are blocked');
	wait_delivered($receiver,
		[
			publish($node, 'other key', key => 'other', count => 3),
			publish($node, 'no key', count => 3)
		]);
	is_deeply([ taken('other key') ], [ 1 .. 3 ], 'another key is not delayed');
	is_deeply([ sort(taken('no key')) ], [ 1 .. 3 ], 'nor are events without one');
	publish($node, 'two', key => 'two', payload => q{'6'});
	wait_states($node, 'two', 'failed*1 blocked*5',
		'a later one is blocked as well');
	is_deeply([ taken('two') ], [], 'none of the key was taken');
	let_pass();
	wait_states($node, 'two', 'published*6',
		'they go on when the first has gone through');
	is_deeply([ taken('two') ], [ 1 .. 6 ], 'in order');
};

# --- A dead event

promise 'behind a dead event they wait until it is discarded' => sub {
	reload($node, 'outbox.max_retry_times' => 1);
	my $dead = publish_failing('discarded', 'discarded', 3);
	wait_states($node, 'discarded', 'dead*1 blocked*2', 'policy block: they wait');
	publish($node, 'discarded', key => 'discarded', payload => q{'4'});
	wait_states($node, 'discarded', 'dead*1 blocked*3', 'so does a later one');
	query($node, "SELECT outbox_discard('$dead')");
	wait_states($node, 'discarded', 'discarded*1 published*3',
		'discarding lets them go');
	is_deeply([ taken('discarded') ], [ 2 .. 4 ], 'in order');
};

promise 'or until it is retried' => sub {
	reload($node, 'outbox.max_retry_times' => 1);
	my $dead = publish_failing('retried', 'retried', 3);
	wait_states($node, 'retried', 'dead*1 blocked*2', 'another dead one');
	let_pass();
	query($node, "SELECT outbox_retry('$dead')");
	wait_states($node, 'retried', 'published*3', 'retrying lets them go');
	is_deeply([ taken('retried') ], [ 1 .. 3 ], 'all of them in order');
};

promise 'with outbox.dead_key_policy = skip they pass' => sub {
	reload($node, 'outbox.max_retry_times' => 1);
	publish_failing('released', 'released', 3);
	wait_states($node, 'released', 'dead*1 blocked*2', 'and one more');
	reload($node, 'outbox.dead_key_policy' => 'skip');
	wait_states($node, 'released', 'dead*1 published*2',
		'a change of the policy to skip lets them go');
	publish_failing('skipped', 'skipped', 3);
	wait_states($node, 'skipped', 'dead*1 published*2', 'policy skip: they pass');
	is_deeply([ taken('skipped') ], [ 2, 3 ], 'in order');
};

# --- Restarts, and many events

promise 'the order holds across restarts' => sub {
	fail_where({ topic => 'restart' });
	publish($node, 'restart', key => 'restart', count => 20);
	wait_states($node, 'restart', 'failed*1 blocked*19', 'a key that waits');
	restart_relay($node);
	publish($node, 'restart', key => 'restart', count => 5);
	wait_states($node, 'restart', 'failed*1 blocked*24', 'waits across a restart');
	$receiver->faults(
		[ { match => { topic => 'restart' }, skip => 10, action => 'hang' } ]);
	poll_until(sub { taken('restart') >= 10 }, 'half of them');
	$node->restart;
	$receiver->faults([]);
	wait_states($node, 'restart', 'published*25', 'goes on after another one');
	is_deeply([ taken('restart') ], [ 1 .. 20, 1 .. 5 ],
		'in order, each of them once');
};

promise 'the order holds for hundreds that had to wait' => sub {
	fail_where({ topic => 'many' });
	publish($node, 'many', key => 'many', count => 600);
	wait_states($node, 'many', 'failed*1 blocked*599', 'hundreds wait');
	let_pass();
	wait_states($node, 'many', 'published*600', 'all go on');
	is_deeply([ taken('many') ], [ 1 .. 600 ], 'in order');
};

promise 'the order of many keys holds across chance failures' => sub {
	$receiver->faults([
		{ every => 11, component_error => 'scripted' },
		{ skip => 3, every => 13, status => 503 },
		{ skip => 5, every => 17, action => 'drop_before_commit' },
		{ skip => 1, every => 7, delay_commit => 0.02 },
		{ skip => 2, every => 19, delay_response => 0.02 },
	]);
	query($node, q{
		SELECT setseed(0.5);
		SELECT outbox_publish('chance', to_jsonb(n), 'key ' || trunc(random() * 40))
		FROM generate_series(1, 300) n;
		SELECT outbox_publish('chance', to_jsonb(n), 'key ' || trunc(random() * 40))
		FROM generate_series(301, 800) n});
	wait_states($node, 'chance', 'published*800', 'all of many keys arrive');

	my (%last, @misplaced, $refused);
	foreach my $entry (
		$receiver->log(topic => 'chance', fields => [qw(key body accepted)]))
	{
		my $number = cloud_event($entry)->{data};
		my $key = $entry->{key};

		my ($before, $was_accepted) = @{ $last{$key} // [ 0, 1 ] };

		# Until a number is accepted, it has to be the one that comes again.
		push @misplaced, "$key: $number after $before"
		  if $was_accepted ? $number <= $before : $number != $before;
		$refused++ unless $entry->{accepted};
		$last{$key} = [ $number, $entry->{accepted} ];
	}
	is_deeply(\@misplaced, [],
		'of each key one after the other, none before its turn, none twice');
	cmp_ok($refused, '>', 50, 'although many tries failed');
	is(scalar(keys %last), 40, 'with 40 keys');
};

promise 'the receiver never sees two requests of a key at once' => sub {
	$receiver->faults(
		[ { match => { topic => 'single' }, delay_commit => 0.005 } ]);
	wait_delivered($receiver,
		[ publish($node, 'single', key => 'single', count => 40) ]);
	is($receiver->stats->{max_concurrent}, 1, 'events of a key go one at a time');
	wait_delivered($receiver, [ publish($node, 'single', count => 40) ]);
	cmp_ok($receiver->stats->{max_concurrent}, '>', 1,
		'those without a key in parallel');
};

# --- Scheduled events

promise 'scheduled events of a key go when they are due' => sub {
	my @ids = (
		publish($node, 'timed',
			key => 'timed',
			payload => 'to_jsonb(4 - n)',
			count => 3,
			more => q{deliver_after => clock_timestamp() + (4 - n) * interval '0.3 s'}),
		publish($node, 'timed', key => 'timed', payload => q{'0'}));
	wait_delivered($receiver, \@ids);
	is_deeply([ taken('timed') ], [ 0 .. 3 ],
		'scheduled events of a key go when they are due and hold up no other');
};

promise 'one that becomes due while its key waits takes its turn' => sub {
	my $first = publish_failing('due', 'due', 1);
	my @ids = publish($node, 'due',
		key => 'due',
		payload => 'to_jsonb(n + 1)',
		count => 2,
		more => q{deliver_after =>
			CASE n WHEN 1 THEN clock_timestamp() + interval '0.5 s' END});
	wait_states($node, 'due', 'failed*1 blocked*2',
		'one that becomes due behind a failed one waits');
	let_pass();
	wait_delivered($receiver, [ $first, @ids ]);
	is_deeply([ taken('due') ], [ 1 .. 3 ], 'and is delivered in its turn');
};

done_testing();
