/*-------------------------------------------------------------------------
 *
 * admin.c
 *		What the operator does by hand: retry, discard, start the relay.
 *
 * What these functions are asked for becomes a row of outbox_request, in the
 * operator's transaction; when that has committed, the relay does it.  No lock
 * is held that the relay, or another operator, would wait for.
 *
 * Errors go to the caller: bad input, and events in a state that does not allow
 * what is asked.  The state is looked at here, and again when it is done.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "commands/trigger.h"
#include "fmgr.h"
#include "miscadmin.h"

#include "api/optional_arg.h"
#include "server/shmem.h"
#include "store/store.h"

PG_FUNCTION_INFO_V1(outbox_retry);
PG_FUNCTION_INFO_V1(outbox_retry_dead);
PG_FUNCTION_INFO_V1(outbox_discard);
PG_FUNCTION_INFO_V1(outbox_start_relay);

/* The first argument, which says which event. */
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
	PreventCommandIfReadOnly("outbox_retry()");
	store_retry(fcinfo->flinfo->fn_oid, event_id_arg(fcinfo),
				optional_arg(fcinfo, 1));
	shmem_wake_relays_at_commit(RELAY_REQUEST_SERVE);
	PG_RETURN_VOID();
}

Datum
outbox_retry_dead(PG_FUNCTION_ARGS)
{
	int64		n;

	PreventCommandIfReadOnly("outbox_retry_dead()");
	n = store_retry_dead(fcinfo->flinfo->fn_oid, optional_arg(fcinfo, 0),
						 optional_arg(fcinfo, 1));
	shmem_wake_relays_at_commit(RELAY_REQUEST_SERVE);
	PG_RETURN_INT64(n);
}

Datum
outbox_discard(PG_FUNCTION_ARGS)
{
	PreventCommandIfReadOnly("outbox_discard()");
	store_discard(fcinfo->flinfo->fn_oid, event_id_arg(fcinfo),
				  optional_arg(fcinfo, 1));
	shmem_wake_relays_at_commit(RELAY_REQUEST_SERVE);
	PG_RETURN_VOID();
}

Datum
outbox_start_relay(PG_FUNCTION_ARGS)
{
	shmem_wake_relays_at_commit(RELAY_REQUEST_SERVE);
	PG_RETURN_VOID();
}
