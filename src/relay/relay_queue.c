/*-------------------------------------------------------------------------
 *
 * relay_queue.c
 *		The events in the relay's memory.
 *
 * An event in memory is an entry.  It is in one of four states, and linked
 * accordingly: READY (a list of its lane, in the order of arrival, see
 * relay_lane.c), WAITING (only in the queue of its key, see relay_keys.c),
 * IN_FLIGHT (a list), BACKOFF (a heap by due time).  Of a key's entries only the
 * first is ever anything but WAITING.  With outbox.key_scope = all they may be in
 * several lanes: each is counted, and becomes ready, in its own.
 *
 * What expires is in one more heap, by that time, while it is not IN_FLIGHT.
 *
 * What has to be sent alone is exclusive: READY, it is in a list of its own, and
 * passes the lanes.  That is a suspect, which may have crashed the relay twice;
 * or, in a pipeline, what may have failed because of others, once its lane has
 * its turn.
 *
 * An entry that came from a window and has no row in outbox_delivery also
 * holds the position: it is linked into its window (relay_window.c).
 *
 * Memory: an entry and its event are one allocation each in queue->context,
 * freed when the entry is removed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/clock.h"
#include "relay/relay_queue.h"

typedef struct IdSlot
{
	int64		id;				/* hash key */
	RelayEntry *entry;
} IdSlot;

static int
compare_backoff(const pairingheap_node *a, const pairingheap_node *b,
				void *arg)
{
	const RelayEntry *x = pairingheap_const_container(RelayEntry, in_backoff, a);
	const RelayEntry *y = pairingheap_const_container(RelayEntry, in_backoff, b);

	/* the heap has its largest on top */
	return x->due_at < y->due_at ? 1 : x->due_at > y->due_at ? -1 : 0;
}

static int
compare_expiring(const pairingheap_node *a, const pairingheap_node *b,
				 void *arg)
{
	const RelayEntry *x = pairingheap_const_container(RelayEntry, in_expiring, a);
	const RelayEntry *y = pairingheap_const_container(RelayEntry, in_expiring, b);

	if (x->event->expires_at == y->event->expires_at)
		return 0;
	return x->event->expires_at < y->event->expires_at ? 1 : -1;
}

/* "context" has to live as long as the queue. */
void
queue_init(RelayQueue *queue, MemoryContext context)
{
	HASHCTL		ctl;
	MemoryContext old = MemoryContextSwitchTo(context);

	memset(queue, 0, sizeof(*queue));
	queue->context = context;
	dlist_init(&queue->windows);
	dlist_init(&queue->exclusives);
	dlist_init(&queue->in_flight);
	queue->backoff = pairingheap_allocate(compare_backoff, NULL);
	queue->expiring = pairingheap_allocate(compare_expiring, NULL);

	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(int64);
	ctl.entrysize = sizeof(IdSlot);
	ctl.hcxt = context;
	queue->by_id = hash_create("outbox events by id", 1024, &ctl,
							   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	keys_init(&queue->keys, context);
	lanes_init(&queue->lanes, context);
	MemoryContextSwitchTo(old);
}

/* The entry of an event in memory; NULL if it is not there. */
RelayEntry *
queue_find(const RelayQueue *queue, int64 id)
{
	IdSlot	   *slot = hash_search(queue->by_id, &id, HASH_FIND, NULL);

	return slot ? slot->entry : NULL;
}

/* No try has begun, or none is under way any more: it may expire. */
static void
list_expiring(RelayQueue *queue, RelayEntry *entry)
{
	if (entry->event->expires_at != 0)
		pairingheap_add(queue->expiring, &entry->in_expiring);
}

/* A try begins, or it leaves memory. */
static void
unlist_expiring(RelayQueue *queue, RelayEntry *entry)
{
	if (entry->event->expires_at != 0)
		pairingheap_remove(queue->expiring, &entry->in_expiring);
}

static void
list_ready(RelayQueue *queue, RelayEntry *entry)
{
	entry->state = ENTRY_READY;

	/* would one more crash make it dead?  That one shall tell for certain */
	entry->exclusive = entry->event->crashes >= EVENT_MAX_CRASHES - 1;
	if (entry->exclusive)
		dlist_push_tail(&queue->exclusives, &entry->in_list);
	else
		lane_add_ready(&queue->lanes, entry->lane, &entry->in_list);
}

/*
 * Take an event in; it belongs to the queue from now on.  "window" is the one
 * whose position it holds, or NULL.  False if it is there already (retried by
 * hand while it was in flight): it has a row now, nothing else changes.
 */
bool
queue_admit(RelayQueue *queue, OutboxEvent *event, RelayWindow *window,
			int64 now)
{
	bool		found;
	IdSlot	   *slot = hash_search(queue->by_id, &event->msg.id, HASH_ENTER,
								   &found);
	RelayEntry *entry;

	if (found)
	{
		if (event->stored)
		{
			keys_stored(slot->entry);
			queue_leave_window(slot->entry);
		}
		return false;
	}
	entry = MemoryContextAllocZero(queue->context, sizeof(RelayEntry));
	slot->entry = entry;
	entry->event = event;
	entry->stored = event->stored;
	entry->waited = event->waited;
	entry->attempts = event->attempts;
	entry->read_at = now;
	entry->window = window;
	if (window)
		dlist_push_tail(&window->entries, &entry->in_window);
	queue->nentries++;
	queue->bytes += event->size;
	list_expiring(queue, entry);
	entry->lane = lanes_make(&queue->lanes, event->msg.topic);
	if (event->msg.key && !keys_join(&queue->keys, entry))
	{
		entry->state = ENTRY_WAITING;
		lane_count_entries(&queue->lanes, entry->lane, 1, 1);
		return true;
	}
	lane_count_entries(&queue->lanes, entry->lane, 1, 0);
	list_ready(queue, entry);
	return true;
}

/* Its request, of which it may be the last one, is over for this entry. */
static void
leave_request(RelayQueue *queue, RelayEntry *entry)
{
	RelayRequest *request = entry->request;

	entry->request = NULL;
	if (request && --request->pending > 0)
		return;
	if (request)
		pfree(request);
	queue->nrequests--;
	lane_request_ends(&queue->lanes, entry->lane);
}

/* Unlink the entry from the list or heap of its state. */
static void
unlist(RelayQueue *queue, RelayEntry *entry)
{
	switch (entry->state)
	{
		case ENTRY_READY:
			if (entry->exclusive)
				dlist_delete(&entry->in_list);
			else
				lane_remove_ready(&queue->lanes, entry->lane, &entry->in_list);
			break;
		case ENTRY_IN_FLIGHT:
			dlist_delete(&entry->in_list);
			queue->nin_flight--;
			queue->exclusive = false;
			leave_request(queue, entry);
			list_expiring(queue, entry);
			break;
		case ENTRY_BACKOFF:
			pairingheap_remove(queue->backoff, &entry->in_backoff);
			break;
		case ENTRY_WAITING:
			lane_count_entries(&queue->lanes, entry->lane, 0, -1);
			break;
	}
}

/* How many could be submitted, if the destination allowed it? */
int
queue_nready(const RelayQueue *queue)
{
	return lanes_ready(&queue->lanes) + (queue_next_exclusive(queue) ? 1 : 0);
}

/* The next one that has to be submitted alone, before all others, or NULL. */
RelayEntry *
queue_next_exclusive(const RelayQueue *queue)
{
	dlist_head *exclusives = unconstify(dlist_head *, &queue->exclusives);

	if (dlist_is_empty(exclusives))
		return NULL;
	return dlist_head_element(RelayEntry, in_list, exclusives);
}

/*
 * The entry, READY, has its turn and has to be submitted alone: it leaves its
 * lane, and nothing passes it any more.
 */
void
queue_make_exclusive(RelayQueue *queue, RelayEntry *entry)
{
	unlist(queue, entry);
	entry->exclusive = true;
	dlist_push_tail(&queue->exclusives, &entry->in_list);
}

static void
submit_entry(RelayQueue *queue, RelayEntry *entry, RelayRequest *request,
			 int64 now, TimestampTz tried_at, int64 deadline)
{
	unlist(queue, entry);
	unlist_expiring(queue, entry);
	entry->event->tried_at = tried_at;
	entry->request = request;
	entry->state = ENTRY_IN_FLIGHT;
	entry->sent_at = now;
	entry->due_at = deadline;
	dlist_push_tail(&queue->in_flight, &entry->in_list);
	queue->nin_flight++;
}

/*
 * The publisher has these entries of a lane, in one request, and shall answer
 * before "deadline".  "exclusive": there is one, and none may join it in flight.
 */
void
queue_submitted(RelayQueue *queue, RelayEntry **entries, int n,
				int64 now, int64 deadline, bool exclusive)
{
	RelayRequest *request = NULL;
	TimestampTz tried_at = clock_now();

	if (n > 1)
	{
		request = MemoryContextAlloc(queue->context, sizeof(RelayRequest));
		request->pending = n;
	}
	queue->nrequests++;
	queue->exclusive = exclusive;
	for (int i = 0; i < n; i++)
		submit_entry(queue, entries[i], request, now, tried_at, deadline);
	lane_request_begins(&queue->lanes, entries[0]->lane, now);
}

/* It failed and is tried again from memory. */
void
queue_back_off(RelayQueue *queue, RelayEntry *entry, int64 due_at)
{
	unlist(queue, entry);
	entry->state = ENTRY_BACKOFF;
	entry->due_at = due_at;
	pairingheap_add(queue->backoff, &entry->in_backoff);
}

/* The next one to be tried again, or NULL. */
RelayEntry *
queue_next_backoff(const RelayQueue *queue)
{
	if (pairingheap_is_empty(queue->backoff))
		return NULL;
	return pairingheap_container(RelayEntry, in_backoff,
								 pairingheap_first(queue->backoff));
}

/* The next one to expire, or NULL. */
RelayEntry *
queue_next_expiring(const RelayQueue *queue)
{
	if (pairingheap_is_empty(queue->expiring))
		return NULL;
	return pairingheap_container(RelayEntry, in_expiring,
								 pairingheap_first(queue->expiring));
}

void
queue_make_ready(RelayQueue *queue, RelayEntry *entry)
{
	unlist(queue, entry);
	list_ready(queue, entry);
}

/*
 * The relay is done with it, one way or another.  If it was active, the next
 * one of its key is READY now.
 */
void
queue_remove(RelayQueue *queue, RelayEntry *entry)
{
	unlist(queue, entry);
	unlist_expiring(queue, entry);
	queue_leave_window(entry);
	if (entry->key)
	{
		RelayEntry *next = keys_leave(&queue->keys, entry);

		if (next && next->state == ENTRY_WAITING)
			queue_make_ready(queue, next);
	}
	lane_count_entries(&queue->lanes, entry->lane, -1, 0);
	hash_search(queue->by_id, &entry->event->msg.id, HASH_REMOVE, NULL);
	queue->nentries--;
	queue->bytes -= entry->event->size;
	if (entry->last_error)
		pfree(entry->last_error);
	pfree(entry->event);
	pfree(entry);
}

/* Another publisher, or other settings: which may share a request now? */
void
queue_forget_batching(RelayQueue *queue)
{
	HASH_SEQ_STATUS status;
	IdSlot	   *slot;

	hash_seq_init(&status, queue->by_id);
	while ((slot = hash_seq_search(&status)) != NULL)
		slot->entry->can_batch = BATCH_UNKNOWN;
}

/* All entries, in no order, as a list in the current memory context. */
List *
queue_entries(RelayQueue *queue)
{
	HASH_SEQ_STATUS status;
	IdSlot	   *slot;
	List	   *entries = NIL;

	hash_seq_init(&status, queue->by_id);
	while ((slot = hash_seq_search(&status)) != NULL)
		entries = lappend(entries, slot->entry);
	return entries;
}
