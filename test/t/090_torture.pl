# Promise: under load and faults of every kind, nothing is lost, invented, sent
# too early, sent twice without a reason, out of its key's order, or altered,
# and everything is settled soon after the last fault.
#
# A short run of test/torture with a fixed seed; make torture makes longer ones
# with other seeds.  The tool counts, and says so if a promise is broken; here
# each number is a test.  Its checker is tested first, with planted errors.

use strict;
use warnings FATAL => 'all';

use IPC::Run ();
use JSON::PP ();
use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;

use constant {
	SEED => 20,
	DURATION => 20,
	ENOUGH => 1000,    # events, so that zeros below mean something
};

my @python = ('/usr/bin/python3', '-B');
my $torture = 'test/torture';

# Each number that has to be zero.
my %zero = (
	lost => 'no committed event is lost',
	invented => 'nothing arrives that was not committed',
	sent_before_durable => 'nothing arrives before its commit is on disk',
	sent_before_due => 'no scheduled event arrives before its time',
	duplicates_unexplained => 'no event arrives twice unless a fault explains it',
	order_violations => 'the events of a key arrive in order',
	steps_back_unexplained => 'what is sent again is in order as well',
	overtaken_by_rows => 'no event has a row that an earlier one of its key lacks',
	altered => 'every payload, topic and key arrives byte for byte',
	dead_without_cause => 'no event dies but of a cause',
	unsettled => 'everything is published in the end');

sub run_python
{
	my ($program, @arguments) = @_;
	my $output;
	my $ok =
	  IPC::Run::run([ @python, "$torture/$program", @arguments ], '<', \undef, '>&', \$output);
	note($output);
	return ($ok, $output);
}

promise 'the checker finds planted errors' => sub {
	my ($ok, $output) = run_python('checker_test.py');
	ok($ok, 'the checker finds planted errors') or diag($output);
};

promise 'every promise is kept under load and faults' => sub {
	my $dir = PostgreSQL::Test::Utils::tempdir('torture');
	my ($bindir) = run_command([ 'pg_config', '--bindir' ]);
	my ($ok, $output) = run_python(
		'torture.py', '--bindir' => $bindir,
		'--seed' => SEED, '--duration' => DURATION,
		'--directory' => $dir, '--report' => "$dir/report");
	ok($ok, 'every promise is kept, seed ' . SEED) or diag($output);

	my $report =
	  -e "$dir/report"
	  ? JSON::PP::decode_json(slurp_file("$dir/report"))->{main}
	  : {};
	cmp_ok($report->{committed} // 0, '>', ENOUGH, 'events were committed');
	cmp_ok($report->{crashes} // 0, '>', 0, 'the server crashed');
	is($report->{$_}, 0, $zero{$_}) foreach sort keys %zero;
};

done_testing();
