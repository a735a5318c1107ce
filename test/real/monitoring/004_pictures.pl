# docs/pictures/dashboard.svg, of a real run that Prometheus has watched: tools/pictures.
#
# Promises:
# - The panels of the dashboard that matter most show the course of a run: load, an outage
#   of the destination, what waited for it, and events that are refused.

use strict;
use warnings FATAL => 'all';

use IPC::Run ();
use JSON::PP ();
use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;
use Real::PostgresExporter;
use Real::Prometheus;

plan skip_all => 'tools/pictures says where to put it' unless $ENV{OUTBOX_PICTURES};

# How long each part of the run is, in seconds
use constant PART => 20;

my $receiver = start_receiver(mode => 'http');
my $node = new_node(
	'pictures',
	conf => {
		'outbox.publisher' => 'http',
		'outbox.http_url' => $receiver->url . '/{topic}',
		'outbox.breaker_probe_interval' => '1s',
	});
query($node, 'CREATE SCHEMA outbox; CREATE EXTENSION outbox SCHEMA outbox');
my $exporter = Real::PostgresExporter->new(
	source => 'host=' . $node->host . ' port=' . $node->port . ' dbname=postgres',
	queries => "$ENV{PWD}/monitoring/postgres_exporter.yml");
my $prometheus = Real::Prometheus->new(config => "scrape_configs:\n- job_name: postgres\n"
	  . "  static_configs:\n  - targets: ['127.0.0.1:" . $exporter->port . "']\n");
my $from = time();

sub let_run
{
	my $until = time() + PART;
	poll_until(sub { time() >= $until }, 'time to pass');
	return;
}

my $load = PostgreSQL::Test::Utils::tempdir() . '/load.sql';
append_to_file($load, publish_sql('orders', schema => 'outbox', count => 60) . " \\watch 0.2\n");
my $publishing = IPC::Run::start([ 'psql', '-Xq', '-d', $node->connstr('postgres'), '-f', $load ], '>', '/dev/null');
let_run();
$receiver->state(listening => 0);
let_run();
$receiver->faults([ { match => { path => '^/refused' }, status => 400 } ]);
$receiver->state(listening => 1);
query($node, publish_sql('refused', schema => 'outbox', count => 3, key => 'k'));
query($node, publish_sql('later', schema => 'outbox', count => 5, more => q{deliver_after => now() + interval '1 day'}));
let_run();
$publishing->kill_kill;

# One panel, as gnuplot has it: the data, and what draws a curve for each series of its queries
sub plot
{
	my ($panel) = @_;
	my $unit = { cps => 'per second', s => 'seconds' }->{ $panel->{fieldConfig}{defaults}{unit} // '' } // '';
	my (@curves, $data);
	foreach my $target (@{ $panel->{targets} })
	{
		my $expression = $target->{expr} =~ s/\$(?:database|destination)\b/.*/gr =~ s/\$__rate_interval/5s/gr;
		my $found = $prometheus->api('query_range', query => $expression,
			start => $from, end => time(), step => 1);
		foreach my $series (@{ $found->{result} })
		{
			my $name = ($target->{legendFormat} // '') =~ s/\{\{(\w+)\}\}/$series->{metric}{$1} \/\/ ''/ger;
			my $block = '$data' . $panel->{id} . '_' . @curves;
			$data .= "$block << END\n" . join('', map { ($_->[0] - $from) . ' ' . ($_->[1] eq 'NaN' ? '?' : $_->[1]) . "\n" }
				  @{ $series->{values} }) . "END\n";
			push @curves, "$block using 1:2 with lines linewidth 2 title '$name'";
		}
	}
	isnt(scalar @curves, 0, "$panel->{title} has a course");
	return ($data, "set title '$panel->{title}'\nset ylabel '$unit'\nplot " . join(', ', @curves) . "\n");
}

promise 'the panels show the course of a run' => sub {
	my $dashboard = JSON::PP->new->decode(slurp_file('monitoring/grafana-dashboard.json'));
	my @panels = grep { $_->{type} eq 'timeseries' && $_->{title} !~ /^(?:Requests|Deleted)/ } @{ $dashboard->{panels} };
	my $rows = int((@panels + 1) / 2);
	my (@data, @plots);
	foreach my $panel (@panels)
	{
		my ($data, $plot) = plot($panel);
		push @data, $data;
		push @plots, $plot;
	}
	my $script = join('', @data)
	  . "set terminal svg size 900,@{[ 220 * $rows ]} dynamic background '#ffffff' font 'sans-serif,11'\n"
	  . "set output '$ENV{OUTBOX_PICTURES}/dashboard.svg'\nset datafile missing '?'\n"
	  . "set yrange [0:*]\nset grid ytics\nset key outside bottom center horizontal noenhanced\n"
	  . "set multiplot layout $rows,2\n" . join('', @plots) . "unset multiplot\n";
	my $said = '';
	ok(IPC::Run::run([ 'gnuplot', '-' ], '<', \$script, '>&', \$said), 'gnuplot takes it');
	unlike($said, qr/no valid points|invalid|undefined/, 'and finds data');
};

done_testing();
