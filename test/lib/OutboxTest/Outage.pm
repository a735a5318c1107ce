# What the tests of brokers have alike: outages, and ends while a broker hangs.

package OutboxTest::Outage;

use strict;
use warnings FATAL => 'all';

use Exporter qw(import);
use Test::More;
use Time::HiRes qw(time);

use OutboxTest::Node;
use OutboxTest::Poll;
use OutboxTest::SQL;

our @EXPORT = qw(
  is_outage
  is_outage_with
  relay_ends_beside_hanging
  relay_ends_soon
  wait_sent
);

use constant {
	ENDS_WITHIN => 1.5,    # seconds; README says one
	SENT_WITHIN => 120,
};

# wait_sent($node): wait until nothing is left to be sent, however slow the machine
sub wait_sent
{
	my ($node) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return poll_until(sub { stat_value($node, 'backlog') eq '0' },
		'all to be sent', SENT_WITHIN);
}

# relay_ends_soon($node, $name): test that the relay ends soon when it is told to
sub relay_ends_soon
{
	my ($node, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $pid = wait_relay($node);
	my $start = time();

	query($node, "SELECT pg_terminate_backend($pid)");
	poll_until(sub { !kill(0, $pid) }, 'the relay to end');
	my $seconds = time() - $start;
	return cmp_ok($seconds, '<', ENDS_WITHIN,
		sprintf('%s, the relay ends in %.2f s', $name, $seconds));
}

# relay_ends_beside_hanging($node, $broker, $topic): the same with 30 MB in flight to
# a broker that hangs, which then goes on; returns the ids of these events
sub relay_ends_beside_hanging
{
	my ($node, $broker, $topic) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$broker->hang;
	my @ids = publish($node, $topic, count => 60,
		payload => q{to_jsonb(repeat('x', 500000))});
	wait_relay_value($node, in_flight => 60);
	relay_ends_soon($node, 'with 30 MB in flight');
	$broker->go_on;
	wait_sent($node);
	return @ids;
}

# is_outage($node, $topic, $error, $break, $mend)
#
# Test that after $break an event is not sent, for this reason and without an
# attempt, and after $mend it is; returns its id.
sub is_outage
{
	my ($node, $topic, $error, $break, $mend) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$break->();
	my $id = publish($node, $topic);
	wait_relay_value($node, state => 'endpoint down');
	wait_relay_value($node, last_error => $error);
	is(event_value($node, $id, 'state, attempts'), 'pending|0', "no attempt: $error");
	$mend->();
	wait_state($node, $id, 'published');
	return $id;
}

# is_outage_with($node, $topic, $error, $good, %other): the same with other settings
# in place of the good ones
sub is_outage_with
{
	my ($node, $topic, $error, $good, %other) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is_outage(
		$node, $topic, $error,
		sub { reload($node, %other) },
		sub { reload($node, (map { $_ => undef } keys %other), %$good) });
}

1;
