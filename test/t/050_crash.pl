# Promise: no crash and no stop, of the relay, the launcher or the whole server,
# loses an event or invents one.  What was on its way at that moment is sent
# again with the same id and the same bytes.  A hanging receiver delays neither
# a stop nor a start.  An event at which the relay crashes again and again is
# set aside, and the others go on.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use lib 'test/lib';
use OutboxTest;

use constant STOP_LIMIT => 2;    # seconds

my $receiver = start_receiver(mode => 'dapr');
my $node = new_node(
	'crash',
	conf => {
		'outbox.dapr_endpoint' => $receiver->url,
		'outbox.max_in_flight' => 17,    # 16 of one topic
		'outbox.request_timeout' => '20s',
	});
query($node, 'CREATE EXTENSION outbox');

sub wait_in_flight
{
	my ($n) = @_;
	return poll_until(sub { $receiver->stats->{concurrent} >= $n },
		"$n requests at the receiver");
}

# Exactly the committed events have been delivered, every copy of one with the
# same bytes, and none of them oftener than $copies times.
sub delivered_are
{
	my ($ids, $copies, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	my (%bodies, %count);
	foreach my $entry ($receiver->accepted(fields => [ 'id', 'body' ]))
	{
		$bodies{ $entry->{id} }{ $entry->{body} } = 1;
		$count{ $entry->{id} }++;
	}
	is_deeply([ sort keys %count ], [ sort @$ids ],
		"$what: nothing lost, nothing invented");
	is_deeply([ grep { keys %{ $bodies{$_} } > 1 } keys %bodies ],
		[], "$what: every copy of an event has the same bytes");
	is_deeply([ grep { $count{$_} > $copies } keys %count ],
		[], "$what: no event is sent more than $copies times");
	return;
}

promise 'the relay is killed in the middle of a batch' => sub {
	$receiver->faults([ { action => 'pass', delay_response => 0.02 } ]);
	my $pid = wait_relay($node);
	my @ids = publish($node, 'batch', count => 400);
	poll_until(sub { $receiver->stats->{distinct_ids} >= 50 },
		'the first deliveries');

	kill 'KILL', $pid;
	cmp_ok($receiver->stats->{distinct_ids},
		'<', 400, 'the relay was in the middle');
	wait_relay($node, not => $pid);
	wait_delivered($receiver, \@ids);
	delivered_are(\@ids, 2, 'after one crash');
};

promise 'the relay is killed between the taking and the answer' => sub {
	my $pid = wait_relay($node);
	my $file = PostgreSQL::Test::Utils::tempdir() . '/pid';
	append_to_file($file, "$pid\n");
	$receiver->faults(
		[ { action => 'pass', times => 1, kill_pid_from => $file } ]);

	# The server may crash before it has told psql of the commit.
	my $id = 'aaaaaaaa-0000-4000-8000-000000000000';
	$node->psql('postgres',
		"SELECT outbox_publish('unanswered', '{}', event_id => '$id')");
	wait_relay($node, not => $pid);
	poll_until(sub { $receiver->stats->{accepted} >= 2 },
		'the second delivery');
	delivered_are([$id], 2, 'after the crash');
	wait_state($node, $id, 'published');
};

promise 'the server is killed' => sub {
	$receiver->faults([ { action => 'pass', delay_response => 0.02 } ]);
	my $open = $node->background_psql('postgres', on_error_stop => 0);
	$open->query_safe('BEGIN; ' . publish_sql('uncommitted'));
	my @ids = publish($node, 'server', count => 400);
	poll_until(sub { $receiver->stats->{distinct_ids} >= 50 },
		'the first deliveries');

	$node->kill9;
	restart_after_kill9($node);
	wait_delivered($receiver, \@ids);
	$open->{run}->kill_kill;

	delivered_are(\@ids, 2, 'after the crash of the server');
	is( query($node,
			q{SELECT count(*) FROM outbox_events WHERE topic = 'uncommitted'}),
		0,
		'an open transaction leaves nothing');
};

promise 'a hanging receiver does not delay a stop' => sub {
	$receiver->faults([ { action => 'hang' } ]);
	my @ids = publish($node, 'stop', count => 20);
	foreach my $mode ('smart', 'fast', 'immediate')
	{
		wait_in_flight(16);

		my $start = time();
		$node->stop($mode);
		cmp_ok(time() - $start, '<=', STOP_LIMIT, "$mode stop is quick");
		$start = time();
		$node->start;
		cmp_ok(time() - $start, '<=', STOP_LIMIT,
			"start after a $mode stop is quick");
	}
	$receiver->faults([]);
	wait_delivered($receiver, \@ids);
	delivered_are(\@ids, 1, 'after three stops');
};

promise 'a restart in order sends nothing twice' => sub {
	my @ids = publish($node, 'restart', count => 200);
	wait_delivered($receiver, \@ids);
	$node->restart;
	push @ids, publish($node, 'restart');
	wait_delivered($receiver, \@ids);
	delivered_are(\@ids, 1, 'after a restart');

	restart_relay($node);
	push @ids, publish($node, 'restart');
	wait_delivered($receiver, \@ids);
	delivered_are(\@ids, 1, 'after a restart of the relay');
};

promise 'a relay that was terminated comes back, in the middle of a batch' =>
  sub {
	$receiver->faults([ { action => 'pass', delay_response => 0.02 } ]);
	my @ids = publish($node, 'terminate', count => 400);
	poll_until(sub { $receiver->stats->{distinct_ids} >= 50 },
		'the first deliveries');
	restart_relay($node);
	wait_delivered($receiver, \@ids);
	delivered_are(\@ids, 2, 'after pg_terminate_backend');
	cmp_ok($receiver->stats->{accepted}, '<=', 400 + 16,
		'only what was in flight is sent twice');
  };

promise 'a hanging receiver does not keep a relay from leaving' => sub {
	$receiver->faults([ { action => 'hang' } ]);
	my $pid = wait_relay($node);
	my ($id) = publish($node, 'terminate');
	wait_in_flight(1);

	my $start = time();
	is( query($node, "SELECT pg_terminate_backend($pid, 5000)"),
		't',
		'the relay is gone');
	cmp_ok(time() - $start, '<=', 1, 'within a second');
	$receiver->faults([]);
	wait_delivered($receiver, [$id]);
	delivered_are([$id], 1, 'after pg_terminate_backend');
};

promise 'a launcher that was terminated comes back' => sub {
	my $relay = wait_relay($node);
	my $launcher = launcher_pid($node);
	query($node, "SELECT pg_terminate_backend($launcher)");
	my $new = poll_until(
		sub {
			my $pid = launcher_pid($node);
			return defined $pid && $pid ne $launcher ? $pid : 0;
		},
		'another launcher');
	is(relay_pid($node), $relay, 'the relay went on');

	query($node, "SELECT pg_terminate_backend($relay)");
	wait_relay($node, not => $relay);
	is(launcher_pid($node), $new, 'the new launcher started a relay');
};

promise 'pg_cancel_backend harms nothing' => sub {
	my $relay = wait_relay($node);
	$receiver->faults([ { action => 'pass', delay_response => 0.02 } ]);
	my @ids = publish($node, 'cancel', count => 200);
	foreach my $n (1 .. 5)
	{
		wait_delivered($receiver, 20 * $n);
		query($node, "SELECT pg_cancel_backend($relay)");
	}
	query($node, 'SELECT pg_cancel_backend(' . launcher_pid($node) . ')');
	wait_delivered($receiver, \@ids);
	is(relay_pid($node), $relay, 'the relay is the same');
	delivered_are(\@ids, 1, 'with five cancels');
	ok(poll_until(sub { launcher_pid($node) }, 'a launcher'),
		'a launcher is there');
};

# The second failure opens the breaker, and from then on it waits in the memory of
# a relay that has tried it.
promise 'crashes of the server are not the fault of an event that waits' => sub {
	wait_delivered($receiver, [ publish($node, 'wait') ]);
	reload(
		$node,
		'outbox.local_retry_times' => 0,
		'outbox.breaker_threshold' => 2);
	$receiver->state(listening => 0);
	my $id = publish($node, 'wait');
	foreach my $n (1 .. 3)
	{
		poll_until(sub { (event_state($node, $id) // '') =~ /^(pending|in_progress|failed)$/ },
			'the event to wait');
		poll_until(
			sub {
				try_query($node, 'SELECT failed_attempts > 0 FROM outbox_stats')
				  eq 't';
			},
			'the event to wait in the memory of the relay');
		$node->stop('immediate');
		$node->start;
	}
	$receiver->state(listening => 1);
	wait_delivered($receiver, [$id]);
	isnt(event_state($node, $id), 'dead', 'it is not dead after three crashes');
};

promise 'crashes of other processes are not the fault of an event in flight' => sub {
	$receiver->faults([ { match => { topic => 'beside' }, action => 'hang' } ]);
	my ($id) = publish($node, 'beside');
	my $offset = -s $node->logfile;
	foreach my $n (1 .. 4)
	{
		poll_until(sub { $receiver->faults->[0]{fired} >= $n }, "try $n of the event");
		my $pid = wait_relay($node);
		my $session = $node->background_psql('postgres', on_error_stop => 0);
		my $backend = $session->query_safe('SELECT pg_backend_pid()');
		kill 'KILL', $backend;
		wait_relay($node, not => $pid);
		eval { $session->quit };
	}
	$receiver->faults([]);
	wait_delivered($receiver, [$id]);
	wait_state($node, $id, 'published');
	is(() = slurp_file($node->logfile, $offset) =~ /has died by itself/g,
		0, 'the relay has not died by itself');

	$offset = -s $node->logfile;
	my $pid = wait_relay($node);
	kill 'KILL', $pid;
	wait_relay($node, not => $pid);
	is(() = slurp_file($node->logfile, $offset) =~ /has died by itself/g,
		1, 'when it has, the log says so, once');
};

promise 'an event at which the relay crashes three times is set aside' => sub {
	$receiver->faults(
		[ { match => { topic => 'poison' }, action => 'hang' } ]);
	my @good = publish($node, 'good', count => 5);
	my ($poison) = publish($node, 'poison');
	push @good, publish($node, 'good', count => 5);

	my $offset = -s $node->logfile;
	foreach my $n (1 .. 3)
	{
		poll_until(sub { $receiver->faults->[0]{fired} >= $n },
			"try $n of the poisonous event");
		my $pid = wait_relay($node);
		kill 'KILL', $pid;
		wait_relay($node, not => $pid);
	}
	wait_state($node, $poison, 'dead');
	is( event_value($node, $poison, 'last_error'),
		'the relay crashed 3 times with this event in flight',
		'the reason is shown');
	ok(wait_log($node, qr/outbox: event "$poison" of topic "\w+" is dead for destination "default" of database "postgres"\n.*DETAIL:  Row \d+ of table "outbox_event": the relay crashed 3 times/, $offset),
		'and logged');
	push @good, publish($node, 'good', count => 5);
	wait_delivered($receiver, \@good);
	is(states($node, 'good'), 'published*15', 'the others are published');
	is($receiver->faults->[0]{fired}, 3, 'it is not sent again');

	$receiver->faults([]);
	query($node, "SELECT outbox_retry('$poison')");
	wait_delivered($receiver, [ @good, $poison ]);
	delivered_are([ @good, $poison ], 4, 'after three crashes');
};

$node->stop;
done_testing();
