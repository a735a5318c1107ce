/*-------------------------------------------------------------------------
 *
 * store_prune_exceptions.c
 *		Pruning events that have rows in outbox_delivery.
 *
 * Such rows go by their own age, when they say that the event was published or given
 * up; that of an event which several destinations take, with the last of them, once
 * all have settled it.  They are listed by that age, of one destination after the other,
 * behind a cursor: what cannot go yet is passed once a prune.
 *
 * In a transaction of a prune (store_prune.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "guc.h"
#include "store/store_internal.h"

/*
 * $1 ids, $2 destinations, $3 seconds.  An event goes with all of its rows, if all are
 * settled for so long, and the position of each other destination says that it is, too.
 * The rows are locked before they are counted, or one might be retried meanwhile.
 */
static Statement delete_exceptions = {
	"WITH found AS MATERIALIZED (SELECT i.id, d.tid"
	"  FROM unnest($1) i(id), unnest($2) n(destination),"
	"  LATERAL (SELECT x.ctid AS tid FROM @s@.outbox_delivery x"
	"   WHERE x.destination = n.destination AND x.id = i.id"
	"   AND x.state IN ('published', 'discarded', 'expired')"
	"   AND x.updated_at <= now() - $3 * interval '1 second'"
	"   FOR UPDATE SKIP LOCKED) d),"
	" whole AS MATERIALIZED (SELECT f.id, array_agg(f.tid) AS tids"
	"  FROM found f GROUP BY f.id"
	"  HAVING count(*) = (SELECT count(*) FROM unnest($2) n(destination),"
	"   LATERAL (SELECT 1 FROM @s@.outbox_delivery x"
	"    WHERE x.destination = n.destination AND x.id = f.id OFFSET 0) d)"
	"  AND (cardinality($2) = 1 OR NOT EXISTS"
	"   (SELECT 1 FROM @s@.outbox_position p,"
	"    LATERAL" EVENT_BY_ID("e.xid", "f.id") " e"
	"    WHERE (SELECT x.id FROM @s@.outbox_delivery x"
	"     WHERE x.destination = p.destination AND x.id = f.id) IS NULL"
	"    AND ((pg_visible_in_snapshot(e.xid, p.lo) OR (f.id <= p.last_id"
	"      AND pg_visible_in_snapshot(e.xid, p.hi)))"
	"     AND (f.id = ANY (p.open)) IS NOT TRUE) IS NOT TRUE))),"
	" gone AS (DELETE FROM @s@.outbox_delivery WHERE ctid = ANY (ARRAY("
	"  SELECT unnest(w.tids) FROM whole w)))"
	" DELETE FROM @s@.outbox_event WHERE ctid = ANY (ARRAY("
	" SELECT" EVENT_BY_ID("e.ctid", "w.id") " FROM whole w))",
	3, {INT8ARRAYOID, INT4ARRAYOID, FLOAT8OID}
};

/* States of rows that go by their age; each is a range of the index. */
static const char *const settled_states[] = {"published", "discarded", "expired"};

/* $1 state, $2, $3 listed up to here, $4 seconds, $5 limit, $6 destination */
static Statement list_exceptions = {
	"SELECT d.id, d.updated_at FROM @s@.outbox_delivery d"
	" WHERE d.destination = $6"
	" AND d.state = $1 AND d.state <> 'pending'"	/* as the index */
	" AND (d.updated_at, d.id) > ($2, $3)"
	" AND d.updated_at <= now() - $4 * interval '1 second'"
	" ORDER BY d.updated_at, d.id LIMIT $5",
	6, {TEXTOID, TIMESTAMPTZOID, INT8OID, FLOAT8OID, INT8OID, INT4OID}
};

/* $1 destinations, $2 one of them; the next one, or NULL */
static Statement next_destination = {
	"SELECT min(n.id) FROM unnest($1) n(id) WHERE n.id > $2",
	2, {INT4ARRAYOID, INT4OID}
};

/* Go on with the next state, or destination; false if there is none. */
static bool
advance_exceptions(const PruneArgs *args)
{
	StorePrune *prune = args->prune;
	Datum		values[2] = {args->destinations,
	Int32GetDatum(prune->exception_of)};
	bool		isnull;

	prune->exception.time = DT_NOBEGIN;
	prune->exception.id = 0;
	if (++prune->exception_state < lengthof(settled_states))
		return true;
	store_execute(&next_destination, values, NULL);
	prune->exception_of = DatumGetInt32(store_result(0, 1, &isnull));
	prune->exception_state = 0;
	return !isnull;
}

/*
 * The next exceptions that are settled for long enough, behind the cursor, which
 * moves; how many?
 */
static int
list_exceptions_now(const PruneArgs *args, int64 *ids)
{
	StorePrune *prune = args->prune;
	Datum		values[6];
	int			n;

	values[3] = Float8GetDatum(guc_published_expire_time);
	values[4] = Int64GetDatum(args->limit);
	do
	{
		values[0] = CStringGetTextDatum(settled_states[prune->exception_state]);
		values[1] = TimestampTzGetDatum(prune->exception.time);
		values[2] = Int64GetDatum(prune->exception.id);
		values[5] = Int32GetDatum(prune->exception_of);
		n = (int) store_execute(&list_exceptions, values, NULL);
	} while (n == 0 && advance_exceptions(args));

	for (int i = 0; i < n; i++)
		ids[i] = DatumGetInt64(store_value(i, 1));
	if (n > 0)
	{
		prune->exception.id = ids[n - 1];
		prune->exception.time = DatumGetTimestampTz(store_value(n - 1, 2));
	}
	return n;
}

/* A batch of the exceptions that are settled; false at their end. */
bool
prune_exceptions(const PruneArgs *args)
{
	int64	   *ids = palloc(sizeof(int64) * args->limit);
	int			n = list_exceptions_now(args, ids);
	Datum		values[3];

	if (n == 0)
		return false;
	values[1] = args->destinations;
	values[2] = Float8GetDatum(guc_published_expire_time);
	if (args->prune->one_by_one)
	{
		prune_each_exception(args, &delete_exceptions, values, ids, n);
		return true;
	}
	values[0] = store_id_array(ids, n);
	*args->npruned += (int64) store_execute(&delete_exceptions, values, NULL);
	return true;
}
