/*-------------------------------------------------------------------------
 *
 * clock.h
 *		The two clocks: one that nobody sets, and the one on the wall.
 *
 * Waits within a process go by the first, so that nobody who sets the clock
 * makes the relay hurry or sleep.  What lasts longer than the process
 * (next_attempt_at) goes by the second.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_CLOCK_H
#define OUTBOX_CLOCK_H

#include "datatype/timestamp.h"

extern int64 clock_us(void);
extern int64 clock_ms(void);
extern TimestampTz clock_now(void);
extern int64 clock_ms_until(TimestampTz when);

#endif							/* OUTBOX_CLOCK_H */
