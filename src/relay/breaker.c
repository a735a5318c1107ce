/*-------------------------------------------------------------------------
 *
 * breaker.c
 *		The circuit breaker: is a destination, or a topic, in order at all?
 *
 * outbox.breaker_threshold failures in a row, with no success in between,
 * open it: nothing is sent any more.  Every outbox.breaker_probe_interval the
 * destination is probed; when that goes well, or the publisher has no probe,
 * the breaker is half open and one message may try.  If it goes through, the
 * breaker closes, otherwise it opens again.
 *
 * The publisher may also say by itself that the destination is down ("blocked")
 * or up again.  Down opens the breaker at once.  Success of a message closes
 * it otherwise, but not then: that message was sent before, and a destination
 * that takes no more may well acknowledge what it has.  Up makes an open one
 * half open, never closed: that it would take messages is not yet that it
 * does, and to find out costs one round trip.  Between the two the destination
 * is probed as in any outage, so that a publisher that forgets to say "up"
 * stops nothing for good; and whoever says "down" again and again does not put
 * that off.
 *
 * There is one for the destination, for when nobody is there (it has the probe),
 * and one for each topic, which goes from open to half open when it is its turn
 * (relay_lane.c).
 *
 * An outage must not use up an event's attempts.  So a failure that may not be
 * the event's own only counts as an attempt when a message has gone through
 * since the relay started, and while the breaker stays closed; and it opens no
 * later than after outbox.max_retry_times failures, so that not even a lone
 * event dies of an outage.
 *
 * Pure state, no I/O; times are the relay's monotonic milliseconds.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "relay/breaker.h"
#include "guc.h"

static void
close_breaker(Breaker *breaker)
{
	breaker->state = BREAKER_CLOSED;
	breaker->told = false;
}

/* Send nothing more until a probe has gone well. */
void
breaker_open(Breaker *breaker, int64 now)
{
	breaker->state = BREAKER_OPEN;
	breaker->probe_at = now + guc_breaker_probe_interval;
}

/* Somebody answered, though perhaps not as hoped: there is a destination. */
void
breaker_reached(Breaker *breaker)
{
	breaker->failures = 0;

	/* the message is older than what the publisher says */
	if (!breaker->told || !breaker_is_down(breaker))
		close_breaker(breaker);
}

/* A message was taken, or its answer shows that all is well but for itself. */
void
breaker_succeeded(Breaker *breaker)
{
	breaker->proven = true;
	breaker_reached(breaker);
}

/* A message failed. */
void
breaker_failed(Breaker *breaker, int64 now)
{
	if (guc_breaker_threshold == 0)
	{
		close_breaker(breaker);
		return;
	}
	breaker->failures++;
	if (breaker->state == BREAKER_HALF_OPEN)
		breaker_open(breaker, now);
	else if (breaker->state == BREAKER_CLOSED &&
			 breaker->failures >= Min(guc_breaker_threshold,
									  Max(guc_max_retry_times, 1)))
		breaker_open(breaker, now);
}

/* After a failure: can it count as the message's attempt? */
bool
breaker_counts_attempt(const Breaker *breaker)
{
	return guc_breaker_threshold == 0 ||
		(breaker->proven && breaker->state == BREAKER_CLOSED);
}

/* Is it time to probe? */
bool
breaker_wants_probe(const Breaker *breaker, int64 now)
{
	return breaker->state == BREAKER_OPEN && now >= breaker->probe_at;
}

/* A probe is under way; if the publisher has none, the next message is one. */
void
breaker_probe_started(Breaker *breaker, bool can_probe, int64 now)
{
	breaker->state = can_probe ? BREAKER_PROBING : BREAKER_HALF_OPEN;
	breaker->probe_at = now + guc_request_timeout;
}

/* A probe that was not answered in time has failed. */
void
breaker_check_probe(Breaker *breaker, int64 now)
{
	if (breaker->state == BREAKER_PROBING && now >= breaker->probe_at)
		breaker_open(breaker, now);
}

/*
 * The publisher says whether the destination is there, because it was to probe
 * it or because it has heard of it.
 */
void
breaker_told(Breaker *breaker, bool ok, int64 now)
{
	if (ok)
	{
		breaker->told = false;
		if (breaker_is_down(breaker))
			breaker->state = BREAKER_HALF_OPEN;
	}
	else if (guc_breaker_threshold > 0)
	{
		breaker->told = true;
		if (breaker->state != BREAKER_OPEN)
			breaker_open(breaker, now);
	}
}

/* There are other settings: what failed on account of the old may be well. */
void
breaker_reconfigured(Breaker *breaker, int64 now)
{
	if (!breaker_is_down(breaker))
		return;
	if (guc_breaker_threshold == 0)
		close_breaker(breaker);
	else
	{
		breaker->state = BREAKER_OPEN;
		breaker->probe_at = now;
	}
}

/* How many messages may be sent now, with so many in flight already? */
int
breaker_allowance(const Breaker *breaker, int in_flight)
{
	switch (breaker->state)
	{
		case BREAKER_CLOSED:
			return INT_MAX;
		case BREAKER_HALF_OPEN:
			return in_flight == 0 ? 1 : 0;
		default:
			return 0;
	}
}

/* Is nothing to be sent at all? */
bool
breaker_is_down(const Breaker *breaker)
{
	return breaker->state == BREAKER_OPEN || breaker->state == BREAKER_PROBING;
}
