/*-------------------------------------------------------------------------
 *
 * store_salvage.c
 *		Events by their ids; and when events cannot be read, which.
 *
 * A read of many events fails as a whole when one of them has a damaged value,
 * lies on a page that cannot be read, or is nothing that an event can be made
 * of.  Then the same is read once more, event by event, each in a
 * subtransaction.  One that fails by itself is dead, with the error, in the
 * transaction that reads the others; the caller hears of it when that has
 * committed.
 *
 * Which errors are an event's own?  Those of class 22, data exception, and of
 * class XX, which is what PostgreSQL says of damage, met while outbox_event
 * alone is read.  Not so that of an index: every event would be dead.  Nor
 * anything else, such as a lock that could not be had, or too little memory:
 * that ends the transaction, and everything is tried again later.
 *
 * Where a page of the table cannot be read, nothing is known of its events but
 * what indexes say (store_ids.c).  They may be of a savepoint that was rolled
 * back; then a row that says they are dead is all that there ever is of them.
 *
 * Memory: what was set aside is in a context that lives as long as the process,
 * until the caller frees it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/xid8.h"

#include "store/event_columns.h"
#include "store/store_internal.h"

/* How an error that is kept begins; outbox_check() looks for it. */
#define CANNOT_BE_READ	"cannot be read: "

/* $1 ids, in their order; OFFSET 0: row by row, by the primary keys */
static Statement read_by_id = {
	"SELECT " EVENT_COLUMN_LIST STORE_ROW
	" FROM unnest($1) i(id),"
	" LATERAL (SELECT x.state, x.attempts, x.crashes, x.renewed_at"
	"  FROM @s@.outbox_delivery x"
	"  WHERE x.destination = @d@ AND x.id = i.id OFFSET 0) d,"
	" LATERAL (SELECT * FROM @s@.outbox_event x WHERE x.id = i.id OFFSET 0) e"
	" ORDER BY i.id",
	1, {INT8ARRAYOID}
};

/* $1 id */
static Statement read_one = {
	"SELECT " EVENT_COLUMN_LIST STORE_ROW
	" FROM @s@.outbox_event e"
	" LEFT JOIN @s@.outbox_delivery d ON d.destination = @d@ AND d.id = e.id"
	" WHERE e.id = $1",
	1, {INT8OID}
};

/* $1 id; whether the event itself can be read */
static Statement read_alone = {
	"SELECT " EVENT_COLUMN_LIST STORE_NO_ROW
	" FROM @s@.outbox_event e WHERE e.id = $1",
	1, {INT8OID}
};

/* $1 id; what is told of one that cannot be read */
static Statement read_names = {
	"SELECT e.event_id, e.topic, e.key, e.xid"
	" FROM @s@.outbox_event e WHERE e.id = $1",
	1, {INT8OID}
};

/* $1 ids */
static Statement without_row = {
	"SELECT u.id FROM unnest($1) u(id) WHERE NOT EXISTS"
	" (SELECT 1 FROM @s@.outbox_delivery d"
	"  WHERE d.destination = @d@ AND d.id = u.id OFFSET 0)"
	" ORDER BY u.id",
	1, {INT8ARRAYOID}
};

/* $1 id, $2 topic, $3 key or NULL, $4 error */
static Statement set_aside = {
	"INSERT INTO @s@.outbox_delivery AS d"
	" (destination, id, topic, key, state, last_error)"
	" VALUES (@d@, $1, $2, $3, 'dead', $4)"
	" ON CONFLICT (destination, id) DO UPDATE SET state = 'dead', next_attempt_at = NULL,"
	"  last_error = excluded.last_error, updated_at = clock_timestamp()"
	" WHERE d.state <> 'discarded'",
	4, {INT8OID, TEXTOID, TEXTOID, TEXTOID}
};

static bool salvaging = false;	/* events are to be read one by one */
static List *pending = NIL;		/* StoreDeadEvent *: of this transaction */
static List *unreadable = NIL;	/* of those that have committed */

/* May the error be due to one of the events that were read? */
bool
salvage_blames_event(int sqlstate)
{
	int			category = ERRCODE_TO_CATEGORY(sqlstate);

	return (category == ERRCODE_TO_CATEGORY(ERRCODE_DATA_EXCEPTION) ||
			category == ERRCODE_TO_CATEGORY(ERRCODE_INTERNAL_ERROR)) &&
		sqlstate != ERRCODE_INDEX_CORRUPTED;
}

typedef struct OneEvent
{
	int64		id;
	Statement  *statement;
	bool		is_new;			/* it need not go to this destination */
	List	  **events;			/* gets the event, if it is there */
	MemoryContext context;		/* of these */
} OneEvent;

static void
read_one_event(void *arg)
{
	OneEvent   *one = arg;
	MemoryContext old = MemoryContextSwitchTo(one->context);
	DestReceiver *dest = one->is_new ?
	store_new_event_receiver(one->events, 0) :
	store_event_receiver(one->events, 0);
	Datum		value = Int64GetDatum(one->id);

	MemoryContextSwitchTo(old);
	store_execute_into(one->statement, &value, dest);
}

/* A name as other rows may have it, in UTF-8; NULL if it is none. */
static char *
name_result(int column)
{
	bool		isnull;
	Datum		value = store_result(0, column, &isnull);
	text	   *t;

	if (isnull)
		return NULL;
	t = DatumGetTextPP(value);
	if (VARSIZE_ANY_EXHDR(t) == 0 || VARSIZE_ANY_EXHDR(t) > EVENT_NAME_BYTES)
		return NULL;
	return store_utf8(PointerGetDatum(t));
}

/* What can be told of the event with the id that is given. */
static void
read_names_of_event(void *arg)
{
	StoreDeadEvent *names = arg;
	Datum		value = Int64GetDatum(names->id);
	bool		isnull;

	if (store_execute(&read_names, &value, NULL) == 0)
		return;
	value = store_result(0, 1, &isnull);
	if (!isnull)
		names->event_id = DatumGetCString(DirectFunctionCall1(uuid_out, value));
	value = store_result(0, 4, &isnull);
	if (!isnull)
		names->xid = U64FromFullTransactionId(DatumGetFullTransactionId(value));
	names->topic = name_result(2);
	if (names->topic)
		names->key = name_result(3);
}

/*
 * Fill in what can be told of the event with the id that is given, in the current memory
 * context.  NULL, or why that cannot be read.
 */
char *
salvage_read_names(StoreDeadEvent *names)
{
	return store_try(read_names_of_event, names, salvage_blames_event);
}

/* Have the caller hear of it when the transaction has committed. */
static void
add_unreadable(const StoreDeadEvent *names)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	StoreDeadEvent *copy = palloc0(sizeof(StoreDeadEvent));

	copy->id = names->id;
	copy->event_id = names->event_id ? pstrdup(names->event_id) : NULL;
	copy->topic = names->topic ? pstrdup(names->topic) : NULL;
	copy->key = names->key ? pstrdup(names->key) : NULL;
	copy->error = pstrdup(names->error);
	pending = lappend(pending, copy);
	MemoryContextSwitchTo(old);
}

/*
 * The event is dead, because of this error.  If not even its names can be
 * read, its page is why, so that is said.  One that is new and goes to other
 * destinations is theirs.  In a transaction of store_salvage().
 */
void
salvage_set_aside(int64 id, bool is_new, const char *error)
{
	StoreDeadEvent names = {.id = id};
	Datum		values[4];
	char		nulls[4] = {' ', ' ', ' ', ' '};
	char	   *problem = salvage_read_names(&names);

	if (problem)
		names.error = psprintf(CANNOT_BE_READ "block %u of table \"outbox_event\": %s",
							   ids_block(id), problem);
	else
		names.error = psprintf(CANNOT_BE_READ "%s", error);

	/* nobody here would have sent it */
	if (is_new && names.topic && !store_takes(names.xid, names.topic))
		return;
	values[0] = Int64GetDatum(id);
	values[1] = names.topic ? store_text(names.topic) : CStringGetTextDatum("");
	values[2] = names.key ? store_text(names.key) : (Datum) 0;
	nulls[2] = names.key ? ' ' : 'n';
	values[3] = CStringGetTextDatum(names.error);
	store_execute(&set_aside, values, nulls);
	add_unreadable(&names);
}

/*
 * Read one event, if it is there, or set it aside.  What fails only together
 * with its row of outbox_delivery is not the event's fault.
 */
static void
read_or_set_aside(int64 id, bool is_new, List **events, MemoryContext scratch)
{
	OneEvent	one = {.id = id,.statement = &read_one,.is_new = is_new,
	.events = events,.context = CurrentMemoryContext};
	List	   *none = NIL;
	OneEvent	alone = {.id = id,.statement = &read_alone,.is_new = is_new,
	.events = &none,.context = scratch};
	MemoryContext old = CurrentMemoryContext;
	char	   *together;
	char	   *error;

	MemoryContextSwitchTo(scratch);
	together = store_try(read_one_event, &one, salvage_blames_event);
	if (together)
	{
		error = store_try(read_one_event, &alone, salvage_blames_event);
		if (!error)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("could not read the row of event %lld in table \"outbox_delivery\": %s",
							(long long) id, together)));
		salvage_set_aside(id, is_new, error);
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(scratch);
}

/* Is this a transaction of store_salvage()? */
bool
salvage_runs(void)
{
	return salvaging;
}

/*
 * Read these events one by one and append them to *events, in the current
 * memory context, until they have "max_bytes"; set aside those that cannot be
 * read.  Returns how many ids were done.
 */
static int
salvage_events(const int64 *ids, int n, bool are_new, Size max_bytes,
			   List **events)
{
	MemoryContext scratch = AllocSetContextCreate(CurTransactionContext,
												  "outbox salvage",
												  ALLOCSET_DEFAULT_SIZES);
	Size		bytes = 0;
	int			i = 0;

	while (i < n && (max_bytes == 0 || bytes < max_bytes))
	{
		int			before = list_length(*events);

		CHECK_FOR_INTERRUPTS();
		read_or_set_aside(ids[i++], are_new, events, scratch);
		if (list_length(*events) > before)
			bytes += ((OutboxEvent *) llast(*events))->size;
	}
	MemoryContextDelete(scratch);
	return i;
}

/*
 * The same of new events, of which those are left out that go to other destinations
 * only.  In a transaction of store_salvage().
 */
int
salvage_new_events(const int64 *ids, int n, Size max_bytes, List **events)
{
	return salvage_events(ids, n, true, max_bytes, events);
}

/*
 * Read the events with these ids that have rows, in their order, and append
 * them to *events, in the current memory context, until they have "max_bytes".
 * In a transaction of the store; if that is one of store_salvage(), events that
 * cannot be read are set aside.  True if it stopped because of max_bytes.
 */
bool
store_read_by_id(const int64 *ids, int n, Size max_bytes, List **events)
{
	DestReceiver *dest = store_event_receiver(events, max_bytes);
	Datum		values[1];

	if (n == 0)
		return false;
	if (salvaging)
	{
		bool		stopped = salvage_events(ids, n, false, max_bytes, events) < n;

		store_flush_commits(*events);
		return stopped;
	}
	values[0] = store_id_array(ids, n);
	store_execute_into(&read_by_id, values, dest);
	store_flush_commits(*events);
	return store_event_receiver_stopped(dest);
}

/* Leave those of the ids that have no row in outbox_delivery; how many? */
int
salvage_ids_without_row(int64 *ids, int n)
{
	Datum		value = store_id_array(ids, n);
	uint64		kept = store_execute(&without_row, &value, NULL);

	for (uint64 i = 0; i < kept; i++)
	{
		bool		isnull;

		ids[i] = DatumGetInt64(store_result(i, 1, &isnull));
	}
	return (int) kept;
}

/* Did the last transaction, with this result, fail because of an event? */
bool
store_failed_on_event(StoreResult result)
{
	return result == STORE_FAILED && salvage_blames_event(store_last_sqlstate());
}

/*
 * After store_failed_on_event(), the same transaction once more, in which
 * events are read one by one.
 */
StoreResult
store_salvage(void (*body) (void *arg), void *arg)
{
	MemoryContext old;
	StoreResult result;

	salvaging = true;
	result = store_transaction(body, arg);
	salvaging = false;
	if (result == STORE_OK)
	{
		old = MemoryContextSwitchTo(TopMemoryContext);
		unreadable = list_concat(unreadable, pending);
		MemoryContextSwitchTo(old);
		list_free(pending);
	}
	else
		store_free_dead(pending);
	pending = NIL;
	return result;
}

/*
 * The events that were set aside since the last call: StoreDeadEvent *, to be
 * freed by store_free_dead().
 */
List *
store_take_unreadable(void)
{
	List	   *list = unreadable;

	unreadable = NIL;
	return list;
}

void
store_free_dead(List *list)
{
	ListCell   *lc;

	foreach(lc, list)
	{
		StoreDeadEvent *names = lfirst(lc);

		if (names->event_id)
			pfree(names->event_id);
		if (names->topic)
			pfree(names->topic);
		if (names->key)
			pfree(names->key);
		if (names->error)
			pfree(names->error);
	}
	list_free_deep(list);
}
