/*-------------------------------------------------------------------------
 *
 * store_prune_each.c
 *		Pruning row by row, around the rows that resist.
 *
 * When a batch of a prune fails (a foreign key of an application's table, a
 * trigger that somebody made), its step goes on here: each row is deleted in a
 * subtransaction, those that fail are counted, and the last error is kept for
 * people to see.  Cursors pass them, so that each is tried once a prune.
 *
 * Errors that are not about single rows end the transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/xid8.h"

#include "guc.h"
#include "lib/text.h"
#include "store/store_internal.h"

/* $1 done, $2 target, $3 behind this id, $4 destinations, $5 limit */
static Statement list_late = {
	"WITH late AS MATERIALIZED (SELECT e.id FROM @s@.outbox_event e"
	"  WHERE e.xid = ANY (ARRAY(SELECT x.xid FROM pg_snapshot_xip($1) x(xid)"
	"   WHERE pg_visible_in_snapshot(x.xid, $2))))"
	" SELECT l.id FROM late l WHERE l.id > $3 AND" HAS_NO_ROW("l.id", "$4")
	" ORDER BY l.id LIMIT $5",
	5, {PG_SNAPSHOTOID, PG_SNAPSHOTOID, INT8OID, INT4ARRAYOID, INT8OID}
};

/*
 * $1, $2 walked up to here, $3 target, $4 destinations, $5 limit; id NULL: it
 * stays
 */
static Statement list_walk = {
	"SELECT CASE WHEN pg_visible_in_snapshot(e.xid, $3)"
	"  AND" HAS_NO_ROW("e.id", "$4")
	"  THEN e.id END, e.xid, e.id FROM @s@.outbox_event e"
	" WHERE (e.xid, e.id) > ($1, $2) AND e.xid < pg_snapshot_xmax($3)"
	" ORDER BY e.xid, e.id LIMIT $5",
	5, {XID8OID, INT8OID, PG_SNAPSHOTOID, INT4ARRAYOID, INT8OID}
};

/* $1 id */
static Statement delete_event = {
	"DELETE FROM @s@.outbox_event WHERE ctid =" EVENT_BY_ID("e.ctid", "$1"),
	1, {INT8OID}
};

/*
 * May the error be due to single rows?  Not if it is about locks, resources, or
 * the server.
 */
bool
prune_blames_row(int sqlstate)
{
	switch (ERRCODE_TO_CATEGORY(sqlstate))
	{
		case ERRCODE_TO_CATEGORY(ERRCODE_TRANSACTION_ROLLBACK):
		case ERRCODE_TO_CATEGORY(ERRCODE_INSUFFICIENT_RESOURCES):
		case ERRCODE_TO_CATEGORY(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE):
		case ERRCODE_TO_CATEGORY(ERRCODE_OPERATOR_INTERVENTION):
		case ERRCODE_TO_CATEGORY(ERRCODE_SYSTEM_ERROR):
			return false;
		default:
			return sqlstate != 0;
	}
}

typedef struct OneRow
{
	Statement  *statement;
	Datum	   *values;
	int64		ndeleted;
} OneRow;

static void
delete_one_row(void *arg)
{
	OneRow	   *row = arg;

	row->ndeleted = (int64) store_execute(row->statement, row->values, NULL);
}

/* Delete a row, or count that it resists. */
static void
try_to_delete(const PruneArgs *args, Statement *statement, Datum *values)
{
	StorePrune *prune = args->prune;
	OneRow		row = {statement, values, 0};
	char	   *error;

	CHECK_FOR_INTERRUPTS();
	error = store_try(delete_one_row, &row, prune_blames_row);
	*args->npruned += row.ndeleted;
	if (!error)
		return;
	prune->nresisting++;
	text_copy_line(prune->problem, sizeof(prune->problem), error);
	pfree(error);
}

/* Ids in a column of the last statement's rows; NULL ones are left out. */
static int64 *
take_ids(int nrows, int *n)
{
	int64	   *ids = palloc(sizeof(int64) * Max(nrows, 1));

	*n = 0;
	for (int i = 0; i < nrows; i++)
	{
		bool		isnull;
		Datum		id = store_result(i, 1, &isnull);

		if (!isnull)
			ids[(*n)++] = DatumGetInt64(id);
	}
	return ids;
}

/* Delete these events one by one, around those that resist. */
static void
delete_each_event(const PruneArgs *args, const int64 *ids, int n)
{
	for (int i = 0; i < n; i++)
	{
		Datum		value = Int64GetDatum(ids[i]);

		try_to_delete(args, &delete_event, &value);
	}
}

/* A batch of what is late, behind prune->tried_id; false if there is none. */
bool
prune_each_late(const PruneArgs *args)
{
	StorePrune *prune = args->prune;
	Datum		values[5];
	int64	   *ids;
	int			n;

	values[0] = PointerGetDatum(prune->done);
	values[1] = PointerGetDatum(prune->target);
	values[2] = Int64GetDatum(prune->tried_id);
	values[3] = args->destinations;
	values[4] = Int64GetDatum(args->limit);
	ids = take_ids((int) store_execute(&list_late, values, NULL), &n);
	if (n == 0)
		return false;
	prune->tried_id = ids[n - 1];
	delete_each_event(args, ids, n);
	return true;
}

/* A batch of the walk; false at its end. */
bool
prune_each_of_walk(const PruneArgs *args)
{
	StorePrune *prune = args->prune;
	Datum		values[5];
	int64	   *ids;
	int			nrows;
	int			n;

	values[0] = FullTransactionIdGetDatum(FullTransactionIdFromU64(prune->cursor_xid));
	values[1] = Int64GetDatum(prune->cursor_id);
	values[2] = PointerGetDatum(prune->target);
	values[3] = args->destinations;
	values[4] = Int64GetDatum(args->limit);
	nrows = (int) store_execute(&list_walk, values, NULL);
	if (nrows == 0)
		return false;
	prune->cursor_xid = U64FromFullTransactionId(DatumGetFullTransactionId(store_value(nrows - 1, 2)));
	prune->cursor_id = DatumGetInt64(store_value(nrows - 1, 3));
	ids = take_ids(nrows, &n);
	delete_each_event(args, ids, n);
	return true;
}

/*
 * Exceptions with these ids: "statement" deletes those whose ids are its first
 * parameter, which is set here.
 */
void
prune_each_exception(const PruneArgs *args, Statement *statement,
					 Datum *values, const int64 *ids, int n)
{
	for (int i = 0; i < n; i++)
	{
		values[0] = store_id_array(&ids[i], 1);
		try_to_delete(args, statement, values);
	}
}
