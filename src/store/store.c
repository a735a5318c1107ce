/*-------------------------------------------------------------------------
 *
 * store.c
 *		How statements are run: plans, transactions, errors.
 *
 * The store's files are the only ones that know SPI.  store.c has what they
 * share, store_window.c and store_event.c read new events, store_salvage.c what
 * of them cannot be read, store_delivery.c writes exceptions and checkpoints,
 * store_prune.c deletes, store_session.c works in the transactions of users.
 *
 * Every function for the relay is one short transaction.  It begins by
 * locking the extension against DROP and looking whether it is still the one
 * that we were started for, so that a dropped extension is a result and not
 * an error.  It runs as the extension's owner in a restricted context, so
 * that nothing that somebody attached to our tables gets more rights than
 * the owner's.
 *
 * Errors inside a transaction are logged, the transaction is aborted, and the
 * function returns STORE_FAILED: the caller's memory is as before the call.
 * So it does when a transaction takes too long or the relay shall end, which
 * store_guard.c sees to; the latter is no error to be logged.
 *
 * Plans are kept for the life of the process, or until the extension's schema
 * has another name.  A relay begins anew when the extension has another
 * version, so that what the relay's plans name is there.  Names are qualified
 * with that schema; operators and functions are pg_catalog's, because the
 * relay's search_path is pinned and the SQL functions pin theirs.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_extension.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "guc.h"
#include "lib/log_limit.h"
#include "lib/text.h"
#include "server/server.h"
#include "store/event_columns.h"
#include "store/store_internal.h"

static ExtensionRow attached;	/* the extension that we work for */
static int	attached_to;		/* ... and the destination */
static char schema_name[NAMEDATALEN];	/* that the plans were made for */
static Statement *prepared;		/* those with a plan */
static char last_error[OUTBOX_ERROR_SIZE];
static int	last_sqlstate;		/* its code; 0: there was no error */

/* Forget all plans if the schema has another name than they were made for. */
void
store_use_schema(Oid nspoid)
{
	char	   *name = get_namespace_name(nspoid);

	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_SCHEMA),
				 errmsg("schema with OID %u does not exist", nspoid)));
	if (strcmp(name, schema_name) != 0)
	{
		for (Statement *stmt = prepared; stmt; stmt = stmt->next)
		{
			SPI_freeplan(stmt->plan);
			stmt->plan = NULL;
		}
		prepared = NULL;
		strlcpy(schema_name, name, NAMEDATALEN);
	}
	pfree(name);
}

/* The columns of outbox_event AS e; NULL for what this one does not have. */
static void
append_event_columns(StringInfo buf)
{
#define EVENT_COLUMN_NAME(NAME, name) #name,
	static const char *const names[] = {EVENT_COLUMNS(EVENT_COLUMN_NAME)};
	Oid			table = get_relname_relid("outbox_event",
										  get_namespace_oid(schema_name, false));

	for (int i = 0; i < lengthof(names); i++)
	{
		appendStringInfoString(buf, i > 0 ? ", " : "");
		if (get_attnum(table, names[i]) == InvalidAttrNumber)
			appendStringInfoString(buf, "NULL");
		else
			appendStringInfo(buf, "e.%s", names[i]);
	}
}

/* The statement's text with schema, destination and columns put in, palloc'd. */
static char *
statement_text(const Statement *stmt)
{
	const char *schema = quote_identifier(schema_name);
	StringInfoData buf;
	const char *from = stmt->sql;
	const char *mark;

	initStringInfo(&buf);
	while ((mark = strchr(from, '@')) != NULL)
	{
		appendBinaryStringInfo(&buf, from, mark - from);
		switch (mark[1])
		{
			case 's':
				appendStringInfoString(&buf, schema);
				break;
			case 'd':
				appendStringInfo(&buf, "%d", attached_to);
				break;
			default:
				append_event_columns(&buf);
				break;
		}
		from = mark + 3;
	}
	appendStringInfoString(&buf, from);
	return buf.data;
}

static void
prepare_statement(Statement *stmt)
{
	SPIPlanPtr	plan;

	if (stmt->plan)
		return;
	plan = SPI_prepare(statement_text(stmt), stmt->nargs, stmt->argtypes);
	if (!plan || SPI_keepplan(plan) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not prepare a statement: %s",
						SPI_result_code_string(SPI_result))));
	stmt->plan = plan;
	stmt->next = prepared;
	prepared = stmt;
}

/* What SPI has returned; an error of it is ours. */
static void
check_executed(int rc)
{
	if (rc < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not execute a statement: %s",
						SPI_result_code_string(rc))));
}

/*
 * Run a statement; store_result() reads its rows.  "nulls" as in
 * SPI_execute_plan().  Returns the number of rows.
 */
uint64
store_execute(Statement *stmt, Datum *values, const char *nulls)
{
	int			rc;

	prepare_statement(stmt);
	rc = SPI_execute_plan(stmt->plan, values, nulls, false, 0);
	check_executed(rc);
	return SPI_processed;
}

/*
 * The same without NULL parameters, by what is committed right now, whatever the
 * isolation level of the transaction.
 */
uint64
store_execute_latest(Statement *stmt, Datum *values)
{
	int			rc;

	prepare_statement(stmt);
	rc = SPI_execute_snapshot(stmt->plan, values, NULL, GetLatestSnapshot(),
							  InvalidSnapshot, false, true, 0);
	check_executed(rc);
	return SPI_processed;
}

/* Run a statement without NULL parameters and send its rows to "dest". */
void
store_execute_into(Statement *stmt, const Datum *values, DestReceiver *dest)
{
	SPIExecuteOptions options;
	ParamListInfo params = makeParamList(stmt->nargs);
	int			rc;

	for (int i = 0; i < stmt->nargs; i++)
	{
		params->params[i].value = values[i];
		params->params[i].isnull = false;
		params->params[i].pflags = PARAM_FLAG_CONST;
		params->params[i].ptype = stmt->argtypes[i];
	}
	memset(&options, 0, sizeof(options));
	options.params = params;
	options.dest = dest;

	prepare_statement(stmt);
	rc = SPI_execute_plan_extended(stmt->plan, &options);
	check_executed(rc);
}

/* A column (from 1 on) of a row (from 0 on) of the last statement. */
Datum
store_result(int row, int column, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc,
						 column, isnull);
}

/* The same of a column that is NOT NULL; throws if it is, all the same. */
Datum
store_value(int row, int column)
{
	bool		isnull;
	Datum		value = store_result(row, column, &isnull);

	if (isnull)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("column \"%s\" of a table of outbox is null",
						NameStr(TupleDescAttr(SPI_tuptable->tupdesc,
											  column - 1)->attname)),
				 errhint("Somebody took away the constraint that forbids it.")));
	return value;
}

/* A copy in the current memory context. */
StoreSnapshot
store_copy_snapshot(StoreSnapshot snapshot)
{
	return (StoreSnapshot) DatumGetPointer(datumCopy(PointerGetDatum(snapshot),
													 false, -1));
}

/* Do the events behind a dead one of their key pass? */
bool
store_skips_dead(void)
{
	return guc_dead_key_policy == DEAD_KEY_SKIP;
}

/* Is the order of a key one across all topics? */
bool
store_orders_all_topics(void)
{
	return guc_key_scope == KEY_SCOPE_ALL;
}

/* Is this process the relay? */
bool
store_is_relay(void)
{
	return OidIsValid(attached.oid);
}

/* The number of the destination that this relay is for. */
int
store_destination(void)
{
	return attached_to;
}

/* A table or an index of ours; throws if somebody dropped it. */
Oid
store_relation(const char *name)
{
	Oid			oid = get_relname_relid(name, attached.nspoid);

	if (!OidIsValid(oid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("relation \"%s\" does not exist", name),
				 errhint("Somebody dropped it; it is made in the script of extension outbox.")));
	return oid;
}

/*
 * Is the extension still the one that we were attached to?  Keeps it from
 * being dropped until the end of the transaction.  While somebody else is
 * dropping or updating it, that is no error, and nothing to wait for.
 */
static StoreResult
lock_extension(void)
{
	LOCKTAG		tag;
	ExtensionRow now;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, ExtensionRelationId, attached.oid, 0);
	if (LockAcquire(&tag, AccessShareLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
	{
		strlcpy(last_error, "the extension is being changed by another session",
				OUTBOX_ERROR_SIZE);
		return STORE_FAILED;
	}

	/* the row is only as it is now once we have heard of changes to it */
	AcceptInvalidationMessages();
	if (!extension_row_read(&now) || memcmp(&now, &attached, sizeof(now)) != 0)
		return STORE_NO_EXTENSION;
	return STORE_OK;
}

/*
 * Keep what store_last_error() shall tell, and log the error, unless it is that
 * the relay shall end, or was logged just now.
 */
static void
note_error(Guard *guard)
{
	ErrorData  *edata;
	bool		cancelled;

	MemoryContextSwitchTo(TopMemoryContext);
	edata = CopyErrorData();
	last_sqlstate = edata->sqlerrcode;
	cancelled = edata->sqlerrcode == ERRCODE_QUERY_CANCELED;
	if (cancelled && guard_timed_out(guard))
		snprintf(last_error, OUTBOX_ERROR_SIZE,
				 "a transaction took longer than %d ms; the server log has its statement",
				 guard->ms);
	else
		strlcpy(last_error, edata->message,
				pg_mbcliplen(edata->message, strlen(edata->message),
							 OUTBOX_ERROR_SIZE - 1) + 1);

	/* the statement is in the context, if there is one */
	if ((!cancelled || !guard_interrupted()) &&
		log_is_due(edata->message, edata->context ? edata->context : ""))
		EmitErrorReport();
	FreeErrorData(edata);
}

/* Run "body" in a transaction, if the extension is still ours. */
static StoreResult
run_body(void (*body) (void *arg), void *arg)
{
	StoreResult result;
	Oid			userid;
	int			sec_context;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	if (SPI_connect() != SPI_OK_CONNECT)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not connect to SPI")));
	PushActiveSnapshot(GetTransactionSnapshot());
	result = lock_extension();

	/* whoever attached something to our tables gets no superuser's rights */
	if (result == STORE_OK)
	{
		store_use_schema(attached.nspoid);
		GetUserIdAndSecContext(&userid, &sec_context);
		SetUserIdAndSecContext(attached.owner,
							   sec_context | SECURITY_RESTRICTED_OPERATION);
		body(arg);
		SetUserIdAndSecContext(userid, sec_context);
	}
	PopActiveSnapshot();
	SPI_finish();
	CommitTransactionCommand();
	return result;
}

/* The transaction of the relay around "body", as described above. */
StoreResult
store_transaction(void (*body) (void *arg), void *arg)
{
	MemoryContext caller = CurrentMemoryContext;
	volatile StoreResult result = STORE_FAILED;
	Guard		guard;

	last_sqlstate = 0;
	if (!guard_begin(&guard, body))
	{
		strlcpy(last_error, "the relay is about to end", OUTBOX_ERROR_SIZE);
		return STORE_FAILED;
	}
	PG_TRY();
	{
		result = run_body(body, arg);
	}
	PG_CATCH();
	{
		/* no interrupt may replace the error before it is reported */
		HOLD_INTERRUPTS();
		note_error(&guard);

		/* a subtransaction that could not even begin would stay otherwise */
		AbortOutOfAnyTransaction();
		FlushErrorState();
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();

	guard_end(&guard, result == STORE_OK);
	MemoryContextSwitchTo(caller);

	/* autovacuum goes by these numbers */
	pgstat_report_stat(false);
	return result;
}

/* The message of the error that made the last function fail. */
const char *
store_last_error(void)
{
	return last_error;
}

/* The SQLSTATE of the error; 0 if the last transaction was not even begun. */
int
store_last_sqlstate(void)
{
	return last_sqlstate;
}

/*
 * Find the extension in this database and work for it, and for this destination,
 * from now on.  Has to succeed before any other function for the relay is called.
 */
StoreResult
store_attach(int destination)
{
	MemoryContext caller = CurrentMemoryContext;
	bool		found;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	found = extension_row_read(&attached);
	attached_to = destination;
	CommitTransactionCommand();
	MemoryContextSwitchTo(caller);
	return found ? STORE_OK : STORE_NO_EXTENSION;
}

/* The version of the SQL objects. */
const char *
store_extension_version(void)
{
	return attached.version;
}
