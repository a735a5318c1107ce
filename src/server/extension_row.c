/*-------------------------------------------------------------------------
 *
 * extension_row.c
 *		The row of pg_extension that is ours.
 *
 * Whether the extension is in this database, in which schema, whose and of
 * which version is what this row says, and nothing else: it is read anew in
 * each transaction, since the extension may be dropped, altered or created
 * again between any two.
 *
 * Locks: AccessShareLock on pg_extension while it is read.  Errors: those of a
 * scan of a catalog.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_extension.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"

#include "lib/compat.h"
#include "server/server.h"

/*
 * Read the row, in a transaction; false if there is none.  All bytes of *row
 * are set, so that two can be compared with memcmp().
 */
bool
extension_row_read(ExtensionRow *row)
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
		Datum		version = heap_getattr_compat(tuple, Anum_pg_extension_extversion,
												  RelationGetDescr(rel), &isnull);

		/* Whoever compares two rows compares what follows the version, too. */
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
