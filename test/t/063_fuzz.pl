# What comes from outside: the inputs that tools/fuzz has kept, used once more.
#
# Promises:
# - Of no answer, no body of one, nothing that a broker says, no row and no setting
#   among them does anything come that must not: see the first comments of
#   test/fuzz/fuzz_*.c.
# - Nor of a row in a database with another encoding.

use strict;
use warnings FATAL => 'all';

use Cwd qw(getcwd);
use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;

# In the extension's place, a library that has the fuzzers, too
my $node = new_node('fuzz', conf => { shared_preload_libraries => '' });
my $fuzz = getcwd() . '/test/fuzz';

sub replay
{
	my ($target, $db) = @_;
	my @dirs = grep { -d } map { "$fuzz/$_/$target" } qw(corpus found);
	my $dirs = join ', ', map { "'$_'" } @dirs;
	my @inputs = map { glob "$_/*" } @dirs;
	my $offset = -s $node->logfile;

	query($node, q{CREATE FUNCTION outbox_fuzz(target text, VARIADIC args text[])
		RETURNS int LANGUAGE c AS 'outbox_fuzz'}, $db);
	my ($status, $used) = $node->psql($db, "SELECT outbox_fuzz('$target', $dirs)");
	query($node, 'DROP FUNCTION outbox_fuzz', $db) if $status == 0;
	is($used, scalar(@inputs), "$db: all inputs were used")
	  or diag(slurp_file($node->logfile, $offset));
	cmp_ok(scalar(@inputs), '>', 10, 'there are some');
	return;
}

foreach my $target (qw(answers bodies brokers rows settings))
{
	promise "nothing comes of $target that must not" => sub {
		replay($target, 'postgres');
	};
}

promise 'nothing comes of rows that must not in another encoding' => sub {
	foreach my $encoding (qw(SQL_ASCII LATIN1 EUC_JP))
	{
		my $db = lc $encoding;
		query($node,
			"CREATE DATABASE $db TEMPLATE template0 ENCODING '$encoding' LOCALE 'C'");
		replay('rows', $db);
	}
};

done_testing();
