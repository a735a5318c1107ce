# README as somebody pastes it who has nothing but a bare Debian and the tree, as a clone
# of the repository has it.
#
# Promises:
# - "Install" and "With HTTP" lead to a delivered event.
#
# What a person does by hand is done here: a block without a language that is no
# command goes to postgresql.conf, the receiver gets a terminal of its own, and apt is
# answered with yes.

use strict;
use warnings FATAL => 'all';

use Test::More;

use lib 'test/lib';
use OutboxTest::BareDebian;
use OutboxTest::Page qw(page_blocks);

my $missing = OutboxTest::BareDebian->missing;
plan skip_all => $missing if $missing;

use constant {
	TREE => 'root/outbox',
	CLUSTER => '/etc/postgresql/15/main/postgresql.conf',
};

my $debian = OutboxTest::BareDebian->new;

# As postgres, whose is the database
sub psql
{
	my ($sql, @options) = @_;
	$debian->write_file('tmp/pasted.sql', $sql);
	return $debian->paste("psql -X @options -f /tmp/pasted.sql", user => 'postgres');
}

# The blocks of a part of README: what is pasted into a shell, and what into the
# server's configuration
sub blocks_of
{
	my ($heading) = @_;
	my (@shell, @conf, @sql, @shown);
	foreach my $block (page_blocks('README.md', $heading))
	{
		my ($language, $text) = @{$block}{qw(language text)};
		if ($language eq 'sql') { push @sql, $text; }
		elsif ($text =~ /^[\w.]+ = /m) { push @conf, $text; }
		elsif ($text =~ /^(POST|GET) /) { push @shown, $text; }
		else { push @shell, $text; }
	}
	return { shell => \@shell, conf => \@conf, sql => \@sql, shown => \@shown };
}

# Test that a command succeeds, and return what it says.
sub pasted_ok
{
	my ($shell, $name, %options) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($status, $said) = $debian->paste($shell, in => '/' . TREE, %options);
	is($status, 0, $name) or diag($said);
	return $said;
}

system("mkdir '@{[$debian->root]}/@{[TREE]}' && git ls-files -co --exclude-standard | tar -T - -cf - | "
	. "tar -C '@{[$debian->root]}/@{[TREE]}' -xf -") == 0 or BAIL_OUT('the tree cannot be copied');
$debian->write_file('etc/apt/apt.conf.d/yes', qq{APT::Get::Assume-Yes "true";\n});
pasted_ok('apt-get update', 'a Debian that knows its packages', network => 1);

subtest 'Install, and With HTTP' => sub {
	my $install = blocks_of('Install');
	my $http = blocks_of('With HTTP');

	pasted_ok("set -e\n$install->{shell}[0]", 'what "Install" says to paste', network => 1);
	pasted_ok('test -e ' . CLUSTER, 'Debian has made a cluster');
	my $conf = join '', $install->{conf}[0], $http->{conf}[0];
	$debian->write_file('tmp/conf', $conf);
	pasted_ok('cat /tmp/conf >>' . CLUSTER . '; pg_ctlcluster 15 main restart', 'a restart');


	$debian->paste($http->{shell}[0], in => '/' . TREE, background => 1);
	my (undef, $said) = psql(blocks_of('With Dapr')->{sql}[0]);
	unlike($said, qr/ERROR|WARNING/, 'the statements') or diag($said);
	$said = $debian->wait_until(
		sub {
			my (undef, $states) = psql('SELECT state FROM outbox.outbox_events', '-At');
			return $states =~ /^published$/m && $states;
		});
	is($said, "published\n", 'the event is published');
	is((psql('SELECT * FROM outbox.outbox_check() WHERE NOT ok', '-At'))[1],
		'', 'outbox_check() has nothing to complain of');
};

done_testing();
