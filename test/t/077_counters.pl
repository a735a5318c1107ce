# What is counted for each destination: outbox_stats and outbox_latency.
#
# Promises:
# - Counters survive a restart and a crash, exact with the events that are settled.
# - Each kind of event is counted, within seconds also where nothing else is to be
#   written: published, died, expired, pruned, suppressed duplicates, failed tries.
# - They survive the position being moved by others: giving up without a relay.
# - They are read without a count of events.
# - outbox_latency has a class for each latency, from when an event could be delivered:
#   deliver_after, a retry, and with track_commit_timestamp the commit.
# - The rate and the latency of the last minute are of that minute.
# - outbox_events has the time of the last try.
#
# Time is let pass for relays.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;
use OutboxTest::Destinations;

use constant MINUTE_MS => 60 * 1000;

my $receiver = start_receiver(mode => 'http');
my $node = new_node(
	'counters',
	clock => 1,
	conf => {
		'outbox.publisher' => 'http',
		'outbox.http_url' => $receiver->url . '/{topic}',
		'outbox.request_timeout' => '1d',
		'outbox.breaker_threshold' => 0,
		'outbox.local_retry_times' => 0,
		'outbox.failed_retry_interval' => '1h',
		'outbox.minimum_retry_interval' => '1h',
		'outbox.max_retry_interval' => '1h',
	});
query($node, 'CREATE EXTENSION outbox');

# A column of the row of "default".
sub counted
{
	my ($column) = @_;
	return try_query($node, "SELECT $column FROM outbox_stats WHERE destination = 'default'");
}

# The classes that have grown since the counts of an earlier call: "le 0.5, le 60"; a call without
# any returns the counts.
sub latency_classes
{
	my ($before) = @_;
	my %counts = map { split /\|/ } split /\n/, query($node, q{
		SELECT le, events - lag(events, 1, 0::int8) OVER (ORDER BY le) FROM outbox_latency
		WHERE destination = 'default'});
	return \%counts unless $before;
	return join ', ', map { "le $_ " . ($counts{$_} - $before->{$_}) }
	  grep { $counts{$_} > $before->{$_} } sort { ($a eq 'Infinity') <=> ($b eq 'Infinity') || $a <=> $b } keys %counts;
}

# The lowest class in which there is one more than before, as a number.
sub class_of_next
{
	my ($sub) = @_;
	my $before = latency_classes();
	my $published = counted('published');
	$sub->();
	wait_stat($node, 'published', $published + 1);
	my ($class) = latency_classes($before) =~ /^le (\S+) 1$/ or return 'none';
	return $class;
}

promise 'counters survive a restart and a crash' => sub {
	publish($node, 'survive', count => 50);
	wait_stat($node, 'published', 50);
	wait_settled($node);
	$node->restart;
	is(counted('published'), 50, 'after a restart, at once');
	publish($node, 'survive', count => 5);
	wait_stat($node, 'published', 55, 'and they go on');
	$node->stop('immediate');
	$node->start;
	wait_stat($node, 'published', 55, 'after a crash: what is sent again counts once');
	wait_settled($node);
	publish($node, 'survive', count => 5);
	wait_stat($node, 'published', 60, 'and they go on');
	is(query($node, q{SELECT max(events) FROM outbox_latency WHERE destination = 'default'}), 60, 'outbox_latency has as many');
};

promise 'each kind is counted' => sub {
	my %before = map { $_ => counted($_) } qw(died failed_attempts duplicates_suppressed expired pruned);
	my $id = publish($node, 'each');
	query($node, "SELECT outbox_publish('each', '1', event_id => '$id')") foreach 1 .. 3;
	wait_stat($node, 'duplicates_suppressed', $before{duplicates_suppressed} + 3);

	$receiver->faults([ { match => { path => '/each.refused' }, status => 400 }, { match => { path => '/each.failing' }, status => 503 } ]);
	publish($node, 'each.refused', count => 2);
	wait_stat($node, 'died', $before{died} + 2);
	publish($node, 'each.failing', more => q{expires_at => clock_timestamp() + '1 min'});
	wait_stat($node, 'failed_attempts', $before{failed_attempts} + 3);
	let_time_pass($node, 2 * MINUTE_MS);
	wait_stat($node, 'expired', $before{expired} + 1);

	reload($node, 'outbox.published_expire_time' => '1s', 'outbox.cleaning_expire_interval' => '100ms');
	poll_until(sub { query($node, q{SELECT count(*) FROM outbox_event WHERE topic = 'each'}) == 0 }, 'it to be pruned');
	poll_until(sub { counted('pruned') > $before{pruned} }, 'pruned to grow');
	cmp_ok(counted('pruned'), '>', $before{pruned}, 'pruned grows');
};

promise 'counters survive a position that others move' => sub {
	reload($node, 'outbox.abandon_after' => '1h', 'outbox.cleaning_expire_interval' => '300ms');
	add_destination($node, 'moved', '{moved}', {});
	publish($node, 'moved', count => 7);
	wait_sent_to($node, 'moved');
	poll_until(sub { query($node, q{SELECT published FROM outbox_stats WHERE destination = 'moved'}) == 7 }, 'them to be counted');
	query($node, q{SELECT outbox_pause('moved')});
	wait_relay_of_value($node, 'moved', state => 'paused');
	# without a relay of its own, that of "default" moves it
	$node->append_conf('postgresql.conf', 'outbox.max_relays = 1');
	$node->restart;
	wait_relay($node);
	is(relay_of($node, 'moved', 'pid'), '', 'there is no relay of it');
	my $newest = 'SELECT max(id) FROM outbox_progress WHERE destination > 0';
	my $at = query($node, $newest);
	publish($node, 'moved', count => 3);
	let_time_pass($node, 120 * MINUTE_MS);
	poll_until(sub { query($node, q{SELECT backlog FROM outbox_stats WHERE destination = 'moved'}) == 0 }, 'them to be given up');
	poll_until(sub { query($node, $newest) > $at }, 'its position to be moved');
	is(query($node, q{SELECT published FROM outbox_stats WHERE destination = 'moved'}), 7, 'what was counted is');
	$node->adjust_conf('postgresql.conf', 'outbox.max_relays', undef);
	$node->restart;
	drop_destinations($node, 'moved');
};

promise 'who asks for counters has no events counted' => sub {
	my $plan = sub { return query($node, "EXPLAIN SELECT $_[0] FROM outbox_stats"); };
	like($plan->('backlog'), qr/outbox_count_rows/, 'the backlog is counted');
	unlike($plan->('published, died, latency_seconds, rate'), qr/outbox_count_/, 'counters are there');
};

promise 'outbox_latency has the class of each' => sub {
	my $normal = class_of_next(sub { publish($node, 'class') });
	cmp_ok($normal, '<=', 30, 'what goes through at once');

	$receiver->faults([ { match => { path => '/class.held' }, action => 'hang', on_release => 'answer' } ]);
	is( class_of_next(
			sub {
				publish($node, 'class.held');
				poll_until(sub { relay_value($node, 'in_flight') eq '1' }, 'the request');
				let_time_pass($node, 5 * MINUTE_MS);
				$receiver->faults([]);
			}),
		600, 'an answer that took five minutes');
};

promise 'it counts from when an event could be delivered' => sub {
	is( class_of_next(
			sub {
				publish($node, 'since', more => q{deliver_after => clock_timestamp() + '30 min'});
				let_time_pass($node, 31 * MINUTE_MS);
			}),
		600, 'half an hour of deliver_after is no latency');

	$receiver->faults([ { match => { path => '/since.dead' }, status => 400 } ]);
	my $id = publish($node, 'since.dead');
	wait_state($node, $id, 'dead');
	$receiver->faults([]);
	let_time_pass($node, 120 * MINUTE_MS);
	cmp_ok(class_of_next(sub { query($node, "SELECT outbox_retry('$id')") }), '<=', 30, 'nor is the time before a retry');
};

# An event whose transaction lasted for three seconds more.
sub class_of_slow_commit
{
	my $session = $node->background_psql('postgres', on_error_stop => 1);
	return class_of_next(
		sub {
			my $at = $session->query_safe(q{BEGIN; SELECT outbox_publish('slow', '1'); SELECT clock_timestamp()});
			($at) = $at =~ /^(\d{4}-\d\d-\d\d .*)$/m;
			poll_until(sub { query($node, "SELECT clock_timestamp() - '$at' > '3 s'") eq 't' }, 'three seconds to pass');
			$session->query_safe('COMMIT');
			$session->quit;
		});
}

promise 'with track_commit_timestamp it counts from the commit' => sub {
	cmp_ok(class_of_slow_commit(), '>=', 5, 'without, from created_at');
	$node->append_conf('postgresql.conf', 'track_commit_timestamp = on');
	$node->restart;
	cmp_ok(class_of_slow_commit(), '<=', 2.5, 'from the commit');
	$node->adjust_conf('postgresql.conf', 'track_commit_timestamp', undef);
	$node->restart;
};

promise 'rate and latency are of the last minute' => sub {
	wait_settled($node);
	query($node, q{UPDATE outbox_progress SET at = at - interval '2 min' WHERE at > '-infinity'});
	is(counted(q{rate, latency IS NULL}), '0|t', 'nothing for two minutes');
	my $published = counted('published');
	publish($node, 'rate', count => 6);
	wait_stat($node, 'published', $published + 6);
	is(counted(q{rate, latency > '0' AND latency < '10 s'}), '0.1|t', 'six in a minute');
	is(query($node, q{SELECT max(last_minute) FROM outbox_latency WHERE destination = 'default'}), 6, 'also in outbox_latency');
};

promise 'outbox_events has the time of the last try' => sub {
	my $fine = publish($node, 'try');
	wait_state($node, $fine, 'published');
	is(event_value($node, $fine, 'last_attempt_at'), '', 'none of what went through at once');
	$receiver->faults([ { match => { path => '/try' }, status => 503 } ]);
	my $id = publish($node, 'try');
	wait_state($node, $id, 'failed');
	my $sql = 'last_attempt_at BETWEEN created_at AND clock_timestamp()';
	is(event_value($node, $id, $sql), 't', 'the first try');
	my $first = event_value($node, $id, 'last_attempt_at');
	query($node, "SELECT outbox_retry('$id')");
	poll_until(sub { event_value($node, $id, 'last_attempt_at') ne $first }, 'the second try');
	is(event_value($node, $id, "last_attempt_at > '$first'"), 't', 'the second try');
	$receiver->faults([]);
	my $second = event_value($node, $id, 'last_attempt_at');
	let_time_pass($node, 120 * MINUTE_MS);
	wait_state($node, $id, 'published');
	is(event_value($node, $id, "last_attempt_at > '$second'"), 't', 'the third, by which it was published');
};

done_testing();
