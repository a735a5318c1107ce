# nginx with servers that a test writes, in plain HTTP or with TLS.

package Real::Nginx;

use strict;
use warnings FATAL => 'all';

use parent 'Real::Server';

sub missing
{
	return Real::Server::find_program('nginx') ? undef : 'nginx is not installed';
}

# new(servers => $text, %options): options are those of Real::Server, and
#	servers		what is inside "http {}", in which PORT stands for the port
#				of this object
#
# The access log has a line a request: "STATUS WHERE METHOD URI", in which WHERE is
# what a location has set $where to.
sub prepare
{
	my ($self) = @_;
	my $dir = $self->dir;
	my $servers = $self->{servers} =~ s/\bPORT\b/$self->port/ger;

	$self->write_file('nginx.conf', <<"CONF");
daemon off;
pid $dir/nginx.pid;
error_log stderr;
events {}
http {
	log_format where '\$status \$where \$request_method \$request_uri';
	map '' \$where { default '-'; }
	access_log $dir/access where;
	client_body_temp_path $dir/body;
	proxy_temp_path $dir/proxy;
	fastcgi_temp_path $dir/fastcgi;
	uwsgi_temp_path $dir/uwsgi;
	scgi_temp_path $dir/scgi;
	$servers
}
CONF
	return;
}

sub command
{
	my ($self) = @_;
	return (
		Real::Server::find_program('nginx'),
		'-p' => $self->dir,
		'-e' => 'stderr',
		'-c' => $self->dir . '/nginx.conf');
}

sub is_ready { return Real::Server::can_connect($_[0]->port); }

# url: of the server at PORT
sub url { return 'http://127.0.0.1:' . $_[0]->port; }

# requests: the lines of the access log
sub requests
{
	my ($self) = @_;
	my $path = $self->dir . '/access';
	return -e $path ? split(/\n/, PostgreSQL::Test::Utils::slurp_file($path)) : ();
}

1;
