# A real server (a broker, a sidecar, an application) that a test has for itself:
# on loopback, on ports that were free, with a folder of its own.  The base of the
# other modules here, one a kind of server, which override
#
#	missing		what is not installed, in words, or undef.  A class method
#	prepare		write what the server reads when it starts; before each start
#	command		the program and its arguments, as a list; it must not fork away
#	environment	variables for it, beyond the test's own; as a list of pairs
#	is_ready	whether it answers; may die, which means no
#
# A server is stopped when its object goes and at the end of the test; it is killed
# if the test is.  Nothing sleeps: whatever takes its time is polled with a
# deadline, and one that passes is an error with the end of the server's log.

package Real::Server;

use strict;
use warnings FATAL => 'all';

use Carp;
use IO::Socket::INET;
use POSIX qw(:sys_wait_h);
use Scalar::Util qw(weaken);
use Time::HiRes qw(sleep time);

use PostgreSQL::Test::Utils ();

use constant {
	POLL_INTERVAL => 0.02,
	START_TIMEOUT => 120,
	STOP_TIMEOUT => 30,
	LOG_TAIL => 4000,
};

my @servers;
my %ports_taken;

# new(%options): start one, and return when it answers.  Options are the
# subclass's, and
#	start	start it (default: yes)
sub new
{
	my ($class, %options) = @_;
	my $start = delete $options{start} // 1;
	(my $name = lc $class) =~ s/.*:://;
	my $self = bless {
		port => free_port(),
		%options,
		name => $name,
		dir => PostgreSQL::Test::Utils::tempdir($name),
		owner => $$
	}, $class;

	push @servers, $self;
	weaken($servers[-1]);
	$self->start if $start;
	return $self;
}

sub missing { return undef; }
sub prepare { return; }
sub environment { return (); }
sub command { croak ref($_[0]) . ' has no command'; }
sub is_ready { croak ref($_[0]) . ' has no is_ready'; }

sub dir { return $_[0]{dir}; }
sub pid { return $_[0]{pid}; }
sub port { return $_[0]{port}; }

# launch: start the process, and do not wait for an answer
sub launch
{
	my ($self) = @_;

	croak "$self->{name} runs already" if defined $self->{pid};
	$self->prepare;
	$self->{pid} = $self->_spawn;
	return $self;
}

# start: again, after stop or kill, with the same ports and data
sub start
{
	my ($self) = @_;
	return $self->launch->await_ready;
}

# await_ready: wait until it answers, after launch or go_on
sub await_ready
{
	my ($self) = @_;
	my $deadline = time() + START_TIMEOUT;

	until (eval { $self->is_ready })
	{
		croak "$self->{name} ended instead of answering:\n" . $self->_log_tail
		  unless $self->is_running;
		croak "$self->{name} did not answer in time:\n" . $self->_log_tail
		  if time() > $deadline;
		sleep(POLL_INTERVAL);
	}
	return $self;
}

# A process group of its own, so that a signal reaches what it has started too.
sub _spawn
{
	my ($self) = @_;
	my @command = $self->command;
	my %environment = $self->environment;

	my $pid = fork() // croak "could not fork: $!";
	if ($pid)
	{
		POSIX::setpgid($pid, $pid);    # in both, so that neither can be late
		return $pid;
	}

	# Leave without END blocks: they belong to the test.
	POSIX::setpgid(0, 0);
	@ENV{ keys %environment } = values %environment;
	open(STDIN, '<', '/dev/null') or POSIX::_exit(126);
	open(STDOUT, '>>', $self->log_file) or POSIX::_exit(126);
	open(STDERR, '>>&', \*STDOUT) or POSIX::_exit(126);
	no warnings 'exec';
	exec('setpriv', '--pdeathsig', 'KILL', '--', @command) or POSIX::_exit(127);
}

sub is_running
{
	my ($self) = @_;
	local $?;

	$self->{pid} = undef
	  if defined $self->{pid} && waitpid($self->{pid}, WNOHANG) != 0;
	return defined $self->{pid};
}

# stop: in order; what does not end in time is killed, and that is an error
# kill: as a crash.  Data stay, and start() goes on with them.
sub stop
{
	my ($self, $signal) = @_;
	my $deadline = time() + STOP_TIMEOUT;

	return $self unless $self->is_running;
	CORE::kill($signal // 'TERM', $self->{pid});
	CORE::kill('CONT', -$self->{pid});
	while ($self->is_running)
	{
		if (time() > $deadline)
		{
			$self->kill;
			carp "$self->{name} did not stop in time:\n" . $self->_log_tail;
			last;
		}
		sleep(POLL_INTERVAL);
	}
	return $self;
}

sub kill
{
	my ($self) = @_;

	if (defined $self->{pid})
	{
		local $?;
		CORE::kill('KILL', -$self->{pid});
		waitpid($self->{pid}, 0);
		$self->{pid} = undef;
	}
	return $self;
}

sub restart
{
	my ($self) = @_;
	return $self->stop->start;
}

# signal($name): to the server and all it has started
sub signal
{
	my ($self, $signal) = @_;
	CORE::kill($signal, -$self->{pid}) if defined $self->{pid};
	return $self;
}

# hang: neither answer nor end; go_on: as if nothing had been
sub hang { return $_[0]->signal('STOP'); }
sub go_on { return $_[0]->signal('CONT'); }

# A forked child of the test has a copy of the object, not the server.
sub _release
{
	my ($self) = @_;
	$self->kill if $self->{owner} == $$;
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
	$_->_release foreach grep { defined } @servers;
}

# --- For subclasses and tests

sub log_file { return "$_[0]{dir}/log"; }

# log($offset): what the server has printed, from there on
sub log
{
	my ($self, $offset) = @_;
	return -e $self->log_file
	  ? PostgreSQL::Test::Utils::slurp_file($self->log_file, $offset // 0)
	  : '';
}

sub _log_tail
{
	my ($self) = @_;
	my $log = $self->log;
	return length($log) > LOG_TAIL ? substr($log, -LOG_TAIL) : $log;
}

# write_file($name, $text): a file of the server's folder, anew; returns its path
sub write_file
{
	my ($self, $name, $text) = @_;
	my $path = "$self->{dir}/$name";

	open(my $file, '>:raw', $path) or croak "could not write $path: $!";
	print $file $text;
	close($file) or croak "could not write $path: $!";
	return $path;
}

# find_program($name): the path of a program, also of one that only root has in
# its PATH, or undef
sub find_program
{
	my ($name) = @_;
	foreach my $dir (split(/:/, $ENV{PATH}), '/usr/local/sbin', '/usr/sbin')
	{
		return "$dir/$name" if -x "$dir/$name" && !-d _;
	}
	return undef;
}

# free_port: a port of loopback where nobody listens.  None of those that the
# system gives to connections, or one of them would have it by the next start.
sub free_port
{
	while (1)
	{
		my $port = 10_000 + int(rand(22_000));
		next if $ports_taken{$port};
		my $socket = IO::Socket::INET->new(
			LocalAddr => '127.0.0.1',
			LocalPort => $port,
			ReuseAddr => 1,
			Listen => 1) or next;
		$ports_taken{$port} = 1;
		return $port;
	}
}

# can_connect($port): whether somebody listens there
sub can_connect
{
	my ($port) = @_;
	return defined IO::Socket::INET->new(
		PeerAddr => '127.0.0.1',
		PeerPort => $port,
		Timeout => 1);
}

1;
