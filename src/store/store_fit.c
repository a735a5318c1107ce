/*-------------------------------------------------------------------------
 *
 * store_fit.c
 *		Making what is in the tables fit the server that a relay starts on.
 *
 * Rows and the counters of a server need not belong together: a restore, or
 * replication of sequences without their tables, sets sequences back.  Ids would
 * then be used twice; and since the newest checkpoint is the one with the largest
 * id, those that follow would not count.  So sequences are set forward before
 * anything else is done.
 *
 * Nothing is locked against sessions that take ids meanwhile: those that are in
 * the way have rows already, so that such a session fails as it would have without
 * us.
 *
 * Errors: those of the statements, in a transaction of the store.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"

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

/* $1 largest id: whoever reads it from the table may meet a damaged page */
static Statement lift_events = {
	LIFT_SEQUENCE("outbox_event", "SELECT $1 AS id"),
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
	Datum		largest = Int64GetDatum(ids_largest());

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
