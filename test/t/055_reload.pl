# Promise: settings take effect on reload, without a restart and without loss.
# A bad value is refused with its reason and the old one stays.  What database
# and role set, and what others do to the tables, does not stop the relay, nor
# does it make somebody else of it; when it can't write down what it has sent, it sends nothing more until it can.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;

my $receiver = start_receiver(mode => 'dapr');
my $node =
  new_node('reload', conf => { 'outbox.dapr_endpoint' => $receiver->url });
query($node, 'CREATE EXTENSION outbox');
my $relay = wait_relay($node);

# --- Settings that work

promise 'outbox.enabled is followed' => sub {
	disable($node);
	my $id = publish($node, 'enabled');
	is(event_state($node, $id), 'pending', 'an event is stored meanwhile');
	is($receiver->stats->{accepted}, 0, 'and not sent');
	reload($node, 'outbox.enabled' => 'on');
	wait_delivered($receiver, [$id]);
	taken_once($receiver, [$id], 'it is sent afterwards');
};

promise 'outbox.dapr_endpoint and outbox.source are followed' => sub {
	my $other = start_receiver(mode => 'dapr');
	reload(
		$node,
		'outbox.dapr_endpoint' => $other->url,
		'outbox.source' => '/elsewhere');
	poll_until(
		sub {
			my $id = publish($node, 'endpoint');
			wait_state($node, $id, 'published');
			return scalar $other->accepted(id => $id, source => '/elsewhere');
		},
		'an event at the other receiver');
	reload(
		$node,
		'outbox.dapr_endpoint' => $receiver->url,
		'outbox.source' => undef);
	my $source = database_source($node);
	poll_until(
		sub {
			my $id = publish($node, 'endpoint');
			wait_state($node, $id, 'published');
			return scalar $receiver->accepted(id => $id, source => $source);
		},
		'an event at the first receiver');
	pass('both are followed');
	$other->stop;
};

promise 'outbox.max_in_flight is followed' => sub {
	$receiver->faults([ { action => 'hang' } ]);
	my @ids = publish($node, 'in-flight', count => 10);
	poll_until(sub { $receiver->stats->{concurrent} == 10 }, '10 requests');
	reload($node, 'outbox.max_in_flight' => 3);
	$receiver->reset;
	$receiver->faults([ { action => 'pass', delay_response => 0.01 } ]);
	wait_delivered($receiver, \@ids);
	$receiver->reset;
	$receiver->faults([ { action => 'pass', delay_response => 0.01 } ]);
	@ids = publish($node, 'in-flight', count => 30);
	wait_delivered($receiver, \@ids);
	is($receiver->stats->{max_concurrent}, 3, 'not more than it says');
};

promise 'outbox.request_timeout is followed' => sub {
	$receiver->faults([ { action => 'hang' } ]);
	my $errors = stat_value($node, 'failed_attempts');
	my $old = publish($node, 'timeout');
	poll_until(sub { $receiver->stats->{concurrent} == 1 }, 'the request');
	reload($node, 'outbox.request_timeout' => '200ms');
	my $new = publish($node, 'timeout');
	poll_until(sub { stat_value($node, 'failed_attempts') > $errors },
		'a request to be given up');
	like(relay_value($node, 'last_error'),
		qr/timed out|in time/i, 'for its time');
	reload($node, 'outbox.request_timeout' => undef);
	$receiver->faults([]);
	wait_delivered($receiver, [ $old, $new ]);
};

promise 'settings of retries are followed' => sub {
	$receiver->faults([ {
		match => { topic => [ 'retry', 'once' ] },
		component_error => 'broken',
	} ]);
	reload(
		$node,
		'outbox.breaker_threshold' => 0,
		'outbox.local_retry_times' => 1,
		'outbox.failed_retry_interval' => '30min');
	my $slow = publish($node, 'retry');
	wait_state($node, $slow, 'failed');
	is( event_value($node, $slow,
			q{attempts, next_attempt_at > now() + interval '29 min'}),
		'2|t',
		'local_retry_times and failed_retry_interval');

	reload($node, 'outbox.max_retry_times' => 0);
	my $once = publish($node, 'once');
	wait_state($node, $once, 'dead');
	is(scalar($receiver->log(id => $once)), 1, 'max_retry_times');
	$receiver->faults([]);
	query($node, "SELECT outbox_retry('$slow'), outbox_retry('$once')");
	wait_delivered($receiver, [ $slow, $once ]);
};

promise 'outbox.dead_key_policy is followed' => sub {
	$receiver->faults(
		[ { match => { topic => 'refused' }, status => 413, times => 1 } ]);
	my $dead = publish($node, 'refused', key => 'refused');
	wait_state($node, $dead, 'dead');
	my $next = publish($node, 'refused', key => 'refused');
	wait_state($node, $next, 'blocked');
	reload($node, 'outbox.dead_key_policy' => 'skip');
	wait_delivered($receiver, [$next]);
	taken_once($receiver, [$next], 'skip lets the next one go');
};

promise 'outbox.max_payload_size is followed' => sub {
	my %event = (payload => q{to_jsonb(repeat('x', 100))});
	reload($node, 'outbox.max_payload_size' => 99);
	fails_with($node, publish_sql('size', %event),
		'54000', 'a new session refuses what is larger');
	reload($node, 'outbox.max_payload_size' => undef);
	wait_delivered($receiver, [ publish($node, 'size', %event) ]);
};

# --- Settings that do not

foreach my $bad (
	[ 'outbox.dapr_endpoint', 'ftp://127.0.0.1', 'It must start with' ],
	[ 'outbox.dapr_endpoint', 'http://127.0.0.1/x', 'without a path' ],
	[ 'outbox.dapr_endpoint', 'unix:run/dapr', 'absolute path' ],
	[ 'outbox.http_url', 'http://u:secret@127.0.0.1/', 'user name' ],
	[ 'outbox.http_url', 'http:///x', 'no host' ],
	[ 'outbox.http_url', 'http://127.0.0.1/ x', 'must not contain spaces' ],
	[ 'outbox.http_headers', 'Host: evil', 'set by outbox itself' ],
	[ 'outbox.http_headers', 'no colon', 'has the form' ],
	[ 'outbox.dapr_pubsub_name', '', 'must not be empty' ],
	[ 'outbox.publisher', '', 'must not be empty' ],
	[ 'outbox.dead_key_policy', 'wait', 'Available values: block, skip' ],
	[ 'outbox.key_scope', 'key', 'Available values: topic, all' ],
	[ 'outbox.max_in_flight', 0, 'outside the valid range' ],
	[ 'outbox.retry_backoff', 0.5, 'outside the valid range' ],
	[ 'outbox.failed_retry_interval', '1 lightyear', 'Valid units' ],
	[ 'outbox.enabled', 'maybe', 'requires a Boolean value' ])
{
	my ($name, $value, $reason) = @$bad;

	promise "$name = '$value' is refused, and the old value stays" => sub {
		my $offset = -s $node->logfile;
		my $old = query($node, "SHOW $name");

		reload($node, $name => $value);
		wait_log($node, qr/\Q$reason\E/, $offset);
		like(slurp_file($node->logfile, $offset),
			qr/"?\Q$name\E"?/, "$name = '$value': \"$reason\"");
		is(query($node, "SHOW $name"),
			$old, "$name = '$value': the old one stays");
		wait_delivered($receiver, [ publish($node, 'as before') ]);
		is(relay_pid($node), $relay, 'the relay is the same as ever');
	};
}

promise 'an unknown setting is refused' => sub {
	plan skip_all => 'reserved prefixes are new in 15'
	  if $node->pg_version < 15;
	my ($status, undef, $stderr) =
	  $node->psql('postgres', q{SET outbox.max_inflight = '1'});
	like(
		$stderr,
		qr/invalid configuration parameter name "outbox\.max_inflight"/,
		'by SET');
	my $offset = -s $node->logfile;
	reload($node, 'outbox.max_inflight' => 1);
	wait_log($node, qr/outbox\.max_inflight/, $offset);
	pass('in the file');
};

# --- What others do

promise 'hostile settings of database and roles do not harm the relay' => sub {
	my %hostile = (
		search_path => q{evil', 'pg_catalog', 'public},
		default_transaction_read_only => 'on',
		default_transaction_isolation => 'serializable',
		default_transaction_deferrable => 'on',
		statement_timeout => '1ms',
		lock_timeout => '1ms',
		idle_in_transaction_session_timeout => '1ms',
		synchronous_commit => 'remote_apply',
		session_replication_role => 'replica',
		row_security => 'off',
		enable_indexscan => 'off',
		plan_cache_mode => 'force_custom_plan',
		client_encoding => 'SQL_ASCII',
		bytea_output => 'escape',
		DateStyle => 'German',
		TimeZone => 'Asia/Kathmandu',
		role => 'nobody');
	query($node, q{
		CREATE ROLE nobody;
		CREATE SCHEMA evil;
		CREATE FUNCTION evil.eq(int8, int8) RETURNS bool LANGUAGE plpgsql AS
			$$BEGIN RAISE 'captured'; END$$;
		CREATE OPERATOR evil.= (FUNCTION = evil.eq, LEFTARG = int8, RIGHTARG = int8);
		CREATE FUNCTION evil.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS
			$$BEGIN RAISE 'captured'; END$$;
		GRANT ALL ON SCHEMA evil TO PUBLIC;
		GRANT ALL ON ALL FUNCTIONS IN SCHEMA evil TO PUBLIC});

	# Our own sessions are not to be harmed: the options of a connection count more.
	local $ENV{PGOPTIONS} = join ' ',
	  '-c search_path=public -c default_transaction_read_only=off',
	  '-c default_transaction_isolation=read\ committed -c statement_timeout=0',
	  '-c lock_timeout=0 -c session_replication_role=origin -c role=none',
	  '-c idle_in_transaction_session_timeout=0 -c synchronous_commit=on';
	foreach my $who ('DATABASE postgres', 'ROLE ALL', 'ROLE postgres')
	{
		my $sql = join '',
		  map { "ALTER $who SET $_ = '$hostile{$_}';" }
		  grep { $who =~ /DATABASE/ || $_ ne 'role' } sort keys %hostile;
		query($node, $sql);
	}

	my $offset = -s $node->logfile;
	$receiver->faults([ {
		match => { topic => 'hostile.retry' },
		component_error => 'once',
		times => 5,
	} ]);
	reload(
		$node,
		'outbox.published_expire_time' => '1s',
		'outbox.cleaning_expire_interval' => '100ms');
	$relay = restart_relay($node);

	my @ids = (
		publish($node, 'hostile', count => 50),
		publish($node, 'hostile.retry', count => 5));
	wait_delivered($receiver, \@ids);
	taken_once($receiver, \@ids, 'events are sent, and again when they failed');
	is_deeply(
		[
			grep { $_->{body} !~ /"time":"\d{4}-\d\d-\d\dT[\d:.]+Z"/ }
			  $receiver->accepted(topic => 'hostile')
		],
		[],
		'in the usual format');
	poll_until(
		sub {
			query($node, q{SELECT count(*) FROM outbox_events
				WHERE topic LIKE 'hostile%'}) == 0;
		},
		'the events to be pruned');
	unlike(slurp_file($node->logfile, $offset),
		qr/ERROR|captured/, 'the log has no error');

	foreach my $who ('DATABASE postgres', 'ROLE ALL', 'ROLE postgres')
	{
		query($node, "ALTER $who RESET ALL");
	}
};

# A role that has no right on anything
foreach my $setting ('role', 'session_authorization')
{
	promise "$setting of the database does not make the relay somebody else" => sub {
		query($node, qq{
			CREATE ROLE "some $setting";
			ALTER DATABASE postgres SET $setting = 'some $setting'});

		# our own sessions are not meant
		my $user = query($node, 'SELECT session_user', 'template1');
		local $ENV{PGOPTIONS} = "-c session_authorization=$user -c role=none";
		my $offset = -s $node->logfile;
		$receiver->faults([ {
			match => { topic => "$setting.retry" },
			component_error => 'once',
			times => 5,
		} ]);
		$relay = restart_relay($node);

		my @ids = (
			publish($node, $setting, count => 50),
			publish($node, "$setting.retry", count => 5));
		wait_delivered($receiver, \@ids);
		taken_once($receiver, \@ids,
			'events are sent, and again when they failed');
		my $scheduled = publish($node, $setting,
			more => q{deliver_after => '2999-01-01'});
		query($node, "SELECT outbox_discard('$scheduled')");
		poll_until(
			sub { query($node, 'SELECT count(*) FROM outbox_request') == 0 },
			'the request to be served');
		unlike(slurp_file($node->logfile, $offset),
			qr/ERROR|FATAL/, 'the log has no error');

		reload(
			$node,
			'outbox.publisher' => 'outbox_test_publisher',
			'outbox_test.mode' => 'tell_users');
		poll_until(
			sub {
				check_value($node, 'publisher configured', 'detail') =~
				  /^session user/;
			},
			'the publisher to say who it is');
		is( check_value($node, 'publisher configured', 'detail'),
			'session user 10, current user 10',
			'a publisher runs as the bootstrap superuser');

		query($node, "ALTER DATABASE postgres RESET $setting");
		$relay = restart_relay($node);
		query($node, qq{DROP ROLE "some $setting"});
	};
}

# Wait until the relay has waited for a table in vain, and does so again.
sub waits_again
{
	my ($table) = @_;
	my $waits = qq{SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
		WHERE NOT l.granted AND l.relation = '$table'::regclass AND a.backend_type = 'outbox relay'};
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	foreach my $n (1, 0, 1)
	{
		poll_until(sub { query($node, $waits) == $n }, $n ? 'the relay to wait' : 'it to give up');
	}
	return;
}

foreach my $table ('outbox_delivery', 'outbox_progress', 'outbox_event')
{
	promise "while $table is locked, nothing is sent that cannot be written down" => sub {
		$receiver->faults([ { action => 'pass', delay_response => 0.1 } ]);
		reload($node, 'outbox.max_in_flight' => 8);
		my @ids = publish($node, 'locked', count => 200);
		poll_until(sub { $receiver->stats->{accepted} >= 8 },
			'the first requests');

		my $offset = -s $node->logfile;
		my $locker = $node->background_psql('postgres');
		$locker->query_safe(
			"BEGIN; LOCK TABLE $table IN ACCESS EXCLUSIVE MODE");

		# nothing goes there but exceptions: a time that has not come is one
		publish($node, 'later', more => q{deliver_after => now() + '1 day'})
		  if $table eq 'outbox_delivery';
		my $timeout = qr/canceling statement due to lock timeout/;
		wait_log($node, $timeout, $offset);
		poll_until(sub { $receiver->stats->{concurrent} == 0 },
			'the last answers');
		my $taken = $receiver->stats->{accepted};
		cmp_ok($taken, '<', 200, 'the relay was in the middle');
		waits_again($table);
		is($receiver->stats->{accepted}, $taken,
			'what cannot be written down is not sent');
		like(relay_value($node, 'last_error'), $timeout, 'outbox_relays says why')
		  if $table ne 'outbox_event';

		$locker->query_safe('ROLLBACK');
		$locker->quit;
		wait_delivered($receiver, \@ids);
		taken_once($receiver, \@ids, 'afterwards it goes on, and sends nothing twice');
	};
}

promise 'VACUUM FULL, REINDEX and ANALYZE do not harm a relay at work' => sub {
	reload($node, 'outbox.max_in_flight' => 8);
	$receiver->faults([ { action => 'pass', delay_response => 0.005 } ]);
	my $offset = -s $node->logfile;
	my @ids = publish($node, 'rewrite', count => 1000);
	poll_until(sub { $receiver->stats->{accepted} > 0 }, 'the relay to work');
	foreach my $command ('VACUUM FULL', 'REINDEX TABLE', 'VACUUM ANALYZE',
		'REINDEX TABLE CONCURRENTLY')
	{
		query($node, "$command $_")
		  foreach 'outbox_event', 'outbox_delivery', 'outbox_progress';
	}
	push @ids, publish($node, 'rewrite', count => 100);
	wait_delivered($receiver, \@ids);
	taken_once($receiver, \@ids, 'every event is sent once');
	unlike(slurp_file($node->logfile, $offset), qr/ERROR/,
		'the log has no error');
};

# One is in flight, and noted as such; one waits behind it, and is forgotten.
foreach my $command ('TRUNCATE outbox_event, outbox_delivery',
	'TRUNCATE outbox_event', 'DELETE FROM outbox_event')
{
	promise "the relay goes on after $command" => sub {
		$receiver->faults([ { action => 'hang' } ]);
		my $first = publish($node, 'deleted', key => 'a');
		my $second = publish($node, 'deleted', key => 'a');
		wait_state($node, $first, 'in_progress');

		my $offset = -s $node->logfile;
		query($node, $command);
		is( query($node, 'SELECT count(*) FROM outbox_delivery'),
			0, 'what is known of them goes along');
		$receiver->faults([]);
		my $third = publish($node, 'deleted', key => 'a');
		my $fourth = publish($node, 'deleted', key => 'b');
		wait_delivered($receiver, [ $third, $fourth ]);
		wait_state($node, [ $third, $fourth ], 'published');
		taken_once($receiver, [ $third, $fourth ],
			'the relay goes on with what is new');
		is(scalar($receiver->log(id => $second)),
			0, 'what waited is not sent');
		unlike(slurp_file($node->logfile, $offset),
			qr/ERROR/, 'the log has no error');
		is( query($node, 'SELECT count(*) FROM outbox_delivery'),
			0, 'no rows are written for what is gone');
		query($node, 'TRUNCATE outbox_event');
	};
}

is(relay_pid($node), $relay, 'one relay has gone through it all');
$node->stop;
done_testing();
