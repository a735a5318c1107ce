# Promise: events of a prepared transaction are those of any other, whoever
# prepares it and whoever ends it.
#
# - A transaction manager prepares in one session, and commits or rolls back in
#   another one, when the server has crashed and all sessions are gone.
# - By dblink, events of two databases are committed together, or not at all.
# - What is restored in a prepared transaction is noted when that is committed.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;

my $receiver = start_receiver(mode => 'dapr');
my $node = new_node(
	'prepared',
	conf => {
		'outbox.dapr_endpoint' => $receiver->url,
		max_prepared_transactions => 10,
	});
query($node, 'CREATE EXTENSION outbox; CREATE EXTENSION dblink');
query($node, 'CREATE DATABASE branch');
query($node, 'CREATE EXTENSION outbox', 'branch');
wait_relay($node, db => $_) foreach 'postgres', 'branch';

# Publish in a transaction and prepare it; the event's id.
sub prepare
{
	my ($gid, $topic, %more) = @_;
	my $db = delete $more{db};
	return query($node,
		'BEGIN; ' . publish_sql($topic, %more) . "; PREPARE TRANSACTION '$gid'", $db);
}

promise 'a transaction manager ends in another session what it has prepared' => sub {
	my $kept = prepare('kept', 'manager', key => 'k');
	my $undone = prepare('undone', 'manager', key => 'k');
	my $other = prepare('other', 'manager', db => 'branch');
	$node->stop('immediate');
	$node->start;
	my $later = publish($node, 'manager', key => 'k');
	wait_delivered($receiver, [$later]);
	is(query($node, q{SELECT string_agg(gid, ' ' ORDER BY gid) FROM pg_prepared_xacts}),
		'kept other undone', 'all are there after the crash');

	query($node, q{COMMIT PREPARED 'kept'});
	query($node, q{ROLLBACK PREPARED 'undone'});
	query($node, q{COMMIT PREPARED 'other'}, 'branch');
	wait_delivered($receiver, [ $kept, $other ]);
	taken_once($receiver, [ $kept, $other, $later ], 'what is committed is sent once');
	is(scalar($receiver->log(id => $undone)), 0, 'what is rolled back is not');
	my ($taken) = $receiver->accepted(id => $kept);
	my ($first) = $receiver->accepted(id => $later);
	cmp_ok($taken->{seq}, '>', $first->{seq}, 'nor is anything before its commit');
};

# Publish here and, by dblink, in the other database, and end both in this way.
sub publish_in_both
{
	my ($topic, $end) = @_;
	(my $connection = $node->connstr('branch')) =~ s/'/''/g;
	my $publish = publish_sql($topic) =~ s/'/''/gr;
	my @ids = grep { /^[0-9a-f]+-/ } split /\n/, query($node, qq{
		SELECT dblink_connect('branch', '$connection');
		SELECT dblink_exec('branch', 'BEGIN');
		BEGIN;
		SELECT id FROM dblink('branch', '$publish') d(id uuid);
		} . publish_sql($topic) . qq{;
		SELECT dblink_exec('branch', 'PREPARE TRANSACTION ''$topic''');
		$end;
		SELECT dblink_exec('branch', '$end PREPARED ''$topic''');
		SELECT dblink_disconnect('branch')});
	is(scalar(@ids), 2, "$topic: an event of each");
	return @ids;
}

promise 'events of two databases are committed together by dblink' => sub {
	my @lost = publish_in_both('by_dblink_lost', 'ROLLBACK');
	my @ids = publish_in_both('by_dblink', 'COMMIT');
	wait_delivered($receiver, \@ids);
	taken_once($receiver, \@ids, 'both are sent once');
	is(scalar(map { $receiver->log(id => $_) } @lost), 0, 'none that was rolled back');
};

promise 'what a prepared transaction restores is noted when it is committed' => sub {
	my $restore = q{INSERT INTO outbox_event (topic, payload, xid)
		SELECT 'restored', '1', '3' FROM generate_series(1, 5)};
	query($node, "BEGIN; $restore; PREPARE TRANSACTION 'restore'");
	query($node, "BEGIN; $restore; PREPARE TRANSACTION 'undone'");
	is(check_value($node, 'events restored', 'detail'), 'none lately', 'not before that');
	query($node, q{COMMIT PREPARED 'restore'});
	query($node, q{ROLLBACK PREPARED 'undone'});
	like(check_value($node, 'events restored', 'detail'),
		qr/^5 undelivered events were restored at/, 'then it is');
};

$node->stop;
done_testing();
