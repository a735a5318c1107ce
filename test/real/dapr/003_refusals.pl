# What the real daprd refuses, and which of it is an event's fault, a topic's or
# everybody's.
#
# Promises:
# - Without the token that it asks for nothing is sent and no attempt counted;
#   with it all arrives.
# - A topic that its scopes forbid is down, and no other one notices; once it is
#   allowed its events arrive.
# - An event that is too large is dead at once, alone and in company.
# - Key and metadata that are too long for a URL arrive by the bulk API; with
#   rawPayload the event is dead at once, unless --read-buffer-size is larger.
# - A number that no subscriber could decode makes its event dead at once.
# - Without its component all waits, and no attempt is counted.
# - It is reached by its Unix socket.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;
use Real::Dapr;
use Real::DaprSubscriber;
use Real::Redis;

use constant {
	TOKEN => 'canary-token-3f9a',
	LONG => 4000,    # characters: near what an event's metadata may have
	TIMEOUT => 60,
};

my $missing = Real::Redis->missing // Real::Dapr->missing;
plan skip_all => $missing if $missing;

my $dir = PostgreSQL::Test::Utils::tempdir_short();
my $redis = Real::Redis->new;
my %metadata = (redisHost => '127.0.0.1:' . $redis->port, redisPassword => '');
my $subscriber = Real::DaprSubscriber->new(
	topics => { pubsub => [qw(token free1 free2 forbidden sizes long numbers gone socket)] },
	raw_topics => { pubsub => ['raw'] });
my $node = new_node('refusals', conf => { 'outbox.max_payload_size' => '16MB' });
query($node, 'CREATE EXTENSION outbox');

# A sidecar whose component may have more metadata, and that takes the node's
# events from now on
sub new_dapr
{
	my ($more, %options) = @_;
	my $dapr = Real::Dapr->new(
		components => { pubsub => [ 'pubsub.redis', { %metadata, %{ $more // {} } } ] },
		subscriber => $subscriber,
		%options);
	reload($node, 'outbox.dapr_endpoint' => $dapr->endpoint);
	return $dapr;
}

sub handed
{
	my ($id) = @_;
	my @found;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	poll_until(sub { @found = $subscriber->events(id => $id) },
		"event $id to be handed to the application", TIMEOUT);
	is(scalar(@found), 1, 'it is handed to the application, once');
	return $found[0];
}

sub dead_at_once
{
	my ($id, $error) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_state($node, $id, 'dead', TIMEOUT);
	is(event_value($node, $id, 'attempts'), 1, 'it is dead at once');
	like(event_value($node, $id, 'last_error'), $error, 'with the reason');
	return;
}

promise 'nothing is sent without the token' => sub {
	my $dapr = new_dapr(undef, token => TOKEN);
	my $id = publish($node, 'token');
	wait_relay_value($node, state => 'endpoint down', TIMEOUT);
	like(relay_value($node, 'last_error'), qr/HTTP 401/, 'a token is asked for');
	is(event_value($node, $id, 'state, attempts'), 'pending|0', 'no attempt is counted');

	write_secret("$dir/token", TOKEN);
	reload($node, 'outbox.dapr_api_token_file' => "$dir/token");
	wait_state($node, $id, 'published', TIMEOUT);
	handed($id);
};

promise 'a topic that is forbidden holds up no other one' => sub {
	my $dapr = new_dapr({ publishingScopes => 'relay=free1,free2' });
	my @forbidden = publish($node, 'forbidden', count => 200);
	poll_until(
		sub { try_query($node, q{SELECT state FROM outbox_topics
			WHERE topic = 'forbidden'}) eq 'down' },
		'the forbidden topic to be down', TIMEOUT);
	like(query($node, q{SELECT last_error FROM outbox_topics WHERE topic = 'forbidden'}),
		qr/HTTP 403 ERR_PUBSUB_FORBIDDEN: topic forbidden is not allowed for app id relay/,
		'outbox_topics says why');

	my @free = map { publish($node, $_, count => 200) } qw(free1 free2);
	wait_state($node, \@free, 'published', TIMEOUT);
	is(scalar(grep { event_value($node, $_, 'attempts') ne '1' } @free), 0,
		'the allowed topics need one try for each event');
	is(query($node, q{SELECT count(*) FROM outbox_events
		WHERE topic = 'forbidden' AND state = 'dead'}), 0, 'no event is dead');

	undef $dapr;
	$dapr = new_dapr();
	wait_state($node, \@forbidden, 'published', TIMEOUT);
	handed($forbidden[0]);
};

foreach my $bulk (qw(off on))
{
	promise "an event that is too large takes no other one along, dapr_bulk = $bulk" => sub {
		my $dapr = new_dapr();
		reload($node, 'outbox.dapr_bulk' => $bulk);
		my @ids = publish($node, 'sizes', count => 9,
			payload => q{to_jsonb(repeat('x', CASE n WHEN 5 THEN 5000000 ELSE 10 END))});
		my ($large) = splice @ids, 4, 1;
		dead_at_once($large, qr/stream too large/);
		wait_state($node, \@ids, 'published', TIMEOUT);
		is(query($node, q{SELECT count(*) FROM outbox_events
			WHERE topic = 'sizes' AND state = 'dead'}),
			$bulk eq 'off' ? 1 : 2, 'no other one is');
	};
}

promise 'key and metadata that a URL has no room for arrive' => sub {
	my $dapr = new_dapr();
	# A character is nine in a URL.
	my $metadata = sprintf(q{metadata => jsonb_build_object('note', repeat('€', %d))},
		LONG / 3);
	my $id = publish($node, 'long', more => $metadata);
	wait_state($node, $id, 'published', TIMEOUT);
	handed($id);

	my $key = "\x{20ac}" x 80;
	$id = publish($node, 'long', key => $key, more => $metadata);
	wait_state($node, $id, 'published', TIMEOUT);
	is(handed($id)->{event}{partitionkey}, $key, 'with its key');

	my $raw = sprintf(q{metadata => jsonb_build_object('note', repeat('€', %d),
		'rawPayload', 'true')}, LONG / 3 - 30);
	$id = publish($node, 'raw', key => $key, more => $raw);
	dead_at_once($id, qr/do not fit into daprd.s limit for a URL/);

	undef $dapr;
	$dapr = new_dapr(undef, arguments => [ '--read-buffer-size' => '64Ki' ]);
	query($node, "SELECT outbox_retry('$id')");
	wait_state($node, $id, 'published', TIMEOUT);
};

promise 'a number that no subscriber could decode is not sent' => sub {
	my $dapr = new_dapr();
	foreach my $bulk (qw(off on auto))
	{
		reload($node, 'outbox.dapr_bulk' => $bulk);
		my ($bad, $good) = publish($node, 'numbers', count => 2,
			payload => q{CASE n WHEN 1 THEN '{"n": 1e400}' ELSE '{"n": 1e308}'::jsonb END});
		dead_at_once($bad, qr/float64/);
		wait_state($node, $good, 'published', TIMEOUT);
		handed($good);
	}
	my $id = publish($node, 'raw', payload => q{'{"n": 1e400}'},
		more => q{metadata => '{"rawPayload": "true"}'});
	wait_state($node, $id, 'published', TIMEOUT);
};

promise 'without its component all waits' => sub {
	my $dapr = Real::Dapr->new(
		features => ['HotReload'],
		subscriber => $subscriber,
		components => { other => ['pubsub.in-memory'] });
	reload($node, 'outbox.dapr_endpoint' => $dapr->endpoint);
	my $id = publish($node, 'gone');
	wait_relay_value($node, state => 'endpoint down', TIMEOUT);
	like(relay_value($node, 'last_error'), qr/HTTP 404 ERR_PUBSUB_NOT_FOUND/,
		'there is no such component');
	is(event_value($node, $id, 'state, attempts'), 'pending|0', 'no attempt is counted');
	$dapr->component('pubsub', 'pubsub.redis', \%metadata);
	wait_state($node, $id, 'published', TIMEOUT);
};

promise 'it is reached by its Unix socket' => sub {
	my $dapr = new_dapr(undef, unix => 1);
	my $id = publish($node, 'socket');
	wait_state($node, $id, 'published', TIMEOUT);
	handed($id);
};

done_testing();
