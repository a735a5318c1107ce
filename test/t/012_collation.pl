# Promise: the order of events by key does not depend on how the database sorts
# text, which may change with the libraries of the operating system while an
# index stays as it was.

use strict;
use warnings FATAL => 'all';

use lib 'test/lib';
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $receiver = start_receiver(mode => 'dapr');
my $node = new_node(
	'collation',
	conf => {
		'outbox.dapr_endpoint' => $receiver->url,
		'outbox.poll_interval' => '100ms',
		# so many events are refused that it would be nobody's fault among them
		'outbox.breaker_threshold' => 1000,
	});

plan skip_all => 'this server was built without ICU'
  unless $node->safe_psql('postgres',
	q{SELECT count(*) FROM pg_collation WHERE collprovider = 'i'}) > 0;

# With English and Swedish rules, the last three are in different places.
my @keys = ('a' .. 'z', map { "chr($_)" } 0xe4, 0xe5, 0xf6);
my $keys = join ', ', map { /chr/ ? $_ : "'$_'" } @keys;

$node->safe_psql('postgres', q{
	CREATE DATABASE sorted TEMPLATE template0 ENCODING 'UTF8'
		LOCALE_PROVIDER icu ICU_LOCALE 'en' LOCALE 'C'});
$node->safe_psql('sorted', 'CREATE EXTENSION outbox');

# Publish an event of each key; their ids, in the order of the keys.
sub publish_keys
{
	return split /\n/, $node->safe_psql(
		'sorted', qq{
		SELECT outbox_publish('sorted', '{}', key => k)
		FROM unnest(ARRAY[$keys]) k});
}

# Wait until there are so many events of each state: "blocked*3 dead*3".
sub wait_sorted
{
	my ($states) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return poll_until(
		sub {
			$node->safe_psql(
				'sorted', q{
				SELECT string_agg(state || '*' || count, ' ' ORDER BY state)
				FROM (SELECT state, count(*) FROM outbox_events GROUP BY state) s})
			  eq $states;
		},
		"the events to be $states");
}

my ($once, $twice) = (scalar(@keys), 2 * @keys);
$receiver->faults(
	[ { match => { topic => 'sorted' }, status => 413, times => $once } ]);
my @first = publish_keys();
wait_sorted("dead*$once");
my @second = publish_keys();
wait_sorted("blocked*$once dead*$once");

# As if the library had learnt to sort otherwise.
my $column = $node->pg_version >= 17 ? 'datlocale' : 'daticulocale';
$node->safe_psql('postgres',
	"UPDATE pg_database SET $column = 'sv' WHERE datname = 'sorted'");
$node->restart;
is( $node->safe_psql('sorted', q{SELECT chr(228) > 'z'}),
	't', 'the database sorts otherwise');

my @third = publish_keys();
wait_sorted("blocked*$twice dead*$once");
is($node->safe_psql('sorted', q{SELECT outbox_retry_dead('sorted')}),
	$once, 'the first event of each key is found');
wait_delivered($receiver, [ @first, @second, @third ]);

my @taken = map { $_->{id} } $receiver->accepted(fields => ['id']);
my %place = ((map { $_ => @taken } @first, @second, @third),
	map { $taken[$_] => $_ } 0 .. $#taken);
my @wrong = grep {
	my ($one, $two, $three) = @place{ $first[$_], $second[$_], $third[$_] };
	!($one < $two && $two < $three);
} 0 .. $#keys;
is_deeply([ @keys[@wrong] ], [], 'the events of each key came in order');

$node->stop;
done_testing();
