/*-------------------------------------------------------------------------
 *
 * relay_settle.c
 *		What to do with an event: when it is read, when it is answered, when
 *		it takes too long.
 *
 * Retry has two tiers.  The local one is the relay's memory: the first
 * outbox.local_retry_times tries, a short wait apart.  After that comes the
 * persistent one: the row in outbox_delivery says when the event is due, with
 * waits that grow.  A wait that the destination asked for is honoured in
 * either.  After outbox.max_retry_times retries the event is dead.
 *
 * What takes long must not hold the position: an entry that is in flight or
 * to be tried again for more than a second gets a row (in_progress) and stays
 * in memory.
 *
 * The events of a key go one by one.  When the first one leaves memory for
 * the persistent tier, or dies and outbox.dead_key_policy is block, those
 * behind it leave with it, as blocked.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "utils/timestamp.h"

#include "lib/compat.h"
#include "guc.h"
#include "relay/relay.h"

/* What is in flight or to be tried again for so long gets a row. */
#define SPILL_AFTER_MS	1000

/* A wait of the persistent tier is longer by up to this part of it. */
#define JITTER			0.1

/* Of a key's events, this many wait in memory when that is full. */
#define MAX_WAITING_OF_FULL	16

/* A new event, from a window, or one that was claimed ("window" is NULL). */
void
relay_admit(Relay *relay, OutboxEvent *event, RelayWindow *window)
{
	if (!event->stored && event->deliver_after > GetCurrentTimestamp())
		relay_add_delivery(relay, event, DELIVERY_SCHEDULED, 0, 0,
						   event->deliver_after, 0, NULL);
	else if (event->key_blocked)
		relay_add_delivery(relay, event, DELIVERY_BLOCKED, 0, 0, 0, 0, NULL);
	else if (queue_admit(&relay->queue, event, window, relay->now))
		return;
	pfree(event);
}

/* Everything of the entry's key that is WAITING leaves memory, as blocked. */
static void
evict_followers(Relay *relay, RelayEntry *entry)
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
static void
spill(Relay *relay, RelayEntry *entry)
{
	relay_add_delivery(relay, entry->event, DELIVERY_IN_PROGRESS,
					   entry->attempts, entry->event->crashes, 0,
					   entry->last_status, entry->last_error);
	entry->stored = true;
	queue_leave_window(entry);
	evict_followers(relay, entry);
}

/* The wait before try number attempts + 1, in the persistent tier. */
static int64
persistent_wait(int attempts)
{
	int			step = Max(attempts - guc_local_retry_times - 1, 0);
	double		wait = guc_failed_retry_interval *
	pow(guc_retry_backoff, Min(step, 1000));

	wait = Min(wait, (double) guc_max_retry_interval);
	return (int64) (wait * (1.0 + JITTER * random_fraction_compat()));
}

static void
settle_delivered(Relay *relay, RelayEntry *entry)
{
	relay->report.counters.published++;
	relay->report_changed = true;
	if (entry->stored)
		relay_add_delivery(relay, entry->event, DELIVERY_PUBLISHED,
						   entry->attempts + 1, 0, 0, entry->last_status, NULL);
	else
		relay->nsettled++;
	if (relay->dirty_since == 0)
		relay->dirty_since = relay->now;
	queue_remove(&relay->queue, entry);
}

static void
settle_dead(Relay *relay, RelayEntry *entry)
{
	OutboxEvent *event = entry->event;

	relay->report.counters.dead++;
	relay_add_delivery(relay, event, DELIVERY_DEAD, entry->attempts, 0, 0,
					   entry->last_status, entry->last_error);
	ereport(LOG,
			(errmsg("outbox: event \"%s\" is dead", event->msg.event_id),
			 errdetail("Topic \"%s\", %d tries: %s", event->msg.topic,
					   entry->attempts, entry->last_error)));
	if (guc_dead_key_policy == DEAD_KEY_BLOCK)
		evict_followers(relay, entry);
	queue_remove(&relay->queue, entry);
}

static void
settle_persistent(Relay *relay, RelayEntry *entry, int64 wait)
{
	relay_add_delivery(relay, entry->event, DELIVERY_FAILED, entry->attempts, 0,
					   TimestampTzPlusMilliseconds(GetCurrentTimestamp(), wait),
					   entry->last_status, entry->last_error);
	evict_followers(relay, entry);
	queue_remove(&relay->queue, entry);
}

/*
 * It may be tried again: from which tier, and when?  "counted": the failure
 * is the event's own, or the destination was there for others.
 */
static void
settle_failed(Relay *relay, RelayEntry *entry, bool counted, int64 asked)
{
	int64		wait;

	if (counted && entry->attempts > guc_max_retry_times)
	{
		settle_dead(relay, entry);
		return;
	}
	asked = Min(asked, guc_max_retry_interval);
	if ((!counted || entry->attempts <= guc_local_retry_times) &&
		asked <= guc_minimum_retry_interval)
	{
		wait = Max(guc_local_failed_retry_interval, asked);
		if (entry->recorded)
			spill(relay, entry);	/* this try crashed nothing */
		entry->recorded = false;
		queue_back_off(&relay->queue, entry, relay->now + wait);
		return;
	}
	wait = Max(persistent_wait(entry->attempts), guc_minimum_retry_interval);
	settle_persistent(relay, entry, Max(wait, asked));
}

static void
note_failure(Relay *relay, RelayEntry *entry, const OutboxAnswer *answer)
{
	relay->report.counters.failed_attempts++;
	relay_note_error(relay, answer->error);
	if (entry->last_error)
		pfree(entry->last_error);
	entry->last_error = MemoryContextStrdup(relay->queue.context,
											answer->error);
}

/* The publisher's answer to a message in flight. */
void
relay_settle(Relay *relay, const OutboxAnswer *answer)
{
	RelayEntry *entry = queue_find(&relay->queue, answer->id);
	bool		counted = true;

	if (!entry || entry->state != ENTRY_IN_FLIGHT)
		return;
	relay->exclusive = false;
	relay->must_flush |= entry->recorded;
	entry->event->crashes = 0;
	entry->last_status = answer->status;
	if (answer->outcome != OUTBOX_DELIVERED)
		note_failure(relay, entry, answer);

	if (answer->outcome == OUTBOX_DELIVERED ||
		answer->outcome == OUTBOX_REJECTED)
	{
		breaker_succeeded(&relay->breaker);
		relay_set_finding(relay, &relay->report.endpoint, NULL);
	}
	else
	{
		breaker_failed(&relay->breaker, relay->now);
		relay_set_finding(relay, &relay->report.endpoint, answer->error);
		counted = answer->outcome == OUTBOX_RETRY ||
			breaker_counts_attempt(&relay->breaker);
	}
	if (answer->outcome != OUTBOX_DELIVERED && counted)
		entry->attempts++;

	if (answer->outcome == OUTBOX_DELIVERED)
		settle_delivered(relay, entry);
	else if (answer->outcome == OUTBOX_REJECTED)
		settle_dead(relay, entry);
	else
		settle_failed(relay, entry, counted, answer->retry_after_ms);
}

/*
 * The keys with too many waiting events, while memory is full: make room for
 * the events of others.
 */
static void
evict_crowds(Relay *relay)
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
		if (n <= MAX_WAITING_OF_FULL ||
			relay->now - head->read_at < SPILL_AFTER_MS)
			continue;
		spill(relay, head);
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

		if (relay->now - entry->read_at < SPILL_AFTER_MS)
			return false;
		if (entry->state == ENTRY_IN_FLIGHT || entry->state == ENTRY_BACKOFF)
			*old = lappend(*old, entry);
	}
	return true;
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
		spill(relay, lfirst(lc));
	if (relay->queue.nentries >= 4 * guc_batch_size)
		evict_crowds(relay);
}

/*
 * Write down that this entry is about to be tried, since a try of late has
 * crashed the relay: the crash is counted ahead, and taken back by the answer.
 * An entry that is recorded for the first time may have been in flight at that
 * earlier crash as well.
 */
void
relay_record_try(Relay *relay, RelayEntry *entry)
{
	entry->event->crashes = Max(entry->event->crashes, 1) + 1;
	spill(relay, entry);
	entry->recorded = true;
}

/*
 * The relay stops: hand the entries back to the persistent tier, due at once,
 * so that the position passes what is settled.  Those behind which nothing is
 * settled, and nothing of their key was tried, are read again instead.
 */
void
relay_release(Relay *relay)
{
	List	   *kept = NIL;
	ListCell   *lc;

	foreach(lc, queue_entries(&relay->queue))
	{
		RelayEntry *entry = lfirst(lc);
		RelayEntry *active = entry->key ? queue_active(entry->key) : entry;

		if (entry->stored || active->stored || active->state != ENTRY_READY ||
			queue_has_gone_beyond(&relay->queue, entry))
			kept = lappend(kept, entry);
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
							   entry->attempts, 0, GetCurrentTimestamp(),
							   entry->last_status, entry->last_error);
	}
}
