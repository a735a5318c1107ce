# A Kafka broker: KRaft, one node, from the jars that tools/setup-real.d/kafka has
# fetched.  Topics are made by create_topic() alone.
#
# Without "secure" it has one listener, "plaintext".  With it, further ones:
#
#	sasl		password: users alice, bob and carol, whose password is "secret"
#	tls			a certificate of authority(), for 127.0.0.1 and no name
#	mtls		the same, and it wants a certificate of it from its client
#	sasltls		password over TLS
#
# and rights: who comes without name or as alice or "client", may do everything;
# bob may write to the topic "bobs"; carol may nothing.

package Real::Kafka;

use strict;
use warnings FATAL => 'all';

use parent 'Real::Server';

use Carp;
use File::Basename qw(dirname);
use IPC::Run ();
use JSON::PP ();

use Real::Certificates;

my $files = dirname(__FILE__) . '/../../real/kafka';
my $client = "$files/client.py";
my $common = "$files/server.properties";
my $python = $ENV{PYTHON} // '/usr/bin/python3';

my %protocols = (
	controller => 'PLAINTEXT',
	plaintext => 'PLAINTEXT',
	sasl => 'SASL_PLAINTEXT',
	tls => 'SSL',
	mtls => 'SSL',
	sasltls => 'SASL_SSL');

sub _jars
{
	my ($jars) = sort { $b cmp $a } glob(($ENV{OUTBOX_CACHE} // '') . '/kafka-*');
	return $jars;
}

sub missing
{
	foreach my $program (qw(java openssl))
	{
		return "$program is not installed"
		  unless Real::Server::find_program($program);
	}
	return 'the jars of Kafka are not there' unless defined _jars();
	return 'python3-confluent-kafka is not installed'
	  unless eval { _run($python, '-c', 'import confluent_kafka'); 1 };
	return undef;
}

# new(%options): those of Real::Server, and
#	secure		see above
#	properties	lines for server.properties, which win over ours
sub new
{
	my ($class, %options) = @_;
	my @listeners = ('plaintext', 'controller');

	push @listeners, qw(sasl tls mtls sasltls) if $options{secure};
	$options{ports} = { map { $_ => Real::Server::free_port() } @listeners };
	$options{port} = $options{ports}{plaintext};
	return $class->SUPER::new(%options);
}

# bootstrap($listener): the address of a listener; without it, of "plaintext"
sub bootstrap
{
	my ($self, $listener) = @_;
	my $port = $self->{ports}{ $listener // 'plaintext' }
	  // croak "no listener $listener";
	return "127.0.0.1:$port";
}

# --- The process

sub prepare
{
	my ($self) = @_;

	$self->{started_at} = (-s $self->log_file) // 0;
	return if -e $self->dir . '/server.properties';
	$self->_show_certificate if $self->{secure};
	my $file = $self->write_file('server.properties', $self->_properties);
	# any 16 bytes in URL-safe base64 serve as the cluster's id
	$self->tool('kafka.tools.StorageTool', 'format',
		'-t' => 'tests-kafka-cluster-id', '-c' => $file);
	return;
}

sub _properties
{
	my ($self) = @_;
	my $ports = $self->{ports};
	my $dir = $self->dir;
	my $listeners =
	  join(',', map { uc($_) . "://127.0.0.1:$ports->{$_}" } sort keys %$ports);
	my $protocols =
	  join(',', map { uc($_) . ":$protocols{$_}" } sort keys %$ports);

	return PostgreSQL::Test::Utils::slurp_file($common)
	  . <<"EOF" . ($self->{secure} ? $self->_security : '') . ($self->{properties} // '');
controller.quorum.voters=1\@127.0.0.1:$ports->{controller}
listeners=$listeners
listener.security.protocol.map=$protocols
log.dirs=$dir/data
EOF
}

# authority: that of its certificate, a Real::Certificates
sub authority { return $_[0]{authority}; }

# It wants key and certificates in one file.
sub _show_certificate
{
	my ($self) = @_;
	$self->{authority} = Real::Certificates->new;
	my $files = $self->{authority}->issue('server', 'IP:127.0.0.1');
	$self->write_file('server.pem',
		join('',
			map { PostgreSQL::Test::Utils::slurp_file($files->{$_}) }
			  qw(key cert ca)));
	return;
}

sub _security
{
	my ($self) = @_;
	my $plain = 'org.apache.kafka.common.security.plain.PlainLoginModule required'
	  . join('', map { qq{ user_$_="secret"} } qw(alice bob carol)) . ';';
	my $authority = $self->authority->authority;
	my $dir = $self->dir;

	return <<"EOF";
sasl.enabled.mechanisms=PLAIN
listener.name.sasl.plain.sasl.jaas.config=$plain
listener.name.sasltls.plain.sasl.jaas.config=$plain
ssl.keystore.type=PEM
ssl.keystore.location=$dir/server.pem
ssl.truststore.type=PEM
ssl.truststore.location=$authority
listener.name.mtls.ssl.client.auth=required
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:alice;User:CN=client
EOF
}

sub _java
{
	my (@arguments) = @_;
	return (
		Real::Server::find_program('java'),
		'-Xmx256m', '-XX:+UseSerialGC', '-XX:TieredStopAtLevel=1',
		'-cp' => _jars() . '/*',
		@arguments);
}

sub command
{
	my ($self) = @_;
	return _java(
		'-Dorg.slf4j.simpleLogger.showDateTime=true',
		'-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS',
		'kafka.Kafka',
		$self->dir . '/server.properties');
}

sub is_ready
{
	my ($self) = @_;
	return 0 unless $self->log($self->{started_at}) =~ /Kafka Server started/;

	# Rights are data: they outlive the process.
	$self->allow('bob', 'bobs') if $self->{secure} && !$self->{has_rights}++;
	return 1;
}

# allow($user, $topic): let a user write to a topic
sub allow
{
	my ($self, $user, $topic) = @_;
	$self->tool(
		'org.apache.kafka.tools.AclCommand',
		'--bootstrap-server' => $self->bootstrap,
		'--add',
		'--allow-principal' => "User:$user",
		'--producer',
		'--topic' => $topic);
	return;
}

# tool($class, @arguments): what one of Kafka's tools in Java prints
sub tool
{
	my ($self, @arguments) = @_;
	return _run(
		_java('-Dorg.slf4j.simpleLogger.defaultLogLevel=error', @arguments));
}

# What a program prints; it dies of an error.
sub _run
{
	my (@command) = @_;
	my ($output, $error);
	IPC::Run::run(\@command, '<', \undef, '>', \$output, '2>', \$error)
	  or croak "@command: $error$output";
	return $output;
}

# --- Topics and records

# create_topic($name, partitions => 1, config => { 'max.message.bytes' => 1000 })
sub create_topic
{
	my ($self, $topic, %options) = @_;
	my $config = $options{config} // {};

	$self->_ask('create', $topic, $options{partitions} // 1,
		map { "$_=$config->{$_}" } sort keys %$config);
	return;
}

sub delete_topic
{
	my ($self, $topic) = @_;
	$self->_ask('delete', $topic);
	return;
}

# records($topic): what is in a topic, those of a partition in their order: hashes
# with partition, offset, timestamp in ms, key, value (bytes, or undef), and
# headers, a hash of bytes; a name that is there twice is an error
sub records
{
	my ($self, $topic) = @_;
	return map { _record($_) } split /\n/, $self->_ask('read', $topic);
}

# ids($topic): of the events in a topic, from their headers; quicker than records()
sub ids
{
	my ($self, $topic) = @_;
	return split /\n/, $self->_ask('ids', $topic);
}

sub _record
{
	my ($line) = @_;
	my $record = JSON::PP->new->decode($line);
	my %headers;

	foreach my $header (@{ $record->{headers} })
	{
		my ($name, $value) = @$header;
		croak "two headers $name" if exists $headers{$name};
		$headers{$name} = _bytes($value);
	}
	return {
		%$record,
		key => _bytes($record->{key}),
		value => _bytes($record->{value}),
		headers => \%headers
	};
}

sub _bytes
{
	my ($hexadecimal) = @_;
	return defined $hexadecimal ? pack('H*', $hexadecimal) : undef;
}

# java_produce($topic, [$key, $value] ...): by Kafka's client in Java
sub java_produce
{
	my ($self, $topic, @records) = @_;
	my $file = $self->write_file('records', join('', map { "$_->[0]\t$_->[1]\n" } @records));
	open(my $input, '<', $file) or croak "could not open $file: $!";
	IPC::Run::run(
		[
			_java(
				'org.apache.kafka.tools.ConsoleProducer',
				'--bootstrap-server' => $self->bootstrap,
				'--topic' => $topic,
				'--reader-property' => 'parse.key=true')
		],
		'<', $input, '>', '/dev/null', '2>', '/dev/null')
	  or croak "the producer in Java failed";
	return;
}

# java_consume($topic, $count): so many records as Kafka's client in Java shows
# them: partition, headers, key and value, with tabs between them
sub java_consume
{
	my ($self, $topic, $count) = @_;
	my @properties = map { ('--formatter-property' => "print.$_=true") }
	  qw(partition headers key);
	return split /\n/,
	  $self->tool(
		'org.apache.kafka.tools.consumer.ConsoleConsumer',
		'--bootstrap-server' => $self->bootstrap,
		'--topic' => $topic,
		'--from-beginning',
		'--max-messages' => $count,
		'--timeout-ms' => 30000,
		@properties);
}

sub _ask
{
	my ($self, @arguments) = @_;
	return _run($python, $client, $self->bootstrap, @arguments);
}

1;
