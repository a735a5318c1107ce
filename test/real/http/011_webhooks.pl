# Signed requests, and the reference libraries of Standard Webhooks from npm and PyPI.
#
# Promises:
# - What docs/webhooks.md says to paste works: the secret, the receiver in node and
#   the one in Python, the settings, the statements.  Only ports and paths are other
#   ones here.
# - Both libraries verify what arrives, in every content mode and with each of the
#   secrets while one is rotated, and refuse it with one byte changed, another id,
#   time or secret.

use strict;
use warnings FATAL => 'all';

use IPC::Run ();
use JSON::PP ();
use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;
use OutboxTest::Page qw(page_blocks);
use Real::Pasted;
use Real::Server;

my $cache = $ENV{OUTBOX_CACHE} // '';
my %library = (
	node => (glob "$cache/standardwebhooks-node-*")[0],
	python => (glob "$cache/standardwebhooks-python-*")[0]);
my %program = (
	node => [ Real::Server::find_program('node') ],
	python => [ $ENV{PYTHON} // '/usr/bin/python3' ]);
foreach my $language (sort keys %library)
{
	plan skip_all => "no library of Standard Webhooks for $language: tools/setup-real webhooks"
	  unless defined $library{$language} && defined $program{$language}[0];
}

# A folder in which a language finds its library
sub make_folder
{
	my ($language) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir($language);
	symlink("$library{node}/node_modules", "$dir/node_modules") or die "symlink: $!"
	  if $language eq 'node';
	return $dir;
}

$ENV{PYTHONPATH} = $library{python};

# --- The page

my %block;
push @{ $block{ $_->{language} } }, $_->{text} foreach page_blocks('docs/webhooks.md');

promise 'what the page says to paste works' => sub {
	my ($settings) = @{ $block{''} };
	my $node = new_node('page', start => 0);
	my $dir = $node->basedir;
	system_or_bail('sh', '-c', "cd $dir && $block{sh}[0]");
	my $secret = "$dir/webhook.secret";
	like(slurp_file($secret), qr/^whsec_[\w+\/]{43}=\n$/, 'a secret');

	my %receivers;
	foreach my $case ([ 'node', 'js', 'receiver.mjs' ], [ 'python', 'python', 'receiver.py' ])
	{
		my ($language, $name, $file) = @$case;
		my $receiver = Real::Pasted->new(
			start => 0,
			text => $block{$name}[0],
			listens => 8080,
			file => $file,
			run => $program{$language},
			modules => $library{node});
		$receiver->write_file('webhook.secret', slurp_file($secret));
		$receivers{$language} = $receiver->start;
	}
	is($settings =~ s{/etc/outbox/webhook\.secret}{$secret}g, 1, 'one path');
	$settings =~ s/^shared_preload_libraries.*\n//m or fail('the library is preloaded');
	$node->append_conf('postgresql.conf',
		$settings =~ s/127\.0\.0\.1:8080/"127.0.0.1:" . $receivers{node}->port/ger);
	$node->start;
	query($node, $block{sql}[0]);
	foreach my $language ('node', 'python')
	{
		if ($language eq 'python')
		{
			reload($node,
				'outbox.http_url' => 'http://127.0.0.1:' . $receivers{python}->port . '/hooks');
			query($node, $block{sql}[0] =~ s/.*(?=^SELECT)//msr);
		}
		poll_until(
			sub { $receivers{$language}->log =~ /"data": ?\{"order": ?1, ?"total": ?42\}/ },
			"the receiver in $language to print the event")
		  or diag($receivers{$language}->log);
		unlike($receivers{$language}->log, qr/No matching|error/i, 'and nothing else');
	}
	poll_until(
		sub {
			query($node, q{SELECT string_agg(DISTINCT state, ' ') FROM outbox.outbox_events}) eq
			  'published';
		},
		'both events to be published');
	is(query($node, 'SELECT count(*) FROM outbox.outbox_check() WHERE NOT ok'),
		0, 'outbox_check() has nothing to complain of');
	$node->stop;
};

# --- The libraries

# Each reads lines {"secret", "headers", "body"} and prints "ok" or what it says.
my %verifier = (
	node => <<'JS', python => <<'PYTHON');
import { Webhook } from "standardwebhooks";
import { createInterface } from "node:readline";
for await (const line of createInterface({ input: process.stdin })) {
  const { secret, headers, body } = JSON.parse(line);
  try {
    new Webhook(secret).verify(body, headers);
    console.log("ok");
  } catch (error) {
    console.log(error.message);
  }
}
JS
import json, sys
from standardwebhooks.webhooks import Webhook, WebhookVerificationError
for line in sys.stdin:
    request = json.loads(line)
    try:
        Webhook(request['secret']).verify(request['body'], request['headers'])
        print('ok')
    except WebhookVerificationError as error:
        print(error)
PYTHON

# What a library says of each of these requests
sub verify
{
	my ($language, @requests) = @_;
	my $dir = make_folder($language);
	my $file = "$dir/verify." . ($language eq 'node' ? 'mjs' : 'py');
	my $json = JSON::PP->new->ascii;
	my $input = join '', map { $json->encode($_) . "\n" } @requests;
	my ($output, $error);

	append_to_file($file, $verifier{$language});
	IPC::Run::run([ @{ $program{$language} }, $file ], '<', \$input, '>', \$output, '2>', \$error)
	  or die "$language: $error";
	return split /\n/, $output;
}

promise 'the libraries verify what arrives, and refuse it with anything changed' => sub {
	my ($old, $new, $other) =
	  map { 'whsec_' . qx(openssl rand -base64 $_) =~ s/\s//gr } 24, 32, 48;
	my $file = PostgreSQL::Test::Utils::tempdir() . '/secrets';
	my $receiver = start_receiver(mode => 'http');
	write_secret($file, "$new\n$old\n");
	my $node = new_node(
		'libraries',
		conf => {
			'outbox.publisher' => 'http',
			'outbox.http_url' => $receiver->url . '/{topic}',
			'outbox.http_signature_secret_file' => $file,
		});
	query($node, 'CREATE EXTENSION outbox');
	my @wanted;
	foreach my $mode ('binary', 'structured', 'batch')
	{
		reload($node,
			$mode eq 'batch'
			? ('outbox.http_batch_size' => 100)
			: ('outbox.http_content_mode' => $mode));
		restart_relay($node);
		my @ids = publish($node, $mode, count => 3, payload => q{jsonb_build_object('n', n, 'text', 'ü ☃ 1e2')});
		poll_until(
			sub {
				query($node, "SELECT count(*) FROM outbox_events WHERE topic = '$mode' AND state = 'published'") == 3;
			},
			"the events of $mode");
		my ($entry) = $receiver->accepted(path => "/$mode");
		my $change = sub {
			my ($name, $value) = @_;
			return { %{ $entry->{headers} }, "webhook-$name" => $value };
		};
		my ($body, $headers) = @{$entry}{qw(body headers)};
		my $time = $headers->{'webhook-timestamp'};
		push @wanted,
		  [ "$mode: the new secret", 'ok', $new, $headers, $body ],
		  [ "$mode: the old secret", 'ok', $old, $headers, $body ],
		  [ "$mode: another secret", 'no', $other, $headers, $body ],
		  [ "$mode: a byte changed", 'no', $new, $headers, $body =~ s/n/m/r ],
		  [ "$mode: a byte more", 'no', $new, $headers, "$body " ],
		  [ "$mode: another id", 'no', $new, $change->(id => 'x'), $body ],
		  [ "$mode: another time", 'no', $new, $change->(timestamp => $time + 1), $body ];
	}
	foreach my $language ('node', 'python')
	{
		my @said = verify($language,
			map { { secret => $_->[2], headers => $_->[3], body => $_->[4] } } @wanted);
		foreach my $case (@wanted)
		{
			my $said = shift @said;
			ok($case->[1] eq 'ok' ? $said eq 'ok' : $said =~ /No matching signature/,
				"$language, $case->[0]: $said");
		}
	}
};

done_testing();
