# Promise: what README says to paste under "With Dapr" works: the component, the
# application, the sidecar, and the statements.  Only ports are other ones here.

use strict;
use warnings FATAL => 'all';

use Test::More;

use lib 'test/lib';
use OutboxTest;
use OutboxTest::Page qw(page_blocks);
use Real::Dapr;
use Real::Redis;
use Real::Server;

# What is pasted into a shell, in a folder of its own
package Pasted
{
	use parent -norequire, 'Real::Server';

	sub command
	{
		my ($self) = @_;
		return ('sh', '-c', 'cd ' . $self->dir . "\n$self->{shell}");
	}

	sub is_ready { return Real::Server::can_connect($_[0]->port); }
}

my $missing = Real::Redis->missing // Real::Dapr->missing;
plan skip_all => $missing if $missing;

my %block;
foreach my $block (grep { $_->{language} ne '' } page_blocks('README.md', 'With Dapr'))
{
	my $language = $block->{language};
	ok(!exists $block{$language}, "one block of $language");
	$block{$language} = $block->{text};
}

my $redis = Real::Redis->new;
my $pasted = Pasted->new(start => 0);
my $app_port = Real::Server::free_port();
my %real = (
	'127.0.0.1:6379' => '127.0.0.1:' . $redis->port,
	"('127.0.0.1', 6000)" => "('127.0.0.1', $app_port)",
	'--app-port 6000' => "--app-port $app_port",
	'--dapr-http-port 3500' => '--dapr-http-port ' . $pasted->port,
	# what has a default of its own, and would be open to the network
	'daprd ' => Real::Dapr::binary() . ' --dapr-internal-grpc-listen-address 127.0.0.1'
	  . join('', map { " --$_ " . Real::Server::free_port() }
		  qw(dapr-grpc-port dapr-internal-grpc-port metrics-port))
	  . ' --metrics-listen-address 127.0.0.1 ',
	'python3 ' => ($ENV{PYTHON} // '/usr/bin/python3') . ' ');
foreach my $text (keys %real)
{
	my $found = 0;
	$found += s/\Q$text\E/$real{$text}/ foreach @block{qw(yaml python sh)};
	is($found, 1, "README says $text");
}

mkdir $pasted->dir . '/components' or die "mkdir: $!";
$pasted->write_file('components/pubsub.yaml', $block{yaml});
$pasted->write_file('subscriber.py', $block{python});
$pasted->{shell} = $block{sh};
$pasted->start;

my $node = new_node(
	'first_page',
	conf => { 'outbox.dapr_endpoint' => 'http://127.0.0.1:' . $pasted->port });
query($node, $block{sql});
poll_until(sub { $pasted->log =~ /^\{.*"data":\{"order":1,"total":42\}.*"topic":"orders"/m },
	'the application to print the event')
  or diag($pasted->log);
poll_until(
	sub { query($node, 'SELECT state FROM outbox.outbox_events') eq 'published' },
	'the event to be published');
is(query($node, 'SELECT count(*) FROM outbox.outbox_check() WHERE NOT ok'), 0,
	'outbox_check() has nothing to complain of');

done_testing();
