/*-------------------------------------------------------------------------
 *
 * relay_checkpoint.c
 *		Writing down what became of events.
 *
 * Exceptions are collected in relay->deliveries and written together with
 * the position, in one transaction: the position may pass an event only with
 * the row that says why it was not published.  Checkpoints are frequent and
 * not flushed; what a crash undoes is sent again.  Only what is written about
 * the tries after a crash is flushed: it has to tell who caused the next one.
 *
 * When a checkpoint fails (the disk is full, somebody has locked the table),
 * everything stays in memory and is written by the next one.  Until one has
 * succeeded, the relay reads and sends nothing: what can't be written down
 * would be sent again and again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "guc.h"
#include "relay/relay.h"

/* A checkpoint is due so long after the first event was settled. */
#define CHECKPOINT_DELAY_MS	10

/* ... or after so many. */
#define CHECKPOINT_EVENTS	1000

/* The store is left alone for so long after an error. */
#define STORE_RETRY_MS		1000

/*
 * Take note of how a transaction of the store ended.  True if it did well.
 */
bool
relay_store_ok(Relay *relay, StoreResult result)
{
	switch (result)
	{
		case STORE_OK:
			relay->store_retry_at = 0;
			return true;
		case STORE_NO_EXTENSION:
			relay->extension_gone = true;
			return false;
		case STORE_FAILED:
			relay->store_retry_at = relay_clock() + STORE_RETRY_MS;
			relay->must_checkpoint = true;
			relay_note_error(relay, store_last_error());
			return false;
	}
	return false;
}

/* Have a row of outbox_delivery written; "last_error" is copied. */
void
relay_add_delivery(Relay *relay, const OutboxEvent *event,
				   DeliveryState state, int attempts, int crashes,
				   TimestampTz next_attempt_at, int last_status,
				   const char *last_error)
{
	Delivery   *delivery;

	if (relay->ndeliveries == relay->deliveries_size)
	{
		relay->deliveries_size = Max(64, relay->deliveries_size * 2);
		if (relay->deliveries)
			relay->deliveries = repalloc(relay->deliveries,
										 sizeof(Delivery) * relay->deliveries_size);
		else
			relay->deliveries = MemoryContextAlloc(relay->context,
												   sizeof(Delivery) * relay->deliveries_size);
	}
	delivery = &relay->deliveries[relay->ndeliveries++];
	delivery->id = event->msg.id;
	delivery->keyed = event->msg.key != NULL;
	delivery->state = state;
	delivery->attempts = attempts;
	delivery->crashes = crashes;
	delivery->next_attempt_at = next_attempt_at;
	delivery->last_status = last_status;
	delivery->last_error = last_error ?
		MemoryContextStrdup(relay->delivery_context, last_error) : NULL;
	if (next_attempt_at != 0)
		relay->next_due = Min(relay->next_due, next_attempt_at);
	if (relay->dirty_since == 0)
		relay->dirty_since = relay->now;
}

/*
 * One statement can't write a row twice, and of several states the last one
 * counts: drop the earlier ones.
 */
static void
drop_superseded(Relay *relay)
{
	HASHCTL		ctl;
	HTAB	   *seen;
	int			kept = relay->ndeliveries;

	if (relay->ndeliveries < 2)
		return;
	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(int64);
	ctl.entrysize = sizeof(int64);
	ctl.hcxt = CurrentMemoryContext;
	seen = hash_create("outbox deliveries", relay->ndeliveries, &ctl,
					   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	for (int i = relay->ndeliveries - 1; i >= 0; i--)
	{
		bool		found;

		hash_search(seen, &relay->deliveries[i].id, HASH_ENTER, &found);
		if (!found)
			relay->deliveries[--kept] = relay->deliveries[i];
	}
	hash_destroy(seen);
	memmove(relay->deliveries, relay->deliveries + kept,
			sizeof(Delivery) * (relay->ndeliveries - kept));
	relay->ndeliveries -= kept;
}

/*
 * Write everything down.  "durable": it is on disk on return; "clean": the
 * relay stops here.  False if that failed.
 */
bool
relay_checkpoint(Relay *relay, bool durable, bool clean)
{
	StoreCheckpoint checkpoint;

	memset(&checkpoint, 0, sizeof(checkpoint));
	drop_superseded(relay);
	checkpoint.deliveries = relay->deliveries;
	checkpoint.ndeliveries = relay->ndeliveries;
	checkpoint.durable = durable || relay->must_flush;
	checkpoint.write_position = true;
	queue_position(&relay->queue, &checkpoint.position);
	checkpoint.position.clean = clean;
	if (!relay_store_ok(relay, store_checkpoint(&checkpoint)))
		return false;

	relay->must_checkpoint = false;
	relay->must_flush = false;
	relay->ndeliveries = 0;
	relay->nsettled = 0;
	relay->dirty_since = 0;
	MemoryContextReset(relay->delivery_context);
	if (checkpoint.nunblocked > 0)
		relay->next_due = DT_NOBEGIN;
	return true;
}

/* When the next checkpoint is due; PG_INT64_MAX if there is nothing to write. */
int64
relay_checkpoint_time(Relay *relay)
{
	if (relay->dirty_since == 0)
		return PG_INT64_MAX;
	if (relay->nsettled + relay->ndeliveries >= CHECKPOINT_EVENTS)
		return relay->store_retry_at;
	return Max(relay->dirty_since + CHECKPOINT_DELAY_MS,
			   relay->store_retry_at);
}

bool
relay_checkpoint_is_due(Relay *relay)
{
	return relay_checkpoint_time(relay) <= relay->now;
}
