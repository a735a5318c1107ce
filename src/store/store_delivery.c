/*-------------------------------------------------------------------------
 *
 * store_delivery.c
 *		Exceptions (outbox_delivery) and checkpoints (outbox_progress).
 *
 * Only the relay writes in_progress, published and failed, and there is only
 * one relay: a row that is in_progress when a relay starts is left from one
 * that ended in disorder.  Rows change by hand, too (store_session.c); a
 * statement here therefore never overwrites a row that was discarded.
 *
 * Order by key, in the table: a row is blocked while an unsettled row of its
 * key with a smaller id is there.  So of the unsettled rows of a key, the one
 * with the smallest id is never blocked; unblock_keys sees to that whenever a
 * row was settled or blocked.  Scheduled events take their place in the order
 * when their time has come.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "lib/clock.h"
#include "store/event_columns.h"
#include "store/store_internal.h"

#define MAX_CRASHES	CppAsString2(EVENT_MAX_CRASHES)

#define STATE_NAME(NAME, name) [DELIVERY_##NAME] = #name,

static const char *const state_names[] = {
	DELIVERY_STATES(STATE_NAME)
};

/* $1 milliseconds, $2 ids in memory, $3 at least so many crashes */
static Statement take_over = {
	"UPDATE @s@.outbox_delivery d SET crashes = greatest(d.crashes, $3),"
	" state = CASE WHEN d.crashes >= " MAX_CRASHES
	"  THEN 'dead' ELSE 'failed' END,"
	" last_error = CASE WHEN d.crashes >= " MAX_CRASHES
	"  THEN 'the relay crashed ' || d.crashes"
	"   || ' times with this event in flight'"
	"  ELSE d.last_error END,"
	" next_attempt_at = CASE WHEN d.crashes < " MAX_CRASHES
	"  THEN d.updated_at + $1 * interval '1 millisecond' END"
	" WHERE d.state = 'in_progress' AND d.id NOT IN (SELECT unnest($2))",
	3, {FLOAT8OID, INT8ARRAYOID, INT4OID}
};

/*
 * $1 limit, $2 dead ones are skipped, $3 not before, $4 now.  With an event
 * whose turn has just come ("pending") go the ones behind it, up to the limit
 * and up to one that is not merely blocked: if all goes well, a long queue is
 * not read one by one.  Rows that somebody has locked (an open outbox_retry())
 * are left for later, and nothing of their key passes them.
 */
static Statement claim_due = {
	"WITH due AS ("
	" SELECT d.id, d.state FROM @s@.outbox_delivery d"
	" WHERE d.state IN " STORE_DUE_STATES
	" AND d.next_attempt_at >= $3"
	" AND d.next_attempt_at <= $4"
	" ORDER BY d.next_attempt_at, d.id LIMIT $1"
	" FOR UPDATE SKIP LOCKED),"
	" heads AS ("
	" UPDATE @s@.outbox_delivery d SET updated_at = clock_timestamp(),"
	" next_attempt_at = NULL,"
	" state = CASE WHEN d.key IS NOT NULL AND EXISTS ("
	"   SELECT 1 FROM @s@.outbox_delivery b"
	"   WHERE b.key = d.key AND b.id < d.id AND " STORE_BLOCKS("$2") ")"
	"  THEN 'blocked' ELSE 'in_progress' END"
	" FROM due WHERE d.id = due.id"
	" RETURNING d.id, d.key, d.state, d.attempts, d.crashes,"
	"  due.state AS old_state),"
	" behind AS MATERIALIZED ("
	" SELECT h.id AS head, f.id FROM heads h, LATERAL ("
	"   SELECT b.id FROM @s@.outbox_delivery b"
	"   WHERE b.key = h.key AND b.id > h.id AND " STORE_BLOCKS("$2")
	"   ORDER BY b.key, b.id LIMIT $1) f"
	" WHERE h.state = 'in_progress' AND h.old_state = 'pending'"
	" LIMIT $1),"
	" free AS MATERIALIZED ("
	" SELECT d.id FROM @s@.outbox_delivery d, behind b"
	" WHERE d.id = b.id AND d.state = 'blocked'"
	" FOR UPDATE OF d SKIP LOCKED),"
	" followers AS ("
	" UPDATE @s@.outbox_delivery d SET updated_at = clock_timestamp(),"
	" state = 'in_progress'"
	" FROM (SELECT b.id,"
	"   bool_and(b.id = ANY (ARRAY(SELECT f.id FROM free f)))"
	"   OVER (PARTITION BY b.head ORDER BY b.id) AS all_free"
	"  FROM behind b) g"
	" WHERE d.id = g.id AND g.all_free"
	" RETURNING d.id, d.attempts, d.crashes),"
	" claimed AS ("
	" SELECT h.id, h.attempts, h.crashes FROM heads h"
	" WHERE h.state = 'in_progress'"
	" UNION ALL SELECT f.id, f.attempts, f.crashes FROM followers f)"
	" SELECT " EVENT_COLUMN_LIST ", false, c.attempts, c.crashes"
	" FROM claimed c JOIN @s@.outbox_event e ON e.id = c.id"
	" ORDER BY e.id",
	4, {INT8OID, BOOLOID, TIMESTAMPTZOID, TIMESTAMPTZOID}
};

/* $1 not before */
static Statement next_due = {
	"SELECT min(d.next_attempt_at) FROM @s@.outbox_delivery d"
	" WHERE d.state IN " STORE_DUE_STATES
	" AND d.next_attempt_at >= $1",
	1, {TIMESTAMPTZOID}
};

/*
 * $1 id, $2 state, $3 attempts, $4 crashes, $5 due, $6 status, $7 error.  An
 * event that is just being deleted gets no row that would outlive it.
 * "scheduled" is written for an event without a row: one that is there by now
 * is somebody's outbox_retry().
 */
static Statement write_deliveries = {
	"INSERT INTO @s@.outbox_delivery AS d (id, key, state, attempts, crashes,"
	" next_attempt_at, last_status, last_error, updated_at)"
	" SELECT u.id, e.key, u.state, u.attempts, u.crashes, u.due, u.status,"
	"  u.error, clock_timestamp()"
	" FROM unnest($1, $2, $3, $4, $5, $6, $7)"
	"  u(id, state, attempts, crashes, due, status, error)"
	" JOIN @s@.outbox_event e ON e.id = u.id FOR KEY SHARE OF e"
	" ON CONFLICT (id) DO UPDATE SET state = excluded.state,"
	"  attempts = excluded.attempts, crashes = excluded.crashes,"
	"  next_attempt_at = excluded.next_attempt_at,"
	"  last_status = coalesce(excluded.last_status, d.last_status),"
	"  last_error = coalesce(excluded.last_error, d.last_error),"
	"  updated_at = excluded.updated_at"
	" WHERE d.state <> 'discarded' AND excluded.state <> 'scheduled'",
	7, {INT8ARRAYOID, TEXTARRAYOID, INT4ARRAYOID, INT4ARRAYOID,
	TIMESTAMPTZARRAYOID, INT4ARRAYOID, TEXTARRAYOID}
};

/* $1 dead ones are skipped, $2 when what is unblocked is due */
#define UNBLOCK(keys) \
	"UPDATE @s@.outbox_delivery d SET state = 'pending'," \
	" next_attempt_at = $2, updated_at = clock_timestamp()" \
	" FROM (" keys ") k, LATERAL (" \
	"  SELECT b.id FROM @s@.outbox_delivery b" \
	"  WHERE b.key = k.key AND " STORE_BLOCKS("$1") \
	"  ORDER BY b.key, b.id LIMIT 1) h" \
	" WHERE d.id = h.id AND d.state = 'blocked'"

/* $3 rows whose keys are meant */
static Statement unblock_keys = {
	UNBLOCK("SELECT DISTINCT x.key FROM @s@.outbox_delivery x"
			" WHERE x.id = ANY ($3) AND x.key IS NOT NULL"),
	3, {BOOLOID, TIMESTAMPTZOID, INT8ARRAYOID}
};

static Statement unblock_all = {
	UNBLOCK("SELECT DISTINCT x.key FROM @s@.outbox_delivery x"
			" WHERE x.state = 'blocked'"),
	2, {BOOLOID, TIMESTAMPTZOID}
};

/* $1 lo, $2 hi, $3 last_id, $4 clean */
static Statement write_position = {
	"INSERT INTO @s@.outbox_progress (lo, hi, last_id, clean)"
	" VALUES ($1, $2, $3, $4)",
	4, {PG_SNAPSHOTOID, PG_SNAPSHOTOID, INT8OID, BOOLOID}
};

/* $1 ids */
static Statement find_given_up = {
	"SELECT m.id FROM unnest($1) m(id)"
	" WHERE NOT EXISTS (SELECT 1 FROM @s@.outbox_event e WHERE e.id = m.id)"
	" OR EXISTS (SELECT 1 FROM @s@.outbox_delivery d"
	"  WHERE d.id = m.id AND d.state = 'discarded')",
	1, {INT8ARRAYOID}
};

typedef struct ClaimArgs
{
	MemoryContext context;
	TimestampTz not_before;
	TimestampTz now;
	int			limit;
	List	   *events;
} ClaimArgs;

static void
claim_due_body(void *arg)
{
	ClaimArgs  *args = arg;
	MemoryContext old = MemoryContextSwitchTo(args->context);
	DestReceiver *dest = store_event_receiver(&args->events, 0);
	Datum		values[4];

	MemoryContextSwitchTo(old);
	values[0] = Int64GetDatum(args->limit);
	values[1] = BoolGetDatum(store_skips_dead());
	values[2] = TimestampTzGetDatum(args->not_before);
	values[3] = TimestampTzGetDatum(args->now);
	store_execute_into(&claim_due, values, dest);
	store_flush_commits(args->events);
}

/*
 * Take at most "limit" of the events that are due, marking them in_progress;
 * *events becomes the list of them, in the current memory context.  Those due
 * before "not_before" are known to be taken: while somebody holds an old
 * snapshot, their dead entries stay in the index and are not to be passed
 * every time.
 */
StoreResult
store_claim_due(TimestampTz not_before, TimestampTz now, int limit,
				List **events)
{
	ClaimArgs	args = {CurrentMemoryContext, not_before, now, limit, NIL};
	StoreResult result = store_transaction(claim_due_body, &args);

	if (result != STORE_OK)
	{
		list_free_deep(args.events);
		return result;
	}
	*events = args.events;
	return STORE_OK;
}

static void
next_due_body(void *arg)
{
	TimestampTz *due = arg;
	bool		isnull;
	Datum		value = TimestampTzGetDatum(*due);

	store_execute(&next_due, &value, NULL);
	value = store_result(0, 1, &isnull);
	*due = isnull ? DT_NOEND : DatumGetTimestampTz(value);
}

/*
 * When the next row is due that is not due before *due; infinity if there is
 * none.
 */
StoreResult
store_next_due(TimestampTz *due)
{
	return store_transaction(next_due_body, due);
}

static Datum
make_array(Datum *values, bool *nulls, int n, Oid type, int len, bool byval,
		   char align)
{
	int			lb = 1;

	return PointerGetDatum(construct_md_array(values, nulls, 1, &n, &lb, type,
											  len, byval, align));
}

static Datum
make_id_array(const int64 *ids, int n)
{
	Datum	   *values = palloc(sizeof(Datum) * Max(n, 1));

	for (int i = 0; i < n; i++)
		values[i] = Int64GetDatum(ids[i]);
	return make_array(values, NULL, n, INT8OID, 8, FLOAT8PASSBYVAL,
					  TYPALIGN_DOUBLE);
}

typedef struct TakeOverArgs
{
	int			minimum_interval_ms;
	bool		crashed;
	const int64 *ids;
	int			n;
} TakeOverArgs;

static void
take_over_body(void *arg)
{
	TakeOverArgs *args = arg;
	Datum		values[3];

	values[0] = Float8GetDatum(args->minimum_interval_ms);
	values[1] = make_id_array(args->ids, args->n);
	values[2] = Int32GetDatum(args->crashed ? 1 : 0);
	store_execute(&take_over, values, NULL);
	values[0] = BoolGetDatum(store_skips_dead());
	values[1] = TimestampTzGetDatum(clock_now());
	store_execute(&unblock_all, values, NULL);
}

/*
 * Take over the rows in progress that are not in memory (ids): left by an
 * earlier relay, or restored from a dump.  They are due when they have not
 * changed for minimum_interval_ms.  One whose tries have crashed too many
 * relays (they are counted before they are made) is dead.  "crashed": any of
 * them may be why the last relay did not stop in order.
 */
StoreResult
store_take_over(int minimum_interval_ms, bool crashed, const int64 *ids,
				int n)
{
	TakeOverArgs args = {minimum_interval_ms, crashed, ids, n};

	return store_transaction(take_over_body, &args);
}

/* The parameters of write_deliveries: an array for each column. */
static void
deliveries_to_arrays(const Delivery *deliveries, int n, Datum *arrays)
{
	Datum	   *columns[7];
	bool	   *nulls[7];

	for (int c = 0; c < 7; c++)
	{
		columns[c] = palloc(sizeof(Datum) * n);
		nulls[c] = palloc0(sizeof(bool) * n);
	}
	for (int i = 0; i < n; i++)
	{
		const Delivery *d = &deliveries[i];

		columns[0][i] = Int64GetDatum(d->id);
		columns[1][i] = CStringGetTextDatum(state_names[d->state]);
		columns[2][i] = Int32GetDatum(d->attempts);
		columns[3][i] = Int32GetDatum(d->crashes);
		columns[4][i] = TimestampTzGetDatum(d->next_attempt_at);
		nulls[4][i] = d->next_attempt_at == 0;
		columns[5][i] = Int32GetDatum(d->last_status);
		nulls[5][i] = d->last_status == 0;
		nulls[6][i] = d->last_error == NULL;
		columns[6][i] = d->last_error ? CStringGetTextDatum(d->last_error) : 0;
	}
	arrays[0] = make_array(columns[0], nulls[0], n, INT8OID, 8,
						   FLOAT8PASSBYVAL, TYPALIGN_DOUBLE);
	arrays[1] = make_array(columns[1], nulls[1], n, TEXTOID, -1, false,
						   TYPALIGN_INT);
	arrays[2] = make_array(columns[2], nulls[2], n, INT4OID, 4, true,
						   TYPALIGN_INT);
	arrays[3] = make_array(columns[3], nulls[3], n, INT4OID, 4, true,
						   TYPALIGN_INT);
	arrays[4] = make_array(columns[4], nulls[4], n, TIMESTAMPTZOID, 8,
						   FLOAT8PASSBYVAL, TYPALIGN_DOUBLE);
	arrays[5] = make_array(columns[5], nulls[5], n, INT4OID, 4, true,
						   TYPALIGN_INT);
	arrays[6] = make_array(columns[6], nulls[6], n, TEXTOID, -1, false,
						   TYPALIGN_INT);
}

/*
 * Unblock the keys of the rows that were settled, which may free the next
 * one, or blocked, since what they wait for may be settled by now.
 */
static int
unblock_after(const Delivery *deliveries, int n, TimestampTz now)
{
	int64	   *ids = palloc(sizeof(int64) * n);
	int			nids = 0;
	Datum		values[3];

	for (int i = 0; i < n; i++)
	{
		if (deliveries[i].keyed &&
			(deliveries[i].state == DELIVERY_PUBLISHED ||
			 deliveries[i].state == DELIVERY_DEAD ||
			 deliveries[i].state == DELIVERY_BLOCKED))
			ids[nids++] = deliveries[i].id;
	}
	if (nids == 0)
		return 0;
	values[0] = BoolGetDatum(store_skips_dead());
	values[1] = TimestampTzGetDatum(now);
	values[2] = make_id_array(ids, nids);
	return (int) store_execute(&unblock_keys, values, NULL);
}

static void
checkpoint_body(void *arg)
{
	StoreCheckpoint *checkpoint = arg;
	Datum		values[7];

	if (checkpoint->ndeliveries > 0)
	{
		deliveries_to_arrays(checkpoint->deliveries, checkpoint->ndeliveries,
							 values);
		store_execute(&write_deliveries, values, NULL);
		checkpoint->nunblocked = unblock_after(checkpoint->deliveries,
											   checkpoint->ndeliveries,
											   checkpoint->now);
	}
	values[0] = PointerGetDatum(checkpoint->position.lo);
	values[1] = PointerGetDatum(checkpoint->position.hi);
	values[2] = Int64GetDatum(checkpoint->position.last_id);
	values[3] = BoolGetDatum(checkpoint->position.clean);
	store_execute(&write_position, values, NULL);
}

/*
 * Write exceptions and position, all or nothing.  Unless it is durable, a
 * crash may undo it, and what it settled is sent again.
 */
StoreResult
store_checkpoint(StoreCheckpoint *checkpoint)
{
	StoreResult result;

	checkpoint->nunblocked = 0;
	result = store_transaction(checkpoint_body, checkpoint);
	if (result == STORE_OK && checkpoint->durable)
		XLogFlush(XactLastCommitEnd);
	return result;
}

typedef struct GivenUpArgs
{
	MemoryContext context;
	const int64 *ids;
	int			n;
	List	  **gone;
} GivenUpArgs;

static void
find_given_up_body(void *arg)
{
	GivenUpArgs *args = arg;
	Datum		values[1];
	uint64		n;

	values[0] = make_id_array(args->ids, args->n);
	n = store_execute(&find_given_up, values, NULL);
	MemoryContextSwitchTo(args->context);
	for (uint64 i = 0; i < n; i++)
	{
		int64	   *id = palloc(sizeof(int64));
		bool		isnull;

		*id = DatumGetInt64(store_result(i, 1, &isnull));
		*args->gone = lappend(*args->gone, id);
	}
}

/*
 * Which of these events were discarded, or deleted from the table?  *gone
 * becomes a list of int64 *, in the current memory context.
 */
StoreResult
store_find_given_up(const int64 *ids, int n, List **gone)
{
	GivenUpArgs args = {CurrentMemoryContext, ids, n, gone};

	*gone = NIL;
	return store_transaction(find_given_up_body, &args);
}
