/*-------------------------------------------------------------------------
 *
 * store_ahead.c
 *		Looking at events that are not read yet: is there one to be sent now?
 *
 * The look goes along the ids, behind the reader, and takes nothing but topics
 * and keys.  It remembers how far it has come, and what was visible then: an
 * event with a smaller id whose transaction commits later is found by that.  For
 * those that the snapshot saw running, and that have ended, this is a probe of
 * the index on (xid, id) each; of those that have begun since, the first events
 * are looked at, which alone can have taken their ids before.
 *
 * What a transaction publishes that commits late may have smaller ids than much
 * that is published and pruned, and an open one may have any number of events.
 * So a look is at so many entries of an index, of whatever became of their
 * events, and goes on behind them.
 *
 * Nobody relies on what is found here but to choose what to do first.  So an
 * event that cannot be read counts as one to be sent: the reader shall see to it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/xid8.h"

#include "store/event_columns.h"
#include "store/row_scan.h"
#include "store/store_internal.h"

/* Of the transactions that have begun since, so many events are looked at. */
#define LATE_EVENTS		100

/* $1 snapshot */
static Statement look_for_late = {
	"SELECT pg_current_snapshot(), EXISTS"
	" (SELECT 1 FROM pg_snapshot_xip($1) x(xid),"
	"  LATERAL (SELECT 1 FROM @s@.outbox_event e WHERE e.xid = x.xid LIMIT 1) e"
	"  WHERE pg_visible_in_snapshot(x.xid, pg_current_snapshot()))",
	1, {PG_SNAPSHOTOID}
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

/*
 * Would the event that the scan is at have to wait for others?  One that goes to
 * other destinations is nothing to be sent, either.
 */
static bool
event_waits(const LookArgs *args, const RowScan *events)
{
	const TupleTableSlot *slot = events->slot;
	const char *topic;
	const char *key = NULL;

	if (slot->tts_isnull[EVENT_COL_TOPIC] || slot->tts_isnull[EVENT_COL_XID])
		return false;
	topic = store_utf8(slot->tts_values[EVENT_COL_TOPIC]);
	if (!store_takes(U64FromFullTransactionId(DatumGetFullTransactionId(slot->tts_values[EVENT_COL_XID])),
					 topic))
		return true;
	if (!slot->tts_isnull[EVENT_COL_KEY])
		key = store_utf8(slot->tts_values[EVENT_COL_KEY]);
	return args->waits(topic, key, args->arg);
}

/*
 * Has a transaction, which had not begun when the look came to where it is,
 * taken an id before that?
 */
static bool
has_begun_since(const StoreAhead *ahead)
{
	RowScan		events;
	bool		found = false;

	row_scan_begin_events(&events, STORE_XID_INDEX, 1);
	row_scan_limit(&events, LATE_EVENTS);
	row_scan_since(&events, DirectFunctionCall1(pg_snapshot_xmax,
												PointerGetDatum(ahead->seen)));
	for (int i = 0; i < LATE_EVENTS && !found && row_scan_next(&events); i++)
		found = row_id(&events) <= ahead->at;
	row_scan_end(&events);
	return found;
}

/* Go on until an event is found that does not wait, or up to the limit. */
static void
look_on(LookArgs *args)
{
	RowScan		events;
	int			n = 0;
	bool		waits = true;

	row_scan_begin_events(&events, STORE_PRIMARY_KEY, 1);
	row_scan_limit(&events, args->limit);
	row_scan_behind(&events, args->at);
	while (waits && n < args->limit && row_scan_next(&events))
	{
		n++;
		waits = event_waits(args, &events);
	}
	if (waits)
	{
		args->found = n == args->limit || events.stopped ? FOUND_MORE : FOUND_END;
		args->at = Max(args->at, events.at_id);
	}
	row_scan_end(&events);
}

static void
look_body(void *arg)
{
	LookArgs   *args = arg;
	Datum		value = PointerGetDatum(args->ahead->seen);
	MemoryContext old;

	args->found = FOUND_OTHER;
	store_execute(&look_for_late, &value, NULL);
	if (DatumGetBool(store_value(0, 2)) || has_begun_since(args->ahead))
		return;
	old = MemoryContextSwitchTo(args->context);
	args->seen = store_copy_snapshot((StoreSnapshot) DatumGetPointer(store_value(0, 1)));
	MemoryContextSwitchTo(old);
	look_on(args);
}

/*
 * Look at the next events, at most "limit", behind ahead->at, which moves behind
 * them if all would have to wait for others, as "waits" says when it is given
 * "arg".  ahead->seen, which is freed, becomes a new snapshot in "context" then.
 * If one is found that does not, and on failure, they are as before.
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
