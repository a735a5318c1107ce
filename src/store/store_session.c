/*-------------------------------------------------------------------------
 *
 * store_session.c
 *		Statements in the transactions of users: publish, retry, discard, delete.
 *
 * The SQL functions are SECURITY DEFINER, so that these statements run with
 * the rights of the extension's owner.  The extension's schema is the one of
 * the function that was called.  The functions for administrators pin their
 * search_path in their definition; the statements to publish have no operator
 * or function that a search_path could replace, and so need not.  What DROP
 * EXTENSION counts is no function's: see count_as_owner(); nor is the note of a
 * restore, which is made when no statement runs.
 *
 * They insert, and change no row that the relay writes: what an administrator
 * wants is a row of outbox_request, which the relay serves when it has been
 * committed.  So neither waits for the other.  (TRUNCATE has the tables for
 * itself anyway.)
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
	" type, event_id, metadata, deliver_after)" \
	" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"

#define PUBLISH_TYPES \
	9, {TEXTOID, JSONBOID, BYTEAOID, TEXTOID, TEXTOID, TEXTOID, UUIDOID, \
	JSONBOID, TIMESTAMPTZOID}

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

/* $1 event_id; its id, and its state as the view shows it */
static Statement find_event = {
	"SELECT e.id, v.state FROM @s@.outbox_event e"
	" JOIN @s@.outbox_events v ON v.event_id = e.event_id"
	" WHERE e.event_id = $1",
	1, {UUIDOID}
};

/* $1 action, $2 id of the event, or NULL, $3 topic, or NULL */
static Statement add_request = {
	"INSERT INTO @s@.outbox_request (action, event, topic)"
	" VALUES ($1, $2, $3)",
	3, {TEXTOID, INT8OID, TEXTOID}
};

/* $1 topic, $2 every topic; without those that were asked for already */
static Statement count_dead = {
	"SELECT count(*) FROM @s@.outbox_delivery d"
	" WHERE d.state = 'dead' AND (d.topic = $1 OR $2)"
	" AND NOT EXISTS (SELECT 1 FROM @s@.outbox_request r"
	"  WHERE r.event = d.id AND r.action IN ('retry', 'discard', 'forget'))"
	" AND NOT EXISTS (SELECT 1 FROM @s@.outbox_request r"
	"  WHERE r.action = 'retry_dead' AND (r.topic IS NULL OR r.topic = d.topic)"
	"  AND r.requested_at >= d.updated_at)",
	2, {TEXTOID, BOOLOID}
};

/* $1 at most so many, which ends the search */
static Statement count_unsettled = {
	"SELECT count(*) FROM (SELECT 1 FROM @s@.outbox_ahead UNION ALL"
	" SELECT 1 FROM @s@.outbox_delivery d"
	"  WHERE d.state IN ('scheduled', 'pending', 'in_progress', 'failed')"
	"  LIMIT $1) u",
	1, {INT8OID}
};

/* The columns of outbox_restore, from 0 on. */
enum
{
	NOTE_AT,
	NOTE_EVENTS,
	NOTE_COLUMNS
};

static Statement forget_all = {"DELETE FROM @s@.outbox_delivery", 0};

static int	calls = 0;			/* of write_for_function() */

/* Is what is being written what a function of the extension was called for? */
bool
store_in_function(void)
{
	return calls > 0;
}

/* Execute a statement with store_in_function(); returns the number of rows. */
static uint64
write_for_function(Statement *statement, Datum *values, const char *nulls)
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
static void
begin_statements(Oid function)
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
	Datum		values[9];
	char		nulls[9];
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
	for (int i = 0; i < 9; i++)
		nulls[i] = values[i] == 0 ? 'n' : ' ';

	begin_statements(function);
	for (int tries = 1;; tries++)
	{
		n = write_for_function(event->may_exist ? &publish_unless_there :
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
 * Find an event that shall be changed, or throw; *state is palloc'd in SPI's
 * context.
 */
static int64
find_to_change(Datum event_id, char **state)
{
	bool		isnull;

	if (store_execute(&find_event, &event_id, NULL) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_NO_DATA_FOUND),
				 errmsg("event \"%s\" does not exist",
						DatumGetCString(DirectFunctionCall1(uuid_out, event_id))),
				 errhint("It may have been pruned; the view outbox_events has the events that are kept.")));
	*state = TextDatumGetCString(store_result(0, 2, &isnull));
	return DatumGetInt64(store_result(0, 1, &isnull));
}

static void
report_wrong_state(Datum event_id, const char *state, const char *what,
				   const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot %s event \"%s\"", what,
					DatumGetCString(DirectFunctionCall1(uuid_out, event_id))),
			 errdetail("Its state is \"%s\".", state),
			 errhint("%s", hint)));
}

/* Have the relay do something; "event" and "topic" are 0 for NULL. */
static void
ask_relay(const char *action, Datum event, Datum topic)
{
	Datum		values[3];
	char		nulls[3] = {' ', event ? ' ' : 'n', topic ? ' ' : 'n'};

	/* the reader of requests relies on this (store_request.c) */
	(void) GetTopTransactionId();
	values[0] = CStringGetTextDatum(action);
	values[1] = event;
	values[2] = topic;
	write_for_function(&add_request, values, nulls);
}

/* Ask for a failed, dead, discarded or scheduled event to be sent, or throw. */
void
store_retry(Oid function, Datum event_id)
{
	char	   *state;
	int64		id;

	begin_statements(function);
	id = find_to_change(event_id, &state);
	if (strcmp(state, "failed") != 0 && strcmp(state, "dead") != 0 &&
		strcmp(state, "discarded") != 0 && strcmp(state, "scheduled") != 0)
		report_wrong_state(event_id, state, "retry",
						   "Only failed, dead, discarded and scheduled events can be retried.");
	ask_relay("retry", Int64GetDatum(id), 0);
	SPI_finish();
}

/* Ask for every dead event, of a topic or of all, to be sent; how many? */
int64
store_retry_dead(Oid function, Datum topic, bool all_topics)
{
	Datum		values[2];
	int64		n;
	bool		isnull;

	values[0] = topic;
	values[1] = BoolGetDatum(all_topics);
	begin_statements(function);
	store_execute(&count_dead, values, all_topics ? "n " : "  ");
	n = DatumGetInt64(store_result(0, 1, &isnull));
	if (n > 0)
		ask_relay("retry_dead", 0, all_topics ? 0 : topic);
	SPI_finish();
	return n;
}

/* Ask for an event to be given up that is not published, or throw. */
void
store_discard(Oid function, Datum event_id)
{
	char	   *state;
	int64		id;

	begin_statements(function);
	id = find_to_change(event_id, &state);
	if (strcmp(state, "published") == 0 || strcmp(state, "discarded") == 0)
		report_wrong_state(event_id, state, "discard",
						   "Only events that are not yet published can be discarded.");
	ask_relay("discard", Int64GetDatum(id), 0);
	SPI_finish();
}

/* The event is being deleted: so is what became of it. */
void
store_forget(Oid function, Datum id)
{
	begin_statements(function);
	ask_relay("forget", id, 0);
	SPI_finish();
}

/* The same for all events: nobody else has the table now. */
void
store_forget_all(Oid function)
{
	begin_statements(function);
	write_for_function(&forget_all, NULL, NULL);
	SPI_finish();
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
