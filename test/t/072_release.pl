# Promise: what a release says of itself is true: META.json is as PGXN's
# specification wants it (https://pgxn.org/meta/spec.txt), the versions that are
# written down agree, and from each version of the SQL objects a script leads on.

use strict;
use warnings FATAL => 'all';

use JSON::PP ();
use PostgreSQL::Test::Utils;
use Test::More;

use lib 'test/lib';
use OutboxTest;

my $meta = JSON::PP->new->utf8->decode(slurp_file('META.json'));
my ($default) = slurp_file('outbox.control') =~ /^default_version = '(.*)'$/m;

# X.Y.Z, without zeroes in front
my $number = qr/(?:0|[1-9]\d*)/;
my $semantic = qr/^$number\.$number\.$number(?:-?[A-Za-z][0-9A-Za-z-]*)?$/;

promise 'META.json has what has to be there' => sub {
	foreach my $key (qw(name version abstract maintainer license provides meta-spec))
	{
		ok(defined $meta->{$key}, $key);
	}
	like($meta->{version}, $semantic, 'a semantic version');
	like($meta->{name}, qr{^[^\s/\\\x00-\x1f\x7f]{2,}$}, 'a name');
	is($meta->{license}, 'postgresql', 'a licence that PGXN knows');
	is($meta->{'meta-spec'}{version}, '1.0.0', 'the specification');
	like($meta->{maintainer}, qr/^[^<>]+ <[^<>@\s]+@[^<>@\s]+>$/, 'a maintainer');
	like($meta->{release_status}, qr/^(?:stable|testing|unstable)$/, 'a status');
	is_deeply([ grep { ref || !/^[^\/\\\x00-\x1f]{1,255}$/ } @{ $meta->{tags} } ],
		[], 'tags');
	my %known = map { $_ => 1 } qw(name version abstract maintainer license provides meta-spec
	  description generated_by no_index prereqs release_status resources tags);
	is_deeply([ grep { !$known{$_} && !/^[xX]_/ } keys %$meta ], [], 'and nothing else');
  SKIP:
	{
		eval { require PGXN::Meta::Validator; 1 }
		  or skip('PGXN::Meta::Validator of CPAN is not installed', 1);
		my $validator = PGXN::Meta::Validator->new($meta);
		ok($validator->is_valid, 'PGXN finds it valid') or diag(join "\n", $validator->errors);
	}
};

promise 'META.json names what is there' => sub {
	is_deeply([ keys %{ $meta->{provides} } ], ['outbox'], 'one extension');
	my $outbox = $meta->{provides}{outbox};
	ok(-f $outbox->{$_}, "$_: $outbox->{$_}") foreach qw(file docfile);
	like($outbox->{file}, qr{^sql/outbox--[\d.]+\.sql$}, 'a script that makes the extension');
	like($outbox->{version}, $semantic, 'a semantic version');
	my %requires = %{ $meta->{prereqs}{runtime}{requires} };
	is_deeply(
		[ grep { $requires{$_} !~ $semantic && $requires{$_} ne '0' } sort keys %requires ],
		[], 'what is required has versions');
};

promise 'versions agree' => sub {
	my ($sql) = $meta->{version} =~ /^(\d+\.\d+)\./;
	my ($deb) = slurp_file('debian/changelog') =~ /\A\S+ \(([^)]+)-[^-)]+\)/;
	my ($log) = slurp_file('CHANGELOG.md') =~ /^## \[(.*?)\]/m;
	my $spec = slurp_file('rpm/outbox.spec');
	my ($rpm) = $spec =~ /^Version:\s*(\S+)$/m;
	my ($rpm_log) = $spec =~ /^%changelog\n\* .* - (\S+)-\d+$/m;
	is($sql, $default, 'META.json and outbox.control');
	is($meta->{provides}{outbox}{version}, $meta->{version}, 'META.json and itself');
	is($deb, $meta->{version}, 'META.json and debian/changelog');
	is($rpm, $meta->{version}, 'META.json and rpm/outbox.spec');
	is($rpm_log, $meta->{version}, 'META.json and its changelog');
	is($log, $meta->{version}, 'META.json and CHANGELOG.md');
};

promise 'every version can be updated to this one' => sub {
	my @scripts = map { m{^sql/outbox--(.*)\.sql$} ? $1 : () } glob 'sql/*.sql';
	my ($data) = slurp_file('Makefile') =~ /^DATA = (.*)$/m;
	is(join(' ', sort split / /, $data),
		join(' ', map { "sql/outbox--$_.sql" } sort @scripts), 'all scripts are installed');

	# from the last version backwards, whatever an update script begins at
	my %reaches = ($default => 1);
	foreach (@scripts)
	{
		foreach my $script (@scripts)
		{
			my ($from, $to) = split /--/, $script;
			$reaches{$from} = 1 if defined $to && $reaches{$to};
		}
	}
	is_deeply([ grep { !$reaches{ (split /--/)[0] } } @scripts ], [], 'no version is left behind');
};

done_testing();
