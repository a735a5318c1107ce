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
#   and none of them loses an attempt by it, until there is another daprd.

use strict;
use warnings FATAL => 'all';

use JSON::PP ();
use List::Util qw(max uniq);
use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;

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
		'outbox.request_timeout' => '1s',
		'outbox.breaker_threshold' => 0,
		'outbox.max_retry_times' => 2,
		'outbox.local_retry_times' => 1,
		'outbox.local_failed_retry_interval' => '20ms',
		'outbox.failed_retry_interval' => '20ms',
		'outbox.max_retry_interval' => '20ms',
		'outbox.minimum_retry_interval' => '0',
	});
query($node, 'CREATE EXTENSION outbox');

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

# Payloads of which the n-th ones are this text, and the others empty
sub payload_at
{
	my ($text, @n) = @_;
	return sprintf(q{CASE WHEN n IN (%s) THEN '"%s"' ELSE '{}'::jsonb END},
		join(', ', @n), $text);
}

# Tries that the relay has seen fail so far
sub failed_attempts
{
	return stat_value($node, 'failed_attempts');
}

# --- A shared request

promise 'what is pending for a topic shares requests' => sub {
	my $metadata = qq{'{"traceparent": "@{[TRACEPARENT]}", "tenant": "a \\\"b\\\""}'};
	my @ids = publish(
		$node, 'plain',
		count => 150,
		payload => q{jsonb_build_object('n', n)},
		more => qq{key => 'k' || n,
			metadata => CASE n WHEN 1 THEN $metadata ELSE '{}'::jsonb END});
	wait_delivered($receiver, \@ids);
	is(tries('plain', @ids), join(' ', (1) x 150), 'each event arrives once');
	my @sizes = map { scalar @$_ } requests('plain');
	cmp_ok(scalar(@sizes), '<', 10, 'in few requests');
	cmp_ok(max(@sizes), '<=', 100, 'of at most 100 events');

	my ($entry) = $receiver->log(id => $ids[0]);
	is_deeply(
		$entry->{metadata},
		{ tenant => 'a "b"', partitionKey => 'k1' },
		'metadata and key stand beside the event');
	is($entry->{entry_id}, $ids[0], 'the event is named by its id');
	my $envelope = $json->decode($entry->{envelope});
	is_deeply(
		[ @$envelope{qw(traceparent traceid partitionkey)} ],
		[ TRACEPARENT, TRACEPARENT, 'k1' ],
		'it is in its trace, and has its key');
	($entry) = $receiver->log(id => $ids[1]);
	is_deeply(
		$entry->{metadata},
		{ partitionKey => 'k2' },
		'an event without metadata has its key');
};

promise 'a shared event arrives as it would have arrived alone' => sub {
	my %event = (count => 3, payload => q{jsonb_build_object('n', n)});
	my @shared = publish($node, 'alike', %event);
	wait_delivered($receiver, \@shared);
	like(routes('alike'), qr/bulk/, 'events share a request');
	my ($together) = $receiver->log(id => $shared[0]);

	reload($node, 'outbox.dapr_bulk' => 'off');
	my @single = publish($node, 'alike', %event);
	wait_delivered($receiver, \@single);
	is_deeply([ uniq map { $_->{path} } map { $receiver->log(id => $_) } @single ],
		[ SINGLE . '/alike' ], 'with dapr_bulk = off each event goes alone');
	my ($alone) = $receiver->log(id => $single[0]);
	my %expected = %{ $json->decode($alone->{envelope}) };
	my %shared = %{ $json->decode($together->{envelope}) };
	delete @$_{qw(id time)} foreach \%expected, \%shared;
	is_deeply(\%shared, \%expected,
		'a shared event arrives as it would have arrived alone');
};

# --- Numbers

promise 'with dapr_bulk = auto numbers arrive as they were published' => sub {
	my @exact = qw(0 7 -12 123456789012345 -0.5 10.25 0.000001 3.14159265358979
	  100000000000000);
	my @inexact = qw(1.0 1.10 9007199254740993 1234567890123456 0.0000001
	  0.1234567890123456 12345678901234567890.12345 -100.0 0.0);
	my $numbers = join ', ', map { "'$_'" } @exact, @inexact;
	my @ids = publish(
		$node, 'auto',
		count => @exact + @inexact,
		payload =>
		  q{('{"n": [' || (ARRAY[NUMBERS])[n] || ', "1e5 \\\\\" 1.0"]}')::jsonb}
		  =~ s/NUMBERS/$numbers/r);
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
};

promise 'with dapr_bulk = on bulk is used, and changes them' => sub {
	reload($node, 'outbox.dapr_bulk' => 'on');
	my @ids = publish($node, 'on',
		count => 2,
		payload => 'to_jsonb(9007199254740993 + n * 0)');
	wait_delivered($receiver, \@ids);
	is_deeply([ map { cloud_event($_)->{data} . '' }
			  map { $receiver->log(id => $_) } @ids ],
		[ ('9007199254740992') x 2 ],
		'with dapr_bulk = on bulk is used, and changes them');
};

promise 'bytes share a request, what is to arrive raw does not' => sub {
	my @ids = split /\n/, query($node, q{
		SELECT outbox_publish_bytes('bytes', '\xff00', 'image/png')
		FROM generate_series(1, 3)});
	publish($node, 'bytes',
		count => 2,
		more => q{metadata => '{"rawPayload": "true"}'});
	wait_states($node, 'bytes', 'published*5');
	is_deeply(
		[ sort map { ($_->[0]{path} =~ /bulk/ ? 'bulk ' : 'single ') . @$_ }
			  requests('bytes') ],
		[ 'bulk 3', 'single 1', 'single 1' ],
		'bytes share a request; what is to arrive raw goes alone');
	is(cloud_event($receiver->log(id => $ids[0]))->{data_base64},
		'/wA=', 'bytes arrive as they are');
};

# --- Answers

promise 'what failed at the broker is tried again, what was taken is not' => sub {
	$receiver->faults(
		[ { match => { data => 'poison' }, component_error => 'boom' } ]);
	my @ids = publish($node, 'entries',
		count => 12,
		payload => payload_at('poison', 4, 8, 12));
	wait_states($node, 'entries', join ' ', ('published*3 dead*1') x 3);
	is(tries('entries', @ids), join(' ', (1, 1, 1, 3) x 3),
		'what failed is tried again, what was taken is not');
	is( query($node, qq{SELECT count(*) FROM outbox_events
			WHERE event_id IN ('$ids[3]', '$ids[7]', '$ids[11]')
			AND attempts = 3 AND last_status = 500
			AND last_error ~ '^HTTP 500 ERR_PUBSUB_PUBLISH_MESSAGE: .*boom\$'}),
		'3', 'with the reason of each');
	is(scalar(@{ (requests('entries'))[0] }), 12, 'they shared a request');
};

promise 'hundreds of long reasons fit' => sub {
	$receiver->faults([ {
		entry_regex => '^', error => 'long', pad => 800, times => 1,
	} ]);
	my @ids = publish($node, 'long',
		count => 100,
		payload => payload_at('last', 1));
	wait_states($node, 'long', 'published*100');
	is(tries('long', @ids), join(' ', (2) x 100), 'a long list is read');
};

promise 'after a list that breaks off all are sent again' => sub {
	$receiver->faults([ {
		status => 500,
		body => '{"failedEntries":[{"entryId":"x","error":"y"},{"ent',
		times => 1,
	} ]);
	my $failed = failed_attempts();
	my @ids = publish($node, 'torn', count => 5);
	wait_states($node, 'torn', 'published*5');
	is(tries('torn', @ids), '2 2 2 2 2', 'after a torn list all are sent again');
	is(failed_attempts() - $failed, 5, 'each with one attempt less');
};

promise 'an event that can never be taken does not take the others along' => sub {
	$receiver->faults([
		dapr_error(400, 'ERR_PUBSUB_EVENTS_SER',
			match => { path => '/bulk/', data => '"spoilt"' }),
		dapr_error(500, 'ERR_PUBSUB_CLOUD_EVENTS_SER',
			match => { path => 'publish/pubsub', data => '"spoilt"' }),
		{ match => { topic => 'bad' }, delay_response => 0.05 },
	]);
	reload(
		$node,
		'outbox.max_retry_times' => 0,
		'outbox.max_in_flight' => 2);
	my @ids = publish($node, 'bad',
		count => 10,
		payload => payload_at('spoilt', 5));
	wait_states($node, 'bad', 'published*4 dead*1 published*5');
	is(event_value($node, $ids[4], 'attempts, last_error'),
		'1|HTTP 500 ERR_PUBSUB_CLOUD_EVENTS_SER: scripted',
		'one bad event is dead, of itself, and no other lost the attempt it had');
	is($receiver->stats->{max_concurrent}, 2, 'nor are they sent all at once');
};

promise 'a request without an answer is made again' => sub {
	$receiver->faults(
		[ { match => { path => '/bulk/' }, action => 'hang', times => 1 } ]);
	my @ids = publish($node, 'hang', count => 5);
	wait_delivered($receiver, \@ids);
	$receiver->faults([]);
	wait_states($node, 'hang', 'published*5');
};

# --- Keys

promise 'no request has two events of a key, and their order is kept' => sub {
	$receiver->faults([
		{ match => { topic => 'keys' }, every => 3, indexes => [ 0, 2, 5 ] } ]);
	reload($node, 'outbox.max_retry_times' => 1000);
	publish($node, 'keys', count => 210, more => q{key => 'k' || n % 7});
	wait_states($node, 'keys', 'published*210');
	my (%taken, $doubled);
	foreach my $request (requests('keys'))
	{
		my @keys = map { $_->{key} } @$request;
		$doubled = 1 if uniq(@keys) < @keys;
		push @{ $taken{ $_->{key} } }, cloud_event($_)->{data}
		  foreach grep { $_->{accepted} } @$request;
	}
	ok(!$doubled, 'no request has two events of a key');
	is_deeply(
		[ map { join ' ', @{ $taken{"k$_"} } } 0 .. 6 ],
		[ map { my $key = $_; join ' ', grep { $_ % 7 == $key } 1 .. 210 } 0 .. 6 ],
		'the order by key is kept');
	like(routes('keys'), qr/bulk/, 'while requests were shared');
};

# --- Routes: a new relay does not know its sidecar

promise 'the alpha route is used until a sidecar says that it is a new one' => sub {
	restart_relay($node);
	my $topic = 'wave0';
	my @routes;
	poll_until(
		sub {
			$topic++;
			wait_delivered($receiver, [ publish($node, $topic, count => 3) ]);
			push @routes, routes($topic);
			return $routes[-1] eq STABLE;
		},
		'the stable route to be used');
	is($routes[0], ALPHA, 'the alpha route is used at first');
};

promise 'where there is no bulk route events go alone, and lose no attempt' => sub {
	reload($node, 'outbox.max_retry_times' => 0);    # who loses one is dead
	restart_relay($node);
	poll_until(
		sub {
			wait_delivered($receiver, [ publish($node, 'known', count => 3) ]);
			return routes('known') =~ /@{[STABLE]}/;
		},
		'the stable route to be used');
	$receiver->faults([ dapr_error(404, 'ERR_PUBSUB_NOT_FOUND',
		match => { path => '^' . STABLE },
		body => {
			errorCode => 'ERR_PUBSUB_NOT_FOUND',
			message => 'pubsub bulk is not found',
		}) ]);
	publish($node, 'older', count => 3);
	wait_states($node, 'older', 'published*3');
	is(routes('older'), STABLE . ' ' . ALPHA,
		'where there is no stable route the alpha one is used');
	$receiver->faults([ dapr_error(404, 'ERR_DIRECT_INVOKE',
		match => { path => '^' . ALPHA }) ]);
	publish($node, 'denied', count => 3);
	wait_states($node, 'denied', 'published*3');
	is(routes('denied'), ALPHA . ' ' . SINGLE, 'where there is none, none');
	publish($node, 'after', count => 3);
	wait_states($node, 'after', 'published*3');
	is(routes('after'), SINGLE, 'nor is it tried again');
};

promise 'a bulk route that comes with another version of the sidecar is used' => sub {
	my $topic = 'version0';
	my $uses = sub {
		my ($route) = @_;
		$topic++;
		wait_delivered($receiver, [ publish($node, $topic, count => 3) ]);
		return routes($topic) eq $route;
	};
	reload($node, 'outbox.breaker_probe_interval' => '20ms');
	restart_relay($node);
	poll_until(sub { $uses->(STABLE) }, 'the stable route to be used');
	$receiver->faults(
		[ dapr_error(404, 'ERR_DIRECT_INVOKE', match => { path => '/bulk/' }) ]);
	poll_until(sub { $uses->(SINGLE) }, 'both to be missing');
	my $asked = $receiver->log(path => '/v1.0/metadata');
	poll_until(
		sub {
			!$uses->(SINGLE) || $receiver->log(path => '/v1.0/metadata') > $asked + 2;
		},
		'the version to be asked for');
	ok($uses->(SINGLE), 'the same version has the same routes');
	$receiver->faults([ {
		match => { path => '/v1.0/metadata' },
		status => 200,
		body => { runtimeVersion => '1.99.0' },
	} ]);
	poll_until(sub { $uses->(STABLE) }, 'the stable route to be used again');
};

promise 'a component that is missing is reported and costs no attempts' => sub {
	reload(
		$node,
		'outbox.dapr_pubsub_name' => 'nope',
		'outbox.breaker_threshold' => 1,
		'outbox.breaker_probe_interval' => '20ms');
	my @ids = publish($node, 'nope', count => 3);
	poll_until(sub { $receiver->log(topic => 'nope') >= 5 }, 'many tries');
	like(relay_value($node, 'last_error'),
		qr/^HTTP 404 ERR_PUBSUB_NOT_FOUND: pubsub nope is not found/,
		'a missing component is reported');
	is( query($node, q{SELECT sum(attempts) FROM outbox_events
			WHERE topic = 'nope'}),
		'0', 'and costs no attempts');
	reload($node, 'outbox.dapr_pubsub_name' => undef);
	wait_delivered($receiver, \@ids);
};

promise 'with an old sidecar the alpha route is used' => sub {
	my $old = start_receiver(mode => 'dapr', profile => '1.16');
	reload($node, 'outbox.dapr_endpoint' => $old->url);
	foreach my $topic (qw(old1 old2))
	{
		wait_delivered($old, [ publish($node, $topic, count => 3) ]);
		poll_until(sub { $old->log(path => '/v1.0/metadata', status => 200) },
			'the sidecar to tell its version');
		is(routes($topic, $old), ALPHA, "$topic: an old sidecar, the alpha route");
	}
};

# --- CloudEvents' batch mode

my $endpoint = start_receiver(mode => 'http');

sub use_http
{
	my (%more) = @_;
	return reload(
		$node,
		'outbox.publisher' => 'http',
		'outbox.http_url' => $endpoint->url . '/in/{topic}',
		'outbox.http_batch_size' => 10,
		%more);
}

# The arrays that were posted for a topic and taken
sub batches
{
	my ($topic) = @_;
	return map { $json->decode($_->{body}) }
	  $endpoint->accepted(path => "/in/$topic");
}

promise 'a batch under way is recalled when the publisher changes' => sub {
	reload($node, 'outbox.request_timeout' => '60s');
	$receiver->faults([ { match => { topic => 'recalled' }, action => 'hang' } ]);
	my @ids = publish($node, 'recalled', count => 5);
	poll_until(sub { $receiver->faults->[0]{seen} }, 'a batch to be under way');
	use_http();
	wait_states($node, 'recalled', 'published*5');
	is_deeply([ sort map { $_->{id} } map { @$_ } batches('recalled') ],
		[ sort @ids ], 'a batch under way is recalled');
};

promise 'a batch is an array of complete events' => sub {
	use_http();
	my @ids = publish($node, 'batch',
		count => 25,
		payload => 'to_jsonb(n + 0.10)',
		more => q{key => 'k' || n});
	wait_states($node, 'batch', 'published*25');
	my @events = map { @$_ } batches('batch');
	is_deeply([ sort map { $_->{id} } @events ],
		[ sort @ids ], 'a batch is an array of events, each there once');
	my @sizes = map { scalar @$_ } batches('batch');
	cmp_ok(max(@sizes), '<=', 10, 'of at most http_batch_size events');
	cmp_ok(scalar(@sizes), '<', 10, 'in few requests');
	is_deeply(
		[ uniq map { $_->{headers}{'content-type'} } $endpoint->log ],
		['application/cloudevents-batch+json'],
		'of their own content type');
	is_deeply([ sort keys %{ $events[0] } ],
		[ qw(data datacontenttype id partitionkey source specversion time topic type) ],
		'an event is a complete CloudEvent');
	like(($endpoint->log(path => '/in/batch'))[0]{body}, qr/"data":1\.10\}/,
		'numbers are as they were');

	publish($node, 'one');
	wait_states($node, 'one', 'published*1');
	is_deeply([ map { scalar @$_ } batches('one') ], [1],
		'one event is an array, too');
};

promise 'after a refused batch each event is sent alone' => sub {
	use_http();
	$endpoint->faults(
		[ { match => { data => '"spoilt"' }, status => 400, body => 'no' } ]);
	my @ids = publish($node, 'sieve',
		count => 10,
		payload => payload_at('spoilt', 3));
	wait_states($node, 'sieve', 'published*2 dead*1 published*7');
	is(event_value($node, $ids[2], 'attempts, last_error'),
		'1|HTTP 400: no', 'a bad event is dead, of itself');
	is_deeply([ sort map { $_->{id} } map { @$_ } batches('sieve') ],
		[ sort @ids[ 0, 1, 3 .. 9 ] ], 'the others are taken');
	is_deeply([ map { scalar @{ $json->decode($_->{body}) } }
			  $endpoint->log(path => '/in/sieve', status => 400) ],
		[ 10, 1 ], 'after a refused request each is sent alone');
};

# One that fails at every try must not take the others along each time.
promise 'what failed together is tried again one by one' => sub {
	use_http('outbox.max_retry_times' => 1000);
	$endpoint->faults([ { match => { data => '"broken"' }, status => 500 } ]);
	publish($node, 'apart', count => 10, payload => payload_at('broken', 3));
	poll_until(
		sub {
			query($node, q{SELECT count(*) FROM outbox_events
				WHERE topic = 'apart' AND state = 'published'}) == 9;
		},
		'the others to be published');
	is_deeply([ map { scalar @$_ } batches('apart') ],
		[ (1) x 9 ], 'what failed together is tried again one by one');
	$endpoint->faults([]);
	wait_states($node, 'apart', 'published*10');
};

# Which events may share a request is another question for another publisher.
promise 'a change of the publisher alters no numbers' => sub {
	use_http('outbox.request_timeout' => '60s');
	$endpoint->faults([ { action => 'hang' } ]);
	publish($node, 'exact', count => 3, payload => q{'12345678901234567890'});
	poll_until(sub { $endpoint->faults->[0]{seen} }, 'a batch to be under way');
	reload($node, 'outbox.publisher' => 'dapr');
	wait_states($node, 'exact', 'published*3');
	is(routes('exact'), SINGLE, 'a change of the publisher alters no numbers');
};

done_testing();
