/*-------------------------------------------------------------------------
 *
 * store_counters.c
 *		What was counted for a destination, on its way to outbox_progress and back.
 *
 * A checkpoint has the counters as they are with its position: what a crash undoes
 * of the one, it undoes of the other.  So what is sent again counts once.
 *
 * In a transaction of the store.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "store/store_internal.h"

#define COUNTER_VALUE(column, field) \
	*values++ = Int64GetDatum(counters->field);

#define COUNTER_RESULT(column, field) \
	counters->field = DatumGetInt64(store_value(0, first++));

/* COUNTERS_NARGS values, in the order of COUNTER_COLUMNS. */
void
counters_to_values(const StoreCounters *counters, Datum *values)
{
	STORE_COUNTERS(COUNTER_VALUE);
	*values = store_id_array(counters->latency.counts, LATENCY_BUCKETS);
}

/*
 * The same of the last statement's first row, from this column on.  Somebody may have
 * written an array of another length; COUNTER_COLUMNS_READ has no NULL.
 */
void
counters_from_result(StoreCounters *counters, int first)
{
	int			n;
	int64	   *counts;

	STORE_COUNTERS(COUNTER_RESULT);
	counts = store_ids_of_array(store_value(0, first), &n);
	memset(counters->latency.counts, 0, sizeof(counters->latency.counts));
	memcpy(counters->latency.counts, counts,
		   sizeof(int64) * Min(n, LATENCY_BUCKETS));
}
