# What the TAP tests in test/t share.  They use this module alone, which hands on
# what those below define:
#
#	OutboxTest/Poll.pm		waiting for anything at all
#	OutboxTest/SQL.pm		publishing, looking, waiting for what SQL shows
#	OutboxTest/Node.pm		servers, settings, time
#	OutboxTest/Receiver.pm	the receiver as an object
#
# (Those of modules/ have OutboxTest/Outage.pm besides, those of several destinations
# OutboxTest/Destinations.pm, those of upgrades OutboxTest/Upgrade.pm, those of
# documents OutboxTest/Page.pm.  OutboxTest/Newcomer.pm and BareDebian.pm are for who has no
# server yet.)
#
# and has promises (subtests that can run alone) and what receivers have taken.
#
# Nothing here sleeps and hopes.  Whatever takes its time is polled with a
# deadline, by poll_until(); a deadline that passes is a failed test with a
# name, and the test goes on.
#
# The tests run from the project's root with -Itest/lib, or "use lib".

package OutboxTest;

use strict;
use warnings FATAL => 'all';

use Exporter qw(import);
use JSON::PP ();
use Test::More;

# The first one, so that servers outlive receivers when a test ends.
use PostgreSQL::Test::Cluster;

use OutboxTest::Node;
use OutboxTest::Poll;
use OutboxTest::Receiver;
use OutboxTest::SQL;

our @EXPORT = (
	qw(
	  cloud_event
	  dapr_error
	  promise
	  start_receiver
	  taken_once
	  wait_delivered
	),
	@OutboxTest::Node::EXPORT,
	@OutboxTest::Poll::EXPORT,
	@OutboxTest::SQL::EXPORT);

# --- Promises

# How many of this file have run
my $nran = 0;

# promise($name, $sub)
#
# A subtest for one promise.  It can run alone: if OUTBOX_SUBTEST is set in the
# environment, promises whose names do not match that regular expression are
# skipped.  So none may need what another one leaves.  Afterwards the receivers
# have forgotten what they were told and what they got, and the nodes have the
# settings of new_node() and the time of day again; what was published stays, so
# that topics and ids have to be the promise's own.
sub promise
{
	my ($name, $sub) = @_;
	my $asked_for = $ENV{OUTBOX_SUBTEST};
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	if (defined $asked_for && $name !~ /(?:$asked_for)/)
	{
	  SKIP: { skip("$name: not asked for by OUTBOX_SUBTEST", 1); }
		return;
	}
	$nran++;
	subtest($name, $sub);
	OutboxTest::Receiver->put_back_all;
	OutboxTest::Node::put_back_nodes();
	return;
}

END
{
	diag("no promise of this file matches OUTBOX_SUBTEST=$ENV{OUTBOX_SUBTEST}")
	  if defined $ENV{OUTBOX_SUBTEST} && !$nran;
}

# --- The receiver

# start_receiver(mode => 'dapr' | 'http', %options): see OutboxTest::Receiver
sub start_receiver
{
	my (%options) = @_;
	return OutboxTest::Receiver->new(%options);
}

# wait_delivered($receiver, $wanted, $timeout_s)
#
# Wait until the receiver has taken $wanted events of different ids, or each of
# the ids in the array that $wanted refers to.
sub wait_delivered
{
	my ($receiver, $wanted, $timeout) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return poll_until(sub { $receiver->stats->{distinct_ids} >= $wanted },
		"$wanted events to be delivered", $timeout)
	  unless ref $wanted;

	my %missing = map { $_ => 1 } @$wanted;
	my $seen = 0;
	my $delivered = poll_until(
		sub {
			my @news = $receiver->accepted(
				since => $seen,
				fields => [ 'seq', 'id' ]);
			$seen = $news[-1]{seq} if @news;
			delete @missing{ grep { defined } map { $_->{id} } @news };
			return !%missing;
		},
		scalar(@$wanted) . ' named events to be delivered', $timeout);
	diag('not delivered: ' . join(', ', sort keys %missing)) if %missing;
	return $delivered;
}

# taken_once($receiver, $ids, $name)
#
# Test that the receiver has taken each of these events exactly once.
sub taken_once
{
	my ($receiver, $ids, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my %wanted = map { $_ => 1 } @$ids;
	my @taken = map { $_->{id} // '' } $receiver->accepted(fields => ['id']);
	is_deeply([ sort grep { $wanted{$_} } @taken ], [ sort @$ids ], $name);
	return;
}

# cloud_event($entry): the CloudEvent in the body of an entry of the log
sub cloud_event
{
	my ($entry) = @_;
	return JSON::PP->new->decode($entry->{body});
}

# dapr_error($status, $code, %rule): a fault rule by which one of Dapr's errors
# is the answer
sub dapr_error
{
	my ($status, $code, %rule) = @_;
	return {
		status => $status,
		body => { errorCode => $code, message => 'scripted' },
		%rule
	};
}

1;
