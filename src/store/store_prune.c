/*-------------------------------------------------------------------------
 *
 * store_prune.c
 *		Deleting what was published long ago.
 *
 * An event may go when it was settled outbox.published_expire_time ago.  The
 * newest checkpoint of that age tells which these are: all that are visible
 * in its "lo".  From one such snapshot to the next, they are a window as in
 * store_window.c, walked here along the index on (xid, id), since the order
 * does not matter.  The caller keeps where the walk stands, so that dead rows
 * are passed once.
 *
 * Events that have a row in outbox_delivery are passed over: those published
 * or discarded go, with that row, by its own age; dead ones stay.
 *
 * Of the checkpoints, the ones before the snapshot in use go as well, and of
 * those since the last prunes the ones that were followed by another within
 * the same second.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/memutils.h"
#include "utils/xid8.h"

#include "guc.h"
#include "store/store_internal.h"

/* $1 seconds */
static Statement choose_target = {
	"SELECT p.lo FROM @s@.outbox_progress p"
	" WHERE p.at <= now() - $1 * interval '1 second'"
	" ORDER BY p.at DESC, p.id DESC LIMIT 1",
	1, {FLOAT8OID}
};

/* $1 done, $2 target, $3 limit */
static Statement delete_late = {
	"WITH gone AS ("
	" SELECT e.id FROM pg_snapshot_xip($1) x(xid)"
	" JOIN @s@.outbox_event e ON e.xid = x.xid"
	" WHERE pg_visible_in_snapshot(x.xid, $2)"
	" AND NOT EXISTS (SELECT 1 FROM @s@.outbox_delivery d WHERE d.id = e.id)"
	" LIMIT $3)"
	" DELETE FROM @s@.outbox_event e USING gone WHERE e.id = gone.id",
	3, {PG_SNAPSHOTOID, PG_SNAPSHOTOID, INT8OID}
};

/* $1, $2 walked up to here, $3 target, $4 limit */
static Statement delete_walk = {
	"WITH batch AS MATERIALIZED ("
	" SELECT e.xid, e.id FROM @s@.outbox_event e"
	" WHERE (e.xid, e.id) > ($1, $2) AND e.xid < pg_snapshot_xmax($3)"
	" ORDER BY e.xid, e.id LIMIT $4),"
	" gone AS ("
	" DELETE FROM @s@.outbox_event e USING batch"
	" WHERE e.id = batch.id AND pg_visible_in_snapshot(batch.xid, $3)"
	" AND NOT EXISTS (SELECT 1 FROM @s@.outbox_delivery d"
	"  WHERE d.id = batch.id)"
	" RETURNING 1)"
	" SELECT b.xid, b.id, (SELECT count(*) FROM gone)"
	" FROM batch b ORDER BY b.xid DESC, b.id DESC LIMIT 1",
	4, {XID8OID, INT8OID, PG_SNAPSHOTOID, INT8OID}
};

/* $1 seconds, $2 limit */
static Statement delete_exceptions = {
	"WITH gone AS ("
	" DELETE FROM @s@.outbox_delivery g WHERE g.id IN ("
	"  SELECT d.id FROM unnest('{published,discarded}'::text[]) s(state),"
	"   LATERAL (SELECT i.id FROM @s@.outbox_delivery i"
	"    WHERE i.state = s.state AND i.state <> 'pending'"	/* as the index */
	"    AND i.updated_at <= now() - $1 * interval '1 second'"
	"    LIMIT $2) d"
	"  LIMIT $2)"
	" AND g.state IN ('published', 'discarded')"	/* not retried just now */
	" RETURNING id)"
	" DELETE FROM @s@.outbox_event e USING gone WHERE e.id = gone.id",
	2, {FLOAT8OID, INT8OID}
};

/* The row that counts, whatever the clock did since it was written. */
#define NEWEST "(SELECT max(n.id) FROM @s@.outbox_progress n)"

/* $1 seconds, $2 limit */
static Statement delete_progress = {
	"DELETE FROM @s@.outbox_progress WHERE id IN ("
	" SELECT p.id FROM @s@.outbox_progress p"
	" WHERE p.at < (SELECT max(t.at) FROM @s@.outbox_progress t"
	"  WHERE t.at <= now() - $1 * interval '1 second')"
	" AND p.id < " NEWEST
	" LIMIT $2)",
	2, {FLOAT8OID, INT8OID}
};

/* $1 seconds, $2 limit */
static Statement thin_progress = {
	"DELETE FROM @s@.outbox_progress WHERE id IN ("
	" SELECT w.id FROM (SELECT p.id, p.at,"
	"   lead(p.at) OVER (ORDER BY p.at, p.id) AS next_at"
	"  FROM @s@.outbox_progress p"
	"  WHERE p.at >= now() - $1 * interval '1 second') w"
	" WHERE date_trunc('second', w.at) = date_trunc('second', w.next_at)"
	" AND w.id < " NEWEST
	" LIMIT $2)",
	2, {FLOAT8OID, INT8OID}
};

typedef struct PruneArgs
{
	StorePrune *prune;
	int			limit;
	int64	   *npruned;
	bool	   *more;
} PruneArgs;

/* The snapshot to prune up to; false if it is the one that we came to. */
static bool
choose_target_now(StorePrune *prune)
{
	MemoryContext old;
	Datum		values[1];
	Datum		target;
	bool		isnull;

	values[0] = Float8GetDatum(guc_published_expire_time);
	if (store_execute(&choose_target, values, NULL) == 0)
		return false;
	target = store_result(0, 1, &isnull);
	if (prune->done &&
		datumIsEqual(target, PointerGetDatum(prune->done), false, -1))
		return false;
	old = MemoryContextSwitchTo(prune->context);
	prune->target = store_copy_snapshot((StoreSnapshot) DatumGetPointer(target));
	MemoryContextSwitchTo(old);
	return true;
}

/* A batch of what the transactions published that "done" saw running. */
static int64
prune_late(StorePrune *prune, int limit)
{
	Datum		values[3];

	if (!prune->done)
		return 0;
	values[0] = PointerGetDatum(prune->done);
	values[1] = PointerGetDatum(prune->target);
	values[2] = Int64GetDatum(limit);
	return (int64) store_execute(&delete_late, values, NULL);
}

/* A batch of the walk; false at its end. */
static bool
prune_walk(StorePrune *prune, int limit, int64 *npruned)
{
	Datum		values[4];
	bool		isnull;

	values[0] = FullTransactionIdGetDatum(FullTransactionIdFromU64(prune->cursor_xid));
	values[1] = Int64GetDatum(prune->cursor_id);
	values[2] = PointerGetDatum(prune->target);
	values[3] = Int64GetDatum(limit);
	if (store_execute(&delete_walk, values, NULL) == 0)
		return false;
	prune->cursor_xid = U64FromFullTransactionId(DatumGetFullTransactionId(store_result(0, 1, &isnull)));
	prune->cursor_id = DatumGetInt64(store_result(0, 2, &isnull));
	*npruned += DatumGetInt64(store_result(0, 3, &isnull));
	return true;
}

static int64
prune_others(Statement *stmt, double age, int limit)
{
	Datum		values[2];

	values[0] = Float8GetDatum(age);
	values[1] = Int64GetDatum(limit);
	return (int64) store_execute(stmt, values, NULL);
}

/*
 * One statement's worth of work, whichever is next.  The last step of a prune
 * leaves *more false.
 */
static void
prune_body(void *arg)
{
	PruneArgs  *args = arg;
	StorePrune *prune = args->prune;
	int64		n;

	/* from one snapshot to the next: first what is late, then the walk */
	*args->more = true;
	if (prune->target || (!prune->walked && choose_target_now(prune)))
	{
		prune->walked = true;
		n = prune_late(prune, args->limit);
		if (n > 0)
		{
			*args->npruned += n;
			return;
		}
		if (prune_walk(prune, args->limit, args->npruned))
			return;
		prune->done = prune->target;
		prune->target = NULL;
		return;
	}

	/* exceptions go by their own age, the newest checkpoint never */
	n = prune_others(&delete_exceptions, guc_published_expire_time,
					 args->limit);
	*args->npruned += n;
	if (n > 0)
		return;
	n = prune_others(&delete_progress, guc_published_expire_time, args->limit);
	if (n == args->limit)
		return;
	n = prune_others(&thin_progress,
					 2.0 * guc_cleaning_expire_interval / 1000 + 60,
					 args->limit);
	*args->more = n == args->limit;
	if (!*args->more)
		prune->walked = false;
}

/*
 * Delete at most "limit" rows (of each table) that are due and count the
 * events in *npruned; *more tells whether to call again at once.  An aborted
 * step is done again: what it deleted is there again, and what it remembered
 * only moves on when it succeeds.
 */
StoreResult
store_prune_step(StorePrune *prune, int limit, int64 *npruned, bool *more)
{
	StorePrune	before = *prune;
	PruneArgs	args = {prune, limit, npruned, more};
	StoreResult result;

	*npruned = 0;
	result = store_transaction(prune_body, &args);
	if (result != STORE_OK)
	{
		*prune = before;
		*npruned = 0;
		*more = false;
	}
	else if (before.done && before.done != prune->done)
		pfree(before.done);
	return result;
}
