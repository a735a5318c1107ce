# Promise: the relay's memory is bounded, by outbox.relay_memory and not by the
# backlog, the size of the events or a receiver that hangs.

use strict;
use warnings FATAL => 'all';

use lib 'test/lib';
use OutboxTest qw(:DEFAULT !/^(check_value|dapr_error|event_value|fails_with|publish|publish_sql|query|restart_relay|stat_value|states|wait_states)$/);
use PostgreSQL::Test::Utils;
use Test::More;

use constant BOUND => 64 * 1024;    # kB above idle

plan skip_all => 'needs /proc' unless -r '/proc/self/status';

my $receiver = start_receiver(mode => 'dapr');
my $node = new_node(
	'memory',
	conf => {
		'outbox.dapr_endpoint' => $receiver->url,
		'outbox.poll_interval' => '100ms',
		'outbox.local_failed_retry_interval' => '100ms',
		'outbox.breaker_probe_interval' => '100ms',
		'outbox.max_payload_size' => '2MB',
		shared_buffers => '16MB',
	});
$node->safe_psql('postgres', 'CREATE EXTENSION outbox');
my $relay = wait_relay($node);

sub published
{
	return $node->safe_psql('postgres',
		q{SELECT published FROM outbox_stats});
}

# Wait until $n events have been published; the most memory seen meanwhile.
sub watch
{
	my ($n) = @_;
	my $most = 0;
	poll_until(
		sub {
			my $now = private_memory($relay);
			$most = $now if $now > $most;
			return published() >= $n;
		},
		"$n events to be published", 120);
	return $most;
}

$node->safe_psql('postgres', q{SELECT outbox_publish('first', '{}')});
watch(1);
my $idle = private_memory($relay);

$node->safe_psql('postgres',
	q{SELECT count(outbox_publish('small', '{}')) FROM generate_series(1, 50000)}
);
cmp_ok(watch(50001) - $idle, '<=', BOUND, 'a backlog of 50,000 events');

# JSON of 1 MB that does not compress away before it reaches the relay
$receiver->reset;
$node->safe_psql(
	'postgres', q{
	SELECT count(outbox_publish('large', to_jsonb(repeat(md5(n::text), 32768))))
	FROM generate_series(1, 150) n});
cmp_ok(watch(50151) - $idle, '<=', BOUND, '150 events of 1 MB');

$receiver->reset;
$receiver->faults([ { action => 'hang' } ]);
$node->safe_psql(
	'postgres', q{
	SELECT count(outbox_publish_bytes('hanging',
		convert_to(repeat(md5(n::text), 32768), 'UTF8'), 'text/plain'))
	FROM generate_series(1, 150) n});
poll_until(sub { $receiver->stats->{concurrent} >= 8 }, 'requests that hang');
my $most = 0;
foreach my $n (1 .. 50)
{
	my $now = private_memory($relay);
	$most = $now if $now > $most;
	$node->safe_psql('postgres', 'SELECT state FROM outbox_relays');
}
cmp_ok($most - $idle, '<=', BOUND,
	'large events, and a receiver that hangs');
cmp_ok($receiver->stats->{concurrent}, '<', 64,
	'not all of them are in memory');
$receiver->faults([]);
cmp_ok(watch(50301) - $idle, '<=', BOUND, 'and lets go of them');
is(relay_pid($node, 'postgres'), $relay, 'it is the same relay');

$node->stop;
done_testing();
