# Three destinations at different positions, one done, one whose receiver is down and
# one that is paused, on another server, and with one that is broken.
#
# Promises:
# - When a standby is promoted, each destination goes on where it was, and is still
#   paused if it was.  No event is lost; what is sent twice to a destination is what it
#   had sent after the last position that reached the standby.
# - Where a dump is restored, what one destination had not settled is sent to all that
#   take it, and nothing else is: to those that had settled it for the second time,
#   with the same id; what is dead stays so.  Names, numbers, topics, settings and
#   pauses are as before.
# - A restored setting that is not valid makes that destination not configured, and no
#   other one.
# - A destination whose publisher crashes, or cannot be loaded, loses nothing for the
#   others: what they have in flight does not count a crash; the event at which it
#   crashes is dead for this destination alone.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;
use OutboxTest::Destinations;

use constant {
	EVENTS => 50,    # that are published at a time
	KEYS => 7,
};

my %receiver = map { $_ => start_receiver(mode => 'http') } qw(default behind paused);
my %conf = (
	'outbox.publisher' => 'http',
	'outbox.http_url' => $receiver{default}->url . '/{topic}',
	'outbox.http_content_mode' => 'structured');

# Publish EVENTS events with keys; their ids.
sub publish_some
{
	my ($node, $topic) = @_;
	return publish($node, $topic, count => EVENTS, more => q{key => 'k' || n % } . KEYS);
}

# Have the three destinations at different positions: the ids of what all of them have
# settled, and of what "default" alone has.
sub leave_at_positions
{
	my ($node) = @_;
	query($node, 'CREATE EXTENSION outbox');
	foreach my $name ('behind', 'paused')
	{
		add_destination($node, $name, '{#,!none.#}',
			{ http_url => $receiver{$name}->url . '/{topic}', max_in_flight => '9' });
	}
	my @all = publish_some($node, 'all');
	wait_sent_to($node, 'default', 'behind', 'paused');
	query($node, q{SELECT outbox_pause('paused')});
	wait_relay_of_value($node, 'paused', state => 'paused');
	$receiver{behind}->state(listening => 0);
	my @one = publish_some($node, 'one');
	wait_sent_to($node, 'default');
	wait_relay_of_value($node, 'behind', state => 'endpoint down');
	return (all => \@all, one => \@one);
}

# Test that a destination was sent just these events: those of each group, which are of
# one topic, so many times, in the order of their keys.
sub was_sent
{
	my ($name, @groups) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my (%wanted, %key_of, %times, @ids);

	while (my ($ids, $n) = splice(@groups, 0, 2))
	{
		my $of_topic = keys %key_of;

		foreach my $i (0 .. $#$ids)
		{
			$wanted{ $ids->[$i] } = $n;
			$key_of{ $ids->[$i] } = "$of_topic " . $i % KEYS;
		}
		push @ids, @$ids;
	}
	$times{ $_->{id} }++ foreach $receiver{$name}->accepted(fields => ['id']);
	is_deeply(\%times, \%wanted, "what $name was sent, and how often");
	is(out_of_order($receiver{$name}, \%key_of, @ids), 0, '... in order by key');
	return;
}

# The receiver that was down is there again, and the paused destination goes on.
sub let_all_go_on
{
	my ($node) = @_;
	$receiver{behind}->state(listening => 1);
	query($node, q{SELECT outbox_resume('paused')});
	return;
}

promise 'after a failover each destination goes on where it was' => sub {
	my $primary = new_node('primary', conf => \%conf, init => { allows_streaming => 1 });
	$primary->backup('backup');
	my $standby = PostgreSQL::Test::Cluster->new('standby');
	$standby->init_from_backup($primary, 'backup', has_streaming => 1);
	$standby->start;
	my %left = leave_at_positions($primary);

	# the standby gets these, but no position behind them
	$receiver{default}->faults([ { match => { path => '/unnoted' }, action => 'hang', on_release => 'answer' } ]);
	my @unnoted = publish($primary, 'unnoted', count => KEYS, more => q{key => 'k' || n % } . KEYS);
	poll_until(sub { $receiver{default}->stats->{concurrent} == KEYS }, 'them to be in flight');
	$primary->wait_for_catchup($standby);
	$standby->append_conf('postgresql.conf', q{primary_conninfo = ''});
	$standby->reload;
	poll_until(sub { query($standby, 'SELECT count(*) FROM pg_stat_wal_receiver') eq '0' },
		'the standby to be alone');
	$receiver{default}->faults([]);
	wait_sent_to($primary, 'default');

	$primary->stop('immediate');
	$standby->promote;
	my @new = publish_some($standby, 'new');
	wait_sent_to($standby, 'default');
	was_sent('default', $left{all} => 1, $left{one} => 1, \@unnoted => 2, \@new => 1);
	wait_relay_of_value($standby, 'behind', state => 'endpoint down');
	wait_relay_of_value($standby, 'paused', state => 'paused');
	was_sent($_, $left{all} => 1) foreach 'behind', 'paused';

	let_all_go_on($standby);
	wait_sent_to($standby, 'behind', 'paused');
	was_sent($_, $left{all} => 1, $left{one} => 1, \@unnoted => 1, \@new => 1)
	  foreach 'behind', 'paused';
	is(query($standby, q{SELECT count(*) FROM outbox_events WHERE state <> 'published'}), '0',
		'and all is published for all');
	$standby->stop;
};

# What is dumped of destinations
my $definitions = q{SELECT d.id, d.name, f.topics, d.settings, d.paused
	FROM outbox_destination d JOIN outbox_filter f ON f.destination = d.id ORDER BY 1};

promise 'where a dump is restored, the others get again what one had not settled' => sub {
	my $old = new_node('old', conf => \%conf);
	my %left = leave_at_positions($old);
	$receiver{behind}->state(listening => 1);
	wait_sent_to($old, 'behind');
	$receiver{behind}->faults([ { match => { path => '/dead|/given.up' }, status => 422 } ]);
	query($old, q{SELECT outbox_resume('paused')});
	wait_sent_to($old, 'paused');
	my ($dead) = publish($old, 'dead');
	my ($given_up) = publish($old, 'given.up');
	wait_states_of($old, $_, 'behind dead, default published, paused published') foreach $dead, $given_up;
	query($old, "SELECT outbox_discard('$given_up')");
	wait_states_of($old, $given_up, 'behind discarded, default published, paused published');
	query($old, q{SELECT outbox_pause('paused')});
	wait_relay_of_value($old, 'paused', state => 'paused');
	$receiver{behind}->faults([]);
	$receiver{behind}->state(listening => 0);
	my @none = publish($old, 'none.a', count => 2);
	my @half = publish_some($old, 'half');
	wait_sent_to($old, 'default');
	wait_relay_of_value($old, 'behind', state => 'endpoint down');

	my $before = query($old, $definitions);
	my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump';
	$old->command_ok([ 'pg_dump', '-f', $dump, $old->connstr('postgres') ], 'pg_dump');
	$old->stop;
	my $new = new_node('restored', conf => \%conf);
	$new->command_ok([ 'psql', '-qX', '-v', 'ON_ERROR_STOP=1', '-f', $dump, $new->connstr('postgres') ],
		'restore');
	is(query($new, $definitions), $before, 'numbers, names, topics, settings and pauses are dumped');
	wait_sent_to($new, 'default');
	wait_relay_of_value($new, 'behind', state => 'endpoint down');
	wait_relay_of_value($new, 'paused', state => 'paused');
	my @settled = map { $left{$_} => 1 } qw(all one);
	was_sent('default', @settled, \@none => 1, [$given_up] => 1, [$dead] => 2, \@half => 2);

	let_all_go_on($new);
	wait_sent_to($new, 'behind', 'paused');
	was_sent('behind', @settled, \@half => 1);
	was_sent('paused', @settled, [$given_up] => 1, [$dead] => 2, \@half => 1);
	wait_states_of($new, $dead, 'behind dead, default published, paused published', 'what is dead stays so');
	is(query($new, $definitions) =~ s/\|t$/|f/mr, $before =~ s/\|t$/|f/mr, 'all is as before but the pause');
	my ($next) = publish($new, 'next');
	wait_states_of($new, $next, 'behind published, default published, paused published');
	add_destination($new, 'fourth', '{fourth}', {});
	is(query($new, q{SELECT count(DISTINCT id) FROM outbox_destination}), '3', 'a new one has a number of its own');
	$new->stop;
};

promise 'a restored setting that is not valid concerns its destination alone' => sub {
	my $old = new_node('good', conf => \%conf);
	my %left = leave_at_positions($old);
	my $dump = PostgreSQL::Test::Utils::tempdir() . '/bad_dump';
	$old->command_ok([ 'pg_dump', '-f', $dump, $old->connstr('postgres') ], 'pg_dump');
	$old->stop;
	my $text = slurp_file($dump);
	is($text =~ s/(\tbehind\t.*"max_in_flight": )"9"/$1"no"/, 1, 'a setting that is not valid any more');
	unlink $dump;
	append_to_file($dump, $text);

	my $new = new_node('bad', conf => \%conf);
	$receiver{behind}->state(listening => 1);
	$new->command_ok([ 'psql', '-qX', '-v', 'ON_ERROR_STOP=1', '-f', $dump, $new->connstr('postgres') ],
		'restore');
	query($new, q{SELECT outbox_resume('paused')});
	wait_sent_to($new, 'default', 'paused');
	was_sent('default', $left{all} => 1, $left{one} => 2);
	was_sent('paused', $left{all} => 1, $left{one} => 1);
	was_sent('behind', $left{all} => 1);
	wait_relay_of($new, 'behind');
	is( query($new, q{SELECT destination, detail FROM outbox_check()
			WHERE "check" = 'publisher configured' AND NOT ok}),
		'behind|the setting "max_in_flight" of the destination is not valid; the server log says why',
		'outbox_check() says which, and why');
	query($new, q{SELECT outbox_alter_destination('behind', settings => '{"max_in_flight": "8"}')});
	wait_sent_to($new, 'behind');
	was_sent('behind', $left{all} => 1, $left{one} => 1);
	$new->stop;
};

promise 'a destination whose publisher crashes costs the others nothing' => sub {
	my $node = new_node('crash', conf => \%conf);
	my $file = PostgreSQL::Test::Utils::tempdir() . '/messages';
	my %left = leave_at_positions($node);
	append_to_file($file, '');
	reload($node, 'outbox_test.mode' => 'abort', 'outbox_test.file' => $file);
	add_destination($node, 'crashes', '{bad,good}', { publisher => 'outbox_test_publisher' });
	add_destination($node, 'missing', '{#}', { publisher => 'no_such_library' });
	add_destination($node, 'refused', '{#}', { publisher => 'outbox_test_no_publisher' });

	# one that hangs, so that it is in flight in another destination at each crash
	$receiver{default}->faults([ { match => { path => '/bad' }, action => 'hang' } ]);
	query($node, q{SELECT outbox_pause('crashes')});
	wait_relay_of_value($node, 'crashes', state => 'paused');
	my ($bad) = publish($node, 'bad');
	my @good = publish($node, 'good', count => KEYS, more => q{key => 'k' || n % } . KEYS);
	poll_until(sub { $receiver{default}->stats->{concurrent} == 1 }, 'it to be in flight there');

	# the session may be told of the crash before it is told of the commit
	my $id = query($node, q{SELECT id FROM outbox_destination WHERE name = 'crashes'});
	my $offset = -s $node->logfile;
	$node->psql('postgres', q{SELECT outbox_resume('crashes')});
	wait_states_of($node, $bad, 'behind pending, crashes dead, default in_progress,'
		  . ' missing pending, paused pending, refused pending');
	is(query($node, q{SELECT last_error FROM outbox_events WHERE state = 'dead'}),
		'the relay crashed 3 times with this event in flight', 'the reason is shown');
	my $log = slurp_file($node->logfile, $offset);
	is(() = $log =~ /has died by itself/g, 3, 'three relays have died by themselves');
	is(() = $log =~ /has died by itself\n.*\n.*destination $id\n/g, 3, 'all of them for this destination');
	$receiver{default}->faults([]);
	wait_sent_to($node, 'default', 'crashes');
	is_deeply([ sort map { (split /\|/)[0] } split /\n/, slurp_file($file) ], [ sort @good ],
		'it is sent the others');
	is(query($node, "SELECT attempts FROM outbox_events WHERE destination = 'default' AND event_id = '$bad'"),
		'1', 'what was in flight is as if nothing had happened');
	is( query($node, q{SELECT string_agg(concat_ws(' ', destination, state), ', ' ORDER BY destination)
			FROM outbox_relays}),
		'behind endpoint down, crashes idle, default idle, missing idle, paused paused, refused idle',
		'and each is in the state that it was in');
	is( query($node, q{SELECT string_agg(destination, ' ' ORDER BY destination) FROM outbox_check()
			WHERE "check" = 'publisher configured' AND NOT ok}),
		'missing refused', 'those that have no publisher as well');

	let_all_go_on($node);
	wait_sent_to($node, 'behind', 'paused');
	my @all = ($left{all} => 1, $left{one} => 1, [$bad] => 1, \@good => 1);
	was_sent($_, @all) foreach 'behind', 'paused';
	reload($node, 'outbox_test.mode' => 'good');
	query($node, "SELECT outbox_retry('$bad')");
	wait_states_of($node, $bad, 'behind published, crashes published, default published,'
		  . ' missing pending, paused published, refused pending', 'it can be mended');
	$node->stop;
};

done_testing();
