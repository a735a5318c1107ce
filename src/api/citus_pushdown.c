/*-------------------------------------------------------------------------
 *
 * citus_pushdown.c
 *		Publishing in a query that Citus runs on another node.
 *
 * Citus runs the query SELECT outbox_publish(...) FROM a distributed table on
 * the nodes that have the rows, and takes it for one that only reads.  An event
 * that is published there is not part of the user's transaction: outside of a
 * block it is committed at once, whatever becomes of the others, and in one
 * without a prepared transaction, which a crash can lose.  So it is refused.
 *
 * What Citus has a node write, with the events of triggers, it commits as it
 * should, and in a function that it delegates the node has its own transaction.
 * So the backend's statement is looked at, whatever functions are between it and
 * the event.  Refused is a SELECT that reads a table, or a built-in function: those
 * of Citus that bring rows of another query, or run one, are in pg_catalog.  A
 * delegated function is called by a SELECT from nothing, or from the function.
 *
 * Nothing of Citus is called: its connections are told by application_name, which
 * is all that a database without it pays for.  A user who sets that name is only
 * refused more.
 *
 * Locks: none.  Errors go to the query.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_namespace_d.h"
#include "executor/execdesc.h"
#include "nodes/execnodes.h"
#include "nodes/nodeFuncs.h"
#include "nodes/plannodes.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/portal.h"

#include "api/citus_pushdown.h"

/* Those that run commands for a query; run_command_on_workers() has others. */
#define CITUS_CONNECTION	"citus_internal gpid="

/*
 * The SELECT that the client, which is Citus, has sent; NULL if it has sent
 * anything else, for which a portal has no QueryDesc.  libpq has it run in the
 * unnamed portal; cursors of functions have names.
 */
static QueryDesc *
query_of_client(void)
{
	Portal		portal = GetPortalByName("");

	if (portal == NULL || portal->status != PORTAL_ACTIVE)
		return NULL;
	return portal->queryDesc;
}

static bool
reads_table(const PlannedStmt *stmt)
{
	ListCell   *lc;

	foreach(lc, stmt->rtable)
	{
		if (lfirst_node(RangeTblEntry, lc)->rtekind == RTE_RELATION)
			return true;
	}
	return false;
}

static bool
is_builtin(const RangeTblFunction *function)
{
	return IsA(function->funcexpr, FuncExpr) &&
		get_func_namespace(((FuncExpr *) function->funcexpr)->funcid) ==
		PG_CATALOG_NAMESPACE;
}

/* For planstate_tree_walker(): does it read what a built-in function returns? */
static bool
reads_builtin(PlanState *state, void *context)
{
	if (IsA(state, FunctionScanState))
	{
		ListCell   *lc;

		foreach(lc, ((FunctionScan *) state->plan)->functions)
		{
			if (is_builtin(lfirst_node(RangeTblFunction, lc)))
				return true;
		}
	}
	return planstate_tree_walker(state, reads_builtin, context);
}

/* Throws if an event must not be published where we are. */
void
citus_pushdown_refuse(void)
{
	QueryDesc  *query;

	if (strncmp(application_name, CITUS_CONNECTION, strlen(CITUS_CONNECTION)) != 0)
		return;
	query = query_of_client();
	if (query == NULL)
		return;
	if (reads_table(query->plannedstmt) || reads_builtin(query->planstate, NULL))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot publish in a query that Citus runs on another node"),
				 errdetail("The event would not be part of the transaction."),
				 errhint("Publish where the rows are, in a distributed function or a trigger; or where you are, with citus.task_assignment_policy = greedy: select the rows in a CTE that is MATERIALIZED, or use INSERT INTO outbox_event ... SELECT.")));
}
