# Time to live: after its expires_at an event is not tried any more.
#
# Promises:
# - What is not delivered by then is expired, wherever it waits: in memory, for
#   its next try there or in the table, behind others of its key, in a topic or
#   for a destination that is down, or unread.
# - Those behind it of its key go on then.
# - What is under way by then counts by its answer.
# - outbox_events says so at once, and why; outbox_stats counts it.
# - It cannot be sent again or given up, and goes like a published one.
# - A restored event is taken as it is.
# - Dapr is told how much time is left, unless the metadata say.
#
# Intervals are as long as in production; time is let pass.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;

my $receiver = start_receiver(mode => 'dapr');
my $node = new_node(
	'expiry',
	clock => 1,
	conf => {
		'outbox.dapr_endpoint' => $receiver->url,
		'outbox.breaker_threshold' => 0,
		'outbox.request_timeout' => '1d',
		'outbox.local_retry_times' => 0,
		'outbox.local_failed_retry_interval' => '10min',
		'outbox.failed_retry_interval' => '1h',
		'outbox.minimum_retry_interval' => '1h',
		'outbox.breaker_probe_interval' => '2h',
	});
query($node, 'CREATE EXTENSION outbox');

use constant {
	SOON => q{expires_at => clock_timestamp() + '1 min'},
	SOON_S => 61,
};

# Every try of an event of these topics fails at the broker.
sub fail_topics
{
	my (@topics) = @_;
	$receiver->faults([ map { {
		match => { topic => $_ }, component_error => 'no broker' } } @topics ]);
	return;
}

sub tries
{
	my ($id) = @_;
	return scalar($receiver->log(id => $id));
}

# The event has expired without having been taken, and says so.
sub is_expired
{
	my ($id, $error, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_state($node, $id, 'expired');
	poll_until(sub { event_value($node, $id, 'last_error') ne '' },
		'the relay to have come to it');
	like(event_value($node, $id, q{last_error || '|' || (next_attempt_at IS NULL)}),
		qr/^not delivered by \d{4}-[0-9T:.-]*Z$error\|true$/, $name);
	is(scalar($receiver->accepted(id => $id)), 0, 'it was not delivered');
	return;
}

# --- Where it waits

promise 'it expires while it waits for its next try in memory' => sub {
	reload($node, 'outbox.local_retry_times' => 3);
	my $expired = stat_value($node, 'expired');
	fail_topics('local');
	my $id = publish($node, 'local', key => 'k', more => SOON);
	my $behind = publish($node, 'local', key => 'k');
	poll_until(sub { tries($id) == 1 }, 'a try');
	$receiver->faults([]);
	let_time_pass($node, SOON_S * 1000);
	wait_delivered($receiver, [$behind]);
	is_expired($id, ': .*no broker', 'with its last error');
	is(event_value($node, $id, 'attempts, last_status'), '1|500', 'and attempts');
	is(tries($id), 1, 'it was not tried again');
	wait_stat($node, 'expired', $expired + 1, 'outbox_stats counts it');
};

promise 'it expires while it is failed, and lets those behind it go' => sub {
	fail_topics('failed');
	my $id = publish($node, 'failed', key => 'k', more => SOON);
	wait_state($node, $id, 'failed');
	my $behind = publish($node, 'failed', key => 'k');
	wait_state($node, $behind, 'blocked');
	$receiver->faults([]);
	let_time_pass($node, SOON_S * 1000);
	wait_delivered($receiver, [$behind]);
	is_expired($id, '', 'it is expired an hour before its next try');
	is(tries($id), 1, 'it was not tried again');
};

promise 'it expires behind others of its key when it would have its turn' => sub {
	fail_topics('behind');
	my $first = publish($node, 'behind', key => 'k');
	wait_state($node, $first, 'failed');
	my @expiring = publish($node, 'behind', count => 200, key => 'k', more => SOON);
	my $last = publish($node, 'behind', key => 'k');
	wait_state($node, $last, 'blocked');
	$receiver->faults([]);
	let_time_pass($node, SOON_S * 1000);
	is(event_state($node, $last), 'blocked', 'the first one has not moved');
	query($node, "SELECT outbox_discard('$first')");
	wait_delivered($receiver, [$last]);
	wait_states($node, 'behind', 'discarded*1 expired*200 published*1');
	is(scalar($receiver->log(topic => 'behind')), 2, 'none was tried');
};

# Memory has a few of them, the table the others.
promise 'it expires in a topic that is down' => sub {
	reload(
		$node,
		'outbox.breaker_threshold' => 2,
		'outbox.batch_size' => 10,
		'outbox.breaker_probe_interval' => '2s');
	my $up = publish($node, 'up');
	wait_delivered($receiver, [$up]);
	fail_topics('down');
	publish($node, 'down', count => 150, more => SOON);
	poll_until(
		sub {
			return query($node, q{SELECT state FROM outbox_topics
				WHERE topic = 'down'}) eq 'down';
		},
		'the topic to be down');
	let_time_pass($node, SOON_S * 1000);
	wait_states($node, 'down', 'expired*150');
	wait_settled($node);
};

promise 'it expires while the destination is down, and is not read' => sub {
	reload($node, 'outbox.breaker_threshold' => 1, 'outbox.breaker_probe_interval' => '100ms');
	$receiver->state(outbound => 0, listening => 0);
	my $id = publish($node, 'nobody', more => SOON);
	wait_relay_value($node, state => 'endpoint down');
	let_time_pass($node, SOON_S * 1000);
	is_expired($id, '(: .*)?', 'in memory at once');
	my $unread = publish($node, 'nobody',
		more => q{expires_at => clock_timestamp() + '10 ms'});
	wait_state($node, $unread, 'expired');
	is(event_value($node, $unread, q{coalesce(last_error, '')}),
		'', 'the view says so before the relay has come to it');
	fails_with($node, "SELECT outbox_retry('$unread')",
		'55000', 'and it cannot be sent again');
	$receiver->state(outbound => 1, listening => 1);
	wait_delivered($receiver, [ scalar publish($node, 'nobody') ]);
	is_expired($unread, '', 'then the relay does');
	is(tries($unread), 0, 'without a try');
};

promise 'a scheduled event that was restored expires when its time has come' => sub {
	my $id = query($node, q{
		INSERT INTO outbox_event (topic, payload, xid, deliver_after, expires_at)
		VALUES ('restored', '1', '3', clock_timestamp() + '1 min',
			clock_timestamp() + '30 s')
		RETURNING event_id});
	my $past = query($node, q{
		INSERT INTO outbox_event (topic, payload, xid, expires_at)
		VALUES ('restored', '1', '3', '2001-01-01')
		RETURNING event_id});
	is_expired($past, '', 'one that had expired is taken, and expires');
	wait_state($node, $id, 'scheduled');
	let_time_pass($node, SOON_S * 1000);
	is_expired($id, '', 'so does the other');
	is(tries($id) + tries($past), 0, 'without a try');
};

# --- What is under way

promise 'what is under way counts by its answer' => sub {
	$receiver->faults([
		{ match => { topic => 'taken' }, action => 'hang', on_release => 'answer' } ]);
	my $id = publish($node, 'taken', key => 'k', more => SOON);
	poll_until(sub { tries($id) == 1 }, 'the try');
	let_time_pass($node, SOON_S * 1000);
	wait_delivered($receiver, [ scalar publish($node, 'beside') ]);
	$receiver->faults([]);
	wait_state($node, $id, 'published');
	taken_once($receiver, [$id], 'it was taken');
};

promise 'if it fails, it is expired' => sub {
	reload($node, 'outbox.max_retry_times' => 0);
	$receiver->faults([ {
		match => { topic => 'late' },
		times => 1,
		component_error => 'no broker',
		delay_response => 2 } ]);
	my $id = publish($node, 'late', key => 'k', more => SOON);
	my $behind = publish($node, 'late', key => 'k');
	poll_until(sub { tries($id) == 1 }, 'the try');
	let_time_pass($node, SOON_S * 1000);
	wait_delivered($receiver, [$behind]);
	is_expired($id, ': .+', 'not dead, though it has no attempts left');
};

# --- Afterwards

promise 'an expired event cannot be sent again or given up, and is deleted' => sub {
	disable($node);
	my $id = publish($node, 'gone', more => q{expires_at => clock_timestamp() + '1 ms'});
	reload($node, 'outbox.enabled' => 'on');
	is_expired($id, '', 'unread');
	fails_with($node, "SELECT outbox_retry('$id')",
		'55000', 'it cannot be sent again');
	fails_with($node, "SELECT outbox_discard('$id')",
		'55000', 'nor given up');
	is(query($node, 'SELECT outbox_retry_dead()'), '0', 'it is not dead');
	reload($node,
		'outbox.published_expire_time' => 0,
		'outbox.cleaning_expire_interval' => '100ms');
	poll_until(sub { event_state($node, $id) eq '' }, 'it to be deleted');
	is(query($node, q{SELECT count(*) FROM outbox_delivery WHERE state = 'expired'}),
		'0', 'and so is what is said of it');
};

# --- What receivers are told

# What Dapr is told of the time left by the last request for this event
sub ttl_of
{
	my ($id) = @_;
	my ($last) = reverse $receiver->log(id => $id);
	return $last->{query} =~ /\bmetadata\.(ttl\w*)=(\d+)/i ? "$1 $2" : 'none';
}

promise 'Dapr is told how many seconds are left at each try' => sub {
	reload($node, 'outbox.local_retry_times' => 3);
	fail_topics('ttl');
	my $id = publish($node, 'ttl', key => 'a key',
		more => q{metadata => '{"a": "b"}',
			expires_at => clock_timestamp() + '1 h'});
	poll_until(sub { tries($id) == 1 }, 'a try');
	my ($first) = ttl_of($id) =~ /^ttlInSeconds (\d+)$/;
	cmp_ok($first, '<=', 3600, 'an hour');
	cmp_ok($first, '>', 3500, 'or a little less');
	$receiver->faults([]);
	let_time_pass($node, 600_000);
	wait_delivered($receiver, [$id]);
	my ($second) = ttl_of($id) =~ /^ttlInSeconds (\d+)$/;
	cmp_ok($first - $second, '>=', 600, 'ten minutes later, so much less');
	cmp_ok($first - $second, '<', 700, 'and no more');
	my ($try, $again) = $receiver->log(id => $id);
	is($again->{body}, $try->{body}, 'the envelope is the same');
	is( cloud_event($again)->{expirytime},
		query($node, qq{SELECT to_char(expires_at AT TIME ZONE 'UTC',
			'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') FROM outbox_event WHERE event_id = '$id'}),
		'and has expirytime');

};

promise 'it is rounded up' => sub {
	my ($id, $never) = publish($node, 'rounded', count => 2,
		more => q{expires_at => CASE n WHEN 1 THEN clock_timestamp() + '100.5 s' END});
	wait_delivered($receiver, [ $id, $never ]);
	my ($entry) = $receiver->log(id => $id);
	my $left = query($node, qq{SELECT extract(epoch FROM expires_at)
		FROM outbox_event WHERE event_id = '$id'}) - $entry->{time};
	my ($ttl) = ttl_of($id) =~ /^ttlInSeconds (\d+)$/;
	cmp_ok($ttl, '>=', $left, 'no less than what is left when it arrives');
	cmp_ok($ttl, '<=', 101, 'and no more than it was when it was published');
	is(ttl_of($never), 'none', 'what does not expire has none');
};

foreach my $name ('ttlInSeconds', 'TTLINSECONDS', 'ttl')
{
	promise "unless metadata say $name" => sub {
		my $id = publish($node, 'own',
			more => qq{metadata => '{"$name": "7"}',
				expires_at => clock_timestamp() + '1 h'});
		wait_delivered($receiver, [$id]);
		is(ttl_of($id), "$name 7", 'theirs counts, alone');
	};
}

promise 'in a shared request it stands beside the event' => sub {
	disable($node);
	my @ids = publish($node, 'shared', count => 3,
		more => q{key => CASE n WHEN 2 THEN 'k' END,
			metadata => CASE n WHEN 3 THEN '{"a": "b"}'::jsonb END,
			expires_at => clock_timestamp() + '1 h'});
	my $never = publish($node, 'shared');
	reload($node, 'outbox.dapr_bulk' => 'on', 'outbox.enabled' => 'on');
	wait_delivered($receiver, [ @ids, $never ]);
	my @metadata = map { ($receiver->log(id => $_))[0]{metadata} } @ids, $never;
	foreach my $i (0 .. 2)
	{
		my $ttl = delete $metadata[$i]{ttlInSeconds};
		like($ttl, qr/^(3600|35\d\d)$/, 'what is left');
	}
	is_deeply(\@metadata, [ {}, { partitionKey => 'k' }, { a => 'b' }, {} ],
		'beside the others, and not where there is none');
};

done_testing();
