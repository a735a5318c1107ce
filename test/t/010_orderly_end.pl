# Promise: a relay that ends in order, or takes another publisher, sends nothing
# twice when the receiver answers in time: it submits nothing more, and waits a
# moment for the answers that are on their way.  A receiver that hangs does not
# make it stay: it is gone within a second, however often it is told to go.

use strict;
use warnings FATAL => 'all';

use lib 'test/lib';
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use constant {
	ANSWER_TIME => 0.02,    # seconds
	IN_FLIGHT => 64,    # of one topic: all but a sixteenth of ...
	SLOTS => 68,
	LEAVE_LIMIT => 1.5,     # a second, and what a busy machine adds
	COMMAND_LIMIT => 2,     # seconds, of a command that waits for the relay
};

my $dapr = start_receiver(mode => 'dapr');
my $http = start_receiver(mode => 'http');
my $node = new_node(
	'orderly',
	conf => {
		'outbox.dapr_endpoint' => $dapr->url,
		'outbox.http_url' => $http->url,
		'outbox.max_in_flight' => SLOTS,
		'outbox.request_timeout' => '20s',
	});

# A database of its own with the extension.
sub make_database
{
	my ($db) = @_;
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db, 'CREATE EXTENSION outbox');
	wait_relay($node, db => $db);
	return;
}

# Publish events, every tenth without a key; their ids.
sub publish_many
{
	my ($db, $n) = @_;
	return split /\n/, $node->safe_psql(
		$db, qq{
		SELECT outbox_publish('orderly', '{}',
			key => CASE WHEN n % 10 > 0 THEN 'k' || n % 500 END)
		FROM generate_series(1, $n) n});
}

# Forget what was taken before, and answer from now on after a moment.
sub begin_anew
{
	foreach my $receiver ($dapr, $http)
	{
		$receiver->reset;
		$receiver->faults(
			[ { action => 'pass', delay_response => ANSWER_TIME } ]);
	}
	return;
}

# How many events both receivers have taken, those that came twice counted twice
sub taken
{
	return $dapr->stats->{accepted} + $http->stats->{accepted};
}

sub wait_taken
{
	my ($n) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return poll_until(sub { taken() >= $n }, "$n deliveries", 120);
}

# How often each event was taken that was taken at all
sub times_taken
{
	my %times;
	$times{ $_->{id} }++
	  foreach map { $_->accepted(fields => ['id']) } $dapr, $http;
	return %times;
}

# These events arrive, and none of them twice.
sub delivered_once
{
	my (@ids) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my %times;
	poll_until(
		sub {
			wait_taken(scalar @ids);
			%times = times_taken();
			return keys %times >= @ids;
		},
		'every event to be delivered');
	is_deeply([ sort keys %times ], [ sort @ids ], 'every event is delivered');
	is(scalar(grep { $_ > 1 } values %times), 0, 'none is delivered twice');
	return;
}

subtest 'pg_terminate_backend' => sub {
	make_database('terminated');
	begin_anew();
	my @ids = publish_many('terminated', 6000);
	foreach my $n (1 .. 4)
	{
		wait_taken(1000 * $n);
		my $pid = wait_relay($node, db => 'terminated');
		my $start = time();
		is( $node->safe_psql('postgres', "SELECT pg_terminate_backend($pid, 5000)"),
			't',
			"relay $n is gone");
		cmp_ok(time() - $start, '<=', LEAVE_LIMIT, 'within a second');
		cmp_ok(taken(), '<', 6000, 'it was in the middle of its work');
		wait_relay($node, db => 'terminated', not => $pid);
	}
	delivered_once(@ids);
};

subtest 'another publisher' => sub {
	make_database('changed');
	begin_anew();
	my @ids = publish_many('changed', 6000);
	my $pid = wait_relay($node, db => 'changed');
	wait_taken(1000);
	reload($node, 'outbox.publisher' => 'http');
	poll_until(sub { $http->stats->{accepted} > 500 },
		'events at the other receiver');
	reload($node, 'outbox.publisher' => undef);
	cmp_ok(taken(), '<', 6000, 'it was in the middle of its work');
	delivered_once(@ids);
	is(relay_pid($node, 'changed'), $pid, 'the relay is the same');
};

subtest 'ALTER DATABASE ... RENAME' => sub {
	make_database('before');
	begin_anew();
	my @ids = publish_many('before', 3000);
	wait_taken(500);
	my $start = time();
	$node->safe_psql('postgres', 'ALTER DATABASE before RENAME TO afterwards');
	cmp_ok(time() - $start, '<=', COMMAND_LIMIT, 'it is done at once');
	cmp_ok(taken(), '<', 3000, 'the relay was in the middle of its work');
	delivered_once(@ids);
};

# The command waits five seconds for other sessions to end, and gives up.
subtest 'DROP DATABASE' => sub {
	make_database('dropped');
	begin_anew();
	my @ids = publish_many('dropped', 3000);
	my $session = $node->background_psql('dropped');
	wait_taken(500);
	my ($status, undef, $stderr) =
	  $node->psql('postgres', 'DROP DATABASE dropped');
	like($stderr, qr/being accessed by other users/, 'it is refused');
	cmp_ok(taken(), '<', 3000, 'the relay was in the middle of its work');
	delivered_once(@ids);

	$session->quit;
	publish_many('dropped', 3000);
	wait_taken(3500);
	my $start = time();
	$node->safe_psql('postgres', 'DROP DATABASE dropped');
	cmp_ok(time() - $start, '<=', COMMAND_LIMIT, 'it is done at once');
};

subtest 'a restart of the server' => sub {
	make_database('stopped');
	begin_anew();
	my @ids = publish_many('stopped', 3000);
	wait_taken(500);
	$node->restart;
	cmp_ok(taken(), '<', 3000, 'the relay was in the middle of its work');
	delivered_once(@ids);
};

# A further request neither begins the wait anew nor spoils the last checkpoint,
# without which the next relay would send again what was just answered.  That
# checkpoint is made slow enough to be met.
subtest 'many requests to end' => sub {
	make_database('repeated');
	$node->safe_psql(
		'repeated', q{
		CREATE FUNCTION wait_a_moment() RETURNS trigger LANGUAGE plpgsql AS
			$$BEGIN PERFORM pg_sleep(0.2); RETURN NEW; END$$;
		CREATE TRIGGER wait_a_moment BEFORE INSERT ON outbox_progress
			FOR EACH ROW WHEN (NEW.clean) EXECUTE FUNCTION wait_a_moment()});
	begin_anew();
	my @ids = publish_many('repeated', 3000);
	foreach my $n (1 .. 3)
	{
		wait_taken(500 * $n);
		my $pid = wait_relay($node, db => 'repeated');
		my $start = time();
		poll_until(sub { !kill('TERM', $pid) }, 'the relay to be gone');
		cmp_ok(time() - $start, '<=', LEAVE_LIMIT, 'it is gone within a second');
	}
	delivered_once(@ids);
};

subtest 'a receiver that hangs' => sub {
	make_database('hanging');
	begin_anew();
	$_->faults([ { action => 'hang' } ]) foreach $dapr, $http;
	my @ids = publish_many('hanging', 200);
	poll_until(sub { $dapr->stats->{concurrent} == IN_FLIGHT },
		'the requests of the first relay');
	my $pid = wait_relay($node, db => 'hanging');
	my $start = time();
	poll_until(sub { !kill('TERM', $pid) }, 'the relay to be gone');
	cmp_ok(time() - $start, '<=', LEAVE_LIMIT, 'it is gone within a second');

	wait_relay($node, db => 'hanging', not => $pid);
	poll_until(sub { $dapr->stats->{concurrent} == IN_FLIGHT },
		'the requests of the next one');
	$start = time();
	reload($node, 'outbox.publisher' => 'http');
	poll_until(sub { $http->stats->{concurrent} == IN_FLIGHT },
		'the requests of another publisher');
	cmp_ok(time() - $start, '<=', LEAVE_LIMIT, 'it is in place within a second');

	$start = time();
	$node->safe_psql('postgres', 'ALTER DATABASE hanging RENAME TO hung');
	cmp_ok(time() - $start, '<=', COMMAND_LIMIT, 'a command has its way at once');
	reload($node, 'outbox.publisher' => undef);
	$_->faults([]) foreach $dapr, $http;
	poll_until(sub { my %times = times_taken(); keys %times == @ids },
		'every event to be delivered');
	pass('every event is delivered in the end');
};

$node->stop;
done_testing();
