# A copy of this tree as it is in a repository: without what was built or tested in
# it.  Tests of packages begin with it.  And the tree that one upgrades from, which
# tools/stage-previous has taken from the repository.

package Real::Source;

use strict;
use warnings FATAL => 'all';

use Exporter qw(import);
use PostgreSQL::Test::Utils;

our @EXPORT_OK = qw(copy_tree has_programs unpack_previous);

# has_programs(@names): is each of them in the PATH?
sub has_programs
{
	my @names = @_;
	foreach my $name (@names)
	{
		return 0 unless grep { -x "$_/$name" } split /:/, $ENV{PATH};
	}
	return 1;
}

# copy_tree($dir, $patch): make $dir a repository with this tree, changed by $patch if
# that is given, in one commit
sub copy_tree
{
	my ($dir, $patch) = @_;
	my $git = "git -C '$dir' -c user.name=test -c user.email=test\@localhost";
	my @steps = (
		"mkdir -p '$dir'",
		"tar -cf - --exclude='./tmp_*' --exclude=.git . | tar -C '$dir' -xf -",
		"git -C '$dir' init -q",
		"git -C '$dir' add -A",
		"$git commit -q -m tree",
		"git -C '$dir' clean -qdfx");
	push @steps, "patch -s -p1 --fuzz=0 -d '$dir' <'$patch'", "$git commit -q -a -m patch"
	  if defined $patch;
	system_or_bail('sh', '-c', $_) foreach @steps;
	return;
}

# unpack_previous($dir): the tree that one upgrades from, below $dir; false: there is
# none here.  Without $dir, only whether there is.
sub unpack_previous
{
	my ($dir) = @_;
	my $tar = $ENV{OUTBOX_PREVIOUS_TAR};
	return 0 unless defined $tar && -e $tar;
	system_or_bail('sh', '-c', "mkdir -p '$dir' && tar -C '$dir' -xf '$tar'") if defined $dir;
	return 1;
}

1;
