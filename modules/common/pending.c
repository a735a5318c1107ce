/*-------------------------------------------------------------------------
 *
 * pending.c
 *		The messages of a pipeline that are not answered yet, in order.
 *
 * A ring in the order of submission: first what was sent, then what was not.
 * What is sent gets a number, 1 for the first one of a connection, by which
 * the broker's answer finds it.  Only the oldest deadline counts: when it has
 * passed, the connection is of no use any longer.
 *
 * A message that the relay has cancelled keeps its place if it was sent, since
 * its number is taken and the broker may still complain about it.
 *
 * Memory: the ring is in the context that it was made in, and grows with the
 * window; no messages are copied.  Errors: out of memory only.  No locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "common/pending.h"

#define INITIAL_SIZE 64

struct PendingRing
{
	MemoryContext context;
	Pending    *entries;
	uint64		size;			/* of "entries"; a power of two */

	/* Places, which only ever grow: first <= unsent <= end. */
	uint64		first;			/* the oldest */
	uint64		unsent;			/* the oldest that was not sent */
	uint64		end;			/* behind the newest */
	uint64		start;			/* a place less this is a number */
	int			nsent;			/* how many sent ones have no answer */
};

static Pending *
entry_at(const PendingRing *ring, uint64 place)
{
	return &ring->entries[place & (ring->size - 1)];
}

PendingRing *
pending_create(MemoryContext context)
{
	PendingRing *ring = MemoryContextAllocZero(context, sizeof(PendingRing));

	ring->context = context;
	ring->size = INITIAL_SIZE;
	ring->entries = MemoryContextAllocZero(context,
										   sizeof(Pending) * ring->size);
	ring->first = ring->unsent = ring->end = 1;
	pending_restart_numbers(ring);
	return ring;
}

/* Twice as many entries; what is there keeps its place. */
static void
enlarge_ring(PendingRing *ring)
{
	PendingRing old = *ring;

	ring->entries = MemoryContextAllocZero(ring->context,
										   sizeof(Pending) * old.size * 2);
	ring->size = old.size * 2;
	for (uint64 place = ring->first; place < ring->end; place++)
		*entry_at(ring, place) = *entry_at(&old, place);
	pfree(old.entries);
}

/* A message more, not sent yet. */
void
pending_put(PendingRing *ring, const OutboxMessage *message, int64 deadline)
{
	Pending    *pending;

	if (ring->end - ring->first == ring->size)
		enlarge_ring(ring);
	pending = entry_at(ring, ring->end++);
	memset(pending, 0, sizeof(*pending));
	pending->message = message;
	pending->deadline = deadline;
}

/* What is to be sent next; NULL if all was sent. */
const OutboxMessage *
pending_first_unsent(const PendingRing *ring)
{
	return ring->unsent < ring->end ?
		entry_at(ring, ring->unsent)->message : NULL;
}

/* Forget what was to be sent next: it has been answered without. */
void
pending_drop_first_unsent(PendingRing *ring)
{
	Assert(ring->unsent < ring->end);

	/* with nothing before it, as when all is given up, nothing has to move */
	if (ring->first == ring->unsent)
	{
		ring->first++;
		ring->unsent++;
		ring->start++;
		return;
	}

	/* nobody knows a number of what comes behind it */
	for (uint64 place = ring->unsent + 1; place < ring->end; place++)
		*entry_at(ring, place - 1) = *entry_at(ring, place);
	ring->end--;
}

/* What was to be sent next has been: its number. */
uint64
pending_mark_sent(PendingRing *ring)
{
	Assert(ring->unsent < ring->end);
	ring->nsent++;
	return ring->unsent++ - ring->start;
}

/* The next one that is sent has number 1.  Nothing may be sent and unanswered. */
void
pending_restart_numbers(PendingRing *ring)
{
	Assert(ring->nsent == 0);
	ring->start = ring->unsent - 1;
}

/*
 * The oldest one that the broker has not answered, or that was not sent; NULL
 * if there is none.
 */
Pending *
pending_oldest(PendingRing *ring)
{
	return ring->first < ring->end ? entry_at(ring, ring->first) : NULL;
}

/* What was sent with this number and is not answered; NULL if there is none. */
Pending *
pending_find(PendingRing *ring, uint64 number)
{
	uint64		place = ring->start + number;

	if (place < ring->first || place >= ring->unsent ||
		entry_at(ring, place)->done)
		return NULL;
	return entry_at(ring, place);
}

/*
 * The event with this id, which need not end with a NUL, if it was sent and is
 * not answered; else NULL.  What has a remark already is passed over.
 */
Pending *
pending_find_event(PendingRing *ring, const char *event_id, Size len)
{
	for (uint64 place = ring->first; place < ring->unsent; place++)
	{
		Pending    *pending = entry_at(ring, place);

		if (pending->message && !pending->remark &&
			strlen(pending->message->event_id) == len &&
			memcmp(pending->message->event_id, event_id, len) == 0)
			return pending;
	}
	return NULL;
}

/*
 * Numbers from the first of these to before the second are those of what was
 * sent and may not be answered.
 */
uint64
pending_oldest_number(const PendingRing *ring)
{
	return ring->first - ring->start;
}

uint64
pending_next_number(const PendingRing *ring)
{
	return ring->unsent - ring->start;
}

/* How many were sent and not answered by the broker, cancelled or not. */
int
pending_nsent(const PendingRing *ring)
{
	return ring->nsent;
}

/* Note what the broker has said of a message before it answers. */
void
pending_set_remark(PendingRing *ring, Pending *pending, int status,
				   const char *remark)
{
	pending->status = status;
	pending->remark = MemoryContextStrdup(ring->context, remark);
}

/* The broker has answered this one; it is not to be used any longer. */
void
pending_answered(PendingRing *ring, Pending *pending)
{
	Assert(!pending->done);
	pending->done = true;
	pending->message = NULL;
	if (pending->remark)
		pfree(pending->remark);
	pending->remark = NULL;
	ring->nsent--;
	while (ring->first < ring->unsent && entry_at(ring, ring->first)->done)
		ring->first++;
}

/* The relay waits no longer for the message with this id. */
void
pending_forget(PendingRing *ring, int64 id)
{
	uint64		place = ring->first;

	while (place < ring->end && (entry_at(ring, place)->message == NULL ||
								 entry_at(ring, place)->message->id != id))
		place++;
	if (place < ring->unsent)
		entry_at(ring, place)->message = NULL;
	else if (place < ring->end)
	{
		for (place++; place < ring->end; place++)
			*entry_at(ring, place - 1) = *entry_at(ring, place);
		ring->end--;
	}
}
