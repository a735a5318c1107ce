/*-------------------------------------------------------------------------
 *
 * pending.h
 *		The messages of a pipeline that are not answered yet, in order.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_PENDING_H
#define OUTBOX_PENDING_H

#include "outbox_publisher.h"

/* The deadline of what may take as long as it likes. */
#define PENDING_NO_DEADLINE PG_INT64_MAX

/* A message that was submitted, and that its broker may not have answered. */
typedef struct Pending
{
	const OutboxMessage *message;	/* NULL: the relay waits no longer for it */
	int64		deadline;		/* in clock_ms() */
	bool		done;			/* the broker has answered */
	int			status;			/* what the broker said of it beforehand, or
								 * 0; */
	char	   *remark;			/* and in words, or NULL; freed with it */
} Pending;

typedef struct PendingRing PendingRing;

extern PendingRing *pending_create(MemoryContext context);

extern void pending_put(PendingRing *ring, const OutboxMessage *message,
						int64 deadline);
extern const OutboxMessage *pending_first_unsent(const PendingRing *ring);
extern void pending_drop_first_unsent(PendingRing *ring);
extern uint64 pending_mark_sent(PendingRing *ring);
extern void pending_restart_numbers(PendingRing *ring);

extern Pending *pending_oldest(PendingRing *ring);
extern Pending *pending_find(PendingRing *ring, uint64 number);
extern Pending *pending_find_event(PendingRing *ring, const char *event_id,
								   Size len);
extern uint64 pending_oldest_number(const PendingRing *ring);
extern uint64 pending_next_number(const PendingRing *ring);
extern int	pending_nsent(const PendingRing *ring);
extern void pending_set_remark(PendingRing *ring, Pending *pending, int status,
							   const char *remark);

extern void pending_answered(PendingRing *ring, Pending *pending);
extern void pending_forget(PendingRing *ring, int64 id);

#endif							/* OUTBOX_PENDING_H */
