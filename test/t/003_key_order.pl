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

use JSON::PP ();
use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest qw(:DEFAULT !/^(check_value|dapr_error|event_value|fails_with|publish|publish_sql|query|restart_relay|stat_value|states|wait_states)$/);

my $receiver = start_receiver(mode => 'dapr');
my $node = new_node(
	'keys',
	conf => {
		'outbox.dapr_endpoint' => $receiver->url,
		'outbox.poll_interval' => '100ms',
		'outbox.local_retry_times' => 1,
		'outbox.local_failed_retry_interval' => '20ms',
		'outbox.failed_retry_interval' => '200ms',
		'outbox.minimum_retry_interval' => '200ms',
		'outbox.max_retry_interval' => '200ms',
		'outbox.max_retry_times' => 1000,
		'outbox.breaker_threshold' => 0,
	});
$node->safe_psql('postgres', 'CREATE EXTENSION outbox');

# Publish so many events of a key (undef: none), numbered from 1 on; the ids.
sub publish
{
	my ($topic, $key, $count) = @_;
	my $literal = defined $key ? "'$key'" : 'NULL';
	return split /\n/, $node->safe_psql('postgres', qq{
		SELECT outbox_publish('$topic', to_jsonb(n), $literal)
		FROM generate_series(1, $count) n});
}

# States of all events of a topic in the order of their ids, runs of the same
# state as "state*length".
sub states
{
	my ($topic) = @_;
	my @runs;

	foreach my $state (
		split /\n/,
		$node->safe_psql('postgres', qq{
			SELECT v.state FROM outbox_events v
			JOIN outbox_event e USING (event_id)
			WHERE e.topic = '$topic' ORDER BY e.id}))
	{
		push @runs, [ $state, 0 ] unless @runs && $runs[-1][0] eq $state;
		$runs[-1][1]++;
	}
	return join ' ', map { "$_->[0]*$_->[1]" } @runs;
}

sub wait_states
{
	my ($topic, $wanted, $name) = @_;
	my $states;
	my $reached = poll_until(
		sub { $states = states($topic); $states eq $wanted; },
		"states $wanted");
	diag("they are $states") unless $reached;
	is($states, $wanted, $name);
	return;
}

# The numbers of the events of a topic in the order in which they were taken
sub taken
{
	my ($topic) = @_;
	return map { JSON::PP->new->decode($_->{body})->{data} }
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

sub new_uuid
{
	return $node->safe_psql('postgres', 'SELECT gen_random_uuid()');
}

# SQL that acts on one event
sub operate
{
	my ($function, $id) = @_;
	$node->safe_psql('postgres', "SELECT $function('$id')");
	return;
}

#
# A failure
#

my @ids = publish('one', 'k', 5);
wait_delivered($receiver, \@ids);
is_deeply([ taken('one') ], [ 1 .. 5 ], 'without failures: in order');

my $failing = new_uuid();
fail_where({ id => $failing });
$node->safe_psql('postgres', qq{
	SELECT outbox_publish('two', '1', 'k', event_id => '$failing');
	SELECT outbox_publish('two', to_jsonb(n), 'k')
	FROM generate_series(2, 5) n});
wait_states('two', 'failed*1 blocked*4', 'the others of the key are blocked');
my @others = (publish('other key', 'l', 3), publish('no key', undef, 3));
wait_delivered($receiver, \@others);
is_deeply([ taken('other key') ], [ 1 .. 3 ], 'another key is not delayed');
is_deeply([ sort(taken('no key')) ], [ 1 .. 3 ], 'nor are events without one');
$node->safe_psql('postgres', q{SELECT outbox_publish('two', '6', 'k')});
wait_states('two', 'failed*1 blocked*5', 'a later one is blocked as well');
is_deeply([ taken('two') ], [], 'none of the key was taken');
let_pass();
wait_states('two', 'published*6', 'they go on when the first has gone through');
is_deeply([ taken('two') ], [ 1 .. 6 ], 'in order');

#
# A dead event
#

reload($node, 'outbox.max_retry_times' => 1);

# Three events of a key, of which the first dies.
sub publish_dying
{
	my ($topic) = @_;
	my $id = new_uuid();
	fail_where({ id => $id });
	$node->safe_psql('postgres', qq{
		SELECT outbox_publish('$topic', '1', '$topic', event_id => '$id');
		SELECT outbox_publish('$topic', to_jsonb(n), '$topic')
		FROM generate_series(2, 3) n});
	return $id;
}

my $dead = publish_dying('discarded');
wait_states('discarded', 'dead*1 blocked*2', 'policy block: they wait');
$node->safe_psql('postgres',
	q{SELECT outbox_publish('discarded', '4', 'discarded')});
wait_states('discarded', 'dead*1 blocked*3', 'so does a later one');
operate('outbox_discard', $dead);
wait_states('discarded', 'discarded*1 published*3', 'discarding lets them go');
is_deeply([ taken('discarded') ], [ 2 .. 4 ], 'in order');

$dead = publish_dying('retried');
wait_states('retried', 'dead*1 blocked*2', 'another dead one');
let_pass();
operate('outbox_retry', $dead);
wait_states('retried', 'published*3', 'retrying lets them go');
is_deeply([ taken('retried') ], [ 1 .. 3 ], 'all of them in order');

$dead = publish_dying('released');
wait_states('released', 'dead*1 blocked*2', 'and one more');
reload($node, 'outbox.dead_key_policy' => 'skip');
wait_states('released', 'dead*1 published*2',
	'a change of the policy to skip lets them go');
publish_dying('skipped');
wait_states('skipped', 'dead*1 published*2', 'policy skip: they pass');
is_deeply([ taken('skipped') ], [ 2, 3 ], 'in order');
reload(
	$node,
	'outbox.dead_key_policy' => undef,
	'outbox.max_retry_times' => 1000);

#
# Restarts
#

fail_where({ topic => 'restart' });
publish('restart', 'r', 20);
wait_states('restart', 'failed*1 blocked*19', 'a key that waits');
my $pid = relay_pid($node, 'postgres');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
wait_relay($node, not => $pid);
publish('restart', 'r', 5);
wait_states('restart', 'failed*1 blocked*24', 'waits across a restart');
$receiver->faults(
	[ { match => { topic => 'restart' }, skip => 10, action => 'hang' } ]);
poll_until(sub { taken('restart') >= 10 }, 'half of them');
$node->restart;
$receiver->faults([]);
wait_states('restart', 'published*25', 'goes on after another one');
is_deeply([ taken('restart') ], [ 1 .. 20, 1 .. 5 ],
	'in order, each of them once');

#
# Many waiting events
#

fail_where({ topic => 'many' });
publish('many', 'm', 600);
wait_states('many', 'failed*1 blocked*599', 'hundreds wait');
let_pass();
wait_states('many', 'published*600', 'all go on');
is_deeply([ taken('many') ], [ 1 .. 600 ], 'in order');

#
# Many keys, chance failures
#

$receiver->faults([
	{ every => 11, component_error => 'scripted' },
	{ skip => 3, every => 13, status => 503 },
	{ skip => 5, every => 17, action => 'drop_before_commit' },
	{ skip => 1, every => 7, delay_commit => 0.02 },
	{ skip => 2, every => 19, delay_response => 0.02 },
]);
$node->safe_psql('postgres', q{
	SELECT setseed(0.5);
	SELECT outbox_publish('chance', to_jsonb(n), 'key ' || trunc(random() * 40))
	FROM generate_series(1, 300) n;
	SELECT outbox_publish('chance', to_jsonb(n), 'key ' || trunc(random() * 40))
	FROM generate_series(301, 800) n});
wait_states('chance', 'published*800', 'all of many keys arrive');

my (%last, @misplaced, $refused);
foreach my $entry (
	$receiver->log(topic => 'chance', fields => [qw(key body accepted)]))
{
	my $number = JSON::PP->new->decode($entry->{body})->{data};
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

# With one key only, the receiver never sees two requests at once.
$receiver->reset;
$receiver->faults(
	[ { match => { topic => 'single' }, delay_commit => 0.005 } ]);
@ids = publish('single', 's', 40);
wait_delivered($receiver, \@ids);
is($receiver->stats->{max_concurrent}, 1, 'events of a key go one at a time');
@ids = publish('single', undef, 40);
wait_delivered($receiver, \@ids);
cmp_ok($receiver->stats->{max_concurrent}, '>', 1,
	'those without a key in parallel');
let_pass();

#
# Scheduled events
#

@ids = split /\n/, $node->safe_psql('postgres', q{
	SELECT outbox_publish('timed', to_jsonb(n), 't',
		deliver_after => clock_timestamp() + n * interval '0.3 s')
	FROM generate_series(3, 1, -1) n;
	SELECT outbox_publish('timed', '0', 't')});
wait_delivered($receiver, \@ids);
is_deeply([ taken('timed') ], [ 0 .. 3 ],
	'scheduled events of a key go when they are due and hold up no other');

# One that becomes due while its key waits takes its place in the order.
my $first = new_uuid();
fail_where({ id => $first });
@ids = split /\n/, $node->safe_psql('postgres', qq{
	SELECT outbox_publish('due', '1', 'd', event_id => '$first');
	SELECT outbox_publish('due', '2', 'd',
		deliver_after => clock_timestamp() + interval '0.5 s');
	SELECT outbox_publish('due', '3', 'd')});
wait_states('due', 'failed*1 blocked*2',
	'one that becomes due behind a failed one waits');
let_pass();
wait_delivered($receiver, \@ids);
is_deeply([ taken('due') ], [ 1 .. 3 ], 'and is delivered in its turn');

done_testing();
