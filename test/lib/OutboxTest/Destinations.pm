# What the tests of several destinations have alike: adding and dropping them, and
# looking at the relay and the events of each.  All in database postgres.

package OutboxTest::Destinations;

use strict;
use warnings FATAL => 'all';

use Exporter qw(import);
use JSON::PP ();
use Test::More;

use OutboxTest::Poll;
use OutboxTest::SQL;

our @EXPORT = qw(
  add_destination
  add_destination_sql
  drop_destinations
  out_of_order
  relay_of
  states_of
  wait_relay_of
  wait_relay_of_value
  wait_sent_to
  wait_states_of
);

# add_destination_sql($name, $topics, \%settings, $more): SQL that adds a destination;
# "more" are further arguments, with the comma in front
sub add_destination_sql
{
	my ($name, $topics, $settings, $more) = @_;
	my $json = JSON::PP->new->canonical->encode($settings);
	return "SELECT outbox_add_destination('$name', '$topics', '$json'" . ($more // '') . ')';
}

# add_destination($node, ...): run that, and wait for the relay
sub add_destination
{
	my ($node, $name, @rest) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	query($node, add_destination_sql($name, @rest));
	wait_relay_of($node, $name);
	return;
}

# drop_destinations($node, @names): return when their relays are gone
sub drop_destinations
{
	my ($node, @names) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	foreach my $name (@names)
	{
		query($node, "SET client_min_messages = error; SELECT outbox_drop_destination('$name')");
		poll_until(sub { relay_of($node, $name, 'pid') eq '' }, "no relay of $name");
	}
	return;
}

# relay_of($node, $name, $column): of outbox_relays for a destination; '' if there is
# none
sub relay_of
{
	my ($node, $name, $column) = @_;
	return try_query($node, "SELECT $column FROM outbox_relays"
		  . " WHERE datname = current_database() AND destination = '$name'");
}

# wait_relay_of($node, $name, $not): wait until a destination's relay runs that has
# another pid; its pid
sub wait_relay_of
{
	my ($node, $name, $not) = @_;
	my $pid;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	poll_until(
		sub {
			$pid = relay_of($node, $name, 'pid');
			return $pid ne '' && $pid ne ($not // '')
			  && relay_of($node, $name, 'state') ne 'starting';
		},
		"a relay of destination $name");
	return $pid;
}

# wait_relay_of_value($node, $name, $column, $wanted)
sub wait_relay_of_value
{
	my ($node, $name, $column, $wanted) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return poll_until(sub { relay_of($node, $name, $column) eq $wanted },
		"$column of the relay of $name to be $wanted");
}

# wait_sent_to($node, @names): wait until nothing is left to be sent to these
# destinations
sub wait_sent_to
{
	my ($node, @names) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	foreach my $name (@names)
	{
		poll_until(
			sub { try_query($node, "SELECT backlog FROM outbox_stats WHERE destination = '$name'") eq '0' },
			"all to be sent to $name");
	}
	return;
}

# states_of($node, $event_id): by destination: "audit dead, default published"
sub states_of
{
	my ($node, $id) = @_;
	return try_query($node, q{SELECT string_agg(concat_ws(' ', destination, state), ', '
		ORDER BY destination) FROM outbox_events WHERE event_id = } . literal($id));
}

# wait_states_of($node, $event_id, $wanted, $name): wait until they are as wanted,
# and test it
sub wait_states_of
{
	my ($node, $id, $wanted, $name) = @_;
	my $states;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	poll_until(sub { $states = states_of($node, $id); $states eq $wanted }, "the states to be $wanted");
	return is($states, $wanted, $name // "it is $wanted");
}

# out_of_order($receiver, \%key_of, @ids): how many of these events the receiver has
# first taken before an earlier one of their key; one that it has not taken counts
sub out_of_order
{
	my ($receiver, $key_of, @ids) = @_;
	my (%at, %last);
	my $wrong = 0;
	my $n = 0;

	foreach my $entry ($receiver->accepted(fields => ['id']))
	{
		$at{ $entry->{id} } //= $n++ if defined $entry->{id};
	}
	foreach my $id (@ids)
	{
		my $key = $key_of->{$id};
		$wrong++ if !defined $at{$id} || $at{$id} < ($last{$key} // -1);
		$last{$key} = $at{$id} if defined $at{$id};
	}
	return $wrong;
}

1;
