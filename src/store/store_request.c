/*-------------------------------------------------------------------------
 *
 * store_request.c
 *		What people ask of the relay: retry, discard, forget.
 *
 * A request is a row of outbox_request, which a user's transaction inserts
 * (store_session.c) and the relay serves and deletes, the oldest first.  So no
 * transaction that somebody keeps open holds a row that the relay writes.
 *
 * Before requests are served, everything that was settled has been written:
 * what they say then meets the state that people see.  A request that the
 * state no longer allows is served by doing nothing.  An event that shall be
 * sent again is due at once, and taken like any other row that is due.
 *
 * Who asks has a transaction id before the request gets its own id, and ends some
 * time after that.  So once all transactions have ended that were begun when the
 * requests up to an id were served, there are none up to there: the reader begins
 * behind it, and does not pass what it has deleted and an old snapshot keeps.  A
 * transaction that writes and stays open holds it there.
 *
 * An event without a row is settled if it has been read and is not in memory any
 * more, though the position may be held before it by another one.
 *
 * If requests cannot be served because an event cannot be read, they are served
 * once more, each in a subtransaction (store_salvage.c).  What is asked of that
 * event is then done to its row of outbox_delivery alone.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"
#include "utils/xid8.h"

#include "lib/log_limit.h"
#include "store/store_request.h"

/* $1 limit, $2 behind this id */
static Statement read_requests = {
	"SELECT r.id, r.action, r.event, r.topic, r.requested_by, r.requested_at,"
	" r.since, r.newest"
	" FROM @s@.outbox_request r WHERE r.destination = @d@ AND r.id > $2"
	" ORDER BY r.id LIMIT $1",
	2, {INT8OID, INT8OID}
};

#define DISCARDED \
	" DO UPDATE SET state = excluded.state, next_attempt_at = NULL," \
	"  last_error = excluded.last_error, updated_at = clock_timestamp()" \
	" WHERE d.state NOT IN ('published', 'discarded', 'expired')"

/* Does the newest position say that an event "e" without a row is settled? */
#define COVERED \
	"EXISTS (SELECT 1 FROM (SELECT p.lo, p.hi, p.last_id, p.open" \
	"    FROM @s@.outbox_progress p WHERE p.destination = @d@" \
	"    ORDER BY p.id DESC LIMIT 1) p" \
	"   WHERE (pg_visible_in_snapshot(e.xid, p.lo)" \
	"    OR (e.id <= p.last_id AND pg_visible_in_snapshot(e.xid, p.hi)))" \
	"   AND (e.id = ANY (p.open)) IS NOT TRUE)"

/* Has the event with this id a row? */
#define HAS_ROW(id) \
	"EXISTS (SELECT 1 FROM @s@.outbox_delivery x" \
	"  WHERE x.destination = @d@ AND x.id = " id ")"

/*
 * $1 id, $2 now; a scheduled event may have no row yet, and one that somebody
 * else has had sent in the meantime has none any more
 */
static Statement retry = {
	"INSERT INTO @s@.outbox_delivery AS d (destination, id, topic, key, state,"
	" next_attempt_at, renewed_at)"
	" SELECT @d@, e.id, e.topic, e.key, 'pending', $2, $2"
	" FROM @s@.outbox_event e WHERE e.id = $1"
	" AND ((e.deliver_after > now() AND NOT " COVERED ")"
	"  OR " HAS_ROW("e.id") ")"
	" ON CONFLICT (destination, id) DO UPDATE" FRESH("$2")
	" WHERE d.state IN ('failed', 'dead', 'discarded', 'scheduled')"
	" RETURNING d.id, d.topic, d.key",
	2, {INT8OID, TIMESTAMPTZOID}
};

/*
 * $1 id, $2 to $5 as READ has them.  A discarded event that has not been read
 * yet is read in its place, after those that it comes behind; not so one that
 * would only be scheduled then.
 */
static Statement retry_unread = {
	"DELETE FROM @s@.outbox_delivery d WHERE d.destination = @d@ AND d.id = $1"
	" AND d.state = 'discarded' AND NOT EXISTS"
	" (SELECT 1 FROM @s@.outbox_event e WHERE e.id = d.id"
	"  AND (e.deliver_after > now() OR " READ "))",
	5, {INT8OID, PG_SNAPSHOTOID, PG_SNAPSHOTOID, INT8OID, INT8ARRAYOID}
};

/* $1 id, $2 to $5 as READ has them, $6 it is in memory, $7 who asked */
static Statement discard = {
	"INSERT INTO @s@.outbox_delivery AS d"
	" (destination, id, topic, key, state, last_error)"
	" SELECT @d@, e.id, e.topic, e.key, 'discarded', 'discarded by ' || $7"
	" FROM @s@.outbox_event e"
	" WHERE e.id = $1 AND ($6 OR NOT " READ
	"  OR " HAS_ROW("e.id") ")"
	" ON CONFLICT (destination, id)" DISCARDED
	" RETURNING d.id, d.topic, d.key",
	7, {INT8OID, PG_SNAPSHOTOID, PG_SNAPSHOTOID, INT8OID, INT8ARRAYOID,
	BOOLOID, TEXTOID}
};

/* $1 id, $2 now; of an event that cannot be read: its next try will say so */
static Statement retry_row = {
	"UPDATE @s@.outbox_delivery d" FRESH("$2")
	" WHERE d.destination = @d@ AND d.id = $1"
	" AND d.state IN ('failed', 'dead', 'discarded', 'scheduled')"
	" RETURNING d.id, d.topic, d.key",
	2, {INT8OID, TIMESTAMPTZOID}
};

/* $1 id, $2 it is in memory, $3 who asked; the same to discard it */
static Statement discard_row = {
	"INSERT INTO @s@.outbox_delivery AS d"
	" (destination, id, topic, state, last_error)"
	" SELECT @d@, $1, '', 'discarded', 'discarded by ' || $3"
	" WHERE $2 OR " HAS_ROW("$1")
	" ON CONFLICT (destination, id)" DISCARDED
	" RETURNING d.id, d.topic, d.key",
	3, {INT8OID, BOOLOID, TEXTOID}
};

/*
 * $1 id; what could not be discarded, unless it was before or has expired, is
 * published
 */
static Statement find_published = {
	"SELECT e.event_id FROM @s@.outbox_event e WHERE e.id = $1"
	" AND NOT EXISTS (SELECT 1 FROM @s@.outbox_delivery d"
	"  WHERE d.destination = @d@ AND d.id = e.id"
	"  AND d.state IN ('discarded', 'expired'))",
	1, {INT8OID}
};

/* $1 id */
static Statement forget = {
	"DELETE FROM @s@.outbox_delivery d WHERE d.destination = @d@ AND d.id = $1"
	" RETURNING d.id, d.topic, d.key",
	1, {INT8OID}
};

/* $1 id */
static Statement delete_request = {
	"DELETE FROM @s@.outbox_request r"
	" WHERE r.destination = @d@ AND r.id = $1",
	1, {INT8OID}
};

/*
 * An event without a row may be in memory all the same, and is to leave it.
 */
static void
add_unknown(ServeArgs *args, Datum event)
{
	MemoryContext old = MemoryContextSwitchTo(args->context);
	StoreServed *served = palloc0(sizeof(StoreServed));

	served->key.id = DatumGetInt64(event);
	served->gone = true;
	*args->served = lappend(*args->served, served);
	MemoryContextSwitchTo(old);
}

static void
serve_retry(ServeArgs *args, const Request *request)
{
	Datum		values[5];

	values[0] = request->event;
	store_window_to_values(args->window, values);
	if (store_execute(&retry_unread, values, NULL) > 0)
		return;
	values[1] = TimestampTzGetDatum(args->now);
	store_execute(&retry, values, NULL);
	(void) store_add_served(args, false);
}

/* If the answer came first, the event is published, and the log says so. */
static void
serve_discard(ServeArgs *args, const Request *request)
{
	Datum		values[7];
	bool		isnull;

	values[0] = request->event;
	store_window_to_values(args->window, values);
	values[5] = BoolGetDatum(args->in_memory(DatumGetInt64(request->event),
											 args->arg));
	values[6] = request->requested_by;
	store_execute(&discard, values, NULL);
	if (store_add_served(args, true) > 0 ||
		store_execute(&find_published, values, NULL) == 0 ||
		!log_is_due("published before discarded", ""))
		return;
	ereport(LOG,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("outbox: event \"%s\" was published before it could be discarded",
					DatumGetCString(DirectFunctionCall1(uuid_out,
														store_result(0, 1, &isnull)))),
			 errdetail("It was to be discarded by \"%s\".",
					   TextDatumGetCString(request->requested_by))));
}

typedef struct OneRequest
{
	ServeArgs  *args;
	const Request *request;
} OneRequest;

/* Serve a request to retry or to discard an event. */
static void
serve_about_event(void *arg)
{
	OneRequest *one = arg;

	if (strcmp(one->request->action, "retry") == 0)
		serve_retry(one->args, one->request);
	else
		serve_discard(one->args, one->request);
}

/*
 * Do to the row of an event that cannot be read what is asked of the event.
 * Without a row there is nothing to retry, and nothing to discard unless it is in
 * memory: it has been published, or is dead as soon as it is read.
 */
static void
serve_about_row(const OneRequest *one)
{
	ServeArgs  *args = one->args;
	const Request *request = one->request;
	bool		gone = strcmp(request->action, "discard") == 0;
	Datum		values[3];

	values[0] = request->event;
	if (gone)
	{
		values[1] = BoolGetDatum(args->in_memory(DatumGetInt64(request->event),
												 args->arg));
		values[2] = request->requested_by;
	}
	else
		values[1] = TimestampTzGetDatum(args->now);
	store_execute(gone ? &discard_row : &retry_row, values, NULL);
	(void) store_add_served(args, gone);
}

/* The same in a transaction that finds out which events cannot be read. */
static void
salvage_about_event(OneRequest *one)
{
	int			nserved = list_length(*one->args->served);

	if (!store_try(serve_about_event, one, salvage_blames_event))
		return;

	/* what was added before the error has been undone */
	*one->args->served = list_truncate(*one->args->served, nserved);
	serve_about_row(one);
}

/* Serve one request; true if there is nothing left to do for it. */
static bool
serve_request(ServeArgs *args, const Request *request)
{
	OneRequest	one = {args, request};
	Datum		event = request->event;

	if (strcmp(request->action, "retry") == 0 ||
		strcmp(request->action, "discard") == 0)
	{
		if (salvage_runs())
			salvage_about_event(&one);
		else
			serve_about_event(&one);
	}
	else if (strcmp(request->action, "forget") == 0)
	{
		store_execute(&forget, &event, NULL);
		if (store_add_served(args, true) == 0)
			add_unknown(args, event);
	}
	else if (strcmp(request->action, "replay") == 0)
		return store_serve_replay(args, request);
	else
	{
		/* many at a time, but not all: the request stays until none is left */
		bool		more = dead_retry(args->cursor,
									  DatumGetInt64(request->id),
									  request->all_topics ? NULL :
									  &request->topic,
									  DatumGetTimestampTz(request->requested_at),
									  args->now, args->limit);

		(void) store_add_served(args, false);
		return !more;
	}
	return true;
}

/* Copy the rows of the last statement out of it. */
static Request *
take_requests(int n)
{
	Request    *requests = palloc0(sizeof(Request) * Max(n, 1));

	for (int i = 0; i < n; i++)
	{
		Request    *request = &requests[i];
		bool		isnull;
		Datum		topic;

		request->id = store_value(i, 1);
		request->action = TextDatumGetCString(store_value(i, 2));
		request->event = store_result(i, 3, &isnull);
		topic = store_result(i, 4, &request->all_topics);
		if (!request->all_topics)
			request->topic = PointerGetDatum(DatumGetTextPCopy(topic));
		request->requested_by = PointerGetDatum(DatumGetTextPCopy(store_value(i, 5)));
		request->requested_at = store_value(i, 6);
		request->since = store_result(i, 7, &isnull);
		if (isnull)
			request->since = 0;
		request->newest = store_result(i, 8, &isnull);
	}
	return requests;
}

/* The oldest transaction that runs by the snapshot of this one. */
static uint64
oldest_running(void)
{
	Datum		snapshot = DirectFunctionCall1(pg_current_snapshot, (Datum) 0);

	return U64FromFullTransactionId(DatumGetFullTransactionId(DirectFunctionCall1(pg_snapshot_xmin, snapshot)));
}

/*
 * What was to be seen up to the id "upto" is served.  "oldest" was the oldest
 * transaction that ran before it was read, "next" would have been the next one
 * after that.
 */
static void
move_cursor(StoreRequestCursor *cursor, uint64 oldest, int64 upto, uint64 next)
{
	if (oldest < cursor->seen_before || upto < cursor->seen)
		return;
	cursor->done = cursor->seen;
	cursor->seen = upto;
	cursor->seen_before = next;
}

/* What is being replayed, or will be, of the requests that are not served yet. */
static void
note_replaying(ServeArgs *args, const Request *requests, int n)
{
	MemoryContext old = MemoryContextSwitchTo(args->context);

	for (int i = 0; i < n; i++)
	{
		if (strcmp(requests[i].action, "replay") == 0)
			*args->replaying = lappend(*args->replaying,
									   requests[i].all_topics ? pstrdup("#") :
									   store_utf8(requests[i].topic));
	}
	MemoryContextSwitchTo(old);
}

static void
serve_body(void *arg)
{
	ServeArgs  *args = arg;
	uint64		oldest = oldest_running();
	int64		upto = args->cursor->seen;
	Datum		values[2];
	uint64		next;
	int			n;
	Request    *requests;

	values[0] = Int64GetDatum(args->limit);
	values[1] = Int64GetDatum(args->cursor->done);
	n = (int) store_execute(&read_requests, values, NULL);
	next = U64FromFullTransactionId(ReadNextFullTransactionId());
	requests = take_requests(n);
	*args->more = n == args->limit;
	if (*args->more)
		upto = 0;
	for (int i = 0; i < n; i++)
	{
		if (!serve_request(args, &requests[i]))
		{
			*args->more = true;
			upto = i > 0 ? DatumGetInt64(requests[i - 1].id) : 0;
			note_replaying(args, &requests[i], n - i);
			break;
		}
		store_execute(&delete_request, &requests[i].id, NULL);
		upto = Max(upto, DatumGetInt64(requests[i].id));
	}
	move_cursor(args->cursor, oldest, upto, next);
}

/*
 * Serve at most "limit" requests behind the cursor, which moves, and of one
 * that means many events as many of these.  What is to be sent again is due
 * "now"; "window" is the one that is being read, and "in_memory" says, when it
 * is given "arg", whether the relay has an event.  *served becomes a list of
 * StoreServed *, in the current memory context, and *more tells whether there
 * is more to be done.  *replaying becomes a list of patterns, char *, of the topics of
 * which events are yet to be sent again.
 */
StoreResult
store_serve_requests(StoreRequestCursor *cursor, const StoreWindow *window,
					 bool (*in_memory) (int64 id, void *arg), void *arg,
					 TimestampTz now, int limit, List **served,
					 List **replaying, bool *more)
{
	StoreRequestCursor before = *cursor;
	ServeArgs	args = {CurrentMemoryContext, cursor, window, in_memory, arg, now,
	limit, served, replaying, more};
	StoreResult result;

	*served = NIL;
	*replaying = NIL;
	*more = false;
	result = store_transaction(serve_body, &args);
	if (store_failed_on_event(result))
	{
		*cursor = before;
		*served = NIL;
		*replaying = NIL;
		*more = false;
		result = store_salvage(serve_body, &args);
	}
	if (result != STORE_OK)
		*cursor = before;
	return result;
}
