# Promise: whoever has the packages of the last release upgrades them below publishers
# that do not stop, by a restart: each event that is committed arrives, and no other
# does.  The library serves the SQL objects that it finds, and a script that was
# released is never another one later.
#
# Before there is a release, the last commit takes its place.  Its SQL objects may have
# the version that ours have and be others all the same.  The library may not serve
# those then, but not in silence, and with the earlier packages everything is delivered.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;
use OutboxTest::Upgrade;
use Real::Debian;
use Real::Source qw(unpack_previous);

plan skip_all => 'the extension is not staged by tools/stage'
  unless defined staged_dest();
my $missing = Real::Debian->missing;
plan skip_all => $missing if $missing;
plan skip_all => 'no repository here, or one without history' unless unpack_previous();

my @packages = (Real::Debian->package, Real::Debian->publishers);

# Test that so many events more arrive
sub more_arrive
{
	my ($receiver, $when) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ok(wait_delivered($receiver, $receiver->stats->{distinct_ids} + 50), $when);
}

# The scripts of the earlier tree that are not in this one, or are others there
sub scripts_that_differ
{
	my ($folder) = @_;
	return grep { !-e $_ || slurp_file($_) ne slurp_file("$folder/src/$_") }
	  map { s{^\Q$folder\E/src/}{}r } glob "$folder/src/sql/*.sql";
}

# Does the server say that it does not deliver, or fail to say anything?  (A function whose
# result has other columns than the library thinks may well crash.)
sub is_told
{
	my ($node) = @_;
	my ($told, $stderr);

	# psql may be gone before it has read what it is to ask
	eval {
		(undef, $told, $stderr) = $node->psql('postgres', q{
			SELECT last_error FROM outbox_relays WHERE last_error <> ''
			UNION ALL SELECT detail FROM outbox_check() WHERE "check" = 'backlog moving' AND NOT ok});
		1;
	} or return 0;
	return $told ne '' || $stderr =~ /ERROR|closed the connection unexpectedly/;
}

# Test that with a library that need not serve the SQL objects events arrive, or it is
# told that they do not; whether they do
sub arrive_or_is_told
{
	my ($node, $receiver) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $wanted = $receiver->stats->{distinct_ids} + 50;
	my $arrive = sub { return $receiver->stats->{distinct_ids} >= $wanted };
	ok(poll_until(sub { return $arrive->() || is_told($node) }, 'events, or an error', 90),
		'with a library for other SQL objects of that version, events arrive or it is told');
	return $arrive->();
}

promise 'an upgrade below publishers that do not stop' => sub {
	my $previous = Real::Debian->build('previous');
	my $tree = Real::Debian->build('tree');
	my @differ = scripts_that_differ($previous);
	my $released = slurp_file("$previous/src/META.json") =~ /"release_status": "stable"/;
	is("@differ", '', 'the scripts that were released are as they were') if $released;

	my $debian = Real::Debian->new;
	$debian->install($previous, @packages);
	my $receiver = start_receiver(mode => 'dapr');
	my $node = new_node('upgraded',
		conf => {
			conf_of_installation($debian->root),
			'outbox.dapr_endpoint' => $receiver->url
		});
	query($node, q{
		CREATE EXTENSION outbox;
		CREATE ROLE app LOGIN;
		GRANT EXECUTE ON FUNCTION outbox_publish TO app});
	my $orders = start_orders($node);
	more_arrive($receiver, 'events arrive before the upgrade');

	$debian->install($tree, @packages);
	more_arrive($receiver, 'with the new files below the old library');
	$node->restart;
	if (!@differ)
	{
		more_arrive($receiver, 'with the new library, after a restart');
		query($node, 'ALTER EXTENSION outbox UPDATE');
		more_arrive($receiver, 'with the SQL objects updated');
	}
	elsif (!arrive_or_is_told($node, $receiver))
	{
		$debian->install($previous, @packages);
		$node->restart;
		more_arrive($receiver, 'with the earlier packages');
	}
	stop_orders($orders);
	all_orders_arrived($node, $receiver);
	$node->stop;
};

done_testing();
