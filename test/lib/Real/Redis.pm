# A Redis server that has on disk what it has acknowledged.

package Real::Redis;

use strict;
use warnings FATAL => 'all';

use parent 'Real::Server';

use IPC::Run ();

sub missing
{
	foreach my $program (qw(redis-server redis-cli))
	{
		return "$program is not installed"
		  unless Real::Server::find_program($program);
	}
	return undef;
}

sub command
{
	my ($self) = @_;
	return (
		Real::Server::find_program('redis-server'),
		'--port' => $self->port,
		'--bind' => '127.0.0.1',
		'--dir' => $self->dir,
		'--save' => '',
		'--appendonly' => 'yes',
		'--appendfsync' => 'always');
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

1;
