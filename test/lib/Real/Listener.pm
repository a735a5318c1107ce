# A server of a test's own, in a process of its own that ends with the object.

package Real::Listener;

use strict;
use warnings FATAL => 'all';

use IO::Socket::INET;
use POSIX ();
use Socket qw(SOL_SOCKET SO_RCVBUF);

use constant CHUNK => 64 * 1024;

# new($serve): $serve->($client) for one connection after the other
sub new
{
	my ($class, $serve) = @_;
	my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 5)
	  or die "cannot listen: $!";

	# what is read late shall be waited for by the client, not by the system
	setsockopt($listener, SOL_SOCKET, SO_RCVBUF, pack('i', CHUNK));
	my $pid = fork() // die "cannot fork: $!";
	if ($pid == 0)
	{
		local $SIG{PIPE} = 'IGNORE';
		while (my $client = $listener->accept) { eval { $serve->($client) }; }
		POSIX::_exit(1);
	}
	return bless { pid => $pid, port => $listener->sockport }, $class;
}

sub port { return $_[0]{port}; }

sub DESTROY
{
	my ($self) = @_;
	local ($?, $!);
	kill('KILL', $self->{pid});
	waitpid($self->{pid}, 0);
	return;
}

1;
