/*-------------------------------------------------------------------------
 *
 * store_position.c
 *		What two snapshots and ids say of an event.
 *
 * See store_window.c for why it takes both.  Nothing here needs a transaction,
 * allocates what stays, or throws.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/fmgrprotos.h"
#include "utils/xid8.h"

#include "store/store_internal.h"

/* Does the snapshot see what this transaction did? */
bool
store_is_visible(StoreSnapshot snapshot, uint64 xid)
{
	FullTransactionId full_xid = FullTransactionIdFromU64(xid);

	return DatumGetBool(DirectFunctionCall2(pg_visible_in_snapshot,
											FullTransactionIdGetDatum(full_xid),
											PointerGetDatum(snapshot)));
}

/*
 * Is the event, of this transaction, visible in "lo", or in "hi" (NULL: nothing
 * is) with an id up to "last_id"?
 */
static bool
is_within(StoreSnapshot lo, StoreSnapshot hi, int64 last_id, uint64 xid,
		  int64 id)
{
	return store_is_visible(lo, xid) ||
		(hi && id <= last_id && store_is_visible(hi, xid));
}

static bool
is_open(const int64 *open, int nopen, int64 id)
{
	for (int i = 0; i < nopen; i++)
	{
		if (open[i] == id)
			return true;
	}
	return false;
}

/* Does the position say of this event that it is settled? */
bool
store_is_covered(const StorePosition *position, uint64 xid, int64 id)
{
	return is_within(position->lo, position->hi, position->last_id, xid, id) &&
		!is_open(position->open, position->nopen, id);
}

/* Has this event been read, from this window or from one before it? */
bool
store_has_read(const StoreWindow *window, uint64 xid, int64 id)
{
	return is_within(window->lo, window->hi,
					 window->exhausted ? PG_INT64_MAX : window->cursor, xid, id) &&
		!is_open(window->open, window->nopen, id);
}
