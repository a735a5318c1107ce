# What the tests of brokers have alike: outages, ends while a broker hangs, and
# reloads under load.

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
  follows_file
  is_outage
  is_outage_with
  publisher_changes_under_load
  relay_ends_beside_hanging
  relay_ends_soon
  settings_change_under_load
  wait_sent
);

use constant {
	ENDS_WITHIN => 1.5,    # seconds; CHANGELOG says one
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

# follows_file($node, $topic, $setting, $file, $wrong, $right): test that the secret
# file which the setting names is read again without a reload.  With the wrong text in
# it nothing can be sent.
sub follows_file
{
	my ($node, $topic, $setting, $file, $wrong, $right) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $usable = sub {
		my ($ok, $name) = @_;
		my @ids;

		# a look at files is taken when something is sent
		poll_until(
			sub {
				push @ids, scalar publish($node, $topic);
				return check_value($node, 'files usable', 'ok') eq $ok;
			},
			"files usable to be $ok") and pass($name);
		return wait_state($node, \@ids, 'published');
	};

	write_secret($file, $wrong);
	reload($node, $setting => $file);
	my $id = publish($node, $topic);
	wait_relay_value($node, state => 'endpoint down');
	write_secret($file, $right);
	ok(wait_state($node, $id, 'published'), 'another file is read without a reload');
	$usable->('t', 'it can be used');
	chmod 0644, $file or die "chmod $file: $!";
	$usable->('f', 'a file that everybody may read is not used, and what was read before is');
	chmod 0600, $file or die "chmod $file: $!";
	$usable->('t', 'until that is mended');
	return;
}

# settings_change_under_load($node, $topic, $publisher): publish while a setting of
# the publisher changes; returns the ids of the events when all are sent
sub settings_change_under_load
{
	my ($node, $topic, $publisher) = @_;
	my @ids = publish($node, $topic, count => 2000);

	foreach my $window (100, 700, 1000)
	{
		reload($node, "$publisher.max_messages" => $window);
		push @ids, publish($node, $topic, count => 1000);
	}
	wait_sent($node);
	return @ids;
}

# publisher_changes_under_load($node, $topic, $publisher, $receiver): publish while an
# HTTP receiver takes the publisher's place, and back; returns those of the events
# that the receiver has not got, when all are sent
sub publisher_changes_under_load
{
	my ($node, $topic, $publisher, $receiver) = @_;
	my @ids = publish($node, $topic, count => 2000);

	reload(
		$node,
		'outbox.publisher' => 'http',
		'outbox.http_url' => $receiver->url . '/events');
	push @ids, publish($node, $topic, count => 1000);
	poll_until(sub { $receiver->stats->{distinct_ids} > 0 }, 'the other one to have some');
	reload($node, 'outbox.publisher' => $publisher);
	push @ids, publish($node, $topic, count => 1000);
	wait_sent($node);
	my %elsewhere = map { $_->{id} => 1 } $receiver->accepted(fields => ['id']);
	return grep { !$elsewhere{$_} } @ids;
}

1;
