# What the server's log says, whose it is, and how often.
#
# Promises:
# - A destination, or a topic, that goes down is a line, and so is its return; each
#   has the names of database, destination and topic.
# - One that goes to and fro is not told more than once a minute, and the last line
#   says how it is.
# - The first event of a topic that dies is a line with database, destination, topic,
#   id, status and what to do; others that follow it are counted once a minute, and
#   when the relay ends.
# - What a receiver says cannot break a line.
# - Nothing that ends in order leaves an ERROR or a FATAL: a restart of the relay, also
#   while it connects, a reload, a destination that is dropped, DROP EXTENSION, DROP
#   DATABASE, a stop, a promotion.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;
use OutboxTest::Destinations;

my $receiver = start_receiver(mode => 'http');
my %conf = (
	'outbox.publisher' => 'http',
	'outbox.http_url' => $receiver->url . '/{topic}',
	'outbox.breaker_threshold' => 2,
	'outbox.max_retry_times' => 5,
	'outbox.connect_timeout' => '300ms',
	'outbox.request_timeout' => '5s',
	'outbox.local_failed_retry_interval' => '20ms',
	'outbox.published_expire_time' => '30d',
	max_worker_processes => 20);
my $node = new_node('log', clock => 1, conf => \%conf);
query($node, 'CREATE EXTENSION outbox');

# Whose lines are, and what a promise's begin with
my $whose = 'destination "default" of database "postgres"';
my $minute = 61 * 1000;

# The messages of the log behind this that match
sub lines
{
	my ($offset, $pattern, $from) = @_;
	return grep { $_ =~ $pattern } split /\n/, slurp_file(($from // $node)->logfile, $offset);
}

# What the log complains of.  A session of this test's that a stop meets is no relay.
sub complaints
{
	my ($offset, $from) = @_;
	return join "\n", lines($offset, qr/\b(?:ERROR|FATAL|PANIC|WARNING):(?!  terminating connection)/, $from);
}

sub warm_up
{
	my ($topic) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_delivered($receiver, [ scalar publish($node, $topic) ]);
}

# --- Down and back

promise 'a destination that goes down and is back is told by name' => sub {
	let_time_pass($node, $minute);
	my $offset = -s $node->logfile;
	warm_up('up');
	$receiver->state(listening => 0);
	publish($node, 'up');
	my $log = wait_log($node, qr/LOG:  outbox: \Q$whose\E is down\n.*DETAIL:  .*connect.*\n.*HINT:  Delivery goes on by itself/i,
		$offset);
	ok($log, 'it is down, and why');
	$receiver->state(listening => 1);
	ok(wait_log($node, qr/LOG:  outbox: \Q$whose\E is back/, $offset), 'it is back');

	add_destination($node, 'other', '{other.#}', { http_url => $receiver->url . '/other' });
	warm_up('other.a');
	$receiver->state(listening => 0);
	publish($node, 'other.a');
	ok(wait_log($node, qr/LOG:  outbox: destination "other" of database "postgres" is down/, $offset), 'so is another one');
	$receiver->state(listening => 1);
	ok(wait_log($node, qr/LOG:  outbox: destination "other" of database "postgres" is back/, $offset), '... and back');
	drop_destinations($node, 'other');
};

promise 'so is a topic' => sub {
	my $offset = -s $node->logfile;
	warm_up('good');
	warm_up('bad');
	$receiver->faults([ { match => { path => '/bad' }, status => 503, body => "no\nFATAL:  forged" } ]);
	publish($node, 'bad', count => 5);
	warm_up('good');
	my $log = wait_log($node, qr/topic "bad" is down/, $offset);
	like($log, qr/LOG:  outbox: topic "bad" is down at \Q$whose\E\n.*DETAIL:  HTTP 503: no FATAL: forged\n.*HINT:  /,
		'it is down, and why, in one line');
	$receiver->faults([]);
	ok(wait_log($node, qr/LOG:  outbox: topic "bad" is back at \Q$whose\E/, $offset), 'it is back');
};

# Five times to and fro: two lines at most, and another one a minute later if it is
# down then.
promise 'one that goes to and fro is told once a minute' => sub {
	let_time_pass($node, $minute);
	warm_up('flaps');
	my $offset = -s $node->logfile;
	foreach (1 .. 5)
	{
		$receiver->state(listening => 0);
		publish($node, 'flaps');
		wait_relay_value($node, state => 'endpoint down');
		$receiver->state(listening => 1);
		wait_settled($node);
		wait_relay_value($node, state => 'idle');
	}
	is(scalar lines($offset, qr/\Q$whose\E is (?:down|back)/), 2, 'two lines');
	$receiver->state(listening => 0);
	publish($node, 'flaps');
	wait_relay_value($node, state => 'endpoint down');
	is(scalar lines($offset, qr/\Q$whose\E is (?:down|back)/), 2, 'it may be over in a moment');
	let_time_pass($node, $minute);
	poll_until(sub { (lines($offset, qr/\Q$whose\E is (?:down|back)/))[-1] =~ /is down/ }, 'the log to say that it is down');
	is(scalar lines($offset, qr/\Q$whose\E is (?:down|back)/), 3, 'one that lasts is told then');
	$receiver->state(listening => 1);
	wait_settled($node);
};

# --- Dead events

promise 'an event that dies is told, others are counted' => sub {
	my $offset = -s $node->logfile;
	$receiver->faults([ { match => { path => '/dies' }, status => 413, body => "too\r\nlarge\e[31m" } ]);
	my ($first) = publish($node, 'dies');
	my $log = wait_log($node, qr/event "$first"/, $offset);
	like($log, qr/LOG:  outbox: event "$first" of topic "dies" is dead for \Q$whose\E\n.*DETAIL:  Tries: 1[.] Status: 413[.] HTTP 413: too large.*\n.*HINT:  .*outbox_retry\(\)/,
		'the first with all that is known, in one line each');
	reload($node, 'outbox.breaker_threshold' => 0);
	my @more = publish($node, 'dies', count => 1000);
	wait_state($node, $more[-1], 'dead');
	poll_until(sub { query($node, q{SELECT dead FROM outbox_topics WHERE topic = 'dies'}) eq '1001' }, 'all to be dead');
	is(scalar lines($offset, qr/is dead|are dead/), 1, 'others are not told one by one');
	let_time_pass($node, $minute);
	$log = wait_log($node, qr/more events are dead/, $offset);
	like($log, qr/LOG:  outbox: 1000 more events are dead for \Q$whose\E\n.*DETAIL:  The last one is event "\S+" of topic "dies"[.] Tries: 1[.] Status: 413[.] HTTP 413.*\n.*HINT:  .*outbox_topics/,
		'a minute later they are counted');
	publish($node, 'dies', count => 3);
	poll_until(sub { query($node, q{SELECT dead FROM outbox_topics WHERE topic = 'dies'}) eq '1004' }, 'three more to be dead');
	restart_relay($node);
	ok(wait_log($node, qr/outbox: 2 more events are dead for/, $offset), 'and so they are when the relay ends');
	is(scalar lines($offset, qr/is dead for/), 2, 'the first one after a minute is told again');
	query($node, q{SELECT outbox_discard(event_id) FROM outbox_events WHERE state = 'dead'});
};

# --- Ends

promise 'nothing that ends in order leaves an ERROR or a FATAL' => sub {
	query($node, 'CREATE DATABASE ends');
	query($node, 'CREATE EXTENSION outbox', 'ends');
	wait_relay($node, db => 'ends');
	my $offset = -s $node->logfile;
	my %ends = (
		'a restart of the relay' => sub { restart_relay($node) },
		'the end of the launcher' => sub {
			my $pid = launcher_pid($node);
			query($node, "SELECT pg_terminate_backend($pid)");
			poll_until(sub { (launcher_pid($node) // $pid) != $pid }, 'another launcher');
		},
		'a reload' => sub { reload($node, 'outbox.max_in_flight' => 10) },
		'another publisher' => sub {
			foreach my $publisher ('dapr', 'http')
			{
				reload($node, 'outbox.publisher' => $publisher);
				poll_until(sub { check_value($node, 'publisher configured', 'detail') =~ /$publisher/ }, 'it to be used');
			}
		},
		'a destination that is dropped' => sub {
			add_destination($node, 'ends', '{#}', { http_url => $receiver->url });
			drop_destinations($node, 'ends');
		},
		'DROP EXTENSION' => sub {
			query($node, 'SET client_min_messages = error; DROP EXTENSION outbox', 'ends');
			poll_until(sub { !relay_pid($node, 'ends') }, 'no relay');
			query($node, 'CREATE EXTENSION outbox', 'ends');
			wait_relay($node, db => 'ends');
		},
		'ALTER DATABASE RENAME' => sub { query($node, 'ALTER DATABASE ends RENAME TO ended'); wait_relay($node, db => 'ended') },
		'DROP DATABASE' => sub { query($node, 'DROP DATABASE ended') },
		'a restart of the server' => sub { $node->restart; wait_relay($node) },
		'stops while relays start' => sub {
			foreach (1 .. 5) { $node->restart }
			wait_relay($node);
		});
	foreach my $end ('a restart of the relay', 'the end of the launcher', 'a reload', 'another publisher',
		'a destination that is dropped', 'DROP EXTENSION', 'ALTER DATABASE RENAME', 'DROP DATABASE',
		'a restart of the server', 'stops while relays start')
	{
		publish($node, 'ends', count => 100);
		$ends{$end}->();
		is(complaints($offset), '', $end);
	}
};

# Whoever has locked this catalog keeps others from connecting.
promise 'nor does a relay that is told to end while it connects' => sub {
	wait_relay($node);
	my $session = $node->background_psql('postgres');
	$session->query_safe('BEGIN; LOCK TABLE pg_db_role_setting');
	my $offset = -s $node->logfile;
	$session->query_safe(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'outbox relay'});
	my $pid;
	poll_until(
		sub {
			$pid = $session->query_safe(q{SELECT pid FROM pg_locks WHERE NOT granted
				AND relation = 'pg_db_role_setting'::regclass});
			return $pid =~ /\d/;
		},
		'a relay to wait');
	$session->query_safe("SELECT pg_terminate_backend($pid)");
	poll_until(sub { $session->query_safe("SELECT count(*) FROM pg_locks WHERE pid = $pid") eq '0' }, 'it to be gone');
	is(complaints($offset), '', 'nothing is said');
	$session->query_safe('COMMIT');
	$session->quit;
	wait_delivered($receiver, [ scalar publish($node, 'after') ]);
};

promise 'nor does a standby that is promoted, or stopped' => sub {
	my $primary = new_node('primary', conf => \%conf, init => { allows_streaming => 1 });
	query($primary, 'CREATE EXTENSION outbox');
	$primary->backup('backup');
	my $standby = PostgreSQL::Test::Cluster->new('standby');
	$standby->init_from_backup($primary, 'backup', has_streaming => 1);
	$standby->start;
	wait_delivered($receiver, [ publish($primary, 'left') ]);
	$primary->wait_for_catchup($standby);
	$primary->stop('fast');
	is(complaints(0, $primary), '', 'the primary');
	my $offset = -s $standby->logfile;
	$standby->promote;
	wait_delivered($receiver, [ publish($standby, 'promoted') ]);
	$standby->stop('fast');
	is(join("\n", grep { !/streaming|walreceiver|replication|connect/ } split /\n/, complaints($offset, $standby)),
		'', 'the standby');
};

done_testing();
