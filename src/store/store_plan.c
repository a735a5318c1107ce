/*-------------------------------------------------------------------------
 *
 * store_plan.c
 *		What the planner is told of the tables.
 *
 * Plans depend on how many rows there seem to be.  An outbox from which all that
 * is published has been pruned seems to have none: VACUUM has counted those that
 * are there, not the dead ones that an old snapshot keeps, nor those to come.
 * Then every way to a row costs the same, and the planner was seen to look for
 * an id along the index on (xid, id), and to read a table from its beginning to
 * join a few rows to it.  So to the relay's plans every table is a large one: the
 * only cheap way then is by the index that is made for it.
 *
 * Only the relay's process asks for that.  Locks: none.  Memory: none.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"

#include "lib/compat.h"
#include "store/store.h"

/* So many rows, and so many of them on a page of an index. */
#define LARGE_ROWS		1e7
#define INDEX_ROWS		100

static rel_hook_type_compat prev_rel_hook = NULL;

static void
tell_of_large_table(REL_HOOK_PARAMETERS)
{
	ListCell   *lc;

	if (prev_rel_hook)
		prev_rel_hook(REL_HOOK_ARGUMENTS);

	/* what is told of the system's catalogs is true */
	if (REL_HOOK_RELATION < FirstNormalObjectId)
		return;
	rel->tuples = Max(rel->tuples, LARGE_ROWS);
	foreach(lc, rel->indexlist)
	{
		IndexOptInfo *index = lfirst_node(IndexOptInfo, lc);

		index->tuples = Max(index->tuples, LARGE_ROWS);
		index->pages = Max(index->pages, (BlockNumber) (LARGE_ROWS / INDEX_ROWS));
	}
}

/* From here on, plans of this process are for large tables. */
void
store_plan_for_large_tables(void)
{
	prev_rel_hook = rel_hook_compat;
	rel_hook_compat = tell_of_large_table;
}
