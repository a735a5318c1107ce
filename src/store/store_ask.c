/*-------------------------------------------------------------------------
 *
 * store_ask.c
 *		What people ask of relays, in their own transactions.
 *
 * It is a row of outbox_request for each relay that is to do something, which the
 * relay serves when it has been committed (store_request.c).  No row that a relay
 * writes is changed here; so neither waits for the other.  (TRUNCATE has the tables
 * for itself anyway; and who deletes an event and who adds a destination wait for each
 * other: store_lock.c.)
 *
 * The SQL functions are SECURITY DEFINER, and pin their search_path in their
 * definition; the triggers do not, and their statements have no operator that a
 * search_path could replace.
 *
 * Errors go to the user.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/uuid.h"

#include "store/store_internal.h"

/* $1 event_id, $2 destination's name, or NULL: any */
static Statement find_event = {
	"SELECT e.id, p.destination, v.destination, v.state"
	" FROM @s@.outbox_event e"
	" JOIN @s@.outbox_events v ON v.event_id = e.event_id"
	" LEFT JOIN @s@.outbox_position p ON p.name = v.destination"
	" WHERE e.event_id = $1 AND ($2 IS NULL OR v.destination = $2)"
	" ORDER BY p.destination",
	2, {UUIDOID, TEXTOID}
};

/* $1 event_id */
static Statement event_exists = {
	"SELECT 1 FROM @s@.outbox_event e WHERE e.event_id = $1",
	1, {UUIDOID}
};

/* $1 name */
static Statement find_destination = {
	"SELECT p.destination FROM @s@.outbox_position p WHERE p.name = $1",
	1, {TEXTOID}
};

/* $1 destination, $2 action, $3 event, $4 topic; the last two or NULL */
static Statement add_request = {
	"INSERT INTO @s@.outbox_request (destination, action, event, topic)"
	" VALUES ($1, $2, $3, $4)",
	4, {INT4OID, TEXTOID, INT8OID, TEXTOID}
};

/* $1 destination, $2 pattern of topics, $3 since, both or NULL, $4 newest */
static Statement add_replay = {
	"INSERT INTO @s@.outbox_request"
	" (destination, action, event, newest, topic, since)"
	" VALUES ($1, 'replay', 0, $4, $2, $3)",
	4, {INT4OID, TEXTOID, TIMESTAMPTZOID, INT8OID}
};

/* $1 topic, or NULL: every one, $2 destination's name, or NULL: any; without those
 * that were asked for already */
static Statement count_dead = {
	"SELECT p.destination, count(*) FROM @s@.outbox_position p"
	" JOIN @s@.outbox_delivery d ON d.destination = p.destination"
	" WHERE d.state = 'dead' AND ($1 IS NULL OR d.topic = $1)"
	" AND ($2 IS NULL OR p.name = $2)"
	" AND NOT EXISTS (SELECT 1 FROM @s@.outbox_request r"
	"  WHERE r.destination = d.destination AND r.event = d.id"
	"  AND r.action IN ('retry', 'discard', 'forget'))"
	" AND NOT EXISTS (SELECT 1 FROM @s@.outbox_request r"
	"  WHERE r.destination = d.destination AND r.action = 'retry_dead'"
	"  AND (r.topic IS NULL OR r.topic = d.topic)"
	"  AND r.requested_at >= d.updated_at)"
	" GROUP BY p.destination ORDER BY p.destination",
	2, {TEXTOID, TEXTOID}
};

/*
 * $1 destination, $2 pattern of topics, or NULL, $3 since, or NULL: what it takes and
 * is settled for it, as store_replay.c will find it; and the newest of these
 */
static Statement count_settled = {
	"SELECT count(*), max(e.id) FROM @s@.outbox_event e"
	" CROSS JOIN (SELECT * FROM @s@.outbox_position WHERE destination = $1) p"
	" LEFT JOIN @s@.outbox_delivery d"
	"  ON d.destination = p.destination AND d.id = e.id"
	" WHERE ($3 IS NULL OR e.created_at >= $3)"
	" AND ($2 IS NULL OR @s@.outbox_topic_matches(e.topic, ARRAY[$2]))"
	" AND coalesce(@s@.outbox_topic_matches(e.topic, (SELECT f.topics"
	"  FROM @s@.outbox_filter f WHERE f.destination = $1"
	"  ORDER BY f.version DESC LIMIT 1)), true)"
	" AND CASE WHEN d.id IS NOT NULL"
	"  THEN d.state IN ('published', 'discarded', 'expired')"
	"  ELSE (pg_visible_in_snapshot(e.xid, p.lo) OR (e.id <= p.last_id"
	"    AND pg_visible_in_snapshot(e.xid, p.hi)))"
	"   AND (e.id = ANY (p.open)) IS NOT TRUE END",
	3, {INT4OID, TEXTOID, TIMESTAMPTZOID}
};

/* Destinations, "default" among them */
static Statement list_destinations = {
	"SELECT pg_catalog.array_agg(n.id) FROM (SELECT 0 UNION ALL"
	"  SELECT d.id FROM @s@.outbox_destination d"
	"  WHERE d.id OPERATOR(pg_catalog.>) 0 AND d.name IS NOT NULL) n(id)",
	0
};

/* $1 id of an event, $2 destinations, whose relays shall know that it is deleted */
static Statement forget_event = {
	"INSERT INTO @s@.outbox_request (destination, action, event)"
	" SELECT n.id, 'forget', $1 FROM pg_catalog.unnest($2) n(id)",
	2, {INT8OID, INT4ARRAYOID}
};

static Statement forget_all = {"DELETE FROM @s@.outbox_delivery", 0};

/* An event, as it stands for a destination. */
typedef struct FoundEvent
{
	int64		id;
	int			destination;
	char	   *name;			/* NULL: it goes to none */
	char	   *state;			/* as the view shows it */
} FoundEvent;

/* Have a relay do something; what is 0 is NULL. */
static void
ask_relay(int destination, const char *action, Datum event, Datum topic)
{
	Datum		values[4];
	char		nulls[4] = {' ', ' ', event ? ' ' : 'n', topic ? ' ' : 'n'};

	/* the reader of requests relies on this (store_request.c) */
	(void) GetTopTransactionId();
	values[0] = Int32GetDatum(destination);
	values[1] = CStringGetTextDatum(action);
	values[2] = event;
	values[3] = topic;
	store_write_for_function(&add_request, values, nulls);
}

/* The id of a destination, or throw. */
static int
find_destination_id(Datum name)
{
	if (store_execute(&find_destination, &name, NULL) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("destination \"%s\" does not exist",
						TextDatumGetCString(name)),
				 errhint("The view outbox_destinations shows those that there are.")));
	return DatumGetInt32(store_value(0, 1));
}

/*
 * Find an event that shall be changed, for a destination (0: for any), or throw;
 * *found is palloc'd in SPI's context.  Returns how many there are.
 */
static int
find_to_change(Datum event_id, Datum destination, FoundEvent **found)
{
	Datum		values[2] = {event_id, destination};
	int			n;

	if (store_execute(&event_exists, values, NULL) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_NO_DATA_FOUND),
				 errmsg("event \"%s\" does not exist",
						DatumGetCString(DirectFunctionCall1(uuid_out, event_id))),
				 errhint("It may have been pruned; the view outbox_events has the events that are kept.")));
	if (destination)
		(void) find_destination_id(destination);
	n = (int) store_execute(&find_event, values, destination ? NULL : " n");
	*found = palloc(sizeof(FoundEvent) * Max(n, 1));
	for (int i = 0; i < n; i++)
	{
		FoundEvent *event = &(*found)[i];
		bool		unrouted;
		Datum		value;

		event->id = DatumGetInt64(store_value(i, 1));
		value = store_result(i, 2, &unrouted);
		event->destination = unrouted ? 0 : DatumGetInt32(value);
		event->name = unrouted ? NULL : TextDatumGetCString(store_value(i, 3));
		event->state = TextDatumGetCString(store_value(i, 4));
	}
	return n;
}

/* What is asked is not possible in any of the states in which the event is. */
static void
report_wrong_state(Datum event_id, const FoundEvent *found, int n,
				   const char *what, const char *hint)
{
	StringInfoData states;

	initStringInfo(&states);
	if (n == 0)
		appendStringInfoString(&states, "It does not go to this destination.");
	else if (n == 1)
		appendStringInfo(&states, "Its state is \"%s\".", found->state);
	else
	{
		appendStringInfoString(&states, "Its states are");
		for (int i = 0; i < n; i++)
			appendStringInfo(&states, "%s \"%s\" for \"%s\"", i > 0 ? "," : "",
							 found[i].state, found[i].name);
		appendStringInfoChar(&states, '.');
	}
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot %s event \"%s\"", what,
					DatumGetCString(DirectFunctionCall1(uuid_out, event_id))),
			 errdetail("%s", states.data),
			 errhint("%s", hint)));
}

static bool
can_be_retried(const char *state)
{
	return strcmp(state, "failed") == 0 || strcmp(state, "dead") == 0 ||
		strcmp(state, "discarded") == 0 || strcmp(state, "scheduled") == 0;
}

static bool
can_be_discarded(const char *state)
{
	return strcmp(state, "published") != 0 &&
		strcmp(state, "discarded") != 0 && strcmp(state, "expired") != 0 &&
		strcmp(state, "unrouted") != 0;
}

/* Ask for this wherever the event's state allows it, or throw. */
static void
ask_about_event(Oid function, Datum event_id, Datum destination,
				const char *action, bool (*can_be) (const char *state),
				const char *hint)
{
	FoundEvent *found;
	int			nasked = 0;
	int			n;

	store_begin_statements(function);
	n = find_to_change(event_id, destination, &found);
	for (int i = 0; i < n; i++)
	{
		if (!can_be(found[i].state))
			continue;
		ask_relay(found[i].destination, action, Int64GetDatum(found[i].id), 0);
		nasked++;
	}
	if (nasked == 0)
		report_wrong_state(event_id, found, n, action, hint);
	SPI_finish();
}

/*
 * Ask for a failed, dead, discarded or scheduled event to be sent, to one
 * destination, or, if that is 0, wherever it is one of these; or throw.
 */
void
store_retry(Oid function, Datum event_id, Datum destination)
{
	ask_about_event(function, event_id, destination, "retry", can_be_retried,
					"Only failed, dead, discarded and scheduled events can be retried.");
}

/* Ask for an event to be given up that is not published, likewise. */
void
store_discard(Oid function, Datum event_id, Datum destination)
{
	ask_about_event(function, event_id, destination, "discard", can_be_discarded,
					"Only events that are not yet published, and have not expired, can be discarded.");
}

/*
 * Ask for every dead event, of a topic or, if that is 0, of all, to be sent, to one
 * destination or, if that is 0, to all; how many?
 */
int64
store_retry_dead(Oid function, Datum topic, Datum destination)
{
	Datum		values[2] = {topic, destination};
	char		nulls[2] = {topic ? ' ' : 'n', destination ? ' ' : 'n'};
	int64		total = 0;
	int			n;
	int		   *ids;

	store_begin_statements(function);
	if (destination)
		(void) find_destination_id(destination);
	n = (int) store_execute(&count_dead, values, nulls);
	ids = palloc(sizeof(int) * Max(n, 1));
	for (int i = 0; i < n; i++)
	{
		ids[i] = DatumGetInt32(store_value(i, 1));
		total += DatumGetInt64(store_value(i, 2));
	}
	for (int i = 0; i < n; i++)
		ask_relay(ids[i], "retry_dead", 0, topic);
	SPI_finish();
	return total;
}

/*
 * Ask for what is kept and settled for a destination to be sent to it again: of topics
 * that a pattern matches, created since a time; either may be 0.  How many are these?
 */
int64
store_replay(Oid function, Datum destination, Datum topic, Datum since)
{
	Datum		values[4];
	char		nulls[4] = {' ', topic ? ' ' : 'n', since ? ' ' : 'n', ' '};
	int64		n;

	store_begin_statements(function);
	values[0] = Int32GetDatum(find_destination_id(destination));
	values[1] = topic;
	values[2] = since;
	store_execute(&count_settled, values, nulls);
	n = DatumGetInt64(store_value(0, 1));
	if (n > 0)
	{
		/* as in ask_relay() */
		(void) GetTopTransactionId();
		values[3] = store_value(0, 2);
		store_write_for_function(&add_replay, values, nulls);
	}
	SPI_finish();
	return n;
}

/*
 * The event is being deleted: so is what became of it, in each destination.  One that was
 * added since the transaction's snapshot may have a row of it; none is added from here on
 * until the event is gone.
 */
void
store_forget(Oid function, Datum id)
{
	Datum		values[2] = {id};

	store_begin_statements(function);
	store_keep_destinations();
	store_execute_latest(&list_destinations, NULL);
	values[1] = store_value(0, 1);

	/* the reader of requests relies on this (store_request.c) */
	(void) GetTopTransactionId();
	store_write_for_function(&forget_event, values, NULL);
	SPI_finish();
}

/* The same for all events: nobody else has the table now. */
void
store_forget_all(Oid function)
{
	store_begin_statements(function);
	store_write_for_function(&forget_all, NULL, NULL);
	SPI_finish();
}
