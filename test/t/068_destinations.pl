# Events go to several destinations, each with a relay, a position and settings of its
# own.
#
# Promises:
# - An event goes to every destination that takes its topic, and is shown once for
#   each; "default" takes everything without being asked.
# - A destination begins with the transaction that adds it: with all that this one
#   publishes, and with what commits later, but with nothing before; or, if that is
#   wanted, with all that is kept.
# - So it is if that transaction is prepared, and committed by somebody else.
# - What happens to an event in one destination does not concern the others: it is
#   retried, discarded and dead there alone; without naming one, what is asked is done
#   wherever it is possible.
# - A destination that hangs, refuses, cannot be reached, is paused or has no publisher
#   does not delay another one.
# - A paused destination is sent nothing, what is in flight is answered, and that
#   outlasts a restart of the server; resumed, it gets what it has missed.
# - Other topics hold for what is read from then on, also when nobody was there to
#   read for a while.
# - What no destination takes is unrouted.
# - Other settings hold at once, and outlast a reload of those of the server.
# - A destination that is dropped gets nothing any more, and leaves nothing behind.
# - A relay that is killed costs the other destinations nothing.
# - Events are pruned when every destination has settled them, whichever relay prunes,
#   also while one of them is paused.
# - Versions of what a destination takes go with the last event that they hold for.
# - A dump carries destinations, and what one of them has not settled.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use lib 'test/lib';
use OutboxTest;
use OutboxTest::Destinations;

use constant {
	KEYS => 10,
	SECONDS => 10,    # that an event may take on a busy machine
};

my $first = start_receiver(mode => 'http');
my $second = start_receiver(mode => 'http');
my %conf = (
	'outbox.publisher' => 'http',
	'outbox.http_url' => $first->url . '/{topic}',
	'outbox.http_content_mode' => 'structured',
	'outbox.breaker_probe_interval' => '100ms',
	'outbox.local_retry_times' => 0,
	'outbox.failed_retry_interval' => '1h',
	'outbox.poll_interval' => '100ms');
my $node = new_node('destinations', conf => \%conf);
query($node, 'CREATE EXTENSION outbox');

# SQL that adds a destination, which sends to the second receiver; settings are a hash,
# "more" further arguments.
sub add_sql
{
	my ($name, $topics, %opts) = @_;
	my %settings = (http_url => $second->url . '/{topic}', %{ $opts{settings} // {} });
	return add_destination_sql($name, $topics, \%settings, $opts{more});
}

sub add
{
	my ($name, @rest) = @_;
	query($node, add_sql($name, @rest));
	wait_relay_of($node, $name);
	return;
}

sub drop
{
	my (@names) = @_;
	drop_destinations($node, @names);
	query($node, q{SELECT outbox_alter_destination('default', topics => '{#}')});
	return;
}

# Which of these events has a receiver taken, in their order?
sub taken
{
	my ($receiver, @ids) = @_;
	my %taken = map { ($_->{id} // '') => 1 } $receiver->accepted(fields => ['id']);
	return grep { $taken{$_} } @ids;
}

promise 'an event goes to every destination that takes it' => sub {
	add('fan_audit', '{fan.orders.#,fan.*.new}');
	add('fan_rest', '{fan.#,!fan.orders.#}');
	my ($order) = publish($node, 'fan.orders.paid.late');
	my ($new) = publish($node, 'fan.stock.new');
	my ($other) = publish($node, 'fan.stock.gone');
	wait_states_of($node, $order, 'default published, fan_audit published');
	wait_states_of($node, $new, 'default published, fan_audit published, fan_rest published');
	wait_states_of($node, $other, 'default published, fan_rest published');
	taken_once($first, [ $order, $new, $other ], 'default gets each once');
	is(scalar(grep { $_->{id} eq $new } $second->accepted(fields => ['id'])),
		2, 'what two others take is sent to both');
	is(scalar(grep { $_->{id} eq $order } $second->accepted(fields => ['id'])),
		1, 'what one of them takes is sent to it alone');
	is( query($node, q{SELECT name, topics, state, backlog, published FROM outbox_destinations
			WHERE name LIKE 'fan%' ORDER BY name}),
		"fan_audit|{fan.orders.#,fan.*.new}|idle|0|2\nfan_rest|{fan.#,!fan.orders.#}|idle|0|2",
		'outbox_destinations shows them');
	drop('fan_audit', 'fan_rest');
};

promise 'a destination begins with the transaction that adds it' => sub {
	my ($before) = publish($node, 'begin.a');
	wait_state($node, $before, 'published');
	my $open = $node->background_psql('postgres');
	my $late = $open->query_safe(q{BEGIN; SELECT outbox_publish('begin.a', '"late"')});
	chomp $late;
	my @ids = split /\n/, query($node, join ';', 'BEGIN',
		publish_sql('begin.a'), add_sql('begin', '{begin.#}') . ' IS NULL',
		publish_sql('begin.a'), 'COMMIT');
	@ids = grep { length > 10 } @ids;
	wait_relay_of($node, 'begin');
	$open->query_safe('COMMIT');
	$open->quit;
	wait_delivered($second, [ @ids, $late ]);
	wait_states_of($node, $ids[0], 'begin published, default published', 'what the transaction published before');
	wait_states_of($node, $late, 'begin published, default published', 'what was committed later');
	wait_states_of($node, $before, 'default published', 'what was before is none of its business');
	is(scalar(taken($second, $before)), 0, '... and is not sent to it');

	add('begin_all', '{begin.#}', more => ', from_start => true');
	wait_delivered($second, [ $before, @ids, $late ]);
	wait_states_of($node, $before, 'begin_all published, default published', 'from_start: all that is kept');
	drop('begin', 'begin_all');
};

promise 'a destination may be added by a prepared transaction' => sub {
	query($node, join ';', 'BEGIN', add_sql('prepared', '{prepared.#}'), q{PREPARE TRANSACTION 'add'});
	is(relay_of($node, 'prepared', 'pid'), '', 'there is none before it is committed');
	query($node, q{COMMIT PREPARED 'add'});
	wait_relay_of($node, 'prepared');
	my ($id) = publish($node, 'prepared.a');
	wait_states_of($node, $id, 'default published, prepared published');
	drop('prepared');
};

promise 'what happens to an event in one destination is its own' => sub {
	add('own', '{own.#}');
	$second->faults([ { match => { path => '/own[.]dead' }, status => 422 },
			{ match => { path => '/own[.]fails' }, status => 500 } ]);
	my ($dead) = publish($node, 'own.dead', key => 'k');
	my ($behind) = publish($node, 'own.dead', key => 'k');
	my ($failed) = publish($node, 'own.fails');
	wait_states_of($node, $dead, 'default published, own dead');
	wait_states_of($node, $behind, 'default published, own blocked');
	poll_until(sub { states_of($node, $failed) =~ /own (failed|pending)/ }, 'a failure');
	is(stat_value($node, q{string_agg(concat_ws(' ', destination, died, backlog), ', ' ORDER BY destination)}),
		'default 0 0, own 1 2', 'outbox_stats has a row for each');

	fails_with($node, "SELECT outbox_retry('$dead', 'default')", '55000', 'there it is published');
	fails_with($node, "SELECT outbox_retry('$dead', 'nobody')", '42704', 'no such destination');
	fails_with($node, "SELECT outbox_discard('$dead', 'default')", '55000', 'nothing to discard');
	is(query($node, q{SELECT outbox_retry_dead('own.dead', 'default')}), '0', 'no dead one there');
	is(query($node, q{SELECT outbox_retry_dead('own.dead')}), '1', 'one dead event in all');
	poll_until(sub { $second->stats->{refused} >= 3 }, 'another try');
	wait_states_of($node, $dead, 'default published, own dead', 'and dead again');
	query($node, "SELECT outbox_discard('$behind')");
	wait_states_of($node, $behind, 'default published, own discarded', 'given up where it was not published');
	$second->faults([]);
	query($node, "SELECT outbox_retry('$dead'), outbox_retry('$failed', 'own')");
	wait_states_of($node, $dead, 'default published, own published');
	wait_states_of($node, $failed, 'default published, own published');
	is(scalar(grep { $_->{id} eq $dead } $first->accepted(fields => ['id'])), 1, 'default got it once');
	drop('own');
};

promise 'trouble of one destination does not delay another one' => sub {
	add('hangs', '{side.#}', settings => { request_timeout => '1min' });
	add('refuses', '{side.#}', settings => { http_url => $second->url . '/refused/{topic}' });
	add('nobody', '{side.#}', settings => { http_url => 'http://127.0.0.1:1/' });
	add('paused', '{side.#}');
	query($node, q{SELECT outbox_pause('paused')});
	query($node, add_sql('unconfigured', '{side.#}',
			settings => { publisher => 'no_such_library' }));
	wait_relay_of($node, 'unconfigured');
	$second->faults([ { match => { path => '/side.*' }, action => 'hang' },
			{ match => { path => '/refused/.*' }, status => 503 } ]);
	my @ids = publish($node, 'side.a', count => 200, more => q{key => 'k' || n % 10});
	my $start = time();
	wait_delivered($first, \@ids);
	my $took = time() - $start;
	cmp_ok($took, '<', SECONDS, sprintf('all is there after %.1f s', $took));
	is(query($node, q{SELECT string_agg(DISTINCT state, ' ') FROM outbox_events
		WHERE topic = 'side.a' AND destination = 'default'}), 'published', 'and published');
	poll_until(sub { relay_of($node, 'nobody', 'state') eq 'endpoint down' }, 'nobody there');
	is(relay_of($node, 'paused', 'state'), 'paused', 'paused');
	is(relay_of($node, 'default', 'state'), 'idle', 'default is well');
	is( query($node, q{SELECT count(*) FROM outbox_check() WHERE destination = 'default' AND NOT ok}),
		'0', 'outbox_check() has nothing to say of it');
	is( query($node, q{SELECT ok FROM outbox_check()
			WHERE destination = 'unconfigured' AND "check" = 'publisher configured'}),
		'f', 'but of another one');
	$second->faults([]);
	drop('hangs', 'refuses', 'nobody', 'paused', 'unconfigured');
};

promise 'a paused destination is sent nothing' => sub {
	add('pausing', '{pause.#}', settings => { request_timeout => '1min' });
	$second->faults([ { match => { path => '/pause.a' }, action => 'hang', on_release => 'answer' } ]);
	my ($flying) = publish($node, 'pause.a');
	poll_until(sub { relay_of($node, 'pausing', 'in_flight') eq '1' }, 'an event in flight');
	query($node, q{SELECT outbox_pause('pausing')});
	query($node, q{SELECT outbox_pause('pausing')});
	poll_until(sub { relay_of($node, 'pausing', 'state') eq 'pausing' }, 'pausing');
	my ($waiting) = publish($node, 'pause.b');
	$second->faults([]);
	wait_states_of($node, $flying, 'default published, pausing published', 'what is in flight is answered');
	poll_until(sub { relay_of($node, 'pausing', 'state') eq 'paused' }, 'paused');
	$node->restart;
	poll_until(sub { relay_of($node, 'pausing', 'state') eq 'paused' }, 'paused after a restart');
	my ($later) = publish($node, 'pause.c');
	wait_states_of($node, $later, 'default published, pausing pending');
	is(scalar(taken($second, $waiting, $later)), 0, 'nothing is sent');
	query($node, q{SELECT outbox_resume('pausing')});
	wait_states_of($node, $later, 'default published, pausing published');
	wait_states_of($node, $waiting, 'default published, pausing published');
	drop('pausing');
};

promise 'other topics hold for what is read from then on' => sub {
	add('versions', '{versions.a}');
	my ($a) = publish($node, 'versions.a');
	wait_states_of($node, $a, 'default published, versions published');
	query($node, q{SELECT outbox_alter_destination('versions', topics => '{versions.b}')});
	my ($a2) = publish($node, 'versions.a');
	my ($b) = publish($node, 'versions.b');
	wait_states_of($node, $b, 'default published, versions published');
	wait_states_of($node, $a2, 'default published');
	wait_states_of($node, $a, 'default published, versions published', 'what was before stays as it was');

	# nobody reads: two versions, of which only the last one is ever in use
	query($node, q{SELECT outbox_pause('versions')});
	poll_until(sub { relay_of($node, 'versions', 'state') eq 'paused' }, 'paused');
	query($node, q{SELECT outbox_alter_destination('versions', topics => '{versions.c}')});
	query($node, q{SELECT outbox_alter_destination('versions', topics => '{versions.d}')});
	my ($c) = publish($node, 'versions.c');
	my ($d) = publish($node, 'versions.d');
	query($node, q{SELECT outbox_resume('versions')});
	wait_states_of($node, $d, 'default published, versions published');
	wait_states_of($node, $c, 'default published');
	is(scalar(taken($second, $a2, $c)), 0, 'nothing is sent that is not wanted');
	drop('versions');
};

promise 'what no destination takes is unrouted' => sub {
	query($node, q{SELECT outbox_alter_destination('default', topics => '{#,!lost.#}')});
	my ($lost) = publish($node, 'lost.a');
	my ($kept) = publish($node, 'kept.a');
	wait_states_of($node, $kept, 'default published');
	wait_states_of($node, $lost, 'unrouted');
	is(scalar(taken($first, $lost)), 0, 'it is not sent');
	fails_with($node, "SELECT outbox_discard('$lost')", '55000', 'nothing to give up');
	query($node, q{SELECT outbox_alter_destination('default', topics => '{}')});
	my ($none) = publish($node, 'kept.a');
	wait_states_of($node, $none, 'unrouted');
	query($node, q{SELECT outbox_alter_destination('default', topics => '{#}')});
	my ($again) = publish($node, 'kept.a');
	wait_states_of($node, $again, 'default published');
	wait_states_of($node, $none, 'unrouted', 'that stays so');
};

promise 'other settings hold at once' => sub {
	add('altered', '{altered.#}', settings => { http_content_mode => 'binary' });
	my $pid = wait_relay_of($node, 'altered');
	my ($id) = publish($node, 'altered.a');
	wait_delivered($second, [$id]);
	reload($node, 'outbox.http_content_mode' => 'structured', 'outbox.max_in_flight' => 7);
	($id) = publish($node, 'altered.a');
	wait_delivered($second, [$id]);
	my ($entry) = $second->accepted(id => $id);
	is($entry->{headers}{'ce-id'}, $id, 'a reload leaves its own settings');
	is(wait_relay_of($node, 'altered'), $pid, 'by the same relay');

	my $url = $first->url . '/altered/{topic}';
	query($node, qq{SELECT outbox_alter_destination('altered',
		settings => '{"http_url": "$url", "http_content_mode": null}')});
	wait_relay_of($node, 'altered', $pid);
	($id) = publish($node, 'altered.a');
	poll_until(sub { $first->log(id => $id, path => '/altered/altered.a') }, 'the new address');
	($entry) = $first->log(id => $id, path => '/altered/altered.a');
	is($entry->{headers}{'ce-id'}, undef, 'what was taken away is as in postgresql.conf');
	drop('altered');
};

promise 'a destination that is dropped leaves nothing behind' => sub {
	reload($node, 'outbox.published_expire_time' => '0', 'outbox.cleaning_expire_interval' => '100ms');
	add('dropped', '{drop.#}');
	$second->faults([ { match => { path => '/drop.*' }, status => 503 } ]);
	query($node, publish_sql('drop.later', more => q{deliver_after => now() + interval '2 s'}));
	my ($first_id, @ids) = publish($node, 'drop.a', count => 20, more => q{key => 'k' || n % 3});
	poll_until(sub { query($node, 'SELECT count(*) FROM outbox_delivery WHERE destination > 0') > 0 },
		'rows of the destination');
	my $late = $node->background_psql('postgres');
	$late->query_safe("BEGIN; SELECT outbox_discard('$ids[0]', 'dropped')");
	my ($status, $out, $err) = $node->psql('postgres', q{SELECT outbox_drop_destination('dropped')});
	like($err, qr/NOTICE:  21 events have not been delivered to destination "dropped"/, 'it is said what is lost');
	poll_until(sub { relay_of($node, 'dropped', 'pid') eq '' && relay_of($node, 'dropped', 'state') eq '' }, 'no relay');
	$second->faults([]);
	poll_until(
		sub {
			query($node, q{SELECT (SELECT count(*) FROM outbox_delivery WHERE destination > 0)
				+ (SELECT count(*) FROM outbox_progress WHERE destination > 0)
				+ (SELECT count(*) FROM outbox_filter WHERE destination > 0)
				+ (SELECT count(*) FROM outbox_destination WHERE id > 0)}) eq '0';
		},
		'nothing left of it');
	$late->query_safe('COMMIT');
	$late->quit;
	poll_until(sub { query($node, q{SELECT count(*) FROM outbox_request}) eq '0' },
		'what was asked of it too late to go as well');
	poll_until(sub { query($node, q{SELECT count(*) FROM outbox_event WHERE topic ~ '^drop'}) eq '0' },
		'its events to be pruned');
	is(scalar(taken($second, $first_id, @ids)), 0, 'nothing was sent after all');
	add('dropped', '{drop.#}');
	my ($id) = publish($node, 'drop.a');
	wait_delivered($second, [$id]);
	ok(1, 'the name may be used again');
	drop('dropped');
};

promise 'a relay that is killed costs the others nothing' => sub {
	add('killed', '{kill.#}');
	my $pid = wait_relay_of($node, 'killed');
	my $other = wait_relay_of($node, 'default');
	my @ids = publish($node, 'kill.a', count => 500, more => q{key => 'k' || n % 20});
	query($node, "SELECT pg_terminate_backend($pid)");
	push @ids, publish($node, 'kill.a', count => 500, more => q{key => 'k' || n % 20});
	wait_delivered($first, \@ids);
	wait_delivered($second, \@ids);
	isnt(wait_relay_of($node, 'killed'), $pid, 'another one took over');
	is(wait_relay_of($node, 'default'), $other, 'that of default went on');
	taken_once($first, \@ids, 'each once');
	drop('killed');
};

promise 'events are pruned when every destination has settled them' => sub {
	add('held', '{held.#}');
	my ($both_have) = publish($node, 'held.early');
	wait_states_of($node, $both_have, 'default published, held published');
	query($node, q{SELECT outbox_pause('held')});
	poll_until(sub { relay_of($node, 'held', 'state') eq 'paused' }, 'paused');
	my ($held) = publish($node, 'held.a');
	my ($free) = publish($node, 'free.a');
	my ($refused) = publish($node, 'held.b', key => 'x');
	wait_states_of($node, $free, 'default published');
	reload($node, 'outbox.published_expire_time' => '0', 'outbox.cleaning_expire_interval' => '100ms');
	my ($before) = publish($node, 'free.b');
	wait_states_of($node, $before, 'default published');
	poll_until(sub { check_value($node, 'pruning works', 'ok') eq 't' }, 'a prune');
	poll_until(sub { query($node, q{SELECT count(*) FROM outbox_event WHERE topic = 'held.early'}) eq '0' },
		'what both had settled to be pruned');
	is(query($node, q{SELECT count(*) FROM outbox_event WHERE topic = 'held.a'}), '1', 'a paused one keeps its events');
	query($node, q{SELECT outbox_resume('held')});
	wait_delivered($second, [ $held, $refused ]);
	poll_until(sub { query($node, q{SELECT count(*) FROM outbox_event WHERE topic IN ('held.a', 'free.a', 'held.b')}) eq '0' },
		'all to be pruned');

	# a row in each of two destinations: they go together, with the event
	$first->faults([ { match => { path => '/held.c' }, status => 422 } ]);
	$second->faults([ { match => { path => '/held.c' }, status => 422 } ]);
	my ($both) = publish($node, 'held.c');
	wait_states_of($node, $both, 'default dead, held dead');
	query($node, "SELECT outbox_discard('$both', 'default')");
	wait_states_of($node, $both, 'default discarded, held dead', 'the other one still wants it');
	query($node, "SELECT outbox_discard('$both', 'held')");
	poll_until(sub { query($node, q{SELECT (SELECT count(*) FROM outbox_event WHERE topic = 'held.c')
		+ (SELECT count(*) FROM outbox_delivery)}) eq '0' }, 'event and rows to go');
	ok(1, 'and then both rows go, and the event');
	drop('held');
};

promise 'versions of what a destination takes go with their events' => sub {
	my $versions = q{SELECT string_agg(f.version || ' ' || f.topics[1], ', ' ORDER BY f.version)
		FROM outbox_filter f JOIN outbox_destination d ON d.id = f.destination WHERE d.name = 'old'};
	add('old', '{old.a}');
	my ($a) = publish($node, 'old.a');
	$second->faults([ { match => { path => '/old.a' }, status => 422 } ]);
	my ($dead) = publish($node, 'old.a');
	wait_states_of($node, $dead, 'default published, old dead');
	query($node, q{SELECT outbox_alter_destination('old', topics => '{old.b}')});
	my ($b) = publish($node, 'old.b');
	wait_states_of($node, $b, 'default published, old published');
	query($node, q{SELECT outbox_alter_destination('old', topics => '{old.c}')});
	my ($c) = publish($node, 'old.c');
	wait_states_of($node, $c, 'default published, old published');
	is(query($node, $versions), '1 old.a, 2 old.b, 3 old.c', 'three versions');
	reload($node, 'outbox.published_expire_time' => '0', 'outbox.cleaning_expire_interval' => '100ms');
	poll_until(sub { query($node, $versions) !~ /old.b/ }, 'the second version to go');
	is(query($node, $versions), '1 old.a, 3 old.c', 'one of which an event is kept stays');
	wait_states_of($node, $dead, 'default published, old dead', '... which is seen as before');
	query($node, "SELECT outbox_discard('$dead', 'old')");
	poll_until(sub { query($node, $versions) !~ /old.a/ }, 'the first version to go');
	is(query($node, $versions), '3 old.c', 'the one in use stays');
	my ($again) = publish($node, 'old.c');
	my ($other) = publish($node, 'old.a');
	wait_delivered($second, [$again]);
	is(scalar(taken($second, $other)), 0, 'and holds');
	drop('old');
};

promise 'a dump carries destinations' => sub {
	add('dumped', '{dump.#}');
	my ($done) = publish($node, 'dump.a');
	wait_states_of($node, $done, 'default published, dumped published');
	query($node, q{SELECT outbox_pause('dumped')});
	poll_until(sub { relay_of($node, 'dumped', 'state') eq 'paused' }, 'paused');
	my ($half) = publish($node, 'dump.b');
	wait_states_of($node, $half, 'default published, dumped pending');
	my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump';
	$node->command_ok([ 'pg_dump', '-f', $dump, $node->connstr('postgres') ], 'pg_dump');
	$first->reset;
	$second->reset;
	my $new = new_node('restored', conf => \%conf);
	$new->command_ok([ 'psql', '-X', '-v', 'ON_ERROR_STOP=1', '-f', $dump, $new->connstr('postgres') ], 'restore');
	poll_until(sub { query($new, q{SELECT state FROM outbox_destinations WHERE name = 'dumped'}) eq 'paused' },
		'the destination, still paused');
	query($new, q{SELECT outbox_resume('dumped')});
	wait_delivered($second, [$half]);
	is(scalar(taken($second, $done)), 0, 'what was settled for all is not sent');
	poll_until(sub { scalar(taken($first, $half)) == 1 }, 'the other one');
	ok(1, 'what one had not settled reaches the others twice');
	$new->stop;
	query($node, q{SELECT outbox_resume('dumped')});
	drop('dumped');
};

done_testing();
