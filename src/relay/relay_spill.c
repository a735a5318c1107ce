/*-------------------------------------------------------------------------
 *
 * relay_spill.c
 *		What must not stay in memory alone: it gets a row in outbox_delivery.
 *
 * What takes long must not hold the position, or a crash would have everything
 * behind it sent again.  The position passes some of that (relay_window.c),
 * but not all, and people shall see it: an entry that is in flight, to be
 * tried again, ready in a lane that others have overtaken, or behind such a
 * one of its key for more than a second gets a row, and stays in memory.  But
 * a key whose events go one after the other, beyond which nothing is settled
 * yet, moves the position itself.
 *
 * When the first entry of a key leaves memory in trouble, all of them do.  What
 * leaves it to make room for others, relay_cut.c says.
 *
 * Crash-safe order: of a key, no event gets a row while an earlier one that is
 * not settled is in memory only.  Otherwise the later one, which is known at
 * once after a crash, could pass the earlier one, which has to be read again.
 *
 * When the relay stops in order, what it has in hand gets rows as well, unless
 * the next relay will simply read it again.
 *
 * Nothing here writes: the rows are added to the journal.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/relay_internal.h"

/* What holds the position for so long gets a row. */
#define SPILL_AFTER_MS	1000

/* Give the entry a row, in the state that it has here. */
static void
store_entry(Relay *relay, RelayEntry *entry)
{
	bool		waits = entry->state == ENTRY_WAITING ||
	entry->state == ENTRY_READY;

	relay_add_delivery(relay, entry->event,
					   waits ? DELIVERY_PENDING : DELIVERY_IN_PROGRESS,
					   entry->attempts, entry->event->crashes, 0,
					   entry->last_status, entry->last_error);
	keys_stored(entry);
	entry->waited = waits && entry->attempts == 0 && !entry->last_error;
	queue_leave_window(entry);
}

/* Give all entries of a key rows. */
void
relay_store_key(Relay *relay, KeyQueue *key)
{
	dlist_iter	iter;

	if (key->nbare == 0)
		return;
	dlist_foreach(iter, &key->entries)
	{
		RelayEntry *entry = dlist_container(RelayEntry, in_key, iter.cur);

		if (!entry->stored)
			store_entry(relay, entry);
	}
}

/*
 * A new event has to wait behind rows of its key: it becomes one of its tail.
 * If nothing of the key is in memory, its rows are looked into: it may be that
 * it has no others, or that this one, of a transaction that committed late, is
 * the first.
 */
void
relay_add_to_tail(Relay *relay, OutboxEvent *event)
{
	KeyTable   *keys = &relay->queue.keys;
	KeyQueue   *key = keys_make(keys, event->msg.topic, event->msg.key);

	if (key->nentries == 0)
		keys_look_into(keys, key, event->msg.id);
	relay_store_key(relay, key);
	Assert(key->nbare == 0);
	key->tail = true;
	(void) keys_note_rows(keys, key->topic, key->key);
	relay_add_delivery(relay, event, DELIVERY_PENDING, 0, 0, 0, 0, NULL);
}

/*
 * A new event of a lane that has a tail becomes a row there.  What the lane
 * comes to then, it looks into the key of.  But events of the key in other
 * lanes, read along with this one, see no tail of theirs: they have to see that
 * the key has rows.
 */
void
relay_add_to_lane(Relay *relay, OutboxEvent *event)
{
	const OutboxMessage *msg = &event->msg;
	KeyTable   *keys = &relay->queue.keys;
	KeyQueue   *key = msg->key ? keys_find(keys, msg->topic, msg->key) : NULL;
	bool		noted = !msg->key ||
	keys_note_rows(keys, msg->topic, msg->key);

	if ((key && key->nentries > 0) || (keys->all_topics && !noted))
	{
		relay_add_to_tail(relay, event);
		return;
	}
	lane_has_row(&relay->queue.lanes,
				 lanes_find(&relay->queue.lanes, msg->topic), msg->id);
	relay_add_delivery(relay, event, DELIVERY_PENDING, 0, 0, 0, 0, NULL);
}

/*
 * The entry, first of its key, leaves memory for the table, whose row for it
 * is the caller's matter.  Those behind it leave with it, to wait there.  But
 * some may have smaller ids, which came late: what is in front of it there has
 * to be looked for.
 */
void
relay_retire_key(Relay *relay, RelayEntry *entry)
{
	KeyQueue   *key = entry->key;
	int64		id = entry->event->msg.id;
	bool		passed;
	dlist_mutable_iter iter;

	if (!key)
		return;
	Assert(keys_active(key) == entry);
	passed = key->tail && key->last_id < id;
	dlist_foreach_modify(iter, &key->entries)
	{
		RelayEntry *other = dlist_container(RelayEntry, in_key, iter.cur);

		if (other == entry)
			continue;
		passed |= other->event->msg.id < id;
		if (!other->stored)
			store_entry(relay, other);
		queue_remove(&relay->queue, other);
	}
	keys_retire(&relay->queue.keys, key);
	if (passed)
		keys_read_from(&relay->queue.keys, key, 0);
}

/*
 * Write down that this entry, the first of its key, is about to be tried, or takes
 * long.
 */
void
relay_spill_entry(Relay *relay, RelayEntry *entry)
{
	Assert(!entry->key || keys_active(entry->key) == entry);
	relay_add_delivery(relay, entry->event, DELIVERY_IN_PROGRESS,
					   entry->attempts, entry->event->crashes, 0,
					   entry->last_status, entry->last_error);
	keys_stored(entry);
	entry->waited = false;
	queue_leave_window(entry);
}

/*
 * Since when does it hold the position, for as long as the destination pleases?
 * PG_INT64_MAX: it does not.  What is ready may as well, if its lane is in trouble
 * or slow and others go on.  While nothing goes beyond what is in flight, only that
 * itself counts, not how long it was waiting for others of its key.
 */
static int64
holds_position_since(const Relay *relay, const RelayEntry *entry, bool gone_beyond)
{
	const RelayEntry *active = entry;

	if (entry->state == ENTRY_WAITING)
		active = keys_active(entry->key);
	switch (active->state)
	{
		case ENTRY_READY:
			return active->lane->place != LANE_FAST && gone_beyond ?
				entry->read_at : PG_INT64_MAX;
		case ENTRY_IN_FLIGHT:
			return gone_beyond ? entry->read_at :
				Max(entry->read_at, active->sent_at);
		case ENTRY_BACKOFF:
			return entry->read_at;
		default:
			return PG_INT64_MAX;
	}
}

/*
 * The entries of a window that hold the position for too long, appended to
 * *old.  False at the first one that does not, and has none behind it that does.
 */
static bool
find_old(Relay *relay, RelayWindow *window, List **old)
{
	dlist_iter	iter;

	dlist_foreach(iter, &window->entries)
	{
		RelayEntry *entry = dlist_container(RelayEntry, in_window, iter.cur);
		bool		gone_beyond;

		/* entries of a window came in their order, so the rest is younger */
		if (relay->now - entry->read_at < SPILL_AFTER_MS)
			return false;
		gone_beyond = queue_has_gone_beyond(&relay->queue, entry);
		if (holds_position_since(relay, entry, gone_beyond) <=
			relay->now - SPILL_AFTER_MS)
			*old = lappend(*old, entry);

		/* nor beyond those behind it, which have time until they are first */
		else if (!gone_beyond)
			return false;
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
	foreach(lc, old)
	{
		RelayEntry *entry = lfirst(lc);

		/* of a key, the earlier ones with it */
		if (entry->key)
			relay_store_key(relay, entry->key);
		else
			store_entry(relay, entry);
	}
}

/* When what holds the position is to be spilled, if ever. */
int64
relay_spill_time(Relay *relay)
{
	int64		until = PG_INT64_MAX;
	dlist_iter	iter;

	dlist_foreach(iter, &relay->queue.windows)
	{
		RelayWindow *window = dlist_container(RelayWindow, node, iter.cur);
		RelayEntry *entry;
		int64		since;

		if (dlist_is_empty(&window->entries))
			continue;
		entry = dlist_head_element(RelayEntry, in_window, &window->entries);
		since = holds_position_since(relay, entry,
									 queue_has_gone_beyond(&relay->queue, entry));
		if (since != PG_INT64_MAX)
			until = Min(until, since + SPILL_AFTER_MS);
		break;
	}
	return until;
}

/*
 * Would the next relay do without another row of this entry?  If nothing
 * behind it is settled and nothing of its key was tried, it is read again like
 * the rest of its window; a row that waits goes on waiting.  Whatever was tried
 * has attempts to remember.
 */
static bool
is_found_again(Relay *relay, const RelayEntry *entry)
{
	const RelayEntry *active = entry->key ? keys_active(entry->key) : entry;

	if (entry->stored)
		return entry->waited;
	return entry->attempts == 0 &&
		active->state == ENTRY_READY && !active->stored &&
		!queue_has_gone_beyond(&relay->queue, entry);
}

/*
 * The relay stops: hand the entries back to the table, to be sent at once, so
 * that the position passes what is settled.
 */
void
relay_release(Relay *relay)
{
	List	   *kept = NIL;
	ListCell   *lc;

	/* choose before the first one leaves its window, which changes the rest */
	foreach(lc, queue_entries(&relay->queue))
	{
		if (!is_found_again(relay, lfirst(lc)))
			kept = lappend(kept, lfirst(lc));
	}
	foreach(lc, kept)
	{
		RelayEntry *entry = lfirst(lc);

		queue_leave_window(entry);
		relay_add_delivery(relay, entry->event, DELIVERY_PENDING,
						   entry->attempts, 0, 0, entry->last_status,
						   entry->last_error);

		/* it may still be answered, if this cannot be written down at once */
		keys_stored(entry);
		entry->waited = false;
	}
}
