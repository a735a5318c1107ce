# What is settled for a destination is sent to it again.
#
# Promises:
# - outbox_replay() sends what was published, given up or is older than the destination,
#   with the same ids, and says how many that are; what is pending or dead is left alone,
#   and so are other destinations.
# - It is for topics that a pattern matches, and since a time.
# - Of a key, what is sent again goes in order, and what is new waits behind it, also if
#   it was to be sent already.
# - What is sent again is not sent before its time.
# - A crash in the middle of it loses nothing of it.
# - A hundred thousand are sent again while new ones flow: none is lost, what was published
#   after the request is sent once, each key keeps its order, and what is new of other
#   keys and topics arrives meanwhile.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use lib 'test/lib';
use OutboxTest;
use OutboxTest::Destinations;

use constant {
	EVENTS => 5000,
	KEYS => 20,
	MANY => 100_000,
	MANY_KEYS => 20_000,
	ROUNDS => 10,
};

my $first = start_receiver(mode => 'http');
my $second = start_receiver(mode => 'http');
my $node = new_node(
	'replay',
	conf => {
		'outbox.publisher' => 'http',
		'outbox.http_url' => $first->url . '/{topic}',
		'outbox.http_content_mode' => 'structured',
		'outbox.local_retry_times' => 0,
		'outbox.failed_retry_interval' => '1h',
	});
query($node, 'CREATE EXTENSION outbox');

sub add
{
	my ($name, $topics, %more) = @_;
	add_destination($node, $name, $topics, { http_url => $second->url . '/{topic}', %more });
	return;
}

# The state of an event in a destination; '' if it does not go there.
sub state_in
{
	my ($id, $destination) = @_;
	return try_query($node, 'SELECT state FROM outbox_events WHERE event_id = '
		  . literal($id) . ' AND destination = ' . literal($destination));
}

sub wait_state_in
{
	my ($id, $destination, $state) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return poll_until(sub { state_in($id, $destination) eq $state }, "it to be $state for $destination");
}

# How often has a receiver taken an event?
sub times_taken
{
	my ($receiver, $id) = @_;
	return scalar(grep { ($_->{id} // '') eq $id } $receiver->accepted(fields => ['id']));
}

promise 'what is settled for a destination is sent to it again' => sub {
	my ($older) = publish($node, 'again.a');
	wait_state_in($older, 'default', 'published');
	add('again', '{again.#}');
	$second->faults([ { match => { path => '/again.dead' }, status => 422 } ]);
	my ($done) = publish($node, 'again.a');
	my ($dead) = publish($node, 'again.dead');
	my ($given_up) = publish($node, 'again.dead');
	wait_state_in($_, 'again', 'dead') foreach $dead, $given_up;
	wait_state_in($done, 'again', 'published');
	query($node, "SELECT outbox_discard('$given_up', 'again')");
	$second->faults([]);
	query($node, q{SELECT outbox_pause('again')});
	my ($waiting) = publish($node, 'again.a');
	wait_state_in($waiting, 'default', 'published');

	is(query($node, q{SELECT outbox_replay('again')}), '3', 'three are settled there');
	query($node, q{SELECT outbox_resume('again')});
	wait_delivered($second, [ $older, $given_up, $waiting ]);
	poll_until(sub { times_taken($second, $done) == 2 }, 'the published one again');
	wait_state_in($_, 'again', 'published') foreach $done, $given_up, $older, $waiting;
	is(times_taken($second, $waiting), 1, 'what was pending is sent once');
	is(state_in($dead, 'again'), 'dead', 'what is dead stays so');
	is(times_taken($first, $done), 1, 'default does not notice');
	drop_destinations($node, 'again');
};

promise 'a replay is of topics, and since a time' => sub {
	add('some', '{some.#}');
	my ($a) = publish($node, 'some.a.b');
	wait_state_in($a, 'some', 'published');
	my $time = query($node, 'SELECT clock_timestamp()');
	my ($later) = publish($node, 'some.a.c');
	my ($other) = publish($node, 'some.b');
	wait_state_in($_, 'some', 'published') foreach $later, $other;
	is(query($node, qq{SELECT outbox_replay('some', 'some.a.*', '$time')}), '1', 'one is meant');
	poll_until(sub { times_taken($second, $later) == 2 }, 'that one');
	is(times_taken($second, $_), 1, 'not another one') foreach $a, $other;
	is(query($node, q{SELECT outbox_replay('some', 'nothing')}), '0', 'none');
	fails_with($node, q{SELECT outbox_replay('some', 'a*')}, '22023', 'a bad pattern');
	fails_with($node, q{SELECT outbox_replay('none')}, '42704', 'no such destination');
	drop_destinations($node, 'some');
};

promise 'order by key is kept, also in front of what is new' => sub {
	add('order', '{order.#}');
	my @old = publish($node, 'order.a', count => EVENTS, more => q{key => 'k' || n % } . KEYS);
	wait_sent_to($node, 'order');
	$second->reset;
	my @new = split /\n/, query($node, q{BEGIN; SELECT outbox_replay('order');}
		  . publish_sql('order.a', count => EVENTS, more => q{key => 'k' || n % } . KEYS) . '; COMMIT');
	@new = grep { length > 10 } @new;
	wait_delivered($second, [ @old, @new ]);
	my %key_of;
	$key_of{ $old[$_] } = $key_of{ $new[$_] } = $_ % KEYS foreach 0 .. EVENTS - 1;
	is(out_of_order($second, \%key_of, @old, @new), 0, 'each key in its order');
	drop_destinations($node, 'order');
};

promise 'what was to be sent already waits behind it' => sub {
	add('memory', '{memory.#}', max_in_flight => 1);
	my @old = publish($node, 'memory.a', count => 3, more => q{key => 'k'});
	wait_state_in($_, 'memory', 'published') foreach @old;
	$second->reset;
	$second->faults([ { match => { path => '/memory.hangs' }, action => 'hang', on_release => 'answer' } ]);
	publish($node, 'memory.hangs');
	poll_until(sub { scalar($second->log(path => '/memory.hangs')) == 1 }, 'a request that hangs');
	my ($new) = publish($node, 'memory.a', more => q{key => 'k'});
	poll_until(
		sub {
			query($node, q{SELECT pg_visible_in_snapshot(e.xid, p.hi) FROM outbox_event e, outbox_position p
				WHERE p.name = 'memory' AND e.event_id = } . literal($new)) eq 't';
		},
		'the next event to be read');
	is(query($node, q{SELECT outbox_replay('memory', 'memory.a')}), '3', 'three are meant');
	poll_until(sub { query($node, q{SELECT count(*) FROM outbox_request}) eq '0' }, 'them to be sent again');
	$second->faults([]);
	wait_delivered($second, [ @old, $new ]);
	my @taken = grep { $_->{path} eq '/memory.a' } $second->accepted(fields => [ 'id', 'path' ]);
	is_deeply([ map { $_->{id} } @taken ], [ @old, $new ], 'the new one is the last');
	drop_destinations($node, 'memory');
};

promise 'what is sent again is not sent before its time' => sub {
	my ($later) = publish($node, 'later.a', more => q{deliver_after => now() + interval '1 hour'});
	my ($now) = publish($node, 'later.a');
	wait_state_in($now, 'default', 'published');
	add('later', '{later.#}');
	is(query($node, q{SELECT outbox_replay('later')}), '2', 'both are older than the destination');
	wait_state_in($now, 'later', 'published');
	wait_state_in($later, 'later', 'scheduled');
	is(times_taken($second, $later), 0, 'it is not sent yet');
	query($node, "SELECT outbox_discard('$later', 'later')");
	wait_state_in($later, 'later', 'discarded');
	is(query($node, q{SELECT outbox_replay('later')}), '2', 'both are settled again');
	wait_state_in($later, 'later', 'scheduled');
	drop_destinations($node, 'later');
};

promise 'a crash loses nothing of it' => sub {
	add('crash', '{crash.#}');
	my @ids = publish($node, 'crash.a', count => EVENTS);
	wait_sent_to($node, 'crash');
	query($node, 'CHECKPOINT');
	$second->reset;
	is(query($node, q{SELECT outbox_replay('crash')}), EVENTS, 'all are meant');
	poll_until(sub { $second->stats->{distinct_ids} > 0 }, 'some to arrive');
	$node->kill9;
	restart_after_kill9($node);
	wait_delivered($second, \@ids);
	ok(1, 'all arrived');
	drop_destinations($node, 'crash');
};

promise 'what is new of other keys is not held up by a large replay' => sub {
	my $receiver = start_receiver(mode => 'dapr');
	query($node, q{SELECT outbox_alter_destination('default', topics => '{}')});
	my @old = publish($node, 'large.old', count => MANY, more => q{key => 'k' || n % } . MANY_KEYS);
	add_destination($node, 'large', '{large.#}', {
			publisher => 'dapr',
			dapr_endpoint => $receiver->url,
			dapr_bulk => 'on'
		});
	my $start = time();
	is(query($node, q{SELECT outbox_replay('large', 'large.old')}), MANY, 'all are meant');
	my (@new, @other);
	foreach my $n (1 .. ROUNDS)
	{
		push @new, publish($node, 'large.old', key => 'k' . (MANY_KEYS - $n));
		my @now = (publish($node, 'large.old', key => "other $n"), publish($node, 'large.new', key => "k$n"));
		wait_states_of($node, $_, 'large published') foreach @now;
		push @other, @now;
	}
	is(query($node, q{SELECT count(*) > 0 FROM outbox_delivery WHERE state = 'pending'}), 't',
		'there is more to be sent again by then');
	diag(sprintf('%d new ones of other keys after %.1f s', scalar(@other), time() - $start));
	poll_until(sub { query($node, q{SELECT backlog FROM outbox_stats WHERE destination = 'large'}) eq '0' },
		'all to be sent', 300);
	diag(sprintf('%d events again after %.1f s', MANY, time() - $start));
	my %key_of;
	$key_of{ $old[$_] } = ($_ + 1) % MANY_KEYS foreach 0 .. $#old;
	$key_of{ $new[$_] } = MANY_KEYS - $_ - 1 foreach 0 .. $#new;
	is(out_of_order($receiver, \%key_of, @old, @new), 0, 'each key in its order');
	taken_once($receiver, [ @old, @new, @other ], 'each once');
	drop_destinations($node, 'large');
	query($node, q{SELECT outbox_alter_destination('default', topics => '{#}')});
};

done_testing();
