/*-------------------------------------------------------------------------
 *
 * mutation.c
 *		The deliberate mistake that takes more than a line; see mutation.h.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/mutation.h"

#ifdef OUTBOX_MUTATION

#include "access/sysattr.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_type.h"
#include "executor/tuptable.h"
#include "storage/procarray.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

/*
 * Send to "dest", which wants STORE_EVENT_COLUMNS and three more, every event
 * whose transaction is still running: what no reader may see.  Each once.
 */
void
mutation_read_uncommitted(Oid nspoid, DestReceiver *dest)
{
	static const int columns[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 12};
	static int64 sent = 0;
	Relation	rel = table_open(get_relname_relid("outbox_event", nspoid),
								 AccessShareLock);
	TupleTableSlot *row = table_slot_create(rel, NULL);
	TupleDesc	desc = CreateTemplateTupleDesc(lengthof(columns) + 3);
	TupleTableSlot *out;
	TableScanDesc scan;

	for (int i = 1; i <= desc->natts; i++)
		TupleDescInitEntry(desc, i, NULL, INT4OID, -1, 0);
	out = MakeSingleTupleTableSlot(desc, &TTSOpsVirtual);
	scan = table_beginscan(rel, SnapshotAny, 0, NULL);
	while (table_scan_getnextslot(scan, ForwardScanDirection, row))
	{
		bool		isnull;
		Datum		xmin = slot_getsysattr(row, MinTransactionIdAttributeNumber,
										   &isnull);

		if (!TransactionIdIsInProgress(DatumGetTransactionId(xmin)))
			continue;
		ExecClearTuple(out);
		for (int i = 0; i < lengthof(columns); i++)
			out->tts_values[i] = slot_getattr(row, columns[i],
											  &out->tts_isnull[i]);
		if (DatumGetInt64(out->tts_values[0]) <= sent)
			continue;
		sent = DatumGetInt64(out->tts_values[0]);
		for (int i = lengthof(columns); i < desc->natts; i++)
			out->tts_isnull[i] = true;
		out->tts_values[lengthof(columns)] = BoolGetDatum(false);
		ExecStoreVirtualTuple(out);
		dest->receiveSlot(out, dest);
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(out);
	ExecDropSingleTupleTableSlot(row);
	table_close(rel, AccessShareLock);
}

#endif							/* OUTBOX_MUTATION */
