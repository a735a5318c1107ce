# Several events in one request: Dapr's bulk API, and CloudEvents' batch mode.
#
# Promises:
# - What is pending for a topic shares requests; a shared event arrives as it
#   would have arrived alone, with its metadata.
# - With dapr_bulk = auto numbers arrive as they were published, though the
#   bulk API would change some; so do events that cannot share a request.
# - The answer to each event counts, not that to its request: what failed is
#   tried again, what was taken is not, and an event that can never be taken is
#   dead without taking the others along.
# - No request has two events of a key, and their order is kept.
# - The bulk route is the one that this daprd has; without any, events go alone,
#   and none of them loses an attempt by it.

use strict;
use warnings FATAL => 'all';

use JSON::PP ();
use List::Util qw(max uniq);
use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest qw(:DEFAULT !/^(check_value|dapr_error|event_value|fails_with|publish|publish_sql|query|restart_relay|stat_value|states|wait_states)$/);

use constant {
	TRACEPARENT => '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
	SINGLE => '/v1.0/publish/pubsub',
	ALPHA => '/v1.0-alpha1/publish/bulk/pubsub',
	STABLE => '/v1.0/publish/bulk/pubsub',
};

my $json = JSON::PP->new;
my $receiver = start_receiver(mode => 'dapr');
my $node = new_node(
	'bulk',
	conf => {
		'outbox.dapr_bulk' => 'auto',
		'outbox.dapr_endpoint' => $receiver->url,
		'outbox.poll_interval' => '100ms',
		'outbox.request_timeout' => '1s',
		'outbox.breaker_threshold' => 0,
		'outbox.max_retry_times' => 2,
		'outbox.local_retry_times' => 1,
		'outbox.local_failed_retry_interval' => '20ms',
		'outbox.failed_retry_interval' => '20ms',
		'outbox.max_retry_interval' => '20ms',
		'outbox.minimum_retry_interval' => '0',
	});
$node->safe_psql('postgres', 'CREATE EXTENSION outbox');

sub query
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

# Publish in one transaction, an event for each row of $from; the ids.
sub publish
{
	my ($arguments, $from) = @_;
	return split /\n/, query("SELECT outbox_publish($arguments) FROM $from");
}

# The states of a topic's events, as "dead*1 published*9"
sub states
{
	my ($topic) = @_;
	return query(qq{
		SELECT string_agg(state || '*' || count, ' ' ORDER BY state)
		FROM (SELECT v.state, count(*) FROM outbox_events v
			  JOIN outbox_event e USING (event_id)
			  WHERE e.topic = '$topic' GROUP BY 1) s});
}

sub wait_states
{
	my ($topic, $wanted) = @_;
	my $states;
	my $reached = poll_until(
		sub { $states = states($topic); $states eq $wanted; },
		"$topic: states $wanted");
	diag("they are $states") unless $reached;
	return $reached;
}

# A topic's requests in their order: each an array of log entries
sub requests
{
	my ($topic, $from) = @_;
	my (@order, %requests);

	foreach my $entry (($from // $receiver)->log(topic => $topic))
	{
		my $request = "$entry->{conn}/$entry->{nth}";
		push @order, $request unless $requests{$request};
		push @{ $requests{$request} }, $entry;
	}
	return map { $requests{$_} } @order;
}

# The paths that a topic's events were sent to, without the topic
sub routes
{
	my ($topic, $from) = @_;
	return join ' ', map { s/\/\Q$topic\E$//r }
	  uniq map { $_->[0]{path} } requests($topic, $from);
}

# How often each of the events was tried, as "1 1 2"
sub tries
{
	my ($topic, @ids) = @_;
	my %tries;

	$tries{ $_->{id} // '' }++ foreach $receiver->log(topic => $topic);
	return join ' ', map { $tries{$_} // 0 } @ids;
}

# Tries that the relay has seen fail so far
sub failed_attempts
{
	return query('SELECT failed_attempts FROM outbox_stats');
}

# One of Dapr's errors, scripted
sub dapr_error
{
	my ($match, $status, $code, $message) = @_;
	return {
		match => $match,
		status => $status,
		body => { errorCode => $code, message => $message // 'scripted' },
	};
}

#
# A shared request
#

my $metadata = qq{'{"traceparent": "@{[TRACEPARENT]}", "tenant": "a \\\"b\\\""}'};
my @ids = publish(
	qq{'plain', jsonb_build_object('n', n), 'k' || n,
	   metadata => CASE n WHEN 1 THEN $metadata ELSE '{}'::jsonb END},
	'generate_series(1, 150) n');
wait_delivered($receiver, \@ids);
is(tries('plain', @ids), join(' ', (1) x 150), 'each event arrives once');
my @sizes = map { scalar @$_ } requests('plain');
cmp_ok(scalar(@sizes), '<', 10, 'in few requests');
cmp_ok(max(@sizes), '<=', 100, 'of at most 100 events');
is(routes('plain'), ALPHA, 'the alpha route is used at first');

my ($entry) = $receiver->log(id => $ids[0]);
my $envelope = $json->decode($entry->{envelope});
is_deeply(
	$entry->{metadata},
	{ tenant => 'a "b"', partitionKey => 'k1' },
	'metadata and key stand beside the event');
is($entry->{entry_id}, $ids[0], 'the event is named by its id');
is_deeply(
	[ @$envelope{qw(traceparent traceid partitionkey)} ],
	[ TRACEPARENT, TRACEPARENT, 'k1' ],
	'it is in its trace, and has its key');
($entry) = $receiver->log(id => $ids[1]);
is_deeply(
	$entry->{metadata},
	{ partitionKey => 'k2' },
	'an event without metadata has its key');

# The same event alone
reload($node, 'outbox.dapr_bulk' => 'off');
my @single = publish(q{'plain', jsonb_build_object('n', n)},
	'generate_series(2, 4) n');
wait_delivered($receiver, \@single);
is_deeply([ uniq map { $_->{path} } map { $receiver->log(id => $_) } @single ],
	[ SINGLE . '/plain' ], 'with dapr_bulk = off each event goes alone');
my ($alone) = $receiver->log(id => $single[0]);
my %expected = %{ $json->decode($alone->{envelope}) };
my %shared = %{ $json->decode($entry->{envelope}) };
delete @$_{qw(id time partitionkey)} foreach \%expected, \%shared;
is_deeply(\%shared, \%expected,
	'a shared event arrives as it would have arrived alone');
reload($node, 'outbox.dapr_bulk' => undef);

#
# Numbers
#

my @exact = qw(0 7 -12 123456789012345 -0.5 10.25 0.000001 3.14159265358979
  100000000000000);
my @inexact = qw(1.0 1.10 9007199254740993 1234567890123456 0.0000001
  0.1234567890123456 12345678901234567890.12345 -100.0 0.0);
my $numbers = join ', ', map { "('$_')" } @exact, @inexact;
@ids = publish(q{'auto', ('{"n": [' || n || ', "1e5 \\\\\" 1.0"]}')::jsonb},
	"(VALUES $numbers) v(n)");
wait_delivered($receiver, \@ids);
my @data = map { $receiver->accepted(id => $_) } @ids;
foreach my $number (@exact, @inexact)
{
	my $one = shift @data;
	like($one->{envelope}, qr/"data":\{"n":\[\Q$number\E,/,
		"$number arrives as it is");
}
is_deeply(
	[ map { ($receiver->log(id => $_))[0]{path} =~ /bulk/ ? 1 : 0 } @ids ],
	[ (1) x @exact, (0) x @inexact ],
	'those that bulk would change go alone, and no others');

reload($node, 'outbox.dapr_bulk' => 'on');
@ids = publish(q{'on', to_jsonb(9007199254740993 + n * 0)},
	'generate_series(1, 2) n');
wait_delivered($receiver, \@ids);
is_deeply([ map { $json->decode($_->{body})->{data} . '' }
		  map { $receiver->log(id => $_) } @ids ],
	[ ('9007199254740992') x 2 ],
	'with dapr_bulk = on bulk is used, and changes them');
reload($node, 'outbox.dapr_bulk' => undef);

# Other things than JSON
@ids = split /\n/, query(q{
	SELECT outbox_publish_bytes('bytes', '\xff00', 'image/png')
	FROM generate_series(1, 3)});
push @ids, publish(q{'bytes', '{}', metadata => '{"rawPayload": "true"}'},
	'generate_series(1, 2)');
wait_states('bytes', 'published*5');
is_deeply(
	[ sort map { ($_->[0]{path} =~ /bulk/ ? 'bulk ' : 'single ') . @$_ }
		  requests('bytes') ],
	[ 'bulk 3', 'single 1', 'single 1' ],
	'bytes share a request; what is to arrive raw goes alone');
is($json->decode(($receiver->log(id => $ids[0]))[0]{body})->{data_base64},
	'/wA=', 'bytes arrive as they are');

#
# Answers
#

# Entries that fail at the broker
$receiver->faults([ { match => { data => 'poison' }, component_error => 'boom' } ]);
@ids = publish(q{'entries', CASE WHEN n % 4 = 0 THEN '"poison"' ELSE '{}'::jsonb END},
	'generate_series(1, 12) n');
wait_states('entries', 'dead*3 published*9');
is(tries('entries', @ids), join(' ', (1, 1, 1, 3) x 3),
	'what failed is tried again, what was taken is not');
is(query(qq{SELECT count(*) FROM outbox_events
			WHERE event_id IN ('$ids[3]', '$ids[7]', '$ids[11]')
			AND attempts = 3 AND last_status = 500
			AND last_error ~ '^HTTP 500 ERR_PUBSUB_PUBLISH_MESSAGE: .*boom\$'}),
	'3', 'with the reason of each');
is(scalar(@{ (requests('entries'))[0] }), 12, 'they shared a request');

# Hundreds of long reasons fit.
$receiver->faults([ {
	entry_regex => '^', error => 'long', pad => 800, times => 1,
} ]);
@ids = publish(q{'long', CASE WHEN n = 1 THEN '"last"' ELSE '{}'::jsonb END},
	'generate_series(1, 100) n');
wait_states('long', 'published*100');
is(tries('long', @ids), join(' ', (2) x 100), 'a long list is read');

# A list that breaks off: any of them may have failed.
$receiver->faults([ {
	status => 500,
	body => '{"failedEntries":[{"entryId":"x","error":"y"},{"ent',
	times => 1,
} ]);
my $failed = failed_attempts();
@ids = publish(q{'torn', '{}'}, 'generate_series(1, 5) n');
wait_states('torn', 'published*5');
is(tries('torn', @ids), '2 2 2 2 2', 'after a torn list all are sent again');
is(failed_attempts() - $failed, 5, 'each with one attempt less');

# An event that can never be taken
$receiver->faults([
	dapr_error({ path => '/bulk/', data => '"spoilt"' },
		400, 'ERR_PUBSUB_EVENTS_SER'),
	dapr_error({ path => 'publish/pubsub', data => '"spoilt"' },
		500, 'ERR_PUBSUB_CLOUD_EVENTS_SER'),
]);
$failed = failed_attempts();
@ids = publish(q{'bad', CASE WHEN n = 5 THEN '"spoilt"' ELSE '{}'::jsonb END},
	'generate_series(1, 10) n');
wait_states('bad', 'dead*1 published*9');
is(query(qq{SELECT attempts, last_error FROM outbox_events
			WHERE event_id = '$ids[4]'}),
	'1|HTTP 500 ERR_PUBSUB_CLOUD_EVENTS_SER: scripted',
	'one bad event is dead, of itself');
is(failed_attempts() - $failed, 1, 'the others lost no attempt by it');

# No answer
$receiver->faults([ { match => { path => '/bulk/' }, action => 'hang', times => 1 } ]);
@ids = publish(q{'hang', '{}'}, 'generate_series(1, 5) n');
wait_delivered($receiver, \@ids);
$receiver->faults([]);
wait_states('hang', 'published*5');

#
# Keys
#

$receiver->faults([
	{ match => { topic => 'keys' }, every => 3, indexes => [ 0, 2, 5 ] } ]);
reload($node, 'outbox.max_retry_times' => 1000);
publish(q{'keys', to_jsonb(n), 'k' || n % 7}, 'generate_series(1, 210) n');
wait_states('keys', 'published*210');
$receiver->faults([]);
reload($node, 'outbox.max_retry_times' => 2);
my (%taken, $doubled);
foreach my $request (requests('keys'))
{
	my @keys = map { $_->{key} } @$request;
	$doubled = 1 if uniq(@keys) < @keys;
	push @{ $taken{ $_->{key} } }, $json->decode($_->{body})->{data}
	  foreach grep { $_->{accepted} } @$request;
}
ok(!$doubled, 'no request has two events of a key');
is_deeply(
	[ map { join ' ', @{ $taken{"k$_"} } } 0 .. 6 ],
	[ map { my $key = $_; join ' ', grep { $_ % 7 == $key } 1 .. 210 } 0 .. 6 ],
	'the order by key is kept');
like(routes('keys'), qr/bulk/, 'while requests were shared');

#
# Routes
#

# The sidecar says that it is a new one.
my $wave = 0;
poll_until(
	sub {
		$wave++;
		wait_delivered($receiver,
			[ publish("'wave$wave', '{}'", 'generate_series(1, 3)') ]);
		return routes("wave$wave") eq STABLE;
	},
	'the stable route to be used');
$receiver->faults([ dapr_error({ path => '^' . STABLE },
		404, 'ERR_PUBSUB_NOT_FOUND', 'pubsub bulk is not found') ]);
$failed = failed_attempts();
publish(q{'older', '{}'}, 'generate_series(1, 3)');
wait_states('older', 'published*3');
is(routes('older'), STABLE . ' ' . ALPHA,
	'where there is no stable route the alpha one is used');
$receiver->faults([ dapr_error({ path => '^' . ALPHA },
		404, 'ERR_DIRECT_INVOKE') ]);
publish(q{'denied', '{}'}, 'generate_series(1, 3)');
wait_states('denied', 'published*3');
is(routes('denied'), ALPHA . ' ' . SINGLE, 'where there is none, none');
publish(q{'after', '{}'}, 'generate_series(1, 3)');
wait_states('after', 'published*3');
is(routes('after'), SINGLE, 'nor is it tried again');
is(failed_attempts() - $failed, 0, 'no event lost an attempt by it');
$receiver->faults([]);

# A component that is missing is another thing.
reload(
	$node,
	'outbox.dapr_pubsub_name' => 'nope',
	'outbox.breaker_threshold' => 1,
	'outbox.breaker_probe_interval' => '20ms');
@ids = publish(q{'nope', '{}'}, 'generate_series(1, 3)');
poll_until(sub { $receiver->log(topic => 'nope') >= 5 }, 'many tries');
like(query('SELECT last_error FROM outbox_relays'),
	qr/^HTTP 404 ERR_PUBSUB_NOT_FOUND: pubsub nope is not found/,
	'a missing component is reported');
is(query(qq{SELECT sum(attempts) FROM outbox_events
			WHERE event_id IN ('$ids[0]', '$ids[1]', '$ids[2]')}),
	'0', 'and costs no attempts');
reload($node, 'outbox.dapr_pubsub_name' => undef);
wait_delivered($receiver, \@ids);

# An old sidecar
my $old = start_receiver(mode => 'dapr', profile => '1.16');
reload($node, 'outbox.dapr_endpoint' => $old->url);
foreach my $topic (qw(old1 old2))
{
	wait_delivered($old, [ publish("'$topic', '{}'", 'generate_series(1, 3)') ]);
	poll_until(sub { $old->log(path => '/v1.0/metadata', status => 200) },
		'the sidecar to tell its version');
	is(routes($topic, $old), ALPHA, "$topic: an old sidecar, the alpha route");
}

#
# CloudEvents' batch mode
#

my $endpoint = start_receiver(mode => 'http');

# A batch that is under way is recalled when the publisher changes.
reload($node, 'outbox.request_timeout' => '60s');
$old->faults([ { action => 'hang' } ]);
my @recalled = publish(q{'recalled', '{}'}, 'generate_series(1, 5) n');
poll_until(sub { $old->faults->[0]{seen} }, 'a batch to be under way');
reload(
	$node,
	'outbox.publisher' => 'http',
	'outbox.http_url' => $endpoint->url . '/in/{topic}',
	'outbox.http_batch_size' => 10);

# The arrays that were posted for a topic and taken
sub batches
{
	my ($topic) = @_;
	return map { $json->decode($_->{body}) }
	  $endpoint->accepted(path => "/in/$topic");
}

wait_states('recalled', 'published*5');
is_deeply([ sort map { $_->{id} } map { @$_ } batches('recalled') ],
	[ sort @recalled ], 'a batch under way is recalled');

@ids = publish(q{'batch', to_jsonb(n + 0.10), 'k' || n}, 'generate_series(1, 25) n');
wait_states('batch', 'published*25');
my @events = map { @$_ } batches('batch');
is_deeply([ sort map { $_->{id} } @events ],
	[ sort @ids ], 'a batch is an array of events, each there once');
@sizes = map { scalar @$_ } batches('batch');
cmp_ok(max(@sizes), '<=', 10, 'of at most http_batch_size events');
cmp_ok(scalar(@sizes), '<', 10, 'in few requests');
is_deeply(
	[ uniq map { $_->{headers}{'content-type'} } $endpoint->log ],
	['application/cloudevents-batch+json'],
	'of their own content type');
is_deeply([ sort keys %{ $events[0] } ],
	[ qw(data datacontenttype id partitionkey source specversion time topic type) ],
	'an event is a complete CloudEvent');
like(($endpoint->log(path => '/in/batch'))[0]{body}, qr/"data":1\.10\}/, 'numbers are as they were');

publish(q{'one', '{}'}, '(VALUES (1)) v');
wait_states('one', 'published*1');
is_deeply([ map { scalar @$_ } batches('one') ], [1], 'one event is an array, too');

$endpoint->faults([ { match => { data => '"spoilt"' }, status => 400, body => 'no' } ]);
@ids = publish(q{'sieve', CASE WHEN n = 3 THEN '"spoilt"' ELSE '{}'::jsonb END},
	'generate_series(1, 10) n');
wait_states('sieve', 'dead*1 published*9');
is(query(qq{SELECT attempts, last_error FROM outbox_events
			WHERE event_id = '$ids[2]'}),
	'1|HTTP 400: no', 'a bad event is dead, of itself');
is_deeply([ sort map { $_->{id} } map { @$_ } batches('sieve') ],
	[ sort @ids[ 0, 1, 3 .. 9 ] ], 'the others are taken');
is_deeply([ map { scalar @{ $json->decode($_->{body}) } }
		  $endpoint->log(path => '/in/sieve', status => 400) ],
	[ 10, 1 ], 'after a refused request each is sent alone');

# One that fails at every try must not take the others along each time.
reload(
	$node,
	'outbox.breaker_threshold' => 0,
	'outbox.max_retry_times' => 1000);
$endpoint->faults([ { match => { data => '"broken"' }, status => 500 } ]);
@ids = publish(q{'apart', CASE WHEN n = 3 THEN '"broken"' ELSE '{}'::jsonb END},
	'generate_series(1, 10) n');
poll_until(
	sub {
		query(q{SELECT count(*) FROM outbox_events
				WHERE topic = 'apart' AND state = 'published'}) == 9;
	},
	'the others to be published');
is_deeply([ map { scalar @$_ } batches('apart') ],
	[ (1) x 9 ], 'what failed together is tried again one by one');
$endpoint->faults([]);
wait_states('apart', 'published*10');

# Which events may share a request is another question for another publisher.
reload($node, 'outbox.request_timeout' => '60s');
$endpoint->faults([ { action => 'hang' } ]);
publish(q{'exact', '12345678901234567890'}, 'generate_series(1, 3)');
poll_until(sub { $endpoint->faults->[0]{seen} }, 'a batch to be under way');
reload($node, 'outbox.publisher' => 'dapr',
	'outbox.dapr_endpoint' => $receiver->url);
wait_states('exact', 'published*3');
is(routes('exact'), SINGLE, 'a change of the publisher alters no numbers');

done_testing();
