# Polling with a deadline, which is all the waiting that the TAP tests do.

package OutboxTest::Poll;

use strict;
use warnings FATAL => 'all';

use Exporter qw(import);
use Test::More;
use Time::HiRes qw(sleep time);

our @EXPORT = qw(poll_until);

use constant {
	POLL_INTERVAL => 0.02,
	DEFAULT_TIMEOUT => 30,
};

# poll_until($sub, $what, $timeout_s)
#
# Call $sub until it returns something true, and return that.  When the time is
# up, the test named $what fails and undef is returned; nothing is reported when
# all goes well.
sub poll_until
{
	my ($sub, $what, $timeout) = @_;
	my $deadline = time() + ($timeout // DEFAULT_TIMEOUT);

	local $Test::Builder::Level = $Test::Builder::Level + 1;

	while (1)
	{
		my $late = time() > $deadline;
		my $value = $sub->();
		return $value if $value;
		last if $late;    # so that the last try is made after the deadline
		sleep(POLL_INTERVAL);
	}
	fail("timed out waiting for $what");
	return undef;
}

1;
