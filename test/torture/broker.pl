#!/usr/bin/perl
# broker.pl NAME LOG: a real broker for the torture (test/lib/Real), and a consumer
# (consume.py) that writes what it gets to LOG.
#
# Prints a line of JSON, the settings by which outbox publishes to it.  Then it does
# what the lines on its standard input say, and answers each with "done": kill (as a
# crash), stop, start, hang, go_on.  When there are no more of them, all ends.

use strict;
use warnings FATAL => 'all';

use File::Basename qw(dirname);
use IO::Handle ();
use JSON::PP ();

# The modules of the tests send what is printed to a log.
my $answers;
BEGIN { open($answers, '>&', \*STDOUT) or die "could not keep the output: $!\n"; }

use lib dirname(__FILE__) . '/../lib';
use OutboxTest::Node ();
use PostgreSQL::Test::Cluster ();

# Events of all topics go to one place, where their order can be seen.
use constant PLACE => 'torture';

my $consumer = dirname(__FILE__) . '/consume.py';
my $python = $ENV{PYTHON} // '/usr/bin/python3';

# How each is made ready, and what it then needs: settings without the prefix, and
# the consumer's arguments behind the kind and the log
my %kinds = (
	rabbitmq => [
		'RabbitMQ',
		sub {
			my ($server) = @_;
			my %settings = $server->settings('exchange');
			$server->declare_queue(PLACE, exchange => 'exchange');
			return ({ map { s/^outbox_rabbitmq\.//r => $settings{$_} } grep { /_rabbitmq\./ } keys %settings },
				$server->port, $server->user, $server->password);
		}
	],
	kafka => [
		'Kafka',
		sub {
			my ($server) = @_;
			$server->create_topic(PLACE);
			return ({ bootstrap_servers => $server->bootstrap, topic => PLACE },
				$server->bootstrap);
		}
	],
	nats => [
		'Nats',
		sub {
			my ($server) = @_;
			$server->create_stream('TORTURE', PLACE);
			return ({ url => $server->url, subject => PLACE }, $server->url, 'TORTURE');
		}
	],
	redis => [
		'Redis',
		sub {
			my ($server) = @_;
			return ({ url => 'redis://127.0.0.1:' . $server->port, stream => PLACE },
				$server->port);
		}
	],
	mqtt => [
		'Mosquitto',
		sub {
			my ($server) = @_;
			OutboxTest::Node::write_secret($server->dir . '/password', "secret\n");
			return (
				{
					url => $server->url,
					user => 'writer',
					password_file => $server->dir . '/password',
					topic => PLACE,
					no_subscriber => 'accept'
				},
				$server->port);
		}
	]);

my ($name, $log) = @ARGV;
my ($class, $make_ready) = @{ $kinds{ $name // '' } // die "no such broker\n" };
require "Real/$class.pm";
my $missing = "Real::$class"->missing;
die "$missing\n" if $missing;

my $server = "Real::$class"->new;
my ($settings, @arguments) = $make_ready->($server);
my $pid = fork() // die "could not fork: $!\n";
if (!$pid)
{
	local $ENV{PYTHONPATH} = join ':', glob(($ENV{OUTBOX_CACHE} // '') . '/nats-py-*');
	exec('setpriv', '--pdeathsig', 'KILL', '--', $python, $consumer, $name, $log, PLACE, @arguments);
}

$answers->autoflush;
print $answers JSON::PP->new->canonical->encode(
	{ map { ("outbox_$name.$_" => $settings->{$_}) } keys %$settings }), "\n";
while (my $command = <STDIN>)
{
	chomp $command;
	die "no such command: $command\n" unless $command =~ /^(kill|stop|start|hang|go_on)$/;
	$server->$command;
	print $answers "done\n";
}
kill('KILL', $pid);
waitpid($pid, 0);
