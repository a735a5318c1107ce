# What an endpoint will never take, and what only looks like it.
#
# Promises:
# - Which statuses are final is a setting.
# - 410 holds its topic for max_retry_interval, kills nothing, and is one line of
#   the log.
# - breaker_threshold refusals in a row take a topic down, and kill no more: of one
#   topic or of many.  It goes on by itself.
# - An event that is refused between others that are taken has itself to blame.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;

use constant {
	THRESHOLD => 5,
	BACKLOG => 300,
};

my $http = start_receiver(mode => 'http');
my $node = new_node(
	'refusals',
	conf => {
		'outbox.publisher' => 'http',
		'outbox.http_url' => $http->url . '/in/{topic}',
		'outbox.breaker_threshold' => THRESHOLD,
	});
query($node, 'CREATE EXTENSION outbox');

# How many events are dead of the topics that this matches
sub dead
{
	my ($pattern) = @_;
	return query($node,
		"SELECT count(*) FROM outbox_events WHERE state = 'dead' AND topic LIKE '$pattern'");
}

# Wait until so many requests of a path are in the receiver's log.
sub wait_requests
{
	my ($path, $n) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return poll_until(sub { $http->log(path => $path, fields => ['path']) >= $n },
		"$n requests of $path");
}

# Have the endpoint answer all but what is marked as good.
sub refuse
{
	my ($path, $status) = @_;
	$http->faults([ { match => { data => 'good' }, action => 'pass' },
		{ match => { path => $path }, status => $status } ]);
	return;
}

promise 'which statuses are final is a setting' => sub {
	reload($node, 'outbox.http_permanent_statuses' => '404,418');
	$http->faults([ map { {
		match => { path => "^/in/final-$_" }, times => 1, status => $_ } } 400, 404, 418 ]);
	my %id_of = map { $_ => scalar publish($node, "final-$_") } 400, 404, 418;
	wait_state($node, $id_of{400}, 'published');
	wait_state($node, [ @id_of{ 404, 418 } ], 'dead');
	is(scalar($http->log(path => "/in/final-$_")), $_ == 400 ? 2 : 1, "tries with $_")
	  foreach 400, 404, 418;
};

# Wait until the topic has been answered so often with 410, and is held.
sub wait_held
{
	my ($n) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_requests('/in/gone', $n);
	return poll_until(
		sub {
			query($node, q{SELECT count(*) FROM outbox_topics WHERE topic = 'gone'
				AND state = 'held' AND last_status = 410 AND in_flight = 0
				AND next_try > now() + interval '9 min'});
		},
		'the topic to be held');
}

promise '410 holds the topic, and kills nothing' => sub {
	my $offset = -s $node->logfile;
	reload($node, 'outbox.max_retry_interval' => '10min', 'outbox.max_retry_times' => 1);
	refuse('^/in/gone', 410);
	my @ids = publish($node, 'gone', count => 100);

	# a reload has one of its events tried at once, and held again
	wait_held(1);
	foreach my $reloads (1 .. 3)
	{
		my $seen = $http->log(path => '/in/gone');
		wait_delivered($http, [ publish($node, 'others', count => 100, key => 'k') ]);
		is(scalar($http->log(path => '/in/gone')), $seen, 'others go on, and it waits');
		reload($node);
		wait_held($seen + 1);
	}
	is(dead('gone'), 0, 'no event is dead');
	$http->faults([]);
	reload($node);
	wait_delivered($http, \@ids);
	my $log = wait_log($node, qr/topic "gone" is back/, $offset);
	wait_settled($node);
	is(scalar(() = $log =~ /topic "gone" is held/g), 1, 'one line of the log says so');
	is(query($node, q{SELECT max(attempts) FROM outbox_events WHERE topic = 'gone'}), 1,
		'and none has lost an attempt');
};

promise 'a topic with 410 is tried again every max_retry_interval' => sub {
	reload($node, 'outbox.max_retry_interval' => '600ms');
	refuse('^/in/interval', 410);
	publish($node, 'interval');
	wait_requests('/in/interval', 4);
	my @times = map { $_->{time} } $http->log(path => '/in/interval');
	cmp_ok($times[$_] - $times[ $_ - 1 ], '>', 0.59, "try $_") foreach 1 .. 3;
};

promise 'many refusals in a row take the topic down, and kill no more' => sub {
	my $offset = -s $node->logfile;
	refuse('^/in/backlog', 400);
	my @ids = publish($node, 'backlog', count => BACKLOG);
	wait_log($node, qr/topic "backlog" is down at .*\n.*HTTP 400/, $offset);

	# what was in flight, and some that tried
	my $seen = $http->log(path => '/in/backlog', fields => ['path']);
	wait_requests('/in/backlog', $seen + 20);
	is(dead('backlog'), THRESHOLD, 'some are dead');

	# nor is it another beginning when settings are read again
	reload($node);
	wait_requests('/in/backlog', $seen + 30);
	is(dead('backlog'), THRESHOLD, 'no more after a reload');
	$http->faults([]);
	wait_delivered($http, BACKLOG - THRESHOLD);
	wait_settled($node);
	is(query($node, q{SELECT max(attempts) FROM outbox_events
		WHERE topic = 'backlog' AND state = 'published'}), 1, 'the others lost nothing');
};

promise 'many refusals in many topics kill no more than in one' => sub {
	refuse('^/in/many', 422);
	query($node, q{SELECT count(outbox_publish('many-' || t, '1'))
		FROM generate_series(1, 3) n, generate_series(1, 40) t});
	wait_requests(qr{^/in/many}, 200);
	is(dead('many%'), THRESHOLD, 'some are dead');
	$http->faults([]);
	wait_delivered($http, 120 - THRESHOLD);
};

promise 'an event that is refused between others that are taken is dead' => sub {
	reload($node, 'outbox.dead_key_policy' => 'skip');
	refuse('^/in/between', 413);
	publish($node, 'between', count => 40, key => 'k',
		payload => q{to_jsonb(CASE WHEN n % 2 = 0 THEN 'good' ELSE 'bad' END)});
	poll_until(sub { dead('between') == 20 }, 'those to be dead that were refused');
	wait_states($node, 'between', join(' ', ('dead*1 published*1') x 20));
};

promise 'one event that is refused again and again is one' => sub {
	refuse('^/in/again', 400);
	my $id = publish($node, 'again');
	foreach (0 .. THRESHOLD)
	{
		wait_state($node, $id, 'dead');
		query($node, "SELECT outbox_retry('$id')");
	}
	wait_state($node, $id, 'dead');
	is(query($node, q{SELECT count(*) FROM outbox_topics WHERE state = 'down'}), 0,
		'no topic is down');
};

done_testing();
