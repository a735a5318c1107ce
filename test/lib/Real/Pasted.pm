# A program of a document that listens on a port: pasted into a file, and run in that
# file's folder.
#
# Options of new():
#	text		the program
#	listens		the port that it has there; it gets one that was free
#	file		what the document calls the file
#	run			the command before the file's name, as a list
#	modules		a folder with node_modules, for node
#	env			variables, as a hash

package Real::Pasted;

use strict;
use warnings FATAL => 'all';

use parent 'Real::Server';

use Carp;

sub prepare
{
	my ($self) = @_;
	my ($text, $port, $modules) = ($self->{text}, $self->port, $self->{modules});
	my $found = $text =~ s/\b$self->{listens}\b/$port/g;

	croak "$self->{file} has no port $self->{listens}" unless $found;
	$self->write_file($self->{file}, $text);
	symlink("$modules/node_modules", $self->dir . '/node_modules') or croak "symlink: $!"
	  if defined $modules && !-e $self->dir . '/node_modules';
	return;
}

sub command { return ('env', '-C', $_[0]->dir, @{ $_[0]{run} }, $_[0]{file}); }
sub environment { return %{ $_[0]{env} // {} }; }
sub is_ready { return Real::Server::can_connect($_[0]->port); }

# url: of what listens
sub url { return 'http://127.0.0.1:' . $_[0]->port; }

1;
