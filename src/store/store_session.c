/*-------------------------------------------------------------------------
 *
 * store_session.c
 *		Statements in the transactions of users: publish, restore, drop.
 *
 * The SQL functions are SECURITY DEFINER, so that these statements run with
 * the rights of the extension's owner.  The extension's schema is the one of
 * the function that was called.  The statements to publish have no operator or
 * function that a search_path could replace, and so need not pin one.  What DROP
 * EXTENSION counts is no function's: see count_as_owner(); nor is the note of a
 * restore, which is made when no statement runs.
 *
 * Errors go to the user, but for those of store_count_unsettled().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "store/store_internal.h"

#define PUBLISH \
	"INSERT INTO @s@.outbox_event (topic, payload, body, content_type, key," \
	" type, event_id, metadata, deliver_after, expires_at)" \
	" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"

#define PUBLISH_ARGS 10

#define PUBLISH_TYPES \
	PUBLISH_ARGS, {TEXTOID, JSONBOID, BYTEAOID, TEXTOID, TEXTOID, TEXTOID, \
	UUIDOID, JSONBOID, TIMESTAMPTZOID, TIMESTAMPTZOID}

#define PUBLISH_EVENT_ID 6		/* from 0 on */

/* How often to try to insert an event that comes and goes. */
#define PUBLISH_TRIES 10

static Statement publish_new = {PUBLISH, PUBLISH_TYPES};

static Statement publish_unless_there = {
	PUBLISH " ON CONFLICT (event_id) DO NOTHING", PUBLISH_TYPES
};

/* Is a column what the parameter is?  NULL if one of the two is. */
#define SAME(column, n) \
	"(e." column " OPERATOR(pg_catalog.=) $" n \
	" OR (e." column " IS NULL AND $" n " IS NULL))"

/* The same for one that means "standard" if it is NULL. */
#define SAME_UNLESS_NULL(column, n, standard) \
	"(COALESCE(e." column ", " standard ") OPERATOR(pg_catalog.=)" \
	" COALESCE($" n ", " standard "))"

/*
 * The columns are in the order of compared[].  A default that is written out is
 * what it stands for; if topics differ, types without one do not.
 */
static Statement compare_event = {
	"SELECT " SAME("topic", "1") ", " SAME_UNLESS_NULL("type", "6", "$1")
	", " SAME("key", "5")
	", " SAME_UNLESS_NULL("content_type", "4", "'application/json'")
	", (" SAME("payload", "2") " AND " SAME("body", "3") ")"
	" FROM @s@.outbox_event e WHERE e.event_id OPERATOR(pg_catalog.=) $7",
	PUBLISH_TYPES
};

static const char *const compared[] = {
	"topic", "type", "key", "content type", "payload"
};

/* $1 at most so many, which ends the search */
static Statement count_unsettled = {
	"SELECT count(*) FROM ((SELECT a.id FROM @s@.outbox_ahead a LIMIT $1 * (SELECT count(*) FROM @s@.outbox_position))"
	" UNION (SELECT d.id FROM @s@.outbox_delivery d"
	"  WHERE d.state IN ('scheduled', 'pending', 'in_progress', 'failed')"
	"  LIMIT $1 * (SELECT count(*) FROM @s@.outbox_position))) u",
	1, {INT8OID}
};

/* The columns of outbox_restore, from 0 on. */
enum
{
	NOTE_AT,
	NOTE_EVENTS,
	NOTE_COLUMNS
};

static int	calls = 0;			/* of store_write_for_function() */

/* Is what is being written what a function of the extension was called for? */
bool
store_in_function(void)
{
	return calls > 0;
}

/* Execute a statement with store_in_function(); returns the number of rows. */
uint64
store_write_for_function(Statement *statement, Datum *values, const char *nulls)
{
	uint64		n;

	calls++;
	PG_TRY();
	{
		n = store_execute(statement, values, nulls);
	}
	PG_FINALLY();
	{
		calls--;
	}
	PG_END_TRY();
	return n;
}

/* Statements of the extension in this schema follow. */
static void
begin_statements_in(Oid schema)
{
	if (SPI_connect() != SPI_OK_CONNECT)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not connect to SPI")));
	store_use_schema(schema);
}

/* The same for the extension whose function was called. */
void
store_begin_statements(Oid function)
{
	begin_statements_in(get_func_namespace(function));
}

/*
 * An event with this id is there already: throw unless it is the same one.  What
 * is stored is not shown, for who may publish may not read.  False if it has gone
 * meanwhile, deleted or pruned.
 */
static bool
check_same_event(Datum *values, const char *nulls)
{
	StringInfoData differing;

	if (store_execute(&compare_event, values, nulls) == 0)
		return false;
	initStringInfo(&differing);
	for (int i = 0; i < lengthof(compared); i++)
	{
		bool		isnull;
		bool		same = DatumGetBool(store_result(0, i + 1, &isnull));

		if (isnull || !same)
			appendStringInfo(&differing, "%s%s",
							 differing.len > 0 ? ", " : "", compared[i]);
	}
	if (differing.len > 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNIQUE_VIOLATION),
				 errmsg("another event with the id \"%s\" is there already",
						DatumGetCString(DirectFunctionCall1(uuid_out,
															values[PUBLISH_EVENT_ID]))),
				 errdetail("It differs in: %s.", differing.data),
				 errhint("Publish the same event again, or give this one an id of its own.")));
	return true;
}

/* An event is neither stored nor there, at every try. */
static void
report_not_stored(Datum event_id)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("could not store event \"%s\"",
					DatumGetCString(DirectFunctionCall1(uuid_out, event_id))),
			 errdetail("A trigger keeps its row out of the table, or others publish and delete it again and again.")));
}

/*
 * Insert an event; everything about it is checked by the trigger.  False if
 * it was there already.  "function" is the SQL function that was called.
 */
bool
store_publish(Oid function, const StorePublish *event)
{
	Datum		values[PUBLISH_ARGS];
	char		nulls[PUBLISH_ARGS];
	uint64		n;

	values[0] = event->topic;
	values[1] = event->payload;
	values[2] = event->body;
	values[3] = event->content_type;
	values[4] = event->key;
	values[5] = event->type;
	values[PUBLISH_EVENT_ID] = event->event_id;
	values[7] = event->metadata;
	values[8] = event->deliver_after;
	values[9] = event->expires_at;
	for (int i = 0; i < PUBLISH_ARGS; i++)
		nulls[i] = values[i] == 0 ? 'n' : ' ';

	store_begin_statements(function);
	for (int tries = 1;; tries++)
	{
		n = store_write_for_function(event->may_exist ? &publish_unless_there :
									 &publish_new, values, nulls);
		if (n > 0 || check_same_event(values, nulls))
			break;

		/* what was in its place has gone: nothing is stored yet */
		if (tries == PUBLISH_TRIES)
			report_not_stored(event->event_id);
	}
	SPI_finish();
	return n > 0;
}

/*
 * Note that this transaction, which is about to commit, restores so many events
 * into the extension of this schema.  Whoever commits need not be who restored
 * them, and has no statement that runs; so this goes past the executor, which the
 * table, having no index, does not need.
 */
void
store_note_restore(Oid schema, int64 nevents)
{
	Oid			table = get_relname_relid("outbox_restore", schema);
	Relation	rel;
	TupleTableSlot *slot;

	/* dropped since, in this very transaction */
	if (!OidIsValid(table))
		return;
	rel = table_open(table, RowExclusiveLock);
	slot = table_slot_create(rel, NULL);
	ExecStoreAllNullTuple(slot);
	for (int i = 0; i < NOTE_COLUMNS; i++)
		slot->tts_isnull[i] = false;
	slot->tts_values[NOTE_AT] = TimestampTzGetDatum(GetCurrentTimestamp());
	slot->tts_values[NOTE_EVENTS] = Int64GetDatum(nevents);
	simple_table_tuple_insert(rel, slot);
	ExecDropSingleTupleTableSlot(slot);
	table_close(rel, NoLock);
}

/* What count_as_owner() is to count, and the result. */
typedef struct UnsettledCount
{
	Oid			schema;
	Oid			owner;
	int64		limit;
	int64		n;
} UnsettledCount;

/*
 * The owner may be an ordinary user, after REASSIGN OWNED, who has put a function
 * into our views.  So this runs as the owner in a restricted context, whoever
 * drops the extension, and with a search_path of its own.  An error puts all of
 * that back with the subtransaction.
 */
static void
count_as_owner(void *arg)
{
	UnsettledCount *count = arg;
	Datum		limit = Int64GetDatum(count->limit);
	int			nest_level = NewGUCNestLevel();
	Oid			userid;
	int			sec_context;

	GetUserIdAndSecContext(&userid, &sec_context);
	SetUserIdAndSecContext(count->owner,
						   sec_context | SECURITY_RESTRICTED_OPERATION);
	(void) set_config_option("search_path", "pg_catalog, pg_temp",
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
							 true, 0, false);
	begin_statements_in(count->schema);
	store_execute(&count_unsettled, &limit, NULL);
	count->n = DatumGetInt64(store_value(0, 1));
	SPI_finish();
	AtEOXact_GUC(false, nest_level);
	SetUserIdAndSecContext(userid, sec_context);
}

/* A cancel is meant for the command; all else must not be in its way. */
static bool
is_not_a_cancel(int sqlstate)
{
	return sqlstate != ERRCODE_QUERY_CANCELED;
}

/*
 * How many events of the extension of this schema and owner are not settled?  No
 * more than "limit" are counted; 0 if that fails.  Throws only a cancel.
 */
int64
store_count_unsettled(Oid schema, Oid owner, int64 limit)
{
	UnsettledCount count = {schema, owner, limit, 0};
	char	   *error = store_try(count_as_owner, &count, is_not_a_cancel);

	return error ? 0 : count.n;
}
