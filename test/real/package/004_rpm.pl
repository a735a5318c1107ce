# Promise: RPM packages can be built from what "make dist" makes, rpmlint finds no error
# in them, they have the files that Debian's have, and what they install delivers events.
#
# The server is Debian's: its folders stand in for those of PGDG's packages, and what the
# packages need of a system of RPMs is read, not installed.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;
use OutboxTest::Upgrade;
use Real::Debian;
use Real::Source qw(copy_tree has_programs);

plan skip_all => 'the extension is not staged by tools/stage'
  unless defined staged_dest();
plan skip_all => 'no rpmbuild, rpm2cpio, rpmlint, cpio or unzip here: tools/setup-real rpm'
  unless has_programs(qw(cpio rpm rpm2cpio rpmbuild rpmlint unzip));
my $missing = Real::Debian->missing;
plan skip_all => $missing if $missing;

my $dir = PostgreSQL::Test::Utils::tempdir();
my $pg_config = $ENV{PG_CONFIG} // 'pg_config';
my ($major) = Real::Debian->package =~ /(\d+)/;

# Errors that say what Debian's rpmlint and a package that is not signed are, not what is
# wrong here: RPM needs neither a packager nor a group since long, and libraries have the
# newer of the two kinds of hash tables only, as everywhere.
my $of_no_use = qr/no-signature|no-packager-tag|no-group-tag|missing-hash-section/;

# Build the packages of this tree; their files
sub build_rpms
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $tree = "$dir/tree";
	copy_tree($tree);
	my ($zip) = run_command([ 'make', '-s', '-C', $tree, 'dist' ]);
	my %folders = (
		pglibdir => '--pkglibdir',
		pgsharedir => '--sharedir',
		pgdocdir => '--docdir',
		pgincludedir => '--includedir-server');
	my @define = map { ('--define', "$_ " . (run_command([ $pg_config, $folders{$_} ]))[0]) } sort keys %folders;
	push @define, map { ('--define', $_) } "pgmajorversion $major",
	  'pginstdir ' . $pg_config =~ s{/bin/pg_config$}{}r, "_topdir $dir/rpm", "_sourcedir $tree",
	  'debug_package %{nil}', '_build_id_links none';
	command_ok([ 'rpmbuild', '-bb', '--quiet', '--nodeps', @define, "$tree/rpm/outbox.spec" ],
		"packages of $zip");
	return sort glob "$dir/rpm/RPMS/*/*.rpm";
}

# What is installed, of a list of paths: documents by their names, since Debian has them
# elsewhere, and without what either kind of package has in a place of its own
sub installed
{
	return sort map { s{^/usr/share/doc/.*?/((?:docs/)?[^/]+)$}{doc $1}r }
	  grep { !m{/(?:copyright|LICENSE|CHANGELOG\.md|changelog\S*)$} } @_;
}

promise 'RPM packages have what those of Debian have, and deliver' => sub {
	my @rpms = build_rpms();
	is(scalar(@rpms), 1 + Real::Debian->publishers, 'as many packages');
	my ($said) = run_command([ 'rpmlint', 'rpm/outbox.spec', @rpms ]);
	is_deeply([ grep { / E: / && !/$of_no_use/ } split /\n/, $said ], [], 'rpmlint finds no error');
	my ($version) = $rpms[0] =~ /-([\d.]+-\d+)\.\w+\.rpm$/;
	my ($requires) = run_command([ 'rpm', '-qp', '--requires', grep { /-redis-/ } @rpms ]);
	like($requires, qr/^outbox_$major\S* = \Q$version\E$/m, 'a publisher needs the extension of its version');
	like($requires, qr/^libhiredis\.so/m, 'and its library');

	my $root = "$dir/root";
	system_or_bail('mkdir', $root);
	system_or_bail('sh', '-c', "rpm2cpio '$_' | cpio -idm --quiet -D '$root'") foreach @rpms;
	my ($of_rpm) = run_command([ 'find', $root, '-type', 'f', '-printf', '/%P\n' ]);
	my $debian = Real::Debian->new;
	$debian->install(Real::Debian->build('tree'), Real::Debian->package, Real::Debian->publishers);
	is_deeply(
		[ installed(split /\n/, $of_rpm) ],
		[ installed(map { substr $_, length $debian->root } $debian->files) ],
		'the same files');

	my $receiver = start_receiver(mode => 'dapr');
	my $node = new_node('rpm',
		conf => { conf_of_installation($root), 'outbox.dapr_endpoint' => $receiver->url });
	query($node, 'CREATE EXTENSION outbox');
	wait_delivered($receiver, [ publish($node, 'rpm') ]);
	$node->stop;
};

done_testing();
