# A running receiver (test/receiver), as the TAP tests see it: an object.
#
# It is told what to do through its control port, which no fault touches.  Each
# is stopped when its object goes, and at the end of the test at the latest.

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

use PostgreSQL::Test::Utils ();

use constant {
	POLL_INTERVAL => 0.02,
	START_TIMEOUT => 30,
	CONTROL_TIMEOUT => 60,
};

# Debian's, so that a test user without a home of its own can run it.
my $python = $ENV{PYTHON} // '/usr/bin/python3';
my $program = dirname(__FILE__) . '/../../receiver/receiver.py';
my $json = JSON::PP->new->utf8->allow_nonref;
my @receivers;

# What state() changes, as it is in a receiver that was just started
my %initial = (listening => 1, ready => 1, outbound => 1, draining => 0);

# new(mode => 'dapr' | 'http', %options)
#
# Options are those of receiver.py, with underscores: token, app_id, profile,
# components (a hash), max_body, max_header, unix, tls_cert, tls_key, host, port.
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

	$self->{state} = {};
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
	return "$scheme://" . ($self->{options}{host} // '127.0.0.1') . ':' . $self->port;
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

	@{ $self->{state} }{ keys %state } = values %state;
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

# put_back_all: every receiver that runs forgets its log and its rules, and is in
# the state that it started in
sub put_back_all
{
	foreach my $self (grep { defined && defined $_->{pid} } @receivers)
	{
		my $state = $self->{state};
		$self->reset;
		$self->restart
		  if grep { ($state->{$_} // '') ne ($initial{$_} // '') } keys %$state;
	}
	return;
}

# stats: requests, entries, accepted, refused, distinct_ids, last_seq,
# concurrent, max_concurrent, connections, open_connections, listening
sub stats
{
	my ($self) = @_;
	return $self->_control('GET', 'stats');
}

1;
