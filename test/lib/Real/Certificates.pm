# Certificates for real servers: an authority, and what it has signed, in files.

package Real::Certificates;

use strict;
use warnings FATAL => 'all';

use Carp;
use IPC::Run ();

use PostgreSQL::Test::Utils ();

# new: an authority of its own
sub new
{
	my ($class) = @_;
	my $self = bless { dir => PostgreSQL::Test::Utils::tempdir('certificates') },
	  $class;

	_openssl(
		'req', '-x509', '-nodes', '-days', 2,
		'-newkey' => 'rsa:2048',
		'-subj' => '/CN=authority',
		'-keyout' => "$self->{dir}/ca.key",
		'-out' => $self->authority);
	return $self;
}

# authority: the file with its certificate
sub authority { return "$_[0]{dir}/ca.crt"; }

# issue($name, $subject, $days): a certificate for, say, "IP:127.0.0.1" or
# "DNS:localhost", for so many days (default: 2; -1: it has expired): a hash of
# files, as servers and clients want them
sub issue
{
	my ($self, $name, $subject, $days) = @_;
	my $path = "$self->{dir}/$name";

	PostgreSQL::Test::Utils::append_to_file("$path.ext",
		"subjectAltName=$subject\n");
	_openssl(
		'req', '-nodes',
		'-newkey' => 'rsa:2048',
		'-subj' => "/CN=$name",
		'-keyout' => "$path.key",
		'-out' => "$path.csr");
	_openssl(
		'x509', '-req', '-days', $days // 2,
		'-in' => "$path.csr",
		'-CA' => $self->authority,
		'-CAkey' => "$self->{dir}/ca.key",
		'-CAcreateserial',
		'-extfile' => "$path.ext",
		'-out' => "$path.crt");
	chmod(0600, "$path.key") or croak "chmod $path.key: $!";
	return {
		cert => "$path.crt",
		key => "$path.key",
		ca => $self->authority
	};
}

sub _openssl
{
	my (@arguments) = @_;
	my ($output, $error);
	IPC::Run::run([ 'openssl', @arguments ], '<', \undef, '>', \$output, '2>', \$error)
	  or croak "openssl @arguments: $error";
	return;
}

1;
