# squid, a forward proxy: it passes on what the test allows, on loopback.

package Real::Squid;

use strict;
use warnings FATAL => 'all';

use parent 'Real::Server';

use constant NCSA_AUTH => '/usr/lib/squid/basic_ncsa_auth';

sub missing
{
	return Real::Server::find_program('squid') ? undef : 'squid is not installed';
}

# new(%options): those of Real::Server, and
#	access	lines of the configuration that say who may do what (default: all may)
#	users	a hash of names and passwords, for "acl known proxy_auth REQUIRED"
sub prepare
{
	my ($self) = @_;
	my $dir = $self->dir;
	my $users = $self->{users} // {};
	my $port = $self->port;
	my $authentication = '';

	$self->write_file('users',
		join('', map { "$_:" . crypt($users->{$_}, '$1$salt$') . "\n" } sort keys %$users));
	$authentication = "auth_param basic program @{[NCSA_AUTH]} $dir/users\n"
	  . "acl known proxy_auth REQUIRED\n"
	  if %$users;
	my $access = $self->{access} // 'http_access allow all';
	$self->write_file('squid.conf', <<"CONF");
http_port 127.0.0.1:$port
pid_filename none
access_log stdio:$dir/access
cache_log $dir/log
cache deny all
coredump_dir $dir
visible_hostname localhost
pinger_enable off
shutdown_lifetime 0 seconds
max_filedescriptors 1024
workers 1
$authentication
$access
CONF
	return;
}

sub command
{
	my ($self) = @_;
	return (Real::Server::find_program('squid'), '-N', '-f', $self->dir . '/squid.conf');
}

sub is_ready { return Real::Server::can_connect($_[0]->port); }

# url: what outbox.http_proxy takes
sub url { return 'http://127.0.0.1:' . $_[0]->port; }

# requests: the lines of the access log, each as "STATUS METHOD WHAT"
sub requests
{
	my ($self) = @_;
	my $path = $self->dir . '/access';
	return () unless -e $path;
	return map { join ' ', (split)[ 3, 5, 6 ] }
	  split /\n/, PostgreSQL::Test::Utils::slurp_file($path);
}

1;
