/*-------------------------------------------------------------------------
 *
 * store_served.c
 *		What serving a request needs: what has been read, and whom it has concerned.
 *
 * In a transaction of the store.  Errors: none but those of memory.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "store/store_request.h"

/*
 * What the last statement has returned in this row, id, topic and key, in the current
 * memory context; "gone": the event is given up or deleted.
 */
StoreServed *
store_make_served(int row, bool gone)
{
	StoreServed *served = palloc0(sizeof(StoreServed));
	bool		isnull;
	Datum		topic;
	Datum		key;

	served->key.id = DatumGetInt64(store_result(row, 1, &isnull));
	topic = store_result(row, 2, &isnull);
	key = store_result(row, 3, &isnull);
	if (!isnull)
	{
		served->key.topic = store_utf8(topic);
		served->key.key = store_utf8(key);
	}
	served->gone = gone;
	return served;
}

/*
 * Add the rows that the last statement returned, id, topic and key, to what was served;
 * "gone": they are given up or deleted.  How many?
 */
int
store_add_served(ServeArgs *args, bool gone)
{
	int			n = SPI_processed;
	MemoryContext old = MemoryContextSwitchTo(args->context);

	for (int i = 0; i < n; i++)
		*args->served = lappend(*args->served, store_make_served(i, gone));
	MemoryContextSwitchTo(old);
	return n;
}

/* The parameters of READ, $2 to $5, among "values". */
void
store_window_to_values(const StoreWindow *window, Datum *values)
{
	Assert(window->hi);
	values[1] = PointerGetDatum(window->lo);
	values[2] = PointerGetDatum(window->hi);
	values[3] = Int64GetDatum(window->exhausted ? PG_INT64_MAX :
							  window->cursor);
	values[4] = store_id_array(window->open, window->nopen);
}
