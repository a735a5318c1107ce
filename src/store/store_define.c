/*-------------------------------------------------------------------------
 *
 * store_define.c
 *		Destinations are added, altered, paused and dropped: in users' transactions.
 *
 * What is written here are the rows of outbox_destination and outbox_filter, which
 * relays only read, but for the snapshot of a filter that begins and what is left of
 * a destination that was dropped; and where a new destination begins.
 *
 * A new one takes what its snapshot does not see.  The transaction that adds it counts
 * as running there: all that it publishes goes to the destination, and all that is
 * committed later.  The horizon of pruning is kept until that can be seen.
 *
 * The SQL functions run with the rights of who calls them, which api/destination.c
 * checks, and pin their search_path.
 *
 * Errors go to the user.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"

#include "store/store_internal.h"

/* "default" is there without a row, until somebody changes it. */
#define DEFAULT_ROW \
	" SELECT 0, 'default' WHERE $1 = 'default'" \
	" ON CONFLICT (id) DO NOTHING"

/* $1 name, $2 settings */
static Statement add_row = {
	"INSERT INTO @s@.outbox_destination (id, name, settings)"
	" SELECT nextval(s.tableoid), $1, $2"
	" FROM @s@.outbox_destination_id_seq s"
	" ON CONFLICT (name) DO NOTHING RETURNING id",
	2, {TEXTOID, JSONBOID}
};

/*
 * $1 destination, $2 topics, $3 everything: the first filter, and the position to
 * begin at, in one snapshot, to which this transaction still runs
 */
static Statement begin_destination = {
	"WITH s AS MATERIALIZED (SELECT CASE WHEN $3 THEN '1:1:'::pg_snapshot"
	"  WHEN pg_current_xact_id() >= pg_snapshot_xmax(c) THEN c"
	"  ELSE (SELECT format('%s:%s:%s', (array_agg(x.xid ORDER BY x.xid))[1],"
	"    pg_snapshot_xmax(c), string_agg(x.xid::text, ',' ORDER BY x.xid))"
	"   FROM (SELECT pg_snapshot_xip(c) UNION SELECT pg_current_xact_id()) x(xid)"
	"   )::pg_snapshot END AS since"
	"  FROM pg_current_snapshot() c),"
	" f AS (INSERT INTO @s@.outbox_filter (destination, version, topics, since)"
	"  SELECT $1, 1, $2, s.since FROM s)"
	" INSERT INTO @s@.outbox_progress"
	" (destination, lo, hi, last_id, largest_read, clean, at)"
	" SELECT $1, s.since, s.since, 0, CASE WHEN $3 THEN 0 ELSE"
	"  coalesce((SELECT max(e.id) FROM @s@.outbox_event e), 0) END,"
	"  true, '-infinity' FROM s",
	3, {INT4OID, TEXTARRAYOID, BOOLOID}
};

/* $1 name */
static Statement make_default_row = {
	"INSERT INTO @s@.outbox_destination (id, name)" DEFAULT_ROW,
	1, {TEXTOID}
};

/* $1 name */
static Statement lock_row = {
	"SELECT d.id FROM @s@.outbox_destination d WHERE d.name = $1 FOR UPDATE",
	1, {TEXTOID}
};

/* $1 destination; "default" took everything before it was altered */
static Statement make_first_filter = {
	"INSERT INTO @s@.outbox_filter (destination, version, topics, since)"
	" SELECT 0, 1, '{#}', '1:1:' WHERE $1 = 0 AND NOT EXISTS"
	"  (SELECT 1 FROM @s@.outbox_filter f WHERE f.destination = 0)",
	1, {INT4OID}
};

/* $1 destination, $2 topics; the relay begins with them */
static Statement add_filter = {
	"INSERT INTO @s@.outbox_filter (destination, version, topics)"
	" SELECT $1, max(f.version) + 1, $2 FROM @s@.outbox_filter f"
	" WHERE f.destination = $1"
	" HAVING (array_agg(f.topics::text ORDER BY f.version DESC))[1]"
	"  <> $2::text",
	2, {INT4OID, TEXTARRAYOID}
};

/* $1 destination, $2 settings; those that are null are taken away */
static Statement merge_settings = {
	"UPDATE @s@.outbox_destination d"
	" SET settings = jsonb_strip_nulls(d.settings || $2) WHERE d.id = $1",
	2, {INT4OID, JSONBOID}
};

/* $1 destination, $2 paused */
static Statement set_paused = {
	"UPDATE @s@.outbox_destination d SET paused = $2"
	" WHERE d.id = $1 AND d.paused <> $2",
	2, {INT4OID, BOOLOID}
};

/* $1 destination */
static Statement count_undelivered = {
	"SELECT (SELECT count(*) FROM @s@.outbox_ahead a WHERE a.destination = $1)"
	" + (SELECT count(*) FROM @s@.outbox_delivery d WHERE d.destination = $1"
	"  AND d.state IN ('scheduled', 'pending', 'in_progress', 'failed'))",
	1, {INT4OID}
};

/* $1 destination */
static Statement drop_row = {
	"UPDATE @s@.outbox_destination d SET name = NULL WHERE d.id = $1",
	1, {INT4OID}
};

/* $1 name, $2 name of a setting */
static Statement read_setting = {
	"SELECT d.settings ->> $2 FROM @s@.outbox_destination d WHERE d.name = $1",
	2, {TEXTOID, TEXTOID}
};

/* The id of a destination, whose row is locked and made if need be; or throw. */
static int
lock_destination(Datum name)
{
	store_write_for_function(&make_default_row, &name, NULL);
	if (store_execute(&lock_row, &name, NULL) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("destination \"%s\" does not exist",
						TextDatumGetCString(name)),
				 errhint("The view outbox_destinations shows those that there are.")));
	return DatumGetInt32(store_value(0, 1));
}

/*
 * A new destination, which begins with this transaction's events or, "from_start",
 * with all that is kept.  False if there is one of this name.
 */
bool
store_add_destination(Oid function, const StoreDefinition *definition,
					  bool from_start)
{
	Datum		row[2] = {definition->name, definition->settings};
	Datum		begin[3] = {0, definition->topics, BoolGetDatum(from_start)};
	bool		added;

	store_begin_statements(function);
	store_await_deletes();
	store_keep_horizon();
	added = store_write_for_function(&add_row, row, NULL) > 0;
	if (added)
	{
		begin[0] = store_value(0, 1);
		store_write_for_function(&begin_destination, begin, NULL);
	}
	SPI_finish();
	return added;
}

/* Other topics and settings, or either, for a destination. */
void
store_alter_destination(Oid function, const StoreDefinition *definition)
{
	Datum		values[2];

	store_begin_statements(function);
	values[0] = Int32GetDatum(lock_destination(definition->name));
	if (definition->topics)
	{
		values[1] = definition->topics;
		store_write_for_function(&make_first_filter, values, NULL);
		store_write_for_function(&add_filter, values, NULL);
	}
	if (definition->settings)
	{
		values[1] = definition->settings;
		store_write_for_function(&merge_settings, values, NULL);
	}
	SPI_finish();
}

/* A destination goes; returns how many events were not delivered to it. */
int64
store_drop_destination(Oid function, Datum name)
{
	Datum		id;
	int64		n;

	store_begin_statements(function);
	id = Int32GetDatum(lock_destination(name));
	store_execute(&count_undelivered, &id, NULL);
	n = DatumGetInt64(store_value(0, 1));
	store_write_for_function(&drop_row, &id, NULL);
	SPI_finish();
	return n;
}

/* Nothing is sent to a destination, or it is again. */
void
store_pause_destination(Oid function, Datum name, bool paused)
{
	Datum		values[2];

	store_begin_statements(function);
	values[0] = Int32GetDatum(lock_destination(name));
	values[1] = BoolGetDatum(paused);
	store_write_for_function(&set_paused, values, NULL);
	SPI_finish();
}

/*
 * A setting of a destination, palloc'd; NULL: it has none of its own, or there is no
 * such destination.
 */
char *
store_destination_setting(Oid function, Datum name, const char *setting)
{
	MemoryContext caller = CurrentMemoryContext;
	Datum		values[2] = {name, CStringGetTextDatum(setting)};
	char	   *result = NULL;
	bool		isnull;
	Datum		value;

	store_begin_statements(function);
	if (store_execute(&read_setting, values, NULL) > 0)
	{
		value = store_result(0, 1, &isnull);
		if (!isnull)
			result = MemoryContextStrdup(caller, TextDatumGetCString(value));
	}
	SPI_finish();
	return result;
}
