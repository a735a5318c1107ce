# What the TAP tests in test/t share: a node with the extension loaded, the
# receiver as an object (OutboxTest/Receiver.pm), and waiting for things to happen.
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
use Test::More;
use Time::HiRes qw(sleep time);

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

use OutboxTest::Receiver;

our @EXPORT = qw(
  disable
  event_state
  launcher_pid
  new_node
  poll_until
  private_memory
  relay_pid
  reload
  restart_after_kill9
  start_receiver
  taken_once
  wait_delivered
  wait_log
  wait_relay
  wait_state
);

use constant {
	POLL_INTERVAL => 0.02,
	DEFAULT_TIMEOUT => 30,
};

# poll_until($sub, $what, $timeout_s)
#
# Call $sub until it returns something true, and return that.  When the time is
# up, the test named $what fails and undef is returned; nothing is reported when
# all goes well.
sub poll_until
{
	my ($sub, $what, $timeout) = @_;
	my $deadline = time() + ($timeout // DEFAULT_TIMEOUT);

	local $Test::Builder::Level = $Test::Builder::Level + 1;

	while (1)
	{
		my $late = time() > $deadline;
		my $value = $sub->();
		return $value if $value;
		last if $late;    # so that the last try is made after the deadline
		sleep(POLL_INTERVAL);
	}
	fail("timed out waiting for $what");
	return undef;
}

# --- Nodes

sub _conf_line
{
	my ($name, $value) = @_;
	$value =~ s/'/''/g;
	return "$name = '$value'\n";
}

# new_node($name, %opts)
#
# A node that has the extension's library loaded.  Options:
#	conf	settings for postgresql.conf: { 'outbox.poll_interval' => '100ms' }
#	init	parameters for PostgreSQL::Test::Cluster->init
#	start	start it (default: yes)
sub new_node
{
	my ($name, %opts) = @_;
	my %conf = (
		shared_preload_libraries => 'outbox',
		# Cluster.pm turns it off; a crash of the relay is what we test.
		restart_after_crash => 'on',
		max_prepared_transactions => 10,
		# A request an event, unless the test is about batches.
		'outbox.dapr_bulk' => 'off',
		%{ $opts{conf} // {} });

	my $node = PostgreSQL::Test::Cluster->new($name);
	$node->init(%{ $opts{init} // {} });
	$node->append_conf('postgresql.conf',
		join('', map { _conf_line($_, $conf{$_}) } sort keys %conf));
	$node->start if $opts{start} // 1;
	return $node;
}

# reload($node, %settings)
#
# Change settings (undef takes one out of the file) and return when new
# sessions have them.  Workers that run already may need a moment more.
sub reload
{
	my ($node, %settings) = @_;
	my $loaded = $node->safe_psql('postgres', 'SELECT pg_conf_load_time()');

	foreach my $name (sort keys %settings)
	{
		$node->adjust_conf('postgresql.conf', quotemeta($name), undef);
		$node->append_conf('postgresql.conf',
			_conf_line($name, $settings{$name}))
		  if defined $settings{$name};
	}
	$node->reload;
	return poll_until(
		sub { _query($node, 'SELECT pg_conf_load_time()') ne $loaded },
		'the settings to be reloaded');
}

# disable($node)
#
# Have the relay of database postgres pause, and return when it does.
sub disable
{
	my ($node) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	reload($node, 'outbox.enabled' => 'off');
	return poll_until(
		sub {
			_query($node, q{SELECT state FROM outbox_relays
				WHERE datname = current_database()}) eq 'disabled';
		},
		'the relay to pause');
}

# restart_after_kill9($node)
#
# Start a node whose postmaster was killed.  Its children may take a moment to
# notice, and the server refuses to start until the last of them has gone.
sub restart_after_kill9
{
	my ($node) = @_;
	return poll_until(
		sub {
			return 1 if $node->start(fail_ok => 1);
			# Make the object forget the server that did not come up.
			$node->stop('fast', fail_ok => 1);
			return 0;
		},
		'the server to start after a kill');
}

# One value, or '' if there is none or if the server cannot be asked just now.
sub _query
{
	my ($node, $sql, $db) = @_;
	my ($status, $stdout) = $node->psql($db // 'postgres', $sql);
	return $status == 0 ? $stdout : '';
}

sub _literal
{
	my ($text) = @_;
	$text =~ s/'/''/g;
	return "'$text'";
}

# relay_pid($node, $db): the relay's pid, or undef
sub relay_pid
{
	my ($node, $db) = @_;
	return _query($node,
		    q{SELECT pid FROM pg_stat_activity}
		  . q{ WHERE backend_type = 'outbox relay' AND datname = }
		  . _literal($db)) || undef;
}

# launcher_pid($node): the launcher's pid, or undef
sub launcher_pid
{
	my ($node) = @_;
	return _query($node,
		q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'outbox launcher'}
	) || undef;
}

# event_state($node, $db, $event_id): the event's state, or undef
sub event_state
{
	my ($node, $db, $event_id) = @_;
	return _query(
		$node,
		'SELECT state FROM outbox_events WHERE event_id = '
		  . _literal($event_id),
		$db) || undef;
}

# wait_relay($node, %opts)
#
# Wait until the server is there and a relay runs, and return its pid.  Options:
#	db	of this database (default: postgres)
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

# wait_state($node, $event_id, $state, $timeout_s): of an event in postgres
sub wait_state
{
	my ($node, $id, $state, $timeout) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return poll_until(
		sub { (event_state($node, 'postgres', $id) // '') eq $state },
		"the event to be $state", $timeout);
}

# wait_log($node, $pattern, $offset)
#
# Wait until the server's log has the pattern behind $offset, and return what is
# there.
sub wait_log
{
	my ($node, $pattern, $offset) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	poll_until(sub { slurp_file($node->logfile, $offset) =~ $pattern },
		"$pattern in the log");
	return slurp_file($node->logfile, $offset);
}

# private_memory($pid): kilobytes that are the process's own
sub private_memory
{
	my ($pid) = @_;
	my ($kb) = slurp_file("/proc/$pid/status") =~ /^RssAnon:\s*(\d+) kB$/m;
	return $kb;
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

1;
