/*-------------------------------------------------------------------------
 *
 * admin.c
 *		SQL functions for the operator: retry, discard, start the relay.
 *
 * They change rows of outbox_delivery in the operator's transaction; when it
 * commits, the relay looks at those rows again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"

#include "shmem.h"
#include "store.h"

PG_FUNCTION_INFO_V1(outbox_retry);
PG_FUNCTION_INFO_V1(outbox_retry_dead);
PG_FUNCTION_INFO_V1(outbox_discard);
PG_FUNCTION_INFO_V1(outbox_start_relay);

static Datum
event_id_arg(FunctionCallInfo fcinfo)
{
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("event_id must not be null"),
				 errhint("The view outbox_events shows the ids of events.")));
	return PG_GETARG_DATUM(0);
}

Datum
outbox_retry(PG_FUNCTION_ARGS)
{
	store_retry(fcinfo->flinfo->fn_oid, event_id_arg(fcinfo));
	shmem_wake_relay_at_commit(true);
	PG_RETURN_VOID();
}

Datum
outbox_retry_dead(PG_FUNCTION_ARGS)
{
	Datum		topic = PG_ARGISNULL(0) ? (Datum) 0 : PG_GETARG_DATUM(0);
	int64		n = store_retry_dead(fcinfo->flinfo->fn_oid, topic,
									 PG_ARGISNULL(0));

	shmem_wake_relay_at_commit(true);
	PG_RETURN_INT64(n);
}

Datum
outbox_discard(PG_FUNCTION_ARGS)
{
	store_discard(fcinfo->flinfo->fn_oid, event_id_arg(fcinfo));
	shmem_wake_relay_at_commit(true);
	PG_RETURN_VOID();
}

Datum
outbox_start_relay(PG_FUNCTION_ARGS)
{
	shmem_wake_relay_at_commit(true);
	PG_RETURN_VOID();
}
