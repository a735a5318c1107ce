/*-------------------------------------------------------------------------
 *
 * store_abandon.c
 *		Giving up what a destination has not delivered for too long.
 *
 * What is older than outbox.abandon_after becomes "expired" for the destination.  A
 * pass looks at its rows of outbox_delivery, in the order of ids, and then at what is
 * behind its position and has no row, along the index on (xid, id); in batches, each a
 * short transaction.  Ids and transactions are roughly in the order of age: so either
 * walk ends at a batch that has nothing old in it, and what is old behind that comes to
 * its turn when this has.  Dead events are left alone, as they are for people to see
 * to, and what is in flight counts by its answer.
 *
 * The destination is the relay's own, or one that has no relay.  Of the first, the relay
 * knows where in memory an event is, and what has been read.  The other one has nothing
 * but its tables, where what has expired is counted as well; it is kept without a relay
 * by a lock for each transaction.
 *
 * Then the position is moved behind what the pass has found to be settled
 * (store_abandon_position.c).
 *
 * The horizon of pruning is kept meanwhile, so that no event goes while it gets a row.
 *
 * Where an event cannot be read, the batch is made event by event (store_salvage.c).  Of a
 * destination without a relay, such a one is left to its next relay.
 *
 * Errors: trapped by store_transaction(); the pass is then where it was before.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"

#include "store/store_request.h"

/* $1 destination, $2 how many: its newest position counts them */
static Statement count_expired = {
	"UPDATE @s@.outbox_progress p SET expired = p.expired + $2"
	" WHERE p.destination = $1 AND p.id = (SELECT n.id"
	"  FROM @s@.outbox_progress n WHERE n.destination = $1"
	"  ORDER BY n.id DESC LIMIT 1)",
	2, {INT4OID, INT8OID}
};

/* Count what has expired for a destination that has no relay to do so. */
static void
count_without_relay(const AbandonArgs *args)
{
	Datum		values[2];

	values[0] = Int32GetDatum(args->abandon->destination);
	values[1] = Int64GetDatum(*args->nexpired);
	store_execute(&count_expired, values, NULL);
}

/* One batch; at the end of a walk, the next one is due. */
static void
abandon_body(void *arg)
{
	AbandonArgs *args = arg;
	StoreAbandon *abandon = args->abandon;

	*args->more = false;
	if (!args->window && !store_has_no_relay(abandon->destination))
		return;
	store_keep_horizon();
	if (!abandon->rows_done)
	{
		abandon->rows_done = !abandon_rows(args);
		*args->more = true;
	}
	else
		*args->more = abandon_ahead(args);
	if (!args->window && *args->nexpired > 0)
		count_without_relay(args);
}

static void
free_snapshots(StoreAbandon *abandon)
{
	if (abandon->seen)
		pfree(abandon->seen);
	if (abandon->hi)
		pfree(abandon->hi);
	abandon->seen = NULL;
	abandon->hi = NULL;
}

/*
 * Begin a pass for a destination, whose events of this age are to expire.  What is said of
 * them, where they are, and the context of *abandon are for the caller to set.
 */
void
store_begin_abandon(StoreAbandon *abandon, int destination, TimestampTz until)
{
	free_snapshots(abandon);
	abandon->destination = destination;
	abandon->until = until;
	abandon->rows_done = false;
	abandon->row = 0;
	abandon->xid = 0;
	abandon->id = 0;
	abandon->left = 0;
	abandon->largest = 0;
	abandon->unread = false;
}

/* The transaction of a step has failed: nothing of it has happened. */
static void
undo_step(AbandonArgs *args, const StoreAbandon *before)
{
	if (args->abandon->seen != before->seen)
		free_snapshots(args->abandon);
	*args->abandon = *before;
	*args->served = NIL;
	*args->nexpired = 0;
	*args->more = false;
}

/*
 * A batch of a pass: at most "limit" rows or events of abandon->destination that were
 * published, were due and were sent again at abandon->until or before.  "window" is what
 * its relay has read, which is this one; NULL: it has none.  *served becomes a list of
 * StoreServed *, in the current memory context, *nexpired the number of those that have
 * expired, and *more tells whether there is more to be done.
 */
StoreResult
store_abandon_step(StoreAbandon *abandon, const StoreWindow *window, int limit,
				   List **served, int64 *nexpired, bool *more)
{
	StoreAbandon before = *abandon;
	AbandonArgs args = {.abandon = abandon,.window = window,.limit = limit,
		.context = CurrentMemoryContext,.served = served,.nexpired = nexpired,
	.more = more};
	StoreResult result;

	*served = NIL;
	*nexpired = 0;
	result = store_transaction(abandon_body, &args);
	if (result != STORE_OK)
		undo_step(&args, &before);
	if (store_failed_on_event(result))
	{
		result = store_salvage(abandon_body, &args);
		if (result != STORE_OK)
			undo_step(&args, &before);
	}
	return result;
}
