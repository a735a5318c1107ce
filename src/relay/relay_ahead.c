/*-------------------------------------------------------------------------
 *
 * relay_ahead.c
 *		Would anybody gain by room in memory?
 *
 * Memory may be full of events that wait for others of their keys.  To write them
 * down makes room for what is behind them, and costs as much again as to send
 * them.  It is of no use if what is behind them is more of the same: so somebody
 * goes ahead of the reader, looks at topics and keys alone, and says whether there
 * is anything else.
 *
 * The look is at each event once.  It marks the keys that it passes events of: when
 * nothing of such a key is in memory any more, these could be sent.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/clock.h"
#include "relay/relay_internal.h"

/* So many events are looked at in one go. */
#define LOOK_EVENTS		1000

/* When all is looked at, look for what has come since so much later. */
#define LOOK_PAUSE_MS	100

static bool
waits_in_memory(const char *topic, const char *key, void *keys)
{
	return keys_pass(keys, topic, key);
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
	StoreFound	found = FOUND_MORE;

	/* whenever the store has failed, it is to be left alone */
	if (relay->journal.must_checkpoint)
		return false;
	follow_reader(relay);
	if (rows_wait(relay) || relay->queue.keys.missed)
		return true;
	if (!relay_store_ok(relay, store_look_ahead(&ahead->store, relay->context,
												LOOK_EVENTS, waits_in_memory,
												&relay->queue.keys, &found)))
		found = FOUND_MORE;
	MemoryContextSwitchTo(old);
	if (found == FOUND_END)
		ahead->again_at = relay->now + LOOK_PAUSE_MS;
	return found == FOUND_OTHER;
}
