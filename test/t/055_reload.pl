# Promise: settings take effect on reload, without a restart and without loss.
# A bad value is refused with its reason and the old one stays.  What database
# and role set, and what others do to the tables, does not stop the relay; when
# it can't write down what it has sent, it sends nothing more until it can.

use strict;
use warnings FATAL => 'all';

use lib 'test/lib';
use OutboxTest qw(:DEFAULT !/^(check_value|dapr_error|event_value|fails_with|publish|publish_sql|query|restart_relay|stat_value|states|wait_states)$/);
use PostgreSQL::Test::Utils;
use Test::More;

my $receiver = start_receiver(mode => 'dapr');
my $node = new_node(
	'reload',
	conf => {
		'outbox.dapr_endpoint' => $receiver->url,
		'outbox.poll_interval' => '100ms',
		'outbox.local_failed_retry_interval' => '100ms',
		'outbox.failed_retry_interval' => '200ms',
		'outbox.minimum_retry_interval' => '100ms',
		'outbox.breaker_probe_interval' => '100ms',
	});
$node->safe_psql('postgres', 'CREATE EXTENSION outbox');

# Publish $n events to $topic in one transaction; their ids.
sub publish
{
	my ($topic, $n, $key) = @_;
	my $third = defined $key ? "'$key'" : 'NULL';
	return split /\n/, $node->safe_psql(
		'postgres', qq{
		SELECT public.outbox_publish('$topic', jsonb_build_object('n', n), $third)
		FROM generate_series(1, $n) n});
}

# A value of the view outbox_relays
sub relay_is
{
	my ($column) = @_;
	return $node->safe_psql('postgres',
		"SELECT $column FROM public.outbox_relays");
}

my $relay = wait_relay($node);

# --- Settings that work

subtest 'outbox.enabled' => sub {
	disable($node);
	my ($id) = publish('enabled', 1);
	is(event_state($node, $id),
		'pending', 'an event is stored meanwhile');
	is($receiver->stats->{accepted}, 0, 'and not sent');
	reload($node, 'outbox.enabled' => 'on');
	wait_delivered($receiver, [$id]);
	taken_once($receiver, [$id], 'it is sent afterwards');
};

subtest 'outbox.dapr_endpoint and outbox.source' => sub {
	my $other = start_receiver(mode => 'dapr');
	reload(
		$node,
		'outbox.dapr_endpoint' => $other->url,
		'outbox.source' => '/elsewhere');
	poll_until(
		sub {
			my ($id) = publish('endpoint', 1);
			wait_state($node, $id, 'published');
			return scalar $other->accepted(id => $id, source => '/elsewhere');
		},
		'an event at the other receiver');
	reload(
		$node,
		'outbox.dapr_endpoint' => $receiver->url,
		'outbox.source' => undef);
	poll_until(
		sub {
			my ($id) = publish('endpoint', 1);
			wait_state($node, $id, 'published');
			return
			  scalar $receiver->accepted(id => $id, source => '/reload/postgres');
		},
		'an event at the first receiver');
	pass('both are followed');
	$other->stop;
};

subtest 'outbox.max_in_flight' => sub {
	$receiver->faults([ { action => 'hang' } ]);
	my @ids = publish('in-flight', 10);
	poll_until(sub { $receiver->stats->{concurrent} == 10 }, '10 requests');
	reload($node, 'outbox.max_in_flight' => 3);
	$receiver->reset;
	$receiver->faults([ { action => 'pass', delay_response => 0.01 } ]);
	wait_delivered($receiver, \@ids);
	$receiver->reset;
	$receiver->faults([ { action => 'pass', delay_response => 0.01 } ]);
	@ids = publish('in-flight', 30);
	wait_delivered($receiver, \@ids);
	is($receiver->stats->{max_concurrent}, 3, 'not more than it says');
	reload($node, 'outbox.max_in_flight' => undef);
	$receiver->reset;
};

subtest 'outbox.request_timeout' => sub {
	$receiver->faults([ { action => 'hang' } ]);
	my $errors = $node->safe_psql('postgres',
		'SELECT failed_attempts FROM outbox_stats');
	my ($old) = publish('timeout', 1);
	poll_until(sub { $receiver->stats->{concurrent} == 1 }, 'the request');
	reload($node, 'outbox.request_timeout' => '200ms');
	my ($new) = publish('timeout', 1);
	poll_until(
		sub {
			$node->safe_psql('postgres',
				'SELECT failed_attempts FROM outbox_stats') > $errors;
		},
		'a request to be given up');
	like(relay_is('last_error'), qr/timed out|in time/i, 'for its time');
	reload($node, 'outbox.request_timeout' => undef);
	$receiver->faults([]);
	wait_delivered($receiver, [ $old, $new ]);
	$receiver->reset;
};

subtest 'retry settings' => sub {
	$receiver->faults(
		[   {   match => { topic => ['retry', 'once'] },
				component_error => 'broken'
			}
		]);
	reload(
		$node,
		'outbox.local_retry_times' => 1,
		'outbox.failed_retry_interval' => '30min');
	my ($slow) = publish('retry', 1);
	wait_state($node, $slow, 'failed');
	is( $node->safe_psql(
			'postgres', qq{
			SELECT attempts, next_attempt_at > now() + interval '29 min'
			FROM outbox_events WHERE event_id = '$slow'}),
		'2|t',
		'local_retry_times and failed_retry_interval');

	reload($node, 'outbox.max_retry_times' => 0);
	my ($once) = publish('once', 1);
	wait_state($node, $once, 'dead');
	is(scalar($receiver->log(id => $once)), 1, 'max_retry_times');

	reload($node,
		map { $_ => undef } 'outbox.local_retry_times',
		'outbox.failed_retry_interval', 'outbox.max_retry_times');
	$receiver->reset;
	$node->safe_psql('postgres',
		"SELECT outbox_retry('$slow'), outbox_retry('$once')");
	wait_delivered($receiver, [ $slow, $once ]);
	$receiver->reset;
};

subtest 'outbox.dead_key_policy' => sub {
	$receiver->faults(
		[ { match => { topic => 'refused' }, status => 413, times => 1 } ]);
	my ($dead) = publish('refused', 1, 'k');
	wait_state($node, $dead, 'dead');
	my ($next) = publish('behind', 1, 'k');
	wait_state($node, $next, 'blocked');
	reload($node, 'outbox.dead_key_policy' => 'skip');
	wait_delivered($receiver, [$next]);
	taken_once($receiver, [$next], 'skip lets the next one go');
	reload($node, 'outbox.dead_key_policy' => undef);
	$node->safe_psql('postgres', "SELECT outbox_discard('$dead')");
	$receiver->reset;
};

subtest 'outbox.max_payload_size' => sub {
	my $sql = q{SELECT outbox_publish('size', to_jsonb(repeat('x', 100)))};
	reload($node, 'outbox.max_payload_size' => 99);
	my ($status, undef, $stderr) = $node->psql('postgres', $sql);
	like($stderr, qr/ERROR/, 'a new session refuses what is larger');
	reload($node, 'outbox.max_payload_size' => undef);
	wait_delivered($receiver, [ $node->safe_psql('postgres', $sql) ]);
};

# --- Settings that do not

my @refused = (
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
	[ 'outbox.max_in_flight', 0, 'outside the valid range' ],
	[ 'outbox.retry_backoff', 0.5, 'outside the valid range' ],
	[ 'outbox.failed_retry_interval', '1 lightyear', 'Valid units' ],
	[ 'outbox.enabled', 'maybe', 'requires a Boolean value' ]);

subtest 'a bad value is refused, and the old one stays' => sub {
	foreach my $bad (@refused)
	{
		my ($name, $value, $reason) = @$bad;
		my $offset = -s $node->logfile;
		my $old = $node->safe_psql('postgres', "SHOW $name");
		my $conf = slurp_file($node->data_dir . '/postgresql.conf');

		reload($node, $name => $value);
		wait_log($node, qr/\Q$reason\E/, $offset);
		like(slurp_file($node->logfile, $offset),
			qr/"?\Q$name\E"?/, "$name = '$value': \"$reason\"");
		is($node->safe_psql('postgres', "SHOW $name"),
			$old, "$name = '$value': the old one stays");

		unlink $node->data_dir . '/postgresql.conf';
		append_to_file($node->data_dir . '/postgresql.conf', $conf);
	}
	reload($node);
	my ($id) = publish('refused', 1);
	wait_delivered($receiver, [$id]);
	is(relay_pid($node, 'postgres'), $relay,
		'the relay is the same as ever');
};

subtest 'an unknown setting is refused' => sub {
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
	reload($node, 'outbox.max_inflight' => undef);
	pass('in the file');
};

# --- What others do

subtest 'hostile settings of database and roles' => sub {
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
	$node->safe_psql(
		'postgres', q{
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
		$node->safe_psql('postgres', $sql);
	}

	my $offset = -s $node->logfile;
	$receiver->faults(
		[   {   match => { topic => 'hostile.retry' },
				component_error => 'once',
				times => 5
			}
		]);
	reload(
		$node,
		'outbox.published_expire_time' => '1s',
		'outbox.cleaning_expire_interval' => '100ms');
	$node->safe_psql('postgres', "SELECT pg_terminate_backend($relay)");
	$relay = wait_relay($node, not => $relay);

	my @ids = (publish('hostile', 50), publish('hostile.retry', 5));
	wait_delivered($receiver, \@ids);
	taken_once($receiver, \@ids, 'events are sent, and again when they failed');
	is_deeply(
		[   grep { $_->{body} !~ /"time":"\d{4}-\d\d-\d\dT[\d:.]+Z"/ }
			  $receiver->accepted(topic => 'hostile')
		],
		[],
		'in the usual format');
	poll_until(
		sub {
			$node->safe_psql('postgres',
				q{SELECT count(*) FROM outbox_events WHERE topic LIKE 'hostile%'}
			) == 0;
		},
		'the events to be pruned');
	unlike(slurp_file($node->logfile, $offset),
		qr/ERROR|captured/, 'the log has no error');

	foreach my $who ('DATABASE postgres', 'ROLE ALL', 'ROLE postgres')
	{
		$node->safe_psql('postgres', "ALTER $who RESET ALL");
	}
	reload(
		$node,
		'outbox.published_expire_time' => undef,
		'outbox.cleaning_expire_interval' => undef);
	$receiver->reset;
};

foreach my $table ('outbox_delivery', 'outbox_progress', 'outbox_event')
{
	subtest "$table is locked" => sub {
		$receiver->faults([ { action => 'pass', delay_response => 0.05 } ]);
		reload($node, 'outbox.max_in_flight' => 8);
		my @ids = publish('locked', 200);
		poll_until(sub { $receiver->stats->{accepted} >= 8 },
			'the first requests');

		my $offset = -s $node->logfile;
		my $locker = $node->background_psql('postgres');
		$locker->query_safe(
			"BEGIN; LOCK TABLE $table IN ACCESS EXCLUSIVE MODE");
		my $timeout = qr/canceling statement due to lock timeout/;
		wait_log($node, $timeout, $offset);
		poll_until(sub { $receiver->stats->{concurrent} == 0 },
			'the last answers');
		my $taken = $receiver->stats->{accepted};
		cmp_ok($taken, '<', 200, 'the relay was in the middle');
		wait_log($node, qr/$timeout.*$timeout/s, $offset);
		is($receiver->stats->{accepted}, $taken,
			'what cannot be written down is not sent');
		like(relay_is('last_error'), $timeout, 'outbox_relays says why')
		  if $table ne 'outbox_event';

		$locker->query_safe('ROLLBACK');
		$locker->quit;
		wait_delivered($receiver, \@ids);
		taken_once($receiver, \@ids, 'afterwards it goes on, and sends nothing twice');
		$receiver->reset;
	};
}

subtest 'VACUUM FULL, REINDEX and ANALYZE while the relay works' => sub {
	$receiver->faults([ { action => 'pass', delay_response => 0.005 } ]);
	my $offset = -s $node->logfile;
	my @ids = publish('rewrite', 1000);
	poll_until(sub { $receiver->stats->{accepted} > 0 }, 'the relay to work');
	foreach my $command ('VACUUM FULL', 'REINDEX TABLE', 'VACUUM ANALYZE',
		'REINDEX TABLE CONCURRENTLY')
	{
		$node->safe_psql('postgres', "$command $_")
		  foreach 'outbox_event', 'outbox_delivery', 'outbox_progress';
	}
	push @ids, publish('rewrite', 100);
	wait_delivered($receiver, \@ids);
	taken_once($receiver, \@ids, 'every event is sent once');
	unlike(slurp_file($node->logfile, $offset), qr/ERROR/,
		'the log has no error');
	$receiver->reset;
	reload($node, 'outbox.max_in_flight' => undef);
};

# One is in flight, and noted as such; one waits behind it, and is forgotten.
foreach my $command ('TRUNCATE outbox_event, outbox_delivery',
	'TRUNCATE outbox_event', 'DELETE FROM outbox_event')
{
	subtest "events are deleted by hand: $command" => sub {
		$receiver->faults([ { action => 'hang' } ]);
		my ($first) = publish('deleted', 1, 'a');
		my ($second) = publish('deleted', 1, 'a');
		wait_state($node, $first, 'in_progress');

		my $offset = -s $node->logfile;
		$node->safe_psql('postgres', $command);
		is( $node->safe_psql('postgres', 'SELECT count(*) FROM outbox_delivery'),
			0, 'what is known of them goes along');
		$receiver->faults([]);
		my ($third) = publish('deleted', 1, 'a');
		my ($fourth) = publish('deleted', 1, 'b');
		wait_delivered($receiver, [ $third, $fourth ]);
		wait_state($node, $_, 'published') foreach $third, $fourth;
		taken_once($receiver, [ $third, $fourth ],
			'the relay goes on with what is new');
		is(scalar($receiver->log(id => $second)),
			0, 'what waited is not sent');
		unlike(slurp_file($node->logfile, $offset),
			qr/ERROR/, 'the log has no error');
		is( $node->safe_psql('postgres', 'SELECT count(*) FROM outbox_delivery'),
			0, 'no rows are written for what is gone');
		$node->safe_psql('postgres', 'TRUNCATE outbox_event');
	};
}

is(relay_pid($node, 'postgres'), $relay, 'one relay has gone through it all');
$node->stop;
done_testing();
