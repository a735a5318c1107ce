/*-------------------------------------------------------------------------
 *
 * monitor.c
 *		SQL functions behind the views: what library, what relays.
 *
 * They read shared memory only.  Without preload there is none, and no row.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "server/shmem.h"

PG_FUNCTION_INFO_V1(outbox_library);
PG_FUNCTION_INFO_V1(outbox_relay_status);

#define STATUS_COLUMNS	15

static const char *const status_names[] = {
	[RELAY_STARTING] = "starting",
	[RELAY_IDLE] = "idle",
	[RELAY_RELAYING] = "relaying",
	[RELAY_ENDPOINT_DOWN] = "endpoint down",
	[RELAY_STOPPED] = "stopped",
	[RELAY_DISABLED] = "disabled"
};

Datum
outbox_library(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Datum		values[2];
	bool		nulls[2] = {false, false};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("return type must be a row type")));
	values[0] = BoolGetDatum(shmem_attached());
	values[1] = CStringGetTextDatum(OUTBOX_VERSION);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc),
													  values, nulls)));
}

static void
set_text(Datum *values, bool *nulls, int n, bool known, const char *text)
{
	nulls[n] = !known;
	if (known)
		values[n] = CStringGetTextDatum(text);
}

static void
set_time(Datum *values, bool *nulls, int n, TimestampTz time)
{
	nulls[n] = time == 0;
	values[n] = TimestampTzGetDatum(time);
}

static void
put_relay(const RelayInfo *relay, ReturnSetInfo *result)
{
	const RelayReport *report = &relay->report;
	Datum		values[STATUS_COLUMNS];
	bool		nulls[STATUS_COLUMNS] = {false};

	values[0] = ObjectIdGetDatum(relay->dboid);
	values[1] = Int32GetDatum(relay->pid);
	nulls[1] = relay->pid == 0;
	values[2] = CStringGetTextDatum(status_names[report->status]);
	set_time(values, nulls, 3, report->since);
	values[4] = Int32GetDatum(report->in_flight);
	set_text(values, nulls, 5, report->last_error[0] != '\0',
			 report->last_error);
	set_time(values, nulls, 6, report->last_error_at);
	set_text(values, nulls, 7, report->configured.known,
			 report->configured.problem);
	set_text(values, nulls, 8, report->endpoint.known,
			 report->endpoint.problem);
	set_time(values, nulls, 9, report->started_at);
	values[10] = Int64GetDatum(report->counters.published);
	values[11] = Int64GetDatum(report->counters.failed_attempts);
	values[12] = Int64GetDatum(report->counters.dead);
	values[13] = Int64GetDatum(relay->duplicates);
	values[14] = Int64GetDatum(report->counters.pruned);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* One row for each database that has, or is just being asked for, a relay. */
Datum
outbox_relay_status(PG_FUNCTION_ARGS)
{
	ListCell   *lc;

	InitMaterializedSRF(fcinfo, 0);
	foreach(lc, shmem_list_relays())
		put_relay(lfirst(lc), (ReturnSetInfo *) fcinfo->resultinfo);
	return (Datum) 0;
}
