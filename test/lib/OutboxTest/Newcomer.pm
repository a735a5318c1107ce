# Somebody who follows README on a bare Debian: what is pasted there, and what is done by
# hand.  A block without a language that is no command goes to postgresql.conf, the
# receiver gets a terminal of its own, and apt is answered with yes.

package OutboxTest::Newcomer;

use strict;
use warnings FATAL => 'all';

use Test::More;

use OutboxTest::BareDebian;
use OutboxTest::Poll;
use OutboxTest::Page qw(page_blocks);

use constant CLUSTER => '/etc/postgresql/15/main/postgresql.conf';

# missing: why nobody can come here, or undef
sub missing { return OutboxTest::BareDebian->missing; }

# new($home): somebody at a prompt in this folder of a Debian that knows its packages
sub new
{
	my ($class, $home) = @_;
	my $self = bless { debian => OutboxTest::BareDebian->new, home => $home }, $class;
	mkdir $self->path or BAIL_OUT("$home cannot be made: $!");
	$self->write_file('/etc/apt/apt.conf.d/yes', qq{APT::Get::Assume-Yes "true";\n});
	return $self;
}

# path: where the folder at whose prompt they are is on this machine
sub path { return "$_[0]{debian}{root}$_[0]{home}"; }

# write_file($path, $text): of that Debian
sub write_file { return shift->{debian}->write_file(@_); }

# copy_tree($dir): this tree in a folder of this machine, as a clone of the repository has it
sub copy_tree
{
	my ($dir) = @_;
	system("git ls-files -co --exclude-standard | tar --ignore-failed-read -T - -cf - | tar -C '$dir' -xf -") == 0
	  or BAIL_OUT('the tree cannot be copied');
	return;
}

# blocks_of($heading): of a part of README, what is pasted into a shell, into the server's
# configuration and into psql, and what is only shown
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

# pasted_ok($shell, $name, %options): test that a command succeeds, and return what it
# says.  Options are those of paste().
sub pasted_ok
{
	my ($self, $shell, $name, %options) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($status, $said) = $self->{debian}->paste($shell, in => $self->{home}, %options);
	is($status, 0, $name) or diag($said);
	return $said;
}

# psql($sql, @options): what it says to postgres, whose is the database
sub psql
{
	my ($self, $sql, @options) = @_;
	$self->write_file('/tmp/pasted.sql', $sql);
	return ($self->{debian}->paste("psql -X @options -f /tmp/pasted.sql", user => 'postgres'))[1];
}

# Without what is another one each time
sub _same_each_time
{
	my ($text) = @_;
	$text =~ s{^(ce-id: )[0-9a-f-]{36}$}{$1ID}m;
	$text =~ s{^(ce-source: /postgresql/postgres/)[0-9a-f]{8}$}{$1ID}m;
	$text =~ s{^(ce-time: )[\d-]{10}T[\d:.]+Z$}{$1TIME}m;
	return $text;
}

# delivers_by_http: test that once the library is installed, the rest of "Install" and
# "With HTTP" lead to a delivered event, and that the receiver prints what README shows
sub delivers_by_http
{
	my ($self) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $http = blocks_of('With HTTP');

	$self->pasted_ok('test -e ' . CLUSTER, 'Debian has made a cluster');
	$self->write_file('/tmp/conf', join '', blocks_of('Install')->{conf}[0], $http->{conf}[0]);
	$self->pasted_ok('cat /tmp/conf >>' . CLUSTER . '; pg_ctlcluster 15 main restart', 'a restart');

	$self->{debian}->paste($http->{shell}[0], in => $self->{home}, background => 1);
	my $said = $self->psql(blocks_of('With Dapr')->{sql}[0]);
	unlike($said, qr/ERROR|WARNING/, 'the statements') or diag($said);
	$said = poll_until(
		sub {
			my $states = $self->psql('SELECT state FROM outbox.outbox_events', '-At');
			return $states =~ /^published$/m && $states;
		},
		'the event to be published');
	is($said, "published\n", 'the event is published');
	my ($printed) = $self->{debian}->said =~ /^(POST .*?^=> .*?\n)/ms;
	is(_same_each_time($printed // ''), _same_each_time($http->{shown}[0]),
		'the receiver prints what README shows');
	is($self->psql('SELECT * FROM outbox.outbox_check() WHERE NOT ok', '-At'),
		'', 'outbox_check() has nothing to complain of');
	return;
}

1;
