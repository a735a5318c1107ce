# A RabbitMQ broker: a node of its own, with an epmd of its own, on loopback only.
#
# Options of new():
#	conf	further lines of rabbitmq.conf: { name => value }
#	tls		{ cert => file, key => file, ca => file }: also listen with TLS, on
#			tls_port

package Real::RabbitMQ;

use strict;
use warnings FATAL => 'all';

use parent 'Real::Server';

use Carp;
use File::Basename qw(dirname);
use IPC::Run ();
use JSON::PP ();
use MIME::Base64 qw(decode_base64);

use OutboxTest::Node ();

use constant { USER => 'outbox', PASSWORD => 'pass word%/:@' };

# Debian's wrappers want to be run as root or as rabbitmq, and have folders of
# their own.
my $bin = '/usr/lib/rabbitmq/bin';

my $client = dirname(__FILE__) . '/../../real/rabbitmq/client.py';
my $python = $ENV{PYTHON} // '/usr/bin/python3';
my $json = JSON::PP->new->utf8->canonical->allow_nonref;

sub missing
{
	return 'rabbitmq-server is not installed' unless -x "$bin/rabbitmq-server";
	return 'epmd is not installed' unless Real::Server::find_program('epmd');
	return 'pika, a client of RabbitMQ in Python, is not installed'
	  if system("$python -c 'import pika' 2>/dev/null") != 0;
	return undef;
}

sub new
{
	my ($class, %options) = @_;
	return $class->SUPER::new(
		epmd_port => Real::Server::free_port(),
		dist_port => Real::Server::free_port(),
		tls_port => Real::Server::free_port(),
		%options);
}

sub user { return USER; }
sub password { return PASSWORD; }
sub tls_port { return $_[0]{tls_port}; }
sub url { return 'amqp://127.0.0.1:' . $_[0]->port; }

# url_with_password: what clients take that know no other way
sub url_with_password
{
	my ($self) = @_;
	(my $password = PASSWORD) =~ s/(\W)/sprintf('%%%02X', ord($1))/ge;
	return sprintf('amqp://%s:%s@127.0.0.1:%d', USER, $password, $self->port);
}

# settings($exchange): those by which our publisher sends there
sub settings
{
	my ($self, $exchange) = @_;
	my $file = $self->dir . '/password';

	OutboxTest::Node::write_secret($file, PASSWORD . "\n") unless -e $file;
	return (
		shared_preload_libraries => 'outbox, outbox_rabbitmq',
		'outbox.publisher' => 'outbox_rabbitmq',
		'outbox_rabbitmq.exchange' => $exchange,
		'outbox_rabbitmq.url' => $self->url,
		'outbox_rabbitmq.user' => USER,
		'outbox_rabbitmq.password_file' => $file);
}

sub prepare
{
	my ($self) = @_;
	my %conf = (
		'listeners.tcp.1' => '127.0.0.1:' . $self->port,
		default_user => USER,
		default_pass => PASSWORD,
		'log.console' => 'true',
		'log.file' => 'false',
		'disk_free_limit.absolute' => '1MB',
		%{ $self->{conf} // {} });

	if (my $tls = $self->{tls})
	{
		%conf = (
			%conf,
			'listeners.ssl.1' => '127.0.0.1:' . $self->tls_port,
			'ssl_options.cacertfile' => $tls->{ca},
			'ssl_options.certfile' => $tls->{cert},
			'ssl_options.keyfile' => $tls->{key});
	}
	$self->write_file('rabbitmq.conf',
		join('', map { "$_ = $conf{$_}\n" } sort keys %conf));
	$self->write_file('enabled_plugins', "[].\n");
	$self->{log_start} = length $self->log;
	return;
}

# The broker takes the place of the shell, and epmd ends with it.
sub command
{
	my ($self) = @_;
	return ('sh', '-c',
		'setpriv --pdeathsig KILL epmd -address 127.0.0.1 & '
		  . 'until epmd -names >/dev/null 2>&1; do sleep 0.02; done; '
		  . "exec $bin/rabbitmq-server");
}

sub environment
{
	my ($self) = @_;
	my $dir = $self->dir;
	return (
		HOME => $dir,
		ERL_EPMD_ADDRESS => '127.0.0.1',
		ERL_EPMD_PORT => $self->{epmd_port},
		RUNNING_UNDER_SYSTEMD => 'true',
		RABBITMQ_CONF_ENV_FILE => '/dev/null',
		RABBITMQ_CONFIG_FILE => "$dir/rabbitmq.conf",
		RABBITMQ_ENABLED_PLUGINS_FILE => "$dir/enabled_plugins",
		RABBITMQ_MNESIA_BASE => "$dir/mnesia",
		RABBITMQ_LOG_BASE => $dir,
		RABBITMQ_NODENAME => 'outbox@localhost',
		RABBITMQ_DIST_PORT => $self->{dist_port},
		RABBITMQ_CTL_ERL_ARGS => '-kernel inet_dist_use_interface {127,0,0,1}',
		RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS =>
		  '-kernel inet_dist_use_interface {127,0,0,1} +S 2:2');
}

sub is_ready
{
	my ($self) = @_;
	return $self->log($self->{log_start}) =~ /Server startup complete/;
}

# ctl(@command): what rabbitmqctl prints for a command
sub ctl
{
	my ($self, @command) = @_;
	my ($output, $error);
	my %environment = $self->environment;
	local @ENV{ keys %environment } = values %environment;

	IPC::Run::run([ "$bin/rabbitmqctl", '--quiet', @command ],
		'<', \undef, '>', \$output, '2>', \$error)
	  or croak "rabbitmqctl @command: $error$output";
	return $output;
}

# client(@steps): have pika do this, and return what the last step says; see
# test/real/rabbitmq/client.py
sub client
{
	my ($self, @steps) = @_;
	my ($output, $error);

	IPC::Run::run(
		[
			$python, $client, $self->port, USER, PASSWORD,
			$json->encode(\@steps)
		],
		'<', \undef, '>', \$output, '2>', \$error)
	  or croak "a client of RabbitMQ failed: $error";
	return $json->decode($output);
}

# declare_queue($name, %options): a durable queue, with "arguments"; if there is
# an "exchange", which is then made, and of type topic, bound to it by "key" (#)
sub declare_queue
{
	my ($self, $name, %options) = @_;
	my @steps = (
		[
			queue_declare => {
				queue => $name,
				durable => JSON::PP::true,
				arguments => $options{arguments} // {}
			}
		]);

	push @steps,
	  [
		exchange_declare => {
			exchange => $options{exchange},
			exchange_type => 'topic',
			durable => JSON::PP::true
		}
	  ],
	  [
		queue_bind => {
			queue => $name,
			exchange => $options{exchange},
			routing_key => $options{key} // '#'
		}
	  ] if defined $options{exchange};
	$self->client(@steps);
	return;
}

# count($queue): how many messages are ready there
sub count
{
	my ($self, $queue) = @_;
	return $self->client([ count => { queue => $queue } ]);
}

# take($queue): the messages that are there now, which are gone then: hashes, of
# which "body" is bytes
sub take
{
	my ($self, $queue) = @_;
	my $messages = $self->client([ take => { queue => $queue } ]);
	$_->{body} = decode_base64($_->{body}) foreach @$messages;
	return @$messages;
}

# take_ids($queue): the same, but only their ids
sub take_ids
{
	my ($self, $queue) = @_;
	return @{ $self->client([ ids => { queue => $queue } ]) };
}

1;
