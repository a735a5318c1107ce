# The alerts, by promtool.
#
# Promises:
# - Each alert fires for the series in outbox.rules.test.yml that should fire it, and not
#   for the others.  The tests fail if an alert never fires, and if it always does.
# - Each alert says what is wrong, what to do, and where to read on: a heading of a document
#   that is there, or a statement whose views are there.
# - Each row of outbox_check() has an alert.

use strict;
use warnings FATAL => 'all';

use IPC::Run ();
use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;
use Real::Server;

plan skip_all => 'promtool is not installed: tools/setup-real monitoring'
  unless Real::Server::find_program('promtool');

my $rules = slurp_file('monitoring/outbox.rules.yml');
my $tests = slurp_file('monitoring/outbox.rules.test.yml');
# of each alert, what is between its name and the next one
my %alerts = $rules =~ /^  - alert: (\w+)\n(.*?)(?=^  - alert:|^  #|\z)/msg;
cmp_ok(scalar keys %alerts, '>', 10, 'there are alerts');

my $node = new_node('alerts');
query($node, 'CREATE SCHEMA outbox; CREATE EXTENSION outbox SCHEMA outbox');

# What promtool says to the tests with these rules, and whether it is content
sub test_rules
{
	my ($changed) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir();
	append_to_file("$dir/outbox.rules.yml", $changed);
	append_to_file("$dir/test.yml", $tests);
	my $content = IPC::Run::run([ 'promtool', 'test', 'rules', "$dir/test.yml" ], '>&', \my $said);
	return ($content, $said);
}

promise 'each alert fires when it should, and not else' => sub {
	my ($content, $said) = test_rules($rules);
	ok($content, 'promtool is content') or diag($said);

	# All alerts changed, and what promtool says of each then
	my $expression = qr/^    expr: .*?(?=^    for:)/ms;
	my %changed = (
		'never fires' => $rules =~ s/$expression/    expr: vector(0) > 1\n/gr,
		'has no limit' => $rules =~ s{$expression}{
			$& =~ s/ (?:==|>) [\d.]+/ >= 0/gr =~ s/^ +unless.*//msr =~ s/absent\(.*?\)/vector(1)/r }ger,
		'fires at once' => $rules =~ s/^    for: .*\n//mgr);
	foreach my $how (sort keys %changed)
	{
		my (undef, $says) = test_rules($changed{$how});
		foreach my $alert (sort keys %alerts)
		{
			like($says, qr/^    alertname: $alert,/m, "the tests fail if $alert $how");
		}
	}
};

promise 'each alert says what to do' => sub {
	foreach my $alert (sort keys %alerts)
	{
		my %said = $alerts{$alert} =~ /^      (\w+): "?(.*?)"?$/mg;
		is_deeply([ sort keys %said ], [qw(description do runbook summary)], "$alert says all");
		my ($file, $heading) = split /#/, $said{runbook};
		my @headings = map { s/[^\w\- ]//gr =~ s/ /-/gr } map { lc } slurp_file($file) =~ /^#+ (.*)$/mg;
		ok(grep({ $_ eq $heading } @headings), "$alert: $said{runbook} is there");
		next unless $said{do} =~ /(SELECT .*;)/;
		my $statement = $1 =~ s/\{\{ \$labels\.destination \}\}/default/r;
		my ($status, undef, $error) = $node->psql('postgres', $statement);
		is("$status $error", '0 ', "$alert: $statement");
	}
};

promise 'each row of outbox_check() has an alert' => sub {
	# of what OutboxCheckFails leaves out, what is not seen by the check itself
	my %instead = (
		'delivery enabled' => 'OutboxNotDelivering',
		'endpoint answers' => 'OutboxEndpointDown',
		'events alive' => 'OutboxEventsDead',
		'topics open' => 'OutboxTopicDown');
	my ($left_out) = $rules =~ /check!~"([^"]*)"/;
	foreach my $check (split /\|/, $left_out)
	{
		is(query($node, qq{SELECT count(*) FROM outbox.outbox_check() WHERE "check" = '$check'}),
			1, "$check is a row of outbox_check()");
		ok( defined $instead{$check}
			? $alerts{ $instead{$check} }
			: grep({ /check=~?"(?:[^"]*\|)?\Q$check\E[|"]/ } values %alerts),
			"$check has an alert of its own");
	}
};

done_testing();
