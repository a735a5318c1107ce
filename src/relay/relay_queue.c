/*-------------------------------------------------------------------------
 *
 * relay_queue.c
 *		The events in the relay's memory.
 *
 * An event in memory is an entry.  It is in one of four states, and linked
 * accordingly: READY (a list, in the order of arrival), WAITING (only in the
 * queue of its key), IN_FLIGHT (a list), BACKOFF (a heap by due time).  Of a
 * key's entries only the first is ever anything but WAITING.
 *
 * An entry that came from a window and has no row in outbox_delivery also
 * holds the position: it is linked into its window, which has exactly its
 * unsettled entries in the order of their ids.  So the position is where the
 * oldest such entry is, whatever happened to those after it.
 *
 * Several windows can be in work at a time; only the last one is read from.
 * The last window always stays, since its "hi" is where the next one begins.
 *
 * Memory: an entry and its event are one allocation each in queue->context,
 * freed when the entry is removed; a window has a context of its own.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/datum.h"
#include "utils/memutils.h"

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

/* "context" has to live as long as the queue. */
void
queue_init(RelayQueue *queue, MemoryContext context)
{
	HASHCTL		ctl;
	MemoryContext old = MemoryContextSwitchTo(context);

	memset(queue, 0, sizeof(*queue));
	queue->context = context;
	dlist_init(&queue->windows);
	dlist_init(&queue->ready);
	dlist_init(&queue->in_flight);
	queue->backoff = pairingheap_allocate(compare_backoff, NULL);

	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(int64);
	ctl.entrysize = sizeof(IdSlot);
	ctl.hcxt = context;
	queue->by_id = hash_create("outbox events by id", 1024, &ctl,
							   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(((KeyQueue *) NULL)->key);
	ctl.entrysize = sizeof(KeyQueue);
	ctl.hcxt = context;
	queue->by_key = hash_create("outbox events by key", 256, &ctl,
								HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
	MemoryContextSwitchTo(old);
}

static StoreSnapshot
copy_snapshot(StoreSnapshot snapshot)
{
	return (StoreSnapshot) DatumGetPointer(datumCopy(PointerGetDatum(snapshot),
													 false, -1));
}

/* A new last window, with copies of the snapshots; "hi" may be NULL. */
RelayWindow *
queue_add_window(RelayQueue *queue, StoreSnapshot lo, StoreSnapshot hi)
{
	MemoryContext context = AllocSetContextCreate(queue->context,
												  "outbox window",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	RelayWindow *window = palloc0(sizeof(RelayWindow));

	window->context = context;
	window->store.lo = copy_snapshot(lo);
	window->store.hi = hi ? copy_snapshot(hi) : NULL;
	dlist_init(&window->entries);
	dlist_push_tail(&queue->windows, &window->node);
	MemoryContextSwitchTo(old);
	return window;
}

/* The one that is read from. */
RelayWindow *
queue_last_window(RelayQueue *queue)
{
	return dlist_tail_element(RelayWindow, node, &queue->windows);
}

/* It must have no entries. */
void
queue_drop_window(RelayQueue *queue, RelayWindow *window)
{
	Assert(dlist_is_empty(&window->entries));
	dlist_delete(&window->node);
	MemoryContextDelete(window->context);
}

/*
 * Up to where everything is settled, given that what is not linked into a
 * window is.  Drops windows that are done; *position points into the rest.
 */
void
queue_position(RelayQueue *queue, StorePosition *position)
{
	RelayWindow *window;

	for (;;)
	{
		window = dlist_head_element(RelayWindow, node, &queue->windows);
		if (!dlist_is_empty(&window->entries) ||
			!dlist_has_next(&queue->windows, &window->node))
			break;
		queue_drop_window(queue, window);
	}
	position->lo = window->store.lo;
	position->hi = window->store.hi;
	if (!dlist_is_empty(&window->entries))
		position->last_id = dlist_head_element(RelayEntry, in_window,
											   &window->entries)->event->msg.id - 1;
	else if (!window->store.exhausted)
		position->last_id = window->store.cursor;
	else
	{
		position->lo = window->store.hi;
		position->last_id = 0;
	}
}

/*
 * Are there events behind this one, which holds the position, that are settled
 * and would be sent again if the relay ended here?
 */
bool
queue_has_gone_beyond(RelayQueue *queue, const RelayEntry *entry)
{
	RelayWindow *window = entry->window;

	if (!window)
		return false;
	if (window->max_gone > entry->event->msg.id)
		return true;
	while (dlist_has_next(&queue->windows, &window->node))
	{
		window = dlist_container(RelayWindow, node,
								 dlist_next_node(&queue->windows,
												 &window->node));
		if (window->max_gone > 0)
			return true;
	}
	return false;
}

/* The entry of an event in memory; NULL if it is not there. */
RelayEntry *
queue_find(RelayQueue *queue, int64 id)
{
	IdSlot	   *slot = hash_search(queue->by_id, &id, HASH_FIND, NULL);

	return slot ? slot->entry : NULL;
}

/* The first entry of a key, the only one that may be sent. */
RelayEntry *
queue_active(KeyQueue *key)
{
	return dlist_head_element(RelayEntry, in_key, &key->entries);
}

/*
 * Put the entry into the queue of its key, by id: mostly at the end, but an
 * event that was scheduled or retried may be older than those in memory.  It
 * never passes the one that is active.  True if it is the only one.
 */
static bool
join_key(RelayQueue *queue, RelayEntry *entry)
{
	bool		found;
	dlist_iter	iter;
	KeyQueue   *key = hash_search(queue->by_key, entry->event->msg.key,
								  HASH_ENTER, &found);

	entry->key = key;
	if (!found)
	{
		dlist_init(&key->entries);
		dlist_push_head(&key->entries, &entry->in_key);
		return true;
	}
	dlist_reverse_foreach(iter, &key->entries)
	{
		RelayEntry *other = dlist_container(RelayEntry, in_key, iter.cur);

		if (other->event->msg.id < entry->event->msg.id ||
			other->state != ENTRY_WAITING)
		{
			dlist_insert_after(iter.cur, &entry->in_key);
			return false;
		}
	}
	pg_unreachable();			/* the first one is never WAITING */
}

static void
list_ready(RelayQueue *queue, RelayEntry *entry)
{
	entry->state = ENTRY_READY;
	dlist_push_tail(&queue->ready, &entry->in_list);
	queue->nready++;
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
		slot->entry->stored |= event->stored;
		if (slot->entry->stored)
			queue_leave_window(slot->entry);
		return false;
	}
	entry = MemoryContextAllocZero(queue->context, sizeof(RelayEntry));
	slot->entry = entry;
	entry->event = event;
	entry->stored = event->stored;
	entry->attempts = event->attempts;
	entry->read_at = now;
	entry->window = window;
	if (window)
		dlist_push_tail(&window->entries, &entry->in_window);
	queue->nentries++;
	queue->bytes += event->size;
	if (event->msg.key && !join_key(queue, entry))
		entry->state = ENTRY_WAITING;
	else
		list_ready(queue, entry);
	return true;
}

/* It holds the position no longer: it is settled, or has a row now. */
void
queue_leave_window(RelayEntry *entry)
{
	RelayWindow *window = entry->window;

	if (!window)
		return;
	dlist_delete(&entry->in_window);
	window->max_gone = Max(window->max_gone, entry->event->msg.id);
	entry->window = NULL;
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
}

/* Unlink the entry from the list or heap of its state. */
static void
unlist(RelayQueue *queue, RelayEntry *entry)
{
	switch (entry->state)
	{
		case ENTRY_READY:
			dlist_delete(&entry->in_list);
			queue->nready--;
			break;
		case ENTRY_IN_FLIGHT:
			dlist_delete(&entry->in_list);
			queue->nin_flight--;
			leave_request(queue, entry);
			break;
		case ENTRY_BACKOFF:
			pairingheap_remove(queue->backoff, &entry->in_backoff);
			break;
		case ENTRY_WAITING:
			break;
	}
}

static void
submit_entry(RelayQueue *queue, RelayEntry *entry, RelayRequest *request,
			 int64 deadline)
{
	unlist(queue, entry);
	entry->request = request;
	entry->state = ENTRY_IN_FLIGHT;
	entry->due_at = deadline;
	dlist_push_tail(&queue->in_flight, &entry->in_list);
	queue->nin_flight++;
}

/*
 * The publisher has these entries, in one request, and shall answer before
 * "deadline".
 */
void
queue_submitted(RelayQueue *queue, RelayEntry **entries, int n,
				int64 deadline)
{
	RelayRequest *request = NULL;

	if (n > 1)
	{
		request = MemoryContextAlloc(queue->context, sizeof(RelayRequest));
		request->pending = n;
	}
	queue->nrequests++;
	for (int i = 0; i < n; i++)
		submit_entry(queue, entries[i], request, deadline);
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
queue_next_backoff(RelayQueue *queue)
{
	if (pairingheap_is_empty(queue->backoff))
		return NULL;
	return pairingheap_container(RelayEntry, in_backoff,
								 pairingheap_first(queue->backoff));
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
	KeyQueue   *key = entry->key;

	unlist(queue, entry);
	queue_leave_window(entry);
	if (key)
	{
		dlist_delete(&entry->in_key);
		if (dlist_is_empty(&key->entries))
			hash_search(queue->by_key, key->key, HASH_REMOVE, NULL);
		else if (queue_active(key)->state == ENTRY_WAITING)
			list_ready(queue, queue_active(key));
	}
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
