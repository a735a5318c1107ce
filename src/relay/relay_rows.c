/*-------------------------------------------------------------------------
 *
 * relay_rows.c
 *		Taking back what is in the table.
 *
 * Rows of outbox_delivery come back into memory in four ways, after what people ask
 * for has been done (relay_requests.c):
 *
 * - Rows that are due, by a cursor over their times.
 * - The tail of a key, when its queue runs low (relay_keys.c).
 * - The tail of a lane, when it can send and has little left (relay_lane.c).
 * - A walk over all rows, when the relay starts or settings have changed, finds
 *   those that nobody would come back to.  At its end, all keys are known.
 *
 * Of the rows with a key, all but the first only find the key: its rows are then
 * read from the first one on, up to one that must not be sent.  So nothing
 * passes an earlier event of its key.  After a restart, that may be an event that
 * is still to be read again: no row of a key is taken before its own event has
 * been read, and none at all before what the last relay has left open.
 *
 * Taking rows writes nothing; what was settled is written before any is read,
 * so that the table says what is true.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "guc.h"
#include "lib/clock.h"
#include "relay/relay_internal.h"

/* Rows that the walk looks at in one go. */
#define WALK_ROWS		1000

/* Rows of a lane that are read in one go. */
#define LANE_ROWS		200

/* So often in a step are rows of a key or a lane read. */
#define MAX_READS		100

/* With so many keys to be looked into, walks wait for them. */
#define MANY_REFILLS	1000

/* Rows may be due that were not before. */
static void
forget_due(RelayRows *rows)
{
	rows->next_due = DT_NOBEGIN;
	rows->due.time = DT_NOBEGIN;
	rows->due.id = 0;
}

/* A row is due at this time, perhaps before what the cursor has passed. */
void
relay_hear_of_due_at(RelayRows *rows, TimestampTz due)
{
	rows->next_due = Min(rows->next_due, due);
	if (due <= rows->due.time)
	{
		rows->due.time = due;
		rows->due.id = 0;
	}
}

/* Look at all rows, from the first one on. */
void
relay_walk_rows(RelayRows *rows)
{
	rows->walking = true;
	rows->walked = 0;
}

/* Nothing is known yet. */
void
relay_rows_init(Relay *relay)
{
	forget_due(&relay->rows);
	relay_walk_rows(&relay->rows);
}

/*
 * The settings that say which rows block their key may have changed, and while
 * the relay was disabled a dump may have been restored: look at all rows again.
 */
void
relay_rows_configure(Relay *relay)
{
	relay_rows_init(relay);
	keys_forget_all_rows(&relay->queue.keys);
}

/* Compare memory with the table, some time soon. */
void
relay_sweep_next(Relay *relay)
{
	relay->rows.sweep = true;
}

/* How many events of the largest size there is memory for; at least one. */
static int
event_limit(const Relay *relay, int limit)
{
	return Max(1, Min(limit, relay_room_for_rows(relay) / guc_max_payload_size));
}

/* May something be taken?  Whenever the store has failed, it is left alone. */
static bool
may_take(const Relay *relay)
{
	return !relay->journal.must_checkpoint && !relay->journal.extension_gone &&
		relay_wants_rows(relay);
}

/* May walks find more keys?  Not while there are many to be looked into. */
bool
relay_may_look_for_keys(const Relay *relay)
{
	return relay->queue.keys.nrefills <= MANY_REFILLS;
}

static void
admit_rows(Relay *relay, List *events)
{
	ListCell   *lc;

	foreach(lc, events)
	{
		OutboxEvent *event = lfirst(lc);

		/* what a restart reads again may be in front of others only */
		Assert(!event->msg.key ||
			   store_has_read(&queue_last_window(&relay->queue)->store,
							  event->xid, event->msg.id));
		if (!queue_admit(&relay->queue, event, NULL, relay->now))
			pfree(event);		/* it is here already */
	}
	list_free(events);
}

/* These keys have rows that nobody may know of. */
static void
look_into_keys(Relay *relay, List *keys)
{
	KeyTable   *table = &relay->queue.keys;
	ListCell   *lc;

	foreach(lc, keys)
	{
		StoreKey   *key = lfirst(lc);

		/* earlier ones are in memory, or will be found like this one */
		if (!queue_find(&relay->queue, key->id))
			keys_look_into(table, keys_make(table, key->topic, key->key),
						   key->id);
	}
	store_free_keys(keys);
}

/* An event was given up or deleted; NULL: it is not in memory. */
void
relay_forget_entry(Relay *relay, RelayEntry *entry)
{
	if (!entry)
		return;
	if (entry->state == ENTRY_IN_FLIGHT)
		publisher_cancel(relay->publisher, entry->event->msg.id);
	queue_remove(&relay->queue, entry);
	relay_note_settled(relay);
}

/* Events may have been deleted from the table: forget those. */
static void
sweep(Relay *relay)
{
	const OutboxEvent **events = palloc(sizeof(OutboxEvent *) *
										Max(relay->queue.nentries, 1));
	int			n = 0;
	List	   *gone = NIL;
	List	   *dead;
	ListCell   *lc;

	foreach(lc, queue_entries(&relay->queue))
		events[n++] = ((RelayEntry *) lfirst(lc))->event;
	if (!relay_store_ok(relay, store_take_over(guc_minimum_retry_interval,
											   false, events, n, &dead)))
		return;

	/* what was taken over may have been due for long */
	forget_due(&relay->rows);
	if (n > 0 && !relay_store_ok(relay, store_find_deleted(events, n, &gone)))
		return;
	foreach(lc, gone)
		relay_forget_entry(relay, queue_find(&relay->queue,
											 *(int64 *) lfirst(lc)));
	relay->rows.sweep = false;
}

/* Rows that the journal was given may be due before those known so far. */
static void
hear_of_due(Relay *relay)
{
	relay_hear_of_due_at(&relay->rows, relay_take_due(relay));
}

/* Is a row due, as far as is known? */
static bool
is_due(Relay *relay, TimestampTz now)
{
	RelayRows  *rows = &relay->rows;

	hear_of_due(relay);
	if (now < rows->due.time)
		forget_due(rows);		/* the clock was set back */
	return rows->next_due <= now;
}

/* Take rows whose time has come. */
static void
take_due(Relay *relay, TimestampTz now)
{
	RelayRows  *rows = &relay->rows;
	StoreRows	found;
	TimestampTz due;

	MemoryContextSwitchTo(relay->queue.context);
	if (!relay_store_ok(relay, store_read_due(&rows->due, now,
											  event_limit(relay,
														  guc_retry_batch_size),
											  &found)))
		return;
	admit_rows(relay, found.events);
	look_into_keys(relay, found.keys);
	if (!found.more &&
		relay_store_ok(relay, store_next_due(&rows->due, &due)))
		rows->next_due = due;
}

/* Read the next rows of a key. */
static void
refill_key(Relay *relay, KeyQueue *queue, TimestampTz now)
{
	KeyTable   *keys = &relay->queue.keys;
	RelayWindow *window = queue_last_window(&relay->queue);
	StoreKey	key = {queue->topic, queue->key, 0};
	StoreKeyRows rows;
	Size		share = ROOM_FOR_ROWS(relay_event_memory(relay)) /
	keys_in_turn(keys);

	MemoryContextSwitchTo(relay->queue.context);
	if (!relay_store_ok(relay,
						store_read_key(&key, queue->last_id, &window->store,
									   now, keys_share(keys),
									   Min(relay_room_for_rows(relay), share), &rows)))
		return;

	keys_note_read(keys, queue, &rows);
	admit_rows(relay, rows.events);
	keys_refilled(keys, queue, rows.last, rows.rest == KEY_MORE);
	if (rows.unread != 0)
		keys_await_reader(queue, window, rows.unread);
}

/*
 * Take events that have rows and no key.  Those of a lane with a tail are left
 * there, where the lane will come to them.
 */
static void
admit_walked(Relay *relay, List *events)
{
	LaneTable  *lanes = &relay->queue.lanes;
	ListCell   *lc;

	foreach(lc, events)
	{
		OutboxEvent *event = lfirst(lc);
		RelayLane  *lane = lanes_find(lanes, event->msg.topic);

		if (lane && lane->tail && !queue_find(&relay->queue, event->msg.id))
		{
			lane_has_row(lanes, lane, event->msg.id);
			pfree(event);
		}
		else if (!queue_admit(&relay->queue, event, NULL, relay->now))
			pfree(event);
	}
	list_free(events);
}

/* Read the next rows of a lane; if it is down, one that it may try. */
static void
walk_lane(Relay *relay, RelayLane *lane)
{
	int			limit = lane_is_stopped(lane) ? 1 : LANE_ROWS;
	StoreRows	found;

	MemoryContextSwitchTo(relay->queue.context);
	if (!relay_store_ok(relay, store_walk_topic(lane->topic, &lane->walked,
												limit,
												event_limit(relay, limit),
												&found)))
		return;
	admit_rows(relay, found.events);
	look_into_keys(relay, found.keys);
	lane_walked(&relay->queue.lanes, lane, found.more);
}

/*
 * Read what queues of keys and lanes ask for, while there is room.  What lanes
 * find of keys is read before they find more.
 */
static void
read_tails(Relay *relay, TimestampTz now)
{
	RelayWindow *window = queue_last_window(&relay->queue);

	for (int i = 0; i < MAX_READS; i++)
	{
		KeyQueue   *queue;
		RelayLane  *lane;

		if (!may_take(relay))
			break;
		if ((queue = keys_next_refill(&relay->queue.keys, window)) != NULL)
			refill_key(relay, queue, now);
		else if (relay_may_look_for_keys(relay) &&
				 (lane = lanes_next_walk(&relay->queue.lanes)) != NULL)
			walk_lane(relay, lane);
		else
			break;
	}
}

/* Look at the next rows of the walk. */
static void
walk(Relay *relay)
{
	RelayRows  *rows = &relay->rows;
	StoreRows	found;

	MemoryContextSwitchTo(relay->queue.context);
	if (!relay_store_ok(relay, store_walk_rows(&rows->walked, WALK_ROWS,
											   event_limit(relay, WALK_ROWS),
											   &found)))
		return;
	admit_walked(relay, found.events);
	look_into_keys(relay, found.keys);
	if (!found.more)
	{
		rows->walking = false;
		keys_all_rows_known(&relay->queue.keys);
	}
}

/* Is there something to be taken, so that the journal is to be written first? */
bool
relay_rows_wanted(Relay *relay)
{
	RelayRows  *rows = &relay->rows;

	if (relay->requests.asked || rows->sweep)
		return true;
	if (!relay_wants_rows(relay))
		return false;
	if (is_due(relay, clock_now()) ||
		keys_next_refill(&relay->queue.keys,
						 queue_last_window(&relay->queue)) != NULL)
		return true;

	/* a walk that has to wait for keys is no reason for another step */
	return relay_may_look_for_keys(relay) &&
		(rows->walking || lanes_next_walk(&relay->queue.lanes) != NULL);
}

/* Take rows while there is room.  The journal has been written. */
void
relay_take_rows(Relay *relay)
{
	RelayRows  *rows = &relay->rows;
	TimestampTz now = clock_now();

	if (rows->sweep && !relay->journal.must_checkpoint)
		sweep(relay);
	if (may_take(relay) && is_due(relay, now))
		take_due(relay, now);
	read_tails(relay, now);
	if (rows->walking && relay_may_look_for_keys(relay) && may_take(relay))
		walk(relay);
}

/* When there is something to take; relay->now: at once. */
int64
relay_rows_time(Relay *relay)
{
	RelayRows  *rows = &relay->rows;

	if (relay_rows_wanted(relay))
		return relay->now;
	if (!relay_wants_rows(relay) || TIMESTAMP_IS_NOEND(rows->next_due))
		return PG_INT64_MAX;
	return relay->now + clock_ms_until(rows->next_due);
}
