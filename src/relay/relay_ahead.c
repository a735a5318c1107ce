/*-------------------------------------------------------------------------
 *
 * relay_ahead.c
 *		Would anybody gain by room in memory?
 *
 * Memory may be full of events that wait for others of their keys, or for their
 * topics.  To write them down makes room for what is behind them, and costs as much
 * again as to send them, or several times that.  It is of no use if what is behind
 * them is more of the same: so somebody goes ahead of the reader, looks at topics and
 * keys alone, and says whether there is anything else.
 *
 * The look is at each event once.  It marks the keys and lanes that it passes events
 * of: when nothing of such a one is in memory any more, these could be sent.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/clock.h"
#include "relay/relay_internal.h"

/* So many events are looked at in one go. */
#define LOOK_EVENTS		1000

/* When all is looked at, look for what has come since so much later. */
#define LOOK_PAUSE_MS	20

/* Would an event of this topic, and key unless that is NULL, have to wait? */
static bool
would_wait(const char *topic, const char *key, void *queue)
{
	RelayQueue *q = queue;

	return lanes_pass(&q->lanes, topic) ||
		(key && keys_pass(&q->keys, topic, key));
}

/*
 * Are there rows that want to come back, or events that the last relay left open?
 * Memory is full, so that nobody has asked for them yet.
 */
static bool
rows_wait(const Relay *relay)
{
	KeyTable   *keys = unconstify(KeyTable *, &relay->queue.keys);

	return queue_has_unread_open(&relay->queue) ||
		relay->rows.walking || relay->rows.next_due <= clock_now() ||
		keys_next_refill(keys, queue_last_window(&relay->queue)) != NULL ||
		lanes_next_walk(&relay->queue.lanes) != NULL;
}

/* Look from where the reader is, unless the last look has come further. */
static void
follow_reader(Relay *relay)
{
	RelayAhead *ahead = &relay->ahead;
	const RelayWindow *window = queue_last_window(&relay->queue);
	MemoryContext old;

	if (ahead->window == window->number && ahead->store.at >= window->store.cursor)
		return;
	if (ahead->store.seen)
		pfree(ahead->store.seen);
	old = MemoryContextSwitchTo(relay->context);
	ahead->store.seen = store_copy_snapshot(window->store.hi);
	MemoryContextSwitchTo(old);
	ahead->store.at = window->store.cursor;
	ahead->window = window->number;
	keys_look_anew(&relay->queue.keys);
	lanes_look_anew(&relay->queue.lanes);
}

/* There are other windows and keys: what was looked at says nothing of them. */
void
relay_forget_ahead(Relay *relay)
{
	relay->ahead.window = 0;
	relay->ahead.again_at = 0;
}

/*
 * Memory is full: is there anything that could be sent, if there were room for it?
 * False also means that it is not known yet; ahead.again_at is when to ask again.
 */
bool
relay_others_wait(Relay *relay)
{
	RelayAhead *ahead = &relay->ahead;
	MemoryContext old = CurrentMemoryContext;
	StoreFound	found = FOUND_END;
	bool		ok;

	/* whenever the store has failed, it is to be left alone */
	ahead->again_at = 0;
	if (relay->journal.must_checkpoint)
		return false;
	follow_reader(relay);
	if (rows_wait(relay) || relay->queue.keys.missed || relay->queue.lanes.missed)
		return true;
	ok = relay_store_ok(relay, store_look_ahead(&ahead->store, relay->context,
												LOOK_EVENTS, would_wait,
												&relay->queue, &found));
	MemoryContextSwitchTo(old);
	if (!ok || found == FOUND_OTHER)
		return ok;
	ahead->again_at = relay->now + (found == FOUND_END ? LOOK_PAUSE_MS : 0);
	return false;
}
