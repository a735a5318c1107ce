/*-------------------------------------------------------------------------
 *
 * clock.c
 *		The two clocks: one that nobody sets, and the one on the wall.
 *
 * outbox_clock_skew_ms is the seam by which a test lets hours pass: a library
 * of the tests sets it in the processes that it is loaded into.  Nothing else
 * does.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "portability/instr_time.h"
#include "utils/timestamp.h"

#include "lib/clock.h"

extern PGDLLEXPORT int64 outbox_clock_skew_ms;

int64		outbox_clock_skew_ms = 0;

/* Microseconds of a monotonic clock. */
int64
clock_us(void)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	return (int64) INSTR_TIME_GET_MICROSEC(now) + outbox_clock_skew_ms * 1000;
}

/* Milliseconds of the same clock. */
int64
clock_ms(void)
{
	return clock_us() / 1000;
}

/* The time of day. */
TimestampTz
clock_now(void)
{
	return GetCurrentTimestamp() + outbox_clock_skew_ms * 1000;
}

/* Milliseconds until a time of day, after which it has come. */
int64
clock_ms_until(TimestampTz when)
{
	TimestampTz now = clock_now();

	return when <= now ? 0 : (when - now) / 1000 + 1;
}
