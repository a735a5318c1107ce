# A Mosquitto broker, and a subscriber of it.  Users "reader" and "writer" have the
# password "secret"; "writer" may not write to "forbidden".

package Real::Mosquitto;

use strict;
use warnings FATAL => 'all';

use parent 'Real::Server';

use File::Basename qw(dirname);
use IPC::Run ();
use JSON::PP ();

my $subscriber = dirname(__FILE__) . '/../../real/mqtt/subscriber.py';
my $python = $ENV{PYTHON} // '/usr/bin/python3';

sub missing
{
	foreach my $program (qw(mosquitto mosquitto_passwd))
	{
		return "$program is not installed"
		  unless Real::Server::find_program($program);
	}
	return 'python3-paho-mqtt is not installed'
	  unless IPC::Run::run([ $python, '-c', 'import paho.mqtt' ],
		'>&', \my $output);
	return undef;
}

# new(%options): those of Real::Server, and
#	tls		for a second listener: a hash of files (cert, key, ca)
#	config	lines for its configuration
sub new
{
	my ($class, %options) = @_;
	$options{tls_port} = Real::Server::free_port() if $options{tls};
	return $class->SUPER::new(%options);
}

sub url { return 'mqtt://127.0.0.1:' . $_[0]->port; }
sub tls_port { return $_[0]{tls_port}; }

sub prepare
{
	my ($self) = @_;
	my $dir = $self->dir;
	my $tls = '';

	$self->{started_at} = (-s $self->log_file) // 0;
	$tls = <<"CONFIG" if $self->{tls};
listener $self->{tls_port} 127.0.0.1
certfile $self->{tls}{cert}
keyfile $self->{tls}{key}
cafile $self->{tls}{ca}
require_certificate true
CONFIG
	$self->write_file('rights', <<'RIGHTS');
user reader
topic read #
user writer
topic write #
topic deny forbidden
RIGHTS
	unless (-e "$dir/passwords")
	{
		$self->write_file('passwords', "reader:secret\nwriter:secret\n");
		IPC::Run::run(
			[
				Real::Server::find_program('mosquitto_passwd'),
				'-U', "$dir/passwords"
			]) or die "mosquitto_passwd failed\n";
	}
	$self->write_file('mosquitto.conf', <<"CONFIG");
listener $self->{port} 127.0.0.1
$tls
allow_anonymous false
password_file $dir/passwords
acl_file $dir/rights
persistence true
persistence_location $dir/
max_queued_messages 0
max_inflight_messages 0
log_dest stderr
@{[ $self->{config} // '' ]}
CONFIG
	return;
}

sub command
{
	my ($self) = @_;
	return (Real::Server::find_program('mosquitto'), '-c',
		$self->dir . '/mosquitto.conf');
}

sub is_ready
{
	my ($self) = @_;
	return $self->log($self->{started_at}) =~ /running$/m;
}

# --- The subscriber

# subscribe(@topics): start one, which stays until the test ends; once it has
# subscribed, messages() has what it gets
sub subscribe
{
	my ($self, @topics) = @_;
	$self->{messages} = $self->dir . '/messages';
	$self->{subscriber} = IPC::Run::start(
		[ $python, $subscriber, $self->port, $self->{messages}, @topics ],
		'<', \undef, '>>', $self->dir . '/subscriber', '2>&1');
	return;
}

sub unsubscribe
{
	my ($self) = @_;
	(delete $self->{subscriber})->kill_kill;
	return;
}

sub _lines
{
	my ($self) = @_;
	return () unless -e $self->{messages};
	return map { JSON::PP->new->decode($_) }
	  grep { /\}$/ } split /\n/,
	  PostgreSQL::Test::Utils::slurp_file($self->{messages});
}

sub has_subscribed
{
	my ($self) = @_;
	return scalar grep { $_->{subscribed} } $self->_lines;
}

# messages($topic): what has arrived, in order: hashes of topic, qos, retain,
# content_type, properties (a hash) and payload (bytes)
sub messages
{
	my ($self, $topic) = @_;
	my @messages = grep { defined $_->{topic} && $_->{topic} eq $topic } $self->_lines;

	foreach my $message (@messages)
	{
		$message->{payload} = pack('H*', $message->{payload});
		$message->{properties} = { map { @$_ } @{ $message->{properties} } };
	}
	return @messages;
}

# Its subscriber ends with it.
sub _release
{
	my ($self) = @_;

	# at the end of the test, this is what the test returns
	local $?;
	$self->unsubscribe if $self->{subscriber} && $self->{owner} == $$;
	return $self->SUPER::_release;
}

1;
