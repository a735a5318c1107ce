# What outbox_check() and the views tell an operator, in the situations that are
# easily overlooked.
#
# Promises:
# - It says when nothing is sent because delivery is switched off or paused.
# - It says when events are dead, and when keys wait behind them; outbox_topics counts
#   them by topic, also after the relay was started anew.
# - What it says of settings is what the relay uses, not what the session is set to.
# - It says how many relays there may be more, and who keeps pruning waiting.
# - It says when a trigger of the extension is disabled, and how to mend that.
# - An event that is scheduled is no backlog before its time, and its age is counted
#   from then on.
# - However much was published since a transaction was left open, it is not looked at.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;

use constant SINCE => 5000;    # events published since the open transaction began

my $receiver = start_receiver(mode => 'dapr');
my $node = new_node(
	'check',
	conf => {
		'outbox.dapr_endpoint' => $receiver->url,
		'outbox.max_retry_times' => 1,
		'outbox.local_retry_times' => 1,
		'outbox.breaker_threshold' => 100,
		'max_prepared_transactions' => 5,
	});
query($node, 'CREATE EXTENSION outbox');

sub wait_check
{
	my ($check, $wanted, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $found;
	poll_until(sub { $found = check_value($node, $check, 'ok, detail'); $found =~ $wanted },
		"$check to be $wanted") or diag("it is $found");
	return like($found, $wanted, $name);
}

sub topic_value
{
	my ($topic, $columns) = @_;
	return query($node, "SELECT $columns FROM outbox_topics WHERE topic = " . literal($topic));
}

promise 'outbox_check() says when delivery is switched off or paused' => sub {
	wait_check('delivery enabled', qr/^t\|events are sent as they come$/, 'well');
	reload($node, 'outbox.enabled' => 'off');
	wait_check('delivery enabled', qr/^f\|outbox.enabled is off: /, 'off');
	reload($node, 'outbox.enabled' => 'on');
	wait_check('delivery enabled', qr/^t\|/, 'on');
	query($node, q{SELECT outbox_pause('default')});
	wait_check('delivery enabled', qr/^f\|it is paused: .*outbox_resume\('default'\)/, 'paused');
	query($node, q{SELECT outbox_resume('default')});
	wait_check('delivery enabled', qr/^t\|/, 'resumed');
};

promise 'outbox_check() says what is dead and what waits behind it' => sub {
	wait_check('events alive', qr/^t\|none is dead$/, 'none');
	$receiver->faults([ { match => { topic => 'dies' }, status => 413 } ]);
	my @dead = publish($node, 'dies', key => 'a');
	push @dead, publish($node, 'dies', key => 'b'), publish($node, 'dies');
	wait_state($node, \@dead, 'dead');
	wait_check('keys free', qr/^t\|no key waits/, 'nothing waits yet');
	my @behind = map { publish($node, 'dies', key => $_) } qw(a a b);
	wait_state($node, \@behind, 'blocked');
	wait_check('events alive', qr/^f\|3 are dead, the last since /, 'three are dead');
	wait_check('keys free', qr/^f\|2 wait behind a dead event/, 'two keys wait');
	is(topic_value('dies', 'pending, failed, dead'), '3|0|3', 'outbox_topics counts them');
	restart_relay($node);
	is(topic_value('dies', 'pending, failed, dead'), '3|0|3', 'as it does after a restart');
	$receiver->faults([]);
	query($node, 'SELECT outbox_retry_dead()');
	wait_settled($node);
	wait_check('events alive', qr/^t\|/, 'none any more');
	wait_check('keys free', qr/^t\|/, 'nor does a key wait');
};

promise 'what waits for another try is counted by topic' => sub {
	$receiver->faults([ { match => { topic => 'fails' }, status => 500 } ]);
	reload($node, 'outbox.max_retry_times' => 100, 'outbox.failed_retry_interval' => '1h',
		'outbox.max_retry_interval' => '1h');
	wait_state($node, scalar publish($node, 'fails'), 'failed');
	is(topic_value('fails', 'pending, failed, dead'), '1|1|0', 'it is');
	$receiver->faults([]);
	query($node, q{SELECT outbox_retry(event_id) FROM outbox_events WHERE state = 'failed'});
	wait_settled($node);
};

promise 'outbox_check() shows the settings of the relay' => sub {
	is(query($node, q{
			SET outbox.publisher = 'http';
			SELECT detail FROM outbox_check() WHERE "check" = 'publisher configured'}),
		'outbox.publisher = dapr', 'not those of the session');
	wait_check('settings alike', qr/^t\|/, 'nothing is said of a database');
	query($node, q{CREATE ROLE other; ALTER ROLE other SET outbox.publisher = 'http'});
	wait_check('settings alike', qr/^t\|/, 'nor of a user who is no relay');
	query($node, q{ALTER DATABASE postgres SET outbox.publisher = 'http'});
	wait_check('settings alike', qr/^\|not known: "outbox.publisher" are set by ALTER DATABASE/,
		'until somebody has said it');
	wait_check('publisher configured', qr/outbox.publisher = dapr$/, 'the relay has not read it');
	restart_relay($node);
	wait_check('publisher configured', qr/^f\|/, 'until it starts anew: http has no url');
	query($node, 'ALTER DATABASE postgres RESET outbox.publisher');
	restart_relay($node);
	wait_check('publisher configured', qr/outbox.publisher = dapr$/, 'and back');
};

promise 'it shows the source that the relay sends with' => sub {
	my $source = query($node, 'SELECT source FROM outbox_source');
	wait_check('source of events', qr/^t\|\Q$source\E, made for this database/, 'that of the database');
	like(query($node, q{
			SET outbox.source = '/session';
			SELECT detail FROM outbox_check() WHERE "check" = 'source of events'}),
		qr/^\Q$source\E,/, 'not that of the session');
	reload($node, 'outbox.source' => '/file');
	wait_check('source of events', qr{^t\|/file, by outbox.source$}, 'nor once the relay has another one');
};

promise 'outbox_check() says who keeps pruning waiting, and how many slots there are' => sub {
	wait_check('relay slots', qr/^t\|1 of \d+ \(outbox.max_relays\) are taken$/, 'one is taken');
	wait_check('pruning free', qr/^t\|/, 'nobody does');
	query($node, q{BEGIN; SELECT outbox_add_destination('keeper', '{none}'); PREPARE TRANSACTION 'keeper'});
	wait_check('pruning free', qr/^f\|.*a prepared one, see pg_prepared_xacts$/, 'a prepared transaction does');
	query($node, q{ROLLBACK PREPARED 'keeper'});
	my $session = $node->background_psql('postgres');
	my $pid = $session->query_safe('SELECT pg_backend_pid()');
	$session->query_safe(q{BEGIN; SELECT outbox_add_destination('keeper', '{none}')});
	wait_check('pruning free', qr/^f\|.*: pid $pid \(.*\) since .*, SELECT pg_terminate_backend\($pid\)$/, 'so does a session');
	$session->query_safe('ROLLBACK');
	$session->quit;
	wait_check('pruning free', qr/^t\|/, 'nobody any more');
};

promise 'outbox_check() says when a trigger is disabled' => sub {
	wait_check('triggers enabled', qr/^t\|/, 'all are enabled');
	query($node, 'CREATE FUNCTION mine() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NEW; END$$;
		CREATE TRIGGER mine BEFORE INSERT ON outbox_event FOR EACH ROW EXECUTE FUNCTION mine()');
	wait_check('triggers enabled', qr/^t\|/, 'whatever others there are');
	query($node, 'ALTER TABLE outbox_event DISABLE TRIGGER ALL');
	my $said = check_value($node, 'triggers enabled', 'ok, detail');
	like($said, qr/^f\|ALTER TABLE public.outbox_event ENABLE ALWAYS TRIGGER/, 'these are not');
	query($node, $said =~ s/^f\|//r);
	wait_check('triggers enabled', qr/^t\|/, 'what it says mends that');
	query($node, 'DROP FUNCTION mine() CASCADE');
};

promise 'what is scheduled is no backlog before its time' => sub {
	query($node, q{
		INSERT INTO outbox_event (topic, payload, xid, created_at, deliver_after)
		VALUES ('later', '1', pg_current_xact_id(), now() - interval '1 day', now() + interval '1 day')});
	publish($node, 'later', more => q{deliver_after => now() + '1 day'});
	wait_settled($node);
	is(topic_value('later', 'pending, oldest, scheduled'), '0||2', 'it is scheduled');
	is(stat_value($node, 'oldest_unsettled_age IS NULL'), 't', 'and has no age');
	$receiver->faults([ { match => { topic => 'now' }, action => 'hang', on_release => 'drop' } ]);
	query($node, q{
		INSERT INTO outbox_event (topic, payload, xid, created_at, deliver_after)
		VALUES ('now', '1', pg_current_xact_id(), now() - interval '1 day', now())});
	is(topic_value('now', q{pending, oldest > now() - interval '1 hour', scheduled}), '1|t|0',
		'its age begins with its time');
	$receiver->faults([]);
	wait_settled($node);
};

promise 'what was published since a transaction was left open is not looked at' => sub {
	query($node, q{BEGIN; SELECT outbox_publish('orphan', '1'); PREPARE TRANSACTION 'orphan'});
	query($node, q{SELECT outbox_publish('since', to_jsonb(n)) FROM generate_series(1, } . SINCE . ') n');
	wait_settled($node);
	foreach my $look (('outbox_check()', 'outbox_stats', 'outbox_topics', 'outbox_destinations') x 2)
	{
		# soon after all is settled, when the position has passed it
		poll_until(
			sub {
				my $read = query($node, qq{
					SELECT count(*) > 0 FROM $look;
					SELECT coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)
					FROM pg_stat_xact_all_tables WHERE relname = 'outbox_event'});
				return $read =~ s/^.*\n//r < SINCE / 10;
			},
			"$look to read little") and pass($look);

		# the second time the planner knows of the tables
		query($node, 'ANALYZE');
	}
	query($node, q{COMMIT PREPARED 'orphan'});
	wait_settled($node);
};

done_testing();
