# A library that is compiled with one minor version loads on every other one.
#
# Promises:
# - It needs nothing of the server but what test/symbols/<major> lists, of which
#   somebody has looked when it came; so a symbol that a later minor version
#   brought is not used by accident.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;

my ($major) = qx(postgres --version) =~ /(\d+)/;
my $list = "test/symbols/$major";

# What the library is to be given when it is loaded.  Those with a version are of
# other libraries, and so is zlib's deflate; a sanitizer's have underscores.
sub needed_symbols
{
	my ($dir) = map { /^dynamic_library_path = '([^:]*)/ ? $1 : () }
	  split /\n/, slurp_file($ENV{TEMP_CONFIG});
	return grep { !/\@|^__|^deflate/ }
	  map { /^\s+U (\S+)/ ? $1 : () } split /\n/, qx(nm -D "$dir/outbox.so");
}

promise 'the library needs nothing of the server that nobody has looked at' => sub {
	plan skip_all => "there is no $list" unless -e $list;
	my @needed = needed_symbols();
	my %known = map { $_ => 1 } split /\n/, slurp_file($list);

	cmp_ok(scalar(@needed), '>', 100, 'there are symbols');
	is_deeply([ grep { !$known{$_} } @needed ], [],
		"all of them are in $list: look whether the first release of $major declares"
		  . ' what is not, in the same way, then append it');
};

done_testing();
