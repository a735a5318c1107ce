/*-------------------------------------------------------------------------
 *
 * row_scan.c
 *		Scans of outbox_delivery by its indexes, without a plan.
 *
 * A plan depends on statistics, and on when it was made: asked for the first
 * row of a key, the planner was seen to filter the primary key of a table that
 * was empty when it was last analysed.  An index scan of our own reads what it
 * is asked for.
 *
 * In a transaction of the store; what is opened is closed by the end of the scan
 * or of the transaction.  A scan has a snapshot of its own, taken when the table
 * is locked: to an older one, a table that ALTER TABLE has rewritten meanwhile is
 * empty.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relscan.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/tableam.h"
#include "miscadmin.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "lib/compat.h"
#include "store/row_scan.h"
#include "store/store_internal.h"

/* Columns of outbox_delivery, from 0 on. */
enum
{
	COL_ID,
	COL_TOPIC,
	COL_KEY,
	COL_STATE,
	COL_ATTEMPTS,
	COL_CRASHES,
	COL_NEXT_ATTEMPT_AT
};

/* Open an index; one of the functions below has to say what is wanted. */
void
row_scan_begin(RowScan *rows, const char *index, int nkeys)
{
	rows->table = table_open(store_relation("outbox_delivery"),
							 AccessShareLock);
	rows->index = index_open(store_relation(index), AccessShareLock);
	if (!rows->index->rd_index->indisvalid)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("index \"%s\" is not valid", index),
				 errhint("Use REINDEX INDEX.")));
	rows->snapshot = RegisterSnapshot(GetTransactionSnapshot());
	rows->scan = index_beginscan_compat(rows->table, rows->index,
										rows->snapshot, nkeys);
	rows->slot = table_slot_create(rows->table, NULL);
}

/* The same with the index for rows of a key, of one topic or of all. */
void
row_scan_begin_key(RowScan *rows, KeyRows which, bool all_topics)
{
	static const char *const of_topic[] = {
		[KEY_ROWS_UNSETTLED] = "outbox_delivery_key_idx",
		[KEY_ROWS_DEAD] = "outbox_delivery_dead_idx"
	};
	static const char *const of_all[] = {
		[KEY_ROWS_UNSETTLED] = "outbox_delivery_all_key_idx",
		[KEY_ROWS_DEAD] = "outbox_delivery_all_dead_idx"
	};

	if (all_topics)
		row_scan_begin(rows, of_all[which], 2);
	else
		row_scan_begin(rows, of_topic[which], 3);
}

/* The next row, whose columns are in the slot then; false: there is none. */
bool
row_scan_next(RowScan *rows)
{
	CHECK_FOR_INTERRUPTS();
	if (!index_getnext_slot(rows->scan, ForwardScanDirection, rows->slot))
		return false;
	slot_getallattrs(rows->slot);
	return true;
}

/* Close it again.  An error does so, too. */
void
row_scan_end(RowScan *rows)
{
	ExecDropSingleTupleTableSlot(rows->slot);
	index_endscan(rows->scan);
	UnregisterSnapshot(rows->snapshot);
	index_close(rows->index, AccessShareLock);
	table_close(rows->table, AccessShareLock);
}

int64
row_id(const RowScan *rows)
{
	return DatumGetInt64(rows->slot->tts_values[COL_ID]);
}

bool
row_has_key(const RowScan *rows)
{
	return !rows->slot->tts_isnull[COL_KEY];
}

DeliveryState
row_state(const RowScan *rows)
{
	return store_state(rows->slot->tts_values[COL_STATE]);
}

/* When it is due; 0: there is no such time. */
TimestampTz
row_due(const RowScan *rows)
{
	if (rows->slot->tts_isnull[COL_NEXT_ATTEMPT_AT])
		return 0;
	return DatumGetTimestampTz(rows->slot->tts_values[COL_NEXT_ATTEMPT_AT]);
}

/* The row's key, in the current memory context. */
StoreKey *
row_key(const RowScan *rows)
{
	StoreKey   *key = palloc(sizeof(StoreKey));

	key->topic = store_utf8(rows->slot->tts_values[COL_TOPIC]);
	key->key = store_utf8(rows->slot->tts_values[COL_KEY]);
	key->id = row_id(rows);
	return key;
}

/*
 * Scan the rows of a key behind an id, by an index on (topic, key, id); with
 * "topic" NULL those of every topic, by one on (key, id).
 */
void
row_scan_key(RowScan *rows, const char *topic, const char *key, int64 after)
{
	ScanKeyData keys[3];
	int			n = 0;

	if (topic)
	{
		ScanKeyInit(&keys[n], n + 1, BTEqualStrategyNumber, F_TEXTEQ,
					store_text(topic));
		n++;
	}
	ScanKeyInit(&keys[n], n + 1, BTEqualStrategyNumber, F_TEXTEQ,
				store_text(key));
	n++;
	ScanKeyInit(&keys[n], n + 1, BTGreaterStrategyNumber, F_INT8GT,
				Int64GetDatum(after));
	n++;
	index_rescan(rows->scan, keys, n, NULL, 0);
}

/* Scan the rows of a topic behind an id, by an index on (topic, id). */
void
row_scan_topic(RowScan *rows, const char *topic, int64 after)
{
	ScanKeyData keys[2];

	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_TEXTEQ,
				store_text(topic));
	ScanKeyInit(&keys[1], 2, BTGreaterStrategyNumber, F_INT8GT,
				Int64GetDatum(after));
	index_rescan(rows->scan, keys, lengthof(keys), NULL, 0);
}

/* Scan the rows that become due from the cursor on, up to a time. */
void
row_scan_due(RowScan *rows, const StoreDueCursor *cursor, TimestampTz until)
{
	ScanKeyData keys[2];

	ScanKeyInit(&keys[0], 1, BTGreaterEqualStrategyNumber, F_TIMESTAMPTZ_GE,
				TimestampTzGetDatum(cursor->due));
	ScanKeyInit(&keys[1], 1, BTLessEqualStrategyNumber, F_TIMESTAMPTZ_LE,
				TimestampTzGetDatum(until));
	index_rescan(rows->scan, keys, lengthof(keys), NULL, 0);
}

/* Scan the rows behind an id, by the primary key. */
void
row_scan_behind(RowScan *rows, int64 id)
{
	ScanKeyData key;

	ScanKeyInit(&key, 1, BTGreaterStrategyNumber, F_INT8GT, Int64GetDatum(id));
	index_rescan(rows->scan, &key, 1, NULL, 0);
}
