# Dapr's sidecar, by itself: no control plane, no other host.
#
# Options of new():
#	line		which of test/daprd: "1.18" (default), "1.16"
#	components	{ name => [ type, { metadata } ] }: what component() takes
#	subscriber	a Real::DaprSubscriber, its application; default: none
#	token		what it asks clients for
#	unix		true: it listens on Unix sockets instead of ports
#	features	names of preview features, such as HotReload
#	arguments	further arguments of daprd

package Real::Dapr;

use strict;
use warnings FATAL => 'all';

use parent 'Real::Server';

use HTTP::Tiny;
use IO::Socket::UNIX;
use JSON::PP ();

use PostgreSQL::Test::Utils ();

use constant DEFAULT_LINE => '1.18';

my $json = JSON::PP->new->utf8->canonical;

# missing($line)
sub missing
{
	my ($class, $line) = @_;
	$line //= DEFAULT_LINE;
	return "daprd $line is not built (tools/setup-real daprd)"
	  unless defined binary($line);
	return undef;
}

# binary($line): its path, or undef.  A line is built from the version that its
# go.mod names.
sub binary
{
	my $line = shift // DEFAULT_LINE;
	my $modules = PostgreSQL::Test::Utils::slurp_file("test/daprd/$line/go.mod");
	my ($version) = $modules =~ m{github\.com/dapr/dapr v(\S+)};
	my $binary = ($ENV{OUTBOX_CACHE} // '') . "/daprd-$version";
	return -x $binary ? $binary : undef;
}

sub new
{
	my ($class, %options) = @_;
	my $start = delete $options{start} // 1;
	my $components = delete $options{components} // {};
	my $self = $class->SUPER::new(
		line => DEFAULT_LINE,
		other_ports => [ map { Real::Server::free_port() } 1 .. 4 ],
		%options,
		start => 0);

	mkdir $self->_resources or die "mkdir: $!";
	# A path of its own: a socket's has to be short.
	$self->{unix} = PostgreSQL::Test::Utils::tempdir_short() if $self->{unix};
	$self->component($_ => @{ $components->{$_} }) foreach keys %$components;
	$self->start if $start;
	return $self;
}

sub _resources { return $_[0]->dir . '/resources'; }

# component($name, $type, \%metadata, %spec): have such a component.  Written
# anew, it is reloaded, if the sidecar has the feature HotReload.
sub component
{
	my ($self, $name, $type, $metadata, %spec) = @_;
	my @metadata = map { { name => $_, value => "$metadata->{$_}" } }
	  sort keys %{ $metadata // {} };
	return $self->resource(
		$name,
		{
			apiVersion => 'dapr.io/v1alpha1',
			kind => 'Component',
			metadata => { name => $name },
			spec => { type => $type, version => 'v1', metadata => \@metadata, %spec }
		});
}

# resource($name, \%yaml): a file of the folder that the sidecar watches.  JSON is
# YAML.  It is there at once and whole.
sub resource
{
	my ($self, $name, $yaml) = @_;
	my $new = $self->write_file('resource', $json->encode($yaml));
	rename($new, $self->_resources . "/$name.yaml") or die "rename: $!";
	return;
}

sub remove_component
{
	my ($self, $name) = @_;
	unlink($self->_resources . "/$name.yaml") or die "unlink: $!";
	return;
}

# There is no such way to resolve names, which the sidecar says in its log and goes
# on: else it would ask the network.
sub _configuration
{
	my ($self) = @_;
	my @features = map { { name => $_, enabled => JSON::PP::true } }
	  @{ $self->{features} // [] };
	return {
		apiVersion => 'dapr.io/v1alpha1',
		kind => 'Configuration',
		metadata => { name => 'test' },
		spec => {
			features => \@features,
			nameResolution => { component => 'none', version => 'v1' }
		}
	};
}

sub prepare
{
	my ($self) = @_;
	$self->write_file('config.yaml', $json->encode($self->_configuration));
	return;
}

sub command
{
	my ($self) = @_;
	my ($grpc, $internal, $metrics, $public) = @{ $self->{other_ports} };
	my $subscriber = $self->{subscriber};
	return (
		binary($self->{line}),
		'--app-id' => 'relay',
		'--config' => $self->dir . '/config.yaml',
		'--resources-path' => $self->_resources,
		'--dapr-listen-addresses' => '127.0.0.1',
		'--dapr-http-port' => $self->port,
		'--dapr-grpc-port' => $grpc,
		'--dapr-internal-grpc-port' => $internal,
		'--dapr-internal-grpc-listen-address' => '127.0.0.1',
		'--dapr-public-port' => $public,
		'--dapr-public-listen-address' => '127.0.0.1',
		'--metrics-port' => $metrics,
		'--metrics-listen-address' => '127.0.0.1',
		defined $subscriber ? ('--app-port' => $subscriber->port) : (),
		$self->{unix} ? ('--unix-domain-socket' => $self->{unix}) : (),
		@{ $self->{arguments} // [] });
}

sub environment
{
	my ($self) = @_;
	return defined $self->{token} ? (DAPR_API_TOKEN => $self->{token}) : ();
}

# With an application, once it can be handed events too.
sub is_ready
{
	my ($self) = @_;
	my $path = defined $self->{subscriber} ? '/v1.0/healthz' : '/v1.0/healthz/outbound';
	return $self->_status_by_unix($path) == 204 if $self->{unix};
	return $self->request('GET', $path)->{status} == 204;
}

# request($method, $path, %options): as HTTP::Tiny, to the sidecar
sub request
{
	my ($self, $method, $path, %options) = @_;
	my $client = HTTP::Tiny->new(timeout => 10, proxy => undef, http_proxy => undef);
	$options{headers}{'dapr-api-token'} //= $self->{token} if defined $self->{token};
	return $client->request($method, 'http://127.0.0.1:' . $self->port . $path,
		\%options);
}

sub _status_by_unix
{
	my ($self, $path) = @_;
	my $socket = IO::Socket::UNIX->new($self->_socket) or die "connect: $!";
	print $socket "GET $path HTTP/1.0\r\n\r\n";
	my ($status) = (<$socket> // '') =~ m{^HTTP/\S+ (\d+)};
	return $status // 0;
}

sub _socket { return "$_[0]{unix}/dapr-relay-http.socket"; }

# endpoint: what outbox.dapr_endpoint takes
sub endpoint
{
	my ($self) = @_;
	return $self->{unix} ? 'unix:' . $self->_socket : 'http://127.0.0.1:' . $self->port;
}

1;
