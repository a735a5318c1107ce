# Promise: a publisher is a library of forty lines, and one that is broken harms
# nobody: the relay lives on, the reason is shown, events are not lost, and
# another publisher takes over on reload.

use strict;
use warnings FATAL => 'all';

use lib 'test/lib';
use OutboxTest qw(:DEFAULT !/^(check_value|dapr_error|event_value|fails_with|publish|publish_sql|query|restart_relay|stat_value|states|wait_states)$/);
use PostgreSQL::Test::Utils;
use Test::More;

my $receiver = start_receiver(mode => 'dapr');
my $file = PostgreSQL::Test::Utils::tempdir() . '/messages';
append_to_file($file, '');
my $node = new_node(
	'publishers',
	conf => {
		'outbox.dapr_endpoint' => $receiver->url,
		'outbox.poll_interval' => '100ms',
		'outbox.request_timeout' => '100ms',
		'outbox.local_failed_retry_interval' => '50ms',
		'outbox.failed_retry_interval' => '50ms',
		'outbox.minimum_retry_interval' => '50ms',
		'outbox.breaker_probe_interval' => '50ms',
		'outbox_test.file' => $file,
	});
$node->safe_psql('postgres', 'CREATE EXTENSION outbox');
my $relay = wait_relay($node);

sub publish
{
	my ($topic) = @_;
	return $node->safe_psql('postgres',
		qq{SELECT outbox_publish('$topic', '{"n": 1}', 'k.$topic')});
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
	my (@ids) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is(relay_pid($node, 'postgres'), $relay, 'the relay is the same');
	reload(
		$node,
		'outbox.publisher' => 'dapr',
		'outbox_test.mode' => undef);
	wait_delivered($receiver, \@ids);
	poll_until(
		sub {
			my $id = publish('recovered');
			wait_state($node, $id, 'published');
			return scalar $receiver->accepted(id => $id);
		},
		'an event by way of dapr');
	return;
}

subtest 'a good publisher' => sub {
	reload($node, 'outbox.publisher' => 'outbox_test_publisher');
	my $id = publish('good');
	wait_state($node, $id, 'published');
	is_deeply([ written($id) ], [ [ $id, 'good', 'k.good', '{"n": 1}', 1 ] ],
		'has written the message');
	recovers();
};

# It answers while the messages are handed to it: nothing is in flight then, and
# no socket and no commit wakes the relay.
subtest 'quick answers do not make the relay wait for its next poll' => sub {
	reload(
		$node,
		'outbox.publisher' => 'outbox_test_publisher',
		'outbox.max_in_flight' => 4,
		'outbox.poll_interval' => '1h');
	$node->safe_psql('postgres',
		q{SELECT outbox_publish('quick', '{}') FROM generate_series(1, 500)});
	poll_until(
		sub {
			$node->safe_psql('postgres', q{
				SELECT count(*) FROM outbox_events
				WHERE topic = 'quick' AND state = 'published'}) == 500;
		},
		'all of them to be published');
	reload(
		$node,
		'outbox.max_in_flight' => undef,
		'outbox.poll_interval' => '100ms');
	recovers();
};

# Those that can't even start, and what outbox_check() says of them
my %broken = (
	wrong_magic => qr/built for another version of outbox/,
	no_submit => qr/lacks a required callback/,
	no_ready => qr/lacks a required callback/,
	no_table => qr/built for another version of outbox/,
	throw_in_startup => qr/thrown in startup/,
	throw_in_check => qr/thrown in check/,
	not_configured => qr/outbox_test\.mode says so in two lines/);

sub not_configured
{
	my ($reason, %settings) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	reload($node, %settings);
	poll_until(
		sub {
			$node->safe_psql(
				'postgres', q{
				SELECT ok, detail FROM outbox_check()
				WHERE "check" = 'publisher configured'}) =~ /^f\|.*$reason/;
		},
		"outbox_check() to say $reason");
	like(
		$node->safe_psql('postgres', 'SELECT last_error FROM outbox_relays'),
		$reason, 'outbox_relays says so, too');
	my $id = publish('unconfigured');
	recovers($id);
	is($node->safe_psql('postgres',
			qq{SELECT attempts FROM outbox_events WHERE event_id = '$id'})
		  <= 1 ? 1 : 0,
		1, 'no attempt was counted meanwhile');
	return;
}

foreach my $mode (sort keys %broken)
{
	subtest "mode $mode" => sub {
		not_configured(
			$broken{$mode},
			'outbox.publisher' => 'outbox_test_publisher',
			'outbox_test.mode' => $mode);
	};
}

subtest 'a library that is no publisher, and one that is not there' => sub {
	not_configured(
		qr/library "outbox_test_no_publisher" is not an outbox publisher/,
		'outbox.publisher' => 'outbox_test_no_publisher');
	not_configured(qr/could not access file "outbox_nowhere"/,
		'outbox.publisher' => 'outbox_nowhere');
};

# Those that fail at an event of topic "bad" only
foreach my $mode ('throw_in_submit', 'throw_in_sockets', 'throw_in_ready',
	'silent')
{
	subtest "mode $mode" => sub {
		reload(
			$node,
			'outbox.publisher' => 'outbox_test_publisher',
			'outbox_test.mode' => $mode);
		my $bad = publish('bad');
		my @good = map { publish('other') } 1 .. 3;
		wait_state($node, $_, 'published') foreach @good;
		my $reason =
		  $mode eq 'silent'
		  ? qr/the publisher did not answer in time/
		  : qr/thrown in/;
		poll_until(
			sub {
				$node->safe_psql('postgres',
					'SELECT last_error FROM outbox_relays') =~ $reason;
			},
			'the reason in outbox_relays');
		is(scalar(written($_)), 1, 'the others are sent once') foreach @good;
		isnt(event_state($node, $bad),
			'published', 'the bad one is not published');
		$node->safe_psql('postgres', 'SELECT outbox_retry_dead()');
		recovers($bad);
	};
}

foreach my $mode ('answer_twice', 'answer_unknown', 'throw_in_shutdown')
{
	subtest "mode $mode" => sub {
		reload(
			$node,
			'outbox.publisher' => 'outbox_test_publisher',
			'outbox_test.mode' => $mode);
		my $id = publish('odd');
		wait_state($node, $id, 'published');
		is(scalar(written($id)), 1, 'the first answer counts');
		recovers();
	};
}

my %bad = (
	abort => 'aaaaaaaa-0000-4000-8000-000000000000',
	fatal => 'ffffffff-0000-4000-8000-000000000000');
foreach my $mode (sort keys %bad)
{
	subtest "mode $mode" => sub {
		reload(
			$node,
			'outbox.publisher' => 'outbox_test_publisher',
			'outbox_test.mode' => $mode);
		my $bad = $bad{$mode};
		# The server may crash before it has told psql of the commit.
		$node->psql('postgres', qq{
			SELECT outbox_publish('bad', '{"n": 1}', 'k.bad', event_id => '$bad')});
		poll_until(
			sub { (event_state($node, $bad) // '') eq 'dead' },
			'the event to be set aside', 90);
		is( $node->safe_psql('postgres',
				"SELECT last_error FROM outbox_events WHERE event_id = '$bad'"),
			'the relay crashed 3 times with this event in flight',
			'with the reason');
		$node->safe_psql('postgres', "SELECT outbox_discard('$bad')");
		my $id = publish('other');
		wait_state($node, $id, 'published');
		$relay =
		  wait_relay($node);
		recovers();
	};
}

$node->stop;
done_testing();
