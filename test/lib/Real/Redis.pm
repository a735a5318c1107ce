# A Redis server, or one of Valkey, that has on disk what it has acknowledged.

package Real::Redis;

use strict;
use warnings FATAL => 'all';

use parent 'Real::Server';

use IPC::Run ();
use JSON::PP ();

sub missing
{
	foreach my $program (qw(redis-server redis-cli))
	{
		return "$program is not installed"
		  unless Real::Server::find_program($program);
	}
	return undef;
}

# valkey_program: that of Valkey, if tools/setup-real.d/redis could get it
sub valkey_program
{
	my ($program) = glob(($ENV{OUTBOX_CACHE} // '') . '/valkey-*/valkey-server');
	return $program;
}

# new(%options): those of Real::Server, and
#	arguments	more of redis-server's, in an array
#	program		another one than that
sub command
{
	my ($self) = @_;
	return (
		$self->{program} // Real::Server::find_program('redis-server'),
		'--port' => $self->port,
		'--bind' => '127.0.0.1',
		'--dir' => $self->dir,
		'--save' => '',
		'--appendonly' => 'yes',
		'--appendfsync' => 'always',
		@{ $self->{arguments} // [] });
}

# socket: the path that the arguments have for one
sub socket
{
	my ($self) = @_;
	my %arguments = @{ $self->{arguments} };
	return $arguments{'--unixsocket'};
}

# By its process id: another one may have taken the port in between.
sub is_ready
{
	my ($self) = @_;
	my ($pid) = $self->cli('INFO', 'server') =~ /^process_id:(\d+)/m;
	return $pid == $self->pid;
}

# cli(@command): what redis-cli prints for a command, without the newline
sub cli
{
	my ($self, @command) = @_;
	my ($output, $error);
	IPC::Run::run([ 'redis-cli', '-p', $self->port, @command ],
		'<', \undef, '>', \$output, '2>', \$error)
	  or die "redis-cli @command: $error$output";
	chomp $output;
	return $output;
}

# entries($stream): all entries of a stream in their order, as hashes of fields,
# read by the usual client in Python
sub entries
{
	my ($self, $stream) = @_;
	my ($output, $error);
	IPC::Run::run(
		[ $ENV{PYTHON} // '/usr/bin/python3', '-c', <<'PYTHON', $self->port, $stream ],
import json, redis, sys
client = redis.Redis(port=int(sys.argv[1]), decode_responses=False)
for _, fields in client.xrange(sys.argv[2]):
    print(json.dumps({name.decode(): value.hex() for name, value in fields.items()}))
PYTHON
		'<', \undef, '>', \$output, '2>', \$error)
	  or die "python3: $error";
	return map {
		my $fields = JSON::PP->new->decode($_);
		+{ map { $_ => pack('H*', $fields->{$_}) } keys %$fields };
	} split /\n/, $output;
}

1;
