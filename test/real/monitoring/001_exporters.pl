# Metrics of a real run: Debian's exporters, and Prometheus, which asks them.
#
# Promises:
# - With what docs/monitoring.md says to paste, and a role that may look and nothing
#   else, both exporters show what the views show, under the same names and labels, of
#   each database that has the extension.  What outbox_check() does not know is left out.
# - The names are as Prometheus wants them.
# - Each query of the dashboard has data, and each that counts trouble sees it; the
#   variables have values, and no panel lies on another one.
# - Alerts see what the exporters show.
# - When the server is gone, the time of reading tells.
# - All of monitoring/ is installed beside the documents, and nothing in it asks for the
#   state of each event.

use strict;
use warnings FATAL => 'all';

use IPC::Run ();
use JSON::PP ();
use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;
use OutboxTest::Upgrade;
use Real::PostgresExporter;
use Real::Prometheus;
use Real::SqlExporter;

foreach my $class (qw(Real::SqlExporter Real::PostgresExporter Real::Prometheus))
{
	my $missing = $class->missing;
	plan skip_all => "$missing: tools/setup-real monitoring" if $missing;
}

use constant PATIENCE => 120;

my @databases = ('billing', 'shop');
my %port_of = (outbox => 9237, postgres => 9187);

# What the page has in blocks, by their language
my $page = slurp_file('docs/monitoring.md');
my %block;
push @{ $block{$1} }, $2 while $page =~ /^```(\w*)\n(.*?)^```/msg;

# --- A server that has something to show

my $receiver = start_receiver(mode => 'http');
my $node = new_node(
	'observed',
	start => 0,
	conf => {
		'outbox.publisher' => 'http',
		'outbox.http_url' => $receiver->url . '/{topic}',
		'outbox.failed_retry_interval' => '1min',
	});
my $hba = $node->data_dir . '/pg_hba.conf';
my ($hba_line, $ident) = grep { /outbox_monitor/ } @{ $block{''} };
is($ident =~ s/^monitor postgres /'monitor ' . getpwuid($<) . ' '/me, 1, 'one name of a user');
my $rest = slurp_file($hba);
unlink $hba;
append_to_file($hba, $hba_line . $rest);
append_to_file($node->data_dir . '/pg_ident.conf', $ident);
$node->start;

my ($create_role, $grant, $connections) = @{ $block{sql} };
query($node, $create_role);
foreach my $db (@databases)
{
	query($node, "CREATE DATABASE $db");
	query($node, "CREATE SCHEMA outbox; CREATE EXTENSION outbox SCHEMA outbox; $grant", $db);
}
poll_until(
	sub { query($node, q{SELECT count(*) FROM outbox.outbox_relays WHERE pid IS NOT NULL}, 'shop') == 2 },
	'a relay for each database');

# --- Those who look at it

# The port and the folder of the test's server, in place of Debian's
my $where = 'host=' . $node->host . '&port=' . $node->port;
my $listed = query($node, $connections, 'shop') . "\n";
is($listed =~ s{host=/var/run/postgresql}{$where}g, 2, 'a connection for each database');
my $config = slurp_file('monitoring/sql_exporter.yml');
is($config =~ s/^  - postgres:.*\n/$listed/m, 1, 'one connection to be replaced');
is($config =~ s/interval: 15s/interval: 1s/, 1, 'one interval');
my $sql_exporter = Real::SqlExporter->new(config => $config);

my ($defaults) = @{ $block{sh} };
my ($source) = $defaults =~ /^DATA_SOURCE_NAME='(.*)'$/m;
$source =~ s{host=/var/run/postgresql}{'host=' . $node->host . ' port=' . $node->port}e;
my ($include) = $defaults =~ /--include-databases=(\S+)/;
my $postgres_exporter = Real::PostgresExporter->new(
	source => $source,
	databases => [ split /,/, $include ],
	queries => "$ENV{PWD}/monitoring/postgres_exporter.yml");

my $scrape = slurp_file('monitoring/prometheus.yml');
$scrape =~ s/^- outbox\.rules\.yml$/- $ENV{PWD}\/monitoring\/outbox.rules.yml/m;
my %exporter = (outbox => $sql_exporter, postgres => $postgres_exporter);
$scrape =~ s/127\.0\.0\.1:$port_of{$_}/'127.0.0.1:' . $exporter{$_}->port/e foreach keys %exporter;
my $prometheus = Real::Prometheus->new(config => $scrape);

# seen($job, $metric, %labels): its value now, or 'nothing'
sub seen
{
	my ($job, $metric, %labels) = @_;
	my $selector = join ', ', map { qq($_="$labels{$_}") } sort keys %labels;
	my @series = $prometheus->ask(qq($metric\{job="$job", $selector\}));
	die "$metric of $job: " . @series . ' series' if @series > 1;
	return @series ? $series[0]{value} : 'nothing';
}

# sees($metric, $wanted, %labels): wait until both exporters show that value
sub sees
{
	my ($metric, $wanted, %labels) = @_;
	my $value = '';
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	foreach my $job (sort keys %exporter)
	{
		poll_until(
			sub {
				$value = seen($job, $metric, %labels);
				return $value eq $wanted || ($wanted =~ /^[\d.]+/ && $value =~ /^[\d.]+/ && $value == $wanted);
			},
			"$job: $metric of $labels{database} to be $wanted")
		  or diag("it is $value");
	}
	return;
}

# What happens from here on is more than there was.
foreach my $job (sort keys %exporter)
{
	foreach my $db (@databases)
	{
		poll_until(
			sub { seen($job, 'outbox_dead', database => $db, destination => 'default') eq '0' },
			"$job to show database $db")
		  or diag($exporter{$job}->log);
	}
}

promise 'both exporters show what the views show' => sub {
	my @numbers = qw(backlog scheduled failed blocked dead);
	my @counters = qw(published failed_attempts died expired duplicates_suppressed pruned);

	my $publish = sub {
		my ($db, @what) = @_;
		query($node, publish_sql(@what, schema => 'outbox'), $db);
	};

	# no two of the numbers that come of it are the same
	$receiver->faults(
		[
			{ match => { path => '^/refused' }, status => 400 },
			{ match => { path => '^/late' }, status => 503 },
		]);
	$publish->('shop', 'orders', count => 20);
	$publish->('shop', 'twice', more => q{event_id => '00000000-0000-4000-8000-000000000001'})
	  foreach 0 .. 5;
	$publish->('shop', 'late', count => 4, more => q{expires_at => now() + interval '1 second'});
	$publish->('shop', 'refused', key => $_->[0], count => $_->[1]) foreach [ 'a', 7 ], [ 'b', 1 ];
	my $id = $publish->('shop', 'refused');
	$publish->('billing', 'invoices', count => 3);
	poll_until(
		sub {
			query($node, q{SELECT published, died, expired, duplicates_suppressed, blocked
				FROM outbox.outbox_stats}, 'shop') eq '21|3|4|5|6'
			  && query($node, 'SELECT published FROM outbox.outbox_stats', 'billing') eq '3';
		},
		'what is to be shown')
	  or diag(query($node, 'SELECT * FROM outbox.outbox_stats', 'shop'));
	query($node, "SELECT outbox.outbox_discard('$id')", 'shop');
	query($node, q{SELECT outbox.outbox_pause('default')}, 'billing');
	$publish->('billing', 'invoices', count => 8);
	$publish->('billing', 'later', count => 9, more => q{deliver_after => now() + interval '1 day'});

	foreach my $db (@databases)
	{
		my %of = (database => $db, destination => 'default');
		foreach my $column (@numbers, @counters)
		{
			my $name = "outbox_$column" . (grep({ $_ eq $column } @counters) ? '_total' : '');
			sees($name, query($node, "SELECT $column FROM outbox.outbox_stats", $db), %of);
		}
		my ($published, $seconds) = split /\|/,
		  query($node, 'SELECT published, latency_seconds FROM outbox.outbox_stats', $db);
		sees('outbox_delivery_latency_seconds_count', $published, %of);
		sees('outbox_delivery_latency_seconds_sum', $seconds, %of);
		foreach my $bucket (split /\n/, query($node, 'SELECT le, events FROM outbox.outbox_latency', $db))
		{
			my ($le, $events) = split /\|/, $bucket;
			sees('outbox_delivery_latency_seconds_bucket', $events, %of,
				le => $le eq 'Infinity' ? '+Inf' : $le);
		}
		foreach my $row (split /\n/, query($node, q{
			SELECT "check", COALESCE(destination, ''), COALESCE(ok::int::text, 'nothing')
			FROM outbox.outbox_check() WHERE "check" !~ '"|lock on'}, $db))
		{
			my ($check, $destination, $ok) = split /\|/, $row;
			sees('outbox_check_ok', $ok,
				check => $check, destination => $destination, database => $db);
		}
		sees('outbox_relay_in_state', 1, %of, state => { billing => 'paused', shop => 'idle' }->{$db});
		sees('outbox_cluster_destinations', 1, database => 'shop', datname => $db);
	}
	my %topics = (
		shop => { refused => { dead => 2, blocked => 6 } },
		billing => { later => { scheduled => 9, pending => 0 }, invoices => { pending => 8 } });
	foreach my $db (@databases)
	{
		foreach my $topic (sort keys %{ $topics{$db} })
		{
			my %numbers = %{ $topics{$db}{$topic} };
			sees("outbox_topic_$_", $numbers{$_}, database => $db, destination => 'default', topic => $topic)
			  foreach sort keys %numbers;
		}
	}
	query($node, q{SELECT outbox.outbox_resume('default')}, 'billing');

	# what only says how it was read is left out
	my %names;
	foreach my $series (
		$prometheus->ask('{__name__=~"outbox_.*"}'))
	{
		my %labels = %{ $series->{metric} };
		my $job = delete $labels{job};
		delete @labels{qw(instance host server sql_job)};
		$names{$job}{ delete $labels{__name__} }{ join ' ', sort keys %labels } = 1;
	}
	is_deeply($names{outbox}, $names{postgres}, 'the same names and labels');
	is_deeply([ $prometheus->ask('{__name__=~"sql_outbox.*"}') ], [], 'and no other ones');
};

promise 'names are as Prometheus wants them' => sub {
	my $metrics = join '', grep { /^(?:# \w+ )?outbox_/ } split /^/, $postgres_exporter->metrics;
	my $said;
	IPC::Run::run([ 'promtool', 'check', 'metrics' ], '<', \$metrics, '>&', \$said);
	is($said, '', 'promtool has nothing to say');
	like($metrics, qr/^# TYPE outbox_published_total counter$/m, 'a counter is one');
	like($metrics, qr/^# TYPE outbox_delivery_latency_seconds histogram$/m, 'a histogram is one');
};

# --- The dashboard

my $dashboard = JSON::PP->new->decode(slurp_file('monitoring/grafana-dashboard.json'));

# What Grafana puts in for variables
sub expand
{
	my ($expression) = @_;
	return $expression =~ s/\$(?:database|destination)\b/.*/gr =~ s/\$__rate_interval/15s/gr;
}

promise 'each query of the dashboard has data' => sub {
	my $gone = Real::Server::free_port();
	my $publish = sub { query($node, publish_sql(@_, schema => 'outbox'), 'shop'); };
	my $set = sub {
		my ($name, $settings) = @_;
		query($node, "SELECT outbox.outbox_add_destination('$name', '{$name.#}', '$settings')", 'shop');
	};

	# everything that can be wrong, at once
	$receiver->faults(
		[
			{ match => { path => '^/refused' }, status => 400 },
			{ match => { path => '^/(?:down|late|failing)' }, status => 500 },
			{ match => { path => '^/silent' }, action => 'hang' },
			{ match => { path => '.' }, delay_response => 0.01, action => 'pass' },
		]);
	reload(
		$node,
		'outbox.published_expire_time' => '1s',
		'outbox.cleaning_expire_interval' => '1s');
	# What is kept for a destination is not deleted, and what fails while the topic is down
	# waits as it is: so these first.
	$publish->('orders');
	$publish->('failing');
	poll_until(
		sub { query($node, 'SELECT pruned > 0 AND failed > 0 FROM outbox.outbox_stats', 'shop') eq 't' },
		'something to be pruned, and something to fail');
	$set->('gone', qq({"http_url": "http://127.0.0.1:$gone/"}));
	$set->('paused', '{}');
	query($node, q{SELECT outbox.outbox_pause('paused')}, 'shop');
	$publish->($_, count => 2) foreach 'gone.orders', 'paused.orders', 'silent';
	$publish->('down', count => 30);
	$publish->('refused', key => 'dashboard', count => 2);
	$publish->('later', more => q{deliver_after => now() + interval '1 day'});
	$publish->('late', more => q{expires_at => now() + interval '2 seconds'});
	$publish->('twice', more => q{event_id => '00000000-0000-4000-8000-000000000000'}) foreach 1, 2;

	my (%unknown, %ids);
	foreach my $panel (@{ $dashboard->{panels} })
	{
		ok(!$ids{ $panel->{id} }++, "panel $panel->{title} has an id of its own");
		foreach my $target (@{ $panel->{targets} })
		{
			my $expression = expand($target->{expr});
			# something that goes through, and time for a rate
			my $has_data = poll_until(
				sub {
					$publish->('orders', count => 5);
					my @series = $prometheus->ask("max_over_time(($expression)[5m:1s])");
					return grep { $_->{value} > 0 || $expression =~ /== 0$/ } @series;
				},
				"$panel->{title}: $expression", PATIENCE);
			ok($has_data, "$panel->{title}: $target->{refId}");
		}
	}

	foreach my $variable (grep { $_->{type} eq 'query' } @{ $dashboard->{templating}{list} })
	{
		my ($selector, $label) = expand($variable->{query}) =~ /^label_values\((.*), (\w+)\)$/;
		my $values = $prometheus->api("label/$label/values", 'match[]' => $selector);
		cmp_ok(scalar @$values, '>', 1, "$variable->{name} has values");
	}

	# a grid of 24 columns
	my @taken;
	foreach my $panel (@{ $dashboard->{panels} })
	{
		my ($x, $y, $w, $h) = @{ $panel->{gridPos} }{qw(x y w h)};
		foreach my $row ($y .. $y + $h - 1)
		{
			$taken[$row][$_]++ foreach $x .. $x + $w - 1;
		}
	}
	is_deeply([ grep { @$_ != 24 || grep({ $_ != 1 } @$_) } @taken ], [], 'the panels fill the rows, once');
};

# Whether Prometheus thinks of an alert for a destination of database shop
sub is_thought_of
{
	my ($alert) = @_;
	return scalar $prometheus->ask(
		qq(ALERTS{alertname="$alert", database="shop", destination="default", job="outbox"}));
}

promise 'alerts see what the exporters show' => sub {
	$receiver->faults([ { match => { path => '^/alert.dead' }, status => 400 } ]);
	query($node, publish_sql('alert.dead', schema => 'outbox', key => 'alert', count => 2), 'shop');
	query($node, q{SELECT outbox.outbox_pause('default')}, 'shop');
	foreach my $alert (qw(OutboxEventsDead OutboxKeysBlocked OutboxNotDelivering))
	{
		poll_until(sub { is_thought_of($alert) }, "$alert to be thought of");
	}
	query($node, q{SELECT outbox.outbox_resume('default')}, 'shop');
	poll_until(sub { !is_thought_of('OutboxNotDelivering') }, 'what is over to be forgotten');
	my @unhealthy = grep { $_->{health} ne 'ok' } map { @{ $_->{rules} } } @{ $prometheus->api('rules')->{groups} };
	is_deeply([ map { "$_->{name}: $_->{lastError}" } @unhealthy ], [], 'each rule can be evaluated');
};

promise 'when the server is gone, the time of reading tells' => sub {
	my $old = sub {
		return $prometheus->ask(qq(time() - outbox_sampled_timestamp_seconds{job="outbox", database="shop"} > 5));
	};
	poll_until(sub { !$old->() }, 'what was read to be new');
	$node->stop;
	poll_until(sub { $old->() }, 'what was read to be old');
	isnt(seen('outbox', 'outbox_backlog', database => 'shop', destination => 'default'),
		'nothing', 'though prometheus-sql-exporter shows it');
	poll_until(
		sub { seen('postgres', 'outbox_backlog', database => 'shop', destination => 'default') eq 'nothing' },
		'prometheus-postgres-exporter to show nothing');
	$node->start;
	poll_until(sub { !$old->() }, 'what was read to be new again', PATIENCE);
};

promise 'all of it is installed beside the documents' => sub {
	plan skip_all => 'the extension is not staged by tools/stage' unless defined staged_dest();
	my ($docdir) = run_command([ $ENV{PG_CONFIG} // 'pg_config', '--docdir' ]);
	my $installed = staged_dest() . "$docdir/extension/outbox";
	ok(-s "$installed/docs/monitoring.md", 'docs/monitoring.md is installed');
	foreach my $file (glob 'monitoring/*')
	{
		is(slurp_file("$installed/$file"), slurp_file($file), "$file is installed");
		unlike(slurp_file($file), qr/\boutbox_events\b/, "$file asks for no state of each event");
	}
};

done_testing();
