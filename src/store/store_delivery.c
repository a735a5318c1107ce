/*-------------------------------------------------------------------------
 *
 * store_delivery.c
 *		Writing exceptions (outbox_delivery) and checkpoints (outbox_progress).
 *
 * Only the relay writes rows of outbox_delivery for its destination, and there is
 * only one relay: a row that is in_progress when a relay starts is left from one
 * that ended in disorder.  (Where there is none, that of "default" gives up what is too
 * old: store_abandon.c.)  What people want changed they ask for (store_request.c);
 * a statement here never overwrites a row that was discarded.
 *
 * An exception and the position that passes its event are one transaction.
 *
 * If it fails because an event cannot be read any more, it is made again event
 * by event.  A row that is there is then written without a look at its event; of
 * an event without one, that which is in flight gets a row without names, and
 * any other that is still to be sent is dead (store_salvage.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

#include "guc.h"
#include "store/store_internal.h"

/* $1 id, $2 state, $3 attempts, $4 crashes, $5 due, $6 status, $7 error, $8 tried */
#define WRITTEN \
	"unnest($1, $2, $3, $4, $5, $6, $7, $8)" \
	" u(id, state, attempts, crashes, due, status, error, tried)"

#define WRITTEN_TYPES \
	8, {INT8ARRAYOID, TEXTARRAYOID, INT4ARRAYOID, INT4ARRAYOID, \
	TIMESTAMPTZARRAYOID, INT4ARRAYOID, TEXTARRAYOID, TIMESTAMPTZARRAYOID}

/*
 * An event that was deleted gets no row; of one that is just being deleted, the
 * request to forget it is served later.  OFFSET 0: row by row, by the primary
 * key.
 */
static Statement write_deliveries = {
	"INSERT INTO @s@.outbox_delivery AS d"
	" (destination, id, topic, key, state, attempts,"
	" crashes, next_attempt_at, last_attempt_at, last_status, last_error, updated_at)"
	" SELECT @d@, u.id, e.topic, e.key, u.state, u.attempts, u.crashes, u.due,"
	"  u.tried, u.status, u.error, clock_timestamp()"
	" FROM " WRITTEN ","
	" LATERAL (SELECT x.topic, x.key FROM @s@.outbox_event x"
	"  WHERE x.id = u.id OFFSET 0) e"
	" ON CONFLICT (destination, id) DO UPDATE SET state = excluded.state,"
	"  attempts = excluded.attempts, crashes = excluded.crashes,"
	"  next_attempt_at = excluded.next_attempt_at,"
	"  last_attempt_at = coalesce(excluded.last_attempt_at, d.last_attempt_at),"
	"  last_status = coalesce(excluded.last_status, d.last_status),"
	"  last_error = coalesce(excluded.last_error, d.last_error),"
	"  updated_at = excluded.updated_at"
	" WHERE d.state <> 'discarded'",
	WRITTEN_TYPES
};

/*
 * The same for an event whose topic and key cannot be read: whoever reads the
 * event itself for the next try finds that it can't be, either.
 */
static Statement write_nameless = {
	"INSERT INTO @s@.outbox_delivery"
	" (destination, id, topic, state, attempts, crashes,"
	" next_attempt_at, last_attempt_at, last_status, last_error)"
	" SELECT @d@, u.id, '', u.state, u.attempts, u.crashes, u.due, u.tried, u.status,"
	"  u.error"
	" FROM " WRITTEN,
	WRITTEN_TYPES
};

/* The same for rows that are there, whatever has become of the event. */
static Statement update_deliveries = {
	"UPDATE @s@.outbox_delivery d SET state = u.state,"
	"  attempts = u.attempts, crashes = u.crashes, next_attempt_at = u.due,"
	"  last_attempt_at = coalesce(u.tried, d.last_attempt_at),"
	"  last_status = coalesce(u.status, d.last_status),"
	"  last_error = coalesce(u.error, d.last_error),"
	"  updated_at = clock_timestamp()"
	" FROM " WRITTEN
	" WHERE d.destination = @d@ AND d.id = u.id AND d.state <> 'discarded'",
	WRITTEN_TYPES
};

/* $1 ids */
static Statement delete_rows = {
	"DELETE FROM @s@.outbox_delivery d"
	" WHERE d.destination = @d@ AND d.id = ANY ($1)"
	" AND d.state <> 'discarded'",
	1, {INT8ARRAYOID}
};

/*
 * $1 lo, $2 hi, $3 last_id, $4 clean, $5 largest_read, $6 open ids or NULL,
 * $7 and so on: counters
 */
static Statement write_position = {
	"INSERT INTO @s@.outbox_progress"
	" (destination, lo, hi, last_id, clean, largest_read, open" COUNTER_COLUMNS ")"
	" VALUES (@d@, $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
	6 + COUNTERS_NARGS, {PG_SNAPSHOTOID, PG_SNAPSHOTOID, INT8OID, BOOLOID, INT8OID,
		INT8ARRAYOID, INT8OID, INT8OID, INT8OID, INT8OID, INT8OID, INT8OID, INT8OID,
	INT8ARRAYOID}
};

/* $1 seconds; a prune may have passed what is visible in this at most */
static Statement may_be_pruned = {
	"SELECT p.lo FROM @s@.outbox_progress p WHERE p.destination = @d@"
	" AND p.at <= now() - $1 * interval '1 second'"
	" ORDER BY p.at DESC, p.id DESC LIMIT 1",
	1, {FLOAT8OID}
};

/* $1 ids, $2 event_ids: an id may have been used again */
static Statement find_deleted = {
	"SELECT m.id FROM unnest($1, $2) m(id, event_id) WHERE NOT EXISTS"
	" (SELECT 1 FROM @s@.outbox_event e WHERE e.id = m.id"
	"  AND e.event_id = m.event_id OFFSET 0)",
	2, {INT8ARRAYOID, UUIDARRAYOID}
};

/* The ids of these events, as int8[]. */
Datum
store_ids_of_events(const OutboxEvent *const *events, int n)
{
	int64	   *ids = palloc(sizeof(int64) * Max(n, 1));

	for (int i = 0; i < n; i++)
		ids[i] = events[i]->msg.id;
	return store_id_array(ids, n);
}

/* The parameters of WRITTEN: an array for each column. */
static void
deliveries_to_arrays(const Delivery *const *deliveries, int n, Datum *arrays)
{
	static const Oid types[] = {INT8OID, TEXTOID, INT4OID, INT4OID,
	TIMESTAMPTZOID, INT4OID, TEXTOID, TIMESTAMPTZOID};
	Datum	   *columns[lengthof(types)];
	bool	   *nulls[lengthof(types)];

	for (int c = 0; c < lengthof(types); c++)
	{
		columns[c] = palloc(sizeof(Datum) * n);
		nulls[c] = palloc0(sizeof(bool) * n);
	}
	for (int i = 0; i < n; i++)
	{
		const Delivery *d = deliveries[i];

		columns[0][i] = Int64GetDatum(d->id);
		columns[1][i] = CStringGetTextDatum(store_state_name(d->state));
		columns[2][i] = Int32GetDatum(d->attempts);
		columns[3][i] = Int32GetDatum(d->crashes);
		columns[4][i] = TimestampTzGetDatum(d->next_attempt_at);
		nulls[4][i] = d->next_attempt_at == 0;
		columns[5][i] = Int32GetDatum(d->last_status);
		nulls[5][i] = d->last_status == 0;
		nulls[6][i] = d->last_error == NULL;
		columns[6][i] = d->last_error ? CStringGetTextDatum(d->last_error) : 0;
		nulls[7][i] = d->tried_at == 0;
		columns[7][i] = TimestampTzGetDatum(d->tried_at);
	}
	for (int c = 0; c < lengthof(types); c++)
		arrays[c] = store_array(columns[c], nulls[c], n, types[c]);
}

static void
write_together(Statement *statement, const Delivery *const *rows, int n)
{
	Datum		values[8];

	deliveries_to_arrays(rows, n, values);
	store_execute(statement, values, NULL);
}

static void
write_one(void *arg)
{
	const Delivery *row = arg;

	write_together(&write_deliveries, &row, 1);
}

/*
 * Write the rows one by one.  An event may have come into memory before its
 * page went bad: a new row, which has its topic and key, cannot be made then.
 * There has to be one only if the event is still to be sent; and of one that
 * is in flight, the answer is still to come.
 */
static void
write_each(const Delivery *const *rows, int n)
{
	for (int i = 0; i < n; i++)
	{
		int64		id = rows[i]->id;
		char	   *error;

		if (salvage_ids_without_row(&id, 1) == 0)
		{
			write_together(&update_deliveries, &rows[i], 1);
			continue;
		}
		error = store_try(write_one, unconstify(Delivery *, rows[i]),
						  salvage_blames_event);
		if (error && rows[i]->state == DELIVERY_IN_PROGRESS)
			write_together(&write_nameless, &rows[i], 1);
		else if (error && rows[i]->state != DELIVERY_PUBLISHED)
			salvage_set_aside(id, false, error);
	}
}

/*
 * What a prune may have passed, whichever relay makes it: no destination is pruned
 * beyond its own position of that age.  *pruned stays NULL if that is nothing.
 * False if it is just being changed.
 */
static bool
find_pruned(StoreSnapshot *pruned)
{
	Datum		age = Float8GetDatum(guc_published_expire_time);

	if (!store_try_to_keep_horizon())
		return false;
	if (store_execute(&may_be_pruned, &age, NULL) > 0)
		*pruned = (StoreSnapshot) DatumGetPointer(store_value(0, 1));
	return true;
}

/*
 * May the row of a published event be deleted?  The position has to say that it
 * is published, and pruning to come past the event yet.
 */
static bool
needs_no_row(const StorePosition *position, StoreSnapshot pruned,
			 const Delivery *delivery)
{
	return store_is_covered(position, delivery->xid, delivery->id) &&
		!(pruned && store_is_visible(pruned, delivery->xid));
}

/* Is a row to be deleted, if it may be? */
static bool
has_gone(const StoreCheckpoint *checkpoint)
{
	for (int i = 0; i < checkpoint->ndeliveries; i++)
	{
		if (checkpoint->deliveries[i].state == DELIVERY_GONE)
			return true;
	}
	return false;
}

/*
 * Write the rows; those of events that are gone are deleted, which says that
 * they are published.  Where that would not do, the row says so.
 */
static void
write_rows(StoreCheckpoint *checkpoint)
{
	int			n = checkpoint->ndeliveries;
	Delivery   *written = palloc(sizeof(Delivery) * n);
	const Delivery **rows = palloc(sizeof(Delivery *) * n);
	int64	   *gone = palloc(sizeof(int64) * n);
	StoreSnapshot pruned = NULL;
	bool		may_delete = has_gone(checkpoint) && find_pruned(&pruned);
	int			nrows = 0;
	int			ngone = 0;
	Datum		values[1];

	for (int i = 0; i < n; i++)
	{
		written[i] = checkpoint->deliveries[i];
		if (written[i].state == DELIVERY_GONE)
		{
			if (may_delete &&
				needs_no_row(&checkpoint->position, pruned, &written[i]))
			{
				gone[ngone++] = written[i].id;
				continue;
			}
			written[i].state = DELIVERY_PUBLISHED;
		}
		rows[nrows++] = &written[i];
	}
	if (salvage_runs())
		write_each(rows, nrows);
	else if (nrows > 0)
		write_together(&write_deliveries, rows, nrows);
	if (ngone > 0)
	{
		values[0] = store_id_array(gone, ngone);
		store_execute(&delete_rows, values, NULL);
	}
}

static void
checkpoint_body(void *arg)
{
	StoreCheckpoint *checkpoint = arg;
	const StorePosition *position = &checkpoint->position;
	Datum		values[6 + COUNTERS_NARGS];

	if (checkpoint->ndeliveries > 0)
		write_rows(checkpoint);
	values[0] = PointerGetDatum(position->lo);
	values[1] = PointerGetDatum(position->hi);
	values[2] = Int64GetDatum(position->last_id);
	values[3] = BoolGetDatum(position->clean);
	values[4] = Int64GetDatum(position->largest_read);
	if (position->nopen > 0)
		values[5] = store_id_array(position->open, position->nopen);
	counters_to_values(&position->counters, &values[6]);
	store_execute(&write_position, values,
				  position->nopen > 0 ? NULL : "     n        ");
}

/*
 * Write exceptions and position, all or nothing.  Unless it is durable, a
 * crash may undo it, and what it settled is sent again.
 */
StoreResult
store_checkpoint(StoreCheckpoint *checkpoint)
{
	StoreResult result = store_transaction(checkpoint_body, checkpoint);

	if (store_failed_on_event(result))
		result = store_salvage(checkpoint_body, checkpoint);
	if (result == STORE_OK && checkpoint->durable)
		XLogFlush(XactLastCommitEnd);
	return result;
}

typedef struct DeletedArgs
{
	MemoryContext context;
	const OutboxEvent *const *events;
	int			n;
	List	  **gone;
} DeletedArgs;

static void
find_deleted_body(void *arg)
{
	DeletedArgs *args = arg;
	Datum		values[2];
	Datum	   *event_ids = palloc(sizeof(Datum) * args->n);
	uint64		n;

	for (int i = 0; i < args->n; i++)
		event_ids[i] = DirectFunctionCall1(uuid_in,
										   CStringGetDatum(args->events[i]->msg.event_id));
	values[0] = store_ids_of_events(args->events, args->n);
	values[1] = store_array(event_ids, NULL, args->n, UUIDOID);
	n = store_execute(&find_deleted, values, NULL);
	MemoryContextSwitchTo(args->context);
	for (uint64 i = 0; i < n; i++)
	{
		int64	   *id = palloc(sizeof(int64));
		bool		isnull;

		*id = DatumGetInt64(store_result(i, 1, &isnull));
		*args->gone = lappend(*args->gone, id);
	}
}

/* The same one by one; one that cannot be read was not deleted. */
static void
find_each_deleted_body(void *arg)
{
	DeletedArgs *args = arg;

	for (int i = 0; i < args->n; i++)
	{
		DeletedArgs one = {args->context, &args->events[i], 1, args->gone};

		(void) store_try(find_deleted_body, &one, salvage_blames_event);
	}
}

/*
 * Which of these events were deleted from the table?  *gone becomes a list of
 * their ids, int64 *, in the current memory context.
 */
StoreResult
store_find_deleted(const OutboxEvent *const *events, int n, List **gone)
{
	DeletedArgs args = {CurrentMemoryContext, events, n, gone};

	StoreResult result;

	*gone = NIL;
	result = store_transaction(find_deleted_body, &args);
	if (store_failed_on_event(result))
		result = store_transaction(find_each_deleted_body, &args);
	return result;
}
