/*-------------------------------------------------------------------------
 *
 * breaker.h
 *		The circuit breaker: is the destination there at all?
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_BREAKER_H
#define OUTBOX_BREAKER_H

typedef enum BreakerState
{
	BREAKER_CLOSED,				/* all is well, or not known otherwise */
	BREAKER_OPEN,				/* the destination is down: send nothing */
	BREAKER_PROBING,			/* a probe is under way */
	BREAKER_HALF_OPEN			/* one message may try */
} BreakerState;

typedef struct Breaker
{
	BreakerState state;
	bool		proven;			/* a message has gone through */
	bool		told;			/* not CLOSED: the publisher said "down" */
	int			failures;		/* in a row */
	int64		probe_at;		/* OPEN: the next probe; PROBING: its limit */
} Breaker;

extern void breaker_open(Breaker *breaker, int64 now);
extern void breaker_succeeded(Breaker *breaker);
extern void breaker_reached(Breaker *breaker);
extern void breaker_failed(Breaker *breaker, int64 now);
extern bool breaker_counts_attempt(const Breaker *breaker);
extern void breaker_told(Breaker *breaker, bool ok, int64 now);
extern bool breaker_wants_probe(const Breaker *breaker, int64 now);
extern void breaker_probe_started(Breaker *breaker, bool can_probe, int64 now);
extern void breaker_check_probe(Breaker *breaker, int64 now);
extern int	breaker_allowance(const Breaker *breaker, int in_flight);
extern void breaker_reconfigured(Breaker *breaker, int64 now);
extern bool breaker_is_down(const Breaker *breaker);

#endif							/* OUTBOX_BREAKER_H */
