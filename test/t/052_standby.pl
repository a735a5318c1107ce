# Promise: a standby sends nothing and takes no events.  When it is promoted,
# its relay starts at once and delivers what the primary left, without loss and
# without repeating what the primary had delivered.  A logical subscriber does
# not send its publisher's events, and its own relay is not led astray.

use strict;
use warnings FATAL => 'all';

use lib 'test/lib';
use OutboxTest qw(:DEFAULT !/^(check_value|dapr_error|event_value|fails_with|publish|publish_sql|query|restart_relay|stat_value|states|wait_states)$/);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $receiver = start_receiver(mode => 'dapr');
my %conf = (
	'outbox.dapr_endpoint' => $receiver->url,
	'outbox.poll_interval' => '100ms',
	'outbox.local_failed_retry_interval' => '100ms',
	'outbox.minimum_retry_interval' => '100ms',
	'outbox.breaker_probe_interval' => '100ms');

# Publish $n events to $topic in one transaction; their ids.
sub publish
{
	my ($node, $topic, $n) = @_;
	return split /\n/, $node->safe_psql(
		'postgres', qq{
		SELECT outbox_publish('$topic', '{}') FROM generate_series(1, $n)});
}

subtest 'a standby, and its promotion' => sub {
	my $primary = new_node(
		'primary',
		conf => \%conf,
		init => { allows_streaming => 1 });
	$primary->backup('backup');
	my $standby = PostgreSQL::Test::Cluster->new('standby');
	$standby->init_from_backup($primary, 'backup', has_streaming => 1);
	$standby->start;

	$primary->safe_psql('postgres', 'CREATE EXTENSION outbox');
	my @sent = publish($primary, 'sent', 50);
	wait_delivered($receiver, \@sent);
	$receiver->faults([ { action => 'hang' } ]);
	my @left = publish($primary, 'left', 50);
	poll_until(sub { $receiver->stats->{concurrent} == 50 },
		'the requests of the primary');
	$primary->wait_for_catchup($standby);

	is( $standby->safe_psql(
			'postgres', q{
			SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'outbox%'}
		),
		0,
		'the standby runs neither launcher nor relay');
	is( $standby->safe_psql(
			'postgres', q{
			SELECT state, count(*) FROM outbox_events WHERE topic = 'sent' GROUP BY 1}
		),
		'published|50',
		'it shows the events');
	my ($status, undef, $stderr) = $standby->psql(
		'postgres',
		"\\set VERBOSITY sqlstate\nSELECT outbox_publish('standby', '{}')");
	like($stderr, qr/ERROR:  25006/, 'it takes none');
	($status, undef, $stderr) = $standby->psql('postgres',
		'SELECT * FROM outbox_check()');
	is($stderr, '', 'outbox_check() works');

	$primary->stop('immediate');
	$receiver->faults([]);
	my $start = time();
	$standby->promote;
	my @new = publish($standby, 'new', 10);
	wait_delivered($receiver, [ @left, @new ]);
	cmp_ok(time() - $start, '<=', 5, 'the new primary delivers at once');
	my %count;
	$count{ $_->{id} }++ foreach $receiver->accepted(fields => ['id']);
	is_deeply(
		\%count,
		{ map { $_ => 1 } @sent, @left, @new },
		'each event once, those of the old primary as well');
	$standby->stop;
	$receiver->reset;
};

subtest 'logical replication of all tables' => sub {
	my $source = new_node(
		'source',
		conf => \%conf,
		init => { allows_streaming => 'logical' });
	my $target = new_node('target', conf => \%conf);
	foreach my $node ($source, $target)
	{
		$node->safe_psql('postgres',
			'CREATE TABLE orders (id int); CREATE EXTENSION outbox');
	}
	my @ids = publish($target, 'target', 5);
	wait_delivered($receiver, \@ids);
	$source->safe_psql('postgres', 'CREATE PUBLICATION p FOR ALL TABLES');
	(my $connection = $source->connstr('postgres')) =~ s/'/''/g;
	$target->safe_psql('postgres',
		"CREATE SUBSCRIPTION s CONNECTION '$connection' PUBLICATION p WITH (copy_data = off)"
	);

	push @ids, publish($source, 'source', 50);
	wait_delivered($receiver, \@ids);
	$source->safe_psql('postgres', 'INSERT INTO orders VALUES (1)');
	poll_until(
		sub { $target->safe_psql('postgres', 'SELECT id FROM orders') eq '1' },
		'an order, so that the subscription works');
	is( $target->safe_psql('postgres',
			q{SELECT count(*) FROM outbox_event WHERE topic = 'source'}),
		0,
		'the events of the source stay there');

	push @ids, publish($target, 'target', 5);
	my $pid = wait_relay($target);
	$target->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
	push @ids, publish($target, 'target', 5);
	wait_delivered($receiver, \@ids);
	my %count;
	$count{ $_->{id} }++ foreach $receiver->accepted(fields => ['id']);
	is_deeply(
		\%count,
		{ map { $_ => 1 } @ids },
		'each node sends its own events, once, also after a restart');
	is( $target->safe_psql(
			'postgres', q{
			SELECT count(*) FROM outbox_events WHERE state <> 'published'}),
		0,
		'and knows that they are published');
	$target->stop;
	$source->stop;
};

done_testing();
