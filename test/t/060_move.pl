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

done_testing();
