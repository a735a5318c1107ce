/*-------------------------------------------------------------------------
 *
 * relay_cut.c
 *		What leaves memory to make room for others.
 *
 * What waits must not fill the memory: when that is full and there is too
 * little to send, and others wait for the place (relay_ahead.c), lanes that are not
 * in order keep a few entries, and so do keys with many, unless they are sent so
 * quickly that writing would not be faster; the others become their tail.
 *
 * Nothing here writes: rows are added to the journal.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "guc.h"
#include "relay/relay_internal.h"

/*
 * Memory that is full of what waits may stay so for so long before keys are
 * cut: what frees a quarter of it in that time is sent nearly as fast as it
 * could be written down.  And so long may what is behind it wait in all.
 */
#define CUT_AFTER_MS	100
#define CUT_BEHIND_MS	1000

/* Of a key, so many events stay in memory when it is full of large ones. */
#define KEPT_OF_LARGE	2

/* Of a lane's entries, this many stay in memory when that is full. */
#define KEPT_OF_FULL	64

/* If that is too many, lanes keep a part of it. */
#define KEPT_PART		4

/*
 * The queue of a key keeps its first entries; the others become its tail, which
 * may begin before them: there may be a row of an older event.
 */
static void
cut_key(Relay *relay, KeyQueue *key, int kept)
{
	relay_store_key(relay, key);
	key->tail = true;
	(void) keys_note_rows(&relay->queue.keys, key->topic, key->key);
	while (key->nentries > kept)
	{
		RelayEntry *last = dlist_tail_element(RelayEntry, in_key,
											  &key->entries);

		key->last_id = Min(key->last_id, last->event->msg.id - 1);
		queue_remove(&relay->queue, last);
	}
}

/*
 * An event of this key has a row again, which may come before what is in memory: of
 * that, what is not being tried leaves for the table, and is read back behind it.
 */
void
relay_yield_to_row(Relay *relay, const char *topic, const char *name)
{
	KeyTable   *keys = &relay->queue.keys;
	KeyQueue   *key = keys_find(keys, topic, name);
	RelayEntry *first;

	if (!key || key->nentries == 0)
		return;
	first = keys_active(key);
	cut_key(relay, key, first->state == ENTRY_READY ? 0 : 1);
	keys_read_from(keys, key, 0);
}

/* When events that wait for others must make room for what is not read yet. */
static int64
cut_time(const Relay *relay)
{
	const RelayWindow *window = queue_last_window(&relay->queue);
	int64		full_since = relay->full_since;
	int64		until;

	if (full_since == 0)
		return PG_INT64_MAX;
	until = full_since + CUT_AFTER_MS;
	if (!window->store.exhausted)
		until = Min(until, window->opened_at + CUT_BEHIND_MS);
	return Max(until, relay->ahead.again_at);
}

/* Take note of whether memory is full. */
static void
watch_room(Relay *relay)
{
	if (relay_has_room_for_rows(relay))
		relay->full_since = 0;
	else if (relay->full_since == 0 && !relay_has_room(relay))
		relay->full_since = relay->now;
}

/* Make room, by the events that wait for others of their keys. */
static void
cut_long_keys(Relay *relay)
{
	HASH_SEQ_STATUS status;
	KeyQueue   *key;
	int			kept = keys_share(&relay->queue.keys);

	/* large ones: the next is needed soon, and the others of the key are not */
	if (relay->queue.nentries < ROOM_FOR_ROWS(4 * guc_batch_size))
		kept = Min(kept, KEPT_OF_LARGE);

	hash_seq_init(&status, relay->queue.keys.queues);
	while ((key = hash_seq_search(&status)) != NULL)
	{
		if (key->nentries > kept)
			cut_key(relay, key, kept);
	}
	relay->full_since = 0;
}

/*
 * The entry leaves memory for the tail of the lane, if need be by a new row.  It
 * may be another lane's, behind one of this lane, with which it comes back.
 */
static void
move_to_lane(Relay *relay, RelayLane *lane, RelayEntry *entry)
{
	if (!entry->stored || !entry->waited)
		relay_add_delivery(relay, entry->event, DELIVERY_PENDING,
						   entry->attempts, entry->event->crashes, 0,
						   entry->last_status, entry->last_error);
	keys_stored(entry);
	lane_has_row(&relay->queue.lanes, lane, entry->event->msg.id);
	queue_remove(&relay->queue, entry);
}

/* The lane keeps so many entries, if others are ready, and whole keys. */
static void
cut_lane(Relay *relay, RelayLane *lane, int kept)
{
	while (lane->nentries > kept && lane->nready > 0)
	{
		RelayEntry *last = dlist_tail_element(RelayEntry, in_list,
											  &lane->ready);
		KeyQueue   *key = last->key;

		/* from the end, so that none comes to be the first and is ready */
		while (key && key->nentries > 1)
			move_to_lane(relay, lane,
						 dlist_tail_element(RelayEntry, in_key, &key->entries));
		if (key)
			keys_retire(&relay->queue.keys, key);
		move_to_lane(relay, lane, last);
	}
}

/* Does memory fill with events of lanes that are stopped, or wait for their share? */
static bool
lanes_fill_memory(const Relay *relay)
{
	const LaneTable *lanes = &relay->queue.lanes;

	return !relay_has_room_for_rows(relay) &&
		lanes_ready(lanes) > lanes_ready_to_go(lanes);
}

/* Make room for others, by such events. */
static void
cut_lanes(Relay *relay)
{
	LaneTable  *lanes = &relay->queue.lanes;

	for (int kept = KEPT_OF_FULL;; kept /= KEPT_PART)
	{
		HASH_SEQ_STATUS status;
		RelayLane  *lane;

		hash_seq_init(&status, lanes->lanes);
		while ((lane = hash_seq_search(&status)) != NULL)
		{
			if (lane_waits_long(lanes, lane))
				cut_lane(relay, lane, kept);
		}
		if (kept == 0 || relay_has_room_for_rows(relay))
			break;
	}
}

/* Make room if memory is full, too little of it can be sent, and others wait. */
void
relay_make_room(Relay *relay)
{
	bool		keys;
	bool		lanes;

	if (!relay_is_short(relay))
		return;
	watch_room(relay);

	/* lanes sooner: these may stay for long, and rows of others come back */
	keys = relay->now >= cut_time(relay);
	lanes = relay->now >= relay->ahead.again_at && lanes_fill_memory(relay);
	if (!(keys || lanes) || !relay_others_wait(relay))
		return;
	if (keys)
		cut_long_keys(relay);
	if (lanes_fill_memory(relay))
		cut_lanes(relay);
}

/* When that is to be done; PG_INT64_MAX if it is not. */
int64
relay_make_room_time(const Relay *relay)
{
	int64		until;

	if (!relay_is_short(relay))
		return PG_INT64_MAX;
	until = cut_time(relay);
	if (relay->ahead.again_at > 0 && lanes_fill_memory(relay))
		until = Min(until, relay->ahead.again_at);
	return until;
}
