/*-------------------------------------------------------------------------
 *
 * store_dead.c
 *		Sending again what is dead.
 *
 * Who asks for that means what was dead when he asked.  It is found by when it
 * died, some in each transaction, behind a cursor that is kept with the request:
 * so each row is passed once, those of other topics too, and each entry that an
 * old snapshot keeps of rows that are dead no longer (row_scan.c).
 *
 * In the transaction that serves the request (store_request.c), which puts the
 * cursor back if it fails.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/timestamp.h"

#include "store/row_scan.h"
#include "store/store_internal.h"

/* $1 ids, $2 now */
static Statement retry_dead = {
	"UPDATE @s@.outbox_delivery d" FRESH("$2")
	" WHERE d.destination = @d@ AND d.id = ANY ($1) AND d.state = 'dead'"
	" RETURNING d.id, d.topic, d.key",
	2, {INT8ARRAYOID, TIMESTAMPTZOID}
};

/*
 * The next rows that died behind the cursor, which moves, and until a time: an
 * array of the ids of at most "limit" of them.  Of a topic, unless that is NULL.
 * *more: there are others behind the cursor.
 */
static Datum
find_dead(StoreTimeCursor *cursor, TimestampTz until, const Datum *topic,
		  int limit, bool *more)
{
	int64	   *ids = palloc(sizeof(int64) * limit);
	int			n = 0;
	RowScan		rows;

	row_scan_begin(&rows, "outbox_delivery_state_idx", 3);
	row_scan_limit(&rows, limit);
	row_scan_died(&rows, cursor, until);
	while (n < limit && row_scan_next(&rows))
	{
		if (!topic || row_has_topic(&rows, *topic))
			ids[n++] = row_id(&rows);
	}
	*more = rows.stopped || n == limit;
	cursor->time = rows.at_time;
	cursor->id = rows.at_id;
	row_scan_end(&rows);
	return store_id_array(ids, n);
}

/*
 * Make the next of the rows due "now" that died until somebody asked for that by
 * the request with this id; at most "limit", and only those of a topic, unless
 * that is NULL.  They are the result of the statement.  Returns whether there are
 * more.
 */
bool
dead_retry(StoreRequestCursor *cursor, int64 request, const Datum *topic,
		   TimestampTz until, TimestampTz now, int limit)
{
	Datum		values[2];
	bool		more;

	/* one that was asked for earlier may be seen only now */
	if (cursor->retrying != request)
	{
		cursor->retrying = request;
		cursor->died.time = DT_NOBEGIN;
	}
	values[0] = find_dead(&cursor->died, until, topic, limit, &more);
	values[1] = TimestampTzGetDatum(now);
	store_execute(&retry_dead, values, NULL);
	if (!more)
		cursor->retrying = 0;
	return more;
}
