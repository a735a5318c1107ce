/*-------------------------------------------------------------------------
 *
 * store_abandon_position.c
 *		A position passes what was given up.
 *
 * A destination that does not deliver has a position that does not move, by which
 * pruning goes, and behind which there may be much that goes elsewhere, and has no row.
 * So at the end of a pass (store_abandon.c) the position is moved behind what that has
 * found to be settled: all that was visible when its walk over events began, of
 * transactions before the first one of which something is left.  Only if that is more
 * than the window goes up to that is being read: then it includes all that the old
 * position covers.
 *
 * Errors: those of the statements, in a transaction of the store.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/datum.h"
#include "utils/fmgrprotos.h"
#include "utils/xid8.h"

#include "store/store_internal.h"

/* $1 destination; its position, and where in the index what is open begins */
static Statement read_position = {
	"SELECT p.lo, p.hi, p.last_id, coalesce(p.open, '{}'),"
	" least(pg_snapshot_xmin(p.lo), (SELECT x.xid FROM unnest(p.open) o(id),"
	"  LATERAL" EVENT_BY_ID("e.xid", "o.id") " x ORDER BY x.xid LIMIT 1)),"
	" pg_current_snapshot()"
	" FROM @s@.outbox_position p WHERE p.destination = $1",
	1, {INT4OID}
};

/*
 * $1 destination, $2 snapshot, $3 transaction, $4 id: a position behind what the snapshot
 * sees of those before this one, in which no larger id was met
 */
static Statement pass_abandoned = {
	"INSERT INTO @s@.outbox_progress"
	" (destination, lo, hi, last_id, largest_read, clean" COUNTER_COLUMNS ")"
	" SELECT $1, s.seen, s.seen, 0, greatest($4, p.largest_read),"
	"  coalesce(p.clean, true)" COUNTER_COLUMNS_READ
	" FROM (SELECT format('%s:%s:%s',"
	"   coalesce((array_agg(x.xid ORDER BY x.xid))[1], $3), $3,"
	"   string_agg(x.xid::text, ',' ORDER BY x.xid))::pg_snapshot AS seen"
	"  FROM pg_snapshot_xip($2) x(xid) WHERE x.xid < $3) s"
	" LEFT JOIN LATERAL (SELECT p.largest_read, p.clean" COUNTER_COLUMNS
	"  FROM @s@.outbox_progress p WHERE p.destination = $1"
	"  ORDER BY p.id DESC LIMIT 1) p ON true"
	" RETURNING lo, largest_read",
	4, {INT4OID, PG_SNAPSHOTOID, XID8OID, INT8OID}
};

/* A snapshot in this column of the last statement's row. */
static StoreSnapshot
snapshot_result(int column)
{
	return (StoreSnapshot) DatumGetPointer(store_value(0, column));
}

/*
 * What has been read for the destination: its relay's window, or, if that is NULL, since
 * there is none, *position, which is the one that a relay would begin with, in the current
 * memory context.  The first time, the walk over events begins there.  NULL: the
 * destination is gone.  In a transaction of the store.
 */
const StoreWindow *
abandon_find_window(StoreAbandon *abandon, const StoreWindow *window,
					StoreWindow *position)
{
	Datum		value = Int32GetDatum(abandon->destination);
	MemoryContext old;

	if (store_execute(&read_position, &value, NULL) == 0)
		return NULL;
	if (!window)
		window = position;
	memset(position, 0, sizeof(*position));
	position->lo = store_copy_snapshot(snapshot_result(1));
	position->hi = store_copy_snapshot(snapshot_result(2));
	position->cursor = DatumGetInt64(store_value(0, 3));
	position->open = store_ids_of_array(store_value(0, 4), &position->nopen);
	if (abandon->seen)
		return window;
	abandon->xid = U64FromFullTransactionId(DatumGetFullTransactionId(store_value(0, 5)));
	old = MemoryContextSwitchTo(abandon->context);
	abandon->seen = store_copy_snapshot(snapshot_result(6));
	abandon->hi = store_copy_snapshot(window->hi);
	MemoryContextSwitchTo(old);
	return window;
}

/*
 * Is what the pass has found to be settled more than what the window goes up to?  Not if
 * that is another one by now.
 */
static bool
is_behind(const StoreAbandon *abandon, const StoreWindow *window)
{
	Datum		hi = PointerGetDatum(window->hi);
	Datum		xmax = DirectFunctionCall1(pg_snapshot_xmax, hi);

	return datumIsEqual(hi, PointerGetDatum(abandon->hi), false, -1) &&
		(abandon->left == 0 ||
		 abandon->left >= U64FromFullTransactionId(DatumGetFullTransactionId(xmax)));
}

/*
 * The first transaction that the position is not to pass: of one that began since,
 * nothing is known.
 */
static Datum
first_left(const StoreAbandon *abandon)
{
	Datum		xmax = DirectFunctionCall1(pg_snapshot_xmax,
										   PointerGetDatum(abandon->seen));
	uint64		next = U64FromFullTransactionId(DatumGetFullTransactionId(xmax));

	if (abandon->left != 0)
		next = Min(next, abandon->left);
	return FullTransactionIdGetDatum(FullTransactionIdFromU64(next));
}

typedef struct PassArgs
{
	MemoryContext context;		/* of the result */
	StoreAbandon *abandon;
	const StoreWindow *window;
	StorePosition *position;
	bool	   *moved;
} PassArgs;

static void
pass_body(void *arg)
{
	PassArgs   *args = arg;
	StoreAbandon *abandon = args->abandon;
	StoreWindow position;
	const StoreWindow *window;
	Datum		values[4];
	MemoryContext old;

	*args->moved = false;
	if (!abandon->unread ||
		(!args->window && !store_has_no_relay(abandon->destination)))
		return;
	window = abandon_find_window(abandon, args->window, &position);
	if (!window || !is_behind(abandon, window))
		return;
	values[0] = Int32GetDatum(abandon->destination);
	values[1] = PointerGetDatum(abandon->seen);
	values[2] = first_left(abandon);
	values[3] = Int64GetDatum(abandon->largest);
	store_execute(&pass_abandoned, values, NULL);
	*args->moved = true;
	if (!args->position)
		return;
	old = MemoryContextSwitchTo(args->context);
	args->position->lo = store_copy_snapshot(snapshot_result(1));
	args->position->largest_read = DatumGetInt64(store_value(0, 2));
	MemoryContextSwitchTo(old);
	args->position->hi = args->position->lo;
}

/*
 * At the end of a pass, move the position behind what it has found to be settled.  *moved
 * tells whether there was something to be passed, and then *position where that is, in the
 * current memory context.  A relay whose destination it is has to go on from there: so it
 * must have no event in memory, and have read nothing since the pass began.  Without a
 * relay, "window" and "position" are NULL.
 */
StoreResult
store_pass_abandoned(StoreAbandon *abandon, const StoreWindow *window,
					 StorePosition *position, bool *moved)
{
	PassArgs	args = {CurrentMemoryContext, abandon, window, position, moved};
	StoreResult result;

	if (position)
		memset(position, 0, sizeof(*position));
	result = store_transaction(pass_body, &args);
	if (result != STORE_OK)
		*moved = false;
	return result;
}
