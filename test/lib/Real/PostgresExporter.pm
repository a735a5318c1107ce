# Debian's exporter of PostgreSQL's own metrics, which runs the statements of a file
# besides: postgres_exporter.

package Real::PostgresExporter;

use strict;
use warnings FATAL => 'all';

use parent 'Real::SqlExporter';

sub missing
{
	return Real::Server::find_program('prometheus-postgres-exporter')
	  ? undef
	  : 'prometheus-postgres-exporter is not installed';
}

# new(source => $dsn, queries => $path, %options): options are those of Real::Server,
# and
#	databases	which it asks besides the one of the source, in an array
sub prepare { return; }

sub command
{
	my ($self) = @_;
	return (
		Real::Server::find_program('prometheus-postgres-exporter'),
		'--disable-default-metrics',
		'--disable-settings-metrics',
		'--auto-discover-databases',
		'--include-databases=' . join(',', @{ $self->{databases} // [] }),
		"--extend.query-path=$self->{queries}",
		'--log.level=warn',
		'--web.listen-address=127.0.0.1:' . $self->port);
}

sub environment { return (DATA_SOURCE_NAME => $_[0]{source}); }

1;
