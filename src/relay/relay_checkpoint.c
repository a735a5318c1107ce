/*-------------------------------------------------------------------------
 *
 * relay_checkpoint.c
 *		The journal: what became of events, until a checkpoint writes it.
 *
 * Exceptions are collected and written together with the position, in one
 * transaction: the position may pass an event only with the row that says why
 * it was not published, or if it names the event as open.  Checkpoints are
 * frequent and not flushed; what a crash undoes is sent again.  Only what is
 * written about the tries after a crash is flushed: it has to tell who caused
 * the next one.
 *
 * When a checkpoint fails (the disk is full, somebody has locked the table),
 * everything stays in memory and is written by the next one.  Until one has
 * succeeded, the relay reads and sends nothing: what can't be written down
 * would be sent again and again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "lib/clock.h"
#include "relay/relay_internal.h"

/* A checkpoint is due so long after the first event was settled. */
#define CHECKPOINT_DELAY_MS	10

/* ... or after so many. */
#define CHECKPOINT_EVENTS	1000

/* ... and so long after something of less hurry: see relay_note_changed(). */
#define CHANGED_DELAY_MS	1000

/* The store is left alone for so long after an error. */
#define STORE_RETRY_MS		1000

void
relay_journal_init(Relay *relay)
{
	relay->journal.context = AllocSetContextCreate(relay->context,
												   "outbox deliveries",
												   ALLOCSET_DEFAULT_SIZES);
	relay->journal.earliest_due = DT_NOEND;
}

/*
 * Take note of how a transaction of the store ended.  True if it did well.
 */
bool
relay_store_ok(Relay *relay, StoreResult result)
{
	RelayJournal *journal = &relay->journal;

	switch (result)
	{
		case STORE_OK:
			journal->retry_at = 0;
			return true;
		case STORE_NO_EXTENSION:
			journal->extension_gone = true;
			return false;
		case STORE_FAILED:
			journal->retry_at = clock_ms() + STORE_RETRY_MS;
			journal->must_checkpoint = true;
			relay_note_error(relay, store_last_error());
			return false;
	}
	return false;
}

static void
set_dirty(Relay *relay)
{
	if (relay->journal.dirty_since == 0)
		relay->journal.dirty_since = relay->now;
}

/* Have a row of outbox_delivery written; "last_error" is copied. */
void
relay_add_delivery(Relay *relay, const OutboxEvent *event,
				   DeliveryState state, int attempts, int crashes,
				   TimestampTz next_attempt_at, int last_status,
				   const char *last_error)
{
	RelayJournal *journal = &relay->journal;
	Delivery   *delivery;

	if (journal->ndeliveries == journal->size)
	{
		journal->size = Max(64, journal->size * 2);
		if (journal->deliveries)
			journal->deliveries = repalloc(journal->deliveries,
										   sizeof(Delivery) * journal->size);
		else
			journal->deliveries = MemoryContextAlloc(relay->context,
													 sizeof(Delivery) * journal->size);
	}
	delivery = &journal->deliveries[journal->ndeliveries++];
	delivery->id = event->msg.id;
	delivery->xid = event->xid;
	delivery->state = state;

	/* without a row, nothing would say that it has been sent here at all */
	if (state == DELIVERY_GONE && !store_takes(event->xid, event->msg.topic))
		delivery->state = DELIVERY_PUBLISHED;
	delivery->attempts = attempts;
	delivery->crashes = crashes;
	delivery->next_attempt_at = next_attempt_at;
	delivery->last_status = last_status;
	delivery->tried_at = event->tried_at;
	delivery->last_error = last_error ?
		MemoryContextStrdup(journal->context, last_error) : NULL;
	if (event->msg.key)
		keys_note_row(&relay->queue.keys, event->msg.topic, event->msg.key,
					  event->msg.id);
	if (next_attempt_at != 0)
		journal->earliest_due = Min(journal->earliest_due, next_attempt_at);
	set_dirty(relay);
}

/* An event without a row is settled, or gone: the position may pass it. */
void
relay_note_settled(Relay *relay)
{
	relay->journal.nsettled++;
	set_dirty(relay);
}

/*
 * Something is to be written that can wait a while: a counter, or a position that has
 * passed events of other destinations only.
 */
void
relay_note_changed(Relay *relay)
{
	if (relay->journal.changed_since == 0)
		relay->journal.changed_since = relay->now;
}

/* The next checkpoint must be on disk when it returns. */
void
relay_flush_next(Relay *relay)
{
	relay->journal.must_flush = true;
}

/* When the first of the rows is due that were added since the last call. */
TimestampTz
relay_take_due(Relay *relay)
{
	TimestampTz due = relay->journal.earliest_due;

	relay->journal.earliest_due = DT_NOEND;
	return due;
}

/*
 * One statement can't write a row twice, and of several states the last one
 * counts: drop the earlier ones.
 */
static void
drop_superseded(RelayJournal *journal)
{
	HASHCTL		ctl;
	HTAB	   *seen;
	int			kept = journal->ndeliveries;

	if (journal->ndeliveries < 2)
		return;
	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(int64);
	ctl.entrysize = sizeof(int64);
	ctl.hcxt = CurrentMemoryContext;
	seen = hash_create("outbox deliveries", journal->ndeliveries, &ctl,
					   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);

	/* from the last to the first, gathered at the end of the array */
	for (int i = journal->ndeliveries - 1; i >= 0; i--)
	{
		bool		found;

		hash_search(seen, &journal->deliveries[i].id, HASH_ENTER, &found);
		if (!found)
			journal->deliveries[--kept] = journal->deliveries[i];
	}
	hash_destroy(seen);
	memmove(journal->deliveries, journal->deliveries + kept,
			sizeof(Delivery) * (journal->ndeliveries - kept));
	journal->ndeliveries -= kept;
}

/*
 * Write everything down.  "durable": it is on disk on return; "clean": the
 * relay stops here.  False if that failed.
 */
bool
relay_checkpoint(Relay *relay, bool durable, bool clean)
{
	RelayJournal *journal = &relay->journal;
	StoreCheckpoint checkpoint;
	bool		ok;

	memset(&checkpoint, 0, sizeof(checkpoint));
	drop_superseded(journal);
	checkpoint.deliveries = journal->deliveries;
	checkpoint.ndeliveries = journal->ndeliveries;
	checkpoint.durable = durable || journal->must_flush;
	queue_position(&relay->queue, &checkpoint.position);
	checkpoint.position.largest_read = relay->reader.largest_read;
	checkpoint.position.clean = clean;
	checkpoint.position.counters = relay->counters;
	ok = relay_store_ok(relay, store_checkpoint(&checkpoint));
	pfree(checkpoint.position.open);
	if (!ok)
		return false;

	/* nothing was forgotten before it was known to be written */
	journal->must_checkpoint = false;
	journal->must_flush = false;
	journal->ndeliveries = 0;
	journal->nsettled = 0;
	journal->dirty_since = 0;
	journal->changed_since = 0;
	MemoryContextReset(journal->context);
	return true;
}

/* When the next checkpoint is due; PG_INT64_MAX if there is nothing to write. */
int64
relay_checkpoint_time(const Relay *relay)
{
	const RelayJournal *journal = &relay->journal;

	if (journal->dirty_since == 0 && journal->changed_since == 0)
		return PG_INT64_MAX;
	if (journal->dirty_since == 0)
		return Max(journal->changed_since + CHANGED_DELAY_MS, journal->retry_at);
	if (journal->nsettled + journal->ndeliveries >= CHECKPOINT_EVENTS)
		return journal->retry_at;
	return Max(journal->dirty_since + CHECKPOINT_DELAY_MS, journal->retry_at);
}
