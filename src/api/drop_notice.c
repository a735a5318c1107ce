/*-------------------------------------------------------------------------
 *
 * drop_notice.c
 *		DROP EXTENSION says how many events it takes away undelivered.
 *
 * A hook for utility commands, since nothing else runs while the tables are
 * still there and it is known which extension is meant.  Of what reaches the
 * extension in another way (DROP SCHEMA ... CASCADE, DROP OWNED) nothing is said.
 *
 * Locks: those of reading outbox_stats.  Errors: none but a cancel; whatever
 * cannot be counted, because a table is damaged for instance, can still be
 * dropped.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "api/drop_notice.h"
#include "server/server.h"
#include "store/store.h"

static ProcessUtility_hook_type prev_ProcessUtility = NULL;

static bool
drops_extension(Node *stmt)
{
	ListCell   *lc;

	if (!IsA(stmt, DropStmt) ||
		((DropStmt *) stmt)->removeType != OBJECT_EXTENSION)
		return false;
	foreach(lc, ((DropStmt *) stmt)->objects)
	{
		if (strcmp(strVal(lfirst(lc)), "outbox") == 0)
			return true;
	}
	return false;
}

/* How many events of this extension are not settled; 0 if that fails. */
static int64
count_unsettled(Oid schema)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile int64 n = 0;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		n = store_count_unsettled(schema);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		if (geterrcode() == ERRCODE_QUERY_CANCELED)
			PG_RE_THROW();
		MemoryContextSwitchTo(context);
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return n;
}

/* Only to those whom the command will obey. */
static void
tell_what_is_lost(void)
{
	ExtensionRow extension;
	int64		n;

	if (!extension_row_read(&extension) ||
		!has_privs_of_role(GetUserId(), extension.owner))
		return;
	n = count_unsettled(extension.nspoid);
	if (n > 0)
		ereport(NOTICE,
				(errmsg_plural("%lld event of extension \"outbox\" is dropped undelivered",
							   "%lld events of extension \"outbox\" are dropped undelivered",
							   (unsigned long) n, (long long) n)));
}

static void
drop_notice_ProcessUtility(PlannedStmt *pstmt, const char *queryString,
						   bool readOnlyTree, ProcessUtilityContext context,
						   ParamListInfo params, QueryEnvironment *queryEnv,
						   DestReceiver *dest, QueryCompletion *qc)
{
	if (drops_extension(pstmt->utilityStmt))
		tell_what_is_lost();
	if (prev_ProcessUtility)
		prev_ProcessUtility(pstmt, queryString, readOnlyTree, context, params,
							queryEnv, dest, qc);
	else
		standard_ProcessUtility(pstmt, queryString, readOnlyTree, context,
								params, queryEnv, dest, qc);
}

/* From _PG_init() in the postmaster. */
void
drop_notice_init(void)
{
	prev_ProcessUtility = ProcessUtility_hook;
	ProcessUtility_hook = drop_notice_ProcessUtility;
}
