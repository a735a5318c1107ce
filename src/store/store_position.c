/*-------------------------------------------------------------------------
 *
 * store_position.c
 *		What two snapshots and an id say of an event.
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

static bool
is_visible(FullTransactionId xid, StoreSnapshot snapshot)
{
	return DatumGetBool(DirectFunctionCall2(pg_visible_in_snapshot,
											FullTransactionIdGetDatum(xid),
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
	FullTransactionId full_xid = FullTransactionIdFromU64(xid);

	return is_visible(full_xid, lo) ||
		(hi && id <= last_id && is_visible(full_xid, hi));
}

/* Does the position say of this event that it is settled? */
bool
store_is_covered(const StorePosition *position, uint64 xid, int64 id)
{
	return is_within(position->lo, position->hi, position->last_id, xid, id);
}

/* Has this event been read, from this window or from one before it? */
bool
store_has_read(const StoreWindow *window, uint64 xid, int64 id)
{
	return is_within(window->lo, window->hi,
					 window->exhausted ? PG_INT64_MAX : window->cursor, xid, id);
}
