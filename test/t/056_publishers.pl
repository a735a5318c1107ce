# Promise: a publisher is a library of forty lines, and one that is broken harms
# nobody: the relay lives on, the reason is shown, events are not lost, and
# another publisher takes over on reload.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;

my $receiver = start_receiver(mode => 'dapr');
my $file = PostgreSQL::Test::Utils::tempdir() . '/messages';
append_to_file($file, '');
my $node = new_node(
	'publishers',
	conf => {
		'outbox.dapr_endpoint' => $receiver->url,
		'outbox.request_timeout' => '100ms',
		'outbox.failed_retry_interval' => '50ms',
		'outbox.breaker_probe_interval' => '50ms',
		'outbox_test.file' => $file,
	});
query($node, 'CREATE EXTENSION outbox');

# Have the test's publisher send, which behaves as "mode" says.
sub use_publisher
{
	my ($mode, %more) = @_;
	return reload(
		$node,
		'outbox.publisher' => 'outbox_test_publisher',
		'outbox_test.mode' => $mode,
		%more);
}

# Publish an event with a key of its topic's; its id.
sub publish_one
{
	my ($topic) = @_;
	return scalar publish($node, $topic,
		key => "k.$topic",
		payload => q{'{"n": 1}'});
}

# What the good publisher has written: [id, topic, key, payload, attempt] each
sub written
{
	my ($id) = @_;
	my @messages = map { [ split /\|/ ] } split /\n/, slurp_file($file);
	return grep { $_->[0] eq $id } @messages;
}

# The relay of before still runs; back to dapr, by which all of these arrive,
# and what is published now.
sub recovers
{
	my ($relay, @ids) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is(relay_pid($node), $relay, 'the relay is the same');
	reload(
		$node,
		'outbox.publisher' => 'dapr',
		'outbox_test.mode' => undef);
	wait_delivered($receiver, \@ids);
	poll_until(
		sub {
			my $id = publish_one('recovered');
			wait_state($node, $id, 'published');
			return scalar $receiver->accepted(id => $id);
		},
		'an event by way of dapr');
	return;
}

promise 'a good publisher has its messages' => sub {
	my $relay = wait_relay($node);
	use_publisher('good');
	my $id = publish_one('good');
	wait_state($node, $id, 'published');
	is_deeply([ written($id) ], [ [ $id, 'good', 'k.good', '{"n": 1}', 1 ] ],
		'has written the message');
	recovers($relay);
};

# It answers while the messages are handed to it: nothing is in flight then, and
# no socket and no commit wakes the relay.
promise 'quick answers do not make the relay wait for its next poll' => sub {
	my $relay = wait_relay($node);
	use_publisher('good',
		'outbox.max_in_flight' => 4,
		'outbox.poll_interval' => '1h');
	publish($node, 'quick', count => 500);
	poll_until(sub { states($node, 'quick') eq 'published*500' },
		'all of them to be published');
	recovers($relay);
};

# --- Publishers that cannot even start

# What outbox_check() says of a publisher, and what becomes of an event
sub not_configured
{
	my ($reason, %settings) = @_;
	my $relay = wait_relay($node);
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	reload($node, %settings);
	poll_until(
		sub {
			check_value($node, 'publisher configured', 'ok, detail') =~
			  /^f\|.*$reason/;
		},
		"outbox_check() to say $reason");
	like(relay_value($node, 'last_error'), $reason,
		'outbox_relays says so, too');
	my $id = publish_one('unconfigured');
	recovers($relay, $id);
	cmp_ok(event_value($node, $id, 'attempts'), '<=', 1,
		'no attempt was counted meanwhile');
	return;
}

my %broken = (
	wrong_magic => qr/built for another version of outbox/,
	no_submit => qr/lacks a required callback/,
	no_ready => qr/lacks a required callback/,
	no_table => qr/built for another version of outbox/,
	throw_in_startup => qr/thrown in startup/,
	throw_in_check => qr/thrown in check/,
	not_configured => qr/outbox_test\.mode says so in two lines/);

foreach my $mode (sort keys %broken)
{
	promise "a publisher that cannot start harms nobody: mode $mode" => sub {
		not_configured(
			$broken{$mode},
			'outbox.publisher' => 'outbox_test_publisher',
			'outbox_test.mode' => $mode);
	};
}

promise 'a library that is no publisher, or not there, harms nobody' => sub {
	not_configured(
		qr/library "outbox_test_no_publisher" is not an outbox publisher/,
		'outbox.publisher' => 'outbox_test_no_publisher');
	not_configured(qr/could not access file "outbox_nowhere"/,
		'outbox.publisher' => 'outbox_nowhere');
};

# --- Publishers that fail at an event of topic "bad"

foreach my $mode ('throw_in_submit', 'throw_in_sockets', 'throw_in_ready',
	'silent')
{
	promise "a publisher that fails at an event harms no other: mode $mode" => sub {
		my $relay = wait_relay($node);
		use_publisher($mode);
		my $bad = publish_one('bad');
		my @good = map { publish_one('other') } 1 .. 3;
		wait_state($node, \@good, 'published');
		my $reason =
		  $mode eq 'silent'
		  ? qr/the publisher did not answer in time/
		  : qr/thrown in/;
		wait_relay_value($node, last_error => $reason);
		is(scalar(written($_)), 1, 'the others are sent once') foreach @good;
		isnt(event_state($node, $bad), 'published',
			'the bad one is not published');
		query($node, 'SELECT outbox_retry_dead()');
		recovers($relay, $bad);
	};
}

foreach my $mode ('answer_twice', 'answer_unknown', 'throw_in_shutdown')
{
	promise "only the first answer counts: mode $mode" => sub {
		my $relay = wait_relay($node);
		use_publisher($mode);
		my $id = publish_one('odd');
		wait_state($node, $id, 'published');
		is(scalar(written($id)), 1, 'the first answer counts');
		recovers($relay);
	};
}

my %bad = (
	abort => 'aaaaaaaa-0000-4000-8000-000000000000',
	fatal => 'ffffffff-0000-4000-8000-000000000000');
foreach my $mode (sort keys %bad)
{
	promise "an event at which the publisher ends the relay is set aside: mode $mode"
	  => sub {
		use_publisher($mode);
		my $bad = $bad{$mode};
		# The server may crash before it has told psql of the commit.
		$node->psql('postgres',
			publish_sql('bad', key => 'k.bad', more => "event_id => '$bad'"));
		wait_state($node, $bad, 'dead', 90);
		is( event_value($node, $bad, 'last_error'),
			'the relay crashed 3 times with this event in flight',
			'with the reason');
		query($node, "SELECT outbox_discard('$bad')");
		wait_state($node, publish_one('other'), 'published');
		recovers(wait_relay($node));
	  };
}

$node->stop;
done_testing();
