/*-------------------------------------------------------------------------
 *
 * store_abandon_rows.c
 *		Giving up events that have rows in outbox_delivery.
 *
 * The walk over a destination's rows, as store_abandon.c describes it, and what both
 * walks do to rows.
 *
 * In a transaction of the store.
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

/* Where is the event, as far as the relay knows? */
StorePlace
abandon_place_of(const AbandonArgs *args, int64 id)
{
	const StoreAbandon *abandon = args->abandon;

	return args->window ? abandon->place(id, abandon->arg) : PLACE_TABLE;
}

/*
 * Tell the relay of a row that the last statement has returned: id, topic and key.
 */
void
abandon_add_served(AbandonArgs *args, int row, bool gone)
{
	MemoryContext old = MemoryContextSwitchTo(args->context);

	*args->served = lappend(*args->served, store_make_served(row, gone));
	MemoryContextSwitchTo(old);
}

/* The parameters that both statements have that write rows. */
uint64
abandon_write_rows(AbandonArgs *args, Statement *statement, const int64 *ids, int n)
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

static void
expire_one_row(void *arg)
{
	OneAbandoned *one = arg;

	if (abandon_write_rows(one->args, &expire_rows, &one->id, 1) == 0)
		return;
	abandon_add_served(one->args, 0, true);
	(*one->args->nexpired)++;
}

/*
 * The same as for all of them together, but for those that cannot be read.  They are
 * dead, unless they are in memory, or another destination's, whose relay will see.
 */
static void
expire_rows_one_by_one(AbandonArgs *args, const int64 *ids, int n)
{
	for (int i = 0; i < n; i++)
	{
		OneAbandoned one = {args, NULL, ids[i]};
		char	   *error = store_try(expire_one_row, &one, salvage_blames_event);

		if (error && args->window && abandon_place_of(args, ids[i]) == PLACE_TABLE)
			salvage_set_aside(ids[i], false, error);
	}
}

/* A batch of rows; false if there is nothing old behind it. */
bool
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
			abandon_place_of(args, row_id(&rows)) != PLACE_IN_FLIGHT)
			ids[n++] = row_id(&rows);
	}
	abandon->row = Max(abandon->row, rows.at_id);
	row_scan_end(&rows);
	if (n > 0 && salvage_runs())
		expire_rows_one_by_one(args, ids, n);
	else if (n > 0)
	{
		int			nexpired = (int) abandon_write_rows(args, &expire_rows, ids, n);

		for (int i = 0; i < nexpired; i++)
			abandon_add_served(args, i, true);
		*args->nexpired += nexpired;
		if (nexpired == 0)
			at_end |= !any_is_old(args, ids, n);
	}
	return !at_end;
}
