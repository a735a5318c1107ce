# outbox.abandon_after: what a destination has not delivered for so long is given up.
#
# Promises:
# - It expires for that destination alone, and says why, wherever it waits: failed,
#   behind others of its key, in a topic that is down, in memory, for its time that has
#   come, or unread.  outbox_stats counts it, and its key is free.
# - It does so while the destination is paused, down, not configured, or has no relay.
# - The position goes on then, so that what others have settled is pruned, and so is what
#   was never for this destination; what comes later is delivered, once it can be.
# - What cannot be read is dead, and the others expire.
# - What is dead, is not due, or was sent again by somebody is left alone; what is in flight
#   counts by its answer.
# - Without the setting nothing expires; one destination may have one of its own.
# - A warning says how many, once a minute for each destination.
#
# Time is let pass; only rounds come often.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;
use OutboxTest::Destinations;

use constant HOUR_MS => 3600 * 1000;

my $receiver = start_receiver(mode => 'http');
my $node = new_node(
	'abandon',
	clock => 1,
	conf => {
		'outbox.publisher' => 'http',
		'outbox.http_url' => $receiver->url . '/{topic}',
		'outbox.http_content_mode' => 'structured',
		'outbox.abandon_after' => '1d',
		'outbox.breaker_threshold' => 3,
		'outbox.request_timeout' => '7d',
		'outbox.local_retry_times' => 0,
		'outbox.failed_retry_interval' => '7d',
		'outbox.max_retry_interval' => '7d',
		'outbox.minimum_retry_interval' => '7d',
		'outbox.breaker_probe_interval' => '2d',
		'outbox.cleaning_expire_interval' => '300ms',
		'outbox.delete_batch_count' => 50,
		max_worker_processes => 20,
	});
query($node, 'CREATE EXTENSION outbox');

# Add a destination that takes topics which begin with its name.
sub add
{
	my ($name, %settings) = @_;
	return add_destination($node, $name, "{$name.#}", \%settings);
}

sub pause
{
	my ($name) = @_;
	query($node, "SELECT outbox_pause('$name')");
	return wait_relay_of_value($node, $name, state => 'paused');
}

# How many events of topics that begin so are in which state for a destination:
# "expired*5 pending*1"
sub states_for
{
	my ($name, $topic) = @_;
	return try_query($node, qq{SELECT coalesce(string_agg(state || '*' || n, ' ' ORDER BY state), '')
		FROM (SELECT state, count(*) AS n FROM outbox_events
			WHERE destination = '$name' AND topic LIKE '$topic%' GROUP BY 1) s});
}

sub wait_states_for
{
	my ($name, $topic, $wanted, $text) = @_;
	my $states;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	poll_until(sub { $states = states_for($name, $topic); $states eq $wanted }, "$wanted for $name");
	return is($states, $wanted, $text // "$wanted for $name");
}

sub stat_of
{
	my ($name, $column) = @_;
	return query($node, "SELECT $column FROM outbox_stats WHERE destination = '$name'");
}

sub counted
{
	my ($name) = @_;
	return stat_of($name, 'expired');
}

# All that is there is too old then.
sub let_a_day_pass
{
	return let_time_pass($node, 25 * HOUR_MS());
}

# What is published from now on is as old as the time that was let pass, to relays: have that
# not be too old.
sub forget_time
{
	return reload($node, 'outbox.abandon_after' => '1000d');
}

promise 'it expires wherever it waits, and its key is free' => sub {
	my $counted = counted('default');
	my @scheduled = publish($node, 'where.scheduled', count => 60, more => q{deliver_after => now() + '30 days'});
	wait_state($node, $scheduled[-1], 'scheduled');
	wait_state($node, [ map { publish($node, "where.$_") } 'failed', 'down' ], 'published');
	$receiver->faults([ { match => { path => '/where[.](failed|down)' }, status => 503 } ]);
	my ($failed) = publish($node, 'where.failed', key => 'k');
	wait_state($node, $failed, 'failed');
	my @blocked = publish($node, 'where.failed', key => 'k', count => 120);
	wait_state($node, $blocked[-1], 'blocked');
	publish($node, 'where.down', count => 120);
	poll_until(sub { query($node, q{SELECT state FROM outbox_topics WHERE topic = 'where.down'}) eq 'down' },
		'the topic to be down');
	my ($due) = publish($node, 'where.failed', key => 'k', more => q{deliver_after => now() + '1s'});
	let_a_day_pass();

	wait_states_for('default', 'where.', 'expired*242 published*2 scheduled*60', 'all but what was published, or is not due');
	like(event_value($node, $failed, q{last_error || '|' || (next_attempt_at IS NULL)}),
		qr/^not delivered within 86400 s \(outbox[.]abandon_after\): .*503.*\|true$/, 'it says why');
	is(event_value($node, $blocked[0], 'last_error'),
		'not delivered within 86400 s (outbox.abandon_after)', 'also where nothing was tried');
	wait_stat($node, 'expired', $counted + 242, 'outbox_stats counts them');
	is(scalar(grep { $_->{path} =~ /where/ } $receiver->accepted(fields => ['path'])), 2, 'none was taken');
	fails_with($node, "SELECT outbox_retry('$failed')", '55000', 'it is over');

	$receiver->faults([]);
	forget_time();
	my ($next) = publish($node, 'where.failed', key => 'k');
	wait_delivered($receiver, [$next]);
};

promise 'it expires while its destination is paused, and pruning goes on' => sub {
	add('paused');
	publish($node, 'paused.a');
	wait_states_for($_, 'paused.a', 'published*1') foreach 'default', 'paused';
	pause('paused');
	publish($node, 'paused.a', count => 130, more => q{key => 'k' || n % 7});
	publish($node, 'elsewhere', count => 130);
	wait_states_for('default', 'elsewhere', 'published*130');
	is(states_for('paused', 'paused.a'), 'pending*130 published*1', 'it holds them back');
	let_a_day_pass();
	wait_states_for('paused', 'paused.a', 'expired*130 published*1', 'they expire for it');
	is(states_for('default', 'paused.a'), 'published*131', '... alone');
	forget_time();
	my ($later) = publish($node, 'paused.a', key => 'k1');

	reload($node, 'outbox.published_expire_time' => '1s');
	foreach my $topic ('paused.a', 'elsewhere')
	{
		my $left = $topic eq 'elsewhere' ? 0 : 1;
		poll_until(
			sub { try_query($node, "SELECT count(*) FROM outbox_event WHERE topic = '$topic'") eq $left },
			"$topic to be pruned");
		is(query($node, "SELECT count(*) FROM outbox_event WHERE topic = '$topic'"), $left,
			"$topic: all is pruned that has expired, or goes elsewhere");
	}
	query($node, q{SELECT outbox_resume('paused')});
	poll_until(sub { scalar($receiver->accepted(id => $later)) == 2 }, 'what came later to arrive');
	is(scalar($receiver->accepted(path => '/paused.a')), 2 + 130 + 2, 'and nothing else was sent to it');
	drop_destinations($node, 'paused');
};

promise 'it expires while its destination is down, or not configured' => sub {
	my $second = start_receiver(mode => 'http');
	$second->stop;
	add('down', http_url => $second->url . '/{topic}', breaker_probe_interval => '100ms');
	add('bad', publisher => 'no_such_library');
	publish($node, 'down.a', count => 60);
	publish($node, 'bad.a', count => 60);
	publish($node, 'down.a', count => 60);
	poll_until(sub { relay_of($node, 'down', 'state') eq 'endpoint down' }, 'nobody to be there');
	let_a_day_pass();
	wait_states_for('down', 'down.a', 'expired*120');
	wait_states_for('bad', 'bad.a', 'expired*60');
	poll_until(sub { counted('bad') == 60 }, 'outbox_stats to count');
	is(counted('bad'), 60, 'outbox_stats counts them');
	forget_time();
	$second->start;
	my ($next) = publish($node, 'down.a');
	wait_delivered($second, [$next]);
	wait_states_for('down', 'down.a', 'expired*120 published*1');
	is(scalar($second->log(path => '/down.a')), 1, 'none of them is sent when it is back');
	drop_destinations($node, 'down');
	drop_destinations($node, 'bad');
};

promise 'it expires while its destination has no relay' => sub {
	add('slotless', abandon_after => '2d');
	publish($node, 'slotless.a');
	wait_states_for($_, 'slotless.a', 'published*1') foreach 'default', 'slotless';
	$node->append_conf('postgresql.conf', 'outbox.max_relays = 1');
	$node->restart;
	wait_relay($node);
	is(relay_of($node, 'slotless', 'pid'), '', 'there is no relay of it');
	query($node, add_destination_sql('never', '{never.#}', {}));
	publish($node, 'never.a', count => 30);
	publish($node, 'slotless.a', count => 120);
	publish($node, 'elsewhere2', count => 120);
	wait_states_for('default', 'elsewhere2', 'published*120');
	let_a_day_pass();
	poll_until(sub { relay_of($node, 'default', 'state') eq 'idle' }, 'the relay of default to be idle');
	is(states_for('slotless', 'slotless.a'), 'pending*120 published*1', 'its own setting holds');
	wait_states_for('never', 'never.a', 'expired*30', 'nor has one that never had any');
	is(counted('never'), 30, '... and is counted');
	my $offset = -s $node->logfile;
	let_a_day_pass();
	wait_states_for('slotless', 'slotless.a', 'expired*120 published*1');
	is(counted('slotless'), 120, 'outbox_stats counts them, once');
	wait_log($node, qr/WARNING:  outbox: 120 events have expired that destination "slotless" of database "postgres" has not taken/, $offset);
	reload($node, 'outbox.published_expire_time' => '1s');
	poll_until(
		sub {
			try_query($node, q{SELECT count(*) FROM outbox_event
				WHERE topic IN ('elsewhere2', 'slotless.a')}) eq '0';
		},
		'the position to go on');
	is(query($node, q{SELECT count(*) FROM outbox_event WHERE topic IN ('elsewhere2', 'slotless.a')}),
		0, 'all is pruned');

	forget_time();
	query($node, q{SELECT outbox_alter_destination('slotless', settings => '{"abandon_after": null}')});
	$node->adjust_conf('postgresql.conf', 'outbox.max_relays', undef);
	$node->restart;
	wait_relay_of($node, 'slotless');
	my ($later) = publish($node, 'slotless.a');
	poll_until(sub { scalar($receiver->accepted(id => $later)) == 2 }, 'what came later to arrive');
	is(scalar($receiver->accepted(path => '/slotless.a')), 2 + 120 + 2, 'and nothing else was sent to it');
	is(counted('slotless'), 120, 'and still does with a relay');
	drop_destinations($node, 'slotless', 'never');
};

# The second page of the table has events with rows and without, unread by the paused one.
promise 'it expires around what cannot be read' => sub {
	query($node, 'TRUNCATE outbox_event, outbox_delivery');
	add('around');
	publish($node, 'around.first');
	wait_states_for('around', 'around.first', 'published*1');
	pause('around');
	publish($node, 'around.a', count => 200, payload => q{to_jsonb(repeat('x', 100))});
	wait_states_for('default', 'around.a', 'published*200');
	my $on_page = q{ctid BETWEEN '(1,0)' AND '(1,999)'};
	my $lost = query($node, "SELECT count(*) FROM outbox_event WHERE $on_page");
	my $file = query($node, q{SELECT pg_relation_filepath('outbox_event')});
	$node->stop;
	damage_page($node, $file, 1);
	$node->start;
	wait_relay_of($node, 'around');
	let_a_day_pass();
	my $states = sub {
		return query($node, q{SELECT string_agg(state || '*' || n, ' ' ORDER BY state)
			FROM (SELECT d.state, count(*) AS n FROM outbox_delivery d
				JOIN outbox_destination t ON t.id = d.destination
				WHERE t.name = 'around' GROUP BY 1) s});
	};
	my $wanted = "dead*$lost expired*" . (200 - $lost);
	poll_until(sub { $states->() eq $wanted }, $wanted);
	is($states->(), $wanted, 'the others expire, and what cannot be read is dead');
	cmp_ok($lost, '>', 10, 'there was something on the page');
	like(query($node, q{SELECT DISTINCT last_error FROM outbox_delivery WHERE state = 'dead'}),
		qr/^cannot be read: block 1 of table "outbox_event": invalid page/, 'with the reason');
	poll_until(sub { stat_of('around', 'died') eq $lost }, 'outbox_stats to count them');
	query($node, 'TRUNCATE outbox_event, outbox_delivery');
	drop_destinations($node, 'around');
};

promise 'what is dead, not due, sent again or in flight is left alone' => sub {
	$receiver->faults([
		{ match => { path => '/left[.]dead' }, status => 422 },
		{ match => { path => '/left[.]flying' }, action => 'hang', on_release => 'answer' },
		{ match => { path => '/left[.]again' }, status => 422, times => 1 } ]);
	my ($dead) = publish($node, 'left.dead');
	wait_state($node, $dead, 'dead');
	my ($again) = publish($node, 'left.again');
	wait_state($node, $again, 'dead');
	my ($flying) = publish($node, 'left.flying', key => 'k');
	my ($behind) = publish($node, 'left.flying', key => 'k');
	poll_until(sub { $receiver->log(id => $flying) }, 'an event in flight');
	my ($scheduled) = publish($node, 'left.scheduled', more => q{deliver_after => now() + '2 days'});
	wait_state($node, $scheduled, 'scheduled');
	my ($replayed) = publish($node, 'left.replayed');
	wait_state($node, $replayed, 'published');
	let_a_day_pass();
	wait_state($node, $behind, 'expired');
	is(event_state($node, $dead), 'dead', 'dead');
	is(event_state($node, $flying), 'in_progress', 'in flight');
	is(event_state($node, $scheduled), 'scheduled', 'not due');

	# somebody has these sent again, to a destination that is not there for a while
	$receiver->stop;
	query($node, "SELECT outbox_retry('$again')");
	query($node, q{SELECT outbox_replay('default', 'left.replayed')});
	poll_until(sub { event_state($node, $replayed) =~ /^(pending|failed)$/ }, 'it to be sent again');
	let_time_pass($node, 20 * HOUR_MS);
	isnt(event_state($node, $_), 'expired', 'not yet') foreach $again, $replayed;
	let_time_pass($node, 5 * HOUR_MS);
	wait_state($node, [ $again, $replayed ], 'expired');
	isnt(event_state($node, $scheduled), 'expired', 'a day after it was due at the earliest');
	let_time_pass($node, 24 * HOUR_MS);
	wait_states_for('default', 'left.scheduled', 'expired*1', 'then it is too old');
	is(event_state($node, $dead), 'dead', 'dead');
	$receiver->start;
};

promise 'nothing expires without the setting, and one destination may have its own' => sub {
	reload($node, 'outbox.abandon_after' => '0');
	add('impatient', abandon_after => '2h');
	add('patient');
	pause($_) foreach 'impatient', 'patient';
	publish($node, $_ . '.a', count => 10) foreach 'impatient', 'patient';
	let_a_day_pass();
	wait_states_for('impatient', 'impatient.a', 'expired*10');
	is(states_for('patient', 'patient.a'), 'pending*10', 'those of another one do not');
	drop_destinations($node, 'impatient');
	drop_destinations($node, 'patient');
};

promise 'a warning once a minute says how many' => sub {
	add('warned');
	pause('warned');
	publish($node, 'warned.a', count => 10);
	my $offset = -s $node->logfile;
	let_a_day_pass();
	my $log = wait_log($node, qr/WARNING:  outbox: \d+ events have expired/, $offset);
	like($log, qr/10 events have expired that destination "warned" of database "postgres" has not taken/, 'it says how many, and whose');
	publish($node, 'warned.a', count => $_) foreach 3, 4;
	wait_states_for('warned', 'warned.a', 'expired*17');
	$offset = -s $node->logfile;
	let_time_pass($node, 61 * 1000);
	$log = wait_log($node, qr/WARNING:  outbox: \d+ events have expired/, $offset);
	like($log, qr/7 events have expired/, 'what came since is told a minute later, in one');
	is(scalar(() = slurp_file($node->logfile) =~ /events have expired that destination "warned" of/g),
		2, 'and not before');
	drop_destinations($node, 'warned');
};

done_testing();
