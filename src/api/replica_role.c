/*-------------------------------------------------------------------------
 *
 * replica_role.c
 *		Rows that are written in session_replication_role = replica.
 *
 * Two kinds of programs set this role.  Replication brings rows of another
 * database, which delivers their events itself, and which happen to have ids of
 * ours: they are dropped, and ours neither changed nor deleted.  A restore
 * brings events that nobody else delivers any more: they are taken.
 *
 * Which of them it is shows by the process.  Logical replication, and what was
 * built like it (pglogical, Spock), applies rows in background workers; a
 * restore is a client's session.  Some replication is that as well: so the
 * session is told what becomes of its events.  Of a client only new rows are
 * taken, and none of outbox_progress and outbox_restore: a position means
 * nothing elsewhere, and what was restored elsewhere has not been here.
 *
 * What is neither: a trigger on a subscriber's table, ENABLE REPLICA or ALWAYS,
 * publishes because a row was applied there.  That is this database's own event.
 * So what a function of ours or a trigger writes is meant, whatever the process.
 *
 * Locks: none.  Errors: none but for triggers that are misused.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "api/replica_role.h"
#include "lib/compat.h"
#include "server/shmem.h"
#include "store/store.h"

PG_FUNCTION_INFO_V1(outbox_drop_replicated);

static bool
is_table(const TriggerData *trigger, const char *name)
{
	return strcmp(RelationGetRelationName(trigger->tg_relation), name) == 0;
}

/* In a trigger of ours: does a function of ours, or another trigger, write? */
static bool
is_meant(void)
{
	return store_in_function() ||
		DatumGetInt32(OidFunctionCall0(F_PG_TRIGGER_DEPTH)) > 1;
}

/* In a BEFORE trigger of a row of ours: is what it is called for not to be done? */
bool
replica_role_drops(const TriggerData *trigger)
{
	if (SessionReplicationRole != SESSION_REPLICATION_ROLE_REPLICA)
		return false;
	if (is_table(trigger, "outbox_progress") ||
		is_table(trigger, "outbox_restore"))
		return true;
	if (is_meant())
		return false;
	return MyBackendType == B_BG_WORKER ||
		!TRIGGER_FIRED_BY_INSERT(trigger->tg_event);
}

/* An event is inserted, and not dropped; tell a restore, once a session. */
void
replica_role_tell_of_restore(void)
{
	static bool told = false;

	if (SessionReplicationRole != SESSION_REPLICATION_ROLE_REPLICA || told ||
		is_meant())
		return;
	told = true;
	ereport(NOTICE,
			(errmsg("events that this session restores will be delivered by this database"),
			 errdetail("In session_replication_role = replica, what a client writes to outbox_event is taken for a restore."),
			 errhint("If they are delivered where they were published, leave the tables of outbox out of the replication.")));
}

/*
 * Is the new row, of any of our tables but outbox_event, from a dump?  Nobody but
 * the relay writes outbox_delivery; what is asked of it now is asked after the
 * transaction began.
 */
static bool
is_restored(const TriggerData *trigger)
{
	Datum		asked_at;
	bool		isnull;

	if (store_in_function())
		return false;
	if (!is_table(trigger, "outbox_request"))
		return is_table(trigger, "outbox_delivery") ||
			is_table(trigger, "outbox_destination") ||
			is_table(trigger, "outbox_filter");
	asked_at = heap_getattr_compat(trigger->tg_trigtuple,
								   get_attnum(RelationGetRelid(trigger->tg_relation),
											  "requested_at"),
								   RelationGetDescr(trigger->tg_relation), &isnull);
	return !isnull &&
		DatumGetTimestampTz(asked_at) < GetCurrentTransactionStartTimestamp();
}

/*
 * The new row of outbox_filter as it is to be stored.  In a dump there are snapshots of
 * another server: here, all events that it brings belong to the newest version.
 */
static HeapTuple
restored_filter(const TriggerData *trigger)
{
	int			attnum = get_attnum(RelationGetRelid(trigger->tg_relation),
									"since");
	Datum		begin = DirectFunctionCall1(pg_snapshot_in,
											CStringGetDatum("1:1:"));
	bool		isnull = false;

	return heap_modify_tuple_by_cols(trigger->tg_trigtuple,
									 RelationGetDescr(trigger->tg_relation),
									 1, &attnum, &begin, &isnull);
}

/*
 * BEFORE trigger of all our tables, but for new events, which have their own: it
 * drops what replication brings.  Of what a restore writes, the relay is told.
 */
Datum
outbox_drop_replicated(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!TRIGGER_FIRED_BEFORE(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigger->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"outbox_drop_replicated\" is a trigger of the tables of outbox")));
	if (replica_role_drops(trigger))
		return PointerGetDatum(NULL);

	/* a row of a dump: the relay comes back only to what it knows of */
	if (TRIGGER_FIRED_BY_INSERT(trigger->tg_event) && !store_is_relay() &&
		is_restored(trigger))
	{
		shmem_wake_relays_at_commit(RELAY_REQUEST_SERVE | RELAY_REQUEST_RECHECK);
		if (is_table(trigger, "outbox_filter"))
			return PointerGetDatum(restored_filter(trigger));
	}
	if (TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
		return PointerGetDatum(trigger->tg_newtuple);
	return PointerGetDatum(trigger->tg_trigtuple);
}
