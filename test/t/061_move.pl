# Promise: what is in the tables need not have been made by the server that a
# relay starts on.  What is undelivered is sent there, and what is delivered is
# not sent again.  Ways of docs/move.md.

use strict;
use warnings FATAL => 'all';

use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;

my $receiver = start_receiver(mode => 'dapr');
my %conf = ('outbox.dapr_endpoint' => $receiver->url);
my $dir = PostgreSQL::Test::Utils::tempdir();

# A new node with the extension
sub node_with_extension
{
	my ($name, %opts) = @_;
	my $node = new_node($name, %opts, conf => { %conf, %{ $opts{conf} // {} } });
	query($node, 'CREATE EXTENSION outbox');
	wait_relay($node);
	return $node;
}

# Have a node with events of every kind, and its relay pause: what was sent
# already, what is left to be sent, and one that is dead.
sub leave_events
{
	my ($node) = @_;
	my %id = (sent => [ publish($node, 'sent', count => 20) ]);
	wait_delivered($receiver, $id{sent});
	$receiver->faults([
		{ match => { topic => 'dead' }, status => 413 },
		{ match => { topic => 'failed' }, status => 503 }
	]);
	$id{dead} = publish($node, 'dead');
	wait_state($node, $id{dead}, 'dead');
	$id{failed} = publish($node, 'failed', key => 'k');
	wait_state($node, $id{failed}, 'failed');
	disable($node);
	$receiver->faults([]);
	$id{left} = [
		publish($node, 'left', count => 10, key => 'k'),
		publish($node, 'left', count => 10)
	];
	$id{source} = database_source($node);
	return %id;
}

# The node sends what was left, once, and nothing else; and what is new.
sub goes_on
{
	my ($node, %id) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @left = (@{ $id{left} }, $id{failed});
	my $new = publish($node, 'left', key => 'k');
	is(query($node, "SELECT id > (SELECT max(e.id) FROM outbox_event e"
			  . " WHERE e.event_id <> n.event_id)"
			  . " FROM outbox_event n WHERE event_id = '$new'"),
		't', 'ids go on');
	wait_delivered($receiver, [ @left, $new ]);
	wait_settled($node);
	taken_once($receiver, [ @left, $new ], 'what was left is sent, once');
	taken_once($receiver, $id{sent}, 'what had been sent is not sent again');
	is((grep { $_->{id} eq $new } $receiver->accepted)[-1]{seq} >
		  (grep { $_->{id} eq $id{left}[9] } $receiver->accepted)[-1]{seq},
		1, 'in order');
	is(event_state($node, $id{dead}), 'dead', 'what was dead is');
	is((grep { cloud_event($_)->{source} ne $id{source} } $receiver->accepted),
		0, 'all of them have the same source');
	return;
}

promise 'a relay sets sequences forward that were set back' => sub {
	my $node = node_with_extension('sequences');
	my @ids;
	foreach (1 .. 5)
	{
		push @ids, publish($node, 'before', count => 4);
		wait_delivered($receiver, \@ids);
		wait_settled($node);	# a checkpoint
	}
	disable($node);
	my $later = publish($node, 'before', more => q{deliver_after => now() + '1d'});
	query($node, "SELECT outbox_discard('$later')");
	my $offset = -s $node->logfile;
	query($node, q{
		SELECT setval('outbox_event_id_seq', 5, false),
			   setval('outbox_progress_id_seq', 1)});

	restart_relay($node);
	my $log = wait_log($node,
		qr/sequence "outbox_progress_id_seq" was behind its table/, $offset);
	like(
		$log,
		qr/sequence "outbox_event_id_seq" was behind its table and has been set from 5 to 21/,
		'that of the events too');
	unlike($log, qr/sequence "outbox_request_id_seq"/,
		'one that is not behind is left alone');
	reload($node, 'outbox.enabled' => 'on');
	@ids = publish($node, 'after', count => 20);
	wait_delivered($receiver, \@ids);
	taken_once($receiver, \@ids, 'what is published then is sent once');
	wait_settled($node);
	is( query($node, q{
			SELECT min(id) FROM outbox_event WHERE topic = 'after'}),
		22,
		'ids go on behind the largest one');
	$node->stop;
};

# A server whose counter of transactions was set back knows no row that was
# written since, unless it is frozen.  So everything is, while no relay runs.
promise 'a position from beyond the counter of transactions is put right' => sub {
	my $node = node_with_extension('reset', conf => { autovacuum => 'off' });
	my $xid = query($node, 'SELECT pg_current_xact_id()');
	my @sent = publish($node, 'sent', count => 20);
	wait_delivered($receiver, \@sent);
	query($node, 'SELECT pg_current_xact_id()') foreach 1 .. 50;
	push @sent, publish($node, 'sent');
	wait_delivered($receiver, \@sent);
	wait_settled($node);
	$receiver->faults([ { match => { topic => 'dead' }, status => 413 } ]);
	my $dead = publish($node, 'dead');
	wait_state($node, $dead, 'dead');
	my $open = publish($node, 'open');
	wait_delivered($receiver, [$open]);
	wait_settled($node);

	my @without = ('postgresql.conf', 'shared_preload_libraries');
	$node->stop;
	$node->adjust_conf(@without, "''");
	$node->start;
	my @unread = publish($node, 'unread', count => 5, key => 'k');
	query($node, q{
		UPDATE outbox_progress SET open = (SELECT array_agg(id)
			FROM outbox_event WHERE topic = 'open')
		WHERE id = (SELECT max(id) FROM outbox_progress)});
	$node->command_ok([ 'vacuumdb', '--all', '--freeze' ], 'vacuumdb --freeze');
	$node->stop;
	$node->command_ok(
		[ 'pg_resetwal', '-x', $xid, '-D', $node->data_dir ], 'pg_resetwal');
	$node->start;
	push @unread, publish($node, 'unread', count => 20, key => 'k');
	like(states($node, 'unread'), qr/published/,
		'the views are wrong');
	like(check_value($node, 'position of this server', 'ok, detail'),
		qr/^f\|the counter of transactions was set back/,
		'outbox_check() says so');
	$receiver->faults([]);
	$node->stop;
	$node->adjust_conf(@without, "'outbox'");
	my $offset = -s $node->logfile;
	$node->start;

	wait_delivered($receiver, \@unread);
	wait_settled($node);
	taken_once($receiver, \@unread, 'what no relay had settled is sent');
	taken_once($receiver, \@sent, 'what had been sent is not sent again');
	is((grep { $_->{id} eq $open } $receiver->accepted(fields => ['id'])),
		2, 'but what the position had left open is');
	is_deeply(
		[ map { $_->{id} } $receiver->accepted(topic => 'unread') ],
		\@unread, 'in order');
	is(event_state($node, $dead), 'dead', 'what was dead is');
	is(check_value($node, 'position of this server', 'ok'), 't',
		'outbox_check() is content');
	like(
		slurp_file($node->logfile, $offset),
		qr/the position is from a server whose counter of transactions was further than \d+\n.*26 are to be sent/,
		'the log tells');
	is(query($node, 'SELECT count(*) FROM outbox_event'),
		scalar(@sent) + scalar(@unread) + 2, 'nothing is pruned too early');
	is(stat_value($node, 'published, died'), '48|1', 'counters go on');
	wait_delivered($receiver, [ publish($node, 'after') ]);
	$node->stop;
};

promise 'by dump' => sub {
	my $old = node_with_extension('dump_old');
	my $new = new_node('dump_new', conf => \%conf);
	my %id = leave_events($old);
	my $file = "$dir/dump";
	$old->command_ok([ 'pg_dump', '-Fc', '-f', $file, 'postgres' ], 'pg_dump');
	$old->stop;
	$new->command_ok([ 'pg_restore', '-1', '-d', 'postgres', $file ],
		'pg_restore -1');
	goes_on($new, %id);
	$new->command_fails_like(
		[ 'pg_restore', '-1', '-a', '-d', 'postgres', $file ],
		qr/duplicate key value/,
		'where there are events already, it is refused as a whole');
	$new->stop;
};

promise 'by pg_upgrade' => sub {
	my $old = node_with_extension('upgrade_old');
	my $new = new_node('upgrade_new', conf => \%conf, start => 0);
	my %id = leave_events($old);
	my $bin = $old->config_data('--bindir');
	$old->stop;
	local $ENV{PGHOST};
	delete $ENV{PGHOST};
	my $ok = IPC::Run::run(
		[
			"$bin/pg_upgrade", '-b', $bin, '-B', $bin,
			'-d', $old->data_dir, '-D', $new->data_dir,
			'-p', $old->port, '-P', $new->port
		],
		'>', \my $output, '2>&1', init => sub { chdir $dir or die $! });
	ok($ok, 'pg_upgrade') or diag($output);
	$new->start;
	wait_relay($new);
	goes_on($new, %id);
	$new->stop;
};

# The switch, as docs/move.md has it
sub switch_over
{
	my ($old, $new) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $file = "$dir/switch." . $new->name;
	poll_until(sub { relay_value($old, 'in_flight') eq '0' },
		'nothing to be in flight');
	$old->wait_for_catchup('s');
	query($new, 'DROP SUBSCRIPTION s');
	$old->command_ok(
		[ 'pg_dump', '-a', '-t', 'public.outbox_*', '-f', $file, 'postgres' ],
		'pg_dump of what the extension has');
	$old->stop;
	$new->command_ok(
		[ 'psql', '-X', '-q', '-1', '-v', 'ON_ERROR_STOP=1', '-f', $file, 'postgres' ],
		'its restore');
	reload($new, 'outbox.enabled' => 'on');
	return;
}

# Have $new follow all tables of $old, with these options of the subscription.
sub subscribe
{
	my ($old, $new, $with) = @_;
	(my $connection = $old->connstr('postgres')) =~ s/'/''/g;
	query($new, "CREATE SUBSCRIPTION s CONNECTION '$connection' PUBLICATION p WITH ($with)");
	return;
}

promise 'by logical replication and a switch' => sub {
	my $old = node_with_extension('logical_old',
		init => { allows_streaming => 'logical' });
	my $new = new_node('logical_new', conf => { %conf, 'outbox.enabled' => 'off' });
	query($old, 'CREATE TABLE orders (id int PRIMARY KEY)');
	my @early = publish($old, 'sent', count => 5);
	wait_delivered($receiver, \@early);
	my $file = "$dir/schema";
	$old->command_ok([ 'pg_dump', '-s', '-f', $file, 'postgres' ], 'pg_dump -s');
	$new->command_ok(
		[ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $file, 'postgres' ],
		'its restore');
	query($old, 'CREATE PUBLICATION p FOR ALL TABLES');
	subscribe($old, $new, 'copy_data = on');
	query($old, 'INSERT INTO orders VALUES (1)');
	my %id = leave_events($old);
	push @{ $id{sent} }, @early;
	poll_until(sub { query($new, 'SELECT count(*) FROM orders') eq '1' },
		'the order to be replicated');
	isnt(database_source($new), $id{source}, 'until then it has a source of its own');
	switch_over($old, $new);
	goes_on($new, %id);
	$new->stop;
};

# pg_createsubscriber, and what is called blue/green, begin with a physical copy.
promise 'by a copy of the server that becomes a subscriber' => sub {
	my $old = node_with_extension('copy_old',
		init => { allows_streaming => 'logical' });
	my @early = publish($old, 'sent', count => 5);
	wait_delivered($receiver, \@early);
	disable($old);
	push @early, publish($old, 'sent', count => 5);
	query($old, 'CREATE PUBLICATION p FOR ALL TABLES');
	$old->backup('backup');
	my $new = PostgreSQL::Test::Cluster->new('copy_new');
	$new->init_from_backup($old, 'backup', has_streaming => 1);
	$new->start;
	is(query($new, 'SHOW outbox.enabled'), 'off', 'the copy is not to send');
	$old->wait_for_catchup($new);
	$new->promote;
	subscribe($old, $new, 'copy_data = off');
	reload($old, 'outbox.enabled' => 'on');
	wait_delivered($receiver, \@early);
	my %id = leave_events($old);
	push @{ $id{sent} }, @early;
	isnt(query($new, 'SELECT count(*) FROM outbox_event'),
		0, 'the copy has old events');
	query($new, 'TRUNCATE outbox_event');
	switch_over($old, $new);
	goes_on($new, %id);
	$new->stop;
};

done_testing();
