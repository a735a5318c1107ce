/*-------------------------------------------------------------------------
 *
 * event_guard.c
 *		Triggers of outbox_event for what is done to events that are there.
 *
 * An event is written once.  Whoever wants to be rid of one deletes its row,
 * and the relay is told; nobody changes one, because it may be in the relay's
 * memory, or at its receiver, as it was.  All of these triggers are ENABLE
 * ALWAYS.  What outbox_drop_replicated (replica_role.c), whose name comes
 * first, has dropped in session_replication_role = replica, they do not see.
 * TRUNCATE is not dropped, and done to the rows of outbox_delivery in every role.
 *
 * Locks: none of its own.  Errors go to the user.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/dependency.h"
#include "catalog/pg_class.h"
#include "commands/extension.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "utils/rel.h"

#include "lib/compat.h"
#include "server/shmem.h"
#include "store/event_columns.h"
#include "store/store.h"

PG_FUNCTION_INFO_V1(outbox_event_update);
PG_FUNCTION_INFO_V1(outbox_event_delete);

/* Throws unless this is a trigger function's call for outbox_event. */
static TriggerData *
trigger_data(FunctionCallInfo fcinfo, const char *function)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		strcmp(RelationGetRelationName(trigger->tg_relation), "outbox_event") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" is a trigger of table \"outbox_event\"",
						function)));
	return trigger;
}

/* Does a script of the extension that the table belongs to run? */
static bool
in_extension_script(const TriggerData *trigger)
{
	return creating_extension &&
		CurrentExtensionObject ==
		getExtensionOfObject(RelationRelationId,
							 RelationGetRelid(trigger->tg_relation));
}

/*
 * BEFORE UPDATE trigger of outbox_event: only upgrades of ours may, and the relay,
 * which has events keep their state on a server of another history.
 */
Datum
outbox_event_update(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = trigger_data(fcinfo, "outbox_event_update");

	if (!in_extension_script(trigger) && !store_is_relay())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("events cannot be changed"),
				 errdetail("Every attempt for an event sends the same bytes."),
				 errhint("To erase an event, DELETE its row of outbox_event; outbox_discard() only stops its delivery.")));
	return PointerGetDatum(trigger->tg_newtuple);
}

/*
 * AFTER DELETE and AFTER TRUNCATE trigger of outbox_event.  An event that is
 * deleted by hand takes its row of outbox_delivery along, which would block
 * its key forever, and the relay forgets it.  After, because another trigger may
 * keep an event that was to be deleted.
 */
Datum
outbox_event_delete(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = trigger_data(fcinfo, "outbox_event_delete");
	Datum		id;
	bool		isnull;

	/* When the relay prunes, it deletes the two rows together. */
	if (store_is_relay())
		return PointerGetDatum(NULL);
	if (TRIGGER_FIRED_BY_TRUNCATE(trigger->tg_event))
	{
		store_forget_all(fcinfo->flinfo->fn_oid);
		shmem_wake_relays_at_commit(RELAY_REQUEST_RECHECK);
	}
	else
	{
		id = heap_getattr_compat(trigger->tg_trigtuple, EVENT_ATTNUM(EVENT_COL_ID),
								 RelationGetDescr(trigger->tg_relation), &isnull);
		store_forget(fcinfo->flinfo->fn_oid, id);
	}
	shmem_wake_relays_at_commit(RELAY_REQUEST_SERVE);
	return PointerGetDatum(NULL);
}
