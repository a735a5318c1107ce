# What docs/dapr.md says that Dapr's components must be set to, tried.
#
# Promises:
# - RabbitMQ: with publisherConfirm and deliveryMode 2, exchange and queue declared
#   beforehand, a broker that is killed under load costs no event but those for which
#   the component took a confirmation that never came for one: one a kill.
# - RabbitMQ: an exchange that was declared beforehand, durable as that of the
#   component, makes each publish fail unless deletedWhenUnused is "false"; until
#   then the events wait.
# - RabbitMQ: an event without a queue is published, and nowhere.
# - Kafka: the key of an event is that of its record, so that a key has a partition
#   and its events are there in order.

use strict;
use warnings FATAL => 'all';

use JSON::PP ();
use List::Util qw(uniq);
use MIME::Base64 qw(decode_base64);
use Test::More;

use lib 'test/lib';
use OutboxTest;
use Real::Dapr;
use Real::Kafka;
use Real::RabbitMQ;

use constant {
	EVENTS => 2000,
	KEYS => 20,
	TIMEOUT => 180,
};

my $missing = Real::Dapr->missing;
plan skip_all => $missing if $missing;

my $json = JSON::PP->new->utf8;
my $node = new_node('components', conf => { 'outbox.request_timeout' => '5s' });
query($node, 'CREATE EXTENSION outbox');

sub use_sidecar
{
	my ($dapr) = @_;
	return reload($node, 'outbox.dapr_endpoint' => $dapr->endpoint);
}

sub wait_published
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return poll_until(sub { stat_value($node, 'backlog') eq '0' },
		'the backlog to be empty', TIMEOUT);
}

SKIP:
{
	my $reason = Real::RabbitMQ->missing;
	skip $reason, 1 if $reason;

	my $rabbit = Real::RabbitMQ->new;
	my $dapr = Real::Dapr->new(features => ['HotReload']);
	my %declared = (
		connectionString => $rabbit->url_with_password,
		exchangeKind => 'topic',
		durable => 'true',
		deletedWhenUnused => 'false',
		publisherConfirm => 'true',
		deliveryMode => '2',
		reconnectWaitSeconds => '1');
	my $is_set = '';
	# What does not change is not loaded again.
	my $set = sub {
		my ($metadata) = @_;
		my $offset = length $dapr->log;
		my $wanted = join(' ', map { "$_=$metadata->{$_}" } sort keys %$metadata);
		return if $wanted eq $is_set;
		$is_set = $wanted;
		$dapr->component('pubsub', 'pubsub.rabbitmq', $metadata);
		poll_until(sub { $dapr->log($offset) =~ /Component loaded: pubsub/ },
			'the component to be loaded', TIMEOUT);
		return;
	};

	promise 'RabbitMQ: with confirms and persistent messages a kill costs one event at most' => sub {
		$rabbit->declare_queue('confirmed', exchange => 'confirmed');
		$set->(\%declared);
		use_sidecar($dapr);
		my @ids = publish($node, 'confirmed', count => EVENTS);
		poll_until(
			sub { $rabbit->client([ count => { queue => 'confirmed' } ]) > EVENTS / 5 },
			'a part of the events to be there', TIMEOUT);
		$rabbit->kill->start;
		wait_published();
		is(states($node, 'confirmed'), 'published*' . EVENTS, 'all are published');

		my %count;
		$count{ $json->decode(decode_base64($_->{body}))->{id} }++
		  foreach @{ $rabbit->client([ take => { queue => 'confirmed' } ]) };
		my $lost = grep { !$count{$_} } @ids;
		my $unconfirmed = () = $dapr->log =~
		  /publishing to confirmed failed: did not receive confirmation of publishing/g;
		note("$lost lost, $unconfirmed said to be published without a confirmation");
		cmp_ok($lost, '<=', $unconfirmed, 'none is lost but for want of a confirmation');
		cmp_ok($unconfirmed, '<=', 1, 'of which there is one a kill');
	};

	promise 'RabbitMQ: an exchange that is there needs deletedWhenUnused "false"' => sub {
		$rabbit->declare_queue('declared', exchange => 'declared');
		$set->({ map { $_ => $declared{$_} } grep { $_ ne 'deletedWhenUnused' } keys %declared });
		use_sidecar($dapr);
		my $id = publish($node, 'declared');
		poll_until(
			sub { event_value($node, $id, 'last_error') =~ /ERR_PUBSUB_PUBLISH_MESSAGE/ },
			'the event to fail', TIMEOUT);
		like($dapr->log, qr/inequivalent arg 'auto_delete' for exchange 'declared'/,
			'the broker says why');
		isnt(event_value($node, $id, 'state'), 'dead', 'the event waits');

		$set->(\%declared);
		wait_state($node, $id, 'published', TIMEOUT);
		is($rabbit->client([ count => { queue => 'declared' } ]), 1, 'with it, it arrives');
	};

	promise 'RabbitMQ: an event without a queue is published, and nowhere' => sub {
		$set->(\%declared);
		use_sidecar($dapr);
		my $id = publish($node, 'nowhere');
		wait_state($node, $id, 'published', TIMEOUT);
		$rabbit->declare_queue('nowhere', exchange => 'nowhere');
		is($rabbit->client([ count => { queue => 'nowhere' } ]), 0, 'no queue has it');
	};
}

SKIP:
{
	my $reason = Real::Kafka->missing;
	skip $reason, 1 if $reason;

	promise 'Kafka: the key of an event is that of its record' => sub {
		my $kafka = Real::Kafka->new;
		$kafka->create_topic('keyed', partitions => 3);
		my $dapr = Real::Dapr->new(
			components => {
				pubsub => [
					'pubsub.kafka',
					{
						brokers => $kafka->bootstrap,
						authType => 'none',
						consumerGroup => 'relay'
					}
				]
			});
		use_sidecar($dapr);
		publish($node, 'keyed', count => EVENTS,
			more => sprintf(q{key => 'k' || n %% %d, metadata => '{"tenant": "a b"}'}, KEYS));
		wait_published();

		my @records = $kafka->records('keyed');
		is(scalar(@records), EVENTS, 'each event is a record');
		my (%partitions, %numbers);
		foreach my $record (@records)
		{
			my $event = $json->decode($record->{value});
			die "$record->{key} is not $event->{partitionkey}"
			  if $record->{key} ne $event->{partitionkey};
			push @{ $partitions{ $record->{key} } }, $record->{partition};
			push @{ $numbers{ $record->{key} } }, $event->{data};
		}
		is(scalar(keys %numbers), KEYS, 'the keys are there');
		is(scalar(grep { uniq(@$_) > 1 } values %partitions), 0, 'each in one partition');
		is(scalar(grep { "@$_" ne join(' ', sort { $a <=> $b } @$_) } values %numbers),
			0, 'in order');
		is($records[0]{headers}{tenant}, 'a b', 'metadata are headers');
	};
}

done_testing();
