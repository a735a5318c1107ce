# The servers of the real tests, by the example of Redis.
#
# Promises:
# - One that was started answers, and stop(), kill() and hang() are what they say.
# - Data outlive a crash.
# - A server that cannot start is an error with its log.
# - No server outlives its object.

use strict;
use warnings FATAL => 'all';

use Test::More;

use lib 'test/lib';
use OutboxTest;
use Real::Redis;
use Real::Server;

my $missing = Real::Redis->missing;
plan skip_all => $missing if $missing;

promise 'a server answers once it has started, and its data outlive a crash' => sub {
	my $redis = Real::Redis->new;
	is($redis->cli('SET', 'answer', '42'), 'OK', 'it answers');
	$redis->kill;
	ok(!Real::Server::can_connect($redis->port), 'it was killed');
	$redis->start;
	is($redis->cli('GET', 'answer'), '42', 'its data are there after the crash');
	$redis->restart;
	is($redis->cli('GET', 'answer'), '42', 'and after an orderly end');
};

promise 'a server that hangs does not answer until it goes on' => sub {
	my $redis = Real::Redis->new;
	$redis->hang;
	ok($redis->is_running, 'it runs');
	my $answer = eval {
		local $SIG{ALRM} = sub { die "no answer\n" };
		alarm 1;
		$redis->is_ready;
	};
	is($@, "no answer\n", 'and does not answer');
	alarm 0;
	$redis->go_on->await_ready;
	is($redis->cli('PING'), 'PONG', 'it goes on');
	$redis->hang->stop;
	ok(!$redis->is_running, 'one that hangs can be stopped');
};

promise 'a server that cannot start is an error with its log' => sub {
	my $redis = Real::Redis->new;
	ok(!eval { Real::Redis->new(port => $redis->port); 1 }, 'the port is taken');
	like($@, qr/ended instead of answering.*Address already in use/s,
		'which the error tells');
};

promise 'no server outlives its object' => sub {
	my $redis = Real::Redis->new;
	my $pid = $redis->pid;
	undef $redis;
	ok(!kill(0, $pid), 'the process is gone');
};

done_testing();
