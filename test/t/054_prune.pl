# Promise: what was published longer ago than outbox.published_expire_time is
# deleted, all of it, whenever its transaction committed; what is not settled,
# and what is dead, never is.

use strict;
use warnings FATAL => 'all';

use lib 'test/lib';
use OutboxTest qw(:DEFAULT !/^(check_value|dapr_error|event_value|fails_with|publish|publish_sql|query|restart_relay|stat_value|states|wait_states)$/);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $receiver = start_receiver(mode => 'dapr');
my $node = new_node(
	'prune',
	conf => {
		'outbox.dapr_endpoint' => $receiver->url,
		'outbox.poll_interval' => '100ms',
		'outbox.local_retry_times' => 0,
		'outbox.local_failed_retry_interval' => '50ms',
		'outbox.failed_retry_interval' => '50ms',
		'outbox.minimum_retry_interval' => '50ms',
		'outbox.cleaning_expire_interval' => '100ms',
		'outbox.delete_batch_count' => 100,
		'outbox.published_expire_time' => '1h',
	});
$node->safe_psql('postgres', 'CREATE EXTENSION outbox');

# Publish $n events to $topic in one transaction; their ids.
sub publish
{
	my ($topic, $n, $more) = @_;
	$more = defined $more ? ", $more" : '';
	return split /\n/, $node->safe_psql(
		'postgres', qq{
		SELECT outbox_publish('$topic', '{}'$more) FROM generate_series(1, $n)});
}

sub value
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

# How many events there are of each topic
sub kept
{
	return {
		map { split /\|/ } split /\n/,
		value('SELECT topic, count(*) FROM outbox_events GROUP BY 1')
	};
}

$receiver->faults(
	[   { match => { topic => 'again' }, component_error => 'x', times => 1 },
		{ match => { topic => 'failed' }, component_error => 'x' },
		{ match => { topic => 'dead' }, status => 413 }
	]);

# An old transaction, which commits after everything else
my $late = $node->background_psql('postgres');
$late->query_safe(
	q{BEGIN; SELECT count(outbox_publish('late', '{}')) FROM generate_series(1, 150)}
);
my @published = (publish('published', 1000), publish('again', 1));
my ($dead) = publish('dead', 1);
wait_delivered($receiver, \@published);
wait_state($node, $dead, 'dead');
reload($node, 'outbox.failed_retry_interval' => '1h');
my ($failed) = publish('failed', 1, q{'k'});
wait_state($node, $failed, 'failed');
my ($blocked) = publish('blocked', 1, q{'k'});
wait_state($node, $blocked, 'blocked');
publish('scheduled', 1, q{deliver_after => now() + interval '1 hour'});
my ($discarded) =
  publish('discarded', 1, q{deliver_after => now() + interval '1 hour'});
value("SELECT outbox_discard('$discarded')");
$late->query_safe('COMMIT');
$late->quit;
wait_delivered($receiver, 1000 + 1 + 150);
poll_until(
	sub {
		value(q{SELECT count(*) FROM outbox_events WHERE state = 'published'})
		  == 1151;
	},
	'everything to be published');

is( value(
		q{SELECT count(*) FROM outbox_events WHERE state = 'published'
		  AND published_at BETWEEN created_at AND clock_timestamp()}),
	1151,
	'published_at tells when');
is(value('SELECT pruned FROM outbox_stats'), 0, 'nothing is pruned yet');

reload($node, 'outbox.published_expire_time' => '1s');
poll_until(sub { kept()->{published} || kept()->{late} ? 0 : 1 },
	'the published events to go');
poll_until(sub { !kept()->{again} && !kept()->{discarded} },
	'those that took more than one try, and the discarded one, to go');
is_deeply(
	kept(),
	{ dead => 1, failed => 1, blocked => 1, scheduled => 1 },
	'what is not settled stays, and so does what is dead');
is( value(
		q{SELECT count(*) FROM outbox_delivery d
		  WHERE NOT EXISTS (SELECT 1 FROM outbox_event e WHERE e.id = d.id)}),
	0,
	'no row is left of those that went');
poll_until(sub { value('SELECT pruned FROM outbox_stats') == 1152 },
	'outbox_stats to count them');

# Nothing is ever deleted before it is old enough.
reload($node, 'outbox.published_expire_time' => '1h');
my @young = publish('young', 50);
wait_delivered($receiver, 1151 + 50);
wait_state($node, $young[-1], 'published');
my $offset = -s $node->logfile;
reload($node, 'outbox.published_expire_time' => '2s');
my $youngest = value(
	q{SELECT extract(epoch FROM max(published_at)) FROM outbox_events
	  WHERE topic = 'young'});
poll_until(sub { !kept()->{young} }, 'the young ones to age and go');
cmp_ok(value('SELECT extract(epoch FROM clock_timestamp())') - $youngest,
	'>=', 2, 'not before their time');

# One row a checkpoint would be many: the log of positions is thinned to one a
# second, long before its rows expire.
reload($node, 'outbox.published_expire_time' => '1h');
foreach my $n (1 .. 50)
{
	my ($id) = publish('progress', 1);
	wait_state($node, $id, 'published');
}
poll_until(
	sub {
		value(q{SELECT count(*) <= count(DISTINCT date_trunc('second', at)) + 1
				FROM outbox_progress}) eq 't';
	},
	'outbox_progress to be thinned');
cmp_ok(value('SELECT count(*) FROM outbox_progress'),
	'>=', 1, 'there is always a newest position');

# As many come as go: the table does not grow.
reload(
	$node,
	'outbox.published_expire_time' => '0',
	'outbox.delete_batch_count' => 1000);
my $n = 0;
poll_until(
	sub {
		publish('rate', 200);
		$n += 200;
		return $n >= 4000
		  && value('SELECT count(*) FROM outbox_event') < $n / 2;
	},
	'the table to be smaller than half of what was published',
	60);
poll_until(sub { !kept()->{rate} }, 'the last of them to go');
is_deeply(
	kept(),
	{ dead => 1, failed => 1, blocked => 1, scheduled => 1 },
	'the rest is still there');

# A relay that has an hour to wait follows a reload.
reload($node, 'outbox.cleaning_expire_interval' => '1h');
my $old = relay_pid($node, 'postgres');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($old)");
wait_relay($node, not => $old);
my ($patient) = publish('rate', 1);
wait_state($node, $patient, 'published');
reload($node, 'outbox.cleaning_expire_interval' => '100ms');
poll_until(sub { !kept()->{rate} },
	'a shorter interval to be followed at once');
unlike(slurp_file($node->logfile, $offset), qr/ERROR/, 'the log has no error');

$node->stop;
done_testing();
