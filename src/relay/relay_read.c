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
#include "lib/clock.h"
#include "relay/relay_internal.h"

/* How long next_due is believed; rows may be changed behind our back. */
#define DUE_CHECK_MS	60000

/* What is due but locked by somebody is tried again so much later. */
#define LOCKED_PAUSE_MS	100

/*
 * A burst of commits: so many looks within a millisecond that found something;
 * and then so many events in the time between two looks.
 */
#define BURST			3
#define LOOK_PAUSE_MS	2

/* Rows may be due that were changed behind our back, or when the clock was. */
static void
forget_due(RelayReader *reader)
{
	reader->next_due = DT_NOBEGIN;
	reader->due_floor = DT_NOBEGIN;
}

/* Nothing is known yet. */
void
relay_read_init(Relay *relay)
{
	forget_due(&relay->reader);
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
	reader->recheck = true;
}

/* The latch was set: perhaps by a commit that published. */
void
relay_woken(Relay *relay)
{
	relay->reader.look = true;
}

/* Somebody changed exceptions by hand. */
void
relay_exceptions_changed(Relay *relay)
{
	relay->reader.recheck = true;
}

/*
 * A new event, from a window, or one that was claimed ("window" is NULL).  It
 * becomes an entry, or a row if its time has not come, or an earlier event of
 * its key is in trouble: then it is not sent before that is settled.
 */
static void
admit_event(Relay *relay, OutboxEvent *event, RelayWindow *window)
{
	if (!event->stored && event->deliver_after > clock_now())
		relay_add_delivery(relay, event, DELIVERY_SCHEDULED, 0, 0,
						   event->deliver_after, 0, NULL);
	else if (event->key_blocked)
		relay_add_delivery(relay, event, DELIVERY_BLOCKED, 0, 0, 0, 0, NULL);
	else if (queue_admit(&relay->queue, event, window, relay->now))
		return;					/* it belongs to the queue now */
	pfree(event);
}

static void
admit_events(Relay *relay, List *events, RelayWindow *window)
{
	ListCell   *lc;

	foreach(lc, events)
		admit_event(relay, lfirst(lc), window);
	list_free(events);
}

/* Forget an entry that was discarded, or deleted from the table. */
static void
forget_entry(Relay *relay, RelayEntry *entry)
{
	if (entry->state == ENTRY_IN_FLIGHT)
		publisher_cancel(relay->publisher, entry->event->msg.id);
	queue_remove(&relay->queue, entry);
	relay_note_settled(relay);
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

	relay->reader.sweep_at = relay->now + guc_cleaning_local_queue_expire_interval;
	foreach(lc, queue_entries(&relay->queue))
		ids[n++] = ((RelayEntry *) lfirst(lc))->event->msg.id;
	if (!relay_store_ok(relay, store_take_over(guc_minimum_retry_interval,
											   false, ids, n)))
		return;

	/* what was taken over may be due before anything that we know of */
	forget_due(&relay->reader);
	if (n == 0 || !relay_store_ok(relay, store_find_given_up(ids, n, &gone)))
		return;
	foreach(lc, gone)
		forget_entry(relay, queue_find(&relay->queue, *(int64 *) lfirst(lc)));
}

/*
 * Somebody changed exceptions by hand, or the settings that rule them.  A
 * sweep looks at all there is; one that failed is still to be done.
 */
static void
recheck_exceptions(Relay *relay)
{
	relay->reader.recheck = false;
	sweep(relay);
	if (relay->journal.must_checkpoint)
		relay->reader.recheck = true;
}

static bool
has_room(const Relay *relay)
{
	return relay->queue.nentries < 4 * guc_batch_size &&
		relay->queue.bytes < (Size) guc_relay_memory * 1024;
}

/* Are there too few events ready, and is there room for more? */
static bool
wants_events(const Relay *relay)
{
	Size		bytes;
	int64		enough = (int64) guc_max_in_flight *
	publisher_max_batch(relay->publisher, &bytes);

	return relay_can_send(relay) && has_room(relay) &&
		relay->queue.nready < Min(enough, guc_batch_size);
}

/* How many events of the largest size there is memory for; at least one. */
static int
claim_limit(const Relay *relay)
{
	Size		room = (Size) guc_relay_memory * 1024 - relay->queue.bytes;

	return Max(1, Min(guc_retry_batch_size, room / guc_max_payload_size));
}

/* Rows that the journal was given may be due before those known so far. */
static void
hear_of_due(Relay *relay)
{
	TimestampTz due = relay_take_due(relay);

	relay->reader.next_due = Min(relay->reader.next_due, due);
}

/* All that was due "now" may be taken: when is the next? */
static void
find_next_due(Relay *relay, TimestampTz now)
{
	RelayReader *reader = &relay->reader;
	TimestampTz due = reader->due_floor;

	if (!relay_store_ok(relay, store_next_due(&due)))
		return;
	reader->next_due = due;
	reader->due_check_at = relay->now + DUE_CHECK_MS;

	/* somebody who holds an old snapshot keeps what we passed in the index */
	if (due > now)
		reader->due_floor = now;
}

/* The persistent tier: take what is due. */
static void
claim_due(Relay *relay)
{
	RelayReader *reader = &relay->reader;
	List	   *events = NIL;
	int			limit = claim_limit(relay);
	int			n;
	TimestampTz now = clock_now();

	hear_of_due(relay);

	/* rows may have been changed behind our back, or the clock set back */
	if (relay->now >= reader->due_check_at || now < reader->due_floor)
		forget_due(reader);
	if (reader->next_due > now || !wants_events(relay))
		return;

	MemoryContextSwitchTo(relay->queue.context);
	if (!relay_store_ok(relay, store_claim_due(reader->due_floor, now, limit,
											   &events)))
		return;
	n = list_length(events);
	admit_events(relay, events, NULL);

	/* fewer than asked for: all that are due, or those that are not locked */
	if (n < limit)
		find_next_due(relay, now);
	if (n == 0 && reader->next_due <= now)
		reader->next_due = TimestampTzPlusMilliseconds(now, LOCKED_PAUSE_MS);
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
	return queue_add_window(&relay->queue, last->store.hi, NULL);
}

/* New events, while there are few to be sent and there is room for more. */
static void
read_new(Relay *relay)
{
	RelayReader *reader = &relay->reader;
	RelayQueue *queue = &relay->queue;
	RelayWindow *last = queue_last_window(queue);
	RelayWindow *window;
	List	   *events = NIL;

	if (relay->now >= reader->poll_at)
	{
		reader->look = true;
		reader->poll_at = relay->now + guc_poll_interval;
	}

	/* a commit has nothing to wake us for; once we can send, we look anyway */
	if (!relay_can_send(relay))
		set_listening(reader, false);
	if (!wants_events(relay) || !(window = window_to_read(relay)))
		return;

	MemoryContextSwitchTo(queue->context);
	if (!relay_store_ok(relay,
						store_read_window(&window->store, window->context,
										  guc_batch_size,
										  (Size) guc_relay_memory * 1024 - queue->bytes,
										  &events)))
	{
		/* as if we had not looked: the next try takes a new snapshot */
		if (window != last)
			queue_drop_window(queue, window);
		reader->look = true;
		return;
	}

	/*
	 * The window before is of no use any more, unless it holds the position,
	 * or knows of something settled that an earlier one still has in front.
	 */
	if (window != last && dlist_is_empty(&last->entries) &&
		last->max_gone == 0)
		queue_drop_window(queue, last);
	note_look(relay, list_length(events));
	admit_events(relay, events, window);
}

/* Read what is to be read by now. */
void
relay_read(Relay *relay)
{
	RelayJournal *journal = &relay->journal;

	if ((journal->ndeliveries > 0 || journal->must_checkpoint) &&
		!relay_checkpoint(relay, false, false))
		return;
	if (relay->reader.recheck)
		recheck_exceptions(relay);
	else if (relay->now >= relay->reader.sweep_at)
		sweep(relay);

	/* whenever the store has failed, it is to be left alone */
	if (!journal->must_checkpoint)
		claim_due(relay);
	if (!journal->must_checkpoint)
		read_new(relay);
}

/* Milliseconds until a time of the wall clock. */
static int64
wall_clock_wait(TimestampTz when)
{
	TimestampTz now = clock_now();

	return when <= now ? 0 : (when - now) / 1000 + 1;
}

/* When there is something to read; relay->now: at once. */
int64
relay_read_time(Relay *relay)
{
	RelayReader *reader = &relay->reader;
	int64		until = reader->poll_at;

	if (reader->recheck)
		until = relay->now;
	if (!wants_events(relay))
		return until;
	hear_of_due(relay);
	if (!TIMESTAMP_IS_NOEND(reader->next_due))
		until = Min(until, relay->now + wall_clock_wait(reader->next_due));
	if (!queue_last_window(&relay->queue)->store.exhausted)
		return relay->now;
	return reader->look ? Min(until, Max(reader->look_at, relay->now)) : until;
}
