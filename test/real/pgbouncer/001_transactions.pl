# Publishing through PgBouncer, whose clients share sessions by transaction.
#
# Promises:
# - A commit wakes the relay, and each event knows which user published it.
# - What a client leaves undone is not sent; who has the session next publishes.
# - What one client prepares, another one commits or rolls back, in the same session
#   or when the pooler and all sessions have died.
# - A setting of one transaction is that transaction's, and a search_path that a client
#   leaves behind changes nothing for the next one.
# - Many clients in few sessions, which forget all behind each transaction: each
#   event once, in the order of its key.

use strict;
use warnings FATAL => 'all';

use Test::More;

use lib 'test/lib';
use OutboxTest;
use Real::Pgbouncer;

my $missing = Real::Pgbouncer->missing;
plan skip_all => $missing if $missing;

use constant { CLIENTS => 20, EACH => 25 };

# The poll is an hour away: whatever arrives comes of a commit.
my $receiver = start_receiver(mode => 'dapr');
my $node = new_node(
	'pooled',
	conf => {
		'outbox.dapr_endpoint' => $receiver->url,
		'outbox.poll_interval' => '1h',
	});
query($node, q{
	CREATE EXTENSION outbox;
	CREATE ROLE alice LOGIN;
	CREATE ROLE bob LOGIN;
	GRANT EXECUTE ON FUNCTION outbox_publish, outbox_retry TO alice, bob});
my $owner = query($node, 'SELECT current_user');
my %pooler = (node => $node, users => [ 'alice', 'bob', $owner ]);
my $pooler = Real::Pgbouncer->new(%pooler);

# What psql shows as a client of the pooler
sub pooled
{
	my ($user, $sql) = @_;
	return scalar $node->safe_psql('postgres', $sql, connstr => $pooler->connstr($user));
}

# The same when a statement fails, and what the client is told then
sub failing
{
	my ($user, $sql) = @_;
	my (undef, $stdout, $stderr) = $node->psql('postgres', $sql,
		connstr => $pooler->connstr($user),
		on_error_stop => 0);
	return ($stdout, $stderr);
}

# A client that stays
sub client
{
	my ($user) = @_;
	return $node->background_psql('postgres',
		extra_params => [ '-d', $pooler->connstr($user) ]);
}

sub session { return pooled($_[0], 'SELECT pg_backend_pid()'); }

# None of these has been sent when a later event has.
sub not_sent
{
	my ($ids, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_delivered($receiver, [ pooled('alice', publish_sql('later')) ]);
	is(scalar(map { $receiver->log(id => $_) } @$ids), 0, $name);
	return;
}

promise 'a commit wakes the relay, and the event knows its user' => sub {
	foreach my $user ('alice', 'bob', 'alice')
	{
		my $id = pooled($user, publish_sql('wakes'));
		wait_delivered($receiver, [$id]);
		is(event_value($node, $id, 'published_by'), $user, "published by $user");
	}
};

promise 'what a client leaves undone is not sent, and the next one publishes' => sub {
	my $session = session('alice');
	my $undone = pooled('alice', 'BEGIN; ' . publish_sql('undone') . '; ROLLBACK');
	my ($failed, $error) =
	  failing('alice', 'BEGIN; ' . publish_sql('undone') . '; SELECT 1/0; COMMIT');
	like($error, qr/division by zero/, 'a transaction fails');
	wait_delivered($receiver, [ pooled('alice', publish_sql('undone')) ]);
	not_sent([ $undone, $failed ], 'nothing that was undone is sent');
	is(session('alice'), $session, 'all in one session');

	my $leaver = client('alice');
	$leaver->query_safe('BEGIN');
	my $left = $leaver->query_safe(publish_sql('undone'));
	$leaver->quit;
	not_sent([$left], 'nor what a client publishes that leaves in between');
	isnt(session('alice'), $session, 'its session has ended');
};

promise 'another client ends what one has prepared, in the same session' => sub {
	my $session = session('alice');
	my ($kept, $undone) = map {
		pooled('alice', 'BEGIN; ' . publish_sql('prepared') . "; PREPARE TRANSACTION '$_'")
	} 'kept', 'undone';
	not_sent([ $kept, $undone ], 'what is prepared is not sent');
	pooled('alice', q{ROLLBACK PREPARED 'undone'});
	not_sent([ $kept, $undone ], 'nor is what is rolled back');
	pooled('alice', q{COMMIT PREPARED 'kept'});
	wait_delivered($receiver, [$kept]);
	taken_once($receiver, [$kept], 'what is committed is sent once');

	my $later = pooled('alice',
		publish_sql('prepared', more => q{deliver_after => now() + '1 hour'}));
	wait_state($node, $later, 'scheduled');
	pooled('alice', "BEGIN; SELECT outbox_retry('$later'); PREPARE TRANSACTION 'retry'");
	pooled('alice', q{COMMIT PREPARED 'retry'});
	wait_delivered($receiver, [$later]);
	is(session('alice'), $session, 'all in one session');
};

promise 'prepared transactions outlive the pooler' => sub {
	my $kept = pooled('alice',
		'BEGIN; ' . publish_sql('outlives') . q{; PREPARE TRANSACTION 'kept'});
	my $client = client('alice');
	$client->query_safe('BEGIN');
	my $lost = $client->query_safe(publish_sql('outlives'));
	$pooler->kill;
	eval { $client->quit };
	$pooler->start;
	not_sent([ $kept, $lost ], 'neither what is prepared nor what is open is sent');
	pooled('alice', q{COMMIT PREPARED 'kept'});
	wait_delivered($receiver, [$kept]);
	not_sent([$lost], 'what was open is lost with its session');
};

promise 'a setting of one transaction is not the next one\'s' => sub {
	my $session = session($owner);
	my $sql = publish_sql('settings', payload => q{to_jsonb(repeat('x', 100))});
	my (undef, $error) =
	  failing($owner, "BEGIN; SET LOCAL outbox.max_payload_size = '10'; $sql; COMMIT");
	like($error, qr/payload/, 'an event is refused by a setting of its transaction');
	wait_delivered($receiver, [ pooled($owner, $sql) ]);

	pooled($owner, 'SET search_path = nowhere');
	wait_delivered($receiver, [ pooled($owner, $sql) ]);
	is(session($owner), $session, 'all in one session');
};

promise 'many clients share few sessions' => sub {
	my $few = Real::Pgbouncer->new(%pooler, pool => 3, reset => 1);
	$node->pgbench(
		'-n -M simple -D n=0 -c ' . CLIENTS . ' -t ' . EACH,
		0,
		[ qr/actually processed: (\d+)/ ],
		[],
		'the clients publish',
		{ 'publish' => q{
			\set n :n + 1
			BEGIN;
			SELECT outbox_publish('many', to_jsonb(:n), key => 'k' || :client_id);
			COMMIT;} },
		$few->connstr('alice'));
	poll_until(
		sub { scalar($receiver->accepted(topic => 'many', fields => ['id'])) >= CLIENTS * EACH },
		'all to be sent');
	my @taken = $receiver->accepted(topic => 'many', fields => ['body', 'key']);
	my %by_client;
	push @{ $by_client{ $_->{key} } }, cloud_event($_)->{data} foreach @taken;
	is(scalar(keys %by_client), CLIENTS, 'of each client');
	is_deeply([ values %by_client ], [ ([ 1 .. EACH ]) x CLIENTS ],
		'each event once, in order');
};

$node->stop;
done_testing();
