/*-------------------------------------------------------------------------
 *
 * extension_row.c
 *		The catalog row of our extension.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_extension.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"

#include "server/extension_row.h"

/*
 * Read the row, in a transaction; false if there is none.  All bytes of *row
 * are set, so that two can be compared with memcmp().
 */
bool
extension_read(ExtensionRow *row)
{
	Relation	rel = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		found;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber,
				F_NAMEEQ, CStringGetDatum("outbox"));
	scan = systable_beginscan(rel, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	found = HeapTupleIsValid(tuple);
	if (found)
	{
		Form_pg_extension form = (Form_pg_extension) GETSTRUCT(tuple);
		bool		isnull;
		Datum		version = heap_getattr(tuple, Anum_pg_extension_extversion,
										   RelationGetDescr(rel), &isnull);

		memset(row, 0, sizeof(*row));
		row->oid = form->oid;
		row->owner = form->extowner;
		row->nspoid = form->extnamespace;
		strlcpy(row->version, TextDatumGetCString(version), NAMEDATALEN);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}
