# Promise: what "make dist" makes can be installed by PGXN's client, and the extension
# that it installs delivers events.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;
use OutboxTest::Upgrade;
use Real::Source qw(copy_tree has_programs);

plan skip_all => 'no pgxn or git here: tools/setup-real package'
  unless has_programs(qw(pgxn git));
plan skip_all => 'the extension is not staged by tools/stage'
  unless defined staged_dest();

my $dir = PostgreSQL::Test::Utils::tempdir();
my $tree = "$dir/tree";
my $dest = "$dir/dest";
my $pg_config = $ENV{PG_CONFIG} // 'pg_config';

promise 'pgxn installs the zip' => sub {
	copy_tree($tree);
	my ($zip) = run_command([ 'make', '-s', '-C', $tree, 'dist' ]);
	like($zip, qr/^outbox-\d+\.\d+\.\d+\.zip$/, 'its name has the version');
	my ($listed) = run_command(
		[ '/usr/bin/python3', '-c',
			'import sys, zipfile; print("\n".join(zipfile.ZipFile(sys.argv[1]).namelist()))',
			"$tree/$zip" ]);
	my @names = split /\n/, $listed;
	is_deeply([ grep { m{^[^/]+/\.} } @names ], [], 'nothing of the repository is in it');
	is_deeply([ grep { m{^[^/]+/META\.json$} } @names ],
		[ $zip =~ s/\.zip$/\/META.json/r ], 'META.json is, in a folder of that name');

	# "env" stands for the program that makes us root
	local $ENV{DESTDIR} = $dest;
	command_ok([ 'pgxn', 'install', '--yes', '--sudo=env', '--pg_config', $pg_config, "$tree/$zip" ],
		'pgxn install');

	my $receiver = start_receiver(mode => 'dapr');
	my $node = new_node('pgxn',
		conf => { conf_of_installation($dest), 'outbox.dapr_endpoint' => $receiver->url });
	query($node, 'CREATE EXTENSION outbox');
	wait_delivered($receiver, [ publish($node, 'pgxn') ]);
	$node->stop;
};

done_testing();
