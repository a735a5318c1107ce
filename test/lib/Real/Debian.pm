# Debian's packages of outbox: built from a tree, and installed by dpkg below a folder
# of its own, with a copy of this system's list of packages, so that dependencies are
# those of this system and nothing is installed into it.
#
# What is built from this tree is kept for the other files of the run, in tmp_packages.

package Real::Debian;

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;

use Real::Source qw(copy_tree has_programs unpack_previous);

# dpkg wants to find root's programs in PATH
$ENV{PATH} .= ':/usr/local/sbin:/usr/sbin:/sbin';

my ($version) = run_command([ $ENV{PG_CONFIG} // 'pg_config', '--version' ]);
my ($major) = $version =~ /(\d+)/;

# What is put behind the changelog's version of each tree that is built, so that the next is
# an upgrade of this one, and this one of the previous
my %version_suffix = (previous => '~previous', tree => '', next => '+next');

# package, publishers: the names of the packages, for the server of the tests
sub package { return "postgresql-$major-outbox"; }
sub publishers { return map { "postgresql-$major-outbox-$_" } qw(kafka mqtt nats rabbitmq redis); }

# missing: why no packages can be built here, or undef
sub missing
{
	return 'no dpkg-buildpackage, fakeroot, git or pg_buildext here: tools/setup-real package'
	  unless has_programs(qw(dpkg-buildpackage fakeroot git pg_buildext));
	my ($supported) = run_command([ 'pg_buildext', 'supported-versions' ]);
	return "packages are not built for PostgreSQL $major here"
	  unless $supported =~ /^$major$/m;
	return undef;
}

# build($of): a class method
#
# Build the packages of this tree ("tree"), of the version behind it ("next") or of the
# one that is upgraded from ("previous"), as a test; the folder that they are in, with
# the sources in src
sub build
{
	my ($class, $of) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $folder = "tmp_packages/$of";
	return $folder if -d $folder;

	my $building = "$folder.$$";
	my $src = "$building/src";
	if ($of eq 'previous') { unpack_previous($src); }
	else { copy_tree($src, $of eq 'next' ? 'test/upgrade/next.patch' : undef); }
	system_or_bail('sed', '-i', "1s/)/$version_suffix{$of})/", "$src/debian/changelog");

	# for the versions that are there, which need not be those of debian/control
	local $ENV{DEB_BUILD_OPTIONS} = 'parallel=2 noautodbgsym';
	command_ok(
		[ 'sh', '-c', "cd '$src' && pg_buildext updatecontrol && dpkg-buildpackage -b -us -uc" ],
		"build the packages of $of");
	rename $building, $folder or BAIL_OUT("could not rename $building: $!");
	return $folder;
}

# debs($folder, @packages): their files
sub debs
{
	my ($folder, @packages) = @_;
	return map { (glob "$folder/${_}_*.deb")[0] // "$folder/$_.deb" } @packages;
}

# new: a folder for dpkg to work below, with nothing of ours installed
sub new
{
	my ($class) = @_;
	my $self = bless { root => PostgreSQL::Test::Utils::tempdir() . '/root' }, $class;
	my $list = "$self->{root}/var/lib/dpkg";
	system_or_bail('mkdir', '-p', map { "$list/$_" } qw(info updates triggers));
	system_or_bail('cp', '/var/lib/dpkg/status', "$list/status");
	return $self;
}

sub root { return $_[0]{root}; }

# dpkg($ok, @arguments): run it below root; what it says.  A test that it is done, or
# refused unless $ok.
sub dpkg
{
	my ($self, $ok, @arguments) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $command = "fakeroot dpkg --root='$self->{root}' --log=/dev/null @arguments 2>&1";
	my $said = `$command`;
	is($? == 0 ? 'done' : 'refused', $ok ? 'done' : 'refused',
		join(' ', 'dpkg', map { s{.*/}{}r } @arguments))
	  or diag($said);
	return $said;
}

# install($folder, @packages): those of a folder, over what is there
sub install
{
	my ($self, $folder, @packages) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return $self->dpkg(1, '--install', debs($folder, @packages));
}

# files: what is below root, but for dpkg's own
sub files
{
	my ($self) = @_;
	my ($found) = run_command([ 'find', $self->{root}, '-type', 'f' ]);
	return grep { !m{/var/lib/dpkg/} } split /\n/, $found;
}

1;
