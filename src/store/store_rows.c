/*-------------------------------------------------------------------------
 *
 * store_rows.c
 *		Taking exceptions back: which rows of outbox_delivery may be sent now.
 *
 * Rows are read in four ways: by the time that they are due, key by key, by a
 * walk over those that wait in a topic, and by one over all there are when a
 * relay starts.  None of them writes, but for scheduled rows whose time has
 * come.  The caller keeps cursors, so that
 * no row is read again and again, and no dead one is passed twice while
 * somebody holds an old snapshot.
 *
 * What is read is bounded by what is asked for, whatever is in the table and
 * whenever a plan was made, because there is no plan: these are index scans of
 * ours.  (The planner, asked for the first row of a key, was seen to filter
 * the primary key of a table that was empty when it was last analysed.)
 *
 * Order by key, of a topic or (outbox.key_scope) of all: there are indexes for
 * either.  Of a key's unsettled rows only the first may be sent, and those
 * directly behind it one after the other.  A failed row whose time has not come
 * ends that, and so does a dead one if those behind it shall wait.
 *
 * Errors are trapped in store.c; the caller's cursors move when a transaction
 * has succeeded only.
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
	" WHERE d.id = ANY ($1) AND d.state = 'scheduled'",
	1, {INT8ARRAYOID}
};

/* The first dead row of a key behind an id; PG_INT64_MAX if there is none. */
static int64
first_dead(const StoreKey *key, int64 after)
{
	RowScan		rows;
	int64		id = PG_INT64_MAX;

	row_scan_begin_key(&rows, KEY_ROWS_DEAD, !key->topic);
	row_scan_key(&rows, key->topic, key->key, after);
	if (row_scan_next(&rows))
		id = row_id(&rows);
	row_scan_end(&rows);
	return id;
}

typedef struct KeyArgs
{
	MemoryContext context;		/* of the events */
	const StoreKey *key;
	int64		after;
	const StoreWindow *window;
	TimestampTz now;
	int			limit;
	Size		max_bytes;
	StoreKeyRows *result;
} KeyArgs;

/* The ids of the rows that may be sent, and what is behind them. */
static int
find_rows_of_key(const KeyArgs *args, int64 *ids, StoreKeyRest *rest)
{
	RowScan		rows;
	int64		dead = store_skips_dead() ? PG_INT64_MAX :
	first_dead(args->key, args->after);
	int			n = 0;

	row_scan_begin_key(&rows, KEY_ROWS_UNSETTLED, !args->key->topic);
	row_scan_key(&rows, args->key->topic, args->key->key, args->after);
	*rest = KEY_MORE;
	while (n < args->limit)
	{
		if (!row_scan_next(&rows))
		{
			*rest = dead == PG_INT64_MAX ? KEY_END : KEY_WAITS;
			break;
		}
		if (row_id(&rows) > dead ||
			(row_state(&rows) == DELIVERY_FAILED && row_due(&rows) > args->now))
		{
			*rest = KEY_WAITS;
			break;
		}
		ids[n++] = row_id(&rows);
	}
	row_scan_end(&rows);
	return n;
}

/*
 * Rows of a relay before this one may be of events that this one has not come
 * to.  What has no row and comes in front of such an event is known to nobody
 * before it is read: the row is left until then, and those behind it.
 */
static void
leave_unread(const KeyArgs *args)
{
	StoreKeyRows *result = args->result;
	int64		last = args->after;
	int			kept = 0;
	ListCell   *lc;

	foreach(lc, result->events)
	{
		OutboxEvent *event = lfirst(lc);

		if (result->unread == 0 &&
			!store_has_read(args->window, event->xid, event->msg.id))
			result->unread = event->msg.id;
		if (result->unread != 0)
			pfree(event);
		else
		{
			last = event->msg.id;
			kept++;
		}
	}
	if (result->unread == 0)
		return;
	result->events = list_truncate(result->events, kept);
	result->last = last;
	result->rest = KEY_MORE;
}

static void
read_key_body(void *arg)
{
	KeyArgs    *args = arg;
	StoreKeyRows *result = args->result;
	int64	   *ids = palloc(sizeof(int64) * args->limit);
	int			n = find_rows_of_key(args, ids, &result->rest);
	MemoryContext old = MemoryContextSwitchTo(args->context);
	bool		stopped = store_read_by_id(ids, n, args->max_bytes,
										   &result->events);

	MemoryContextSwitchTo(old);

	/*
	 * A row whose event is not there is passed over: it has just been
	 * deleted, or a dump has not brought it yet.  We hear of it when that is
	 * done.
	 */
	result->last = n > 0 ? ids[n - 1] : args->after;
	if (!stopped && list_length(result->events) < n && result->rest == KEY_END)
		result->rest = KEY_WAITS;
	if (stopped)
	{
		result->last = ((OutboxEvent *) llast(result->events))->msg.id;
		result->rest = KEY_MORE;
	}
	leave_unread(args);
}

/*
 * The rows of a key, in its topic or with topic NULL in all, that may be sent
 * now, behind "after" and of events that were read in "window", the last one, or
 * before it; at most "limit" and not many more than "max_bytes", in the order of
 * their ids, in the current memory context.
 */
StoreResult
store_read_key(const StoreKey *key, int64 after, const StoreWindow *window,
			   TimestampTz now, int limit, Size max_bytes, StoreKeyRows *rows)
{
	KeyArgs		args = {CurrentMemoryContext, key, after, window, now, limit,
	max_bytes, rows};
	StoreResult result;

	memset(rows, 0, sizeof(*rows));
	result = store_transaction(read_key_body, &args);
	if (result != STORE_OK)
		list_free_deep(rows->events);
	return result;
}

/*
 * Mark the events, new ones, whose key has unsettled rows that they have to
 * wait behind.  In a transaction of the store.
 */
void
store_mark_behind_rows(List *events)
{
	RowScan		unsettled;
	RowScan		dead;
	bool		all_topics = store_orders_all_topics();
	ListCell   *lc;

	row_scan_begin_key(&unsettled, KEY_ROWS_UNSETTLED, all_topics);
	row_scan_begin_key(&dead, KEY_ROWS_DEAD, all_topics);
	foreach(lc, events)
	{
		OutboxEvent *event = lfirst(lc);
		const char *topic = all_topics ? NULL : event->msg.topic;
		const char *key = event->msg.key;

		if (!key)
			continue;
		row_scan_key(&unsettled, topic, key, 0);
		event->behind_rows = row_scan_next(&unsettled);
		if (event->behind_rows || store_skips_dead())
			continue;
		row_scan_key(&dead, topic, key, 0);
		event->behind_rows = row_scan_next(&dead);
	}
	row_scan_end(&dead);
	row_scan_end(&unsettled);
}

static bool
is_behind(const RowScan *rows, const StoreDueCursor *cursor)
{
	return row_due(rows) > cursor->due ||
		(row_due(rows) == cursor->due && row_id(rows) > cursor->id);
}

typedef struct RowsArgs
{
	MemoryContext context;		/* of the result */
	StoreDueCursor *due;		/* of one reader */
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
	StoreDueCursor *cursor = args->due;
	int64	   *ids = palloc(sizeof(int64) * args->limit);
	int64	   *scheduled = palloc(sizeof(int64) * args->limit);
	int			n = 0;
	int			nscheduled = 0;
	int			nrows = 0;
	RowScan		rows;

	row_scan_begin(&rows, "outbox_delivery_due_idx", 2);
	row_scan_due(&rows, cursor, args->now);
	while (nrows < args->limit && row_scan_next(&rows))
	{
		if (!is_behind(&rows, cursor))
			continue;
		nrows++;
		cursor->due = row_due(&rows);
		cursor->id = row_id(&rows);
		if (row_state(&rows) == DELIVERY_SCHEDULED)
			scheduled[nscheduled++] = row_id(&rows);
		take_row(args, &rows, ids, &n);
	}
	row_scan_end(&rows);
	args->result->more = nrows == args->limit;

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

static StoreResult
read_rows(void (*body) (void *arg), RowsArgs *args)
{
	StoreResult result;

	memset(args->result, 0, sizeof(*args->result));
	args->context = CurrentMemoryContext;
	result = store_transaction(body, args);
	if (result != STORE_OK)
	{
		list_free_deep(args->result->events);
		store_free_keys(args->result->keys);
	}
	return result;
}

/*
 * At most "limit" of the rows that are due "now" and behind the cursor, which
 * moves behind them; the result is in the current memory context.
 */
StoreResult
store_read_due(StoreDueCursor *cursor, TimestampTz now, int limit,
			   StoreRows *rows)
{
	StoreDueCursor before = *cursor;
	RowsArgs	args = {.due = cursor,.now = now,.limit = limit,
	.result = rows};
	StoreResult result = read_rows(read_due_body, &args);

	if (result != STORE_OK)
		*cursor = before;
	return result;
}

typedef struct NextDueArgs
{
	const StoreDueCursor *cursor;
	TimestampTz due;
} NextDueArgs;

static void
next_due_body(void *arg)
{
	NextDueArgs *args = arg;
	RowScan		rows;

	row_scan_begin(&rows, "outbox_delivery_due_idx", 2);
	row_scan_due(&rows, args->cursor, DT_NOEND);
	while (row_scan_next(&rows))
	{
		if (!is_behind(&rows, args->cursor))
			continue;
		args->due = row_due(&rows);
		break;
	}
	row_scan_end(&rows);
}

/* When the first row behind the cursor is due; infinity if there is none. */
StoreResult
store_next_due(const StoreDueCursor *cursor, TimestampTz *due)
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
	args->result->more = true;
	while (nrows < args->limit && n < args->max_events)
	{
		if (!row_scan_next(&rows))
		{
			args->result->more = false;
			break;
		}
		nrows++;
		*args->walked = row_id(&rows);
		if (is_unsettled(&rows))
			take_row(args, &rows, ids, &n);
	}
	row_scan_end(&rows);
	read_events(args, ids, n);
}

static StoreResult
walk_rows(int64 *cursor, RowsArgs *args)
{
	int64		before = *cursor;
	StoreResult result;

	args->walked = cursor;
	result = read_rows(walk_body, args);
	if (result != STORE_OK)
		*cursor = before;
	return result;
}

/*
 * Look at the next rows behind the id *cursor, which moves behind them: at most
 * "limit" of them, with at most "max_events" that have no key.  The result is in
 * the current memory context.
 */
StoreResult
store_walk_rows(int64 *cursor, int limit, int max_events, StoreRows *rows)
{
	RowsArgs	args = {.limit = limit,.max_events = max_events,
	.result = rows};

	return walk_rows(cursor, &args);
}

/* The same, of the rows of a topic that are pending only. */
StoreResult
store_walk_topic(const char *topic, int64 *cursor, int limit, int max_events,
				 StoreRows *rows)
{
	RowsArgs	args = {.topic = topic,.limit = limit,
	.max_events = max_events,.result = rows};

	return walk_rows(cursor, &args);
}
