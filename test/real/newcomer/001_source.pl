# README as somebody pastes it who has nothing but a bare Debian and the tree, as a clone
# of the repository has it.
#
# Promises:
# - "Install" and "With HTTP" lead to a delivered event.

use strict;
use warnings FATAL => 'all';

use Test::More;

use lib 'test/lib';
use OutboxTest::Newcomer;

my $missing = OutboxTest::Newcomer->missing;
plan skip_all => $missing if $missing;

subtest 'Install, and With HTTP' => sub {
	my $newcomer = OutboxTest::Newcomer->new('/root/outbox');
	OutboxTest::Newcomer::copy_tree($newcomer->path);
	$newcomer->pasted_ok('apt-get update', 'a Debian that knows its packages', network => 1);
	$newcomer->pasted_ok("set -e\n" . OutboxTest::Newcomer::blocks_of('Install')->{shell}[0],
		'what "Install" says to paste', network => 1);
	$newcomer->delivers_by_http;
};

done_testing();
