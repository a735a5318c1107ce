# Whatever is in a table, the relay goes on.
#
# Promises:
# - An upgrade of the extension, and nobody else, may change events.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;

my $receiver = start_receiver(mode => 'dapr');
my $node = new_node(
	'rows',
	conf => {
		'outbox.dapr_endpoint' => $receiver->url,
		allow_system_table_mods => 'on',
	});
query($node, 'CREATE EXTENSION outbox');

# Where the server finds the extension's files: as tools/stage has it
sub extension_dir
{
	my ($dest) = map { /^extension_(?:destdir|control_path) = '([^':]*)/ ? $1 : () }
	  split /\n/, slurp_file($ENV{TEMP_CONFIG});
	my $share = query($node,
		q{SELECT setting FROM pg_config WHERE name = 'SHAREDIR'});
	return $dest =~ /\Q$share\E$/ ? "$dest/extension" : "$dest$share/extension";
}

promise 'an upgrade of the extension may change events' => sub {
	my $change = q{UPDATE outbox_event SET type = 'changed'};
	my $script = extension_dir() . '/outbox--1.0--test.sql';

	query($node, 'CREATE DATABASE upgraded');
	query($node, 'CREATE EXTENSION outbox', 'upgraded');
	publish($node, 'upgrade', db => 'upgraded',
		more => q{deliver_after => now() + '1 hour'});
	open(my $file, '>', $script) or die "could not write $script: $!";
	print $file $change;
	close($file);
	query($node, q{ALTER EXTENSION outbox UPDATE TO 'test'}, 'upgraded');
	unlink($script);
	is(query($node, 'SELECT type FROM outbox_event', 'upgraded'),
		'changed', 'its script does');
	my ($status) = $node->psql('upgraded', $change);
	isnt($status, 0, 'afterwards nobody does');
};

$node->stop;
done_testing();
