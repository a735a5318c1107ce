/*-------------------------------------------------------------------------
 *
 * store_fit.c
 *		Making what is in the tables fit the server that a relay starts on.
 *
 * Rows and the counters of a server need not belong together.
 *
 * Sequences: a restore, or replication of sequences without their tables, sets
 * them back.  Ids would then be used twice; and since the newest checkpoint is the
 * one with the largest id, those that follow would not count.  So sequences are set
 * forward before anything else is done.  Nothing is locked against sessions that
 * take ids meanwhile: those that are in the way have rows already, so that such a
 * session fails as it would have without us.
 *
 * Transactions: pg_resetwal can set their counter back.  To the position, each
 * transaction is then one that was settled long ago.  That shows by a snapshot
 * from beyond the counter.  What has been read, and so may have been settled, is
 * told by its id then, which the checkpoint has as well: what is above it is new.
 * Events and position get transactions of this server, in one statement, so that
 * each event is again settled, or to be read, as it was.  What one of several
 * destinations had still to read, the others read again.
 *
 * Relays start one beside the other: a lock lets one at a time do this.
 *
 * Errors: those of the statements, in a transaction of the store.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "catalog/pg_type.h"
#include "utils/fmgrprotos.h"
#include "utils/xid8.h"

#include "store/store_internal.h"

/*
 * If the sequence of a table's ids is behind "largest", a subquery m(id): its last
 * value, and the one that it has from now on.
 */
#define LIFT_SEQUENCE(table, largest) \
	"SELECT s.last_value, setval(s.tableoid, m.id)" \
	" FROM @s@." table "_id_seq s, (" largest ") m" \
	" WHERE m.id > CASE WHEN s.is_called THEN s.last_value" \
	"  ELSE s.last_value - 1 END"

/*
 * $1 largest id: whoever reads it from the table may meet a damaged page.  There
 * may have been larger ones, which are pruned.
 */
static Statement lift_events = {
	LIFT_SEQUENCE("outbox_event",
				  "SELECT greatest($1, max(p.largest_read)) AS id"
				  " FROM @s@.outbox_progress p"),
	1, {INT8OID}
};

static Statement lift_requests = {
	LIFT_SEQUENCE("outbox_request",
				  "SELECT max(r.id) AS id FROM @s@.outbox_request r"),
	0
};

static Statement lift_progress = {
	LIFT_SEQUENCE("outbox_progress",
				  "SELECT max(p.id) AS id FROM @s@.outbox_progress p"),
	0
};

static Statement largest_hi = {
	"SELECT p.hi FROM @s@.outbox_position p"
	" ORDER BY pg_snapshot_xmax(p.hi) DESC LIMIT 1",
	0
};

/*
 * $1 the counter of transactions.  What is settled for all destinations, or has rows
 * that say what it is, gets a transaction of which every snapshot knows (3, the first
 * one that there ever is); the rest gets that of this statement, which its snapshot
 * does not see.
 */
static Statement fit_position = {
	"WITH p AS MATERIALIZED (SELECT n.destination, q.*"
	"  FROM @s@.outbox_position n, LATERAL (SELECT c.lo, c.hi, c.last_id,"
	"   c.largest_read, c.open, c.clean" COUNTER_COLUMNS " FROM @s@.outbox_progress c"
	"   WHERE c.destination = n.destination ORDER BY c.id DESC LIMIT 1) q),"
	" found AS MATERIALIZED (SELECT e.id, e.xid, bool_or("
	"   d.id IS NULL AND @s@.outbox_takes(p.destination, e.xid, e.topic)"
	"   AND (e.id > p.largest_read OR NOT (pg_visible_in_snapshot(e.xid, p.lo)"
	"    OR (e.id <= p.last_id AND pg_visible_in_snapshot(e.xid, p.hi)))"
	"    OR (e.id = ANY (p.open)) IS TRUE)) AS again"
	"  FROM @s@.outbox_event e CROSS JOIN p LEFT JOIN @s@.outbox_delivery d"
	"   ON d.destination = p.destination AND d.id = e.id"
	"  GROUP BY e.id, e.xid),"
	" moved AS (UPDATE @s@.outbox_event e"
	"  SET xid = CASE WHEN f.again THEN pg_current_xact_id() ELSE '3' END"
	"  FROM found f WHERE e.id = f.id AND (f.again OR f.xid >= $1)"
	"  RETURNING f.again),"
	" noted AS (INSERT INTO @s@.outbox_progress"
	"  (destination, lo, hi, last_id, largest_read, clean" COUNTER_COLUMNS ")"
	"  SELECT p.destination, s, s, 0, p.largest_read, p.clean" COUNTER_COLUMNS
	"  FROM p, pg_current_snapshot() s)"
	" SELECT count(*) FILTER (WHERE again) FROM moved",
	1, {XID8OID}
};

/* Of the versions of a filter, the newest holds for all. */
static Statement fit_filters = {
	"UPDATE @s@.outbox_filter f SET since = '1:1:' WHERE f.since IS NOT NULL",
	0
};

/* A prune would take older ones for what this server has settled. */
static Statement forget_older = {
	"DELETE FROM @s@.outbox_progress o WHERE o.id <"
	" (SELECT max(p.id) FROM @s@.outbox_progress p"
	"  WHERE p.destination = o.destination)",
	0
};

static void
fit_position_body(void *arg)
{
	bool	   *set_back = arg;
	FullTransactionId known;
	FullTransactionId next;
	Datum		counter;
	int64		nunsettled;

	store_lock_fitting();
	if (store_execute(&largest_hi, NULL, NULL) == 0)
		return;
	known = DatumGetFullTransactionId(DirectFunctionCall1(pg_snapshot_xmax,
														  store_value(0, 1)));

	/* behind the positions: relays of other destinations write them meanwhile */
	next = ReadNextFullTransactionId();
	if (FullTransactionIdPrecedesOrEquals(known, next))
		return;
	counter = FullTransactionIdGetDatum(next);
	store_execute(&fit_position, &counter, NULL);
	nunsettled = DatumGetInt64(store_value(0, 1));
	store_execute(&forget_older, NULL, NULL);
	store_execute(&fit_filters, NULL, NULL);
	*set_back = true;
	ereport(LOG,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("outbox: the position is from a server whose counter of transactions was further than " UINT64_FORMAT,
					U64FromFullTransactionId(next)),
			 errdetail("Events with larger ids than the relay has ever read are new, others are settled or not as they were; %lld are to be sent.",
					   (long long) nunsettled),
			 errhint("This is so after pg_resetwal.")));
}

/*
 * If the newest position is not of this server, make one of it that is.
 * *set_back says whether that was so.
 */
StoreResult
store_fit_position(bool *set_back)
{
	*set_back = false;
	return store_transaction(fit_position_body, set_back);
}

static void
lift_sequence(Statement *lift, Datum *largest, const char *table)
{
	if (store_execute(lift, largest, NULL) == 0)
		return;
	ereport(LOG,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("outbox: sequence \"%s_id_seq\" was behind its table and has been set from %lld to %lld",
					table, (long long) DatumGetInt64(store_value(0, 1)),
					(long long) DatumGetInt64(store_value(0, 2))),
			 errdetail("A restore or replication may have set it back.")));
}

static void
lift_sequences_body(void *arg)
{
	Datum		largest;

	store_lock_fitting();
	largest = Int64GetDatum(ids_largest());
	lift_sequence(&lift_events, &largest, "outbox_event");
	lift_sequence(&lift_requests, NULL, "outbox_request");
	lift_sequence(&lift_progress, NULL, "outbox_progress");
}

/* Set sequences that are behind the ids of their tables to the largest one. */
StoreResult
store_lift_sequences(void)
{
	return store_transaction(lift_sequences_body, NULL);
}
