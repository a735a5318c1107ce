# Promise: when the server around the relay is short of something, or odd, the
# relay waits, tries again and goes on, and no event is lost or sent twice: no
# room for locks, no connection, no file descriptor, no way to the endpoint, an
# old snapshot, frozen rows, xids far ahead, a clock that was wrong.

use strict;
use warnings FATAL => 'all';

use IO::Socket::INET;
use IPC::Run ();
use POSIX qw(strftime);
use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;

use constant {
	MAX_CONNECTIONS => 8,
	CHURN => 10000,            # events
	FAR_XID => 954 << 20,      # the first of a segment of pg_xact
	XACT_SEGMENT => 256 * 1024,    # bytes
	MEMORY_BOUND => 16 * 1024,     # kB
};

my $receiver = start_receiver(mode => 'dapr');
my $node = new_node(
	'surroundings',
	clock => 1,
	conf => {
		'outbox.dapr_endpoint' => $receiver->url,
		'outbox.connect_timeout' => '300ms',
		'outbox.request_timeout' => '3s',
		'outbox.minimum_retry_interval' => '0',
		'outbox.breaker_threshold' => 1,
		max_connections => MAX_CONNECTIONS,
		max_locks_per_transaction => 10,
	});
query($node, 'CREATE EXTENSION outbox');
wait_relay($node);

# Each of these events arrives, and exactly once.
sub arrive_once
{
	my ($ids, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_delivered($receiver, $ids);
	wait_state($node, $ids->[-1], 'published');
	return taken_once($receiver, $ids, $what);
}

# --- The server is short of something

# A lock on the table that the relay reads means that a lock of the relay's has
# to be in shared memory, too; those that take nothing but room fill that.
promise 'without room for locks the relay waits, and goes on' => sub {
	disable($node);
	my @ids = publish($node, 'locks', count => 20);
	my $relay = relay_pid($node);
	my $offset = -s $node->logfile;

	my @holders = map { $node->background_psql('postgres') } 1 .. 2;
	$holders[0]->query_safe('BEGIN; LOCK TABLE outbox_event IN SHARE MODE');
	$holders[1]->query_safe('BEGIN');
	my ($filled) = map {
		$_->query_safe(
			q{DO $$
			BEGIN
				FOR i IN 1..100000 LOOP
					BEGIN
						PERFORM pg_advisory_xact_lock_shared(i);
					EXCEPTION WHEN out_of_memory THEN
						RETURN;
					END;
				END LOOP;
				RAISE 'there is no end';
			END
			$$;
			SELECT count(*) > 100 FROM pg_locks
			WHERE locktype = 'advisory' AND pid = pg_backend_pid()})
	} @holders;
	is($filled, 't', 'locks fill all the room there is');

	# No session can begin now, so that reload() could not tell when it is done.
	$node->append_conf('postgresql.conf', 'outbox.enabled = on');
	$node->reload;
	my $error = qr/out of shared memory/;
	poll_until(
		sub {
			slurp_file($node->logfile, $offset) =~ /$error.*$error.*$error/s;
		},
		'the relay to miss it');
	is($receiver->stats->{accepted}, 0, 'nothing could be read');
	$_->quit foreach @holders;
	reload($node, 'outbox.enabled' => undef);
	arrive_once(\@ids, 'with room for locks all events arrive');
	is(relay_pid($node), $relay, 'it is the same relay');
};

promise 'without a free connection the relay goes on' => sub {
	my @sessions =
	  map { $node->background_psql('postgres') } 1 .. MAX_CONNECTIONS;
	my ($status, undef, $stderr) = $node->psql('postgres', 'SELECT 1');
	like($stderr, qr/too many clients/, 'nobody else gets in');

	my $publish = publish_sql('full');
	my @ids = $sessions[0]->query_safe($publish);
	wait_delivered($receiver, \@ids);
	my $pid = q{SELECT pid FROM pg_stat_activity
		WHERE backend_type = 'outbox relay'};
	my $relay = $sessions[0]->query_safe($pid);
	$sessions[0]->query_safe("SELECT pg_terminate_backend($relay, 5000)");
	push @ids, $sessions[0]->query_safe($publish);
	wait_delivered($receiver, \@ids);
	isnt($sessions[0]->query_safe($pid), $relay, 'not even a new relay needs one');
	$_->quit foreach @sessions;
	arrive_once(\@ids, 'events arrive meanwhile');
};

promise 'without file descriptors the relay lives, and goes on' => sub {
	plan skip_all => 'needs prlimit and /proc'
	  unless -d '/proc/self/fd'
	  && IPC::Run::run([ 'prlimit', '--version' ], '>', \my $output, '2>&1');

	wait_delivered($receiver, [ publish($node, 'files') ]);
	my $relay = relay_pid($node);
	my ($free) = grep { !-l "/proc/$relay/fd/$_" } 0 .. 1000;
	$receiver->faults([ { match => { topic => 'files' }, action => 'hang' } ]);

	my ($soft) =
	  slurp_file("/proc/$relay/limits") =~ /^Max open files\s+(\d+)/m;
	my $limit = sub {
		system_or_bail('prlimit', '--pid', $relay, "--nofile=$_[0]:");
		return;
	};
	$limit->($free + 5);
	my @ids = publish($node, 'files', count => 40);
	wait_relay_value($node, last_error => qr/connect|socket|open files/i);
	cmp_ok($receiver->stats->{concurrent}, '<', 40, 'not all of them got through');
	is(relay_pid($node), $relay, 'the relay lives');

	$limit->($soft);
	$receiver->faults([]);
	arrive_once(\@ids, 'with room for sockets all events arrive');
	is(states($node, 'files'), 'published*41', 'none died of it');
};

# --- The endpoint is out of reach, or odd

# The port of a listener that drops what it is offered, because its queue is
# full, and the sockets that keep it so.
sub full_queue
{
	my $listener = IO::Socket::INET->new(
		LocalAddr => '127.0.0.1',
		Proto => 'tcp') // die "socket: $!";
	listen($listener, 0) or die "listen: $!";
	my $port = $listener->sockport;
	my @clients = map {
		IO::Socket::INET->new(
			PeerAddr => "127.0.0.1:$port",
			Blocking => 0)
	} 1 .. 4;
	return ($port, $listener, @clients);
}

promise 'an endpoint that cannot be reached costs no attempt' => sub {
	my ($port, @sockets) = full_queue();
	my $relay = relay_pid($node);
	(my $tls = $receiver->url) =~ s/^http:/https:/;
	foreach my $case (
		[ 'no such name', 'http://nowhere.invalid:3500', qr/resolve/i ],
		# Versions of libcurl say different things, but not what was said before.
		[ 'no TLS at the port', $tls, qr/^(?!.*resolve)./i ],
		[ 'a full queue', "http://127.0.0.1:$port", qr/timed? ?out/i ])
	{
		my ($name, $endpoint, $error) = @$case;
		reload($node, 'outbox.dapr_endpoint' => $endpoint);
		my $id = publish($node, 'reach');
		wait_relay_value($node, last_error => $error);
		is(event_value($node, $id, 'attempts'), 0, "$name: costs no attempt");
		reload($node, 'outbox.dapr_endpoint' => $receiver->url);
		arrive_once([$id], "$name: afterwards the event arrives");
	}
	is(relay_pid($node), $relay, 'it is the same relay');
};

promise 'Retry-After may be a date' => sub {
	my $date = strftime('%a, %d %b %Y %H:%M:%S GMT', gmtime(time() + 1800));
	$receiver->faults([ {
		match => { topic => 'dated' },
		times => 1,
		status => 503,
		headers => { 'Retry-After' => $date },
	} ]);
	my $id = publish($node, 'dated');
	wait_state($node, $id, 'failed');
	cmp_ok(
		event_value($node, $id, "abs(extract(epoch FROM next_attempt_at - '$date'))"),
		'<', 30, 'the retry is to be made at that date');
	let_time_pass($node, 1750 * 1000);
	wait_state($node, scalar publish($node, 'beside'), 'published');
	is(scalar($receiver->log(id => $id)), 1, 'it is not made before');
	let_time_pass($node, 80 * 1000);
	wait_delivered($receiver, [$id]);
};

promise 'an answer without end means delivered, and is not kept' => sub {
	plan skip_all => 'needs /proc' unless -r '/proc/self/status';

	my $relay = relay_pid($node);
	my $before = private_memory($relay);
	$receiver->faults(
		[ { match => { topic => 'endless' }, action => 'hugebody' } ]);
	my @ids = publish($node, 'endless', count => 5);
	my $most = 0;
	poll_until(
		sub {
			my $now = private_memory($relay);
			$most = $now if $now > $most;
			return states($node, 'endless') eq 'published*5';
		},
		'the events to be published');
	cmp_ok($most - $before, '<=', MEMORY_BOUND, 'is not kept in memory');
	arrive_once(\@ids, 'and means delivered');
};

# --- Old snapshots, old rows

# Entries of our indexes read so far.  A relay that ends tells its part.
sub entries_read
{
	restart_relay($node);
	return query($node, q{SELECT sum(idx_tup_read) FROM pg_stat_user_indexes
		WHERE relname LIKE 'outbox%'});
}

# Entries read for 50 events, a transaction each
sub cost
{
	my ($topic) = @_;
	my $before = entries_read();
	query($node, join '; ', (publish_sql($topic)) x 50);
	poll_until(
		sub { $receiver->accepted(topic => $topic, fields => ['seq']) >= 50 },
		"50 events of $topic");
	return entries_read() - $before;
}

promise 'an old snapshot does not make the relay walk over dead rows' => sub {
	my $before = cost('before');

	my $old = $node->background_psql('postgres');
	$old->query_safe(
		'BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class');
	reload(
		$node,
		'outbox.published_expire_time' => '0',
		'outbox.cleaning_expire_interval' => '100ms');
	restart_relay($node);
	publish($node, 'churn', count => CHURN);
	poll_until(sub { stat_value($node, 'pruned') >= CHURN },
		'all events to be pruned');
	reload($node,
		map { $_ => undef } 'outbox.published_expire_time',
		'outbox.cleaning_expire_interval');

	# The relay looks for the highest id when it starts: let that be alive.
	wait_state($node, scalar publish($node, 'last'), 'published');

	my $after = cost('after');
	note("index entries read for 50 events: $before before, $after after");
	cmp_ok($after, '<=', 2 * $before + 500,
		'the relay does not walk over dead rows');
	$old->query_safe('COMMIT');
	$old->quit;
};

# Events that are pending, and one that has failed, while the relay is disabled;
# before them, some that are published
sub leave_events
{
	my ($topic) = @_;
	my @published = publish($node, "$topic before", count => 20);
	wait_delivered($receiver, \@published);
	reload(
		$node,
		'outbox.breaker_threshold' => 0,
		'outbox.failed_retry_interval' => '1h',
		'outbox.local_retry_times' => 0);
	$receiver->faults(
		[ { match => { topic => $topic }, component_error => 'no' } ]);
	my $failed = publish($node, $topic);
	wait_state($node, $failed, 'failed');
	wait_state($node, \@published, 'published');
	disable($node);
	$receiver->reset;
	return ($failed, publish($node, $topic, count => 20));
}

sub freeze
{
	$node->command_ok([ 'vacuumdb', '--all', '--freeze', '--quiet' ],
		'VACUUM FREEZE of all databases');
	return;
}

# They arrive, and nothing that was published before them.
sub go_on
{
	my (@ids) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $failed = $ids[0];
	reload($node, 'outbox.enabled' => 'on');
	query($node, "SELECT outbox_retry('$failed')");
	arrive_once(\@ids, 'what was left arrives');
	is($receiver->stats->{accepted}, scalar(@ids), 'and nothing else');
	is(stat_value($node, 'backlog'), 0, 'nothing is left');
	return;
}

promise 'what is frozen is not sent again, and what is left is sent' => sub {
	my @ids = leave_events('frozen');
	freeze();
	$node->restart;
	go_on(@ids);
};

promise 'xids may run on into the next epoch' => sub {
	my @ids = leave_events('epoch');
	freeze();
	$node->stop;
	append_to_file(
		sprintf('%s/pg_xact/%04X', $node->data_dir, FAR_XID >> 20),
		"\0" x XACT_SEGMENT);
	command_ok(
		[ 'pg_resetwal', '-e', 1, '-x', FAR_XID, '-D', $node->data_dir ],
		'xids are set far ahead');
	$node->start;
	push @ids, publish($node, 'epoch', count => 20);
	is( query($node, q{
			SELECT count(*), count(*) FILTER (WHERE xid::text::numeric > 2 ^ 32)
			FROM outbox_event WHERE topic = 'epoch'}),
		'41|20',
		'some events are of before, some of after');
	go_on(@ids);
};

promise 'in binary upgrade mode neither launcher nor relay runs' => sub {
	$node->stop;
	my @pg_ctl = ('pg_ctl', '-D', $node->data_dir, '-w', '-l', $node->logfile);
	command_ok([ @pg_ctl, '-o', '-b', 'start' ], 'postgres -b');
	my $id = publish($node, 'upgrade');
	is( query($node, q{SELECT count(*) FROM pg_stat_activity
			WHERE backend_type LIKE 'outbox%'}),
		0, 'neither launcher nor relay runs');
	command_ok([ @pg_ctl, 'stop' ], 'is stopped');
	is(scalar($receiver->log(id => $id)), 0, 'nothing was sent');
	$node->start;
	arrive_once([$id], 'what was published there arrives afterwards');
};

# --- The clock

# Timers in memory are monotonic.  What is in the table is wall-clock time: rows
# that were written while the clock was a year wrong, and now it is right.
promise 'a clock that was wrong causes neither storm nor stop' => sub {
	reload(
		$node,
		'outbox.breaker_threshold' => 0,
		'outbox.failed_retry_interval' => '10min',
		'outbox.local_retry_times' => 0,
		'outbox.cleaning_local_queue_expire_interval' => '100ms');
	$receiver->faults(
		[ { match => { topic => [ 'ahead', 'behind' ] }, component_error => 'no' } ]);
	my $ahead = publish($node, 'ahead');
	my $behind = publish($node, 'behind');
	wait_state($node, [ $ahead, $behind ], 'failed');
	query($node, q{
		UPDATE outbox_delivery d
		SET next_attempt_at = d.next_attempt_at + years * interval '1 year',
			updated_at = d.updated_at + years * interval '1 year'
		FROM outbox_event e,
			(VALUES ('ahead', 1), ('behind', -1)) v(topic, years)
		WHERE e.id = d.id AND e.topic = v.topic});

	poll_until(sub { $receiver->log(id => $behind) >= 2 },
		'what is due since a year to be tried');
	poll_until(
		sub {
			event_value($node, $behind,
				q{state = 'failed' AND next_attempt_at > now()}) eq 't';
		},
		'it to wait again');
	arrive_once([ publish($node, 'others', count => 20) ],
		'others are sent as ever');
	is(scalar($receiver->log(id => $behind)), 2, 'it is tried once, no storm');
	is(scalar($receiver->log(id => $ahead)),
		1, 'what is due in a year is not tried');

	$receiver->faults([]);
	query($node, "SELECT outbox_retry('$ahead'), outbox_retry('$behind')");
	arrive_once([ $ahead, $behind ], 'an operator sends both at once');
};

$node->stop;
done_testing();
