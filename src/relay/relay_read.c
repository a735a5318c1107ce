/*-------------------------------------------------------------------------
 *
 * relay_read.c
 *		Which events come into memory, and when.
 *
 * Events come from three places: rows of outbox_delivery that are due, new
 * events from a window, and rows in progress that no relay has any longer.
 * They are read while there are few to be sent and there is room for more.
 *
 * New events are looked for when a commit has woken us, and after
 * outbox.poll_interval for what nobody wakes us for (COMMIT PREPARED).  While
 * we are going to look anyway, or can send nothing, commits need not wake us.
 *
 * Before anything is read, what was settled is written: the statements that
 * read look at the rows of outbox_delivery to keep the order by key.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "guc.h"
#include "relay/relay.h"

/* How long next_due is believed; rows may be changed behind our back. */
#define DUE_CHECK_MS	60000

/* What is due but locked by somebody is tried again so much later. */
#define LOCKED_PAUSE_MS	100

/*
 * A crowd of commits: so many looks within a millisecond that found something;
 * and then so many events in the time between two looks.
 */
#define CROWD			3
#define LOOK_PAUSE_MS	2

/* Rows may be due that were changed behind our back, or when the clock was. */
static void
forget_due(Relay *relay)
{
	relay->next_due = DT_NOBEGIN;
	relay->due_floor = DT_NOBEGIN;
}

/* Forget an entry that was discarded, or deleted from the table. */
static void
forget_entry(Relay *relay, RelayEntry *entry)
{
	if (entry->state == ENTRY_IN_FLIGHT)
	{
		publisher_cancel(entry->event->msg.id);
		relay->exclusive = false;
	}
	queue_remove(&relay->queue, entry);
	if (relay->dirty_since == 0)
		relay->dirty_since = relay->now;
}

/*
 * Compare memory with the table: forget the entries that were given up there,
 * and take over rows in progress that are not here.
 */
static void
sweep(Relay *relay)
{
	int64	   *ids = palloc(sizeof(int64) * Max(relay->queue.nentries, 1));
	int			n = 0;
	List	   *gone;
	ListCell   *lc;

	relay->sweep_at = relay->now + guc_cleaning_local_queue_expire_interval;
	foreach(lc, queue_entries(&relay->queue))
		ids[n++] = ((RelayEntry *) lfirst(lc))->event->msg.id;
	if (!relay_store_ok(relay, store_take_over(guc_minimum_retry_interval,
											   false, ids, n)))
		return;
	forget_due(relay);
	if (n == 0 || !relay_store_ok(relay, store_find_given_up(ids, n, &gone)))
		return;
	foreach(lc, gone)
		forget_entry(relay, queue_find(&relay->queue, *(int64 *) lfirst(lc)));
}

/*
 * Somebody changed exceptions by hand, or the settings that rule them.  A
 * sweep looks at all there is.
 */
static void
recheck(Relay *relay)
{
	relay->recheck = false;
	sweep(relay);
	if (relay->must_checkpoint)
		relay->recheck = true;
}

static bool
has_room(Relay *relay)
{
	return relay->queue.nentries < 4 * guc_batch_size &&
		relay->queue.bytes < (Size) guc_relay_memory * 1024;
}

/* Are there too few events ready, and is there room for more? */
static bool
wants_events(Relay *relay)
{
	Size		bytes;
	int64		enough = (int64) guc_max_in_flight * publisher_max_batch(&bytes);

	return relay_can_send(relay) && has_room(relay) &&
		relay->queue.nready < Min(enough, guc_batch_size);
}

/* How many events of the largest size there is memory for; at least one. */
static int
claim_limit(Relay *relay)
{
	Size		room = (Size) guc_relay_memory * 1024 - relay->queue.bytes;

	return Max(1, Min(guc_retry_batch_size, room / guc_max_payload_size));
}

/* All that was due "now" may be taken: when is the next? */
static void
find_next_due(Relay *relay, TimestampTz now)
{
	TimestampTz due = relay->due_floor;

	if (!relay_store_ok(relay, store_next_due(&due)))
		return;
	relay->next_due = due;
	relay->due_check_at = relay->now + DUE_CHECK_MS;
	if (due > now)
		relay->due_floor = now;
}

/* The persistent tier: take what is due. */
static void
claim_due(Relay *relay)
{
	List	   *events = NIL;
	ListCell   *lc;
	int			limit = claim_limit(relay);
	TimestampTz now = GetCurrentTimestamp();

	if (relay->now >= relay->due_check_at || now < relay->due_floor)
		forget_due(relay);
	if (relay->next_due > now || !wants_events(relay))
		return;
	MemoryContextSwitchTo(relay->queue.context);
	if (!relay_store_ok(relay, store_claim_due(relay->due_floor, now, limit,
											   &events)))
		return;
	foreach(lc, events)
		relay_admit(relay, lfirst(lc), NULL);
	if (list_length(events) < limit)
		find_next_due(relay, now);
	if (events == NIL && relay->next_due <= now)
		relay->next_due = TimestampTzPlusMilliseconds(now, LOCKED_PAUSE_MS);
	list_free(events);
}

/* Whoever begins to listen has to look after that; who ends it, some time. */
static void
set_listening(Relay *relay, bool on)
{
	if (relay->listening != on)
		shmem_relay_listen(on);
	relay->listening = on;
	relay->look = true;
}

/*
 * A look has found so many new events.  A crowd of commits need not wake us
 * one by one: while there is one, or more than one look can read, we look from
 * time to time for what has come since.
 */
static void
look_found(Relay *relay, int nevents)
{
	bool		crowd = !queue_last_window(&relay->queue)->store.exhausted;

	if (relay->found_at != relay->now)
		relay->nfound = 0;
	relay->found_at = relay->now;
	if (nevents > 0)
		relay->nfound++;
	if (relay->listening)
		crowd |= relay->nfound >= CROWD;
	else
		crowd |= nevents >= CROWD;

	if (crowd)
	{
		set_listening(relay, false);
		relay->look_at = relay->now + LOOK_PAUSE_MS;
	}
	else if (!relay->listening)
		set_listening(relay, true);
}

/*
 * The window to read from, which is a new one if the last is exhausted and
 * there may be something in it.  NULL: there is nothing to read.
 */
static RelayWindow *
window_to_read(Relay *relay)
{
	RelayWindow *last = queue_last_window(&relay->queue);

	if (!last->store.exhausted)
		return last;
	if (!relay->look || relay->now < relay->look_at)
		return NULL;
	relay->look = false;
	relay->poll_at = relay->now + guc_poll_interval;
	if (store_nothing_since(last->store.hi))
	{
		look_found(relay, 0);
		return NULL;
	}
	return queue_add_window(&relay->queue, last->store.hi, NULL);
}

/* New events, while there are few to be sent and there is room for more. */
static void
read_new(Relay *relay)
{
	RelayQueue *queue = &relay->queue;
	RelayWindow *last = queue_last_window(queue);
	RelayWindow *window;
	List	   *events = NIL;
	ListCell   *lc;

	if (relay->now >= relay->poll_at)
	{
		relay->look = true;
		relay->poll_at = relay->now + guc_poll_interval;
	}
	if (!relay_can_send(relay))
		set_listening(relay, false);
	if (!wants_events(relay) || !(window = window_to_read(relay)))
		return;

	MemoryContextSwitchTo(queue->context);
	if (!relay_store_ok(relay,
						store_read_window(&window->store, window->context,
										  guc_batch_size,
										  (Size) guc_relay_memory * 1024 - queue->bytes,
										  &events)))
	{
		if (window != last)
			queue_drop_window(queue, window);
		relay->look = true;
		return;
	}
	if (window != last && dlist_is_empty(&last->entries) &&
		last->max_gone == 0)
		queue_drop_window(queue, last);
	look_found(relay, list_length(events));
	foreach(lc, events)
		relay_admit(relay, lfirst(lc), window);
	list_free(events);
}

/* Read what is to be read by now. */
void
relay_read(Relay *relay)
{
	if ((relay->ndeliveries > 0 || relay->must_checkpoint) &&
		!relay_checkpoint(relay, false, false))
		return;
	if (relay->recheck)
		recheck(relay);
	else if (relay->now >= relay->sweep_at)
		sweep(relay);
	if (!relay->must_checkpoint)
		claim_due(relay);
	if (!relay->must_checkpoint)
		read_new(relay);
}

/* Milliseconds until a time of the wall clock. */
static int64
wall_clock_wait(TimestampTz when)
{
	TimestampTz now = GetCurrentTimestamp();

	return when <= now ? 0 : (when - now) / 1000 + 1;
}

/* Nothing is known yet. */
void
relay_read_init(Relay *relay)
{
	forget_due(relay);
	relay->look = true;
	relay->listening = true;
}

/* When there is something to read; relay->now: at once. */
int64
relay_read_time(Relay *relay)
{
	int64		until = relay->poll_at;

	if (!wants_events(relay))
		return until;
	if (!TIMESTAMP_IS_NOEND(relay->next_due))
		until = Min(until, relay->now + wall_clock_wait(relay->next_due));
	if (!queue_last_window(&relay->queue)->store.exhausted)
		return relay->now;
	return relay->look ? Min(until, Max(relay->look_at, relay->now)) : until;
}
