# Promise: the relay's memory is bounded, by outbox.relay_memory and not by the
# backlog, the size of the events, a receiver that hangs or reads that fail.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;

use constant BOUND => 64 * 1024;    # kB above idle

plan skip_all => 'needs /proc' unless -r '/proc/self/status';

my $receiver = start_receiver(mode => 'dapr');
my $node = new_node(
	'memory',
	conf => {
		'outbox.dapr_endpoint' => $receiver->url,
		'outbox.max_payload_size' => '2MB',
		shared_buffers => '16MB',
	});
query($node, 'CREATE EXTENSION outbox');
my $relay = wait_relay($node);

# Wait until $n events more than $before have been published; the most memory
# seen meanwhile.
sub watch
{
	my ($before, $n) = @_;
	my $most = 0;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	poll_until(
		sub {
			my $now = private_memory($relay);
			$most = $now if $now > $most;
			return stat_value($node, 'published') >= $before + $n;
		},
		"$n events to be published", 120);
	return $most;
}

publish($node, 'first');
watch(0, 1);
my $idle = private_memory($relay);

# Publish events, whose ids nobody wants to see.
sub publish_many
{
	my ($topic, %opts) = @_;
	return query($node,
		'SELECT count(*) FROM (' . publish_sql($topic, %opts) . ') published');
}

promise 'a backlog does not fill memory' => sub {
	my $before = stat_value($node, 'published');
	publish_many('small', count => 50_000);
	cmp_ok(watch($before, 50_000) - $idle, '<=', BOUND,
		'a backlog of 50,000 events');
};

# JSON of 1 MB that does not compress away before it reaches the relay
promise 'large events do not fill memory' => sub {
	my $before = stat_value($node, 'published');
	publish_many('large',
		count => 150,
		payload => 'to_jsonb(repeat(md5(n::text), 32768))');
	cmp_ok(watch($before, 150) - $idle, '<=', BOUND, '150 events of 1 MB');
};

promise 'a receiver that hangs does not fill memory' => sub {
	my $before = stat_value($node, 'published');
	$receiver->faults([ { action => 'hang' } ]);
	query($node, q{
		SELECT count(outbox_publish_bytes('hanging',
			convert_to(repeat(md5(n::text), 32768), 'UTF8'), 'text/plain'))
		FROM generate_series(1, 150) n});
	poll_until(sub { $receiver->stats->{concurrent} >= 8 },
		'requests that hang');
	my $most = 0;
	foreach my $n (1 .. 50)
	{
		my $now = private_memory($relay);
		$most = $now if $now > $most;
		relay_value($node, 'state');
	}
	cmp_ok($most - $idle, '<=', BOUND, 'large events, and a receiver that hangs');
	cmp_ok($receiver->stats->{concurrent}, '<', 64, 'not all of them are in memory');
	$receiver->faults([]);
	cmp_ok(watch($before, 150) - $idle, '<=', BOUND, 'and lets go of them');
};

# Bytes that the relay has in use in its memory contexts of this name.
sub in_use
{
	my ($context) = @_;
	my $offset = -s $node->logfile;
	query($node, "SELECT pg_log_backend_memory_contexts($relay)");
	my $log = wait_log($node, qr/Grand total/, $offset);
	my $used = 0;
	$used += $1 while $log =~ /\Q$context\E: .*; (\d+) used$/mg;
	return $used;
}

# The relay has failed so often to read outbox_event; the log says so once a minute.
sub wait_failures
{
	my ($n) = @_;
	my $at = q{CASE WHEN last_error ~ 'outbox_event" does not exist' THEN last_error_at END};
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	foreach (1 .. $n)
	{
		my $before = relay_value($node, $at);
		poll_until(sub { relay_value($node, $at) gt $before }, 'a failure');
	}
	return;
}

promise 'reads of rows that fail leave nothing behind' => sub {
	my $rows = 2000;
	publish_many('due',
		count => $rows,
		more => q{key => repeat('k', 200) || n, deliver_after => now() + '1 day'});
	publish($node, 'due', more => q{deliver_after => now() + '1 day'});
	wait_states($node, 'due', 'scheduled*' . ($rows + 1));
	query($node, q{
		UPDATE outbox_delivery SET next_attempt_at = now() WHERE topic = 'due';
		ALTER TABLE outbox_event RENAME TO renamed});
	reload($node,
		'outbox.retry_batch_size' => $rows + 1,
		'outbox.max_payload_size' => '1kB');
	wait_failures(2);
	my $before = in_use('outbox queue');
	wait_failures(2);
	cmp_ok(in_use('outbox queue') - $before, '<', 200 * $rows,
		'none of the keys that were found');
	query($node, 'ALTER TABLE renamed RENAME TO outbox_event');
	wait_settled($node);
};

is(relay_pid($node), $relay, 'it is the same relay');
$node->stop;
done_testing();
