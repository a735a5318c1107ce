/*-------------------------------------------------------------------------
 *
 * store_ahead.c
 *		Looking at events that are not read yet: is there one to be sent now?
 *
 * The look goes along the ids, behind the reader, and takes nothing but topics and
 * keys.  It remembers how far it has come, and what was visible then: an event with
 * a smaller id whose transaction commits later is found by that.  For those that
 * the snapshot saw running, this is a probe of the index on (xid, id) each; of
 * those that have begun since, the first ones are looked at, which alone can have
 * taken their ids before.
 *
 * Nobody relies on what is found here but to choose what to do first.  So an event
 * that cannot be read counts as one to be sent: the reader shall see to it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/memutils.h"

#include "store/store_internal.h"

/* Of the transactions that have begun since, so many events are looked at. */
#define LATE_EVENTS		"100"

/* $1 snapshot, $2 id */
static Statement look_for_late = {
	"SELECT pg_current_snapshot(), EXISTS"
	" (SELECT 1 FROM pg_snapshot_xip($1) x(xid),"
	"  LATERAL (SELECT 1 FROM @s@.outbox_event e WHERE e.xid = x.xid LIMIT 1) e)"
	" OR EXISTS (SELECT 1 FROM (SELECT e.id FROM @s@.outbox_event e"
	"  WHERE e.xid >= pg_snapshot_xmax($1)"
	"  ORDER BY e.xid, e.id LIMIT " LATE_EVENTS ") e WHERE e.id <= $2)",
	2, {PG_SNAPSHOTOID, INT8OID}
};

/* $1 id, $2 limit */
static Statement look_on = {
	"SELECT e.id, e.topic, e.key FROM @s@.outbox_event e"
	" WHERE e.id > $1 ORDER BY e.id LIMIT $2",
	2, {INT8OID, INT8OID}
};

typedef struct LookArgs
{
	StoreAhead *ahead;
	MemoryContext context;		/* of the snapshot */
	int			limit;
	StoreWaits	waits;
	void	   *arg;
	StoreSnapshot seen;
	int64		at;
	StoreFound	found;
} LookArgs;

/* Does the event in this row of the result wait for others of its key? */
static bool
row_waits(const LookArgs *args, int row)
{
	bool		no_topic;
	bool		no_key;
	Datum		topic = store_result(row, 2, &no_topic);
	Datum		key = store_result(row, 3, &no_key);

	return !no_topic && !no_key &&
		args->waits(store_utf8(topic), store_utf8(key), args->arg);
}

static void
look_body(void *arg)
{
	LookArgs   *args = arg;
	Datum		values[2];
	MemoryContext old;
	int			n;

	values[0] = PointerGetDatum(args->ahead->seen);
	values[1] = Int64GetDatum(args->ahead->at);
	store_execute(&look_for_late, values, NULL);
	args->found = FOUND_OTHER;
	if (DatumGetBool(store_value(0, 2)))
		return;
	old = MemoryContextSwitchTo(args->context);
	args->seen = store_copy_snapshot((StoreSnapshot) DatumGetPointer(store_value(0, 1)));
	MemoryContextSwitchTo(old);

	values[0] = Int64GetDatum(args->ahead->at);
	values[1] = Int64GetDatum(args->limit);
	n = store_execute(&look_on, values, NULL);
	for (int row = 0; row < n; row++)
	{
		if (!row_waits(args, row))
			return;
		args->at = DatumGetInt64(store_value(row, 1));
	}
	args->found = n < args->limit ? FOUND_END : FOUND_MORE;
}

/*
 * Look at the next events, at most "limit", behind ahead->at, which moves to the
 * last one that waits for others of its key, as "waits" says when it is given
 * "arg".  ahead->seen, which is freed, becomes a new snapshot in "context".  On
 * failure they are as before.
 */
StoreResult
store_look_ahead(StoreAhead *ahead, MemoryContext context, int limit,
				 StoreWaits waits, void *arg, StoreFound *found)
{
	LookArgs	args = {ahead, context, limit, waits, arg, NULL, ahead->at,
	FOUND_OTHER};
	StoreResult result = store_transaction(look_body, &args);

	if (store_failed_on_event(result))
	{
		*found = FOUND_OTHER;
		result = STORE_OK;
	}
	else if (result == STORE_OK)
		*found = args.found;
	if (args.seen && result == STORE_OK && *found != FOUND_OTHER)
	{
		pfree(ahead->seen);
		ahead->seen = args.seen;
		ahead->at = args.at;
	}
	else if (args.seen)
		pfree(args.seen);
	return result;
}
