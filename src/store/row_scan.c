/*-------------------------------------------------------------------------
 *
 * row_scan.c
 *		Scans of outbox_delivery and outbox_event by an index, without a plan.
 *
 * A plan depends on statistics, and on when it was made: asked for the first
 * row of a key, the planner was seen to filter the primary key of a table that
 * was empty when it was last analysed.  An index scan of our own reads what it
 * is asked for.
 *
 * While somebody holds an old snapshot, what the relay has settled or pruned leaves
 * dead entries in the indexes, and no scan may pass them all: it passes so many
 * entries, of rows that are there or not, and then stops.  Where it stands is known
 * from the entries themselves, so that the next one goes on behind them.
 *
 * Of outbox_delivery, each scan is of the rows of one destination, mostly the relay's,
 * which is the first column of every index that is read here.
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
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
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
	COL_DESTINATION,
	COL_ID,
	COL_TOPIC,
	COL_KEY,
	COL_STATE,
	COL_ATTEMPTS,
	COL_CRASHES,
	COL_NEXT_ATTEMPT_AT
};

/* A scan passes twice as many entries as rows are wanted, and so many. */
#define SPARE_ENTRIES	100

/*
 * Open an index of a table; one of the functions below has to say what is wanted.
 * The scan is limited to one row unless row_scan_limit() says otherwise.
 */
static void
scan_begin(RowScan *rows, const char *table, const char *index, int nprefix,
		   int nkeys)
{
	rows->table = table_open(store_relation(table), AccessShareLock);
	rows->index = index_open(store_relation(index), AccessShareLock);
	if (!rows->index->rd_index->indisvalid)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("index \"%s\" is not valid", index),
				 errhint("Use REINDEX INDEX.")));
	rows->snapshot = RegisterSnapshot(GetTransactionSnapshot());
	rows->scan = index_beginscan_compat(rows->table, rows->index,
										rows->snapshot, nprefix + nkeys);
	rows->slot = table_slot_create(rows->table, NULL);
	rows->scan->xs_want_itup = true;
	rows->destination = store_destination();
	rows->nprefix = nprefix;
	rows->ndead = 0;
	rows->at_id = 0;
	rows->at_time = 0;
	row_scan_limit(rows, 1);
}

/* Begin a scan of outbox_delivery by the "nkeys" columns behind the destination. */
void
row_scan_begin(RowScan *rows, const char *index, int nkeys)
{
	scan_begin(rows, "outbox_delivery", index, 1, nkeys);
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

/*
 * Begin a scan of outbox_event, the columns of whose rows are in the slot.  Of what
 * the functions below tell of a row, it has the id.
 */
void
row_scan_begin_events(RowScan *rows, const char *index, int nkeys)
{
	scan_begin(rows, "outbox_event", index, 0, nkeys);
}

/* So many rows are wanted from here on: how many entries may be passed. */
void
row_scan_limit(RowScan *rows, int nrows)
{
	rows->left = 2 * nrows + SPARE_ENTRIES;
}

/* A column of the current entry; none of those asked for is ever NULL. */
static Datum
entry_column(const RowScan *rows, int column)
{
	bool		isnull;

	return index_getattr(rows->scan->xs_itup, column, rows->scan->xs_itupdesc,
						 &isnull);
}

/*
 * Go to the entry that was read, unless no more may be passed.  A row has an
 * entry for each of its versions, of which the last one to come may be the one
 * that is there: a scan never stops between them.  The id is the last column of
 * every index that is scanned here, and a time, if there is one, comes before it.
 */
static bool
pass_entry(RowScan *rows)
{
	TupleDesc	desc = RelationGetDescr(rows->index);
	int64		id = DatumGetInt64(entry_column(rows, desc->natts));
	TimestampTz time = 0;

	if (desc->natts > 1 &&
		TupleDescAttr(desc, desc->natts - 2)->atttypid == TIMESTAMPTZOID)
		time = DatumGetTimestampTz(entry_column(rows, desc->natts - 1));
	if (rows->left <= 0 && (id != rows->at_id || time != rows->at_time))
	{
		rows->stopped = true;
		return false;
	}
	rows->left--;
	rows->at_id = id;
	rows->at_time = time;
	return true;
}

/*
 * The next row, whose columns are in the slot then.  False: there is none, or
 * the scan has stopped.
 */
bool
row_scan_next(RowScan *rows)
{
	rows->stopped = false;
	while (index_getnext_tid(rows->scan, ForwardScanDirection))
	{
		CHECK_FOR_INTERRUPTS();
		if (!pass_entry(rows))
			return false;
		if (index_fetch_heap(rows->scan, rows->slot))
		{
			slot_getallattrs(rows->slot);
			return true;
		}
		rows->ndead++;
	}
	return false;
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

/* Is the row of this topic, a text? */
bool
row_has_topic(const RowScan *rows, Datum topic)
{
	return !rows->slot->tts_isnull[COL_TOPIC] &&
		DatumGetBool(DirectFunctionCall2Coll(texteq, C_COLLATION_OID,
											 rows->slot->tts_values[COL_TOPIC],
											 topic));
}

bool
row_has_key(const RowScan *rows)
{
	return !rows->slot->tts_isnull[COL_KEY] &&
		!rows->slot->tts_isnull[COL_TOPIC];
}

DeliveryState
row_state(const RowScan *rows)
{
	if (rows->slot->tts_isnull[COL_STATE])
		return NDELIVERY_STATES;
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
 * What is wanted is of the scan's destination, if the index is one by that.  Returns
 * the number of keys that say so; those behind them are for the next columns.
 */
static int
begin_keys(const RowScan *rows, ScanKey keys)
{
	if (rows->nprefix > 0)
		ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT4EQ,
					Int32GetDatum(rows->destination));
	return rows->nprefix;
}

/*
 * Scan the rows of a key behind an id, by an index on (topic, key, id); with
 * "topic" NULL those of every topic, by one on (key, id).
 */
void
row_scan_key(RowScan *rows, const char *topic, const char *key, int64 after)
{
	ScanKeyData keys[4];
	int			n = begin_keys(rows, keys);

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
	ScanKeyData keys[3];
	int			n = begin_keys(rows, keys);

	ScanKeyInit(&keys[n], n + 1, BTEqualStrategyNumber, F_TEXTEQ,
				store_text(topic));
	n++;
	ScanKeyInit(&keys[n], n + 1, BTGreaterStrategyNumber, F_INT8GT,
				Int64GetDatum(after));
	index_rescan(rows->scan, keys, n + 1, NULL, 0);
}

/*
 * Two keys of a scan, for (time, id) behind the cursor and a time up to "until",
 * where the time is this column of the index.  Many rows may have the same time.
 */
static void
make_time_keys(RowScan *rows, ScanKeyData *keys, AttrNumber column,
			   const StoreTimeCursor *cursor, TimestampTz until)
{
	ScanKeyEntryInitialize(&rows->cursor[0], SK_ROW_MEMBER, column,
						   BTGreaterStrategyNumber, InvalidOid, InvalidOid,
						   F_TIMESTAMPTZ_CMP, TimestampTzGetDatum(cursor->time));
	ScanKeyEntryInitialize(&rows->cursor[1], SK_ROW_MEMBER | SK_ROW_END,
						   column + 1,
						   BTGreaterStrategyNumber, InvalidOid, InvalidOid,
						   F_BTINT8CMP, Int64GetDatum(cursor->id));
	memset(&keys[0], 0, sizeof(keys[0]));
	keys[0].sk_flags = SK_ROW_HEADER;
	keys[0].sk_attno = column;
	keys[0].sk_strategy = BTGreaterStrategyNumber;
	keys[0].sk_argument = PointerGetDatum(rows->cursor);
	ScanKeyInit(&keys[1], column, BTLessEqualStrategyNumber,
				F_TIMESTAMPTZ_LE, TimestampTzGetDatum(until));
}

/* Scan the rows that become due behind the cursor, up to a time. */
void
row_scan_due(RowScan *rows, const StoreTimeCursor *cursor, TimestampTz until)
{
	ScanKeyData keys[3];
	int			n = begin_keys(rows, keys);

	make_time_keys(rows, &keys[n], n + 1, cursor, until);
	index_rescan(rows->scan, keys, n + 2, NULL, 0);
}

/* Scan the dead rows that died behind the cursor, up to a time. */
void
row_scan_died(RowScan *rows, const StoreTimeCursor *cursor, TimestampTz until)
{
	ScanKeyData keys[4];
	int			n = begin_keys(rows, keys);

	ScanKeyInit(&keys[n], n + 1, BTEqualStrategyNumber, F_TEXTEQ,
				store_text(store_state_name(DELIVERY_DEAD)));
	make_time_keys(rows, &keys[n + 1], n + 2, cursor, until);
	index_rescan(rows->scan, keys, n + 3, NULL, 0);
}

/* Scan the rows behind an id, by the primary key. */
void
row_scan_behind(RowScan *rows, int64 id)
{
	ScanKeyData keys[2];
	int			n = begin_keys(rows, keys);

	ScanKeyInit(&keys[n], n + 1, BTGreaterStrategyNumber, F_INT8GT,
				Int64GetDatum(id));
	index_rescan(rows->scan, keys, n + 1, NULL, 0);
}

/* Scan the events of a transaction and later ones, by the index on (xid, id). */
void
row_scan_since(RowScan *rows, Datum xid)
{
	ScanKeyData key;

	ScanKeyInit(&key, 1, BTGreaterEqualStrategyNumber, F_XID8GE, xid);
	index_rescan(rows->scan, &key, 1, NULL, 0);
}
