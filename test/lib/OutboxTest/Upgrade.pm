# For tests of upgrades: installations whose files are replaced below a server that
# runs, load meanwhile, and what must have become of it.

package OutboxTest::Upgrade;

use strict;
use warnings FATAL => 'all';

use Exporter qw(import);
use IPC::Run ();
use Test::More;

use PostgreSQL::Test::Utils;

use OutboxTest;

our @EXPORT = qw(
  all_orders_arrived
  conf_of_installation
  nothing_lost
  staged_dest
  start_orders
  stop_orders
  under_load
);

# Where this version is installed, and the settings by which a server finds it
# there.
my $staged = slurp_file($ENV{TEMP_CONFIG});

# staged_dest(): the folder that tools/stage has installed into; undef: it has not
sub staged_dest
{
	my ($lib) = $staged =~ m{^dynamic_library_path = '([^':]+):}m;
	my ($dest) = defined $lib ? $lib =~ m{^(.*/dest)/} : ();
	return $dest;
}

# conf_of_installation($dir): the settings for a server that is to find the files
# below $dir, which were installed as tools/stage does
sub conf_of_installation
{
	my ($installation) = @_;
	my $dest = staged_dest();
	my %conf;
	while ($staged =~ /^(dynamic_library_path|extension_\w+) = '(.*)'$/mg)
	{
		my ($setting, $value) = ($1, $2);
		$value =~ s/\Q$dest\E/$installation/g;
		$conf{$setting} = $value;
	}
	return %conf;
}

# under_load($node, $topic, $sub, $seconds)
#
# Publish for so long (6) as role app, with plans that are made once and that are
# made each time; run $sub meanwhile, and test that no transaction has failed.
sub under_load
{
	my ($node, $topic, $sub, $seconds) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $published = sub {
		return try_query($node,
			"SELECT count(*) FROM outbox_event WHERE topic = '$topic'") || 0;
	};
	my $script = PostgreSQL::Test::Utils::tempdir() . "/$topic.sql";
	my @runs;

	append_to_file($script,
		"SELECT outbox_publish('$topic', '1', key => 'k' || :client_id);\n");
	foreach my $mode ('simple', 'prepared')
	{
		my %run = (out => '');
		$run{handle} = IPC::Run::start(
			[
				'pgbench', '-n', '-c', 2, '-T', $seconds // 6, '-R', 150,
				'-M', $mode, '-f', $script, '-h', $node->host,
				'-p', $node->port, '-U', 'app', 'postgres'
			],
			'>', \$run{out}, '2>&1');
		push @runs, \%run;
	}
	poll_until(sub { $published->() >= 50 }, 'events to be published');
	$sub->();
	my $before = $published->();
	poll_until(sub { $published->() >= $before + 50 },
		'more events to be published');
	foreach my $run (@runs)
	{
		IPC::Run::finish($run->{handle});
		is($run->{handle}->result(0), 0, "pgbench ends well ($topic)");
		like($run->{out}, qr/number of failed transactions: 0 /,
			'no transaction has failed');
		unlike($run->{out}, qr/ERROR|FATAL|aborted/, 'nor ended early');
	}
	return;
}

# start_orders($node)
#
# Publish as role app until stop_orders(), by clients that connect again after a restart.
# Each transaction writes into a table which event it publishes; a quarter of them roll
# back.
sub start_orders
{
	my ($node) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir();
	query($node, q{
		CREATE TABLE orders (event_id uuid PRIMARY KEY);
		GRANT INSERT ON orders TO app});
	append_to_file("$dir/order.sql", <<'SQL');
\set fate random(1, 4)
BEGIN;
INSERT INTO orders SELECT outbox_publish('orders', '1', key => 'k' || :client_id);
\if :fate = 1
ROLLBACK;
\else
COMMIT;
\endif
SQL
	append_to_file("$dir/on", '');
	my %orders = (on => "$dir/on", said => '');
	$orders{handle} = IPC::Run::start(
		[
			'sh', '-c', 'on=$1; shift; while [ -e "$on" ]; do "$@" || sleep 0.1; done', 'orders',
			$orders{on}, 'pgbench', '-n', '-c', 4, '-T', 2, '-R', 100, '-f', "$dir/order.sql",
			'-h', $node->host, '-p', $node->port, '-U', 'app', 'postgres'
		],
		'>', \$orders{said}, '2>&1');
	return \%orders;
}

# stop_orders($orders): the server has to be there
sub stop_orders
{
	my ($orders) = @_;
	unlink $orders->{on};
	IPC::Run::finish($orders->{handle});
	return;
}

# all_orders_arrived($node, $receiver): test that what the receiver has taken is what
# was committed, once nothing is left to be sent
sub all_orders_arrived
{
	my ($node, $receiver) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_settled($node);
	my %taken = map { $_->{id} => 1 } $receiver->accepted(fields => ['id']);
	my %ordered = map { $_ => 1 } split /\n/, query($node, 'SELECT event_id FROM orders');
	is(scalar(grep { !$taken{$_} } keys %ordered), 0, 'every event that was committed has arrived');
	is(scalar(grep { !$ordered{$_} } keys %taken), 0, 'and no other');
	return;
}

# nothing_lost($node, $receiver): test that everything the node has was delivered,
# and that its relays never crashed
sub nothing_lost
{
	my ($node, $receiver) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_settled($node);
	my %taken = map { $_->{id} => 1 } $receiver->accepted(fields => ['id']);
	my @published = split /\n/,
	  query($node, 'SELECT event_id FROM outbox_event');
	cmp_ok(scalar(@published), '>=', 200, 'there are events');
	is(scalar(grep { !$taken{$_} } @published), 0, 'none is lost');
	unlike(
		slurp_file($node->logfile),
		qr/PANIC|terminated by signal|exited with exit code [^01]|has died by itself/,
		'no process has crashed');
	return;
}

1;
