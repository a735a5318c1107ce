/*-------------------------------------------------------------------------
 *
 * store_window.c
 *		Reading new events: nothing is skipped, nothing is read twice.
 *
 * Transactions commit in another order than they take their ids, so that no
 * id says "everything before is known".  Two snapshots do: a window is the
 * set of events whose transaction is visible in "hi" and not in "lo".  One
 * window's hi is the next one's lo.
 *
 * Only the snapshots decide what is in a window; ids only give the order
 * inside it.  They are used to find its rows quickly:
 *
 * - Transactions from xmax(lo) on are a range of the index on (xid, id).  The
 *   smallest and the largest id in that range bound a walk along the primary
 *   key.  (Never a sequence value, nor an id seen elsewhere: a transaction
 *   may have taken its ids long before it commits.)
 * - Transactions that lo saw running, and that hi sees committed, are "late".
 *   Each is one probe of the same index, merged in by id: an old transaction
 *   that commits costs a probe, not a walk over all that came since.
 *
 * The visibility tests in the walk are functions on purpose, never operators
 * that an index could serve: the walk has to be along the primary key, in the
 * order of ids, however little the planner thinks of it.
 *
 * What the position has passed though it is not settled, is known by its ids.
 * That is read before the window that begins at the position.
 *
 * An event that has a row in outbox_delivery is not a new one.  If one of the
 * new ones cannot be read, store_salvage.c reads the others.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/xid8.h"

#include "store/event_columns.h"
#include "store/store_internal.h"

/* $1 lo, $2 hi; and whether somebody has asked for a replay by now */
static Statement find_late = {
	"SELECT array_agg(x.xid), EXISTS (SELECT 1 FROM @s@.outbox_request r"
	"  WHERE r.destination = @d@ AND r.action = 'replay')"
	" FROM pg_snapshot_xip($1) x(xid)"
	" WHERE pg_visible_in_snapshot(x.xid, $2)"
	" AND EXISTS (SELECT 1 FROM @s@.outbox_event e WHERE e.xid = x.xid"
	"  OFFSET 0)",
	2, {PG_SNAPSHOTOID, PG_SNAPSHOTOID}
};

/* OFFSET 0: one probe of the index, never a hash table of all there are */
#define NEW_EVENT \
	" NOT EXISTS (SELECT 1 FROM @s@.outbox_delivery d" \
	"  WHERE d.destination = @d@ AND d.id = e.id OFFSET 0)"

/* Mostly there is not a single exception, so that no event is looked up. */
#define IN_WALK \
	" e.id > $1 AND e.id <= $2" \
	" AND pg_visible_in_snapshot(e.xid, $4)" \
	" AND NOT pg_visible_in_snapshot(e.xid, $3)" \
	" AND (NOT EXISTS (SELECT 1 FROM @s@.outbox_delivery x" \
	"   WHERE x.destination = @d@ AND x.id > $1 AND x.id <= $2)" \
	"  OR" NEW_EVENT ")"

/* $1 after, $2 last, $3 lo, $4 hi, $5 limit */
static Statement read_walk = {
	"SELECT " EVENT_COLUMN_LIST STORE_NO_ROW
	" FROM @s@.outbox_event e"
	" WHERE" IN_WALK
	" ORDER BY e.id LIMIT $5",
	5, {INT8OID, INT8OID, PG_SNAPSHOTOID, PG_SNAPSHOTOID, INT8OID}
};

/* The same with $6 late transactions, $7 their events are read up to here */
static Statement read_merged = {
	"SELECT " EVENT_COLUMN_LIST STORE_NO_ROW
	" FROM (SELECT u.id FROM ("
	"   (SELECT e.id FROM @s@.outbox_event e"
	"    WHERE" IN_WALK " AND e.xid <> ALL ($6)"
	"    ORDER BY e.id LIMIT $5)"
	"   UNION ALL"
	"   SELECT l.id FROM unnest($6) t(xid),"
	"    LATERAL (SELECT e.id FROM @s@.outbox_event e"
	"     WHERE e.xid = t.xid AND e.id > $7 AND" NEW_EVENT
	"     ORDER BY e.id LIMIT $5) l) u"
	"  ORDER BY u.id LIMIT $5) w,"
	" LATERAL" EVENT_BY_ID("e.*", "w.id") " e"
	" ORDER BY e.id",
	7, {INT8OID, INT8OID, PG_SNAPSHOTOID, PG_SNAPSHOTOID, INT8OID,
	XID8ARRAYOID, INT8OID}
};

/* $1 ids; OFFSET 0: row by row, by the primary key */
static Statement read_open = {
	"SELECT " EVENT_COLUMN_LIST STORE_NO_ROW
	" FROM unnest($1) i(id),"
	" LATERAL (SELECT * FROM @s@.outbox_event x WHERE x.id = i.id OFFSET 0) e"
	" WHERE" NEW_EVENT
	" ORDER BY e.id",
	1, {INT8ARRAYOID}
};

static Statement load_position = {
	"SELECT p.lo, p.hi, p.last_id, p.clean, p.largest_read,"
	" ARRAY(SELECT o.id FROM unnest(p.open) o(id) WHERE o.id IS NOT NULL"
	"  ORDER BY o.id)" COUNTER_COLUMNS_READ
	" FROM @s@.outbox_progress p WHERE p.destination = @d@"
	" ORDER BY p.id DESC LIMIT 1",
	0
};

typedef struct LoadArgs
{
	MemoryContext context;
	StorePosition *position;
} LoadArgs;

/* A snapshot in this column of the first row. */
static StoreSnapshot
snapshot_result(int column)
{
	return (StoreSnapshot) DatumGetPointer(store_value(0, column));
}

static void
load_position_body(void *arg)
{
	LoadArgs   *args = arg;
	StorePosition *position = args->position;

	position->max_id = ids_largest();
	if (store_execute(&load_position, NULL, NULL) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("table \"outbox_progress\" is empty"),
				 errhint("Somebody deleted its rows; INSERT one with lo and hi '1:1:', last_id and largest_read 0, and every event kept is published again.")));
	MemoryContextSwitchTo(args->context);
	position->lo = store_copy_snapshot(snapshot_result(1));
	position->hi = store_copy_snapshot(snapshot_result(2));
	position->last_id = DatumGetInt64(store_value(0, 3));
	position->clean = DatumGetBool(store_value(0, 4));
	position->largest_read = DatumGetInt64(store_value(0, 5));
	position->open = store_ids_of_array(store_value(0, 6), &position->nopen);
	counters_from_result(&position->counters, 7);
}

/*
 * Where the last relay stopped; snapshots and ids, in their order, are in the
 * current memory context.
 */
StoreResult
store_load_position(StorePosition *position)
{
	LoadArgs	args = {CurrentMemoryContext, position};

	return store_transaction(load_position_body, &args);
}

/*
 * Open the window from window->lo to a snapshot taken now, or, if window->hi
 * is set (a position from the table), up to that.
 */
static void
open_window_now(StoreWindow *window, MemoryContext context)
{
	Datum		values[2];
	Datum		late;
	bool		no_late;
	MemoryContext old;

	/* a position from the table has a hi that is not to be passed yet */
	if (!window->hi)
	{
		Datum		hi = DirectFunctionCall1(pg_current_snapshot, (Datum) 0);

		old = MemoryContextSwitchTo(context);
		window->hi = store_copy_snapshot((StoreSnapshot) DatumGetPointer(hi));
		MemoryContextSwitchTo(old);
	}
	values[0] = PointerGetDatum(window->lo);
	values[1] = PointerGetDatum(window->hi);
	ids_find_range(window);
	store_execute(&find_late, values, NULL);
	late = store_result(0, 1, &no_late);
	window->replay = DatumGetBool(store_value(0, 2));
	old = MemoryContextSwitchTo(context);
	window->late = no_late ? NULL : DatumGetArrayTypePCopy(late);
	MemoryContextSwitchTo(old);
	window->exhausted = window->min_id > window->max_id && no_late;
	window->opened = true;
}

/*
 * Has no transaction begun since this snapshot, which saw none running?  Then
 * there is nothing new, and that is known without a transaction of ours: an
 * idle server stays idle, however many databases are polled.
 */
bool
store_nothing_since(StoreSnapshot snapshot)
{
	Datum		value = PointerGetDatum(snapshot);
	FullTransactionId xmin,
				xmax;

	xmin = DatumGetFullTransactionId(DirectFunctionCall1(pg_snapshot_xmin, value));
	xmax = DatumGetFullTransactionId(DirectFunctionCall1(pg_snapshot_xmax, value));
	return FullTransactionIdEquals(xmin, xmax) &&
		FullTransactionIdEquals(xmax, ReadNextFullTransactionId());
}

typedef struct ReadArgs
{
	MemoryContext context;		/* of the events */
	MemoryContext window_context;
	StoreWindow *window;
	int			limit;
	Size		max_bytes;
	StoreRowsAfter rows_after;
	void	   *arg;
	List	   *events;
	int			nseen;			/* these, and those of other destinations */
} ReadArgs;

/* What was read is used, once the transaction has committed. */
static void
prepare_events(ReadArgs *args)
{
	store_flush_commits(args->events);
	if (args->rows_after)
		store_mark_behind_rows(args->events, args->rows_after, args->arg);
}

/* Of what is open, events up to this id have been read. */
static void
pass_open(StoreWindow *window, int64 id)
{
	while (window->nopen > 0 && window->open[0] <= id)
	{
		window->open++;
		window->nopen--;
	}
}

/* The next events that the position has passed and that are open. */
static void
read_open_body(void *arg)
{
	ReadArgs   *args = arg;
	StoreWindow *window = args->window;
	int			n = Min(args->limit, window->nopen);
	Datum		ids = store_id_array(window->open, n);
	MemoryContext old = MemoryContextSwitchTo(args->context);
	DestReceiver *dest = store_new_event_receiver(&args->events,
												  args->max_bytes);

	MemoryContextSwitchTo(old);
	store_execute_into(&read_open, &ids, dest);
	args->nseen = store_event_receiver_nseen(dest);
	pass_open(window, store_event_receiver_stopped(dest) ?
			  store_event_receiver_last_id(dest) : window->open[n - 1]);
	prepare_events(args);
}

/* The same event by event. */
static void
salvage_open_body(void *arg)
{
	ReadArgs   *args = arg;
	StoreWindow *window = args->window;
	int			n = Min(args->limit, window->nopen);
	int64		last = window->open[n - 1];
	int64	   *ids = memcpy(palloc(sizeof(int64) * n), window->open,
							 sizeof(int64) * n);
	int			nnew = salvage_ids_without_row(ids, n);
	MemoryContext old = MemoryContextSwitchTo(args->context);
	int			done = salvage_new_events(ids, nnew, args->max_bytes,
										  &args->events);

	MemoryContextSwitchTo(old);
	args->nseen = nnew;
	pass_open(window, done < nnew ? ids[done - 1] : last);
	prepare_events(args);
}

static void
read_window_body(void *arg)
{
	ReadArgs   *args = arg;
	StoreWindow *window = args->window;
	MemoryContext old;
	DestReceiver *dest;
	Datum		values[7];

	if (!window->opened)
		open_window_now(window, args->window_context);
	old = MemoryContextSwitchTo(args->context);
	dest = store_new_event_receiver(&args->events, args->max_bytes);
	MemoryContextSwitchTo(old);
	if (window->exhausted)
		return;
	values[0] = Int64GetDatum(Max(window->cursor, window->min_id - 1));
	values[1] = Int64GetDatum(window->max_id);
	values[2] = PointerGetDatum(window->lo);
	values[3] = PointerGetDatum(window->hi);
	values[4] = Int64GetDatum(args->limit);
	values[5] = PointerGetDatum(window->late);	/* read_merged only */
	values[6] = Int64GetDatum(window->cursor);
	store_execute_into(window->late ? &read_merged : &read_walk, values, dest);
	args->nseen = store_event_receiver_nseen(dest);
	window->exhausted = args->nseen < args->limit &&
		!store_event_receiver_stopped(dest);
	if (args->nseen > 0)
		window->cursor = store_event_receiver_last_id(dest);
	prepare_events(args);
}

/*
 * The same event by event, whose ids are found without a look at the table: a
 * page of it may be what cannot be read.
 */
static void
salvage_window_body(void *arg)
{
	ReadArgs   *args = arg;
	StoreWindow *window = args->window;
	MemoryContext old;
	int64	   *ids;
	int			n;
	int			nnew;
	int			done;

	if (!window->opened)
		open_window_now(window, args->window_context);
	n = ids_of_window(window, args->limit, &ids);
	window->exhausted = n < args->limit;
	if (n == 0)
		return;
	window->cursor = ids[n - 1];
	args->nseen = nnew = salvage_ids_without_row(ids, n);
	old = MemoryContextSwitchTo(args->context);
	done = salvage_new_events(ids, nnew, args->max_bytes, &args->events);
	MemoryContextSwitchTo(old);
	if (done < nnew)
	{
		window->cursor = ids[done - 1];
		window->exhausted = false;
	}
	prepare_events(args);
}

/* The read failed: the window is as before, without what was set meanwhile. */
static void
restore_window(StoreWindow *window, const StoreWindow *before)
{
	if (window->hi && window->hi != before->hi)
		pfree(window->hi);
	if (window->late && window->late != before->late)
		pfree(window->late);
	*window = *before;
}

/*
 * The next events of the window, or as long as there are any of those that are
 * to be read first, at most "limit" and not many more than "max_bytes", in the
 * order of their ids; *events becomes the list of them, in the current memory
 * context.  With "rows_after", which is given "arg", those are marked whose key
 * has unsettled rows.  The first call opens the window; what it sets there is in
 * "window_context".  *npassed becomes the number of events that were passed because
 * they go to other destinations.  On failure the window is as before.
 */
StoreResult
store_read_window(StoreWindow *window, MemoryContext window_context,
				  int limit, Size max_bytes, StoreRowsAfter rows_after,
				  void *arg, List **events, int *npassed)
{
	StoreWindow before = *window;
	ReadArgs	args = {CurrentMemoryContext, window_context, window, limit,
	max_bytes, rows_after, arg, NIL, 0};
	bool		open = window->nopen > 0;
	StoreResult result = store_transaction(open ? read_open_body :
										   read_window_body, &args);

	if (store_failed_on_event(result))
	{
		restore_window(window, &before);
		list_free_deep(args.events);
		args.events = NIL;
		result = store_salvage(open ? salvage_open_body :
							   salvage_window_body, &args);
	}
	if (result != STORE_OK)
	{
		restore_window(window, &before);
		list_free_deep(args.events);
		return result;
	}
	*events = args.events;
	*npassed = Max(args.nseen - list_length(args.events), 0);
	return STORE_OK;
}
