/*-------------------------------------------------------------------------
 *
 * relay_requests.c
 *		Doing what people ask for.
 *
 * Requests (outbox_request) are served by the store, before anything is read or sent,
 * also while nothing can be; here, what that has done to the table is done to memory.
 * Before, what was settled has been written, so that the table says what is true.
 *
 * As long as a replay is not served in full, nothing is sent, and new events of its topics
 * that have a key wait behind rows: earlier ones of their keys may be about to get some.
 * What is in memory by then, and not being tried, makes room for those.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "lib/clock.h"
#include "lib/topic_pattern.h"
#include "relay/relay_internal.h"

/* Requests that are served in one go. */
#define SERVE_REQUESTS	100

/* Whatever was asked is still to be served. */
void
relay_requests_init(Relay *relay)
{
	relay->requests.asked = true;
	memset(&relay->requests.cursor, 0, sizeof(StoreRequestCursor));
}

/*
 * Somebody has asked for something; or may have, and his process died before it
 * could wake us.
 */
void
relay_ask_next(Relay *relay)
{
	relay->requests.asked = true;
}

/*
 * Somebody else wrote rows of ours: a dump was restored, of whose rows nobody
 * knows, or all events are deleted.
 */
void
relay_recheck(Relay *relay)
{
	relay_requests_init(relay);
	relay_rows_configure(relay);
	relay->rows.sweep = true;
}

/*
 * What a request has done to the table, done to memory.  The key of an event
 * that is gone is read from its beginning: what was behind it may be the first
 * now.
 */
void
relay_apply_served(Relay *relay, const StoreServed *served, TimestampTz now)
{
	KeyTable   *keys = &relay->queue.keys;
	RelayEntry *entry = queue_find(&relay->queue, served->key.id);

	if (served->gone)
	{
		relay_forget_entry(relay, entry);
		if (served->key.topic && !relay_may_look_for_keys(relay))
			relay_walk_rows(&relay->rows);
		else if (served->key.topic)
			keys_read_from(keys, keys_make(keys, served->key.topic,
										   served->key.key), 0);
		return;
	}
	relay_hear_of_due_at(&relay->rows, now);
	if (served->key.topic)
	{
		/* new events of the key wait behind it, before it has come up itself */
		keys_note_row(keys, served->key.topic, served->key.key, served->key.id);
		(void) keys_note_rows(keys, served->key.topic, served->key.key);
	}
	if (served->key.topic && !entry)
		relay_yield_to_row(relay, served->key.topic, served->key.key);
	if (!entry)
		return;
	entry->attempts = 0;
	if (entry->state == ENTRY_BACKOFF)
		queue_make_ready(&relay->queue, entry);
}

static bool
is_in_memory(int64 id, void *arg)
{
	return queue_find(arg, id) != NULL;
}

/* Of topics of these patterns, events are yet to be sent again. */
static void
note_replaying(RelayRequests *requests, List *replaying, MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	ListCell   *lc;

	list_free_deep(requests->replaying);
	requests->replaying = NIL;
	foreach(lc, replaying)
		requests->replaying = lappend(requests->replaying, pstrdup(lfirst(lc)));
	MemoryContextSwitchTo(old);
}

/*
 * A replay was asked for before some events were published that have just been read,
 * and nobody has told yet: it may be of any topic.
 */
void
relay_expect_replay(Relay *relay)
{
	MemoryContext old;

	relay->requests.asked = true;
	if (relay->requests.replaying != NIL)
		return;
	old = MemoryContextSwitchTo(relay->context);
	relay->requests.replaying = list_make1(pstrdup("#"));
	MemoryContextSwitchTo(old);
}

/* May earlier events of this topic be about to be sent again? */
bool
relay_is_replaying(const Relay *relay, const char *topic)
{
	ListCell   *lc;

	foreach(lc, relay->requests.replaying)
	{
		char	   *pattern = lfirst(lc);

		if (topic_patterns_match(&pattern, 1, topic))
			return true;
	}
	return false;
}

/* Do what people have asked for. */
void
relay_serve_requests(Relay *relay)
{
	TimestampTz now = clock_now();
	const StoreWindow *window = &queue_last_window(&relay->queue)->store;
	List	   *served;
	List	   *replaying;
	ListCell   *lc;
	bool		more;

	if (!relay_store_ok(relay, store_serve_requests(&relay->requests.cursor,
													window, is_in_memory,
													&relay->queue, now,
													SERVE_REQUESTS, &served,
													&replaying, &more)))
		return;
	relay->requests.asked = more;
	note_replaying(&relay->requests, replaying, relay->context);
	foreach(lc, served)
		relay_apply_served(relay, lfirst(lc), now);
}
