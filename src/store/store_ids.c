/*-------------------------------------------------------------------------
 *
 * store_ids.c
 *		Ids of events, as the indexes of outbox_event have them.
 *
 * Whoever only wants ids need not look at the table, where rows may be dead by
 * the thousand, or a page may be damaged.  The price is that an index has
 * entries of rows that nobody sees: deleted ones, and those of transactions and
 * savepoints that were rolled back.
 *
 * In a transaction of the store; what is opened is closed by the end of the
 * scan or of the transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/relscan.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/transam.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/xid8.h"

#include "lib/compat.h"
#include "store/store_internal.h"

typedef struct IdScan
{
	Relation	table;
	Relation	index;
	IndexScanDesc scan;
} IdScan;

static void
id_scan_begin(IdScan *ids, const char *index, int nkeys)
{
	ids->table = table_open(store_relation("outbox_event"), AccessShareLock);
	ids->index = index_open(store_relation(index), AccessShareLock);
	ids->scan = index_beginscan_compat(ids->table, ids->index, SnapshotAny,
									   nkeys);
	ids->scan->xs_want_itup = true;
}

static void
id_scan_end(IdScan *ids)
{
	index_endscan(ids->scan);
	index_close(ids->index, AccessShareLock);
	table_close(ids->table, AccessShareLock);
}

/* A column of the current entry, none of which is ever NULL. */
static Datum
id_scan_column(IdScan *ids, int column)
{
	bool		isnull;

	return index_getattr(ids->scan->xs_itup, column, ids->scan->xs_itupdesc,
						 &isnull);
}

/*
 * The smallest and the largest id that the transactions from xmax(lo) on took,
 * as min_id and max_id of the window.  They may be farther apart than those of
 * the rows that are visible, whereas visits to all rows of a large backlog
 * would delay its first event by seconds.
 */
void
ids_find_range(StoreWindow *window)
{
	IdScan		ids;
	ScanKeyData keys[2];

	ScanKeyInit(&keys[0], 1, BTGreaterEqualStrategyNumber, F_XID8GE,
				DirectFunctionCall1(pg_snapshot_xmax,
									PointerGetDatum(window->lo)));
	ScanKeyInit(&keys[1], 1, BTLessStrategyNumber, F_XID8LT,
				DirectFunctionCall1(pg_snapshot_xmax,
									PointerGetDatum(window->hi)));

	/* every entry is passed: ids are not in the order of transactions */
	window->min_id = PG_INT64_MAX;
	window->max_id = 0;
	id_scan_begin(&ids, STORE_XID_INDEX, lengthof(keys));
	index_rescan(ids.scan, keys, lengthof(keys), NULL, 0);
	while (index_getnext_tid(ids.scan, ForwardScanDirection))
	{
		int64		id = DatumGetInt64(id_scan_column(&ids, 2));

		CHECK_FOR_INTERRUPTS();
		window->min_id = Min(window->min_id, id);
		window->max_id = Max(window->max_id, id);
	}
	id_scan_end(&ids);
}

/* The largest id that there is; 0 if there is none. */
int64
ids_largest(void)
{
	IdScan		ids;
	int64		id = 0;

	id_scan_begin(&ids, STORE_PRIMARY_KEY, 0);
	index_rescan(ids.scan, NULL, 0, NULL, 0);
	if (index_getnext_tid(ids.scan, BackwardScanDirection))
		id = DatumGetInt64(id_scan_column(&ids, 1));
	id_scan_end(&ids);
	return id;
}

/* The block of the table in which this event is. */
BlockNumber
ids_block(int64 id)
{
	IdScan		ids;
	BlockNumber block = InvalidBlockNumber;
	ScanKeyData key;
	ItemPointer tid;

	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(id));
	id_scan_begin(&ids, STORE_PRIMARY_KEY, 1);
	index_rescan(ids.scan, &key, 1, NULL, 0);
	if ((tid = index_getnext_tid(ids.scan, ForwardScanDirection)) != NULL)
		block = ItemPointerGetBlockNumber(tid);
	id_scan_end(&ids);
	return block;
}

/* The smallest ids of a window, which are not found in their order. */
typedef struct IdList
{
	int64	   *ids;			/* with room for twice the limit */
	int			n;
	int			limit;
	int64		after;			/* larger than this */
} IdList;

static int
compare_ids(const void *a, const void *b)
{
	int64		x = *(const int64 *) a;
	int64		y = *(const int64 *) b;

	return x < y ? -1 : x > y;
}

/* Keep the smallest ones, in their order. */
static void
keep_smallest(IdList *list)
{
	qsort(list->ids, list->n, sizeof(int64), compare_ids);
	list->n = Min(list->n, list->limit);
}

/* Add what the window has of the transactions from "from" up to "to". */
static void
add_ids_of_range(IdList *list, const StoreWindow *window, IdScan *ids,
				 Datum from, Datum to)
{
	Datum		lo = PointerGetDatum(window->lo);
	Datum		hi = PointerGetDatum(window->hi);
	ScanKeyData keys[2];

	ScanKeyInit(&keys[0], 1, BTGreaterEqualStrategyNumber, F_XID8GE, from);
	ScanKeyInit(&keys[1], 1, BTLessEqualStrategyNumber, F_XID8LE, to);
	index_rescan(ids->scan, keys, lengthof(keys), NULL, 0);
	while (index_getnext_tid(ids->scan, ForwardScanDirection))
	{
		Datum		xid = id_scan_column(ids, 1);
		int64		id = DatumGetInt64(id_scan_column(ids, 2));

		CHECK_FOR_INTERRUPTS();
		if (id <= list->after ||
			!DatumGetBool(DirectFunctionCall2(pg_visible_in_snapshot, xid, hi)) ||
			DatumGetBool(DirectFunctionCall2(pg_visible_in_snapshot, xid, lo)))
			continue;
		list->ids[list->n++] = id;
		if (list->n == 2 * list->limit)
			keep_smallest(list);
	}
}

/*
 * The next ids of the window, which is open, at most "limit", in their order;
 * how many?  *result is palloc'd.
 */
int
ids_of_window(const StoreWindow *window, int limit, int64 **result)
{
	IdList		list = {palloc(sizeof(int64) * 2 * limit), 0, limit,
	window->cursor};
	Datum		from = DirectFunctionCall1(pg_snapshot_xmax,
										   PointerGetDatum(window->lo));
	Datum		to = DirectFunctionCall1(pg_snapshot_xmax,
										 PointerGetDatum(window->hi));
	IdScan		ids;

	id_scan_begin(&ids, STORE_XID_INDEX, 2);
	add_ids_of_range(&list, window, &ids, from, to);
	if (window->late)
	{
		Datum	   *xids;
		int			nxids;

		deconstruct_array(window->late, XID8OID, 8, FLOAT8PASSBYVAL,
						  TYPALIGN_DOUBLE, &xids, NULL, &nxids);
		for (int i = 0; i < nxids; i++)
			add_ids_of_range(&list, window, &ids, xids[i], xids[i]);
	}
	id_scan_end(&ids);
	keep_smallest(&list);
	*result = list.ids;
	return list.n;
}

/*
 * The next entries behind this one, at most "limit", in the order of (xid, id); how many?
 * Both results are palloc'd.
 */
int
ids_behind(uint64 xid, int64 id, int limit, uint64 **xids, int64 **result)
{
	ScanKeyData key;
	IdScan		ids;
	int			n = 0;

	*xids = palloc(sizeof(uint64) * limit);
	*result = palloc(sizeof(int64) * limit);
	ScanKeyInit(&key, 1, BTGreaterEqualStrategyNumber, F_XID8GE,
				FullTransactionIdGetDatum(FullTransactionIdFromU64(xid)));
	id_scan_begin(&ids, STORE_XID_INDEX, 1);
	index_rescan(ids.scan, &key, 1, NULL, 0);
	while (n < limit && index_getnext_tid(ids.scan, ForwardScanDirection))
	{
		CHECK_FOR_INTERRUPTS();
		(*xids)[n] = U64FromFullTransactionId(DatumGetFullTransactionId(id_scan_column(&ids, 1)));
		(*result)[n] = DatumGetInt64(id_scan_column(&ids, 2));
		if ((*xids)[n] > xid || (*result)[n] > id)
			n++;
	}
	id_scan_end(&ids);
	return n;
}
