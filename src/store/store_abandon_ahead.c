/*-------------------------------------------------------------------------
 *
 * store_abandon_ahead.c
 *		Giving up events that are behind the position and have no row.
 *
 * The walk along the index on (xid, id), as store_abandon.c describes it.
 *
 * In a transaction of the store.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

#include "store/store_request.h"

/*
 * $1 destination, $2 to $5 as READ has them, $6, $7 walked up to here, $8 limit, $9
 * what is as old as this; of each event, has it been read, is it old, only scheduled
 * so long ago, and may it be without a row although the destination takes it?
 */
#define AHEAD \
	"SELECT e.xid, e.id, " READ ", e.created_at <= $9," \
	" coalesce(e.deliver_after > $9, false)," \
	" CASE WHEN NOT" HAS_NO_ROW("e.id", "ARRAY[$1]") " THEN false" \
	"  WHEN e.created_at > $9 THEN true" \
	"  ELSE @s@.outbox_takes($1, e.xid, e.topic) END" \
	" FROM @s@.outbox_event e"

#define AHEAD_TYPES \
	9, {INT4OID, PG_SNAPSHOTOID, PG_SNAPSHOTOID, INT8OID, INT8ARRAYOID, \
	XID8OID, INT8OID, INT8OID, TIMESTAMPTZOID}

static Statement list_ahead = {
	AHEAD " WHERE (e.xid, e.id) > ($6, $7) ORDER BY e.xid, e.id LIMIT $8",
	AHEAD_TYPES
};

/* The same of the event with the id $7 alone. */
static Statement list_one = {
	AHEAD " WHERE e.id = $7",
	AHEAD_TYPES
};

/* $1 destination, $2 ids, $3 what is as old as this, $4 why */
static Statement make_rows = {
	"INSERT INTO @s@.outbox_delivery AS d (destination, id, topic, key, state,"
	" next_attempt_at, last_error)"
	" SELECT $1, e.id, e.topic, e.key,"
	"  CASE WHEN e.deliver_after > $3 THEN 'scheduled' ELSE 'expired' END,"
	"  CASE WHEN e.deliver_after > $3 THEN e.deliver_after END,"
	"  CASE WHEN e.deliver_after > $3 THEN NULL ELSE $4 END"
	" FROM unnest($2) i(id),"
	" LATERAL (SELECT * FROM @s@.outbox_event x WHERE x.id = i.id OFFSET 0) e"
	" ON CONFLICT (destination, id) DO NOTHING"
	" RETURNING d.id, d.topic, d.key, d.state",
	4, {INT4OID, INT8ARRAYOID, TIMESTAMPTZOID, TEXTOID}
};

/* Rows for these events, of which the relay hears what it has to. */
static void
make_rows_now(AbandonArgs *args, const int64 *ids, int n)
{
	int			nrows = (int) abandon_write_rows(args, &make_rows, ids, n);

	for (int i = 0; i < nrows; i++)
	{
		int64		id = DatumGetInt64(store_value(i, 1));
		bool		expired = store_state(store_value(i, 4)) == DELIVERY_EXPIRED;

		if (expired)
			(*args->nexpired)++;
		if (!expired || abandon_place_of(args, id) != PLACE_TABLE)
			abandon_add_served(args, i, expired);
	}
}

/*
 * What is to be done with the event in this row of list_ahead?  True: it gets a row.
 * *old tells whether it is.
 */
static bool
is_abandoned(AbandonArgs *args, int row, bool *old)
{
	StoreAbandon *abandon = args->abandon;
	bool		read = DatumGetBool(store_value(row, 3));
	bool		scheduled = DatumGetBool(store_value(row, 5));
	bool		wanted = DatumGetBool(store_value(row, 6));
	StorePlace	place = abandon_place_of(args, abandon->id);
	bool		result;

	*old = DatumGetBool(store_value(row, 4));

	/* it has a row, goes elsewhere, or was published */
	if (!wanted || (read && place == PLACE_TABLE))
		result = false;

	/* one that is not due yet gets the row that the reader would give it */
	else if (*old && place != PLACE_IN_FLIGHT &&
			 !(scheduled && place == PLACE_MEMORY))
		result = true;
	else
	{
		if (abandon->left == 0)
			abandon->left = abandon->xid;
		return false;
	}
	abandon->unread |= !read;
	return result;
}

/* The parameters of AHEAD: what comes behind the event that the walk has come to. */
static void
ahead_to_values(const AbandonArgs *args, const StoreWindow *window, Datum *values)
{
	const StoreAbandon *abandon = args->abandon;

	values[0] = Int32GetDatum(abandon->destination);
	store_window_to_values(window, values);
	values[5] = FullTransactionIdGetDatum(FullTransactionIdFromU64(abandon->xid));
	values[6] = Int64GetDatum(abandon->id);
	values[7] = Int64GetDatum(args->limit);
	values[8] = TimestampTzGetDatum(abandon->until);
}

/* The walk has come to this event. */
static void
come_to(StoreAbandon *abandon, uint64 xid, int64 id)
{
	abandon->xid = xid;
	abandon->id = id;
	abandon->largest = Max(abandon->largest, id);
}

/* The event that the walk has come to. */
static void
abandon_one_ahead(void *arg)
{
	OneAbandoned *one = arg;
	Datum		values[9];
	bool		old;

	ahead_to_values(one->args, one->window, values);
	if (store_execute(&list_one, values, NULL) > 0 &&
		is_abandoned(one->args, 0, &old))
		make_rows_now(one->args, &one->id, 1);
}

/*
 * The event that the walk has come to cannot be read.  It is dead, if the relay would
 * have found that as soon as it read on; else the position does not pass it.
 */
static void
set_aside_ahead(AbandonArgs *args, const char *error)
{
	StoreAbandon *abandon = args->abandon;
	int64		id = abandon->id;

	/* of one that nobody could see yet, this will be found later */
	if (!store_is_visible(abandon->seen, abandon->xid))
		return;
	if (args->window && abandon_place_of(args, id) == PLACE_TABLE)
	{
		if (store_has_read(args->window, abandon->xid, id) ||
			salvage_ids_without_row(&id, 1) == 0)
			return;
		salvage_set_aside(abandon->id, true, error);
		abandon->unread = true;
	}
	else if (abandon->left == 0)
		abandon->left = abandon->xid;
}

/* The same as abandon_ahead(), but for events that cannot be read. */
static bool
abandon_ahead_one_by_one(AbandonArgs *args, const StoreWindow *window)
{
	StoreAbandon *abandon = args->abandon;
	uint64	   *xids;
	int64	   *ids;
	int			n = ids_behind(abandon->xid, abandon->id, args->limit, &xids, &ids);

	for (int i = 0; i < n; i++)
	{
		OneAbandoned one = {args, window, ids[i]};
		char	   *error;

		come_to(abandon, xids[i], ids[i]);
		error = store_try(abandon_one_ahead, &one, salvage_blames_event);
		if (error)
			set_aside_ahead(args, error);
	}
	return n == args->limit;
}

/*
 * A batch of the events behind the position that have no row; false if there is
 * nothing old behind it.
 */
bool
abandon_ahead(AbandonArgs *args)
{
	StoreAbandon *abandon = args->abandon;
	int64	   *ids = palloc(sizeof(int64) * args->limit);
	StoreWindow position;
	const StoreWindow *window = abandon_find_window(abandon, args->window, &position);
	Datum		values[9];
	bool		any_old = false;
	int			nlisted;
	int			n = 0;

	if (!window)
		return false;
	if (salvage_runs())
		return abandon_ahead_one_by_one(args, window);
	ahead_to_values(args, window, values);
	nlisted = (int) store_execute(&list_ahead, values, NULL);
	for (int i = 0; i < nlisted; i++)
	{
		bool		old;

		come_to(abandon,
				U64FromFullTransactionId(DatumGetFullTransactionId(store_value(i, 1))),
				DatumGetInt64(store_value(i, 2)));
		if (is_abandoned(args, i, &old))
			ids[n++] = abandon->id;
		any_old |= old;
	}
	if (n > 0)
		make_rows_now(args, ids, n);
	return any_old && nlisted == args->limit;
}
