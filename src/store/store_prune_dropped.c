/*-------------------------------------------------------------------------
 *
 * store_prune_dropped.c
 *		Pruning what is left of destinations that were dropped.
 *
 * Whoever drops a destination takes its name away; its relay ends when it hears of
 * that.  What its relay has written is deleted here, in batches, and in the end its own
 * row, when there is no relay any more that could write something.
 *
 * Errors: those of the statements, in a transaction of the store.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"

#include "store/store_internal.h"

static Statement find_dropped = {
	"SELECT d.id FROM @s@.outbox_destination d WHERE d.name IS NULL"
	" ORDER BY d.id LIMIT 1",
	0
};

/* $1 destination, $2 limit */
#define DELETE_ROWS(table) \
	"DELETE FROM @s@." table " WHERE ctid = ANY (ARRAY(" \
	" SELECT x.ctid FROM @s@." table " x WHERE x.destination = $1 LIMIT $2))", \
	2, {INT4OID, INT8OID}

static Statement delete_rows[] = {
	{DELETE_ROWS("outbox_delivery")},
	{DELETE_ROWS("outbox_request")},
	{DELETE_ROWS("outbox_progress")},
	{DELETE_ROWS("outbox_filter")}
};

/* $1 destination */
static Statement delete_destination = {
	"DELETE FROM @s@.outbox_destination d WHERE d.id = $1 AND d.name IS NULL",
	1, {INT4OID}
};

/* $1 limit; asked by a transaction that did not see yet that it was dropped */
static Statement delete_late_requests = {
	"DELETE FROM @s@.outbox_request WHERE id = ANY (ARRAY("
	" SELECT r.id FROM @s@.outbox_request r"
	" WHERE r.destination <> 0 AND NOT EXISTS (SELECT 1"
	"  FROM @s@.outbox_destination d WHERE d.id = r.destination OFFSET 0)"
	" LIMIT $1))",
	1, {INT8OID}
};

/* A batch of what is left; false if there is nothing to be deleted now. */
bool
prune_dropped(const PruneArgs *args)
{
	Datum		values[2];
	uint64		n = 0;

	values[1] = Int64GetDatum(args->limit);
	if (store_execute(&find_dropped, NULL, NULL) == 0)
		return store_execute(&delete_late_requests, &values[1], NULL) > 0;
	values[0] = store_value(0, 1);
	if (!store_has_no_relay(DatumGetInt32(values[0])))
		return false;
	for (int i = 0; i < lengthof(delete_rows) && n == 0; i++)
		n = store_execute(&delete_rows[i], values, NULL);
	if (n == 0)
		store_execute(&delete_destination, values, NULL);
	return true;
}
