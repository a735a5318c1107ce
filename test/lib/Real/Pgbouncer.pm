# A PgBouncer in front of a test server, whose clients share sessions by transaction.

package Real::Pgbouncer;

use strict;
use warnings FATAL => 'all';

use parent 'Real::Server';

use IPC::Run ();

sub missing
{
	return 'pgbouncer is not installed'
	  unless Real::Server::find_program('pgbouncer');
	return undef;
}

# new(%options): those of Real::Server, and
#	node	the server behind it
#	users	who may log in, without a password; the first one is asked if it is ready
#	pool	sessions for each user of a database (default: 1)
#	reset	DISCARD ALL behind each transaction (default: no)
sub new
{
	my ($class, %options) = @_;
	return $class->SUPER::new(pool => 1, reset => 0, %options);
}

sub prepare
{
	my ($self) = @_;
	my ($host, $port) = ($self->{node}->host, $self->{node}->port);
	my $users = $self->write_file('users', join('', map { qq("$_" ""\n) } @{ $self->{users} }));

	$self->{file} = $self->write_file('pgbouncer.ini', <<"INI");
[databases]
* = host=$host port=$port
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $self->{port}
unix_socket_dir =
auth_type = trust
auth_file = $users
pool_mode = transaction
default_pool_size = $self->{pool}
server_reset_query_always = $self->{reset}
INI
	return;
}

sub command { return (Real::Server::find_program('pgbouncer'), $_[0]{file}); }

# connstr($user): of a client
sub connstr
{
	my ($self, $user) = @_;
	return "host=127.0.0.1 port=$self->{port} user=$user dbname=postgres";
}

sub is_ready
{
	my ($self) = @_;
	return IPC::Run::run(
		[ 'psql', '-XAtq', '-d', $self->connstr($self->{users}[0]), '-c', 'SELECT 1' ],
		'>&', \my $output);
}

1;
