/*-------------------------------------------------------------------------
 *
 * store_session.c
 *		Statements in the transactions of users: publish, retry, discard, delete.
 *
 * The SQL functions are SECURITY DEFINER, so that these statements run with
 * the rights of the extension's owner.  The extension's schema is the one of
 * the function that was called.  The functions for administrators pin their
 * search_path in their definition; the statements to publish have no operator
 * or function that a search_path could replace, and so need not.
 *
 * Errors go to the user.  A row that the relay is writing at the same time is
 * waited for; the statements look at its state again after that.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/uuid.h"

#include "store/store_internal.h"

#define PUBLISH \
	"INSERT INTO @s@.outbox_event (topic, payload, body, content_type, key," \
	" type, event_id, metadata, deliver_after)" \
	" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"

#define PUBLISH_TYPES \
	9, {TEXTOID, JSONBOID, BYTEAOID, TEXTOID, TEXTOID, TEXTOID, UUIDOID, \
	JSONBOID, TIMESTAMPTZOID}

static Statement publish_new = {PUBLISH, PUBLISH_TYPES};

static Statement publish_unless_there = {
	PUBLISH " ON CONFLICT (event_id) DO NOTHING", PUBLISH_TYPES
};

/* $1 event_id; its id, and its state as the view shows it */
static Statement find_event = {
	"SELECT e.id, v.state FROM @s@.outbox_event e"
	" JOIN @s@.outbox_events v ON v.event_id = e.event_id"
	" WHERE e.event_id = $1",
	1, {UUIDOID}
};

#define FRESH \
	" SET state = 'pending', attempts = 0, crashes = 0," \
	" next_attempt_at = clock_timestamp(), updated_at = clock_timestamp()"

/* $1 id, $2 it is scheduled, and so may have no row yet */
static Statement retry_one = {
	"INSERT INTO @s@.outbox_delivery AS d (id, key, state, next_attempt_at)"
	" SELECT e.id, e.key, 'pending', clock_timestamp()"
	" FROM @s@.outbox_event e WHERE e.id = $1 AND ($2 OR EXISTS ("
	"  SELECT 1 FROM @s@.outbox_delivery x WHERE x.id = e.id))"
	" ON CONFLICT (id) DO UPDATE" FRESH
	" WHERE d.state IN ('failed', 'dead', 'discarded', 'scheduled')",
	2, {INT8OID, BOOLOID}
};

/* $1 topic, $2 every topic */
static Statement retry_dead = {
	"UPDATE @s@.outbox_delivery d" FRESH
	" FROM @s@.outbox_event e"
	" WHERE e.id = d.id AND d.state = 'dead' AND (e.topic = $1 OR $2)",
	2, {TEXTOID, BOOLOID}
};

/* $1 id */
static Statement discard = {
	"INSERT INTO @s@.outbox_delivery AS d (id, key, state, last_error)"
	" SELECT e.id, e.key, 'discarded', 'discarded by ' || session_user"
	" FROM @s@.outbox_event e WHERE e.id = $1"
	" ON CONFLICT (id) DO UPDATE SET state = excluded.state,"
	"  next_attempt_at = NULL, last_error = excluded.last_error,"
	"  updated_at = clock_timestamp()"
	" WHERE d.state NOT IN ('published', 'discarded')",
	1, {INT8OID}
};

/* $1 id; called in anybody's search_path */
static Statement forget = {
	"DELETE FROM @s@.outbox_delivery d WHERE d.id OPERATOR(pg_catalog.=) $1",
	1, {INT8OID}
};

static Statement forget_all = {"DELETE FROM @s@.outbox_delivery", 0};

/* Statements of the extension whose function was called follow. */
static void
begin_statements(Oid function)
{
	if (SPI_connect() != SPI_OK_CONNECT)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not connect to SPI")));
	store_use_schema(get_func_namespace(function));
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
	values[6] = event->event_id;
	values[7] = event->metadata;
	values[8] = event->deliver_after;
	for (int i = 0; i < 9; i++)
		nulls[i] = values[i] == 0 ? 'n' : ' ';

	begin_statements(function);
	n = store_execute(event->may_exist ? &publish_unless_there : &publish_new,
					  values, nulls);
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

/* Nothing was changed: the state, which may just have become another, forbids. */
static void
report_wrong_state(Datum event_id, const char *what, const char *hint)
{
	char	   *state;

	(void) find_to_change(event_id, &state);
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot %s event \"%s\"", what,
					DatumGetCString(DirectFunctionCall1(uuid_out, event_id))),
			 errdetail("Its state is \"%s\".", state),
			 errhint("%s", hint)));
}

/* Make a failed, dead, discarded or scheduled event due now, or throw. */
void
store_retry(Oid function, Datum event_id)
{
	char	   *state;
	Datum		values[2];

	begin_statements(function);
	values[0] = Int64GetDatum(find_to_change(event_id, &state));
	values[1] = BoolGetDatum(strcmp(state, "scheduled") == 0);
	if (store_execute(&retry_one, values, NULL) == 0)
		report_wrong_state(event_id, "retry",
						   "Only failed, dead, discarded and scheduled events can be retried.");
	SPI_finish();
}

/* Make every dead event, of a topic or of all, due now; returns how many. */
int64
store_retry_dead(Oid function, Datum topic, bool all_topics)
{
	Datum		values[2];
	int64		n;

	values[0] = topic;
	values[1] = BoolGetDatum(all_topics);
	begin_statements(function);
	n = (int64) store_execute(&retry_dead, values, all_topics ? "n " : "  ");
	SPI_finish();
	return n;
}

/* Give an event up that is not published, or throw. */
void
store_discard(Oid function, Datum event_id)
{
	char	   *state;
	Datum		id;

	begin_statements(function);
	id = Int64GetDatum(find_to_change(event_id, &state));
	if (strcmp(state, "published") == 0 ||
		store_execute(&discard, &id, NULL) == 0)
		report_wrong_state(event_id, "discard",
						   "Only events that are not yet published can be discarded.");
	SPI_finish();
}

/* The event is being deleted: so is what became of it. */
void
store_forget(Oid function, Datum id)
{
	begin_statements(function);
	store_execute(&forget, &id, NULL);
	SPI_finish();
}

/* The same for all events. */
void
store_forget_all(Oid function)
{
	begin_statements(function);
	store_execute(&forget_all, NULL, NULL);
	SPI_finish();
}
