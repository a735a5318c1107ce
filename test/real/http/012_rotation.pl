# Promise: a token is rotated while events flow, again and again, and no event is
# refused for it more than once, nor lost.  The receiver, nginx, takes the old and the
# new one for a while, and then the new one only, which is when the relay may not have
# looked at the file yet.

use strict;
use warnings FATAL => 'all';

use HTTP::Tiny;
use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;
use Real::Nginx;

use constant { ROTATIONS => 8, EVENTS => 40 };

if (my $missing = Real::Nginx->missing) { plan skip_all => $missing; }

my $dir = PostgreSQL::Test::Utils::tempdir();
my $file = "$dir/headers";

# What nginx takes from now on, by the file that its configuration includes
sub write_accepted
{
	my (@tokens) = @_;
	open(my $map, '>', "$dir/accepted") or die "open: $!";
	print $map join('', map { qq("Bearer $_" 1;\n) } @tokens);
	return close($map);
}

# As a new file in the place of the old one, which is there all the time
sub write_token
{
	my ($token) = @_;
	write_secret("$file.new", "Authorization: Bearer $token");
	return rename("$file.new", $file) || die "rename: $!";
}

write_accepted('t0');
write_token('t0');
my $nginx = Real::Nginx->new(servers => <<"CONF");
	map \$http_authorization \$accepted { default 0; include $dir/accepted; }
	server {
		listen 127.0.0.1:PORT;
		location / {
			set \$where \$http_ce_id;
			if (\$accepted = 0) { return 401; }
			return 204;
		}
	}
CONF
my $node = new_node(
	'rotation',
	conf => {
		'outbox.publisher' => 'http',
		'outbox.http_url' => $nginx->url . '/{topic}',
		'outbox.http_headers_file' => $file,
		'outbox.breaker_threshold' => 0,
	});
query($node, 'CREATE EXTENSION outbox');

# Have nginx take these, and one that it may have taken before no longer.  Its last
# worker may still serve connections that it has, until it has gone.
sub accept_only
{
	my ($refused, @tokens) = @_;
	my $http = HTTP::Tiny->new(proxy => undef, http_proxy => undef, keep_alive => 0);
	my $status = sub {
		$http->get($nginx->url . '/asked', { headers => { Authorization => "Bearer $_[0]" } })
		  ->{status};
	};
	my $pid = $nginx->pid;
	my ($last) = split ' ', slurp_file("/proc/$pid/task/$pid/children");
	write_accepted(@tokens);
	kill('HUP', $pid);
	return poll_until(
		sub {
			!-e "/proc/$last" && $status->($refused) == 401 && $status->($tokens[-1]) == 204;
		},
		"nginx to take @tokens only");
}

promise 'a token is rotated under load, and no event is refused more than once' => sub {
	foreach my $n (1 .. ROTATIONS)
	{
		my ($old, $new) = ('t' . ($n - 1), "t$n");
		publish($node, 'flow', count => EVENTS);
		accept_only('none', $old, $new);
		publish($node, 'flow', count => EVENTS);
		write_token($new);
		accept_only($old, $new);
		publish($node, 'flow', count => EVENTS);
	}
	wait_settled($node);

	my (%refused, %taken);
	foreach my $line (grep { m{ POST /flow$} } $nginx->requests)
	{
		my ($status, $id) = split / /, $line;
		($status == 401 ? \%refused : \%taken)->{$id}++;
	}
	is(scalar(keys %taken), 3 * ROTATIONS * EVENTS, 'all arrived');
	cmp_ok(scalar(keys %refused), '>', 0, 'some had been refused');
	is_deeply([ grep { $refused{$_} > 1 } keys %refused ], [], 'none of them twice');
	is(query($node, q{SELECT string_agg(DISTINCT state, ' ') FROM outbox_events}),
		'published', 'none is dead');
};

done_testing();
