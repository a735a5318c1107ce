/*-------------------------------------------------------------------------
 *
 * relay_read.c
 *		New events: when they are looked for, and where they go.
 *
 * New events are looked for when a commit has woken us, and after
 * outbox.poll_interval: a backend may have died before it could.  While we are
 * going to look anyway, or can send nothing, commits need not wake us.  Events
 * are read while there are few to be sent and there is room for more.
 *
 * What the last relay has left open comes first, into a window of its own.
 *
 * An event becomes an entry in memory, unless its time has not come or is over,
 * or its key or its lane has rows in the table, or soon will have, that it has to
 * wait behind: then it becomes a row, too.
 *
 * What cannot be read the store has set aside, as dead; here it is logged and
 * counted, and what is behind it of its key is made to wait.
 *
 * Before anything is read, here or by relay_rows.c, what was settled is
 * written, so that the table says what is true.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "guc.h"
#include "lib/clock.h"
#include "relay/relay_internal.h"

/*
 * A burst of commits: so many looks within a millisecond that found something;
 * and then so many events in the time between two looks.
 */
#define BURST			3
#define LOOK_PAUSE_MS	2

/* Nothing is known yet. */
void
relay_read_init(Relay *relay)
{
	relay->reader.look = true;
	relay->reader.listening = true; /* as shmem_relay_attach() has it */
	relay->reader.sweep_at = relay->now + guc_cleaning_local_queue_expire_interval;
}

/* There are other settings, which may let more be read, or sooner. */
void
relay_read_configure(Relay *relay)
{
	RelayReader *reader = &relay->reader;

	reader->sweep_at = Min(reader->sweep_at,
						   relay->now + guc_cleaning_local_queue_expire_interval);
	reader->look = true;
}

/* The latch was set: perhaps by a commit that published. */
void
relay_woken(Relay *relay)
{
	relay->reader.look = true;
}

/*
 * Are later events of its key in memory, whose transactions committed earlier?
 * It joins them there.
 */
static bool
is_late(const Relay *relay, const OutboxEvent *event)
{
	const OutboxMessage *msg = &event->msg;
	const KeyQueue *queue = msg->key ?
	keys_find(&relay->queue.keys, msg->topic, msg->key) : NULL;

	return queue && queue->nentries > 0 && msg->id < queue->last_id;
}

/* Does a new event have to wait behind rows of its lane? */
static bool
waits_behind_lane(const Relay *relay, const OutboxEvent *event)
{
	const RelayLane *lane = lanes_find(&relay->queue.lanes, event->msg.topic);

	return lane && lane->tail && !is_late(relay, event);
}

/*
 * Does it have to wait behind rows of its key?  What has entries in memory and
 * no tail has all its rows there.
 */
static bool
waits_behind_key(const Relay *relay, const OutboxEvent *event)
{
	const KeyTable *keys = &relay->queue.keys;
	const char *topic = event->msg.topic;
	const char *key = event->msg.key;
	const KeyQueue *queue;

	if (!key || is_late(relay, event))
		return false;
	queue = keys_find(keys, topic, key);
	return (queue && queue->tail) || event->behind_rows ||
		keys_have_rows(keys, topic, key);
}

/*
 * An event in memory whose id a new one has: somebody has deleted it, and set
 * the sequence of ids back.
 */
static void
forget_namesake(Relay *relay, const OutboxEvent *event)
{
	RelayEntry *entry = queue_find(&relay->queue, event->msg.id);

	if (entry && strcmp(entry->event->msg.event_id, event->msg.event_id) != 0)
		relay_forget_entry(relay, entry);
}

/* A new event from a window. */
static void
admit_event(Relay *relay, OutboxEvent *event, RelayWindow *window)
{
	forget_namesake(relay, event);
	if (event->deliver_after > clock_now())
		relay_add_delivery(relay, event, DELIVERY_SCHEDULED, 0, 0,
						   event->deliver_after, 0, NULL);
	else if (relay_is_over(event))
		relay_expire_event(relay, event);
	else if (waits_behind_lane(relay, event))
		relay_add_to_lane(relay, event);
	else if (waits_behind_key(relay, event) ||
			 (event->msg.key && relay_is_replaying(relay, event->msg.topic)))
		relay_add_to_tail(relay, event);
	else if (queue_admit(&relay->queue, event, window, relay->now))
		return;					/* it belongs to the queue now */
	pfree(event);
}

static void
admit_events(Relay *relay, List *events, RelayWindow *window)
{
	ListCell   *lc;

	foreach(lc, events)
	{
		OutboxEvent *event = lfirst(lc);

		relay->reader.largest_read = Max(relay->reader.largest_read,
										 event->msg.id);
		admit_event(relay, event, window);
	}
	list_free(events);
}

/*
 * Events that could not be read are dead, which the store has written.  New
 * ones of their keys wait behind them.
 */
void
relay_hear_of_unreadable(Relay *relay)
{
	KeyTable   *keys = &relay->queue.keys;
	List	   *list = store_take_unreadable();
	ListCell   *lc;

	relay_found_dead(relay, list);
	foreach(lc, list)
	{
		const StoreDeadEvent *event = lfirst(lc);

		relay_note_settled(relay);
		if (!event->key)
			continue;

		/* it may have come late, in front of what is known to have no rows */
		keys_note_row(keys, event->topic, event->key, event->id);
		if (guc_dead_key_policy == DEAD_KEY_BLOCK)
			keys_note_rows(keys, event->topic, event->key);
	}
	store_free_dead(list);
}

/* Whoever begins to listen has to look after that; who ends it, some time. */
static void
set_listening(RelayReader *reader, bool on)
{
	if (reader->listening != on)
		shmem_relay_listen(on);
	reader->listening = on;
	reader->look = true;
}

/*
 * A look has found so many new events.  In a burst, commits need not wake us
 * one by one: while there is one, or more than one look can read, we look from
 * time to time for what has come since.
 */
static void
note_look(Relay *relay, int nevents)
{
	RelayReader *reader = &relay->reader;
	bool		burst = !queue_last_window(&relay->queue)->store.exhausted;

	if (reader->found_at != relay->now)
		reader->nfound = 0;
	reader->found_at = relay->now;
	if (nevents > 0)
		reader->nfound++;

	/* woken by each commit, we count looks; not woken, what one has gathered */
	if (reader->listening)
		burst |= reader->nfound >= BURST;
	else
		burst |= nevents >= BURST;

	if (burst)
	{
		set_listening(reader, false);
		reader->look_at = relay->now + LOOK_PAUSE_MS;
	}
	else if (!reader->listening)
		set_listening(reader, true);
}

/*
 * The window to read from, which is a new one if the last is exhausted and
 * there may be something in it.  NULL: there is nothing to read.
 */
static RelayWindow *
window_to_read(Relay *relay)
{
	RelayReader *reader = &relay->reader;
	RelayWindow *last = queue_last_window(&relay->queue);

	if (!last->store.exhausted)
		return last;
	if (!reader->look || relay->now < reader->look_at)
		return NULL;
	reader->look = false;
	reader->poll_at = relay->now + guc_poll_interval;

	/* idle databases cost no transaction */
	if (store_nothing_since(last->store.hi))
	{
		note_look(relay, 0);
		return NULL;
	}
	/* what the destination takes changes between windows only */
	if (!relay_store_ok(relay, store_begin_filter(last->store.hi)))
		return NULL;
	return queue_add_window(&relay->queue, last->store.hi, NULL, relay->now);
}

/* New events, while there are few to be sent and there is room for more. */
static void
read_new(Relay *relay)
{
	RelayReader *reader = &relay->reader;
	RelayQueue *queue = &relay->queue;
	RelayWindow *last = queue_last_window(queue);
	RelayWindow *window;
	bool		open;
	List	   *events = NIL;
	int			npassed;
	StoreRowsAfter rows_after;

	if (relay->now >= reader->poll_at)
	{
		reader->look = true;
		reader->poll_at = relay->now + guc_poll_interval;
		if (!store_nothing_since(last->store.hi))
			relay_ask_next(relay);
	}

	/* a commit has nothing to wake us for; once we can send, we look anyway */
	if (!relay_can_send(relay))
		set_listening(reader, false);
	if (!relay_wants_events(relay) || !(window = window_to_read(relay)))
		return;
	open = queue_has_unread_open(queue);
	rows_after = queue->keys.complete ? NULL : keys_rows_after;

	MemoryContextSwitchTo(queue->context);
	if (!relay_store_ok(relay,
						store_read_window(&window->store, window->context,
										  guc_batch_size,
										  relay_event_memory(relay) - queue->bytes,
										  rows_after, &queue->keys, &events,
										  &npassed)))
	{
		/* as if we had not looked: the next try takes a new snapshot */
		if (window != last)
			queue_drop_window(queue, window);
		reader->look = true;
		return;
	}
	relay_hear_of_unreadable(relay);
	if (window->store.replay)
		relay_expect_replay(relay);

	/* from the next read on, it is served, or told of */
	window->store.replay = false;

	/*
	 * The window before is of no use any more, unless it holds the position,
	 * or knows of something settled that an earlier one still has in front.
	 */
	if (window != last && dlist_is_empty(&last->entries) &&
		last->max_gone == 0)
		queue_drop_window(queue, last);
	note_look(relay, list_length(events) + npassed);
	if (npassed > 0)
		relay_note_changed(relay);
	reader->largest_read = Max(reader->largest_read, window->store.cursor);
	admit_events(relay, events, open ? queue_open_window(queue) : window);
}

/* Is there something to be read from a window, or is it time to look? */
static bool
new_events_wanted(const Relay *relay)
{
	const RelayReader *reader = &relay->reader;

	return relay_wants_events(relay) &&
		(!queue_last_window(&relay->queue)->store.exhausted ||
		 (reader->look && relay->now >= reader->look_at) ||
		 relay->now >= reader->poll_at);
}

/* Read what is to be read by now: rows that come back, then new events. */
void
relay_read(Relay *relay)
{
	RelayJournal *journal = &relay->journal;
	bool		rows_wanted;

	if (relay->now >= relay->reader.sweep_at)
	{
		relay_sweep_next(relay);
		relay->reader.sweep_at = relay->now +
			guc_cleaning_local_queue_expire_interval;
	}
	rows_wanted = relay_rows_wanted(relay);
	if (!journal->must_checkpoint && !rows_wanted && !new_events_wanted(relay))
	{
		if (!relay_can_send(relay))
			set_listening(&relay->reader, false);
		return;
	}

	/* who asks something of an event is answered by what has become of it */
	if ((journal->ndeliveries > 0 || journal->must_checkpoint ||
		 (relay->requests.asked && journal->nsettled > 0)) &&
		!relay_checkpoint(relay, false, false))
		return;
	if (relay->requests.asked)
		relay_serve_requests(relay);

	/* what has made room for rows is to be read back behind them */
	if (journal->ndeliveries > 0 && !relay_checkpoint(relay, false, false))
		return;
	if (rows_wanted)
		relay_take_rows(relay);
	relay_hear_of_unreadable(relay);

	/* whenever the store has failed, it is to be left alone */
	if (!journal->must_checkpoint)
		read_new(relay);
}

/* When there is something to read; relay->now: at once. */
int64
relay_read_time(Relay *relay)
{
	RelayReader *reader = &relay->reader;
	int64		until = Min(reader->poll_at, reader->sweep_at);

	if (!relay_wants_events(relay))
		return reader->sweep_at;
	if (!queue_last_window(&relay->queue)->store.exhausted)
		return relay->now;
	return reader->look ? Min(until, Max(reader->look_at, relay->now)) : until;
}
