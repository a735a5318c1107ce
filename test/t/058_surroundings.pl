# Promise: when the server around the relay is short of something, or odd, the
# relay waits, tries again and goes on, and no event is lost or sent twice: no
# room for locks, no connection, no file descriptor, no way to the endpoint, an
# old snapshot, frozen rows, xids far ahead, a clock that was wrong.

use strict;
use warnings FATAL => 'all';

use lib 'test/lib';
use IO::Socket::INET;
use IPC::Run ();
use OutboxTest qw(:DEFAULT !/^(check_value|dapr_error|event_value|fails_with|publish|publish_sql|query|restart_relay|stat_value|states|wait_states)$/);
use POSIX qw(strftime);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use constant {
	MAX_CONNECTIONS => 8,
	CHURN => 10000,            # events
	FAR_XID => 954 << 20,      # the first of a segment of pg_xact
	XACT_SEGMENT => 256 * 1024,    # bytes
	MEMORY_BOUND => 16 * 1024,     # kB
};

my $receiver = start_receiver(mode => 'dapr');
my %conf = (
	'outbox.dapr_endpoint' => $receiver->url,
	'outbox.poll_interval' => '100ms',
	'outbox.connect_timeout' => '300ms',
	'outbox.request_timeout' => '3s',
	'outbox.local_failed_retry_interval' => '100ms',
	'outbox.failed_retry_interval' => '100ms',
	'outbox.minimum_retry_interval' => '0',
	'outbox.breaker_threshold' => 1,
	'outbox.breaker_probe_interval' => '100ms');
my $node = new_node(
	'surroundings',
	conf => {
		%conf,
		max_connections => MAX_CONNECTIONS,
		max_locks_per_transaction => 10,
	});
$node->safe_psql('postgres', 'CREATE EXTENSION outbox');
wait_relay($node);

# Publish $n events to $topic in one transaction; their ids.
sub publish
{
	my ($topic, $n, $more) = @_;
	$more = defined $more ? ", $more" : '';
	return split /\n/, $node->safe_psql(
		'postgres', qq{
		SELECT outbox_publish('$topic', to_jsonb(n)$more)
		FROM generate_series(1, $n) n});
}

sub query
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

sub wait_error
{
	my ($pattern) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return poll_until(
		sub { query('SELECT last_error FROM outbox_relays') =~ $pattern },
		"$pattern in outbox_relays");
}

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
subtest 'the lock table is full' => sub {
	disable($node);
	my @ids = publish('locks', 20);
	my $relay = relay_pid($node, 'postgres');
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
	is(relay_pid($node, 'postgres'), $relay, 'it is the same relay');
};

subtest 'no connection is left' => sub {
	my @sessions =
	  map { $node->background_psql('postgres') } 1 .. MAX_CONNECTIONS;
	my ($status, undef, $stderr) = $node->psql('postgres', 'SELECT 1');
	like($stderr, qr/too many clients/, 'nobody else gets in');

	my $publish = q{SELECT outbox_publish('full', '{}')};
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

subtest 'no file descriptor is left' => sub {
	plan skip_all => 'needs prlimit and /proc'
	  unless -d '/proc/self/fd'
	  && IPC::Run::run([ 'prlimit', '--version' ], '>', \my $output, '2>&1');

	my ($warm_up) = publish('files', 1);
	wait_delivered($receiver, [$warm_up]);
	my $relay = relay_pid($node, 'postgres');
	my ($free) = grep { !-l "/proc/$relay/fd/$_" } 0 .. 1000;
	$receiver->faults([ { match => { topic => 'files' }, action => 'hang' } ]);

	my ($soft) =
	  slurp_file("/proc/$relay/limits") =~ /^Max open files\s+(\d+)/m;
	my $limit = sub {
		system_or_bail('prlimit', '--pid', $relay, "--nofile=$_[0]:");
		return;
	};
	$limit->($free + 5);
	my @ids = publish('files', 40);
	wait_error(qr/connect|socket|open files/i);
	cmp_ok($receiver->stats->{concurrent}, '<', 40, 'not all of them got through');
	is(relay_pid($node, 'postgres'), $relay, 'the relay lives');

	$limit->($soft);
	$receiver->faults([]);
	arrive_once(\@ids, 'with room for sockets all events arrive');
	is(query(q{SELECT count(*) FROM outbox_events WHERE state = 'dead'}),
		0, 'none died of it');
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

subtest 'an endpoint that cannot be reached' => sub {
	my ($port, @sockets) = full_queue();
	my $relay = relay_pid($node, 'postgres');
	(my $tls = $receiver->url) =~ s/^http:/https:/;
	foreach my $case (
		[ 'no such name', 'http://nowhere.invalid:3500', qr/resolve/i ],
		# Versions of libcurl say different things, but not what was said before.
		[ 'no TLS at the port', $tls, qr/^(?!.*resolve)./i ],
		[ 'a full queue', "http://127.0.0.1:$port", qr/timed? ?out/i ])
	{
		my ($name, $endpoint, $error) = @$case;
		reload($node, 'outbox.dapr_endpoint' => $endpoint);
		my ($id) = publish('reach', 1);
		wait_error($error);
		is(query("SELECT attempts FROM outbox_events WHERE event_id = '$id'"),
			0, "$name: costs no attempt");
		reload($node, 'outbox.dapr_endpoint' => $receiver->url);
		arrive_once([$id], "$name: afterwards the event arrives");
	}
	is(relay_pid($node, 'postgres'), $relay, 'it is the same relay');
};

subtest 'Retry-After is a date' => sub {
	my $date = strftime('%a, %d %b %Y %H:%M:%S GMT', gmtime(time() + 4));
	$receiver->faults(
		[   {   match => { topic => 'dated' },
				times => 1,
				status => 503,
				headers => { 'Retry-After' => $date }
			}
		]);
	my ($id) = publish('dated', 1);
	wait_delivered($receiver, [$id]);
	my ($first, $second) = map { $_->{time} } $receiver->log(id => $id);
	# Dates have whole seconds; the persistent tier adds its tenth.
	cmp_ok($second - $first, '>=', 2, 'the retry is made after it');
	cmp_ok($second - $first, '<', 6, 'and not much later');
	$receiver->faults([]);
};

subtest 'an answer without end' => sub {
	plan skip_all => 'needs /proc' unless -r '/proc/self/status';

	my $relay = relay_pid($node, 'postgres');
	my $before = private_memory($relay);
	$receiver->faults(
		[ { match => { topic => 'endless' }, action => 'hugebody' } ]);
	my @ids = publish('endless', 5);
	my $most = 0;
	poll_until(
		sub {
			my $now = private_memory($relay);
			$most = $now if $now > $most;
			return query(
				q{SELECT count(*) FROM outbox_events
				  WHERE topic = 'endless' AND state = 'published'}) == 5;
		},
		'the events to be published');
	cmp_ok($most - $before, '<=', MEMORY_BOUND, 'is not kept in memory');
	arrive_once(\@ids, 'and means delivered');
	$receiver->faults([]);
};

# --- Old snapshots, old rows

sub restart_relay
{
	my $relay = relay_pid($node, 'postgres');
	query("SELECT pg_terminate_backend($relay, 5000)");
	return wait_relay($node, not => $relay);
}

# Entries of our indexes read so far.  A relay that ends tells its part.
sub entries_read
{
	restart_relay();
	return query(
		q{SELECT sum(idx_tup_read) FROM pg_stat_user_indexes
		  WHERE relname LIKE 'outbox%'});
}

# Entries read for 50 events, a transaction each
sub cost
{
	my ($topic) = @_;
	my $before = entries_read();
	query(join ';',
		map { "SELECT outbox_publish('$topic', '$_')" } 1 .. 50);
	poll_until(
		sub { $receiver->accepted(topic => $topic, fields => ['seq']) >= 50 },
		"50 events of $topic");
	return entries_read() - $before;
}

subtest 'an old snapshot is held' => sub {
	my $before = cost('before');

	my $old = $node->background_psql('postgres');
	$old->query_safe(
		'BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class');
	reload(
		$node,
		'outbox.published_expire_time' => '0',
		'outbox.cleaning_expire_interval' => '100ms');
	restart_relay();
	query(q{SELECT count(outbox_publish('churn', to_jsonb(n)))
		FROM generate_series(1, } . CHURN . q{) n});
	poll_until(
		sub { query('SELECT pruned FROM outbox_stats') >= CHURN },
		'all events to be pruned');
	reload($node,
		map { $_ => undef } 'outbox.published_expire_time',
		'outbox.cleaning_expire_interval');

	# The relay looks for the highest id when it starts: let that be alive.
	my ($last) = publish('last', 1);
	wait_state($node, $last, 'published');

	my $after = cost('after');
	note("index entries read for 50 events: $before before, $after after");
	cmp_ok($after, '<=', 2 * $before + 500,
		'the relay does not walk over dead rows');
	$old->query_safe('COMMIT');
	$old->quit;
};

# Events that are pending, and one that has failed, while the relay is disabled
sub leave_events
{
	my ($topic) = @_;
	reload($node, 'outbox.failed_retry_interval' => '1h', 'outbox.local_retry_times' => 0);
	$receiver->faults([ { match => { topic => $topic }, component_error => 'no' } ]);
	my ($failed) = publish($topic, 1);
	wait_state($node, $failed, 'failed');
	$receiver->faults([]);
	disable($node);
	return ($failed, publish($topic, 20));
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
	my ($requests, @ids) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $failed = $ids[0];
	reload($node, 'outbox.enabled' => 'on');
	query("SELECT outbox_retry('$failed')");
	arrive_once(\@ids, 'what was left arrives');
	is($receiver->stats->{accepted} - $requests, scalar(@ids),
		'and nothing else');
	is(query('SELECT backlog FROM outbox_stats'), 0, 'nothing is left');
	reload(
		$node,
		'outbox.failed_retry_interval' => '100ms',
		'outbox.local_retry_times' => undef);
	return;
}

subtest 'everything is frozen' => sub {
	my @ids = leave_events('frozen');
	my $accepted = $receiver->stats->{accepted};
	freeze();
	$node->restart;
	go_on($accepted, @ids);
};

subtest 'xids run on into the next epoch' => sub {
	my @ids = leave_events('epoch');
	my $accepted = $receiver->stats->{accepted};
	freeze();
	$node->stop;
	append_to_file(
		sprintf('%s/pg_xact/%04X', $node->data_dir, FAR_XID >> 20),
		"\0" x XACT_SEGMENT);
	command_ok(
		[ 'pg_resetwal', '-e', 1, '-x', FAR_XID, '-D', $node->data_dir ],
		'xids are set far ahead');
	$node->start;
	push @ids, publish('epoch', 20);
	is( query(q{SELECT count(*), count(*) FILTER (WHERE xid::text::numeric > 2 ^ 32)
			FROM outbox_event WHERE topic = 'epoch'}),
		'41|20',
		'some events are of before, some of after');
	go_on($accepted, @ids);
};

subtest 'a server in binary upgrade mode' => sub {
	$node->stop;
	my @pg_ctl = ('pg_ctl', '-D', $node->data_dir, '-w', '-l', $node->logfile);
	command_ok([ @pg_ctl, '-o', '-b', 'start' ], 'postgres -b');
	my ($id) = publish('upgrade', 1);
	is( query(q{SELECT count(*) FROM pg_stat_activity
			WHERE backend_type LIKE 'outbox%'}),
		0, 'neither launcher nor relay runs');
	command_ok([ @pg_ctl, 'stop' ], 'is stopped');
	is(scalar($receiver->log(id => $id)), 0, 'nothing was sent');
	$node->start;
	arrive_once([$id], 'what was published there arrives afterwards');
	$node->stop;
};

# --- The clock

# Timers in memory are monotonic.  What is in the table is wall-clock time: rows
# that were written while the clock was a year wrong, and now it is right.
subtest 'the clock was wrong' => sub {
	$node->start;
	reload(
		$node,
		'outbox.failed_retry_interval' => '10min',
		'outbox.local_retry_times' => 0,
		'outbox.cleaning_local_queue_expire_interval' => '100ms');
	$receiver->faults(
		[ { match => { topic => [ 'ahead', 'behind' ] }, component_error => 'no' } ]);
	my ($ahead) = publish('ahead', 1);
	my ($behind) = publish('behind', 1);
	wait_state($node, $_, 'failed') foreach $ahead, $behind;
	query(q{
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
			query(qq{SELECT state = 'failed' AND next_attempt_at > now()
				FROM outbox_events WHERE event_id = '$behind'}) eq 't';
		},
		'it to wait again');
	arrive_once([ publish('others', 20) ], 'others are sent as ever');
	is(scalar($receiver->log(id => $behind)), 2, 'it is tried once, no storm');
	is(scalar($receiver->log(id => $ahead)),
		1, 'what is due in a year is not tried');

	$receiver->faults([]);
	query("SELECT outbox_retry('$ahead'), outbox_retry('$behind')");
	arrive_once([ $ahead, $behind ], 'an operator sends both at once');
	$node->stop;
};

done_testing();
