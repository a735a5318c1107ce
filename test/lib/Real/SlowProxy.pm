# Between a client and a server on this machine: all that the server says goes
# through at once, what the client says at so many megabytes a second.

package Real::SlowProxy;

use strict;
use warnings FATAL => 'all';

use parent 'Real::Listener';

use IO::Select;
use IO::Socket::INET;

# new($port, $rate): to this port of 127.0.0.1, with $rate MB/s
sub new
{
	my ($class, $port, $rate) = @_;
	return $class->SUPER::new(sub { _pass($_[0], $port, $rate * 1024 * 1024) });
}

# Pass on what both sides of a connection say, until one of them ends it.
sub _pass
{
	my ($client, $port, $rate) = @_;
	my $server = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port)
	  or return;
	my $both = IO::Select->new($client, $server);

	while (1)
	{
		foreach my $from ($both->can_read)
		{
			my $len = sysread($from, my $bytes, Real::Listener::CHUNK) or return;
			_write_all($from == $client ? $server : $client, $bytes);
			select(undef, undef, undef, $len / $rate) if $from == $client;
		}
	}
	return;
}

sub _write_all
{
	my ($to, $bytes) = @_;

	while (length($bytes))
	{
		my $len = syswrite($to, $bytes) or die "cannot write: $!";
		substr($bytes, 0, $len) = '';
	}
	return;
}

1;
