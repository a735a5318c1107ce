# What outbox_publisher.h promises to a publisher, and what a publisher can say.
#
# Promises:
# - OUTBOX_FAILED counts as an attempt and is no failure for the breaker.
# - A publisher says at any time that its destination is down, or up again; the
#   relay stops and goes on, probes meanwhile, and no attempt is lost.
# - What may have failed because of others is sent again by itself; only the
#   second time counts.
# - max_messages is a window in messages.
# - What a callback leaves in memory is gone; what is configured stays.
# - shutdown_cb is called at the end of the process too, never inside another
#   callback.
# - A descriptor that can't be polled is the publisher's error, not the end of
#   the relay.
# - Structs of later versions work, those that are too short are refused.
# - After a stop of the process, nobody's time is up before what came in meanwhile
#   was looked at.
# - What was found out of a destination is forgotten with its settings.
# - The example in docs/publishers.md works.
#
# The publisher is test/modules/outbox_test_broker.c, which tells what it does
# with which topic.

use strict;
use warnings FATAL => 'all';

use File::Basename qw(dirname);
use List::Util qw(max);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use lib 'test/lib';
use OutboxTest;

use constant {
	MAX_IN_FLIGHT => 4,
	RETRIES => 2,
	MB => 1024,
};

my $dir = PostgreSQL::Test::Utils::tempdir();
my $happened = "$dir/happened";
my $written = "$dir/written";
append_to_file($happened, '');
my $node = new_node(
	'publisher_interface',
	conf => {
		'outbox.publisher' => 'outbox_test_broker',
		'outbox.max_in_flight' => MAX_IN_FLIGHT,
		'outbox.breaker_threshold' => 2,
		'outbox.breaker_probe_interval' => '1h',
		'outbox.request_timeout' => '20s',
		'outbox.max_retry_times' => RETRIES,
		'outbox.max_retry_interval' => '50ms',
		'outbox.minimum_retry_interval' => '0',
		'outbox_broker.file' => $happened,
		'outbox_test.file' => $written,
	});
query($node, 'CREATE EXTENSION outbox');
wait_relay($node);

# The broker's lines of a kind, the fields behind it as an array each; of these
# events only, if any are given
sub lines_of
{
	my ($kind, @ids) = @_;
	my %wanted = map { $_ => 1 } @ids;
	return grep { !@ids || $wanted{ $_->[0] } }
	  map { my @fields = split /\|/; shift @fields; \@fields }
	  grep { /^\Q$kind\E(\||$)/ } split /\n/, slurp_file($happened);
}

# Of what was sent of these events, in order: which attempt it was, how many
# messages were unanswered with it, and how many shared its request
sub attempts { return map { $_->[2] } lines_of('submit', @_); }
sub unanswered { return map { $_->[3] } lines_of('submit', @_); }
sub sharing { return map { $_->[4] } lines_of('submit', @_); }

# Change settings, and return when the broker has read them.
sub configure
{
	my (%settings) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $before = lines_of('configured');
	reload($node, %settings);
	return poll_until(sub { lines_of('configured') > $before },
		'the broker to have read its settings');
}

# Have another publisher than the broker, and return when it has.
sub replace_broker
{
	my ($publisher, %settings) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $before = lines_of('shutdown');
	reload($node, 'outbox.publisher' => $publisher, %settings);
	return poll_until(sub { lines_of('shutdown') > $before },
		'the broker to be replaced');
}

sub block { return append_to_file("$happened.blocked", ''); }
sub unblock { return unlink "$happened.blocked"; }

# A promise that begins with a broker that is well and has the settings of
# above, and with nothing to be sent
sub promise_of_broker
{
	my ($name, $sub) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	promise $name => sub {
		unblock();
		configure();
		wait_state($node, scalar publish($node, 'well'), 'published');
		wait_settled($node);
		unlink $happened;
		append_to_file($happened, '');
		$sub->();
	};
	return;
}

promise_of_broker 'the state tells database, authorities and limits' => sub {
	configure(
		'outbox.tls_ca_file' => '/nowhere/ca.pem',
		'outbox.max_payload_size' => 123456);
	is_deeply(
		[ lines_of('configured') ],
		[ [ 'postgres', '/nowhere/ca.pem', '123456' ] ],
		'database, tls_ca_file and max_payload_size');
	configure('outbox.tls_ca_file' => undef);
	is((lines_of('configured'))[-1][1], 'none', 'no tls_ca_file is NULL');
};

promise_of_broker 'a message is answered when a descriptor is ready' => sub {
	my $id = publish($node, 'pipe');
	ok(wait_state($node, $id, 'published'), 'it is');
};

# --- OUTBOX_FAILED

promise_of_broker
  'OUTBOX_FAILED is an attempt, and no failure of the destination' => sub {
	my $offset = -s $node->logfile;
	my @failed = publish($node, 'failed', count => 3);
	wait_state($node, \@failed, 'dead');
	foreach my $id (@failed)
	{
		is_deeply([ attempts($id) ],
			[ 1 .. RETRIES + 1 ], 'each try is an attempt');
		is(event_value($node, $id, 'last_error'),
			'this one failed', 'with its reason');
	}
	unlike(slurp_file($node->logfile, $offset),
		qr/destination "\w+" of database "\w+" is down/, 'the breaker stays closed');
	is(check_value($node, 'endpoint answers', 'ok'),
		't', 'and the endpoint answers');
  };

# --- outbox_probe_answer()

promise_of_broker 'a destination that says that it is blocked is left alone' =>
  sub {
	my $held = publish($node, 'held');
	poll_until(sub { unanswered($held) > 0 }, 'a message in flight');
	block();
	wait_relay_value($node, state => 'endpoint down');
	is(relay_value($node, 'last_error'),
		'blocked: disk alarm', 'the reason is shown');

	# It was taken before the alarm, and tells nothing of now.
	wait_state($node, $held, 'published');
	my @waiting = publish($node, 'waiting', count => 20);
	wait_relay_value($node, in_flight => '0');
	is(relay_value($node, 'state'), 'endpoint down',
		'what is acknowledged meanwhile does not open the way');
	is(check_value($node, 'endpoint answers', 'ok'),
		'f', 'the endpoint does not answer');
	is(scalar(attempts(@waiting)), 0, 'nothing is sent');

	unblock();
	wait_state($node, \@waiting, 'published');
	is_deeply([ attempts(@waiting) ],
		[ (1) x 20 ], 'unblocked, each is sent, for the first time');
	is((unanswered(@waiting))[1],
		1, 'the second one when the first has been answered');
	wait_relay_value($node, state => 'idle');
	is(check_value($node, 'endpoint answers', 'ok'),
		't', 'the endpoint answers');
  };

# It answers in the second round, for it says that it is blocked in the first.
promise_of_broker 'after a stop of the process a publisher has a round more' =>
  sub {
	configure('outbox.request_timeout' => '1s');
	my $held = publish($node, 'held');
	poll_until(sub { unanswered($held) > 0 }, 'a message in flight');
	my $pid = relay_pid($node);
	kill('STOP', $pid);
	block();
	my $begin = time;
	poll_until(sub { time > $begin + 2.5 }, 'all time-outs to be over');
	kill('CONT', $pid);
	wait_state($node, $held, 'published');
	is_deeply([ attempts($held) ], [1], 'what is answered then counts');
  };

promise_of_broker 'a blocked destination is probed as in any outage' => sub {
	configure(
		'outbox.breaker_probe_interval' => '100ms',
		'outbox.request_timeout' => '100ms');
	block();
	wait_relay_value($node, state => 'endpoint down');
	my @waiting = publish($node, 'waiting', count => 5);
	poll_until(sub { unanswered(@waiting) > 1 }, 'two tries');
	is(scalar(grep { $_ != 1 } unanswered(@waiting)), 0, 'one at a time');
	is( query($node, q{
		SELECT coalesce(max(attempts), 0) FROM outbox_events
		WHERE topic = 'waiting' AND state <> 'published'}),
		'0', 'no attempt is counted');
	unblock();
	wait_state($node, \@waiting, 'published');
};

promise_of_broker 'with breaker_threshold = 0, nothing is held back' => sub {
	configure('outbox.breaker_threshold' => 0);
	block();
	poll_until(sub { lines_of('blocked') > 0 }, 'the broker to be blocked');
	my $id = publish($node, 'sent all the same');
	ok(poll_until(sub { attempts($id) > 0 }, 'it to be sent'), 'it is sent');
	isnt(relay_value($node, 'state'),
		'endpoint down', 'the breaker stays closed');
	unblock();
	wait_state($node, $id, 'published');
};

# --- OutboxAnswer.alone

# A poison among five others, unanswered together: the others lose no attempt,
# the poison all of its own, and its first failure is none.  With each, "beside"
# is how many went, which is 6 at first.
sub spared
{
	my ($beside, %settings) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	configure(%settings, 'outbox_broker.hold' => 6);
	my ($poison, @mates) = publish($node, 'mixed',
		count => 6,
		payload => q{to_jsonb(CASE n WHEN 1 THEN 'poison' ELSE 'mate' END)});
	ok(wait_state($node, \@mates, 'published'),
		'that all fail at once is no outage, which would last for an hour');
	wait_state($node, $poison, 'dead');
	is_deeply([ attempts($poison) ],
		[ 1, 1 .. RETRIES + 1 ], 'of the poison, the second time counts');
	foreach my $id ($poison, @mates)
	{
		is_deeply([ attempts($id) ],
			[ 1, 1 ],
			'a mate is sent once more, without having lost an attempt')
		  if $id ne $poison;
		my (undef, @again) = $beside->($id);
		is(scalar(grep { $_ != 1 } @again), 0, 'nothing beside it');
	}
	return;
}

promise_of_broker 'alone, in a window: nothing else is unanswered' =>
  sub { spared(\&unanswered, 'outbox_broker.window' => 100); };

promise_of_broker 'alone, without a window: in a request of its own' =>
  sub { spared(\&sharing, 'outbox_broker.batch' => 10); };

# --- max_messages

# One topic has all slots but a sixteenth.
sub of_one_topic
{
	my ($slots) = @_;
	return $slots < 4 ? $slots : $slots - max(1, int($slots / 16));
}

# The most messages that were unanswered at a time, after 400 events of a topic
sub widest
{
	my (%settings) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	configure(%settings);
	my @ids = publish($node, 'window', count => 400);
	wait_settled($node);
	my ($widest) = sort { $b <=> $a } unanswered(@ids);
	return $widest;
}

promise_of_broker 'max_messages is a window in messages' => sub {
	is( widest(
			'outbox_broker.window' => 150,
			'outbox_broker.hold' => of_one_topic(150)),
		of_one_topic(150),
		'so many are unanswered, and no more');
	is( widest(
			'outbox_broker.batch' => 20,
			'outbox_broker.hold' => 150),
		150,
		'also if they share requests');
	is( widest(
			'outbox_broker.window' => undef,
			'outbox_broker.batch' => undef,
			'outbox_broker.hold' => of_one_topic(MAX_IN_FLIGHT)),
		of_one_topic(MAX_IN_FLIGHT),
		'without it, as many as requests');
};

# --- Memory

promise_of_broker 'what a callback leaves in memory is gone' => sub {
	configure('outbox_broker.waste' => 'on', 'outbox_broker.batch' => 2);
	my $pid = wait_relay($node);
	publish($node, 'waste', count => 20);
	wait_settled($node);
	my $before = private_memory($pid);
	my @ids = publish($node, 'waste', count => 200);
	wait_settled($node);
	cmp_ok(private_memory($pid) - $before, '<', 20 * MB,
		'a megabyte each time does not add up');
	cmp_ok(scalar(attempts(@ids)), '>=', 200, 'after many callbacks');
};

# --- The end

promise_of_broker 'shutdown_cb is called when the process ends' => sub {
	restart_relay($node);
	is_deeply([ lines_of('shutdown') ],
		[ [ 1, 0 ] ], 'once, in the process that ends');
	replace_broker('outbox_test_publisher');
	is_deeply([ lines_of('shutdown') ],
		[ [ 1, 0 ], [ 0, 0 ] ], 'and when another publisher is set');
};

promise_of_broker 'shutdown_cb is not called inside another callback' => sub {
	my $id = publish($node, 'fatal');
	poll_until(sub { attempts($id) > 1 }, 'the relay to come back', 60);
	query($node, "SELECT outbox_discard('$id')");
	is(scalar(lines_of('shutdown')), 0, 'it is not');
	wait_relay($node);
};

promise_of_broker 'a shutdown_cb that throws does not keep the process' => sub {
	replace_broker('outbox_test_publisher',
		'outbox_test.mode' => 'throw_in_shutdown');
	wait_state($node, scalar publish($node, 'before the end'), 'published');
	restart_relay($node);
	ok(wait_state($node, scalar publish($node, 'after the end'), 'published'),
		'another relay works');
};

# --- Descriptors

foreach my $topic ('closed', 'regular', 'twice')
{
	promise_of_broker "a descriptor that can't be polled: $topic" => sub {
		my $pid = wait_relay($node);
		configure('outbox.breaker_probe_interval' => '50ms');
		my $id = publish($node, $topic);
		wait_relay_value($node, last_error => qr/epoll_ctl/);
		isnt(event_state($node, $id), 'published',
			'what was in flight has failed');
		query($node, "SELECT outbox_discard('$id')");
		ok(wait_state($node, scalar publish($node, 'pipe'), 'published'),
			'those that can be polled are');
		is(relay_pid($node), $pid, 'the relay is the same');
	};
}

promise_of_broker
  "descriptors that can't be polled do not make the relay spin" => sub {
	my $pid = wait_relay($node);
	my $id = publish($node, 'broken');
	wait_relay_value($node, last_error => qr/epoll_ctl/);
	my ($before, $started) = (processor_ticks($pid), time);
	poll_until(sub { time - $started > 1 }, 'a second');
	cmp_ok(processor_ticks($pid) - $before, '<', 50 * (time - $started),
		'it pauses after each');
	query($node, "SELECT outbox_discard('$id')");
	configure();
	ok(wait_state($node, scalar publish($node, 'pipe'), 'published'),
		'and goes on when they are gone');
	is(relay_pid($node), $pid, 'the relay is the same');
  };

# --- Structs of other sizes

promise_of_broker 'a table and an answer of a later version work' => sub {
	replace_broker('outbox_test_publisher', 'outbox_test.mode' => 'long_table');
	my $id = publish($node, 'long');
	wait_state($node, $id, 'published');
	like(slurp_file($written), qr/^\Q$id\E\|/m, 'the event is published');
};

promise_of_broker 'a table that is too short is refused' => sub {
	replace_broker('outbox_test_publisher', 'outbox_test.mode' => 'short_table');
	wait_relay_value($node,
		last_error =>
		  qr/publisher "outbox_test_publisher" has a table of callbacks that is too short/
	);
	is(check_value($node, 'publisher configured', 'ok'),
		'f', 'outbox_check() says so, too');
};

promise_of_broker 'an answer that is too short is none' => sub {
	replace_broker(
		'outbox_test_publisher',
		'outbox_test.mode' => 'short_answer',
		'outbox.request_timeout' => '100ms');
	my $id = publish($node, 'bad');
	wait_relay_value($node,
		last_error => 'the publisher did not answer in time');
	isnt(event_state($node, $id), 'published', 'its time is up');
	query($node, "SELECT outbox_discard('$id')");
};

promise_of_broker 'an answer without an outcome loses nothing' => sub {
	replace_broker('outbox_test_publisher', 'outbox_test.mode' => 'no_outcome');
	my $id = publish($node, 'bad');
	wait_state($node, $id, 'published');
	like(slurp_file($written), qr/^\Q$id\E\|.*\|2$/m, 'it is tried again');
};

# --- What is known

promise_of_broker
  'what was found of an endpoint is forgotten with its settings' => sub {
	my $answers = sub { return check_value($node, 'endpoint answers', 'ok'); };
	wait_state($node, scalar publish($node, 'well'), 'published');
	is($answers->(), 't', 'the endpoint answers');
	configure();
	ok(poll_until(sub { $answers->() eq '' }, 'it not to be known'),
		'after a reload, who knows');
	wait_state($node, scalar publish($node, 'well'), 'published');
	is($answers->(), 't', 'until the next event');
	block();
	poll_until(sub { $answers->() eq 'f' }, 'it to be blocked');
	replace_broker('http', 'outbox.http_url' => 'http://127.0.0.1:1/');
	ok(poll_until(sub { $answers->() eq '' }, 'it not to be known'),
		'nor with another publisher');
  };

# --- docs/publishers.md

# The first block of this kind
sub documented_block
{
	my ($kind) = @_;
	my ($block) = slurp_file('docs/publishers.md') =~ /\n```$kind\n(.*?)```\n/s;
	return $block;
}

promise_of_broker 'the publisher in docs/publishers.md works' => sub {
	my $build = "$dir/log_publisher";
	chomp(my $headers = `pg_config --includedir-server`);

	# If the extension is not installed in the system, it is beside TEMP_CONFIG.
	my $staged = dirname($ENV{TEMP_CONFIG}) . "/dest$headers";
	mkdir $build;
	append_to_file("$build/log_publisher.c", documented_block('c'));
	append_to_file("$build/Makefile", documented_block('make'));
	is( system_log(
			'make', '-s', '-C', $build, 'PG_CONFIG=pg_config',
			"PG_CPPFLAGS=-I$staged -Wall -Werror", 'with_llvm=no'),
		0,
		'it builds, without warnings');

	my $offset = -s $node->logfile;
	replace_broker("$build/log_publisher");
	my $id = publish($node, 'orders');
	wait_state($node, $id, 'published');
	wait_log($node, qr/event \Q$id\E of topic "orders": 1/, $offset);
	my $bytes = query($node,
		q{SELECT outbox_publish_bytes('orders', 'x', 'text/plain')});
	wait_state($node, $bytes, 'dead');
	is(event_value($node, $bytes, 'last_error'),
		'only JSON can be logged', 'and says what it does not take');
};

done_testing();
