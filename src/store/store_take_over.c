/*-------------------------------------------------------------------------
 *
 * store_take_over.c
 *		Rows in progress that nobody has in memory any more.
 *
 * They were left by an earlier relay, or came with a dump.  If that relay died by
 * itself, any of them may be why; tries are counted as crashes before they are made
 * (relay_submit.c), so that one that has crashed too many relays is known, and dead.
 *
 * Errors: trapped by store_transaction().  What cannot be told of a dead event, because
 * it cannot be read, is left out.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"

#include "store/store_internal.h"

#define MAX_CRASHES	CppAsString2(EVENT_MAX_CRASHES)

#define CRASHES_TOO_OFTEN "($3 AND d.crashes >= " MAX_CRASHES ")"

/* $1 milliseconds, $2 ids in memory, $3 the last relay died by itself */
static Statement take_over = {
	"UPDATE @s@.outbox_delivery d SET crashes ="
	"  CASE WHEN $3 THEN greatest(d.crashes, 1)"
	"   ELSE greatest(d.crashes - 1, 0) END,"
	" state = CASE WHEN " CRASHES_TOO_OFTEN " THEN 'dead' ELSE 'failed' END,"
	" last_error = CASE WHEN " CRASHES_TOO_OFTEN
	"  THEN 'the relay crashed ' || d.crashes"
	"   || ' times with this event in flight'"
	"  ELSE d.last_error END,"
	" next_attempt_at = CASE WHEN NOT " CRASHES_TOO_OFTEN
	"  THEN d.updated_at + $1 * interval '1 millisecond' END"
	" WHERE d.destination = @d@ AND d.state = 'in_progress'"
	" AND d.id NOT IN (SELECT unnest($2))"
	" RETURNING d.id, d.state, d.last_error",
	3, {FLOAT8OID, INT8ARRAYOID, BOOLOID}
};

typedef struct TakeOverArgs
{
	int			minimum_interval_ms;
	bool		died;
	const OutboxEvent *const *events;
	int			n;
	List	  **dead;
	MemoryContext context;		/* of these */
} TakeOverArgs;

static void
take_over_body(void *arg)
{
	TakeOverArgs *args = arg;
	Datum		values[3];
	int			nrows;
	MemoryContext old;
	ListCell   *lc;

	values[0] = Float8GetDatum(args->minimum_interval_ms);
	values[1] = store_ids_of_events(args->events, args->n);
	values[2] = BoolGetDatum(args->died);
	nrows = (int) store_execute(&take_over, values, NULL);

	/* first all of them: to learn their names takes other statements */
	old = MemoryContextSwitchTo(args->context);
	for (int i = 0; i < nrows; i++)
	{
		StoreDeadEvent *event;

		if (store_state(store_value(i, 2)) != DELIVERY_DEAD)
			continue;
		event = palloc0(sizeof(StoreDeadEvent));
		event->id = DatumGetInt64(store_value(i, 1));
		event->error = TextDatumGetCString(store_value(i, 3));
		*args->dead = lappend(*args->dead, event);
	}
	foreach(lc, *args->dead)
		(void) salvage_read_names(lfirst(lc));
	MemoryContextSwitchTo(old);
}

/*
 * Take over the rows in progress that are not of events in memory.  They are due when
 * they have not changed for minimum_interval_ms.  "died": any of them may be why the
 * last relay has died, and one whose tries have crashed too many relays is dead; without
 * it, one crash that was counted has not happened.  *dead becomes a list of those that
 * are, StoreDeadEvent *, in the current memory context.
 */
StoreResult
store_take_over(int minimum_interval_ms, bool died,
				const OutboxEvent *const *events, int n, List **dead)
{
	TakeOverArgs args = {minimum_interval_ms, died, events, n, dead,
	CurrentMemoryContext};
	StoreResult result;

	*dead = NIL;
	result = store_transaction(take_over_body, &args);
	if (result != STORE_OK)
		*dead = NIL;
	return result;
}
