/*-------------------------------------------------------------------------
 *
 * store_prune.c
 *		Deleting what was published long ago.
 *
 * An event may go when every destination has settled it outbox.published_expire_time
 * ago.  The newest checkpoint of that age of each tells which these are: all that are
 * visible in its "lo", but for what it names as open, whose transactions count as still
 * running.  From one such snapshot to the next, they are a window as in
 * store_window.c, walked here along the index on (xid, id), since the order
 * does not matter.  The caller keeps where the walk stands, so that dead rows
 * are passed once.
 *
 * Events that have a row in outbox_delivery are passed over: those published,
 * discarded or expired go by the age of their rows (store_prune_exceptions.c); dead
 * ones stay.  The walk does not come back: so an event that it may have passed keeps its
 * row when it is
 * published (store_delivery.c).
 *
 * Of the checkpoints, the ones before the snapshot in use go as well, and of
 * those since the last prunes the ones that were followed by another within
 * the same second.  Notes of restores (outbox_restore) are kept as long as
 * published events, versions of what destinations take as long as an event that they
 * hold for.
 *
 * A plan may have been made when a table was empty, and a join would then read
 * either side from end to end.  So there is none: rows to delete are an array of
 * ctids, for which there is one plan, and other tables are looked at row by row.
 * Nobody can put another row at a ctid as long as the statement's snapshot sees
 * the one that was there.
 *
 * These are steps, each of which goes on in batches, a transaction each.  A row
 * that somebody holds fast (a foreign key of theirs, a trigger) makes its batch
 * fail: then the rest of the step is done row by row, around those that resist
 * (store_prune_each.c).  The next prune walks again from where this one
 * began.  What fails for another reason ends its step, but not the steps behind
 * it.  The caller is told of problems, and need not stop anything else.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

#include "guc.h"
#include "lib/text.h"
#include "store/store_internal.h"

/* A checkpoint's "lo" as a prune sees it, with the transactions of what is open */
#define LO_WITHOUT_OPEN \
	"CASE WHEN p.open IS NULL THEN p.lo ELSE coalesce((SELECT" \
	"  format('%s:%s:%s', (array_agg(x.xid ORDER BY x.xid))[1]," \
	"   pg_snapshot_xmax(p.lo)," \
	"   string_agg(x.xid::text, ',' ORDER BY x.xid))::pg_snapshot" \
	"  FROM (SELECT pg_snapshot_xip(p.lo)" \
	"   UNION SELECT e.xid FROM unnest(p.open) o(id)," \
	"   LATERAL" EVENT_BY_ID("e.xid", "o.id") " e" \
	"   WHERE pg_visible_in_snapshot(e.xid, p.lo))" \
	"  x(xid) HAVING count(*) > 0), p.lo) END"

/*
 * $1 seconds, $2 destinations; what each of them has settled so long ago, or NULL
 * if one has nothing.  Of several snapshots, the one in which only that is visible
 * that is visible in all.
 */
static Statement choose_horizon = {
	"WITH s AS MATERIALIZED (SELECT p.lo FROM unnest($2) n(destination)"
	"  LEFT JOIN LATERAL (SELECT " LO_WITHOUT_OPEN " AS lo"
	"   FROM @s@.outbox_progress p WHERE p.destination = n.destination"
	"   AND p.at <= now() - $1 * interval '1 second'"
	"   ORDER BY p.at DESC, p.id DESC LIMIT 1) p ON true)"
	" SELECT CASE WHEN count(s.lo) < count(*) THEN NULL"
	"  WHEN count(*) = 1 THEN (array_agg(s.lo))[1]"
	"  ELSE (SELECT format('%s:%s:%s',"
	"    coalesce((array_agg(x.xid ORDER BY x.xid))[1], m.xmax), m.xmax,"
	"    string_agg(x.xid::text, ',' ORDER BY x.xid))::pg_snapshot"
	"   FROM (SELECT (array_agg(pg_snapshot_xmax(a.lo)"
	"     ORDER BY pg_snapshot_xmax(a.lo)))[1] AS xmax FROM s a) m"
	"   LEFT JOIN LATERAL (SELECT DISTINCT i.xid"
	"     FROM s a, pg_snapshot_xip(a.lo) i(xid) WHERE i.xid < m.xmax) x ON true"
	"   GROUP BY m.xmax) END"
	" FROM s",
	2, {FLOAT8OID, INT4ARRAYOID}
};

/* $1 done, $2 target, $3 destinations, $4 limit */
static Statement delete_late = {
	"DELETE FROM @s@.outbox_event WHERE ctid = ANY (ARRAY("
	" SELECT e.ctid FROM @s@.outbox_event e"
	" WHERE e.xid = ANY (ARRAY(SELECT x.xid FROM pg_snapshot_xip($1) x(xid)"
	"  WHERE pg_visible_in_snapshot(x.xid, $2)))"
	" AND" HAS_NO_ROW("e.id", "$3")
	" LIMIT $4))",
	4, {PG_SNAPSHOTOID, PG_SNAPSHOTOID, INT4ARRAYOID, INT8OID}
};

/* $1, $2 walked up to here, $3 target, $4 destinations, $5 limit */
static Statement delete_walk = {
	"WITH batch AS MATERIALIZED ("
	" SELECT e.xid, e.id FROM @s@.outbox_event e"
	" WHERE (e.xid, e.id) > ($1, $2) AND e.xid < pg_snapshot_xmax($3)"
	" ORDER BY e.xid, e.id LIMIT $5),"
	" gone AS ("
	" DELETE FROM @s@.outbox_event WHERE ctid = ANY (ARRAY("
	"  SELECT" EVENT_BY_ID("e.ctid", "b.id") " FROM batch b"
	"  WHERE pg_visible_in_snapshot(b.xid, $3) AND" HAS_NO_ROW("b.id", "$4") "))"
	" RETURNING 1)"
	" SELECT b.xid, b.id, (SELECT count(*) FROM gone)"
	" FROM batch b ORDER BY b.xid DESC, b.id DESC LIMIT 1",
	5, {XID8OID, INT8OID, PG_SNAPSHOTOID, INT4ARRAYOID, INT8OID}
};

/* The row that counts of a destination, whatever the clock did since. */
#define NEWEST \
	"(SELECT max(m.id) FROM @s@.outbox_progress m" \
	" WHERE m.destination = n.destination)"

/* $1 seconds, $2 limit, $3 destinations */
static Statement delete_progress = {
	"DELETE FROM @s@.outbox_progress WHERE ctid = ANY (ARRAY("
	" SELECT p.tid FROM unnest($3) n(destination),"
	" LATERAL (SELECT p.ctid AS tid FROM @s@.outbox_progress p"
	"  WHERE p.destination = n.destination"
	"  AND p.at < (SELECT max(t.at) FROM @s@.outbox_progress t"
	"   WHERE t.destination = n.destination"
	"   AND t.at <= now() - $1 * interval '1 second')"
	"  AND p.id < " NEWEST
	"  LIMIT $2) p"
	" LIMIT $2))",
	3, {FLOAT8OID, INT8OID, INT4ARRAYOID}
};

/* $1 seconds, $2 limit, $3 destinations */
static Statement thin_progress = {
	"DELETE FROM @s@.outbox_progress WHERE ctid = ANY (ARRAY("
	" SELECT w.tid FROM unnest($3) n(destination),"
	" LATERAL (SELECT p.ctid AS tid, p.id, p.at,"
	"   lead(p.at) OVER (ORDER BY p.at, p.id) AS next_at"
	"  FROM @s@.outbox_progress p"
	"  WHERE p.destination = n.destination"
	"  AND p.at >= now() - $1 * interval '1 second') w"
	" WHERE date_trunc('second', w.at) = date_trunc('second', w.next_at)"
	" AND w.id < " NEWEST
	" LIMIT $2))",
	3, {FLOAT8OID, INT8OID, INT4ARRAYOID}
};

/* $1 seconds, $2 limit */
static Statement delete_notes = {
	"DELETE FROM @s@.outbox_restore WHERE ctid = ANY (ARRAY("
	" SELECT n.ctid FROM @s@.outbox_restore n"
	" WHERE n.at <= now() - $1 * interval '1 second'"
	" LIMIT $2))",
	2, {FLOAT8OID, INT8OID}
};

/*
 * $1 limit; a version of what a destination takes holds for events that its snapshot does
 * not see, and the next one's does.  (One that is not in use yet has none; one that
 * was restored may have a snapshot of another server, until a relay starts:
 * store_fit.c.)
 */
static Statement delete_filters = {
	"DELETE FROM @s@.outbox_filter WHERE ctid = ANY (ARRAY("
	" SELECT f.ctid FROM @s@.outbox_filter f,"
	" LATERAL (SELECT x.since FROM @s@.outbox_filter x"
	"  WHERE x.destination = f.destination AND x.version > f.version"
	"  AND x.since IS NOT NULL ORDER BY x.version LIMIT 1) n"
	" WHERE (SELECT e.id FROM @s@.outbox_event e"
	"  WHERE e.xid >= pg_snapshot_xmin(f.since)"
	"  AND e.xid < pg_snapshot_xmax(n.since)"
	"  AND pg_visible_in_snapshot(e.xid, n.since)"
	"  AND NOT pg_visible_in_snapshot(e.xid, f.since)"
	"  ORDER BY e.xid, e.id LIMIT 1) IS NULL"
	" AND pg_snapshot_xmax(n.since) <= pg_snapshot_xmax(pg_current_snapshot())"
	" LIMIT $1))",
	1, {INT8OID}
};

/* The snapshot to prune up to; false if it is the one that we came to. */
static bool
choose_target_now(const PruneArgs *args)
{
	StorePrune *prune = args->prune;
	MemoryContext old;
	Datum		values[2];
	Datum		target;
	bool		isnull;

	values[0] = Float8GetDatum(guc_published_expire_time);
	values[1] = args->destinations;
	store_execute(&choose_horizon, values, NULL);
	target = store_result(0, 1, &isnull);
	if (isnull)
		return false;
	if (prune->done &&
		datumIsEqual(target, PointerGetDatum(prune->done), false, -1))
		return false;
	old = MemoryContextSwitchTo(prune->context);
	prune->target = store_copy_snapshot((StoreSnapshot) DatumGetPointer(target));
	MemoryContextSwitchTo(old);
	prune->start_xid = prune->cursor_xid;
	prune->start_id = prune->cursor_id;
	return true;
}

/*
 * A batch of what the transactions published that "done" saw running; false if
 * there is nothing left of it.
 */
static bool
prune_late(PruneArgs *args)
{
	StorePrune *prune = args->prune;
	Datum		values[4];
	int64		ndeleted;

	if (!prune->target && !choose_target_now(args))
		return false;
	if (!prune->done)
		return false;
	if (prune->one_by_one)
		return prune_each_late(args);
	values[0] = PointerGetDatum(prune->done);
	values[1] = PointerGetDatum(prune->target);
	values[2] = args->destinations;
	values[3] = Int64GetDatum(args->limit);
	ndeleted = (int64) store_execute(&delete_late, values, NULL);
	*args->npruned += ndeleted;
	return ndeleted > 0;
}

/* A batch of the walk; false at its end. */
static bool
prune_walk(PruneArgs *args)
{
	StorePrune *prune = args->prune;
	Datum		values[5];

	if (prune->one_by_one)
		return prune_each_of_walk(args);
	values[0] = FullTransactionIdGetDatum(FullTransactionIdFromU64(prune->cursor_xid));
	values[1] = Int64GetDatum(prune->cursor_id);
	values[2] = PointerGetDatum(prune->target);
	values[3] = args->destinations;
	values[4] = Int64GetDatum(args->limit);
	if (store_execute(&delete_walk, values, NULL) == 0)
		return false;
	prune->cursor_xid = U64FromFullTransactionId(DatumGetFullTransactionId(store_value(0, 1)));
	prune->cursor_id = DatumGetInt64(store_value(0, 2));
	*args->npruned += DatumGetInt64(store_value(0, 3));
	return true;
}

/* A batch of rows that nobody refers to; false if there are no more. */
static bool
prune_by_age(PruneArgs *args, Statement *stmt, double age)
{
	Datum		values[3];

	values[0] = Float8GetDatum(age);
	values[1] = Int64GetDatum(args->limit);
	values[2] = args->destinations;
	return store_execute(stmt, values, NULL) == args->limit;
}

/* A batch of versions that hold for nothing; false if there are no more. */
static bool
prune_filters(PruneArgs *args)
{
	Datum		value = Int64GetDatum(args->limit);

	return store_execute(&delete_filters, &value, NULL) == args->limit;
}

static void
next_step(StorePrune *prune, PruneStep step)
{
	prune->step = step;
	prune->one_by_one = false;
	prune->tried_id = 0;
	prune->exception_of = 0;
	prune->exception_state = 0;
	prune->exception.time = DT_NOBEGIN;
	prune->exception.id = 0;
}

/*
 * There is nothing left to do with the target.  If that was not all that there
 * is in it, the next one begins where this one did.
 */
static void
end_walk(StorePrune *prune, bool complete)
{
	if (complete)
		prune->done = prune->target;
	else
	{
		prune->cursor_xid = prune->start_xid;
		prune->cursor_id = prune->start_id;
	}
	prune->target = NULL;
	next_step(prune, PRUNE_EXCEPTIONS);
}

/* One batch of the current step; at its end, the next one is due. */
static void
prune_body(void *arg)
{
	PruneArgs  *args = arg;
	StorePrune *prune = args->prune;

	store_lock_horizon();
	args->destinations = store_list_destinations();
	switch (prune->step)
	{
		case PRUNE_LATE:
			if (!prune_late(args))
				next_step(prune, prune->target ? PRUNE_WALK : PRUNE_EXCEPTIONS);
			break;
		case PRUNE_WALK:
			if (!prune_walk(args))
				end_walk(prune, prune->nresisting == 0);
			break;
		case PRUNE_EXCEPTIONS:
			/* they go by their own age */
			if (!prune_exceptions(args))
				next_step(prune, PRUNE_POSITIONS);
			break;
		case PRUNE_POSITIONS:
			if (!prune_by_age(args, &delete_progress, guc_published_expire_time))
				next_step(prune, PRUNE_THINNING);
			break;
		case PRUNE_THINNING:
			if (!prune_by_age(args, &thin_progress,
							  2.0 * guc_cleaning_expire_interval / 1000 + 60))
				next_step(prune, PRUNE_NOTES);
			break;
		case PRUNE_NOTES:
			if (!prune_by_age(args, &delete_notes, guc_published_expire_time))
				next_step(prune, PRUNE_FILTERS);
			break;
		case PRUNE_FILTERS:
			if (!prune_filters(args))
				next_step(prune, PRUNE_DROPPED);
			break;
		case PRUNE_DROPPED:
			if (!prune_dropped(args))
				next_step(prune, PRUNE_DONE);
			break;
		case PRUNE_DONE:
			break;
	}
}

/* The step has failed, and not because of single rows: leave it for now. */
static void
give_up_step(StorePrune *prune)
{
	text_copy_line(prune->problem, sizeof(prune->problem), store_last_error());
	if (prune->target)
		end_walk(prune, false);
	else if (prune->step == PRUNE_LATE)
		next_step(prune, PRUNE_EXCEPTIONS);
	else
		next_step(prune, prune->step + 1);
}

/* A snapshot that is in use no longer. */
static void
free_unless_used(const StorePrune *prune, StoreSnapshot snapshot)
{
	if (snapshot && snapshot != prune->done && snapshot != prune->target)
		pfree(snapshot);
}

/*
 * Delete at most "limit" rows (of each table) that are due and count the
 * events in *npruned; *more tells whether to call again at once.  If not, this
 * prune is over, and prune->problem tells what it could not do, if anything.
 * An aborted batch is done again: what it deleted is there again, and what it
 * remembered only moves on when it succeeds.
 */
StoreResult
store_prune_step(StorePrune *prune, int limit, int64 *npruned, bool *more)
{
	PruneArgs	args = {prune, limit, npruned, 0};
	StorePrune	before;
	StorePrune	after;
	StoreResult result;

	if (prune->step == PRUNE_DONE)
	{
		next_step(prune, PRUNE_LATE);
		prune->nresisting = 0;
		prune->problem[0] = '\0';
	}
	before = *prune;
	*npruned = 0;
	result = store_transaction(prune_body, &args);
	after = *prune;
	if (result != STORE_OK)
	{
		*prune = before;
		*npruned = 0;
		if (result == STORE_FAILED && prune->step <= PRUNE_EXCEPTIONS &&
			!prune->one_by_one && prune_blames_row(store_last_sqlstate()))
			prune->one_by_one = true;
		else
			give_up_step(prune);
	}
	free_unless_used(prune, before.done);
	free_unless_used(prune, before.target);
	if (after.target != before.target)
		free_unless_used(prune, after.target);
	*more = result != STORE_NO_EXTENSION && prune->step != PRUNE_DONE;
	return result;
}
