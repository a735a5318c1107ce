/*-------------------------------------------------------------------------
 *
 * row_scan.h
 *		Scans of outbox_delivery and outbox_event by an index, without a plan.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_ROW_SCAN_H
#define OUTBOX_ROW_SCAN_H

#include "access/genam.h"
#include "access/skey.h"
#include "executor/tuptable.h"
#include "utils/relcache.h"
#include "utils/snapshot.h"

#include "store/store.h"

/* A scan of a table by one of its indexes. */
typedef struct RowScan
{
	Relation	table;
	Relation	index;
	Snapshot	snapshot;		/* registered */
	int			destination;	/* whose rows; the relay's own unless set */
	IndexScanDesc scan;
	TupleTableSlot *slot;		/* the current row */
	int			nprefix;		/* columns of the index in front of those that
								 * are asked for: the destination, or none */
	int			left;			/* so many entries may be passed yet */
	bool		stopped;		/* none may be */
	int			ndead;			/* entries passed whose rows are not there */
	int64		at_id;			/* where the scan stands: of the last entry
								 * ... */
	TimestampTz at_time;		/* ... by an index that has a time */
	ScanKeyData cursor[2];		/* of a time and an id: has to last */
} RowScan;

/* Which rows of a key. */
typedef enum KeyRows
{
	KEY_ROWS_UNSETTLED,
	KEY_ROWS_DEAD
} KeyRows;

extern void row_scan_begin(RowScan *rows, const char *index, int nkeys);
extern void row_scan_begin_events(RowScan *rows, const char *index, int nkeys);
extern void row_scan_begin_key(RowScan *rows, KeyRows which, bool all_topics);
extern void row_scan_limit(RowScan *rows, int nrows);
extern void row_scan_key(RowScan *rows, const char *topic, const char *key,
						 int64 after);
extern void row_scan_topic(RowScan *rows, const char *topic, int64 after);
extern void row_scan_due(RowScan *rows, const StoreTimeCursor *cursor,
						 TimestampTz until);
extern void row_scan_died(RowScan *rows, const StoreTimeCursor *cursor,
						  TimestampTz until);
extern void row_scan_behind(RowScan *rows, int64 id);
extern void row_scan_since(RowScan *rows, Datum xid);
extern bool row_scan_next(RowScan *rows);
extern void row_scan_end(RowScan *rows);

extern int64 row_id(const RowScan *rows);
extern bool row_has_topic(const RowScan *rows, Datum topic);
extern bool row_has_key(const RowScan *rows);
extern StoreKey *row_key(const RowScan *rows);
extern DeliveryState row_state(const RowScan *rows);
extern TimestampTz row_due(const RowScan *rows);

#endif							/* OUTBOX_ROW_SCAN_H */
