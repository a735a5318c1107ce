/*-------------------------------------------------------------------------
 *
 * drop_notice.c
 *		DROP EXTENSION says how many events it takes away undelivered.
 *
 * A hook for utility commands, since nothing else runs while the tables are
 * still there and it is known which extension is meant.  Of what reaches the
 * extension in another way (DROP SCHEMA ... CASCADE, DROP OWNED) nothing is said.
 *
 * It is counted before the command, and told after it: who reads that something
 * has been dropped shall find that it has.
 *
 * Locks: those of reading events and exceptions, until the transaction ends.
 * Errors: none but a cancel; whatever cannot be counted, because a table is
 * damaged for instance, can still be dropped.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "tcop/utility.h"
#include "utils/acl.h"

#include "api/drop_notice.h"
#include "server/server.h"
#include "store/store.h"

/* A large backlog must not make the command a slow one. */
#define MAX_COUNTED		10000

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

/*
 * How many undelivered events the command would take away; 0 for a user whom it
 * will not obey.  Of more than MAX_COUNTED there is one too many.
 */
static int64
count_what_is_lost(void)
{
	ExtensionRow extension;

	if (!extension_row_read(&extension) ||
		!has_privs_of_role(GetUserId(), extension.owner))
		return 0;
	return store_count_unsettled(extension.nspoid, extension.owner,
								 MAX_COUNTED + 1);
}

static void
tell_what_is_lost(int64 n)
{
	if (n > MAX_COUNTED)
		ereport(NOTICE,
				(errmsg("more than %d events of extension \"outbox\" are dropped undelivered",
						MAX_COUNTED)));
	else if (n > 0)
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
	int64		nlost = 0;

	if (drops_extension(pstmt->utilityStmt))
		nlost = count_what_is_lost();
	if (prev_ProcessUtility)
		prev_ProcessUtility(pstmt, queryString, readOnlyTree, context, params,
							queryEnv, dest, qc);
	else
		standard_ProcessUtility(pstmt, queryString, readOnlyTree, context,
								params, queryEnv, dest, qc);
	tell_what_is_lost(nlost);
}

/* From _PG_init() in the postmaster. */
void
drop_notice_init(void)
{
	prev_ProcessUtility = ProcessUtility_hook;
	ProcessUtility_hook = drop_notice_ProcessUtility;
}
