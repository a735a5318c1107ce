# README as somebody pastes it who has a bare Debian and the package, and no compiler.
#
# Promises:
# - apt installs the package, and "With HTTP" leads to a delivered event.
# - What README says to do before the library is removed leaves a server that starts.

use strict;
use warnings FATAL => 'all';

use File::Temp ();
use Test::More;

use lib 'test/lib';
use OutboxTest::Newcomer;

my $missing = OutboxTest::Newcomer->missing;
plan skip_all => $missing if $missing;
plan skip_all => 'packages cannot be built here: tools/setup-real package'
  if system('command -v dpkg-buildpackage pg_buildext >/dev/null && dpkg-checkbuilddeps 2>/dev/null') != 0;

# The command that README has in its text
my $build = 'dpkg-buildpackage -b -us -uc';

# Packages are built for the newest minor version that there is, which is where Debian has
# its updates for security.  The receiver, which somebody has elsewhere, takes Python.
sub prepare
{
	my ($newcomer) = @_;
	my ($mirror) = map { /^URIs: *(\S*security\S*)/m ? $1 : () }
	  grep { defined } `cat /etc/apt/sources.list.d/debian.sources 2>/dev/null`;
	$newcomer->write_file('/etc/apt/sources.list.d/security.list',
		'deb [check-valid-until=no] ' . ($mirror // 'http://deb.debian.org/debian-security')
		  . " bookworm-security main\n");
	$newcomer->pasted_ok('apt-get update && apt-get install --no-install-recommends python3',
		'a Debian with its updates, and Python', network => 1);
	return;
}

subtest 'from the package to a delivered event, and back' => sub {
	my $dir = File::Temp::tempdir('outbox-package.XXXXXX', TMPDIR => 1, CLEANUP => 1);
	mkdir "$dir/outbox";
	OutboxTest::Newcomer::copy_tree("$dir/outbox");
	is(system("cd '$dir/outbox' && $build >../said 2>&1"), 0, $build)
	  or diag(`tail -n 20 '$dir/said'`);

	my $newcomer = OutboxTest::Newcomer->new('/root/outbox');
	prepare($newcomer);
	my $path = $newcomer->path;
	system("mkdir -p '$path/test' && cp '$dir'/*.deb '$path' && cp -a test/receiver '$path/test'") == 0
	  or BAIL_OUT('the packages cannot be copied');
	my ($install) = grep { /\.deb/ } @{ OutboxTest::Newcomer::blocks_of('Install')->{shell} };
	$newcomer->pasted_ok($install, 'what "Install" says to paste', network => 1);
	$newcomer->pasted_ok('! command -v cc gcc make', 'there is no compiler');
	$newcomer->delivers_by_http;

	unlike($newcomer->psql('DROP EXTENSION outbox'), qr/ERROR/, 'DROP EXTENSION');
	$newcomer->pasted_ok("sed -i '/^shared_preload_libraries = /d' " . OutboxTest::Newcomer::CLUSTER
		  . ' && pg_ctlcluster 15 main restart && apt-get purge postgresql-15-outbox'
		  . ' && pg_ctlcluster 15 main restart', 'the package goes, and the server starts');
	is($newcomer->psql('SELECT 1', '-At'), "1\n", 'and answers');
};

done_testing();
