# Promise: monitoring/top.sql shows, again and again, a line for each destination and
# below it those of its topics, with the numbers of that moment, in 100 columns.

use strict;
use warnings FATAL => 'all';

use IPC::Run ();
use Test::More;

use lib 'test/lib';
use OutboxTest;
use OutboxTest::Destinations;

use constant COLUMNS => 100;

my $long = 'a.topic.whose.name.is.longer.than.a.line.has.room.for';
my $receiver = start_receiver(mode => 'http');
my $node = new_node(
	'top',
	conf => {
		'outbox.publisher' => 'http',
		'outbox.http_url' => $receiver->url . '/{topic}',
	});
query($node, 'CREATE SCHEMA outbox; CREATE EXTENSION outbox SCHEMA outbox');

promise 'the numbers of the moment, again and again' => sub {
	query($node, q{SELECT outbox.outbox_add_destination('audit', '{audit.#}')});
	query($node, q{SELECT outbox.outbox_pause('audit')});
	$receiver->faults([ { match => { path => '^/(?:bad|a\.topic)' }, status => 400, body => 'no ' x 100 } ]);
	query($node, publish_sql($_, schema => 'outbox')) foreach 'good', 'bad', $long;
	query($node, publish_sql('audit.first', schema => 'outbox', count => 2));
	poll_until(
		sub { query($node, q{SELECT published, dead FROM outbox.outbox_stats WHERE destination = 'default'}) eq '3|2' },
		'the events to be delivered, or dead');
	poll_until(sub { query($node, q{SELECT state FROM outbox.outbox_relays WHERE destination = 'audit'}) eq 'paused' },
		'a pause');

	my $shown = '';
	my $psql = IPC::Run::start(
		[ 'psql', '-Xq', '-d', $node->connstr('postgres'), '-f', 'monitoring/top.sql' ],
		'<', \undef, '>', \$shown, '2>&1', IPC::Run::timeout(60));
	my $see = sub {
		my ($pattern) = @_;
		$psql->pump until $shown =~ $pattern;
	};
	$see->(qr/\(every 1s\).*^audit +paused .* 2 [\d:]+ +0\b.*^  audit\.first .*\(every 1s\)/ms);
	query($node, publish_sql('audit.second', schema => 'outbox', count => 7));
	$see->(qr/^audit +paused .* 9 [\d:]+ +0\b/m);
	$psql->kill_kill;

	my @lines = split /\n/, $shown;
	is_deeply([ grep { length > COLUMNS } @lines ], [], 'no line is too long');
	my ($samples) = scalar grep { /\(every 1s\)/ } @lines;
	cmp_ok($samples, '>=', 2, 'there are several samples');
	unlike($shown, qr/ERROR/, 'and no error');
	my ($first) = $shown =~ /(^default .*?)\n\n/ms;
	like($first, qr/^default +(?:idle|relaying) +[\d.]+ .* 2 (?:HTTP 400: no no.*)?$/m, 'the destination that all goes to');
	like($first, qr/^  bad +open .* 1/m, 'a topic with a dead event, below it');
	like($first, qr/^  a\.topic\.whose\.name open .* 1/m, 'the beginning of a long name');
	unlike($first, qr/^  good/m, 'not one that has nothing to be done');
};

done_testing();
