# An operator's questions, each of which is one statement of docs/operations.md, where
# this test takes them from, with many events kept.
#
# Promises:
# - The right answers when there is nothing to do, with a backlog, in an outage, with one
#   topic down, with dead events, with events that wait behind one that failed, while
#   delivery is off or paused, on a standby, and with another version in the database.
# - No statement reads what is kept. (How long each takes is only noted: what else
#   the machine does is not known. OUTBOX_KEPT says how many are kept.)

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils qw(slurp_file);
use Test::More;

use lib 'test/lib';
use OutboxTest;

use constant READ => 10000;    # rows, far fewer than are kept

my $kept = $ENV{OUTBOX_KEPT} // 200_000;

# The statements by the questions of the table
my %statement = slurp_file('docs/operations.md') =~ /^\| ([^|]*\?) \| `(SELECT [^|]*)` \|$/gm;
is(scalar keys %statement, 12, 'twelve questions');

my $receiver = start_receiver(mode => 'http');
my $node = new_node(
	'questions',
	init => { allows_streaming => 1 },
	conf => {
		'outbox.publisher' => 'http',
		'outbox.http_url' => $receiver->url . '/{topic}',
		'outbox.local_retry_times' => 0,
		'outbox.failed_retry_interval' => '1h',
		'outbox.max_retry_interval' => '1h',
		'outbox.breaker_threshold' => 3,
		# nothing is tried by itself: a reload does that
		'outbox.breaker_probe_interval' => '1h',
		'outbox.cleaning_expire_interval' => '1h',
	});
query($node, 'CREATE SCHEMA outbox; CREATE EXTENSION outbox SCHEMA outbox;
	ALTER DATABASE postgres SET search_path = outbox, public');
restart_relay($node);
wait_delivered($receiver, [ publish($node, 'first', schema => 'outbox') ]);
wait_settled($node);

# What was published before, by transactions that the position has passed
query($node, qq{
	ALTER TABLE outbox_event DISABLE TRIGGER ALL;
	INSERT INTO outbox_event (id, xid, event_id, topic, key, payload, created_at)
	SELECT nextval('outbox_event_id_seq'), '3', gen_random_uuid(), 't' || n % 7, 'k' || n % 1000, '{}', now()
	FROM generate_series(1, $kept) n;
	INSERT INTO outbox_delivery (id, topic, key, state)
	SELECT id, topic, key, 'published' FROM outbox_event WHERE xid = '3' AND id % 10 = 0;
	ALTER TABLE outbox_event ENABLE ALWAYS TRIGGER outbox_event_insert;
	ALTER TABLE outbox_event ENABLE ALWAYS TRIGGER outbox_event_update;
	ALTER TABLE outbox_event ENABLE ALWAYS TRIGGER outbox_event_delete;
	ALTER TABLE outbox_event ENABLE ALWAYS TRIGGER outbox_event_truncate;
	ALTER TABLE outbox_event ENABLE ALWAYS TRIGGER outbox_drop_replicated});

my %took;    # milliseconds at most, by question

# answer($server, $question): what the statement shows, lines with | between; tests that
# it does not read what is kept
sub answer
{
	my ($server, $question) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $said = query($server, qq{
		BEGIN;
		SELECT clock_timestamp() AS started \\gset
		$statement{$question};
		SELECT 'took', extract(epoch FROM clock_timestamp() - :'started') * 1000,
			(SELECT sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0))
			 FROM pg_stat_xact_all_tables WHERE schemaname = 'outbox')});
	my ($ms, $read) = $said =~ /^took\|([\d.]+)\|(\d+)$/m;
	$said =~ s/\n?took\|.*//s;
	$took{$question} = $ms if $ms > ($took{$question} // 0);
	cmp_ok($read, '<', READ, "$question reads little");
	return $said;
}

# answers($server, question => answer, ...): wait until each answer matches, and test
# it; a question is named by words of it
sub answers
{
	my ($server, @wanted) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	while (my ($words, $wanted) = splice @wanted, 0, 2)
	{
		my ($question) = grep { /\Q$words\E/ } keys %statement;
		poll_until(
			sub { try_query($server, $statement{$question}) =~ $wanted },
			"the answer to '$question'");
		like(answer($server, $question), $wanted, $question);
	}
	return;
}

sub published
{
	my ($topic, %opts) = @_;
	return publish($node, $topic, schema => 'outbox', %opts);
}

# All is well again, and tried again at once.
sub mend
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$receiver->faults([]);
	reload($node);
	return poll_until(
		sub {
			query($node, 'SELECT outbox_retry(event_id) FROM outbox_failures');
			return query($node, 'SELECT backlog + dead FROM outbox_stats') eq '0';
		},
		'all to be delivered');
}

my $number = qr/\d+/;
my $time = qr/\d{4}-\d\d-\d\d [\d:.]+\+\d\d/;
my $on = qr/\Alibrary preloaded\|t\|.*\nrelay alive\|t\|.*\|default\ndelivery enabled\|t\|.*\|default\z/;
my $none = qr/\A\z/;

promise 'idle' => sub {
	answers(
		$node,
		'Is it on' => $on,
		'Which databases' => qr/\Apostgres\|default\|idle\z/,
		'How far behind' => qr/\Adefault\|0\|t\|0\|0\|0\|0\z/,
		'How old' => qr/\Adefault\|\|\z/,
		'What failed' => $none,
		'Why' => $none,
		'tried last' => $none,
		'What is dead' => $none,
		'How fast' => qr/\Adefault\|[1-9]\d*\|/,
		'down' => $none,
		'What is pruned' => qr/; next at $time, what was published before $time\z/,
		'upgrade' => qr/\At\|library (\d+[.]\d+)[.]\d+, SQL \1\z/);
	published('fast', count => 20);
	answers($node, 'How fast' => qr/\Adefault\|$number\|[\d.e-]*[1-9][\d.e-]*\|00:00:\d\d\.\d+\z/);
	wait_settled($node);
};

promise 'a backlog' => sub {
	$receiver->faults([ { action => 'hang', on_release => 'drop' } ]);
	published('behind', count => 300);
	answers(
		$node,
		'Is it on' => $on,
		'How far behind' => qr/\Adefault\|300\|t\|0\|/,
		'How old' => qr/\Adefault\|$time\|00:00:\d\d\.\d+\z/);
	mend();
};

promise 'an outage' => sub {
	$receiver->stop;
	published('outage', count => 50);
	answers(
		$node,
		'Which databases' => qr/\Apostgres\|default\|endpoint down\z/,
		'How far behind' => qr/\Adefault\|50\|t\|/,
		'down' => qr/^default\|\|endpoint down\|.*connect/m);
	$receiver->restart;
	mend();
	answers($node, 'down' => $none);
};

promise 'one topic down' => sub {
	wait_delivered($receiver, [ published('good') ]);
	$receiver->faults([ { match => { path => '^/bad' }, status => 503, body => 'not now' } ]);
	# another one between, whose success tells that it is the topic
	foreach (1 .. 5)
	{
		published('bad');
		wait_delivered($receiver, [ published('good') ]);
	}
	answers(
		$node,
		'down' => qr/\Adefault\|bad\|down\|.*503/,
		'How far behind' => qr/\Adefault\|5\|t\|/);
	mend();
};

promise 'dead events' => sub {
	$receiver->faults([ { match => { path => '^/dies' }, status => 422, body => 'no such customer' } ]);
	my $id = published('dies', payload => q{'{"customer": 42}'}, key => 'a');
	answers(
		$node,
		'What is dead' => qr/\A$id\|dies\|default\|\{"customer": 42\}\|\|/,
		'What failed' => qr/\A$id\|dies\|a\|dead\|1\|default\z/,
		'Why' => qr/\A$id\|422\|.*no such customer/,
		'How far behind' => qr/\Adefault\|0\|t\|0\|0\|0\|1\z/);
	mend();
	answers($node, 'What is dead' => $none);
};

promise 'events that wait behind one that failed' => sub {
	wait_delivered($receiver, [ published('good') ]);
	$receiver->faults([ { match => { path => '^/fails' }, status => 500, body => 'oops', times => 1 } ]);
	my ($first) = published('fails', key => 'k', count => 3);
	answers(
		$node,
		'How far behind' => qr/\Adefault\|3\|t\|0\|1\|2\|0\z/,
		'What failed' => qr/\A$first\|fails\|k\|failed\|1\|default\z/,
		'Why' => qr/\A$first\|500\|.*oops/,
		'tried last' => qr/\A$first\|$time\|$time\z/);
	mend();
};

promise 'off, and paused' => sub {
	reload($node, 'outbox.enabled' => 'off');
	answers($node,
		'Is it on' => qr/^delivery enabled\|f\|outbox.enabled is off.*\|default$/m,
		'Which databases' => qr/\Apostgres\|default\|disabled\z/);
	reload($node, 'outbox.enabled' => 'on');
	query($node, q{SELECT outbox_pause('default')});
	answers($node,
		'Is it on' => qr/^delivery enabled\|f\|it is paused.*\|default$/m,
		'Which databases' => qr/\Apostgres\|default\|paused\z/);
	query($node, q{SELECT outbox_resume('default')});
	answers($node, 'Is it on' => $on);
};

promise 'on a standby' => sub {
	$node->backup('backup');
	my $standby = PostgreSQL::Test::Cluster->new('standby');
	$standby->init_from_backup($node, 'backup', has_streaming => 1);
	$standby->start;
	$receiver->faults([ { action => 'hang', on_release => 'drop' } ]);
	published('standby', count => 7);
	answers(
		$standby,
		'Is it on' => qr/^relay alive\|\|a standby has no relay/m,
		'Which databases' => $none,
		'How far behind' => qr/\Adefault\|7\|t\|/,
		'What failed' => $none,
		'down' => $none,
		'What is pruned' => qr/\A\|not known/,
		'upgrade' => qr/\At\|/);
	$standby->stop('immediate');
	mend();
};

promise 'another version' => sub {
	my $set = q{UPDATE pg_extension SET extversion = '%s' WHERE extname = 'outbox'};
	my $version = query($node, q{SELECT extversion FROM pg_extension WHERE extname = 'outbox'});
	query($node, sprintf $set, '9.9');
	answers($node, 'upgrade' => qr/\Af\|library .*, SQL 9\.9; run ALTER EXTENSION/);
	query($node, sprintf $set, $version);
	answers($node, 'upgrade' => qr/\At\|/, 'Is it on' => $on);
};

note(sprintf('%4.0f ms  %s', $took{$_}, $_)) foreach sort keys %took;

done_testing();
