# What people see of topics, and of who stands in the relay's way.
#
# Promises:
# - A topic that fails is "down" in outbox_topics, with its last answer, when it is
#   tried next and what waits; outbox_check() has a row for it.  When it is mended,
#   nothing of that is left.  Other topics are "open".
# - A topic whose destination asks for a pause is "held" until then.
# - When more topics are down than the relay tells about, their number is right
#   and the others' state is not known.
# - Events are counted by topic as their states have it, wherever they wait.
# - A relay that starts tells anew; one that has ended tells nothing.
# - What is known of topics takes its part of outbox.relay_memory, but no more
#   than a half.
# - A secret that an answer repeats is not shown.
# - outbox_check() says who has locked the relay's tables, or rows that are to be
#   pruned, and does not wait for them.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use lib 'test/lib';
use OutboxTest;

use constant {
	SHOWN => 64,      # topics that a relay tells of
	MANY => 80,
	WAITING => 3000,  # events, more than stay in memory
	SECONDS => 10,    # for what takes milliseconds, on a busy machine
	KNOWN => 800,     # topics that take more than half of the memory
	LARGE => 60,      # events that take more than all of it
};

my $http = start_receiver(mode => 'http');
my $secret_file = PostgreSQL::Test::Utils::tempdir() . '/headers';
my $node = new_node(
	'topics',
	conf => {
		'outbox.publisher' => 'http',
		'outbox.http_url' => $http->url . '/{topic}',
		'outbox.batch_size' => 200,
		'outbox.breaker_threshold' => 3,
		# nothing is tried, or looked for, by itself: a reload does that
		'outbox.breaker_probe_interval' => '1h',
		'outbox.poll_interval' => '1h',
		'outbox.max_retry_interval' => '1h',
	});
query($node, 'CREATE EXTENSION outbox');

# Have topics that match fail so.
sub fail_topics
{
	my ($pattern, %rule) = @_;
	$http->faults([ { match => { path => "^/$pattern" }, %rule } ]);
	return;
}

# All is well again, and is tried.
sub mend
{
	$http->faults([]);
	reload($node);
	return;
}

# Something goes through, so that a topic's failures are its own.
sub others_go_on
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_delivered($http, [ publish($node, 'good') ]);
	return;
}

# Columns of outbox_topics for a topic, with | between
sub topic_value
{
	my ($topic, $columns) = @_;
	return query($node,
		"SELECT $columns FROM outbox_topics WHERE topic = " . literal($topic));
}

sub wait_topic
{
	my ($topic, $state) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return poll_until(sub { topic_value($topic, 'state') eq $state },
		"$topic to be " . ($state || 'gone'));
}

# Nothing is down or held, and everything says so.
sub all_open
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_settled($node);
	poll_until(
		sub {
			query($node, q{SELECT topics_down, topics_held FROM outbox_relays}) eq '0|0';
		},
		'all topics to be open');
	is(query($node, 'SELECT count(*) FROM outbox_topics'), '0', 'no topic is shown');
	is(check_value($node, 'topics open', 'ok, detail'),
		't|no topic is down or held', 'outbox_check() is content');
	return;
}

promise 'a topic that fails is down, with the reason, until it is mended' => sub {
	others_go_on();
	fail_topics('bad', status => 503, body => 'no such consumer');
	my @ids = publish($node, 'bad', count => 20);
	wait_topic('bad', 'down');
	poll_until(sub { topic_value('bad', 'in_flight') eq '0' },
		'the last answers to be told soon', SECONDS);
	is(topic_value('bad', q{state, pending, last_status, last_error,
			next_try - now() BETWEEN interval '50min' AND interval '1h',
			oldest BETWEEN now() - interval '10min' AND now(), published}),
		'down|20|503|HTTP 503: no such consumer|t|t|0', 'its row says all');
	is(query($node, 'SELECT topics_down, topics_held FROM outbox_relays'),
		'1|0', 'outbox_relays counts it');
	is(check_value($node, 'topics open', 'ok, detail'),
		'f|1 down, 0 held', 'outbox_check() is not content');
	like(check_value($node, 'topic "bad"', 'ok, detail'),
		qr/^f\|down since 2.*, next try 2.*: HTTP 503: no such consumer; see to/,
		'and says of which');
	others_go_on();
	my $later = publish($node, 'later', more => q{deliver_after => now() + '1 day'});
	poll_until(sub { topic_value('later', 'state, scheduled, in_flight') eq 'open|1|' },
		'another one to be open');
	query($node, "SELECT outbox_discard('$later')");
	mend();
	wait_delivered($http, \@ids);
	all_open();
};

promise 'a topic is held for as long as its destination asks' => sub {
	others_go_on();
	fail_topics('limited', status => 429, headers => { 'Retry-After' => '1800' });
	my @ids = publish($node, 'limited', count => 20);
	wait_topic('limited', 'held');
	is(topic_value('limited', q{pending, last_status,
			next_try - now() BETWEEN interval '20min' AND interval '30min'}),
		'20|429|t', 'its row says until when');
	is(query($node, 'SELECT topics_down, topics_held FROM outbox_relays'),
		'0|1', 'outbox_relays counts it');
	like(check_value($node, 'topic "limited"', 'ok, detail'),
		qr/^t\|held since 2.*, next try 2.*HTTP 429.*asked for this pause$/,
		'outbox_check() says so; for a minute that is no trouble');
	mend();
	wait_delivered($http, \@ids);
	all_open();
};

promise 'of many topics that are down, some are told and all are counted' => sub {
	others_go_on();
	fail_topics('many', status => 500);
	query($node, q{SELECT count(outbox_publish('many-' || t, to_jsonb(n)))
		FROM generate_series(1, 4) n, generate_series(1, } . MANY . q{) t});
	wait_relay_value($node, topics_down => MANY);
	poll_until(
		sub {
			query($node, q{SELECT count(*) FILTER (WHERE state = 'down'),
					count(*) FILTER (WHERE state IS NULL), sum(pending)
				FROM outbox_topics WHERE topic LIKE 'many%'}) eq
			  join('|', SHOWN, MANY - SHOWN, 4 * MANY);
		},
		'the view to show them');
	is(check_value($node, 'topics open', 'ok, detail'),
		'f|' . MANY . ' down, 0 held; those that have been so for longest follow',
		'outbox_check() counts them');
	is(query($node, q{SELECT count(*) FROM outbox_check() WHERE "check" LIKE 'topic "many%'}),
		SHOWN, 'and has as many rows');
	mend();
	all_open();
};

promise 'events are counted by topic as their states have it' => sub {
	others_go_on();
	fail_topics('counted', status => 500);
	publish($node, 'counted', count => WAITING,
		more => q{key => CASE WHEN n % 3 > 0 THEN 'k' || n % 50 END});
	my $differences = q{SELECT count(*) FROM
		(SELECT topic, count(*) AS n FROM outbox_events
		 WHERE state NOT IN ('published', 'discarded', 'dead') GROUP BY topic) e
		FULL JOIN outbox_topics t ON t.topic = e.topic
		WHERE n IS DISTINCT FROM pending};
	my $different = 0;
	poll_until(
		sub {
			$different += query($node, $differences);
			return query($node, q{SELECT count(*) FROM outbox_delivery
				WHERE topic = 'counted'}) == WAITING;
		},
		'all to have rows', 60);
	is($different, 0, 'while events move into the table');
	is(topic_value('counted', 'state, pending'), 'down|' . WAITING, 'and when all are there');
	mend();
	poll_until(
		sub {
			$different += query($node, $differences);
			return stat_value($node, 'backlog') == 0;
		},
		'all to be published', 60);
	is($different, 0, 'while they come back');
	all_open();
};

promise 'a relay that starts tells anew, one that has ended tells nothing' => sub {
	others_go_on();
	fail_topics('again', status => 404);
	publish($node, 'again', count => 20);
	wait_topic('again', 'down');
	restart_relay($node);
	wait_topic('again', 'down');
	is(topic_value('again', 'pending, last_status'), '20|404', 'with the reason');

	# one that does not send knows nothing
	disable($node);
	restart_relay($node);
	wait_relay_value($node, state => 'disabled');
	is(topic_value('again', 'state, pending, last_status, last_error'), 'open|20||',
		'what the one before it said is gone');
	mend();
	reload($node, 'outbox.enabled' => 'on');
	all_open();
};

# How many large events a relay takes into memory while none is answered
sub most_in_memory
{
	my ($topic) = @_;
	my ($started, $most) = (time, 0);
	fail_topics($topic, action => 'hang');
	publish($node, $topic, count => LARGE, payload => q{to_jsonb(repeat('x', 8000))});
	poll_until(
		sub {
			my $now = relay_value($node, 'in_flight');
			$most = $now if $now > $most;
			return $most && time - $started > 2;
		},
		'events to be read');
	mend();
	wait_settled($node);
	return $most;
}

promise 'what is known of topics takes its part of the memory' => sub {
	reload($node, 'outbox.relay_memory' => '256kB');
	restart_relay($node);
	my $before = most_in_memory('large');
	query($node, q{SELECT count(outbox_publish('known-' || n, '1'))
		FROM generate_series(1, } . KNOWN . ') n');
	wait_settled($node);
	my $after = most_in_memory('large-too');
	cmp_ok($before, '<', LARGE, 'events have a limit');
	cmp_ok($after, '<', 0.7 * $before, 'topics take their part');
	cmp_ok($after, '>', 0.4 * $before, 'a half at most');
	all_open();
};

promise 'a secret that an answer repeats is not shown' => sub {
	write_secret($secret_file, "X-Key: canary-in-a-cage\n");
	reload($node, 'outbox.http_headers_file' => $secret_file);
	others_go_on();
	fail_topics('secret', status => 500, body => 'you sent canary-in-a-cage');
	publish($node, 'secret', count => 20);
	wait_topic('secret', 'down');
	like(topic_value('secret', 'last_error'), qr/^HTTP 500: you sent \*+$/, 'stars instead');
	unlike(query($node, "SELECT * FROM $_"), qr/canary/, "nor in $_")
	  foreach 'outbox_topics', 'outbox_topic_status()', 'outbox_check()';
	mend();
	all_open();
};

# Rows of outbox_check() about locks, in order
sub locks
{
	return query($node, q{SELECT "check", detail FROM outbox_check()
		WHERE "check" LIKE 'lock on %' ORDER BY 1, 2});
}

promise 'outbox_check() says who has locked what' => sub {
	my $holder = $node->background_psql('postgres');
	my $waiter = $node->background_psql('postgres');
	my ($one) = $holder->query_safe('SELECT pg_backend_pid()');
	my ($two) = $waiter->query_safe('SELECT pg_backend_pid()');

	is(check_value($node, 'tables free', 'ok, detail'), 't|nobody has locked them', 'nobody');
	$holder->query_safe('BEGIN; LOCK TABLE outbox_event');
	my $started = time;
	like(locks(),
		qr/^lock on outbox_event\|pid $one \(.+\) has AccessExclusiveLock, in a transaction since 2.+; the relay waits for the end of that: SELECT pg_terminate_backend\($one\)$/,
		'who has locked a table');
	cmp_ok(time - $started, '<', SECONDS, 'it does not wait for that');
	is(check_value($node, 'tables free', 'ok'), 'f', 'it is not content');
	is(check_value($node, 'backlog moving', 'ok IS NULL, detail'),
		't|not known: a table is locked, see below', 'it cannot look into that');
	$waiter->query_until(qr/waits/,
		"\\echo waits\nBEGIN;\nLOCK TABLE outbox_event;\nROLLBACK;\n");
	poll_until(sub { locks() =~ qr/\Qpid $two\E \(.+\) waits for .+, behind $one;/ },
		'who waits for it');
	$holder->query_safe('ROLLBACK');
	poll_until(sub { locks() eq '' }, 'nobody to be left');

	$holder->query_safe('BEGIN; SELECT FROM outbox_event FOR UPDATE');
	like(locks(), qr/^lock on outbox_event\|pid $one \(.+\) has locked rows, .+not pruned/,
		'who has locked rows');
	$holder->query_safe('ROLLBACK');
	query($node, q{BEGIN; LOCK TABLE outbox_delivery IN SHARE MODE; PREPARE TRANSACTION 'lock'});
	like(locks(), qr/^lock on outbox_delivery\|a prepared transaction has ShareLock; .+: see pg_prepared_xacts$/,
		'a prepared transaction that has');
	query($node, q{ROLLBACK PREPARED 'lock'});
	is(locks(), '', 'nobody is left');
	$_->quit foreach $holder, $waiter;
};

done_testing();
