/*-------------------------------------------------------------------------
 *
 * breaker.c
 *		The circuit breaker: is the destination there at all?
 *
 * outbox.breaker_threshold failures in a row, with no success in between,
 * open it: nothing is sent any more.  Every outbox.breaker_probe_interval the
 * destination is probed; when that goes well, or the publisher has no probe,
 * the breaker is half open and one message may try.  If it goes through, the
 * breaker closes, otherwise it opens again.
 *
 * An outage must not use up an event's attempts.  So a failure that is the
 * destination's (OUTBOX_UNAVAILABLE) only counts as an attempt when a message
 * has gone through since the relay started, and while the breaker stays
 * closed; and it opens no later than after outbox.max_retry_times failures, so
 * that not even a lone event dies of an outage.
 *
 * Pure state, no I/O; times are the relay's monotonic milliseconds.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "relay/breaker.h"
#include "guc.h"

/* The destination took, or knowingly refused, a message. */
void
breaker_succeeded(Breaker *breaker)
{
	breaker->state = BREAKER_CLOSED;
	breaker->proven = true;
	breaker->failures = 0;
}

static void
open_breaker(Breaker *breaker, int64 now)
{
	breaker->state = BREAKER_OPEN;
	breaker->probe_at = now + guc_breaker_probe_interval;
}

/* A message failed. */
void
breaker_failed(Breaker *breaker, int64 now)
{
	if (guc_breaker_threshold == 0)
	{
		breaker->state = BREAKER_CLOSED;
		return;
	}
	breaker->failures++;
	if (breaker->state == BREAKER_HALF_OPEN)
		open_breaker(breaker, now);
	else if (breaker->state == BREAKER_CLOSED &&
			 breaker->failures >= Min(guc_breaker_threshold,
									  Max(guc_max_retry_times, 1)))
		open_breaker(breaker, now);
}

/*
 * After a failure of the destination: does it count as the message's attempt?
 */
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

void
breaker_probe_started(Breaker *breaker, int64 now)
{
	breaker->state = BREAKER_PROBING;
	breaker->probe_at = now + guc_request_timeout;
}

/* The probe's answer, or its time is up. */
void
breaker_probe_answered(Breaker *breaker, bool ok, int64 now)
{
	if (breaker->state != BREAKER_PROBING)
		return;
	if (ok)
		breaker->state = BREAKER_HALF_OPEN;
	else
		open_breaker(breaker, now);
}

/* There are other settings: what failed on account of the old may be well. */
void
breaker_reconfigured(Breaker *breaker, int64 now)
{
	if (!breaker_is_down(breaker))
		return;
	breaker->state = guc_breaker_threshold == 0 ? BREAKER_CLOSED : BREAKER_OPEN;
	breaker->probe_at = now;
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
