/*-------------------------------------------------------------------------
 *
 * event_source.c
 *		The trigger of outbox_source: which CloudEvents source events have.
 *
 * Receivers know an event by its id and source together, so that the source must
 * not change while an event is tried again.  It is made once, by CREATE EXTENSION,
 * of the database's name as it is then and of random digits, since databases of many
 * servers have the same name.  The row is kept when the database gets another name,
 * by pg_upgrade, by a copy, and by a dump.  Where a dump is restored, CREATE
 * EXTENSION has made another row before: so a row that is inserted takes the place of
 * the one that is there.
 *
 * Relays hear of it at commit, and begin anew with what it is then.
 *
 * Locks: those of the DELETE.  Errors go to the user.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "commands/dbcommands.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "lib/compat.h"
#include "lib/text.h"
#include "server/shmem.h"
#include "store/store.h"

/* The only column. */
#define SOURCE_ATTNUM	1

PG_FUNCTION_INFO_V1(outbox_source_insert);

/* /postgresql/DATABASE/xxxxxxxx; palloc'd. */
static char *
make_source(void)
{
	StringInfoData source;
	uint32		digits;

	if (!pg_strong_random(&digits, sizeof(digits)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate a random value")));
	initStringInfo(&source);
	appendStringInfoString(&source, "/postgresql/");
	text_append_uri_segment(&source, get_database_name(MyDatabaseId));
	appendStringInfo(&source, "/%08x", digits);
	return source.data;
}

/* Throw unless the setting would take it as well. */
static void
check_source(const char *source)
{
	if (source[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("source of events must not be empty"),
				 errhint("INSERT ... DEFAULT VALUES makes a new one.")));
	(void) set_config_option("outbox.source", source, PGC_SUSET, PGC_S_TEST,
							 GUC_ACTION_SET, false, 0, false);
}

/* BEFORE INSERT trigger of outbox_source, as described at the top. */
Datum
outbox_source_insert(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	HeapTuple	row;
	TupleDesc	desc;
	int			attnum = SOURCE_ATTNUM;
	Datum		source;
	bool		isnull;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		strcmp(RelationGetRelationName(trigger->tg_relation), "outbox_source") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"outbox_source_insert\" is a trigger of table \"outbox_source\"")));
	row = trigger->tg_trigtuple;
	desc = RelationGetDescr(trigger->tg_relation);

	source = heap_getattr_compat(row, SOURCE_ATTNUM, desc, &isnull);
	if (isnull)
	{
		source = CStringGetTextDatum(make_source());
		isnull = false;
		row = heap_modify_tuple_by_cols(row, desc, 1, &attnum, &source, &isnull);
	}
	else
		check_source(TextDatumGetCString(source));
	store_clear_source(fcinfo->flinfo->fn_oid);
	shmem_wake_relays_at_commit(RELAY_REQUEST_DESTINATIONS);
	return PointerGetDatum(row);
}
