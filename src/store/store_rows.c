/*-------------------------------------------------------------------------
 *
 * store_rows.c
 *		Taking exceptions back: which rows of a key may be sent now.
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
 * Nothing is written here.  The caller keeps a cursor for each key.  A scan that
 * stops because it has passed many entries without rows says that there is more,
 * and a cursor behind them.
 *
 * Errors are trapped in store.c.  If an event cannot be read, it is set aside,
 * and the others are read (store_salvage.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "store/row_scan.h"
#include "store/store_internal.h"

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

/* Where the rows of a key end that are known not to be behind a dead one. */
typedef struct KeyEnd
{
	int64		id;				/* the first one that is not */
	StoreKeyRest rest;			/* why: it is dead (KEY_WAITS), there is more
								 * to be looked at, or there is no such row */
	int64		at_id;			/* so far was looked for it */
} KeyEnd;

static KeyEnd
find_dead(const KeyArgs *args)
{
	KeyEnd		end = {PG_INT64_MAX, KEY_END, 0};
	RowScan		rows;

	if (store_skips_dead())
		return end;
	row_scan_begin_key(&rows, KEY_ROWS_DEAD, !args->key->topic);
	row_scan_limit(&rows, args->limit);
	row_scan_key(&rows, args->key->topic, args->key->key, args->after);
	if (row_scan_next(&rows))
	{
		end.id = row_id(&rows);
		end.rest = KEY_WAITS;
	}
	else if (rows.stopped)
	{
		end.id = rows.at_id + 1;
		end.rest = KEY_MORE;
	}
	end.at_id = rows.at_id;
	args->result->ndead += rows.ndead;
	row_scan_end(&rows);
	return end;
}

/* The ids of the rows that may be sent; the result tells of what is behind. */
static int
find_rows_of_key(const KeyArgs *args, int64 *ids)
{
	StoreKeyRows *result = args->result;
	KeyEnd		end = find_dead(args);
	RowScan		rows;
	int			n = 0;

	row_scan_begin_key(&rows, KEY_ROWS_UNSETTLED, !args->key->topic);
	row_scan_limit(&rows, args->limit);
	row_scan_key(&rows, args->key->topic, args->key->key, args->after);
	result->rest = KEY_MORE;
	result->last = args->after;
	while (n < args->limit)
	{
		if (!row_scan_next(&rows))
		{
			if (!rows.stopped)
				result->rest = end.rest;
			break;
		}
		if (result->first == 0)
			result->first = row_id(&rows);
		if (row_id(&rows) >= end.id)
		{
			result->rest = end.rest;
			break;
		}
		if (row_state(&rows) == DELIVERY_FAILED && row_due(&rows) > args->now)
		{
			result->rest = KEY_WAITS;
			break;
		}
		result->last = ids[n++] = row_id(&rows);
	}

	/* what was passed and has no rows any more is not to be passed again */
	if (result->rest == KEY_MORE && n < args->limit)
		result->last = Min(rows.stopped ? rows.at_id : PG_INT64_MAX, end.id - 1);

	/* behind where this scan has stopped, only dead rows were looked for */
	if (result->first == 0)
		result->first = (rows.stopped ? rows.at_id :
						 Max(rows.at_id, end.at_id)) + 1;
	result->first = Min(result->first, end.id);
	result->ndead += rows.ndead;
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
	int			n = find_rows_of_key(args, ids);
	MemoryContext old = MemoryContextSwitchTo(args->context);
	bool		stopped = store_read_by_id(ids, n, args->max_bytes,
										   &result->events);

	MemoryContextSwitchTo(old);

	/*
	 * A row whose event is not there is passed over: it has just been
	 * deleted, or a dump has not brought it yet.  We hear of it when that is
	 * done.
	 */
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

	/* what is behind one that is dead then may have to wait: it is read anew */
	if (store_failed_on_event(result) &&
		store_salvage(read_key_body, &args) == STORE_OK)
	{
		list_free_deep(rows->events);
		memset(rows, 0, sizeof(*rows));
		result = store_transaction(read_key_body, &args);
	}
	if (result != STORE_OK)
		list_free_deep(rows->events);
	return result;
}

/*
 * Mark the events, new ones, whose key may have unsettled rows that they have to
 * wait behind; "rows_after" is given "arg".  Many keys with many entries of settled
 * rows are not all looked up: an event that waits though it need not comes back at
 * once.  In a transaction of the store.
 */
void
store_mark_behind_rows(List *events, StoreRowsAfter rows_after, void *arg)
{
	RowScan		unsettled;
	RowScan		dead;
	bool		all_topics = store_orders_all_topics();
	ListCell   *lc;

	row_scan_begin_key(&unsettled, KEY_ROWS_UNSETTLED, all_topics);
	row_scan_begin_key(&dead, KEY_ROWS_DEAD, all_topics);
	row_scan_limit(&unsettled, list_length(events));
	row_scan_limit(&dead, list_length(events));
	foreach(lc, events)
	{
		OutboxEvent *event = lfirst(lc);
		const char *topic = all_topics ? NULL : event->msg.topic;
		const char *key = event->msg.key;
		int64		after = key ? rows_after(&event->msg, arg) : PG_INT64_MAX;

		if (after == PG_INT64_MAX)
			continue;
		row_scan_key(&unsettled, topic, key, after);
		event->behind_rows = row_scan_next(&unsettled) || unsettled.stopped;
		if (event->behind_rows || store_skips_dead())
			continue;
		row_scan_key(&dead, topic, key, after);
		event->behind_rows = row_scan_next(&dead) || dead.stopped;
	}
	row_scan_end(&dead);
	row_scan_end(&unsettled);
}
