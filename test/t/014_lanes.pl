# A topic that fails, or is answered late, holds up no other one.
#
# Promises:
# - While all of one topic's events fail, those of another one go through within
#   seconds, however many there are of the first and whatever it is that it is
#   answered.  When it is mended, its events arrive: all, in the order of their
#   keys, none dead.
# - So it is while a topic is not answered at all.
# - The log says which topic is down and when it is back.
# - The failing one does not hold the position: a crash sends nothing of the good
#   one again but what was about to be settled.
# - What waits for a topic does not fill the memory, and is found after a restart.
# - 429 holds the topic for as long as it asks for; no event dies of it or loses
#   an attempt.
# - Of 50 topics 49 may be slow, and the other one is not.
# - So it may be with topics that were quick, or new, until then.
# - However many new topics are not answered, or late, what is published after them
#   is read, and what waits in them is left where it is.
# - What waits in new topics that are answered at once is not written down.
# - Nor is what waits in a topic that is slow or down, while nobody waits behind it.
#   Somebody may come to wait, or have nothing in front of it any more.
# - An outage of everything that is answered with 503 uses up no attempts; the
#   first event goes through soon after its end.
# - What was tried in an outage loses no attempt by it, when that is over by the
#   time that it is answered.
# - One event that always fails, among others of its topic that do not, dies.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use lib 'test/lib';
use OutboxTest;

use constant {
	BAD => 5000,       # events, more than four times batch_size
	KEYS => 50,
	GOOD => 20,
	SECONDS => 30,     # that a good event may take on a busy machine
	HELD => 3,         # seconds
	MANY => 2000,      # topics
	STATISTICS => 3,   # seconds after which statistics have been sent
	LARGE => 6000,    # events of a kilobyte
	MEMORY => 30_000,   # kilobytes that a relay may grow by for them
};

my $dapr = start_receiver(mode => 'dapr');
my $http = start_receiver(mode => 'http');
my $node = new_node(
	'lanes',
	conf => {
		'outbox.dapr_endpoint' => $dapr->url,
		'outbox.http_url' => $http->url . '/{topic}',
		'outbox.http_content_mode' => 'structured',
		'outbox.publisher' => 'http',
		'outbox.batch_size' => 500,
		'outbox.max_in_flight' => 32,
		'outbox.breaker_threshold' => 10,
		'outbox.breaker_probe_interval' => '200ms',
		'outbox.max_retry_times' => 3,
		'outbox.local_retry_times' => 1,
		'outbox.local_failed_retry_interval' => '20ms',
		'outbox.failed_retry_interval' => '50ms',
		'outbox.max_retry_interval' => '1min',
		'outbox.request_timeout' => '1min',
	});
query($node, 'CREATE EXTENSION outbox');

# A fault rule for topics, and what the log of a receiver says of one: with http
# a topic is a path.
sub rule
{
	my ($topics, %rule) = @_;
	return {
		match => { path => '/(' . join('|', map { quotemeta } @$topics) . ')(\\?.*)?$' },
		%rule };
}

sub logged
{
	my ($receiver, $topic, %filter) = @_;
	return $receiver->log(%filter, path => qr{/$topic(\?.*)?$});
}

# An event goes through.  Only then do failures count at all.
sub warm_up
{
	my ($receiver) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_delivered($receiver, [ publish($node, 'warm-up') ]);
}

sub publish_bad
{
	my ($topic) = @_;
	publish($node, $topic, count => BAD, more => q{key => 'k' || n % } . KEYS);
	return;
}

# An event of each of many new topics.
sub publish_to_each
{
	my ($prefix, $count, $more) = @_;
	$more = defined $more ? ", $more" : '';
	query($node, qq{SELECT count(outbox_publish('$prefix-' || t, '1'$more))
		FROM generate_series(1, $count) t});
	return;
}

# Events of a good topic go through, and that soon.
sub good_ones_pass
{
	my ($receiver, $topic) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $started = time;
	wait_delivered($receiver, [ publish($node, $topic, count => GOOD) ]);
	cmp_ok(time - $started, '<', SECONDS, "$topic: not held up");
	return;
}

# All events of a topic arrive, each key's in order.  An event may have been
# taken twice if the relay had no answer.  Returns their numbers as they arrived.
sub arrive_in_order
{
	my ($receiver, $topic, $count, $keys) = @_;
	my (%last, %seen, @order);
	my $disorder = 0;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	poll_until(
		sub {
			query($node, 'SELECT count(*) FROM outbox_events WHERE topic = '
				  . literal($topic) . q{ AND state <> 'published'}) eq '0';
		},
		"$topic to be published", 120);
	foreach my $event (map { cloud_event($_) }
		logged($receiver, $topic, accepted => 1))
	{
		my $n = $event->{data};
		next if $seen{$n}++;
		push @order, $n;
		$disorder++ if $n < ($last{ $n % $keys } // 0);
		$last{ $n % $keys } = $n;
	}
	is(scalar(keys %seen), $count, "$topic: all arrive");
	is($disorder, 0, "$topic: in the order of their keys");
	return @order;
}

sub attempts_of
{
	my ($topic) = @_;
	return query($node, q{SELECT coalesce(max(attempts), 0) FROM outbox_events
		WHERE topic LIKE } . literal($topic) . q{ AND state <> 'published'});
}

# Count the rows that the relay writes from now on.
sub watch_rows
{
	query($node, q{
		CREATE TABLE public.written (topic text);
		CREATE FUNCTION public.note_row() RETURNS trigger LANGUAGE plpgsql AS
			$$BEGIN INSERT INTO public.written VALUES (NEW.topic); RETURN NEW; END$$;
		CREATE TRIGGER note_row AFTER INSERT ON outbox_delivery
			FOR EACH ROW EXECUTE FUNCTION public.note_row()});
	return;
}

# So many there were since watch_rows(), which ends.
sub rows_written
{
	my $count = query($node, 'SELECT count(*) FROM public.written');
	query($node, 'DROP FUNCTION public.note_row() CASCADE; DROP TABLE public.written');
	return $count;
}

foreach my $case (
	[ 'http', $http, '404', { status => 404 } ],
	[ 'http', $http, '500', { status => 500 } ],
	[ 'dapr', $dapr, '403', {
		status => 403,
		body => { errorCode => 'ERR_PUBSUB_FORBIDDEN', message => 'no' } } ],
	[ 'dapr', $dapr, 'component', { component_error => 'no broker' } ])
{
	my ($publisher, $receiver, $name, $fault) = @$case;

	promise "a topic that fails holds up no other ($publisher, $name)" => sub {
		my ($bad, $good) = ("bad-$name", "good-$name");
		my $offset = -s $node->logfile;
		reload($node, 'outbox.publisher' => $publisher);
		warm_up($receiver);
		$receiver->faults([ rule([$bad], %$fault) ]);
		publish_bad($bad);
		good_ones_pass($receiver, $good);
		wait_log($node, qr/topic "\Q$bad\E" is down/, $offset);
		good_ones_pass($receiver, "$good-later");
		cmp_ok(attempts_of($bad), '<', 3, 'hardly an attempt is used up');
		$receiver->faults([]);
		arrive_in_order($receiver, $bad, BAD, KEYS);
		wait_log($node, qr/topic "\Q$bad\E" is back/, $offset);
	};
}

promise 'a topic that is not answered holds up no other' => sub {
	warm_up($http);
	$http->faults([ rule(['hangs'], action => 'hang', on_release => 'drop') ]);
	publish($node, 'hangs', count => 2000, more => q{key => 'k' || n});
	poll_until(sub { relay_value($node, 'in_flight') >= 20 }, 'it to be sent');
	good_ones_pass($http, "beside-what-hangs-$_") foreach 1 .. 5;
	$http->faults([]);
	arrive_in_order($http, 'hangs', 2000, 2000);
};

promise 'a crash sends nothing of the good topic again' => sub {
	warm_up($http);
	$http->faults([ rule(['bad-at-crash'], status => 500) ]);
	publish_bad('bad-at-crash');
	my @good = publish($node, 'good-at-crash', count => 3000);
	wait_delivered($http, \@good);
	poll_until(
		sub {
			query($node, q{SELECT count(*) FROM outbox_events
				WHERE topic = 'good-at-crash' AND state = 'published'}) eq '3000';
		},
		'all to be settled');
	query($node, 'CHECKPOINT');
	my $pid = relay_pid($node);
	kill 'KILL', $pid;
	wait_relay($node, not => $pid);
	good_ones_pass($http, 'after-the-crash');
	taken_once($http, \@good, 'each is sent once');
	$http->faults([]);
	arrive_in_order($http, 'bad-at-crash', BAD, KEYS);
};

promise 'what waits for a topic leaves memory, and is found after a restart' => sub {
	reload($node, 'outbox.relay_memory' => '4MB');
	warm_up($http);
	my $before = private_memory(relay_pid($node));
	$http->faults([ rule(['large'], status => 404) ]);
	query($node, q{SELECT count(outbox_publish('large', to_jsonb(n),
			key => CASE WHEN n % 2 = 0 THEN 'k' || n % } . KEYS . q{ END,
			metadata => jsonb_build_object('fill', repeat('x', 1000))))
		FROM generate_series(1, } . LARGE . q{) n});
	good_ones_pass($http, 'beside-large');
	cmp_ok(private_memory(relay_pid($node)) - $before, '<', MEMORY,
		'memory is bounded');
	cmp_ok(
		query($node, q{SELECT count(*) FROM outbox_delivery WHERE topic = 'large'}),
		'>', LARGE / 2, 'most of them have left it');
	$node->restart;
	wait_relay($node);
	good_ones_pass($http, 'beside-large-after-the-restart');
	publish($node, 'large', payload => literal(LARGE + KEYS), key => 'k0');
	$http->faults([]);
	my @of_a_key = grep { $_ % KEYS == 0 }
	  arrive_in_order($http, 'large', LARGE + 1, 2 * LARGE);
	is_deeply(\@of_a_key, [ sort { $a <=> $b } @of_a_key ], 'in the order of a key');
};

promise 'a 429 holds its topic, and costs nothing' => sub {
	warm_up($http);
	$http->faults([
		rule(['limited'], status => 429, headers => { 'Retry-After' => HELD . '' }) ]);
	my @ids = publish($node, 'limited', count => 100);
	my $tries = sub { scalar(logged($http, 'limited')) };
	poll_until(sub { $tries->() > 0 }, 'a try');
	my $started = time;
	good_ones_pass($http, 'beside-what-is-limited');
	poll_until(sub { time - $started > HELD - 1.5 }, 'some of the time');
	cmp_ok($tries->(), '<=', 32, 'it is left alone for so long');
	poll_until(sub { time - $started > 4 * HELD }, 'four times as long');
	cmp_ok($tries->(), '<=', 32 + 5, 'then one event is tried');
	is(attempts_of('limited'), '0', 'no attempt is used');
	$http->faults([]);
	wait_delivered($http, \@ids);
};

promise 'of 50 topics 49 may be slow' => sub {
	warm_up($http);
	$http->faults([ { match => { path => '^/slow-' }, delay_response => 2 } ]);
	query($node, q{SELECT count(outbox_publish('slow-' || t, to_jsonb(n)))
		FROM generate_series(1, 8) n, generate_series(1, 49) t});
	poll_until(sub { relay_value($node, 'in_flight') >= 20 }, 'slots to be taken');
	foreach my $round (1 .. 5)
	{
		good_ones_pass($http, "the-fast-one-$round");
	}
	wait_settled($node, 120);
};

promise 'topics that are not answered any more leave slots to others' => sub {
	warm_up($http);
	wait_delivered($http, [ map { publish($node, "quick-$_", count => 50) } 1 .. 2 ]);
	$http->faults([ { match => { path => '^/quick-' }, action => 'hang', on_release => 'drop' } ]);
	query($node, q{SELECT count(outbox_publish('quick-' || t, to_jsonb(n)))
		FROM generate_series(1, 100) n, generate_series(1, 2) t});
	poll_until(sub { relay_value($node, 'in_flight') >= 30 }, 'slots to be taken');
	good_ones_pass($http, 'beside-what-was-quick');
	$http->faults([]);
	wait_settled($node);

	$http->faults([ { match => { path => '^/late-' }, delay_response => 1 } ]);
	publish($node, "late-$_", count => 5) foreach 1 .. 3;
	wait_settled($node);
	good_ones_pass($http, 'is-quick');
	$http->faults([ { match => { path => '^/(late|new)-' }, action => 'hang', on_release => 'drop' } ]);
	query($node, q{SELECT count(outbox_publish('new-' || t, '1')) FROM generate_series(1, 50) t});
	poll_until(sub { relay_value($node, 'in_flight') >= 30 }, 'slots to be taken');
	query($node, q{SELECT count(outbox_publish('late-' || t, to_jsonb(n)))
		FROM generate_series(1, 50) n, generate_series(1, 3) t});
	good_ones_pass($http, 'is-quick');
	$http->faults([]);
	wait_settled($node);
};

promise 'new topics without an answer do not keep others from being read' => sub {
	my $many = 4 * 32;    # times max_in_flight
	warm_up($http);
	good_ones_pass($http, 'is-known');
	$http->faults([ { match => { path => '^/silent-' }, action => 'hang', on_release => 'drop' } ]);
	query($node, qq{SELECT count(outbox_publish('silent-' || t, '1')) FROM generate_series(1, $many) t});
	poll_until(sub { relay_value($node, 'in_flight') >= 30 }, 'slots to be taken');
	good_ones_pass($http, 'is-known');
	$http->faults([]);
	wait_settled($node);
};

promise 'nor do new topics that are answered late, and fill the memory' => sub {
	reload($node, 'outbox.batch_size' => 10);
	warm_up($http);
	$http->faults([ { match => { path => '^/tardy-' }, delay_response => 0.4 } ]);
	publish_to_each('tardy', MANY);
	poll_until(sub { relay_value($node, 'in_flight') >= 30 }, 'slots to be taken');
	good_ones_pass($http, 'is-known');
	$http->faults([]);
	wait_settled($node);
};

promise 'what can not be sent is not read again and again' => sub {
	reload($node, 'outbox.batch_size' => 50);
	warm_up($http);
	$http->faults([ { match => { path => '^/mute-' }, action => 'hang', on_release => 'drop' } ]);
	publish_to_each('mute', MANY, q{key => 'k' || t});
	poll_until(
		sub { query($node, q{SELECT count(*) FROM outbox_delivery WHERE topic LIKE 'mute-%'}) > MANY / 2 },
		'them to have left memory');
	my ($walks, $since) = (-1, 0);
	poll_until(
		sub {
			publish($node, 'is-known');
			my $now = query($node, q{SELECT idx_scan FROM pg_stat_all_indexes
				WHERE indexrelname = 'outbox_delivery_topic_idx'});
			($walks, $since) = ($now, time) if $now != $walks;
			return time - $since > STATISTICS;
		},
		'them to be left alone');
	pass('they are left alone');
	$http->faults([]);
	wait_settled($node);
};

promise 'new topics that are answered leave no rows' => sub {
	reload($node, 'outbox.enabled' => 'off', 'outbox.max_in_flight' => 8);
	publish_to_each('fresh', MANY);
	watch_rows();
	reload($node, 'outbox.enabled' => 'on');
	wait_settled($node);
	cmp_ok(rows_written(), '<', MANY / 10, 'hardly any is written down');
};

promise 'what waits in a topic is not written down while nobody waits behind it' => sub {
	my @small = ('outbox.batch_size' => 20, 'outbox.max_in_flight' => 8);
	warm_up($http);
	$http->faults([ rule(['slow-alone'], delay_response => 0.3) ]);
	reload($node, @small);
	watch_rows();
	publish($node, 'slow-alone', count => 300);
	poll_until(sub { logged($http, 'slow-alone', fields => ['id']) >= 150 }, 'a half to be sent');
	$http->faults([]);
	wait_settled($node);
	cmp_ok(rows_written(), '<', 100, 'of one that is slow, what holds the position');

	my $offset = -s $node->logfile;
	$http->faults([ rule(['down-alone'], status => 500) ]);
	watch_rows();
	publish($node, 'down-alone', count => BAD);
	wait_log($node, qr/topic "down-alone" is down/, $offset);
	my $seen = logged($http, 'down-alone', fields => ['id']);
	poll_until(sub { logged($http, 'down-alone', fields => ['id']) > $seen + 3 }, 'tries');
	cmp_ok(rows_written(), '<', 100, 'of one that is down, what was tried');
	good_ones_pass($http, 'behind-what-is-down');
	$http->faults([]);
	wait_settled($node);
};

# The first topic is slow, and what is down fills the memory behind it.
promise 'who waits behind others of its topic may have none in front of it any more' => sub {
	my $offset = -s $node->logfile;
	my @faults = (rule(['between'], status => 500), rule(['short'], delay_response => 0.3));
	reload($node, 'outbox.batch_size' => 20, 'outbox.max_in_flight' => 8);
	warm_up($http);
	$http->faults(\@faults);
	publish($node, 'between', count => 40);
	wait_log($node, qr/topic "between" is down/, $offset);
	publish($node, 'short');
	reload($node, 'outbox.enabled' => 'off');
	publish($node, 'short', count => 30);
	publish($node, 'between', count => 500);
	my $last = publish($node, 'short');
	reload($node, 'outbox.enabled' => 'on');
	wait_delivered($http, [$last]);
	is(query($node, q{SELECT count(*) FROM outbox_events
		WHERE topic = 'between' AND state = 'published'}), 0, 'while all of the others wait');
	$http->faults([]);
	wait_settled($node);
};

promise 'an outage by 503 of many topics costs nothing' => sub {
	warm_up($http);
	$http->faults([ { status => 503 } ]);
	query($node, q{SELECT count(outbox_publish('outage-' || t, to_jsonb(n)))
		FROM generate_series(1, 10) n, generate_series(1, 200) t});
	wait_relay_value($node, state => 'endpoint down');
	my $started = time;
	poll_until(sub { time - $started > 5 }, 'some time to pass');
	is(relay_value($node, 'state'), 'endpoint down', 'it is down');
	is( query($node, q{SELECT count(*) FROM outbox_events
			WHERE topic LIKE 'outage-%' AND state = 'dead'}), '0', 'none is dead');
	cmp_ok(attempts_of('outage-%'), '<=', 1, 'tries use up no attempts');
	$http->faults([]);
	$started = time;
	poll_until(sub { scalar $http->accepted(path => qr{^/outage}, fields => ['time', 'path']) },
		'the first one');
	cmp_ok(time - $started, '<', SECONDS, 'the first one comes soon');
	wait_settled($node, 120);
	is(scalar($http->accepted(path => qr{^/outage}, fields => ['time', 'path'])),
		2000, 'all arrive, once');
};

promise 'an error that comes after the outage costs nothing' => sub {
	warm_up($http);
	$http->faults([
		{ match => { path => '^/late-' }, status => 503, delay_response => 4 },
		{ status => 503 } ]);
	query($node, q{SELECT outbox_publish('late-' || t, '1') FROM generate_series(1, 16) t});
	poll_until(sub { relay_value($node, 'in_flight') >= 16 }, 'them to be tried');
	query($node, q{SELECT outbox_publish('at-once-' || t, '1') FROM generate_series(1, 50) t});
	my $failed = stat_value($node, 'failed_attempts');
	poll_until(sub { stat_value($node, 'failed_attempts') > $failed + 50 }, 'an outage');
	$http->faults([]);
	wait_settled($node);
	cmp_ok(scalar(logged($http, 'late-\d+')), '>=', 32, 'each was tried again');
	is( query($node, q{SELECT max(attempts) FROM outbox_events
			WHERE topic LIKE 'late-%'}), '1', 'the first try does not count');
};

promise 'nor does one that comes after a topic was down' => sub {
	warm_up($http);
	reload($node, 'outbox.breaker_threshold' => 3);
	$http->faults([
		{ match => { path => '^/alone-late' }, times => 20, status => 503, delay_response => 4 },
		{ match => { path => '^/alone-late' }, times => 3, status => 503 } ]);
	# as many as fail: one that went through in between would prove the topic
	publish($node, 'alone-late', count => 23);
	poll_until(sub { query($node, q{SELECT state FROM outbox_topics WHERE topic = 'alone-late'}) eq 'down' },
		'the topic to be down');
	publish($node, 'alone-late', count => 17);
	wait_settled($node);
	cmp_ok(scalar(logged($http, 'alone-late')), '>=', 60, 'those that failed late were tried again');
	is( query($node, q{SELECT max(attempts) FROM outbox_events WHERE topic = 'alone-late'}),
		'1', 'the first try does not count');
};

promise 'an event that fails alone dies' => sub {
	reload($node, 'outbox.max_retry_times' => 2);
	warm_up($http);
	$http->faults([ { match => { data => 'poison' }, status => 500 } ]);
	my $bad = publish($node, 'mostly-good', payload => q{'"poison"'});
	poll_until(
		sub {
			publish($node, 'mostly-good');
			return event_state($node, $bad) eq 'dead';
		},
		'it to be dead');
	is(event_state($node, $bad), 'dead', 'the others of its topic prove its fault');
};

done_testing();
