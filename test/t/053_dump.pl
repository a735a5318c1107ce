# Promise: a dump carries what is not settled, and the dead events.  In the
# cluster that it is restored to, the relay goes on where the other one stood,
# and what was published already is not sent again.

use strict;
use warnings FATAL => 'all';

use lib 'test/lib';
use OutboxTest qw(:DEFAULT !/^(check_value|dapr_error|event_value|fails_with|publish|publish_sql|query|restart_relay|stat_value|states|wait_states)$/);
use PostgreSQL::Test::Utils;
use Test::More;

my $receiver = start_receiver(mode => 'dapr');
my %conf = (
	'outbox.poll_interval' => '100ms',
	'outbox.local_retry_times' => 0,
	'outbox.local_failed_retry_interval' => '100ms',
	'outbox.failed_retry_interval' => '100ms',
	'outbox.minimum_retry_interval' => '100ms',
	'outbox.breaker_probe_interval' => '100ms');
my $old = new_node('old',
	conf => { %conf, 'outbox.dapr_endpoint' => $receiver->url });
$old->safe_psql('postgres', 'CREATE EXTENSION outbox');

my $more = q{metadata => '{"a": "b"}', type => 'made'};

# Publish an event to $topic; its id.
sub publish
{
	my ($topic, $more) = @_;
	$more = $more ? ", $more" : '';
	return $old->safe_psql('postgres',
		qq{SELECT outbox_publish('$topic', '{"n": 1.10}'$more)});
}

# All events but those published, as the view shows them.  A try that no relay
# remembers any more (in_progress) has failed.
sub unsettled
{
	my ($node) = @_;
	return $node->safe_psql(
		'postgres', q{
		SELECT topic, event_id, key, replace(state, 'in_progress', 'failed'),
			   attempts, last_status, last_error
		FROM outbox_events WHERE state <> 'published' ORDER BY topic, event_id});
}

# --- One event in every state

$receiver->faults(
	[   { match => { topic => 'again' }, component_error => 'x', times => 1 },
		{ match => { topic => 'e.failed' }, component_error => 'broken' },
		{ match => { topic => 'a.dead' }, status => 413 },
		{ match => { topic => 'h.hanging' }, action => 'hang' }
	]);
my @published = map { publish('published') } 1 .. 3;
push @published, publish('again');
wait_state($old, $_, 'published') foreach @published;

reload($old, 'outbox.failed_retry_interval' => '1h');
my %id;
$id{failed} = publish('e.failed', q{key => 'k'});
wait_state($old, $id{failed}, 'failed');
$id{blocked} = publish('b.blocked', q{key => 'k'});
wait_state($old, $id{blocked}, 'blocked');
$id{dead} = publish('a.dead', $more);
wait_state($old, $id{dead}, 'dead');
$id{scheduled} =
  publish('g.scheduled', q{deliver_after => now() + interval '1 hour'});
wait_state($old, $id{scheduled}, 'scheduled');
my $discarded =
  publish('discarded', q{deliver_after => now() + interval '1 hour'});
$old->safe_psql('postgres', "SELECT outbox_discard('$discarded')");
$id{hanging} = publish('h.hanging');
wait_state($old, $id{hanging}, 'in_progress');
disable($old);
$id{pending} = publish('i.pending', $more);
$id{bytes} = $old->safe_psql('postgres',
	q{SELECT outbox_publish_bytes('j.bytes', '\x00ff27', 'image/png')});
is( $old->safe_psql(
		'postgres',
		q{SELECT string_agg(state || ' ' || n, ', ' ORDER BY state)
		  FROM (SELECT state, count(*) n FROM outbox_events GROUP BY state) s}),
	'blocked 1, dead 1, discarded 1, failed 1, in_progress 1, pending 2,'
	  . ' published 4, scheduled 1',
	'an event in every state');

# --- Dump and restore

my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump';
my $before = unsettled($old);
my $highest =
  $old->safe_psql('postgres', 'SELECT max(id) FROM outbox_event');
$old->command_ok([ 'pg_dump', '-Fc', '-f', $dump, '-d', 'postgres' ],
	'pg_dump');
foreach my $option ('--schema-only', '--binary-upgrade')
{
	$old->command_ok(
		[ 'pg_dump', '-s', $option, '-f', "$dump.sql", '-d', 'postgres' ],
		"pg_dump $option");
}
$old->stop;
my %sent_before =
  map { $_->{id} => 1 } $receiver->accepted(fields => ['id']);
is_deeply([ sort keys %sent_before ], [ sort @published ],
	'the old relay has sent what it calls published');
$receiver->reset;

my $new = new_node('new',
	conf => {
		%conf,
		'outbox.dapr_endpoint' => $receiver->url,
		'outbox.enabled' => 'off'
	});
my @restore = ('pg_restore', '-e', '-d', 'postgres');
$new->command_ok([ @restore, '--section=pre-data', $dump ],
	'pg_restore of the definitions');
poll_until(
	sub {
		$new->safe_psql('postgres', 'SELECT state FROM outbox_relays') eq
		  'disabled';
	},
	'the new relay');
$new->command_ok([ @restore, '--section=data', $dump ],
	'pg_restore of the data, while a relay is there');
(my $expected = $before) =~ s/^.*\|discarded\|.*\n//m;
is(unsettled($new), $expected,
	'what is not settled arrives, and the dead one');
is( $new->safe_psql(
		'postgres',
		q{SELECT count(*) FROM outbox_events WHERE state = 'published'}),
	0,
	'what is published stays behind');

my $fresh = $new->safe_psql('postgres',
	q{SELECT outbox_publish('fresh', '{}')});
is( $new->safe_psql('postgres',
		"SELECT id FROM outbox_event WHERE event_id = '$fresh'"),
	$highest + 1,
	'ids go on');

# --- The new relay

reload($new, 'outbox.enabled' => 'on');
wait_delivered($receiver, [ @id{ 'pending', 'bytes' }, $fresh ]);
wait_delivered($receiver, [ $id{hanging} ]);
$new->safe_psql('postgres', "SELECT outbox_retry('$id{failed}')");
wait_delivered($receiver, [ @id{ 'failed', 'blocked' } ]);
poll_until(
	sub {
		unsettled($new) =~
		  /\A a\.dead \| \Q$id{dead}\E \| [^\n]* \n
		      g\.scheduled \| \Q$id{scheduled}\E \| [^\n]* \z/x;
	},
	'only the dead and the scheduled event to be left');

my %count;
$count{ $_->{id} }++ foreach $receiver->accepted;
is_deeply(
	\%count,
	{   map { $_ => 1 } $fresh,
		@id{ 'pending', 'bytes', 'hanging', 'failed', 'blocked' }
	},
	'each event is sent once, the others are not');
my ($sent) = $receiver->accepted(id => $id{pending});
is($sent->{type}, 'made', 'with its type');
is($sent->{metadata}{a}, 'b', 'with its metadata');
like($sent->{body}, qr/"data":\{"n":\s?1\.10\}/, 'with its payload');
$new->safe_psql('postgres', "SELECT outbox_retry('$id{dead}')");
wait_delivered($receiver, [ $id{dead} ]);

$new->stop;
done_testing();
