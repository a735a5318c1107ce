# README as somebody pastes it who has nothing but a bare Debian and the tree, as a clone
# of the repository has it.
#
# Promises:
# - make demo does all the set-up itself when only make is there, and shows the event.
# - "Install" and "With HTTP" lead to a delivered event, and the receiver prints what README
#   shows, but for ids and times.

use strict;
use warnings FATAL => 'all';

use Test::More;

use lib 'test/lib';
use OutboxTest::Newcomer;
use OutboxTest::Page qw(page_blocks);

my $missing = OutboxTest::Newcomer->missing;
plan skip_all => $missing if $missing;

# Somebody at a prompt in the tree, on a Debian that knows its packages
sub begin
{
	my $newcomer = OutboxTest::Newcomer->new('/root/outbox');
	OutboxTest::Newcomer::copy_tree($newcomer->path);
	$newcomer->pasted_ok('apt-get update', 'a Debian that knows its packages', network => 1);
	return $newcomer;
}

subtest 'make demo' => sub {
	my $newcomer = begin();
	$newcomer->pasted_ok('apt-get install make', 'make is there', network => 1);
	my ($first) = page_blocks('README.md', 'outbox');
	my ($demo) = $first->{text} =~ /^(make demo)\b/;
	my $said = $newcomer->pasted_ok($demo, $demo, network => 1);
	like($said, qr/^=> 204 No Content$/m, 'shows what the receiver got');
	like($said, qr/^Both committed events arrived/m, 'and that all is well');
};

subtest 'Install, and With HTTP' => sub {
	my $newcomer = begin();
	$newcomer->pasted_ok("set -e\n" . OutboxTest::Newcomer::blocks_of('Install')->{shell}[0],
		'what "Install" says to paste', network => 1);
	$newcomer->delivers_by_http;
};

done_testing();
