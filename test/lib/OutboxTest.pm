# What the TAP tests in test/t share: a node with the extension loaded, the
# receiver (test/receiver) as an object, and waiting for things to happen.
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


# A running receiver.py.  It is told what to do through its control port, which
# no fault touches.  Each is stopped at the end of the test at the latest.
package OutboxTest::Receiver;

use strict;
use warnings FATAL => 'all';

use Carp;
use File::Basename qw(dirname);
use HTTP::Tiny;
use JSON::PP ();
use POSIX qw(:sys_wait_h);
use Scalar::Util qw(weaken);
use Time::HiRes qw(sleep time);

use constant {
	POLL_INTERVAL => 0.02,
	START_TIMEOUT => 30,
	CONTROL_TIMEOUT => 60,
};

# Debian's, so that a test user without a home of its own can run it.
my $python = $ENV{PYTHON} // '/usr/bin/python3';
my $program = dirname(__FILE__) . '/../receiver/receiver.py';
my $json = JSON::PP->new->utf8->allow_nonref;
my @receivers;

# new(mode => 'dapr' | 'http', %options)
#
# Options are those of receiver.py, with underscores: token, app_id, profile,
# components (a hash), max_body, max_header, unix, tls_cert, tls_key, port.
# "port" defaults to a free one, "unix" without "port" means no TCP port.
sub new
{
	my ($class, %options) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir('receiver');

	# A port of 0 is replaced by the real one as soon as it is known, so that
	# the receiver has it again after a restart.
	$options{port} //= 0 unless defined $options{unix};
	my $self = bless {
		dir => $dir,
		owner => $$,
		options => {
			mode => 'dapr',
			ctl_port => 0,
			port_file => "$dir/port",
			ctl_port_file => "$dir/ctl_port",
			log => "$dir/log",
			%options
		},
		# A proxy of the environment has no business between us.
		http => HTTP::Tiny->new(
			timeout => CONTROL_TIMEOUT,
			proxy => undef,
			http_proxy => undef),
	}, $class;

	push @receivers, $self;
	weaken($receivers[-1]);
	return $self->start;
}

# start: again, after stop or kill, on the same ports.  The log is kept; fault
# rules and state are not.
sub start
{
	my ($self) = @_;
	my $options = $self->{options};

	unlink $options->{port_file}, $options->{ctl_port_file};
	$self->{pid} = $self->_spawn($self->_arguments);
	$options->{port} = $self->_await_port($options->{port_file})
	  if defined $options->{port};
	$options->{ctl_port} = $self->_await_port($options->{ctl_port_file});
	return $self;
}

sub _arguments
{
	my ($self) = @_;
	my $options = $self->{options};
	my @arguments = ('--exit-with-parent');

	foreach my $name (sort keys %$options)
	{
		my $value = $options->{$name};
		$value = $json->encode($value) if ref $value;
		(my $option = "--$name") =~ tr/_/-/;
		push @arguments, $option, $value;
	}
	return @arguments;
}

sub _spawn
{
	my ($self, @arguments) = @_;
	my $output = "$self->{dir}/output";

	my $pid = fork() // croak "could not fork: $!";
	return $pid if $pid;

	# Leave without END blocks: they belong to the test.
	open(STDIN, '<', '/dev/null') or POSIX::_exit(126);
	open(STDOUT, '>>', $output) or POSIX::_exit(126);
	open(STDERR, '>>&', \*STDOUT) or POSIX::_exit(126);
	no warnings 'exec';
	exec($python, $program, @arguments) or POSIX::_exit(127);
}

sub _await_port
{
	my ($self, $file) = @_;
	my $deadline = time() + START_TIMEOUT;

	until (-e $file)
	{
		my $gone = waitpid($self->{pid}, WNOHANG) != 0;
		$self->{pid} = undef if $gone;
		croak "the receiver did not start:\n" . $self->output
		  if $gone || time() > $deadline;
		sleep(POLL_INTERVAL);
	}
	my $port = PostgreSQL::Test::Utils::slurp_file($file);
	chomp $port;
	return $port;
}

# output: what the receiver has printed: nothing, unless it has a bug
sub output
{
	my ($self) = @_;
	return PostgreSQL::Test::Utils::slurp_file("$self->{dir}/output");
}

# stop: as an orderly shutdown; kill: as a crash.  What was acknowledged before
# is in the log all the same.
sub stop { return $_[0]->_end('TERM'); }
sub kill { return $_[0]->_end('KILL'); }

sub restart
{
	my ($self) = @_;
	return $self->stop->start;
}

sub _end
{
	my ($self, $signal) = @_;

	if (defined $self->{pid})
	{
		local $?;
		CORE::kill($signal, $self->{pid});
		waitpid($self->{pid}, 0);
		$self->{pid} = undef;
	}
	return $self;
}

# A forked child of the test has a copy of the object, not the receiver.
sub _release
{
	my ($self) = @_;
	$self->stop if $self->{owner} == $$;
	return;
}

sub DESTROY
{
	my ($self) = @_;
	$self->_release;
	return;
}

END
{
	$_->_release foreach grep { defined } @receivers;
}

sub pid { return $_[0]{pid}; }
sub port { return $_[0]{options}{port}; }
sub ctl_port { return $_[0]{options}{ctl_port}; }
sub unix { return $_[0]{options}{unix}; }

# url: what outbox.dapr_endpoint or outbox.http_url take (no trailing slash)
sub url
{
	my ($self) = @_;
	my $scheme = defined $self->{options}{tls_cert} ? 'https' : 'http';
	return "$scheme://127.0.0.1:" . $self->port;
}

# --- Control

sub _control
{
	my ($self, $method, $what, $content) = @_;
	my $url = 'http://127.0.0.1:' . $self->ctl_port . "/__ctl/$what";
	my $answer = $self->{http}->request($method, $url,
		defined $content ? { content => $json->encode($content) } : {});

	croak "$method $what: $answer->{status} $answer->{content}"
	  unless $answer->{success};
	return $json->decode($answer->{content});
}

# log(%filter): what was received, in order
#
# Filters are names of entry fields with the value wanted: a string, a regular
# expression, or a sub that is given the value.  Besides, the receiver itself
# understands
#	since => SEQ			only later entries
#	accepted => 0 | 1		taken, or not
#	fields => [names]		leave out the rest (much faster with many entries)
sub log
{
	my ($self, %filter) = @_;
	my @query;

	push @query, 'since=' . delete $filter{since} if exists $filter{since};
	push @query, 'accepted=' . (delete $filter{accepted} ? 1 : 0)
	  if exists $filter{accepted};
	push @query, 'fields=' . join(',', @{ delete $filter{fields} }, keys %filter)
	  if exists $filter{fields};

	my $entries = $self->_control('GET', 'log?' . join('&', @query));
	return grep { _passes($_, \%filter) } @$entries;
}

sub _passes
{
	my ($entry, $filter) = @_;

	foreach my $name (keys %$filter)
	{
		my ($value, $wanted) = ($entry->{$name}, $filter->{$name});
		return 0
		  unless ref $wanted eq 'CODE' ? $wanted->($value)
		  : !defined $value || !defined $wanted ? !defined $value && !defined $wanted
		  : ref $wanted eq 'Regexp' ? $value =~ $wanted
		  :                           $value eq $wanted;
	}
	return 1;
}

# accepted(%filter): what was taken, that is, delivered
sub accepted
{
	my ($self, %filter) = @_;
	return $self->log(%filter, accepted => 1);
}

# faults(\@rules): replace the fault rules (see Rule in test/receiver/rules.py),
# and let go of requests that hang; without rules, return those in force, with
# how often each was "seen" and has "fired"
sub faults
{
	my ($self, $rules) = @_;
	return defined $rules
	  ? $self->_control('POST', 'faults', $rules)
	  : $self->_control('GET', 'faults');
}

# state(listening => 0, ready => 0, outbound => 0, draining => 1,
# components => {...}): any of them
sub state
{
	my ($self, %state) = @_;

	foreach my $name (grep { $_ ne 'components' } keys %state)
	{
		$state{$name} = $state{$name} ? JSON::PP::true : JSON::PP::false;
	}
	return $self->_control('POST', 'state', \%state);
}

# reset: forget the log and the fault rules
sub reset
{
	my ($self) = @_;
	return $self->_control('POST', 'reset', {});
}

# stats: requests, entries, accepted, refused, distinct_ids, last_seq,
# concurrent, max_concurrent, connections, open_connections, listening
sub stats
{
	my ($self) = @_;
	return $self->_control('GET', 'stats');
}

1;
