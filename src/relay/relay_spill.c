/*-------------------------------------------------------------------------
 *
 * relay_spill.c
 *		What must not stay in memory alone: it gets a row in outbox_delivery.
 *
 * What takes long must not hold the position, or a crash would have everything
 * behind it sent again: an entry that is in flight or to be tried again for
 * more than a second gets a row (in_progress), and stays in memory.
 *
 * The events of a key go one by one.  When the first one gets a row or leaves
 * memory, those behind it leave memory with it, as blocked.
 *
 * When the relay stops in order, what it has in hand gets rows as well, unless
 * the next relay will simply read it again.
 *
 * Nothing here writes: the rows are added to the journal.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "guc.h"
#include "lib/clock.h"
#include "relay/relay_internal.h"

/* What is in flight or to be tried again for so long gets a row. */
#define SPILL_AFTER_MS	1000

/* Of a key's events, this many wait in memory when that is full. */
#define MAX_WAITING_OF_FULL	16

/* Everything of the entry's key that is WAITING leaves memory, as blocked. */
void
relay_evict_followers(Relay *relay, RelayEntry *entry)
{
	dlist_mutable_iter iter;

	if (!entry->key)
		return;
	dlist_foreach_modify(iter, &entry->key->entries)
	{
		RelayEntry *other = dlist_container(RelayEntry, in_key, iter.cur);

		if (other == entry)
			continue;
		relay_add_delivery(relay, other->event, DELIVERY_BLOCKED,
						   other->attempts, 0, 0, 0, NULL);
		queue_remove(&relay->queue, other);
	}
}

/*
 * Give the entry a row, so that it does not hold the position.  Those behind
 * it get theirs as well, and wait there: otherwise a later one, which is
 * blocked as soon as it is read, could pass them after a crash.
 */
void
relay_spill_entry(Relay *relay, RelayEntry *entry)
{
	relay_add_delivery(relay, entry->event, DELIVERY_IN_PROGRESS,
					   entry->attempts, entry->event->crashes, 0,
					   entry->last_status, entry->last_error);
	entry->stored = true;
	queue_leave_window(entry);
	relay_evict_followers(relay, entry);
}

/*
 * The keys with too many waiting events, while memory is full: make room for
 * the events of others.
 */
static void
evict_long_keys(Relay *relay)
{
	HASH_SEQ_STATUS status;
	KeyQueue   *key;

	hash_seq_init(&status, relay->queue.by_key);
	while ((key = hash_seq_search(&status)) != NULL)
	{
		RelayEntry *head = queue_active(key);
		dlist_iter	iter;
		int			n = 0;

		dlist_foreach(iter, &key->entries)
			n++;

		/* a key that moves will be done with its events sooner than the table */
		if (n <= MAX_WAITING_OF_FULL ||
			relay->now - head->read_at < SPILL_AFTER_MS)
			continue;
		relay_spill_entry(relay, head);
	}
}

/*
 * The entries of a window that hold the position for too long, appended to
 * *old.  False at the first one that does not.
 */
static bool
find_old(Relay *relay, RelayWindow *window, List **old)
{
	dlist_iter	iter;

	dlist_foreach(iter, &window->entries)
	{
		RelayEntry *entry = dlist_container(RelayEntry, in_window, iter.cur);

		/* entries of a window came in their order, so the rest is younger */
		if (relay->now - entry->read_at < SPILL_AFTER_MS)
			return false;
		if (entry->state == ENTRY_IN_FLIGHT || entry->state == ENTRY_BACKOFF)
			*old = lappend(*old, entry);
	}
	return true;
}

/* Spill what has held the position for too long. */
void
relay_spill(Relay *relay)
{
	List	   *old = NIL;
	ListCell   *lc;
	dlist_iter	iter;

	dlist_foreach(iter, &relay->queue.windows)
	{
		if (!find_old(relay, dlist_container(RelayWindow, node, iter.cur), &old))
			break;
	}

	/* this takes other entries away, but never one that is in the list */
	foreach(lc, old)
		relay_spill_entry(relay, lfirst(lc));
	if (relay->queue.nentries >= 4 * guc_batch_size)
		evict_long_keys(relay);
}

/* When the entry that holds the position is to be spilled, if ever. */
int64
relay_spill_time(Relay *relay)
{
	dlist_iter	iter;

	dlist_foreach(iter, &relay->queue.windows)
	{
		RelayWindow *window = dlist_container(RelayWindow, node, iter.cur);
		RelayEntry *entry;

		if (dlist_is_empty(&window->entries))
			continue;
		entry = dlist_head_element(RelayEntry, in_window, &window->entries);
		if (entry->state == ENTRY_IN_FLIGHT || entry->state == ENTRY_BACKOFF)
			return entry->read_at + SPILL_AFTER_MS;
		break;
	}
	return PG_INT64_MAX;
}

/*
 * Would the next relay do without a row of this entry?  If nothing behind it
 * is settled and nothing of its key was tried, it reads it again like the
 * rest of its window.  Whatever was tried has attempts to remember, and what
 * has a row needs another state there.
 */
static bool
is_read_again(Relay *relay, const RelayEntry *entry)
{
	const RelayEntry *active = entry->key ? queue_active(entry->key) : entry;

	return !entry->stored && !active->stored && active->state == ENTRY_READY &&
		!queue_has_gone_beyond(&relay->queue, entry);
}

/*
 * The relay stops: hand the entries back to the persistent tier, due at once,
 * so that the position passes what is settled.
 */
void
relay_release(Relay *relay)
{
	TimestampTz now = clock_now();
	List	   *kept = NIL;
	ListCell   *lc;

	/* choose before the first one leaves its window, which changes the rest */
	foreach(lc, queue_entries(&relay->queue))
	{
		if (!is_read_again(relay, lfirst(lc)))
			kept = lappend(kept, lfirst(lc));
	}
	foreach(lc, kept)
	{
		RelayEntry *entry = lfirst(lc);

		queue_leave_window(entry);
		if (entry->state == ENTRY_WAITING)
			relay_add_delivery(relay, entry->event, DELIVERY_BLOCKED,
							   entry->attempts, 0, 0, 0, NULL);
		else
			relay_add_delivery(relay, entry->event, DELIVERY_PENDING,
							   entry->attempts, 0, now,
							   entry->last_status, entry->last_error);
	}
}
