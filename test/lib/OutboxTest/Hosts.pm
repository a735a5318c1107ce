# A test with an /etc/hosts of its own, in which names move: the whole test, with
# its servers and receivers, runs in a mount namespace.
#
#	use OutboxTest::Hosts;
#	my $hosts = OutboxTest::Hosts->new or plan skip_all => '...';
#	$hosts->set('endpoint.test' => [ '127.0.0.1', '::1' ]);
#
# It is the first module to be used, for it begins the program anew, before others
# have changed where its output goes.

package OutboxTest::Hosts;

use strict;
use warnings FATAL => 'all';

use Cwd qw(abs_path);
use File::Temp qw(tempfile);
use IPC::Run ();

use constant {
	FILE => '/etc/hosts',
	INSIDE => 'OUTBOX_TEST_HOSTS',
};

sub import
{
	return if $ENV{ +INSIDE };
	return
	  unless eval { IPC::Run::run([ 'unshare', '-Urm', 'true' ], '>&', '/dev/null') };
	my ($handle, $path) = tempfile('outbox-hosts-XXXXXX', TMPDIR => 1);
	_begin_anew($path);
	return;
}

# new: an object, or undef where no user may have namespaces
sub new
{
	my ($class) = @_;

	return undef unless $ENV{ +INSIDE };
	my $self = bless { path => $ENV{ +INSIDE }, owner => $$ }, $class;
	$self->set;
	return $self;
}

# As root of a namespace, which may mount, and from there back to the user that
# we are: no server runs as root.
sub _begin_anew
{
	my ($path) = @_;
	my ($user, $group) = ($>, (split / /, $))[0]);

	$ENV{ +INSIDE } = abs_path($path);
	exec('unshare', '-Urm', 'sh', '-c',
		"mount --bind \"\$0\" @{[FILE]} && "
		  . "exec unshare -U --map-user=$user --map-group=$group -- \"\$@\"",
		$ENV{ +INSIDE }, $^X, (map { "-I$_" } @INC), $0, @ARGV)
	  or die "could not begin anew: $!";
}

# set(%names): these names with their addresses, and localhost
sub set
{
	my ($self, %names) = @_;

	# in place: it is this file that is mounted
	open(my $file, '>', $self->{path}) or die "could not open $self->{path}: $!";
	print $file "127.0.0.1 localhost\n::1 localhost\n";
	foreach my $name (sort keys %names)
	{
		print $file "$_ $name\n" foreach @{ $names{$name} };
	}
	close($file) or die "could not write $self->{path}: $!";
	return;
}

sub DESTROY
{
	my ($self) = @_;
	unlink $self->{path} if $self->{owner} == $$;
	return;
}

1;
