/*-------------------------------------------------------------------------
 *
 * database_commands.c
 *		Commands that concern a relay as well: on whole databases, which want
 *		them without connections, and COMMIT PREPARED.
 *
 * DROP DATABASE, ALTER DATABASE ... RENAME TO / SET TABLESPACE and CREATE
 * DATABASE ... TEMPLATE fail after five seconds while somebody is connected
 * to the database, and a relay always is.  So its relay is asked to leave
 * first and held off until the command's transaction has ended, in whatever
 * way, or is prepared.  Only for users whom the command itself would obey:
 * anybody else could keep a relay from its work.
 *
 * Each of them makes the launcher look at the list of databases, since a copy
 * of a database with the extension has it, too.
 *
 * Renaming the extension's schema is refused here as well, for the sake of
 * pg_dump.
 *
 * Nobody knows of a prepared transaction whether it has published, or created
 * the extension.  So COMMIT PREPARED wakes the relay, where there is one to be.
 *
 * Locks: shmem.c's, none of which is held while the relay is waited for.
 * Errors: whatever is thrown after the relay was asked to leave, by the command
 * or by a cancel during the wait, ends the transaction, and that lets the relay
 * come back.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "nodes/parsenodes.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "tcop/utility.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "lib/compat.h"
#include "server/server.h"
#include "server/shmem.h"

/* A relay leaves within a second. */
#define LEAVE_TIMEOUT_MS	4000
#define LEAVE_POLL_MS		5

static ProcessUtility_hook_type prev_ProcessUtility = NULL;

/* What the end of the current transaction shall do. */
static List *held_databases = NIL;	/* their relays may come back; in
									 * TopMemoryContext */
static bool databases_changed = false;	/* the launcher shall look */

/* The template that CREATE DATABASE copies. */
static const char *
template_of(CreatedbStmt *stmt)
{
	ListCell   *lc;

	foreach(lc, stmt->options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		if (strcmp(option->defname, "template") == 0 && option->arg)
			return defGetString(option);
	}
	return "template1";
}

static bool
sets_tablespace(AlterDatabaseStmt *stmt)
{
	ListCell   *lc;

	foreach(lc, stmt->options)
	{
		if (strcmp(lfirst_node(DefElem, lc)->defname, "tablespace") == 0)
			return true;
	}
	return false;
}

/* The database that the command wants for itself; NULL: none. */
static const char *
database_wanted(Node *stmt)
{
	switch (nodeTag(stmt))
	{
		case T_CreatedbStmt:
			return template_of((CreatedbStmt *) stmt);
		case T_DropdbStmt:
			return ((DropdbStmt *) stmt)->dbname;
		case T_AlterDatabaseStmt:
			if (sets_tablespace((AlterDatabaseStmt *) stmt))
				return ((AlterDatabaseStmt *) stmt)->dbname;
			return NULL;
		case T_RenameStmt:
			if (((RenameStmt *) stmt)->renameType == OBJECT_DATABASE)
				return ((RenameStmt *) stmt)->subname;
			return NULL;
		default:
			return NULL;
	}
}

/* May this user create databases? */
static bool
may_create_databases(void)
{
	bool		may = superuser();
	HeapTuple	tuple;

	if (may)
		return true;
	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(GetUserId()));
	if (HeapTupleIsValid(tuple))
	{
		may = ((Form_pg_authid) GETSTRUCT(tuple))->rolcreatedb;
		ReleaseSysCache(tuple);
	}
	return may;
}

/*
 * Would the command obey this user?  Whoever owns the database may do anything
 * with it; who may create databases may also copy one that is a template.
 */
static bool
user_may_run(Node *stmt, Oid dboid)
{
	bool		is_template = false;
	HeapTuple	tuple;

	if (owns_database_compat(dboid))
		return true;
	if (!IsA(stmt, CreatedbStmt) || !may_create_databases())
		return false;
	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(dboid));
	if (HeapTupleIsValid(tuple))
	{
		is_template = ((Form_pg_database) GETSTRUCT(tuple))->datistemplate;
		ReleaseSysCache(tuple);
	}
	return is_template;
}

/*
 * Not earlier than at the end of the transaction: until then, the database
 * list is the old one and the command still needs the database for itself.  A
 * prepared transaction goes on, but only its lock on the database can say how
 * long: the launcher starts no relay before that is gone.
 */
static void
xact_callback(XactEvent event, void *arg)
{
	ListCell   *lc;

	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT &&
		event != XACT_EVENT_PREPARE)
		return;
	foreach(lc, held_databases)
		shmem_release_relays(lfirst_oid(lc));
	if (databases_changed)
		shmem_launcher_ask_rescan();
	list_free(held_databases);
	held_databases = NIL;
	databases_changed = false;
}

/*
 * Wait until the relay has left, but not for long: if it does not, the command
 * says itself who is connected.
 */
static void
wait_for_leave(Oid dboid)
{
	uint32		wait_event = wait_event_compat("OutboxRelayLeave");

	for (int waited = 0; waited < LEAVE_TIMEOUT_MS; waited += LEAVE_POLL_MS)
	{
		if (!shmem_has_relay(dboid))
			return;
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 LEAVE_POLL_MS, wait_event);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/*
 * A dump finds what it has to carry by conditions in the catalog, which have
 * the name of our schema in them: renamed, every pg_dump would fail.
 */
static void
refuse_to_rename_our_schema(Node *stmt)
{
	RenameStmt *rename = (RenameStmt *) stmt;
	ExtensionRow extension;

	if (!IsA(stmt, RenameStmt) || rename->renameType != OBJECT_SCHEMA)
		return;
	if (extension_row_read(&extension) &&
		extension.nspoid == get_namespace_oid(rename->subname, true))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot rename schema \"%s\" because extension \"outbox\" is in it",
						rename->subname),
				 errdetail("The extension is not relocatable."),
				 errhint("Create the extension in a schema of its own.")));
}

/* Hold the relay of a database until the transaction ends. */
static bool
hold_relay(Oid dboid)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

	/* before it is held: this may throw */
	held_databases = lappend_oid(held_databases, dboid);
	MemoryContextSwitchTo(old);
	if (shmem_hold_relays(dboid))
		return true;
	held_databases = list_delete_last(held_databases);
	return false;
}

/* Make way for a command on a database, if it is one. */
static void
make_way_for(Node *stmt)
{
	const char *dbname = database_wanted(stmt);
	Oid			dboid;

	/* in a transaction block all of them but RENAME will be refused */
	if (!dbname || (IsTransactionBlock() && !IsA(stmt, RenameStmt)))
		return;
	databases_changed = true;
	dboid = get_database_oid(dbname, true);
	if (OidIsValid(dboid) && !list_member_oid(held_databases, dboid) &&
		user_may_run(stmt, dboid) && hold_relay(dboid))
		wait_for_leave(dboid);
}

static bool
commits_prepared(Node *stmt)
{
	return IsA(stmt, TransactionStmt) &&
		((TransactionStmt *) stmt)->kind == TRANS_STMT_COMMIT_PREPARED;
}

/*
 * A prepared transaction has just been committed.  It may have asked for
 * something, or have created the extension, which is then seen here.
 */
static void
wake_for_prepared(void)
{
	ExtensionRow extension;

	if (extension_row_read(&extension))
		shmem_wake_relays_at_commit(RELAY_REQUEST_SERVE |
									RELAY_REQUEST_DESTINATIONS);
}

static void
outbox_ProcessUtility(PlannedStmt *pstmt, const char *queryString,
					  bool readOnlyTree, ProcessUtilityContext context,
					  ParamListInfo params, QueryEnvironment *queryEnv,
					  DestReceiver *dest, QueryCompletion *qc)
{
	bool		prepared = commits_prepared(pstmt->utilityStmt);

	refuse_to_rename_our_schema(pstmt->utilityStmt);
	make_way_for(pstmt->utilityStmt);
	if (prev_ProcessUtility)
		prev_ProcessUtility(pstmt, queryString, readOnlyTree, context, params,
							queryEnv, dest, qc);
	else
		standard_ProcessUtility(pstmt, queryString, readOnlyTree, context,
								params, queryEnv, dest, qc);
	if (prepared)
		wake_for_prepared();
}

/* From _PG_init() in the postmaster. */
void
database_commands_init(void)
{
	prev_ProcessUtility = ProcessUtility_hook;
	ProcessUtility_hook = outbox_ProcessUtility;
	RegisterXactCallback(xact_callback, NULL);
}
