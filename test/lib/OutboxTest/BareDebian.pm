# A bare Debian, as somebody has it who comes to the project: a root of its own, made of
# the tar that tools/setup-real has put into the cache, with little in it but apt.
#
# What is pasted there runs as root in namespaces of its own, and what it leaves in the
# background lives on until the object goes, which takes everything along.  Loopback is
# its own as well, so that README's ports are free; only what fetches packages has
# the machine's network.
#
# It takes root and no server: its tests are not run by tools/run-tests, and use neither
# OutboxTest.pm nor PostgreSQL's modules.

package OutboxTest::BareDebian;

use strict;
use warnings FATAL => 'all';

# so that a root does not outlive a test that is interrupted
use sigtrap qw(die normal-signals);

use Carp;
use File::Temp ();
use POSIX ();
use Scalar::Util qw(weaken);

use constant PASTE_TIMEOUT => 900;

# The first process of the namespaces reaps what others leave behind.
my $init = '$SIG{CHLD} = "IGNORE"; $| = 1; print "ready\n"; sleep 3600 while 1;';
my @made;

sub _tar
{
	my $cache = $ENV{OUTBOX_CACHE}
	  // ($ENV{XDG_CACHE_HOME} // "$ENV{HOME}/.cache") . '/outbox';
	return "$cache/debian-bookworm.tar";
}

# missing: why there cannot be one here, or undef
sub missing
{
	return 'a bare Debian needs root' if $> != 0;
	return 'there is no bare Debian here: tools/setup-real newcomer' unless -e _tar();
	return undef;
}

# new: a root of its own, with namespaces
sub new
{
	my ($class) = @_;
	my $dir = File::Temp::tempdir('outbox-newcomer.XXXXXX', TMPDIR => 1);
	my $root = "$dir/root";
	my $self = bless { dir => $dir, root => $root, said => "$dir/said", owner => $$ }, $class;

	push @made, $self;
	weaken($made[-1]);
	_do('mkdir', '-m', '755', $root);
	_do('tar', '-C', $root, '-xf', _tar());
	_do('cp', '/etc/resolv.conf', '/etc/hosts', "$root/etc/");
	# A service that a package starts would be on the machine's network, and the
	# disk of a root that is thrown away need not be waited for.
	$self->write_file('usr/sbin/policy-rc.d', "#!/bin/sh\nexit 101\n", 0755);
	$self->write_file('etc/dpkg/dpkg.cfg.d/unsafe-io', "force-unsafe-io\n");
	$self->_begin;
	return $self;
}

sub _begin
{
	my ($self) = @_;
	my $root = $self->{root};
	my $pid = open(
		my $ready, '-|', 'setpriv', '--pdeathsig', 'KILL', '--',
		'unshare', '--pid', '--mount', '--net', '--ipc', '--kill-child', '--',
		'sh', '-ec', <<'SH', 'sh', $root, $init) or croak "could not start unshare: $!";
ip link set lo up
mount -t proc proc "$1/proc"
mount --rbind /dev "$1/dev"
mount -t tmpfs tmpfs "$1/dev/shm"
exec chroot "$1" perl -e "$2"
SH

	@{$self}{qw(unshare ready)} = ($pid, $ready);
	croak 'there are no namespaces for a bare Debian' unless (<$ready> // '') eq "ready\n";
	open(my $children, '<', "/proc/$pid/task/$pid/children") or croak "no children of unshare: $!";
	($self->{init}) = split / /, <$children>;
	return;
}

sub _do
{
	my @command = @_;
	system(@command) == 0 or croak "failed: @command";
	return;
}

sub root { return $_[0]{root}; }

# write_file($path, $text, $mode): a file below the root
sub write_file
{
	my ($self, $path, $text, $mode) = @_;
	open(my $file, '>:raw', "$self->{root}/$path") or croak "could not write $path: $!";
	print $file $text;
	close($file) or croak "could not write $path: $!";
	chmod $mode, "$self->{root}/$path" if defined $mode;
	return;
}

# paste($shell, %options)
#
# Have a shell run this, as if it were pasted: what fails does not keep the rest from being
# run.  Returns the exit status of the last command and what these have said.  Options:
#	in			folder (default: /)
#	user		not root
#	network		the machine's, to fetch packages
#	background	do not wait for it; said() has what it says
sub paste
{
	my ($self, $shell, %options) = @_;
	my @namespaces = $options{network} ? () : ('--net');
	my @user = map { ('setpriv', "--reuid=$_", "--regid=$_", '--init-groups', '--') }
	  grep { defined } $options{user};
	my $output = $options{background} ? $self->{said} : "$self->{dir}/pasted";

	unlink $output unless $options{background};
	my $pid = fork() // croak "could not fork: $!";
	if (!$pid)
	{
		open(STDIN, '<', '/dev/null') or POSIX::_exit(126);
		open(STDOUT, '>>', $output) or POSIX::_exit(126);
		open(STDERR, '>>&', \*STDOUT) or POSIX::_exit(126);
		no warnings 'exec';
		exec('timeout', '-k', 5, PASTE_TIMEOUT,
			'nsenter', '--target', $self->{init}, '--pid', '--mount', '--ipc', @namespaces, '--',
			'chroot', $self->{root}, 'env', '-i', '-C', $options{in} // '/',
			'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin', 'HOME=/root',
			'LC_ALL=C.UTF-8', 'DEBIAN_FRONTEND=noninteractive', @user,
			'bash', '-c', $options{background} ? "(\n$shell\n) &" : $shell)
		  or POSIX::_exit(127);
	}
	waitpid($pid, 0);
	return ($? >> 8, _read($output));
}

# said: everything that was said in the background
sub said { return _read($_[0]{said}); }

sub _read
{
	my ($path) = @_;
	open(my $file, '<:raw', $path) or return '';
	local $/;
	return <$file> // '';
}

sub _release
{
	my ($self) = @_;
	return unless $self->{owner} == $$ && defined $self->{dir};
	local ($?, $!);
	if (defined $self->{unshare})
	{
		kill 'KILL', grep { defined } @{$self}{qw(init unshare)};
		close($self->{ready});
	}
	# The namespace with the mounts has gone with its last process.
	system('rm', '-rf', '--one-file-system', delete $self->{dir});
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
	$_->_release foreach grep { defined } @made;
}

1;
