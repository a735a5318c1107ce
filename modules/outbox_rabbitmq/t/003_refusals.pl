# What RabbitMQ does not take is told apart: whether it is one event, all to its
# exchange, or everything for a while.
#
# Promises:
# - An event that is too large is dead at once, whether we know the limit or only
#   the broker; others that were in flight with it arrive.
# - An event that no queue wants fails or is dead, as the setting says, or is lost if
#   we are not to ask; those that a queue wants go on.
# - What a full queue refuses is tried again until it is taken.
# - An exchange that is not there, or goes, is an outage; it ends when it is there.
# - The right to write to the exchange is enough.  A routing key without a right to
#   it is down, others go on.
# - While the broker has an alarm nothing is sent and no attempt used up; afterwards
#   all arrives.

use strict;
use warnings FATAL => 'all';

use Test::More;

use lib 'test/lib';
use OutboxTest;
use Real::RabbitMQ;

my $missing = Real::RabbitMQ->missing;
plan skip_all => $missing if $missing;

my $broker = Real::RabbitMQ->new(conf => { max_message_size => 100_000 });
$broker->declare_queue('events', exchange => 'shop', key => 'wanted.#');
my $node = new_node('rabbitmq_refusals', conf => { $broker->settings('shop') });
query($node, 'CREATE EXTENSION outbox');

# Test that each of these is in the queue, and how many of them twice.
sub all_are_there
{
	my ($ids, $max_twice) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my %seen;

	$seen{$_}++ foreach $broker->take_ids('events');
	is(scalar(grep { !$seen{$_} } @$ids), 0, 'nothing is lost');
	my $twice = grep { ($seen{$_} // 0) > 1 } @$ids;
	cmp_ok($twice, '<=', $max_twice, "$twice events are there twice");
	return;
}

# Test that the event is dead, after one attempt, with this error and status.
sub is_refused
{
	my ($id, $error, $status) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	wait_state($node, $id, 'dead');
	like(event_value($node, $id, 'last_error'), $error, 'it is dead, with the reason');
	is(event_value($node, $id, 'attempts, last_status'), "1|$status",
		'after one attempt, with the status');
	return;
}

promise 'what is larger than our limit is dead at once' => sub {
	reload($node, 'outbox_rabbitmq.max_message_size' => 1000);
	restart_relay($node);
	my $id = publish($node, 'wanted', payload => q{to_jsonb(repeat('x', 2000))});
	is_refused($id, qr/^the message has 2002 bytes, more than the 1000 of/, '');
	wait_state($node, publish($node, 'wanted'), 'published');
	$broker->take_ids('events');
};

promise 'what is larger than the limit of the broker takes no other along' => sub {
	wait_state($node, publish($node, 'wanted'), 'published');
	disable($node);
	my @small = publish($node, 'wanted', count => 300);
	my $large = publish($node, 'wanted', payload => q{to_jsonb(repeat('x', 200000))});
	push @small, publish($node, 'wanted', count => 300);


	# an attempt would show in the table
	reload($node, 'outbox.enabled' => 'on', 'outbox.local_retry_times' => 0);
	is_refused($large, qr/PRECONDITION_FAILED - message size 200002 is larger than/, 406);
	wait_settled($node);
	is(query($node, q{SELECT max(attempts) FROM outbox_events WHERE topic = 'wanted'}),
		1, 'which costs none of the others an attempt');
	all_are_there(\@small, 600);
};

promise 'what no queue wants fails, and holds up nothing else' => sub {
	reload($node, 'outbox.max_retry_times' => 2, 'outbox.failed_retry_interval' => '50ms');
	my $id = publish($node, 'unwanted', key => 'k');
	my @wanted = publish($node, 'wanted.too', count => 100);
	wait_state($node, $id, 'dead');
	is(event_value($node, $id, 'last_error, last_status, attempts'),
		'no queue takes it: NO_ROUTE, exchange "shop", routing key "unwanted"|312|3',
		'it is tried again, and dead after its last attempt');
	wait_state($node, $wanted[-1], 'published');
	wait_settled($node);
	all_are_there(\@wanted, 0);
};

promise 'what no queue wants is refused, or lost, if the settings say so' => sub {
	reload($node, 'outbox_rabbitmq.unroutable' => 'reject');
	restart_relay($node);
	is_refused(scalar publish($node, 'unwanted', payload => q{to_jsonb(repeat('x', 50000))}),
		qr/^no queue takes it: NO_ROUTE/, 312);
	reload($node, 'outbox_rabbitmq.mandatory' => 'off');
	restart_relay($node);
	wait_state($node, publish($node, 'unwanted'), 'published');
	$broker->declare_queue('unwanted', exchange => 'shop', key => 'unwanted');
	is($broker->count('unwanted'), 0, 'RabbitMQ has dropped it');
	$broker->client([ queue_delete => { queue => 'unwanted' } ]);
};

promise 'what a full queue refuses is tried again' => sub {
	$broker->declare_queue(
		'full',
		exchange => 'shop',
		key => 'full',
		arguments => { 'x-max-length' => 1, 'x-overflow' => 'reject-publish' });
	my @ids = publish($node, 'full', count => 20);
	my @others = publish($node, 'wanted', count => 100);
	poll_until(
		sub {
			query($node,
				q{SELECT count(*) FROM outbox_events WHERE last_error LIKE '%(basic.nack)'}) > 0
			  || query($node,
				q{SELECT count(*) FROM outbox_topics WHERE last_error LIKE '%(basic.nack)'}) > 0;
		},
		'RabbitMQ to say that it could not take some');
	wait_state($node, $others[-1], 'published');
	my %seen;
	poll_until(
		sub { $seen{$_}++ foreach $broker->take_ids('full'); @ids == grep { $seen{$_} } @ids },
		'all to arrive one by one', 120);
	is(scalar(grep { $seen{$_} > 1 } @ids), 0, 'and none twice');
	$broker->take_ids('events');
};

promise 'an exchange that is not there, or goes, is an outage' => sub {
	reload($node, 'outbox_rabbitmq.exchange' => 'later');
	my @ids = publish($node, 'wanted', count => 10);
	wait_relay_value($node, state => 'endpoint down');
	wait_relay_value($node, last_error => qr/NOT_FOUND - no exchange 'later'/);
	is(event_value($node, $ids[0], 'state, attempts'), 'pending|0', 'no attempt');
	$broker->declare_queue('events', exchange => 'later');
	wait_state($node, $ids[-1], 'published');
	wait_settled($node);
	all_are_there(\@ids, 0);

	# the connection is there, the exchange goes under load
	@ids = publish($node, 'wanted', count => 3000);
	$broker->client([ exchange_delete => { exchange => 'later' } ]);
	push @ids, publish($node, 'wanted', count => 10);
	wait_relay_value($node, state => 'endpoint down');
	wait_relay_value($node, last_error => qr/NOT_FOUND - no exchange 'later'/);
	$broker->declare_queue('events', exchange => 'later');
	wait_settled($node);
	all_are_there(\@ids, 1000);
};

promise 'the right to write to the exchange is enough' => sub {
	$broker->ctl('add_user', 'writer', 'secret');
	$broker->ctl('set_permissions', 'writer', '^$', '^shop$', '^$');
	write_secret($broker->dir . '/writer', 'secret');
	reload(
		$node,
		'outbox_rabbitmq.user' => 'writer',
		'outbox_rabbitmq.password_file' => $broker->dir . '/writer');
	restart_relay($node);
	my $id = publish($node, 'wanted');
	wait_state($node, $id, 'published');
	is_deeply([ $broker->take_ids('events') ], [$id], 'it arrives');
};

promise 'a routing key without a right to it is down, and no other one' => sub {
	my $user = $broker->user;
	$broker->ctl('set_topic_permissions', $user, 'shop', '^wanted', '.*');
	my $forbidden = publish($node, 'forbidden');
	my @ids = publish($node, 'wanted', count => 100);
	wait_state($node, $ids[-1], 'published');
	poll_until(
		sub {
			query($node, q{SELECT state FROM outbox_topics WHERE topic = 'forbidden'}) eq 'down';
		},
		'the topic to be down');
	is( query($node, q{SELECT last_status FROM outbox_topics WHERE topic = 'forbidden'}),
		403, 'with the status of RabbitMQ');
	push @ids, publish($node, 'wanted', count => 100);
	wait_state($node, $ids[-1], 'published');
	$broker->declare_queue('forbidden', exchange => 'shop', key => 'forbidden');
	$broker->ctl('clear_topic_permissions', $user);
	wait_state($node, $forbidden, 'published');
	wait_settled($node);
	is_deeply([ $broker->take_ids('forbidden') ], [$forbidden], 'afterwards it arrives');
	all_are_there(\@ids, 200);
};

promise 'while there is an alarm nothing is sent, and afterwards all arrives' => sub {
	reload($node, 'outbox.request_timeout' => '1s');
	wait_state($node, publish($node, 'wanted'), 'published');
	my $log = length $broker->log;
	$broker->ctl('set_disk_free_limit', '10000GB');
	my @ids = publish($node, 'wanted.alarm', count => 2000);
	wait_relay_value($node, state => 'endpoint down');
	wait_relay_value($node, last_error => qr/RabbitMQ takes no messages for now: low on disk/);

	# longer than a request may take, and longer than a cancelled one waits
	wait_relay_value($node, in_flight => 0);
	is(relay_value($node, 'state'), 'endpoint down', 'it stays so');
	is( query($node, q{SELECT max(attempts) FROM outbox_events WHERE topic = 'wanted.alarm'}),
		0, 'no attempt is used up');
	$broker->ctl('set_disk_free_limit', '1MB');
	wait_settled($node);
	unlike($broker->log($log), qr/accepting AMQP connection/,
		'the connection is still the one of before');
	all_are_there(\@ids, 1000);
	is(relay_value($node, 'state'), 'idle', 'and all is well again');
};

done_testing();
