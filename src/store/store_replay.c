/*-------------------------------------------------------------------------
 *
 * store_replay.c
 *		What is settled for a destination is sent to it again.
 *
 * A request to replay is served in batches, in the order of ids: each event that is
 * kept, that the destination takes by its newest filter, and that is settled for it
 * gets a row, pending and due now, or scheduled if its time has not come, with fresh
 * attempts.  The request says how far this has come, so that a crash or a new relay
 * goes on from there, and stays until all is done.  What is pending, failed or dead, or
 * has not been read, is left alone, and so is what was published after the request: it
 * has a larger id than all that was settled then.
 *
 * The horizon of pruning is kept meanwhile, so that no event goes while it gets a
 * row.
 *
 * Errors: those of the statements, in a transaction of the store.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/timestamp.h"

#include "store/store_request.h"

/*
 * $1 behind this id, $2 lo, $3 hi and $4 cursor of the window that is being read, $5
 * what it is still to read first, $6 pattern of topics or NULL, $7 since or NULL, $8
 * limit, $9 up to this id; each event, and whether it is meant
 */
static Statement list_settled = {
	"SELECT e.id, ($7 IS NULL OR e.created_at >= $7)"
	"  AND ($6 IS NULL OR @s@.outbox_topic_matches(e.topic, ARRAY[$6]))"
	"  AND coalesce(@s@.outbox_topic_matches(e.topic, (SELECT f.topics"
	"   FROM @s@.outbox_filter f WHERE f.destination = @d@"
	"   ORDER BY f.version DESC LIMIT 1)), true)"
	"  AND coalesce((SELECT d.state IN ('published', 'discarded', 'expired')"
	"    FROM @s@.outbox_delivery d"
	"    WHERE d.destination = @d@ AND d.id = e.id OFFSET 0), " READ ")"
	" FROM @s@.outbox_event e WHERE e.id > $1 AND e.id <= $9"
	" ORDER BY e.id LIMIT $8",
	9, {INT8OID, PG_SNAPSHOTOID, PG_SNAPSHOTOID, INT8OID, INT8ARRAYOID,
	TEXTOID, TIMESTAMPTZOID, INT8OID, INT8OID}
};

/* $1 ids, $2 now */
static Statement send_again = {
	"INSERT INTO @s@.outbox_delivery AS d (destination, id, topic, key, state,"
	" next_attempt_at, renewed_at)"
	" SELECT @d@, e.id, e.topic, e.key, CASE WHEN e.deliver_after > $2"
	"  THEN 'scheduled' ELSE 'pending' END, greatest(e.deliver_after, $2), $2"
	" FROM unnest($1) i(id), LATERAL (SELECT x.id, x.topic, x.key, x.deliver_after"
	"  FROM @s@.outbox_event x WHERE x.id = i.id OFFSET 0) e"
	" ON CONFLICT (destination, id) DO UPDATE SET state = EXCLUDED.state,"
	" attempts = 0, crashes = 0, next_attempt_at = EXCLUDED.next_attempt_at,"
	" renewed_at = EXCLUDED.renewed_at,"
	" updated_at = clock_timestamp()"
	" WHERE d.state IN ('published', 'discarded', 'expired')"
	" RETURNING d.id, d.topic, d.key",
	2, {INT8ARRAYOID, TIMESTAMPTZOID}
};

/* $1 id, $2 done up to here */
static Statement note_progress = {
	"UPDATE @s@.outbox_request r SET event = $2"
	" WHERE r.destination = @d@ AND r.id = $1",
	2, {INT8OID, INT8OID}
};

/* The events of a batch that are meant and not in memory. */
static int
take_settled(const ServeArgs *args, int nlisted, int64 *ids)
{
	int			n = 0;

	for (int i = 0; i < nlisted; i++)
	{
		int64		id = DatumGetInt64(store_value(i, 1));
		bool		isnull;
		bool		meant = DatumGetBool(store_result(i, 2, &isnull));

		/* it has been read, but is not settled */
		if (!isnull && meant && !args->in_memory(id, args->arg))
			ids[n++] = id;
	}
	return n;
}

/* A batch of a request to replay; true if nothing is left of it. */
bool
store_serve_replay(ServeArgs *args, const Request *request)
{
	int			limit = STORE_REPLAY_BATCH;
	int64	   *ids = palloc(sizeof(int64) * limit);
	Datum		values[9];
	char		nulls[10] = "         ";
	int64		last;
	int			nlisted;
	int			n;

	store_keep_horizon();
	values[0] = request->event;
	store_window_to_values(args->window, values);
	values[5] = request->topic;
	nulls[5] = request->all_topics ? 'n' : ' ';
	values[6] = request->since;
	nulls[6] = request->since == 0 ? 'n' : ' ';
	values[7] = Int64GetDatum(limit);
	values[8] = request->newest;
	nlisted = (int) store_execute(&list_settled, values, nulls);
	if (nlisted == 0)
		return true;
	last = DatumGetInt64(store_value(nlisted - 1, 1));
	n = take_settled(args, nlisted, ids);
	if (n > 0)
	{
		values[0] = store_id_array(ids, n);
		values[1] = TimestampTzGetDatum(args->now);
		store_execute(&send_again, values, NULL);
		(void) store_add_served(args, false);
	}
	values[0] = request->id;
	values[1] = Int64GetDatum(last);
	store_execute(&note_progress, values, NULL);
	return nlisted < limit;
}
