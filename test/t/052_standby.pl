# Promise: a standby sends nothing and takes no events.  When it is promoted,
# its relay starts at once and delivers what the primary left, without loss and
# without repeating what the primary had delivered.  A logical subscriber does
# not send its publisher's events, and its own relay is not led astray; but what
# its own triggers publish.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use lib 'test/lib';
use OutboxTest;

my $receiver = start_receiver(mode => 'dapr');
my %conf = ('outbox.dapr_endpoint' => $receiver->url);

# Each of these events was delivered once, and no other.
sub delivered_once
{
	my ($ids, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my %count;
	$count{ $_->{id} }++ foreach $receiver->accepted(fields => ['id']);
	is_deeply(\%count, { map { $_ => 1 } @$ids }, $name);
	return;
}

promise 'a standby sends nothing until it is promoted' => sub {
	my $primary = new_node(
		'primary',
		conf => \%conf,
		init => { allows_streaming => 1 });
	$primary->backup('backup');
	my $standby = PostgreSQL::Test::Cluster->new('standby');
	$standby->init_from_backup($primary, 'backup', has_streaming => 1);
	$standby->start;

	query($primary, 'CREATE EXTENSION outbox');
	my @sent = publish($primary, 'sent', count => 50);
	wait_delivered($receiver, \@sent);
	$receiver->faults([ { action => 'hang' } ]);
	my @left = publish($primary, 'left', count => 50);
	poll_until(sub { $receiver->stats->{concurrent} == 50 },
		'the requests of the primary');
	$primary->wait_for_catchup($standby);

	is( query($standby, q{
			SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'outbox%'}),
		0,
		'the standby runs neither launcher nor relay');
	is(states($standby, 'sent'), 'published*50', 'it shows the events');
	is( query($standby, q{
			SELECT topic, state IS NULL, pending, in_flight IS NULL FROM outbox_topics}),
		'left|t|50|t',
		'and their topics, but not how those are');
	fails_with($standby, publish_sql('standby'), '25006', 'it takes none');
	my ($status, undef, $stderr) = $standby->psql('postgres',
		'SELECT * FROM outbox_check()');
	is($stderr, '', 'outbox_check() works');
	like(check_value($standby, 'relay alive', 'ok, detail'),
		qr/^\|a standby has no relay/, 'and says that a standby has no relay');
	is(check_value($standby, 'topics open', 'ok IS NULL, detail'),
		't|not known: no relay is running', 'it knows nothing of topics');

	$primary->stop('immediate');
	$receiver->faults([]);
	my $start = time();
	$standby->promote;
	my @new = publish($standby, 'new', count => 10);
	wait_delivered($receiver, [ @left, @new ]);
	cmp_ok(time() - $start, '<=', 5, 'the new primary delivers at once');
	is(check_value($standby, 'relay alive', 'ok'),
		't', 'outbox_check() knows its relay');
	delivered_once([ @sent, @left, @new ],
		'each event once, those of the old primary as well');
	$standby->stop;
};

# Have $target subscribe to what $source publishes for all of its tables.
sub subscribe
{
	my ($source, $target, $options) = @_;
	(my $connection = $source->connstr('postgres')) =~ s/'/''/g;
	query($source, 'CREATE PUBLICATION p FOR ALL TABLES');
	query($target,
		"CREATE SUBSCRIPTION s CONNECTION '$connection'"
		  . " PUBLICATION p WITH ($options)");
	return;
}

promise 'a logical subscriber does not send the events of its source' => sub {
	my $source = new_node(
		'source',
		conf => \%conf,
		init => { allows_streaming => 'logical' });
	my $target = new_node('target', conf => \%conf);
	foreach my $node ($source, $target)
	{
		query($node, 'CREATE TABLE orders (id int); CREATE EXTENSION outbox');
	}
	my @ids = publish($target, 'target', count => 5);
	wait_delivered($receiver, \@ids);
	subscribe($source, $target, 'copy_data = off');

	push @ids, publish($source, 'source', count => 50);
	wait_delivered($receiver, \@ids);
	query($source, 'INSERT INTO orders VALUES (1)');
	poll_until(
		sub { query($target, 'SELECT id FROM orders') eq '1' },
		'an order, so that the subscription works');
	is( query($target,
			q{SELECT count(*) FROM outbox_event WHERE topic = 'source'}),
		0,
		'the events of the source stay there');

	push @ids, publish($target, 'target', count => 5);
	restart_relay($target);
	push @ids, publish($target, 'target', count => 5);
	wait_delivered($receiver, \@ids);
	delivered_once(\@ids,
		'each node sends its own events, once, also after a restart');
	is( query($target, q{
			SELECT count(*) FROM outbox_events WHERE state <> 'published'}),
		0,
		'and knows that they are published');
	$target->stop;
	$source->stop;
};

promise 'what a subscriber publishes for rows that are applied is sent there' => sub {
	my $source = new_node(
		'origin',
		conf => \%conf,
		init => { allows_streaming => 'logical' });
	my $target = new_node('applying', conf => \%conf);
	query($source, 'CREATE TABLE orders (id int)');
	query($_, 'CREATE EXTENSION outbox') foreach $source, $target;

	# by a trigger that calls the function, one that inserts, and a default
	query($target, q{
		CREATE TABLE orders (id int, event uuid DEFAULT outbox_publish('default', '0'));
		CREATE FUNCTION publish_order() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			PERFORM public.outbox_publish('called', to_jsonb(NEW.id));
			INSERT INTO public.outbox_event (topic, payload)
			VALUES ('inserted', to_jsonb(NEW.id));
			RETURN NULL;
		END $$;
		CREATE TRIGGER publish_order AFTER INSERT ON orders
			FOR EACH ROW EXECUTE FUNCTION publish_order();
		ALTER TABLE orders ENABLE ALWAYS TRIGGER publish_order});
	disable($source);
	query($source, 'INSERT INTO orders VALUES (1)');
	subscribe($source, $target, 'copy_data = on');
	query($source, q{
		INSERT INTO orders VALUES (2);
		SELECT outbox_publish('source', '3')});
	query($source, 'INSERT INTO orders VALUES (4)');

	my $sent = sub {
		return join ' ', sort map { "$_->{topic} " . cloud_event($_)->{data} }
		  $receiver->accepted(fields => [ 'topic', 'body' ]);
	};
	my $all = 'called 1 called 2 called 4 default 0 default 0 default 0'
	  . ' inserted 1 inserted 2 inserted 4';
	poll_until(sub { length($sent->()) >= length($all) },
		'what the subscriber publishes');
	is($sent->(), $all, 'each of its events, once, and none of the source');
	is(query($target, 'SELECT id FROM orders ORDER BY id'), "1\n2\n4",
		'while replication goes on');
	$target->stop;
	$source->stop;
};

done_testing();
