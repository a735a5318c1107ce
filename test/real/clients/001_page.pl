# Clients of PostgreSQL, each with what docs/clients.md says.
#
# Promises:
# - What each section says to write publishes: the order is in its table, and the events
#   arrive with their key, their JSON and their bytes. The page's grants are enough, and a
#   mapper's entity needs no right beyond those of its section.
# - No section of the page is left out here, but .NET's.
# - What the table of pitfalls says is seen is what is seen, and what it says to write helps.
#
# Only the server's address is another one here. A client that is not installed is skipped.

use strict;
use warnings FATAL => 'all';

use IPC::Run ();
use JSON::PP ();
use MIME::Base64 qw(decode_base64);
use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;
use OutboxTest::Page qw(page_blocks page_headings);

use constant PAGE => 'docs/clients.md';

my $cache = $ENV{OUTBOX_CACHE} // '';
my ($node_modules, $jars, $go) =
  map { (glob "$cache/clients-$_-*")[0] } 'node', 'java', 'go';
my $python = $ENV{PYTHON} // '/usr/bin/python3';

# --- Languages

# How a program is run: the file that it is in, the commands in its folder, what to do
# there before, and a command that succeeds if it can be run here (undef: it cannot).
my %language = (
	sql => {
		file => 'publish.sql',
		run => [ [ 'psql', '-X', '-v', 'ON_ERROR_STOP=1', '-f', 'publish.sql' ] ],
		needs => 'psql --version',
	},
	js => {
		file => 'publish.mjs',
		run => [ [ 'node', 'publish.mjs' ] ],
		prepare => sub { symlink("$node_modules/node_modules", "$_[0]/node_modules") or die "symlink: $!"; },
		needs => defined $node_modules ? 'node --version' : undef,
	},
	python => {
		file => 'publish.py',
		run => [ [ $python, 'publish.py' ] ],
		needs => "$python -c 'import django, psycopg, psycopg2, sqlalchemy'",
	},
	java => {
		file => 'Publish.java',
		run => [ [ 'sh', '-c', 'javac -cp "$CLASSPATH" -d . *.java' ], [ 'java', 'Publish' ] ],
		prepare => sub { $ENV{CLASSPATH} = "$_[0]:$jars/*"; },
		needs => defined $jars ? 'javac -version' : undef,
	},
	go => {
		file => 'publish/main.go',
		run => [ [ 'go', 'run', '-mod=vendor', './publish' ] ],
		prepare => sub {
			system_or_bail('sh', '-c', "cp -r '$go'/* '$_[0]' && mkdir '$_[0]/publish'");
			$ENV{GOCACHE} = "$_[0]/cache";
		},
		needs => defined $go ? 'go version' : undef,
	},
	php => {
		file => 'publish.php',
		run => [ [ 'php', 'publish.php' ] ],
		needs => 'php -m | grep -q pdo_pgsql',
	},
	ruby => {
		file => 'publish.rb',
		run => [ [ 'ruby', 'publish.rb' ] ],
		needs => 'ruby -rpg -e 1',
	},
);
# What the page leaves to who reads it: an application around Django, and the use of an
# entity.
my $django = <<'PYTHON';
import django
from django.conf import settings
settings.configure(DATABASES={'default': {'ENGINE': 'django.db.backends.postgresql', 'NAME': 'shop'}})
django.setup()
PYTHON
my %around = (
	Django => [ $django, '' ],
	"Django's models" => [ $django, <<'PYTHON' ],
    class Meta(Meta):
        app_label = 'shop'

from django.db import connection, transaction
with transaction.atomic(), connection.cursor() as cursor:
    cursor.execute('INSERT INTO orders VALUES (1, 42)')
    OutboxEvent.objects.create(topic='orders', key='ada', payload={'order': 1, 'total': 42})
PYTHON
	"SQLAlchemy's entities" => [ '', <<'PYTHON' ],

from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session
with Session(create_engine('postgresql+psycopg2://'), future=True) as session, session.begin():
    session.execute(text('INSERT INTO orders VALUES (1, 42)'))
    event = OutboxEvent(topic='orders', key='ada', payload={'order': 1, 'total': 42})
    session.add(event)
    session.flush()
    assert event.event_id.version == 7, event.event_id
PYTHON
	Hibernate => [ '', '', <<'JAVA' ],
import java.util.Map;
import org.hibernate.cfg.Configuration;

public class Publish {
    public static void main(String[] args) throws Exception {
        var settings = new Configuration().addAnnotatedClass(OutboxEvent.class)
            .setProperty("hibernate.connection.url", "jdbc:postgresql://127.0.0.1:5432/shop?user=app");
        try (var factory = settings.buildSessionFactory()) {
            factory.inTransaction(session -> {
                session.createNativeMutationQuery("INSERT INTO orders VALUES (1, 42)").executeUpdate();
                var event = new OutboxEvent();
                event.topic = "orders";
                event.key = "ada";
                event.payload = Map.of("order", 1, "total", 42);
                session.persist(event);
                session.flush();
                if (event.eventId.version() != 7) throw new AssertionError(event.eventId);
            });
        }
    }
}
JAVA
);

# --- A server, and programs beside it

my $receiver = start_receiver(mode => 'http');
my $server = new_node(
	'clients',
	conf => {
		listen_addresses => '127.0.0.1',
		'outbox.publisher' => 'http',
		'outbox.http_url' => $receiver->url . '/{topic}',
	});
query($server, 'CREATE DATABASE shop');
query($server, 'CREATE SCHEMA outbox; CREATE EXTENSION outbox SCHEMA outbox', 'shop');
# those before the first section of a client
query($server, (page_blocks(PAGE))[0]{text}, 'shop');

# run_program($language, $text, $more)
#
# Run a program as the role of the page: whether it succeeded, and what it said.  $more
# is a second file, of which the page has the first: then that is named for its class.
sub run_program
{
	my ($name, $text, $more) = @_;
	my $language = $language{$name};
	my $dir = PostgreSQL::Test::Utils::tempdir('client');
	my $output = '';
	my $port = $server->port;

	local %ENV = (
		%ENV,
		PGHOST => '127.0.0.1',
		PGPORT => $port,
		PGDATABASE => 'shop',
		PGUSER => 'app',
		PGSSLMODE => 'disable',
		HOME => $dir);
	$language->{prepare}->($dir) if $language->{prepare};
	my %files = ($language->{file} => $text);
	%files = ('OutboxEvent.java' => $text, $language->{file} => $more) if defined $more;
	append_to_file("$dir/$_", $files{$_} =~ s/127\.0\.0\.1:5432/127.0.0.1:$port/gr) foreach keys %files;
	foreach my $command (@{ $language->{run} })
	{
		IPC::Run::run([ 'env', '-C', $dir, @$command ], '<', \'', '>&', \$output)
		  or return (0, $output);
	}
	return (1, $output);
}

# Skip the promise, inside of it, unless there is all that a program needs.
sub need
{
	my ($name) = @_;
	my $needs = $language{$name}{needs};
	plan skip_all => "no clients in $name here: tools/setup-real clients"
	  unless defined $needs && system("$needs >/dev/null 2>&1") == 0;
	return;
}

# Wait until so many events have come: their topic, key and body, in the order of topics
sub events
{
	my ($count) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_delivered($receiver, $count);
	return sort { $a->[0] cmp $b->[0] } map {
		my $json = $_->{headers}{'content-type'} eq 'application/json';
		my $body = $_->{body_is_base64} ? decode_base64($_->{body}) : $_->{body};
		[
			@{ $_->{headers} }{ 'ce-topic', 'ce-partitionkey', 'content-type' },
			$json ? JSON::PP->new->allow_nonref->decode($body) : $body
		]
	} $receiver->accepted;
}

my $order = [ 'orders', 'ada', 'application/json', { order => 1, total => 42 } ];
my $label = [ 'labels', undef, 'image/png', "\x89PNG\0" ];

# --- The sections

sub section
{
	my ($heading) = @_;
	my ($block) = page_blocks(PAGE, $heading);
	return $block;
}

my %mapper = map { $_ => 1 } 'Hibernate', "SQLAlchemy's entities", "Django's models";
my $grant = section('Object mappers')->{text};

# run_section($heading, $change, $rights)
#
# Run a section's program, in which each of the texts that are keys of $change is replaced
# by its value: whether it succeeded, and what it said.  A mapper's has these rights on
# the table; the others do without.
sub run_section
{
	my ($heading, $change, $rights) = @_;
	my $block = section($heading);
	my ($before, $behind, $more) = @{ $around{$heading} // [ '', '' ] };
	my $text = $before . $block->{text} . $behind;

	foreach my $old (sort keys %{ $change // {} })
	{
		my $found = 0;
		foreach my $part (grep { defined } $text, $more) { $found += $part =~ s/\Q$old\E/$change->{$old}/g; }
		is($found, 1, "$heading has $old");
	}
	query($server, 'TRUNCATE orders', 'shop');
	query($server, $rights, 'shop') if defined $rights;
	my ($done, $said) = run_program($block->{language}, $text, $more);
	query($server, $rights =~ s/GRANT/REVOKE/r =~ s/TO app/FROM app/r, 'shop') if defined $rights;
	return ($done, $said);
}

my %without = map { $_ => 1 } 'Pitfalls', '.NET', 'Object mappers';
foreach my $heading (grep { !$without{$_} } page_headings(PAGE))
{
	promise "$heading: what the page says publishes" => sub {
		need(section($heading)->{language});
		my ($done, $said) = run_section($heading, {}, $mapper{$heading} ? $grant : undef);
		ok($done, 'the program runs') or diag($said);
		my @wanted = $mapper{$heading} ? ($order) : ($label, $order);
		is_deeply([ events(scalar @wanted) ], \@wanted, 'the events');
		is(query($server, 'SELECT * FROM orders', 'shop'), '1|42', 'the order');
	};
}

promise 'Hibernate: a native query publishes' => sub {
	need('java');
	my ($call) = slurp_file(PAGE) =~ /`(session\.createNativeQuery\(.*?\))` in the/;
	my ($entity, $program) = (section('Hibernate')->{text}, $around{Hibernate}[2]);
	$program =~ s{var event = .*?flush\(\);\n.*?\n}
		{$call.setParameter(1, "orders").setParameter(2, "{\\"order\\": 2}").getSingleResult();\n}s;
	query($server, 'TRUNCATE orders', 'shop');
	my ($done, $said) = run_program('java', $entity, $program =~ s/import java/import java.util.UUID;\nimport java/r);
	ok($done, 'the program runs') or diag($said);
	is_deeply([ events(1) ], [ [ 'orders', undef, 'application/json', { order => 2 } ] ], 'the event');
};

# --- Pitfalls

# fails($heading, $change, $pattern, $rights): test that a section with this change
# fails, as the table has it
sub fails
{
	my ($heading, $change, $pattern, $rights) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($done, $said) = run_section($heading, $change, $rights);
	ok(!$done, "$heading fails");
	like($said, $pattern, 'as the page says');
	return is(query($server, 'SELECT count(*) FROM orders', 'shop'), 0, 'and its transaction with it');
}

# arrives($heading, $change, $data): test that a section with this change publishes
# this in place of the order
sub arrives
{
	my ($heading, $change, $data) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($done, $said) = run_section($heading, $change);
	ok($done, "$heading runs") or diag($said);
	my ($other) = grep { $_->[0] eq 'orders' } events(2);
	is_deeply($other->[3], $data, 'what arrives');
	$receiver->reset;
	return;
}

promise 'pitfall: strings that have a type' => sub {
	need('java');
	fails('JDBC', { 'CAST(? AS jsonb)' => '?' },
		qr/function outbox\.outbox_publish\(character varying, character varying, .*\) does not exist/);
};

promise 'pitfall: lists and dictionaries in Python' => sub {
	need('python');
	my $payload = '{"order": 1, "total": 42}';
	fails('psycopg 2', { "Json($payload)" => $payload }, qr/can't adapt type 'dict'/);
	fails('psycopg 2', { "Json($payload)" => '[1, 2]' },
		qr/function outbox\.outbox_publish\(unknown, integer\[\], .*\) does not exist/);
	fails('psycopg 3', { "Jsonb($payload)" => $payload }, qr/cannot adapt type 'dict'/);
	arrives('psycopg 2', { "Json($payload)" => 'Json([1, 2])' }, [ 1, 2 ]);
	arrives('psycopg 3', { "Jsonb($payload)" => 'Jsonb([1, 2])' }, [ 1, 2 ]);
	fails('SQLAlchemy', { 'CAST(:payload AS jsonb)' => ':payload::jsonb' }, qr/syntax error at or near ":"/);
};

promise 'pitfall: arrays and text in JavaScript' => sub {
	need('js');
	my $payload = '({ order: 1, total: 42 })';
	arrives('node-pg', { "JSON.stringify$payload" => '[]' }, {});
	fails('node-pg', { "JSON.stringify$payload" => '[1]' }, qr/invalid input syntax for type json/);
	arrives('node-pg', { $payload => '([])' }, []);
	arrives('postgres.js', { "sql.json$payload" => "JSON.stringify$payload" }, '{"order":1,"total":42}');
	arrives('postgres.js', { $payload => '([])' }, []);
};

promise 'pitfall: empty arrays in PHP' => sub {
	need('php');
	my $payload = q{['order' => 1, 'total' => 42]};
	arrives('PHP', { $payload => '[]' }, []);
	arrives('PHP', { $payload => 'new stdClass' }, {});
	arrives('PHP', { $payload => '[], JSON_FORCE_OBJECT' }, {});
};

promise 'pitfall: the rights of mappers' => sub {
	need('python');
	my $denied = qr/permission denied for table outbox_event/;
	fails($_, {}, $denied, $grant =~ s/, SELECT \(.*?\)//r) foreach "Django's models", "SQLAlchemy's entities";
	fails($_, { q{key='ada', } => '' }, $denied, $grant =~ s/key, //r)
	  foreach "Django's models", "SQLAlchemy's entities";
	need('java');
	fails('Hibernate', {}, $denied, $grant =~ s/, SELECT \(.*?\)//r);
	fails('Hibernate', { 'event.key = "ada";' => '' }, $denied, $grant =~ s/key, //r);
};

promise 'pitfall: an event that is saved twice' => sub {
	need('python');
	my $again = { "    session.flush()\n" => "    session.flush()\n    event.key = 'bob'\n    session.flush()\n" };
	fails("SQLAlchemy's entities", $again, qr/permission denied for table outbox_event/, $grant);
	fails("SQLAlchemy's entities", $again, qr/events cannot be changed.*HINT/s,
		$grant =~ s/SELECT/UPDATE (key), SELECT/r);
};

promise 'pitfall: an application that tries again' => sub {
	need('sql');
	my $call = q{key => 'ada'};
	my $with = qq{$call, event_id => '01a20700-292b-750e-9cd2-4de784d95924'};
	foreach my $n (1, 2)
	{
		my ($done, $said) = run_section('psql', { $call => $with });
		ok($done, "transaction $n");
		like($said, qr/01a20700-292b-750e-9cd2-4de784d95924/, 'has the id');
	}
	is_deeply([ events(3) ], [ $label, $label, $order ], 'the event comes once');
};

done_testing();
