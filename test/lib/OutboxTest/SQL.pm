# What the TAP tests say to a server in SQL: publishing, looking at what the
# extension shows, and waiting until it shows something.
#
# Of several databases the one that is meant is the last argument or the option
# db; without it, it is postgres.

package OutboxTest::SQL;

use strict;
use warnings FATAL => 'all';

use Exporter qw(import);
use Test::More;

use OutboxTest::Poll;

our @EXPORT = qw(
  check_value
  database_source
  event_state
  event_value
  fails_with
  launcher_pid
  literal
  publish
  publish_sql
  query
  relay_pid
  relay_value
  restart_relay
  stat_value
  states
  try_query
  wait_relay
  wait_relay_value
  wait_settled
  wait_stat
  wait_state
  wait_states
);

# --- Asking and publishing

# literal($text): an SQL literal of a text of characters, in UTF-8
sub literal
{
	my ($text) = @_;
	utf8::encode($text);
	$text =~ s/'/''/g;
	return "'$text'";
}

# query($node, $sql, $db): what psql shows, unaligned; dies of an error
sub query
{
	my ($node, $sql, $db) = @_;
	return $node->safe_psql($db // 'postgres', $sql);
}

# try_query($node, $sql, $db): the same, or '' if the server cannot be asked just
# now, or knows better
sub try_query
{
	my ($node, $sql, $db) = @_;
	my ($status, $stdout);

	# psql may be gone before it has read what it is to ask
	return '' if !eval { ($status, $stdout) = $node->psql($db // 'postgres', $sql); 1; }
	  && $@ =~ /Broken pipe/;
	die $@ unless defined $status;
	return $status == 0 ? $stdout : '';
}

# fails_with($node, $sql, $code, $name): test that the last of the statements
# is an error with this SQLSTATE, and the first one that is
sub fails_with
{
	my ($node, $sql, $code, $name) = @_;
	my ($status, undef, $stderr) =
	  $node->psql('postgres', "\\set VERBOSITY sqlstate\n$sql");

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$stderr =~ s/:\d+:/:/;
	return is("$status $stderr", "3 psql:<stdin>: ERROR:  $code",
		"$name, with code $code");
}

# publish_sql($topic, %opts)
#
# SQL that publishes events in one statement, numbered n = 1, 2 and so on, and
# shows their ids in this order.  Options:
#	count	how many (default: 1)
#	payload	JSON, as an SQL expression of n (default: 'to_jsonb(n)')
#	key	their key, a text
#	more	further arguments of outbox_publish() in SQL: q{key => 'k' || n}
#	schema	that of the extension (default: public)
sub publish_sql
{
	my ($topic, %opts) = @_;
	my @arguments = (literal($topic), $opts{payload} // 'to_jsonb(n)');

	push @arguments, 'key => ' . literal($opts{key}) if defined $opts{key};
	push @arguments, $opts{more} if defined $opts{more};
	return sprintf('SELECT "%s".outbox_publish(%s) FROM generate_series(1, %d) n',
		$opts{schema} // 'public', join(', ', @arguments), $opts{count} // 1);
}

# publish($node, $topic, %opts)
#
# Publish events in a transaction of their own, and return their ids in order,
# or in scalar context the only one.  Options are those of publish_sql(), and
#	db	in this database
sub publish
{
	my ($node, $topic, %opts) = @_;
	my @ids = split /\n/, query($node, publish_sql($topic, %opts), $opts{db});
	return wantarray ? @ids : $ids[0];
}

# --- What SQL shows

# event_value($node, $event_id, $columns, $db): of outbox_events, with | between
sub event_value
{
	my ($node, $id, $columns, $db) = @_;
	return query($node,
		"SELECT $columns FROM outbox_events WHERE event_id = " . literal($id),
		$db);
}

# event_state($node, $event_id, $db): the event's state; '' if there is no such
# event, or the server cannot be asked just now
sub event_state
{
	my ($node, $id, $db) = @_;
	return try_query($node,
		'SELECT state FROM outbox_events WHERE event_id = ' . literal($id), $db);
}

# states($node, $topic)
#
# The states of a topic's events in the order of their ids, runs of the same
# state as "state*length": "published*4 failed*1 blocked*5"
sub states
{
	my ($node, $topic) = @_;
	my @runs;

	foreach my $state (split /\n/, query($node, q{
		SELECT v.state FROM outbox_events v JOIN outbox_event e USING (event_id)
		WHERE e.topic = } . literal($topic) . ' ORDER BY e.id'))
	{
		push @runs, [ $state, 0 ] unless @runs && $runs[-1][0] eq $state;
		$runs[-1][1]++;
	}
	return join ' ', map { "$_->[0]*$_->[1]" } @runs;
}

# relay_value($node, $column, $db): of the database's row of outbox_relays
sub relay_value
{
	my ($node, $column, $db) = @_;
	return try_query($node,
		"SELECT $column FROM outbox_relays WHERE datname = current_database()",
		$db);
}

# stat_value($node, $column, $db): of outbox_stats
sub stat_value
{
	my ($node, $column, $db) = @_;
	return query($node, "SELECT $column FROM outbox_stats", $db);
}

# wait_stat($node, $column, $wanted, $name)
#
# Wait until a counter of outbox_stats is what is wanted, which is seen by a second later at
# most, and test that it is not more.
sub wait_stat
{
	my ($node, $column, $wanted, $name) = @_;
	my $is;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	poll_until(
		sub {
			$is = try_query($node, "SELECT $column FROM outbox_stats WHERE destination = 'default'");
			return $is ne '' && $is >= $wanted;
		},
		"$column to be $wanted");
	return is($is, $wanted, $name // "$column is $wanted");
}

# check_value($node, $check, $columns, $db): of outbox_check(), with | between
sub check_value
{
	my ($node, $check, $columns, $db) = @_;
	return query($node,
		"SELECT $columns FROM outbox_check() WHERE \"check\" = " . literal($check),
		$db);
}

# database_source($node, $db): the source of its events, unless outbox.source is set
sub database_source
{
	my ($node, $db) = @_;
	return query($node, 'SELECT source FROM outbox_source', $db);
}

# relay_pid($node, $db): the relay's pid, or undef
sub relay_pid
{
	my ($node, $db) = @_;
	return try_query($node,
		    q{SELECT pid FROM pg_stat_activity}
		  . q{ WHERE backend_type = 'outbox relay' AND datname = }
		  . literal($db // 'postgres')) || undef;
}

# launcher_pid($node): the launcher's pid, or undef
sub launcher_pid
{
	my ($node) = @_;
	return try_query($node,
		q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'outbox launcher'}
	) || undef;
}

# --- Waiting for what SQL shows

# wait_relay($node, %opts)
#
# Wait until the server is there and a relay runs, and return its pid.  Options:
#	db	of this database
#	not	it is not this one
sub wait_relay
{
	my ($node, %opts) = @_;
	my $db = $opts{db} // 'postgres';
	my $other = $opts{not} // 0;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return poll_until(
		sub {
			my $pid = relay_pid($node, $db);
			return defined $pid && $pid ne $other ? $pid : 0;
		},
		"a relay of database $db");
}

# restart_relay($node, $db): have the relay end in order, and return the pid of
# the next one when that is there
sub restart_relay
{
	my ($node, $db) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $pid = wait_relay($node, db => $db);
	query($node, "SELECT pg_terminate_backend($pid)");
	return wait_relay($node, db => $db, not => $pid);
}

# wait_relay_value($node, $column, $wanted, $timeout_s): wait until the column of
# outbox_relays is this string or matches this pattern
sub wait_relay_value
{
	my ($node, $column, $wanted, $timeout) = @_;
	my $value;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $reached = poll_until(
		sub {
			$value = relay_value($node, $column);
			return ref $wanted ? $value =~ $wanted : $value eq $wanted;
		},
		"$column of outbox_relays to be $wanted", $timeout);
	diag("it is $value") unless $reached;
	return $reached;
}

# wait_state($node, $event_id, $state, $timeout_s): one event, or each of those
# in an array
sub wait_state
{
	my ($node, $ids, $state, $timeout) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	foreach my $id (ref $ids ? @$ids : $ids)
	{
		poll_until(sub { event_state($node, $id) eq $state },
			"the event to be $state", $timeout)
		  or return undef;
	}
	return 1;
}

# wait_states($node, $topic, $wanted, $name): wait until states() is as wanted,
# and test it
sub wait_states
{
	my ($node, $topic, $wanted, $name) = @_;
	my $states;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	poll_until(sub { $states = states($node, $topic); $states eq $wanted },
		"the states of $topic");
	return is($states, $wanted, $name // "$topic: $wanted");
}

# wait_settled($node): wait until nothing is left to be sent
sub wait_settled
{
	my ($node) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return poll_until(sub { stat_value($node, 'backlog') eq '0' },
		'the backlog to be empty');
}

1;
