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
 * Errors: trapped by store_transaction(); the pass is then where it was before.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

#include "store/row_scan.h"
#include "store/store_request.h"

/* $1 destination, $2 ids, $3 what is as old as this, $4 why */
static Statement expire_rows = {
	"UPDATE @s@.outbox_delivery d SET state = 'expired', next_attempt_at = NULL,"
	" last_error = $4 || coalesce(': ' || d.last_error, ''),"
	" updated_at = clock_timestamp()"
	" WHERE d.destination = $1 AND d.id = ANY ($2)"
	" AND d.state IN ('scheduled', 'pending', 'in_progress', 'failed')"
	" AND" EVENT_BY_ID("greatest(e.created_at, e.deliver_after, d.renewed_at)",
					   "d.id") " <= $3"
	" RETURNING d.id, d.topic, d.key",
	4, {INT4OID, INT8ARRAYOID, TIMESTAMPTZOID, TEXTOID}
};

/* $1 ids, $2 a time */
static Statement find_old = {
	"SELECT 1 FROM unnest($1) i(id),"
	" LATERAL" EVENT_BY_ID("e.created_at", "i.id") " e"
	" WHERE e.created_at <= $2 LIMIT 1",
	2, {INT8ARRAYOID, TIMESTAMPTZOID}
};

/*
 * $1 destination, $2 to $5 as READ has them, $6, $7 walked up to here, $8 limit, $9
 * what is as old as this; of each event, has it been read, is it old, only scheduled
 * so long ago, and may it be without a row although the destination takes it?
 */
static Statement list_ahead = {
	"SELECT e.xid, e.id, " READ ", e.created_at <= $9,"
	" coalesce(e.deliver_after > $9, false),"
	" CASE WHEN NOT" HAS_NO_ROW("e.id", "ARRAY[$1]") " THEN false"
	"  WHEN e.created_at > $9 THEN true"
	"  ELSE @s@.outbox_takes($1, e.xid, e.topic) END"
	" FROM @s@.outbox_event e WHERE (e.xid, e.id) > ($6, $7)"
	" ORDER BY e.xid, e.id LIMIT $8",
	9, {INT4OID, PG_SNAPSHOTOID, PG_SNAPSHOTOID, INT8OID, INT8ARRAYOID,
	XID8OID, INT8OID, INT8OID, TIMESTAMPTZOID}
};

/* $1 destination, $2 ids, $3 what is as old as this, $4 why */
static Statement make_rows = {
	"INSERT INTO @s@.outbox_delivery AS d (destination, id, topic, key, state,"
	" next_attempt_at, last_error)"
	" SELECT $1, e.id, e.topic, e.key,"
	"  CASE WHEN e.deliver_after > $3 THEN 'scheduled' ELSE 'expired' END,"
	"  CASE WHEN e.deliver_after > $3 THEN e.deliver_after END,"
	"  CASE WHEN e.deliver_after > $3 THEN NULL ELSE $4 END"
	" FROM unnest($2) i(id),"
	" LATERAL (SELECT * FROM @s@.outbox_event x WHERE x.id = i.id OFFSET 0) e"
	" ON CONFLICT (destination, id) DO NOTHING"
	" RETURNING d.id, d.topic, d.key, d.state",
	4, {INT4OID, INT8ARRAYOID, TIMESTAMPTZOID, TEXTOID}
};

/* $1 destination, $2 how many: its newest position counts them */
static Statement count_expired = {
	"UPDATE @s@.outbox_progress p SET expired = p.expired + $2"
	" WHERE p.destination = $1 AND p.id = (SELECT n.id"
	"  FROM @s@.outbox_progress n WHERE n.destination = $1"
	"  ORDER BY n.id DESC LIMIT 1)",
	2, {INT4OID, INT8OID}
};

typedef struct AbandonArgs
{
	StoreAbandon *abandon;
	const StoreWindow *window;	/* what has been read; NULL: there is no relay */
	int			limit;
	MemoryContext context;		/* of the results */
	List	  **served;
	int64	   *nexpired;
	bool	   *more;
} AbandonArgs;

/* Where is the event, as far as the relay knows? */
static StorePlace
place_of(const AbandonArgs *args, int64 id)
{
	const StoreAbandon *abandon = args->abandon;

	return args->window ? abandon->place(id, abandon->arg) : PLACE_TABLE;
}

/*
 * Tell the relay of a row that the last statement has returned: id, topic and key.
 */
static void
add_served(AbandonArgs *args, int row, bool gone)
{
	MemoryContext old = MemoryContextSwitchTo(args->context);

	*args->served = lappend(*args->served, store_make_served(row, gone));
	MemoryContextSwitchTo(old);
}

/* The parameters that both statements have that write rows. */
static uint64
write_rows(AbandonArgs *args, Statement *statement, const int64 *ids, int n)
{
	const StoreAbandon *abandon = args->abandon;
	Datum		values[4];

	values[0] = Int32GetDatum(abandon->destination);
	values[1] = store_id_array(ids, n);
	values[2] = TimestampTzGetDatum(abandon->until);
	values[3] = CStringGetTextDatum(abandon->reason);
	return store_execute(statement, values, NULL);
}

static bool
is_unsettled(DeliveryState state)
{
	return state == DELIVERY_SCHEDULED || state == DELIVERY_PENDING ||
		state == DELIVERY_IN_PROGRESS || state == DELIVERY_FAILED;
}

/* Is one of these events old, though it was due or was sent again later? */
static bool
any_is_old(const AbandonArgs *args, const int64 *ids, int n)
{
	Datum		values[2];

	values[0] = store_id_array(ids, n);
	values[1] = TimestampTzGetDatum(args->abandon->until);
	return store_execute(&find_old, values, NULL) > 0;
}

/* A batch of rows; false if there is nothing old behind it. */
static bool
abandon_rows(AbandonArgs *args)
{
	StoreAbandon *abandon = args->abandon;
	int64	   *ids = palloc(sizeof(int64) * args->limit);
	int			nrows = 0;
	int			n = 0;
	bool		at_end = false;
	RowScan		rows;

	row_scan_begin(&rows, "outbox_delivery_pkey", 1);
	rows.destination = abandon->destination;
	row_scan_behind(&rows, abandon->row);
	row_scan_limit(&rows, args->limit);
	while (nrows < args->limit)
	{
		if (!row_scan_next(&rows))
		{
			at_end = !rows.stopped;
			break;
		}
		nrows++;
		if (is_unsettled(row_state(&rows)) &&
			place_of(args, row_id(&rows)) != PLACE_IN_FLIGHT)
			ids[n++] = row_id(&rows);
	}
	abandon->row = Max(abandon->row, rows.at_id);
	row_scan_end(&rows);
	if (n > 0)
	{
		int			nexpired = (int) write_rows(args, &expire_rows, ids, n);

		for (int i = 0; i < nexpired; i++)
			add_served(args, i, true);
		*args->nexpired += nexpired;
		if (nexpired == 0)
			at_end |= !any_is_old(args, ids, n);
	}
	return !at_end;
}

/* Rows for these events, of which the relay hears what it has to. */
static void
make_rows_now(AbandonArgs *args, const int64 *ids, int n)
{
	int			nrows = (int) write_rows(args, &make_rows, ids, n);

	for (int i = 0; i < nrows; i++)
	{
		int64		id = DatumGetInt64(store_value(i, 1));
		bool		expired = store_state(store_value(i, 4)) == DELIVERY_EXPIRED;

		if (expired)
			(*args->nexpired)++;
		if (!expired || place_of(args, id) != PLACE_TABLE)
			add_served(args, i, expired);
	}
}

/*
 * What is to be done with the event in this row of list_ahead?  True: it gets a row.
 * *old tells whether it is.
 */
static bool
is_abandoned(AbandonArgs *args, int row, bool *old)
{
	StoreAbandon *abandon = args->abandon;
	bool		read = DatumGetBool(store_value(row, 3));
	bool		scheduled = DatumGetBool(store_value(row, 5));
	bool		wanted = DatumGetBool(store_value(row, 6));
	StorePlace	place = place_of(args, abandon->id);
	bool		result;

	*old = DatumGetBool(store_value(row, 4));

	/* it has a row, goes elsewhere, or was published */
	if (!wanted || (read && place == PLACE_TABLE))
		result = false;

	/* one that is not due yet gets the row that the reader would give it */
	else if (*old && place != PLACE_IN_FLIGHT &&
			 !(scheduled && place == PLACE_MEMORY))
		result = true;
	else
	{
		if (abandon->left == 0)
			abandon->left = abandon->xid;
		return false;
	}
	abandon->unread |= !read;
	return result;
}

/*
 * A batch of the events behind the position that have no row; false if there is
 * nothing old behind it.
 */
static bool
abandon_ahead(AbandonArgs *args)
{
	StoreAbandon *abandon = args->abandon;
	int64	   *ids = palloc(sizeof(int64) * args->limit);
	StoreWindow position;
	const StoreWindow *window = abandon_find_window(abandon, args->window, &position);
	Datum		values[9];
	bool		any_old = false;
	int			nlisted;
	int			n = 0;

	if (!window)
		return false;
	values[0] = Int32GetDatum(abandon->destination);
	store_window_to_values(window, values);
	values[5] = FullTransactionIdGetDatum(FullTransactionIdFromU64(abandon->xid));
	values[6] = Int64GetDatum(abandon->id);
	values[7] = Int64GetDatum(args->limit);
	values[8] = TimestampTzGetDatum(abandon->until);
	nlisted = (int) store_execute(&list_ahead, values, NULL);
	for (int i = 0; i < nlisted; i++)
	{
		bool		old;

		abandon->xid = U64FromFullTransactionId(DatumGetFullTransactionId(store_value(i, 1)));
		abandon->id = DatumGetInt64(store_value(i, 2));
		abandon->largest = Max(abandon->largest, abandon->id);
		if (is_abandoned(args, i, &old))
			ids[n++] = abandon->id;
		any_old |= old;
	}
	if (n > 0)
		make_rows_now(args, ids, n);
	return any_old && nlisted == args->limit;
}

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
	{
		if (abandon->seen != before.seen)
			free_snapshots(abandon);
		*abandon = before;
		*served = NIL;
		*nexpired = 0;
		*more = false;
	}
	return result;
}
