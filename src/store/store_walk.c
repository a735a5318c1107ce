/*-------------------------------------------------------------------------
 *
 * store_walk.c
 *		Taking exceptions back: which rows are due, or wait.
 *
 * Rows are read by the time that they are due, by a walk over those that wait in
 * a topic, and by one over all there are when a relay starts.  Of a row with a
 * key, only that key is told, since others may be in front of it (store_rows.c).
 * None of this writes, but for scheduled rows whose time has come.
 *
 * The caller keeps cursors, so that no row is read again and again, and no dead
 * one is passed twice while somebody holds an old snapshot.  A scan that stops
 * because it has passed many dead ones says that there is more behind its cursor.
 *
 * Errors are trapped in store.c; the caller's cursors move when a transaction
 * has succeeded only.  If an event cannot be read, it is set aside, and the
 * others are read (store_salvage.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "utils/timestamp.h"

#include "store/row_scan.h"
#include "store/store_internal.h"

/* $1 ids */
static Statement make_pending = {
	"UPDATE @s@.outbox_delivery d SET state = 'pending',"
	" next_attempt_at = NULL, updated_at = clock_timestamp()"
	" WHERE d.destination = @d@ AND d.id = ANY ($1) AND d.state = 'scheduled'",
	1, {INT8ARRAYOID}
};

typedef struct RowsArgs
{
	MemoryContext context;		/* of the result */
	StoreTimeCursor *due;		/* of one reader */
	int64	   *walked;			/* of a walk */
	const char *topic;			/* it is one over a topic; or NULL */
	TimestampTz now;
	int			limit;
	int			max_events;
	StoreRows  *result;
} RowsArgs;

/* Take note of a row that is to be sent or whose key is to be looked into. */
static void
take_row(RowsArgs *args, const RowScan *rows, int64 *ids, int *n)
{
	MemoryContext old;

	if (!row_has_key(rows))
	{
		ids[(*n)++] = row_id(rows);
		return;
	}
	old = MemoryContextSwitchTo(args->context);
	args->result->keys = lappend(args->result->keys, row_key(rows));
	MemoryContextSwitchTo(old);
}

static void
read_events(RowsArgs *args, const int64 *ids, int n)
{
	MemoryContext old = MemoryContextSwitchTo(args->context);

	(void) store_read_by_id(ids, n, 0, &args->result->events);
	MemoryContextSwitchTo(old);
}

static void
read_due_body(void *arg)
{
	RowsArgs   *args = arg;
	StoreTimeCursor *cursor = args->due;
	int64	   *ids = palloc(sizeof(int64) * args->limit);
	int64	   *scheduled = palloc(sizeof(int64) * args->limit);
	int			n = 0;
	int			nscheduled = 0;
	int			nrows = 0;
	RowScan		rows;

	row_scan_begin(&rows, "outbox_delivery_due_idx", 2);
	row_scan_limit(&rows, args->limit);
	row_scan_due(&rows, cursor, args->now);
	while (nrows < args->limit && row_scan_next(&rows))
	{
		nrows++;
		if (row_state(&rows) == DELIVERY_SCHEDULED)
			scheduled[nscheduled++] = row_id(&rows);
		take_row(args, &rows, ids, &n);
	}
	if (rows.at_time != 0)
	{
		cursor->time = rows.at_time;
		cursor->id = rows.at_id;
	}
	row_scan_end(&rows);
	args->result->more = rows.stopped || nrows == args->limit;

	/* from now on it has its place in the order of its key */
	if (nscheduled > 0)
	{
		Datum		value = store_id_array(scheduled, nscheduled);

		store_execute(&make_pending, &value, NULL);
		CommandCounterIncrement();
	}
	read_events(args, ids, n);
}

/* Free a list of StoreKeys. */
void
store_free_keys(List *keys)
{
	ListCell   *lc;

	foreach(lc, keys)
	{
		StoreKey   *key = lfirst(lc);

		pfree(key->topic);
		pfree(key->key);
	}
	list_free_deep(keys);
}

/* Nothing was read. */
static void
forget_result(StoreRows *rows)
{
	list_free_deep(rows->events);
	store_free_keys(rows->keys);
	memset(rows, 0, sizeof(*rows));
}

/* Read rows; on failure, the cursors are as before. */
static StoreResult
read_rows(void (*body) (void *arg), RowsArgs *args)
{
	StoreTimeCursor due = {0, 0};
	int64		walked = 0;
	StoreResult result;

	if (args->due)
		due = *args->due;
	if (args->walked)
		walked = *args->walked;
	memset(args->result, 0, sizeof(*args->result));
	args->context = CurrentMemoryContext;
	for (bool salvage = false;; salvage = true)
	{
		result = salvage ? store_salvage(body, args) :
			store_transaction(body, args);
		if (result == STORE_OK)
			return result;
		forget_result(args->result);
		if (args->due)
			*args->due = due;
		if (args->walked)
			*args->walked = walked;
		if (salvage || !store_failed_on_event(result))
			return result;
	}
}

/*
 * At most "limit" of the rows that are due "now" and behind the cursor, which
 * moves behind them; the result is in the current memory context.
 */
StoreResult
store_read_due(StoreTimeCursor *cursor, TimestampTz now, int limit,
			   StoreRows *rows)
{
	RowsArgs	args = {.due = cursor,.now = now,.limit = limit,
	.result = rows};

	return read_rows(read_due_body, &args);
}

typedef struct NextDueArgs
{
	const StoreTimeCursor *cursor;
	TimestampTz due;
} NextDueArgs;

static void
next_due_body(void *arg)
{
	NextDueArgs *args = arg;
	RowScan		rows;

	row_scan_begin(&rows, "outbox_delivery_due_idx", 2);
	row_scan_due(&rows, args->cursor, DT_NOEND);
	if (row_scan_next(&rows) || rows.stopped)
		args->due = rows.at_time;
	row_scan_end(&rows);
}

/*
 * When the first row behind the cursor is due; infinity if there is none.  Behind
 * many dead ones it is a time before that, at which to look again.
 */
StoreResult
store_next_due(const StoreTimeCursor *cursor, TimestampTz *due)
{
	NextDueArgs args = {cursor, DT_NOEND};
	StoreResult result = store_transaction(next_due_body, &args);

	*due = args.due;
	return result;
}

/* Is this row of the walk to be sent, or its key to be looked into? */
static bool
is_unsettled(const RowScan *rows)
{
	switch (row_state(rows))
	{
		case DELIVERY_PENDING:
			return true;
		case DELIVERY_FAILED:	/* without a key: read when it is due */
		case DELIVERY_IN_PROGRESS:
			return row_has_key(rows);
		case DELIVERY_DEAD:
			return row_has_key(rows) && !store_skips_dead();
		default:
			return false;
	}
}

static void
walk_body(void *arg)
{
	RowsArgs   *args = arg;
	int64	   *ids = palloc(sizeof(int64) * args->max_events);
	int			n = 0;
	int			nrows = 0;
	RowScan		rows;

	if (args->topic)
	{
		row_scan_begin(&rows, "outbox_delivery_topic_idx", 2);
		row_scan_topic(&rows, args->topic, *args->walked);
	}
	else
	{
		row_scan_begin(&rows, "outbox_delivery_pkey", 1);
		row_scan_behind(&rows, *args->walked);
	}
	row_scan_limit(&rows, args->limit);
	args->result->more = true;
	while (nrows < args->limit && n < args->max_events)
	{
		if (!row_scan_next(&rows))
		{
			args->result->more = rows.stopped;
			break;
		}
		nrows++;
		if (is_unsettled(&rows))
			take_row(args, &rows, ids, &n);
	}
	*args->walked = Max(*args->walked, rows.at_id);
	row_scan_end(&rows);
	read_events(args, ids, n);
}

/*
 * Look at the next rows behind the id *cursor, which moves behind them: at most
 * "limit" of them, with at most "max_events" that have no key.  The result is in
 * the current memory context.
 */
StoreResult
store_walk_rows(int64 *cursor, int limit, int max_events, StoreRows *rows)
{
	RowsArgs	args = {.walked = cursor,.limit = limit,
	.max_events = max_events,.result = rows};

	return read_rows(walk_body, &args);
}

/* The same, of the rows of a topic that are pending only. */
StoreResult
store_walk_topic(const char *topic, int64 *cursor, int limit, int max_events,
				 StoreRows *rows)
{
	RowsArgs	args = {.walked = cursor,.topic = topic,.limit = limit,
	.max_events = max_events,.result = rows};

	return read_rows(walk_body, &args);
}
