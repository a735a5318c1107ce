# The blocks of code that a document says to paste, so that a test can do what the
# document says and nothing else.  It needs no server.

package OutboxTest::Page;

use strict;
use warnings FATAL => 'all';

use Exporter qw(import);

our @EXPORT_OK = qw(page_blocks page_headings);

sub _read
{
	my ($path) = @_;
	open(my $file, '<:raw', $path) or die "could not open $path: $!";
	local $/;
	return scalar <$file>;
}

# page_headings($path): those of the second level and below, in order
sub page_headings
{
	my ($path) = @_;
	my $text = _read($path) =~ s/^```.*?^```//msgr;
	return $text =~ /^##+ (.*)$/mg;
}

# page_blocks($path, $heading)
#
# The blocks of code of a document in order, or of the part below one heading, up to
# the next of its level or above.  Each is { language, text }; dies if there is none.
sub page_blocks
{
	my ($path, $heading) = @_;
	my ($text, @blocks) = _read($path);

	if (defined $heading)
	{
		# a line with # in a block is no heading
		my $level;
		my @part;
		my $in_code = 0;
		foreach my $line (split /^/, $text)
		{
			$in_code = !$in_code if $line =~ /^```/;
			if (!$in_code && $line =~ /^(#+) (.*)$/)
			{
				last if $level && length $1 <= $level;
				$level = length $1 if $2 eq $heading;
			}
			push @part, $line if $level;
		}
		die "$path has no heading \"$heading\"" unless $level;
		$text = join '', @part;
	}
	push @blocks, { language => $1, text => $2 }
	  while $text =~ /^```(\w*)\n(.*?)^```/msg;
	die "$path has no code" . (defined $heading ? " below \"$heading\"" : '') unless @blocks;
	return @blocks;
}

1;
