# A NATS server with JetStream, whose streams are on disk.  Streams are made by
# create_stream() alone, and read by the usual client in Python.

package Real::Nats;

use strict;
use warnings FATAL => 'all';

use parent 'Real::Server';

use Carp;
use File::Basename qw(dirname);
use IPC::Run ();
use JSON::PP ();

my $client = dirname(__FILE__) . '/../../real/nats/client.py';
my $python = $ENV{PYTHON} // '/usr/bin/python3';

sub _library
{
	my ($library) = sort { $b cmp $a } glob(($ENV{OUTBOX_CACHE} // '') . '/nats-py-*');
	return $library;
}

sub missing
{
	return 'nats-server is not installed'
	  unless Real::Server::find_program('nats-server');
	return 'nats-py is not there' unless defined _library();
	return undef;
}

# new(%options): those of Real::Server, and
#	config	lines for its configuration
#	login, key, tls_files	what the client of the tests logs in with:
#			"user:password", a user's seed, files (ca, cert, key)
sub prepare
{
	my ($self) = @_;
	my $dir = $self->dir;

	$self->{started_at} = (-s $self->log_file) // 0;
	$self->write_file('nats.conf', <<"EOF" . ($self->{config} // ''));
host: 127.0.0.1
port: $self->{port}
server_name: outbox_test
jetstream { store_dir: "$dir/data" }
EOF
	return;
}

sub command
{
	my ($self) = @_;
	return (Real::Server::find_program('nats-server'), '-c',
		$self->dir . '/nats.conf');
}

sub is_ready
{
	my ($self) = @_;
	return $self->log($self->{started_at}) =~ /Server is ready/;
}

# url: what outbox_nats.url takes
sub url { return 'nats://127.0.0.1:' . $_[0]->port; }

# --- What its clients do

# The client's environment
sub _environment
{
	my ($self) = @_;
	my $files = $self->{tls_files} // {};
	return (
		PYTHONPATH => _library(),
		(defined $self->{key} ? (NATS_SEED => $self->{key}) : ()),
		map { 'NATS_' . uc($_) => $files->{$_} } keys %$files);
}

# The client's command line
sub _client
{
	my ($self, @arguments) = @_;
	my $login = defined $self->{login} ? "$self->{login}\@" : '';
	return ($python, $client, "nats://${login}127.0.0.1:" . $self->port, @arguments);
}

sub _run_client
{
	my ($self, @arguments) = @_;
	my ($output, $error);

	my %environment = $self->_environment;
	local @ENV{ keys %environment } = values %environment;
	IPC::Run::run([ $self->_client(@arguments) ],
		'<', \undef, '>', \$output, '2>', \$error)
	  or croak "client.py @arguments: $error";
	return $output;
}

# create_stream($name, $subject, %config)
sub create_stream
{
	my ($self, $name, $subject, %config) = @_;
	$self->_run_client('create', $name, $subject,
		map { "$_=$config{$_}" } sort keys %config);
	return;
}

sub delete_stream
{
	my ($self, $name) = @_;
	$self->_run_client('delete', $name);
	return;
}

# messages($stream): all that it has, in order: hashes of seq, subject, headers (a
# hash) and data (bytes)
sub messages
{
	my ($self, $stream) = @_;
	my @messages =
	  map { JSON::PP->new->decode($_) }
	  split /\n/, $self->_run_client('read', $stream);
	$_->{data} = pack('H*', $_->{data}) foreach @messages;
	return @messages;
}

# start_responder($subject, $words): somebody who answers these words to what is
# published there, or without them nothing; returns what finish_responder() takes
sub start_responder
{
	my ($self, $subject, @words) = @_;
	my $output = '';

	my %environment = $self->_environment;
	local @ENV{ keys %environment } = values %environment;
	my $run = IPC::Run::start([ $self->_client('respond', $subject, @words) ],
		'<', \undef, '>', \$output, IPC::Run::timeout(60));
	IPC::Run::pump($run) until $output =~ /listening/;
	return $run;
}

sub finish_responder
{
	my ($run) = @_;
	$run->kill_kill;
	return;
}

# make_key: a user's seed and public key
sub make_key
{
	my ($output, $error);

	local $ENV{PYTHONPATH} = _library();
	IPC::Run::run([ $python, $client, '', 'keys' ],
		'<', \undef, '>', \$output, '2>', \$error)
	  or croak "client.py keys: $error";
	return split ' ', $output;
}

1;
