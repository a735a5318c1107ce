# Compressed requests of the http publisher.
#
# Promises:
# - With outbox.http_compression = gzip a body from http_compression_min bytes on is
#   compressed, the same at each try, and a smaller one is not.
# - A signature covers the bytes that are sent.
# - An endpoint that answers a compressed request with 415 gets it plain, without an
#   attempt, and all others until the next reload.
# - A large body is compressed in pieces: others go on meanwhile.

use strict;
use warnings FATAL => 'all';

use Compress::Zlib ();
use Digest::SHA qw(hmac_sha256);
use JSON::PP ();
use MIME::Base64 qw(decode_base64 encode_base64);
use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;

my $http = start_receiver(mode => 'http');
my $node = new_node(
	'compression',
	conf => {
		'outbox.publisher' => 'http',
		'outbox.http_url' => $http->url . '/in/{topic}',
		'outbox.http_compression' => 'gzip',
		'outbox.http_compression_min' => 1000,
		'outbox.max_payload_size' => '100MB',
	});
query($node, 'CREATE EXTENSION outbox');

# The bytes of an entry's body as they came
sub bytes
{
	my ($entry) = @_;
	return $entry->{body_is_base64} ? decode_base64($entry->{body}) : $entry->{body};
}

# An entry's body as the event has it; undef if it is not compressed
sub unpacked
{
	my ($entry) = @_;
	return undef unless ($entry->{headers}{'content-encoding'} // '') eq 'gzip';
	return Compress::Zlib::memGunzip(bytes($entry));
}

# JSON of so many bytes, and SQL for it
sub json { return '"' . 'x' x ($_[0] - 2) . '"'; }
sub sql { return "to_jsonb(repeat('x', $_[0] - 2))"; }

# Endpoints that know nothing of it: they answer 415.
sub refuse_compressed
{
	$http->faults([ { match => { header => 'content-encoding: gzip' }, status => 415 } ]);
	return;
}

promise 'a body is compressed if it is large enough' => sub {
	my %id_of = map { $_ => scalar publish($node, 'sizes', payload => sql($_)) }
	  999, 1000, 600_000, 3_000_000;
	wait_delivered($http, [ values %id_of ]);
	my ($small) = $http->log(id => $id_of{999});
	is($small->{headers}{'content-encoding'}, undef, '999 bytes are sent as they are');
	is(bytes($small), json(999), 'all of them');
	foreach my $size (1000, 600_000, 3_000_000)
	{
		my ($entry) = $http->log(id => $id_of{$size});
		ok(unpacked($entry) eq json($size), "$size bytes are compressed");
		is($entry->{headers}{'content-length'}, length(bytes($entry)), 'to so many');
		cmp_ok(length(bytes($entry)), '<', $size / 10, 'less than before');
		is($entry->{headers}{'content-type'}, 'application/json', 'of the same type');
	}
};

promise 'each try has the same bytes' => sub {
	$http->faults([ { times => 1, status => 500 } ]);
	my $id = publish($node, 'tries', payload => sql(5000));
	wait_delivered($http, [$id]);

	# of a gzip header, bytes 4 to 7 are the time
	my @tries = map { bytes($_) } $http->log(path => '/in/tries');
	is(scalar(@tries), 2, 'two tries');
	is(substr($tries[0], 4, 4), "\0" x 4, 'without a time');
	ok($tries[0] eq $tries[1], 'of the same bytes');
};

promise 'a signature covers the bytes that are sent' => sub {
	my $secret = 'k' x 32;
	my $file = PostgreSQL::Test::Utils::tempdir() . '/secret';
	write_secret($file, 'whsec_' . encode_base64($secret, ''));
	reload(
		$node,
		'outbox.http_signature_secret_file' => $file,
		'outbox.http_idempotency_key' => 'on');
	restart_relay($node);
	my @ids = map { scalar publish($node, 'signed', payload => sql($_)) } 5000, 2_000_000;
	wait_delivered($http, \@ids);
	foreach my $entry ($http->log(path => '/in/signed'))
	{
		my $headers = $entry->{headers};
		my $signed = join '.', @{$headers}{qw(webhook-id webhook-timestamp)}, bytes($entry);
		is($headers->{'webhook-signature'},
			'v1,' . encode_base64(hmac_sha256($signed, $secret), ''),
			$headers->{'content-length'} . ' bytes');
		is($headers->{'idempotency-key'}, $entry->{id}, 'with its key');
	}
};

# Publish so many events, and wait until the endpoint has taken them, by whatever
# requests.
sub publish_plain
{
	my ($n) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	publish($node, 'plain', count => $n, payload => sql(2000));
	return wait_settled($node);
}

foreach my $batch_size (1, 10)
{
	promise "an endpoint that takes nothing compressed gets it plain: $batch_size in a request" =>
	  sub {
		my $offset = -s $node->logfile;
		reload($node, 'outbox.http_batch_size' => $batch_size);
		restart_relay($node);
		my $failed = stat_value($node, 'failed_attempts');
		refuse_compressed();
		publish_plain(100);
		is(stat_value($node, 'failed_attempts') - $failed, 0, 'without an attempt');
		my $refused = $http->log(status => 415, fields => ['status']);
		cmp_ok($refused, '>', 0, 'some were refused at first');
		publish_plain(10);
		is($http->log(status => 415, fields => ['status']), $refused, 'no other one is');
		my $log = slurp_file($node->logfile, $offset);
		is(scalar(() = $log =~ /takes no compressed requests/g), 1, 'the log has a line');

		# what it takes is tried again when settings are read
		$http->faults([]);
		reload($node);
		poll_until(
			sub {
				publish_plain(1);
				defined unpacked(($http->log)[-1]);
			},
			'requests to be compressed again');
	  };
}

promise 'a 415 to what is not compressed is final as ever' => sub {
	$http->faults([ { status => 415 } ]);
	my $id = publish($node, 'type');
	wait_state($node, $id, 'dead');
	is(event_value($node, $id, 'last_status'), 415, 'dead with the reason');
};

# SQL for a payload that takes its time to compress
my $large = q{(SELECT convert_to(string_agg(md5(n::text), ''), 'UTF8')
	FROM generate_series(1, 1000000) n), 'text/plain'};

promise 'a large body is compressed while others go on' => sub {
	reload($node, 'outbox.relay_memory' => '1GB');
	my ($large_id, @small) = split /\n/, query($node, qq{
		SELECT outbox_publish_bytes('large', $large)
		UNION ALL SELECT outbox_publish('small', to_jsonb(n)) FROM generate_series(1, 20) n});
	wait_delivered($http, [ $large_id, @small ], 60);
	my %time_of = map { $_->{id} => $_->{time} } $http->log(fields => [ 'id', 'time' ]);
	my @early = grep { $time_of{$_} < $time_of{$large_id} - 0.1 } @small;
	is(scalar(@early), 20, 'they arrive while it is compressed');
};

promise 'what is given up while it is compressed leaves nothing' => sub {
	reload(
		$node,
		'outbox.request_timeout' => '20ms',
		'outbox.max_retry_times' => 0);
	my $id = query($node, qq{SELECT outbox_publish_bytes('given up', $large)});
	wait_relay_value($node, last_error => qr/timed out/);
	is(scalar($http->log(id => $id, fields => ['id'])), 0, 'nothing was sent');
	reload($node, 'outbox.request_timeout' => '1min');
	wait_delivered($http, [$id], 60);
};

done_testing();
