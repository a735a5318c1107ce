# The servers of the TAP tests: nodes that have the extension's library loaded,
# their settings, and their time.

package OutboxTest::Node;

use strict;
use warnings FATAL => 'all';

use Exporter qw(import);
use Test::More;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

use OutboxTest::Poll;
use OutboxTest::SQL;

our @EXPORT = qw(
  damage_page
  disable
  let_time_pass
  new_node
  private_memory
  processor_ticks
  reload
  restart_after_kill9
  wait_log
  write_secret
);

# Settings that new_node() begins with: whatever takes its time in production is
# short, so that a test that is not about waiting need not wait.
my %quick = (
	'outbox.poll_interval' => '100ms',
	'outbox.local_failed_retry_interval' => '50ms',
	'outbox.failed_retry_interval' => '100ms',
	'outbox.minimum_retry_interval' => '50ms',
	'outbox.breaker_probe_interval' => '100ms');

# Of every node that new_node() made: the object, the text of postgresql.conf
# as it was then, and how many milliseconds have passed by let_time_pass().
my @made;

sub _conf_line
{
	my ($name, $value) = @_;
	$value =~ s/'/''/g;
	return "$name = '$value'\n";
}

# new_node($name, %opts)
#
# A node that has the extension's library loaded, and quick settings.  Options:
#	conf	settings for postgresql.conf: { 'outbox.poll_interval' => '1h' };
#		undef: the default
#	init	parameters for PostgreSQL::Test::Cluster->init
#	start	start it (default: yes)
#	clock	preload what let_time_pass() needs
sub new_node
{
	my ($name, %opts) = @_;
	my %conf = (
		%quick,
		shared_preload_libraries =>
		  $opts{clock} ? 'outbox, outbox_test_clock' : 'outbox',
		# Cluster.pm turns it off; a crash of the relay is what we test.
		restart_after_crash => 'on',
		max_prepared_transactions => 10,
		# A request an event, unless the test is about batches.
		'outbox.dapr_bulk' => 'off',
		%{ $opts{conf} // {} });

	my $node = PostgreSQL::Test::Cluster->new($name);
	$node->init(%{ $opts{init} // {} });
	$node->append_conf('postgresql.conf',
		join('',
			map { _conf_line($_, $conf{$_}) }
			  grep { defined $conf{$_} } sort keys %conf));
	push @made,
	  {
		node => $node,
		conf => slurp_file($node->data_dir . '/postgresql.conf'),
		skew => 0
	  };
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
	my $loaded = query($node, 'SELECT pg_conf_load_time()');
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	foreach my $name (sort keys %settings)
	{
		$node->adjust_conf('postgresql.conf', quotemeta($name), undef);
		$node->append_conf('postgresql.conf',
			_conf_line($name, $settings{$name}))
		  if defined $settings{$name};
	}
	$node->reload;
	return poll_until(
		sub { try_query($node, 'SELECT pg_conf_load_time()') ne $loaded },
		'the settings to be reloaded');
}

# let_time_pass($node, $ms)
#
# Have the relays of the node believe that so many milliseconds have passed,
# and return when new sessions know it.  The clocks of SQL and of the receiver
# stay as they are.  For a node made with "clock" and a relay in postgres.
sub let_time_pass
{
	my ($node, $ms) = @_;
	my ($made) = grep { $_->{node} == $node } @made;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$made->{skew} += $ms;
	return reload($node, 'outbox_test.clock_skew' => $made->{skew});
}

# disable($node)
#
# Have the relay of database postgres pause, and return when it does.
sub disable
{
	my ($node) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	reload($node, 'outbox.enabled' => 'off');
	return wait_relay_value($node, state => 'disabled');
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

# put_back_nodes: every node has the settings of new_node() and the time of day
# again.  Time does not go back for a process that runs: where it was let pass,
# the server begins anew.
sub put_back_nodes
{
	_put_back($_) foreach grep { -d $_->{node}->data_dir } @made;
	return;
}

sub _put_back
{
	my ($made) = @_;
	my ($node, $skew) = @{$made}{qw(node skew)};
	my $file = $node->data_dir . '/postgresql.conf';

	$made->{skew} = 0;
	return if slurp_file($file) eq $made->{conf};
	open(my $handle, '>', $file) or die "could not open $file: $!";
	print $handle $made->{conf};
	close($handle);
	return unless -e $node->data_dir . '/postmaster.pid';
	if ($skew)
	{
		$node->restart;
		wait_relay($node);
	}
	else
	{
		reload($node);
	}
	return;
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

# write_secret($path, $text)
#
# A new file that only the server's user may read
sub write_secret
{
	my ($path, $text) = @_;
	unlink $path;
	append_to_file($path, $text);
	chmod 0600, $path or die "chmod $path: $!";
	return;
}

# private_memory($pid): kilobytes that are the process's own
sub private_memory
{
	my ($pid) = @_;
	my ($kb) = slurp_file("/proc/$pid/status") =~ /^RssAnon:\s*(\d+) kB$/m;
	return $kb;
}

# damage_page($node, $file, $page): make a page unreadable, while the server is stopped
sub damage_page
{
	my ($node, $file, $page) = @_;
	open(my $handle, '+<', $node->data_dir . "/$file")
	  or die "could not open $file: $!";
	seek($handle, 8192 * $page, 0);
	print $handle 'x' x 24;
	close($handle);
	return;
}

# processor_ticks($pid): hundredths of a second that the process has worked
sub processor_ticks
{
	my ($pid) = @_;
	my @fields = split / /, slurp_file("/proc/$pid/stat") =~ s/\(.*\)/()/r;
	return $fields[13] + $fields[14];
}

1;
