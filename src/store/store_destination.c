/*-------------------------------------------------------------------------
 *
 * store_destination.c
 *		What a relay reads of destinations: its own one, and who there is.
 *
 * Rows of outbox_destination are written by users' transactions
 * (store_define.c), but for those of destinations that were dropped, which a prune
 * deletes when nothing is left of them.  "default" has a row only when somebody has
 * changed it.
 *
 * Where a new destination begins is a row of outbox_progress, written with it.  One
 * that a dump has brought has none: it begins with all that there is.
 *
 * Errors: those of the statements, in a transaction of the store.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"

#include "store/store_internal.h"

static Statement read_own = {
	"SELECT p.name, p.paused, p.settings::text, s.source"
	" FROM @s@.outbox_position p, @s@.outbox_source s"
	" WHERE p.destination = @d@",
	0
};

/* It is gone only if somebody has deleted it. */
static Statement make_source = {
	"INSERT INTO @s@.outbox_source (source) SELECT NULL"
	" WHERE NOT EXISTS (SELECT 1 FROM @s@.outbox_source)"
	" ON CONFLICT DO NOTHING",
	0
};

static Statement read_settings = {
	"SELECT s.key, s.value FROM @s@.outbox_destination d,"
	" jsonb_each_text(d.settings) s WHERE d.id = @d@ ORDER BY s.key",
	0
};

static Statement list_others = {
	"SELECT d.id, d.name, d.settings ->> 'abandon_after'"
	" FROM @s@.outbox_destination d"
	" WHERE d.name IS NOT NULL AND d.id <> @d@ ORDER BY d.id",
	0
};

static Statement list_ids = {
	"SELECT array_agg(p.destination) FROM @s@.outbox_position p",
	0
};

static Statement begin_position = {
	"INSERT INTO @s@.outbox_progress"
	" (destination, lo, hi, last_id, largest_read, clean, at)"
	" SELECT @d@, '1:1:', '1:1:', 0, 0, true, '-infinity'"
	" WHERE NOT EXISTS (SELECT 1 FROM @s@.outbox_progress p"
	"  WHERE p.destination = @d@)",
	0
};

typedef struct ReadArgs
{
	MemoryContext context;		/* of the result */
	StoreDestination *destination;
	List	  **list;
} ReadArgs;

static char *
copy_text(MemoryContext context, Datum value)
{
	return MemoryContextStrdup(context, TextDatumGetCString(value));
}

static void
read_destination_body(void *arg)
{
	ReadArgs   *args = arg;
	StoreDestination *destination = args->destination;

	store_execute(&make_source, NULL, NULL);
	if (store_execute(&read_own, NULL, NULL) == 0)
		return;
	destination->name = copy_text(args->context, store_value(0, 1));
	destination->paused = DatumGetBool(store_value(0, 2));
	destination->settings = copy_text(args->context, store_value(0, 3));
	destination->source = copy_text(args->context, store_value(0, 4));
}

/*
 * Read what there is to know of this relay's destination, and the source of its
 * events; texts are in the current memory context.  The name stays NULL if it has
 * been dropped.
 */
StoreResult
store_read_destination(StoreDestination *destination)
{
	ReadArgs	args = {CurrentMemoryContext, destination, NULL};

	memset(destination, 0, sizeof(*destination));
	return store_transaction(read_destination_body, &args);
}

static void
read_settings_body(void *arg)
{
	ReadArgs   *args = arg;
	uint64		n = store_execute(&read_settings, NULL, NULL);
	MemoryContext old = MemoryContextSwitchTo(args->context);

	for (uint64 i = 0; i < n; i++)
	{
		StoreSetting *setting = palloc(sizeof(StoreSetting));

		setting->name = TextDatumGetCString(store_value(i, 1));
		setting->value = TextDatumGetCString(store_value(i, 2));
		*args->list = lappend(*args->list, setting);
	}
	MemoryContextSwitchTo(old);
}

/*
 * Its settings: *settings becomes a list of StoreSetting *, in the current memory
 * context.
 */
StoreResult
store_read_settings(List **settings)
{
	ReadArgs	args = {CurrentMemoryContext, NULL, settings};

	*settings = NIL;
	return store_transaction(read_settings_body, &args);
}

static void
list_others_body(void *arg)
{
	ReadArgs   *args = arg;
	uint64		n = store_execute(&list_others, NULL, NULL);
	MemoryContext old = MemoryContextSwitchTo(args->context);

	for (uint64 i = 0; i < n; i++)
	{
		StoreOther *other = palloc(sizeof(StoreOther));
		Datum		value;
		bool		isnull;

		other->id = DatumGetInt32(store_value(i, 1));
		other->name = TextDatumGetCString(store_value(i, 2));
		value = store_result(i, 3, &isnull);
		other->abandon_after = isnull ? NULL : TextDatumGetCString(value);
		*args->list = lappend(*args->list, other);
	}
	MemoryContextSwitchTo(old);
}

/*
 * The other destinations of this database: *others becomes a list of StoreOther *,
 * in the current memory context.
 */
StoreResult
store_list_others(List **others)
{
	ReadArgs	args = {CurrentMemoryContext, NULL, others};

	*others = NIL;
	return store_transaction(list_others_body, &args);
}

static void
begin_position_body(void *arg)
{
	store_execute(&begin_position, NULL, NULL);
}

/* If this relay's destination begins nowhere yet, it begins with all there is. */
StoreResult
store_ensure_position(void)
{
	return store_transaction(begin_position_body, NULL);
}

/* The ids of all destinations, "default" among them, as int4[]. */
Datum
store_list_destinations(void)
{
	store_execute(&list_ids, NULL, NULL);
	return store_value(0, 1);
}
