/*-------------------------------------------------------------------------
 *
 * monitor.c
 *		SQL functions behind the views: what library, relays, topics.
 *
 * They read shared memory, which is not there without preload; then there
 * are no relays to show.  A report is a relay's last word, not a look at it.  What
 * library this is also says whether it works with the extension's version.
 *
 * Locks: shmem.c's, for the time of a copy.  Errors: none but for memory, and
 * those of a scan of a catalog.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "lib/latency.h"
#include "lib/version.h"
#include "server/server.h"
#include "server/shmem.h"

PG_FUNCTION_INFO_V1(outbox_library);
PG_FUNCTION_INFO_V1(outbox_relay_status);
PG_FUNCTION_INFO_V1(outbox_topic_status);
PG_FUNCTION_INFO_V1(outbox_latency_bounds);

/* Columns of outbox_relay_status(), in the order of its OUT parameters. */
enum
{
	STATUS_DATID,
	STATUS_PID,
	STATUS_STATE,
	STATUS_SINCE,
	STATUS_IN_FLIGHT,
	STATUS_TOPICS_DOWN,
	STATUS_TOPICS_HELD,
	STATUS_LAST_ERROR,
	STATUS_LAST_ERROR_AT,
	STATUS_CONFIGURED,
	STATUS_ENDPOINT,
	STATUS_STARTED_AT,
	STATUS_PRUNING,
	STATUS_NEXT_PRUNE,
	STATUS_FILES,
	STATUS_CLOCK,
	STATUS_DESTINATION_ID,
	STATUS_DESTINATION,
	STATUS_PUBLISHER,
	STATUS_SOURCE,
	NSTATUS_COLUMNS
};

/* Columns of outbox_topic_status(), in the order of its OUT parameters. */
enum
{
	TOPIC_NAME,
	TOPIC_STATE,
	TOPIC_SINCE,
	TOPIC_IN_FLIGHT,
	TOPIC_LAST_ERROR,
	TOPIC_LAST_STATUS,
	TOPIC_NEXT_TRY,
	TOPIC_PUBLISHED,
	TOPIC_DESTINATION_ID,
	NTOPIC_COLUMNS
};

static const char *const status_names[] = {
	[RELAY_STARTING] = "starting",
	[RELAY_IDLE] = "idle",
	[RELAY_RELAYING] = "relaying",
	[RELAY_ENDPOINT_DOWN] = "endpoint down",
	[RELAY_STOPPED] = "stopped",
	[RELAY_DISABLED] = "disabled",
	[RELAY_PAUSING] = "pausing",
	[RELAY_PAUSED] = "paused"
};

/*
 * A row of "n" columns for a caller that wants those of "desc".  The function of
 * an earlier version wants less, that of a later one more: these are NULL.
 */
static HeapTuple
form_row(TupleDesc desc, const Datum *values, const bool *nulls, int n)
{
	Datum	   *wanted = palloc0(sizeof(Datum) * desc->natts);
	bool	   *unknown = palloc(sizeof(bool) * desc->natts);

	memset(unknown, true, sizeof(bool) * desc->natts);
	memcpy(wanted, values, sizeof(Datum) * Min(n, desc->natts));
	memcpy(unknown, nulls, sizeof(bool) * Min(n, desc->natts));
	return heap_form_tuple(desc, wanted, unknown);
}

/* The same, as one of the rows of a set. */
static void
put_row(ReturnSetInfo *result, const Datum *values, const bool *nulls, int n)
{
	tuplestore_puttuple(result->setResult,
						form_row(result->setDesc, values, nulls, n));
}

Datum
outbox_library(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Datum		values[3];
	bool		nulls[3] = {false};
	ExtensionRow extension;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("return type must be a row type")));
	values[0] = BoolGetDatum(shmem_attached());
	values[1] = CStringGetTextDatum(OUTBOX_VERSION);
	values[2] = BoolGetDatum(extension_row_read(&extension) &&
							 version_serves(OUTBOX_VERSION, extension.version));
	PG_RETURN_DATUM(HeapTupleGetDatum(form_row(BlessTupleDesc(desc), values, nulls,
											   lengthof(values))));
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
set_finding(Datum *values, bool *nulls, int n, const RelayFinding *finding)
{
	set_text(values, nulls, n, finding->known, finding->problem);
}

/* One row; what is not known, or has not happened, is NULL. */
static void
put_relay(const RelayInfo *relay, ReturnSetInfo *result)
{
	const RelayReport *report = &relay->report;
	Datum		values[NSTATUS_COLUMNS];
	bool		nulls[NSTATUS_COLUMNS] = {false};

	values[STATUS_DATID] = ObjectIdGetDatum(relay->dboid);
	values[STATUS_PID] = Int32GetDatum(relay->pid);
	nulls[STATUS_PID] = relay->pid == 0;
	values[STATUS_STATE] = CStringGetTextDatum(status_names[report->status]);
	set_time(values, nulls, STATUS_SINCE, report->since);
	values[STATUS_IN_FLIGHT] = Int32GetDatum(report->in_flight);
	values[STATUS_TOPICS_DOWN] = Int32GetDatum(report->topics_down);
	values[STATUS_TOPICS_HELD] = Int32GetDatum(report->topics_held);
	set_text(values, nulls, STATUS_LAST_ERROR, report->last_error[0] != '\0',
			 report->last_error);
	set_time(values, nulls, STATUS_LAST_ERROR_AT, report->last_error_at);
	set_finding(values, nulls, STATUS_CONFIGURED, &report->configured);
	set_finding(values, nulls, STATUS_ENDPOINT, &report->endpoint);
	set_time(values, nulls, STATUS_STARTED_AT, report->started_at);
	set_finding(values, nulls, STATUS_PRUNING, &report->pruning);
	set_time(values, nulls, STATUS_NEXT_PRUNE, report->next_prune);
	set_finding(values, nulls, STATUS_FILES, &report->files);
	set_finding(values, nulls, STATUS_CLOCK, &report->clock);
	values[STATUS_DESTINATION_ID] = Int32GetDatum(relay->destination);
	values[STATUS_DESTINATION] = CStringGetTextDatum(relay->name);
	set_text(values, nulls, STATUS_PUBLISHER, report->publisher[0] != '\0',
			 report->publisher);
	set_text(values, nulls, STATUS_SOURCE, report->source[0] != '\0',
			 report->source);
	put_row(result, values, nulls, NSTATUS_COLUMNS);
}

/* One row for each destination of a database that has, or is to have, a relay. */
Datum
outbox_relay_status(PG_FUNCTION_ARGS)
{
	ListCell   *lc;

	InitMaterializedSRF(fcinfo, 0);
	foreach(lc, shmem_list_relays())
		put_relay(lfirst(lc), (ReturnSetInfo *) fcinfo->resultinfo);
	return (Datum) 0;
}

static void
put_topic(const TopicReport *topic, int destination, ReturnSetInfo *result)
{
	Datum		values[NTOPIC_COLUMNS];
	bool		nulls[NTOPIC_COLUMNS] = {false};

	values[TOPIC_NAME] = CStringGetTextDatum(topic->topic);
	values[TOPIC_STATE] = CStringGetTextDatum(topic->held ? "held" : "down");
	set_time(values, nulls, TOPIC_SINCE, topic->since);
	values[TOPIC_IN_FLIGHT] = Int32GetDatum(topic->in_flight);
	set_text(values, nulls, TOPIC_LAST_ERROR, topic->last_error[0] != '\0',
			 topic->last_error);
	values[TOPIC_LAST_STATUS] = Int32GetDatum(topic->last_status);
	nulls[TOPIC_LAST_STATUS] = topic->last_status == 0;
	set_time(values, nulls, TOPIC_NEXT_TRY, topic->next_try);
	values[TOPIC_PUBLISHED] = Int64GetDatum(topic->published);
	values[TOPIC_DESTINATION_ID] = Int32GetDatum(destination);
	put_row(result, values, nulls, NTOPIC_COLUMNS);
}

/* One row for each topic of this database that a relay says is down or held. */
Datum
outbox_topic_status(PG_FUNCTION_ARGS)
{
	TopicsReport *report = palloc(sizeof(TopicsReport));
	ListCell   *lc;

	InitMaterializedSRF(fcinfo, 0);
	foreach(lc, shmem_list_relays())
	{
		const RelayInfo *relay = lfirst(lc);

		if (relay->dboid != MyDatabaseId)
			continue;
		shmem_copy_topics(relay->dboid, relay->destination, report);
		for (int i = 0; i < report->n; i++)
			put_topic(&report->topics[i], relay->destination,
					  (ReturnSetInfo *) fcinfo->resultinfo);
	}
	return (Datum) 0;
}

/* Upper bounds of the classes that latencies are counted by, in seconds. */
Datum
outbox_latency_bounds(PG_FUNCTION_ARGS)
{
	Datum		bounds[LATENCY_BUCKETS];

	for (int i = 0; i < LATENCY_BUCKETS; i++)
		bounds[i] = Float8GetDatum(latency_bounds[i]);
	PG_RETURN_ARRAYTYPE_P(construct_array(bounds, LATENCY_BUCKETS, FLOAT8OID, 8,
										  FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}
