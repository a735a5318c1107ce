# Promise: what is in the tables need not have been made by the server that a
# relay starts on.  What is undelivered is sent there, and what is delivered is
# not sent again.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;

my $receiver = start_receiver(mode => 'dapr');
my %conf = ('outbox.dapr_endpoint' => $receiver->url);

# A new node with the extension
sub node_with_extension
{
	my ($name, %opts) = @_;
	my $node = new_node($name, %opts, conf => { %conf, %{ $opts{conf} // {} } });
	query($node, 'CREATE EXTENSION outbox');
	wait_relay($node);
	return $node;
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

	my @without = ('postgresql.conf', 'shared_preload_libraries');
	$node->stop;
	$node->adjust_conf(@without, "''");
	$node->start;
	my @unread = publish($node, 'unread', count => 5, key => 'k');
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
	is_deeply(
		[ map { $_->{id} } $receiver->accepted(topic => 'unread') ],
		\@unread, 'in order');
	is(event_state($node, $dead), 'dead', 'what was dead is');
	is(check_value($node, 'position of this server', 'ok'), 't',
		'outbox_check() is content');
	like(
		slurp_file($node->logfile, $offset),
		qr/the position is from a server whose counter of transactions was further than \d+\n.*25 are to be sent/,
		'the log tells');
	is(query($node, 'SELECT count(*) FROM outbox_event'),
		scalar(@sent) + scalar(@unread) + 1, 'nothing is pruned too early');
	wait_delivered($receiver, [ publish($node, 'after') ]);
	$node->stop;
};

done_testing();
