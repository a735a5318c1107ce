/*-------------------------------------------------------------------------
 *
 * enqueue.c
 *		The way in: SQL functions that publish, and the trigger behind them.
 *
 * outbox_publish() and outbox_publish_bytes() insert a row, and return its
 * UUID.  What has to be so for every event is seen to in the BEFORE INSERT
 * trigger, which INSERT, COPY and a restored dump pass as well: it checks the
 * event unless that is restored (event_check.c), stamps the transaction and the
 * session's user, makes id, UUID and time, and has the relay woken at commit.
 * Rows that are restored, which bring a transaction, keep their id, time and user;
 * these four are the owner's to choose.
 *
 * A row that logical replication applies belongs to the publisher of that
 * replication, which delivers it: the trigger drops it (replica_role.c).  What a
 * query publishes that Citus runs on another node, it refuses (citus_pushdown.c).
 *
 * Locks: none of its own.  Errors: the application's transaction fails, and
 * nothing is stored.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "access/xact.h"
#include "commands/sequence.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"
#include "utils/xid8.h"

#include "api/citus_pushdown.h"
#include "api/event_check.h"
#include "api/optional_arg.h"
#include "api/replica_role.h"
#include "api/restore_note.h"
#include "lib/uuidv7.h"
#include "server/shmem.h"
#include "store/event_columns.h"
#include "store/store.h"

PG_FUNCTION_INFO_V1(outbox_publish);
PG_FUNCTION_INFO_V1(outbox_publish_bytes);
PG_FUNCTION_INFO_V1(outbox_event_insert);

/* Once a session: it can't be helped before the server is restarted. */
static void
warn_if_not_preloaded(void)
{
	static bool warned = false;

	if (shmem_attached() || warned)
		return;
	warned = true;
	ereport(WARNING,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("events are stored but not delivered"),
			 errdetail("The outbox library is not preloaded, so that no relay runs."),
			 errhint("Add outbox to shared_preload_libraries and restart the server.")));
}

/* A new UUID as a value, palloc'd. */
static Datum
make_uuid(void)
{
	pg_uuid_t  *uuid = palloc(sizeof(pg_uuid_t));

	uuidv7_generate(uuid);
	return UUIDPGetDatum(uuid);
}

/* The next id, from the sequence in the schema of the table. */
static Datum
make_id(Relation table)
{
	Oid			sequence = get_relname_relid("outbox_event_id_seq",
											 RelationGetNamespace(table));

	return Int64GetDatum(nextval_internal(sequence, false));
}

/*
 * Stamp who publishes: the user who logged in, whatever role and function it is
 * done in.  NULL if that one was dropped meanwhile.
 */
static void
stamp_user(Datum *values, bool *nulls)
{
	char	   *name = GetUserNameFromId(GetSessionUserId(), true);

	if (name == NULL)
		return;
	values[EVENT_COL_PUBLISHED_BY] = CStringGetTextDatum(name);
	nulls[EVENT_COL_PUBLISHED_BY] = false;
}

/*
 * What is not given of id, time, UUID and user is made here.  Who could choose
 * any but the UUID, or pass for a dump, could have events overtake those of
 * others, or hide among them.
 */
static void
make_what_is_missing(Relation table, Datum *values, bool *nulls)
{
	static const EventColumn owned[] = {EVENT_COL_ID, EVENT_COL_XID,
	EVENT_COL_CREATED_AT, EVENT_COL_PUBLISHED_BY};

	for (int i = 0; i < lengthof(owned); i++)
	{
		if (!nulls[owned[i]] &&
			!has_privs_of_role(GetUserId(), table->rd_rel->relowner))
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("permission denied to choose \"%s\" of an event",
							NameStr(TupleDescAttr(RelationGetDescr(table),
												  owned[i])->attname)),
					 errhint("Leave the column out: it is filled here.")));
	}
	if (nulls[EVENT_COL_ID])
		values[EVENT_COL_ID] = make_id(table);
	if (nulls[EVENT_COL_CREATED_AT])
		values[EVENT_COL_CREATED_AT] = TimestampTzGetDatum(GetCurrentTimestamp());
	if (nulls[EVENT_COL_EVENT_ID])
		values[EVENT_COL_EVENT_ID] = make_uuid();
	nulls[EVENT_COL_ID] = nulls[EVENT_COL_CREATED_AT] =
		nulls[EVENT_COL_EVENT_ID] = false;

	/* whoever restores an event has not published it */
	if (nulls[EVENT_COL_PUBLISHED_BY] && nulls[EVENT_COL_XID])
		stamp_user(values, nulls);
}

/* The BEFORE INSERT trigger of outbox_event; see above. */
Datum
outbox_event_insert(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	TupleDesc	desc;
	HeapTuple	tuple;
	Datum	   *values;
	bool	   *nulls;
	bool		restored;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!TRIGGER_FIRED_BEFORE(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
		!TRIGGER_FIRED_BY_INSERT(trigger->tg_event) ||
		strcmp(RelationGetRelationName(trigger->tg_relation), "outbox_event") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"outbox_event_insert\" is the trigger of table \"outbox_event\"")));
	if (replica_role_drops(trigger))
		return PointerGetDatum(NULL);
	citus_pushdown_refuse();

	/*
	 * Columns are known by their position.  The table of a later version has
	 * more of them than we know, that of an earlier one less: what it does
	 * not have is NULL.
	 */
	desc = RelationGetDescr(trigger->tg_relation);
	values = palloc0(sizeof(Datum) * Max(desc->natts, NEVENT_COLUMNS));
	nulls = palloc(sizeof(bool) * Max(desc->natts, NEVENT_COLUMNS));
	memset(nulls, true, sizeof(bool) * Max(desc->natts, NEVENT_COLUMNS));
	heap_deform_tuple(trigger->tg_trigtuple, desc, values, nulls);
	restored = !nulls[EVENT_COL_XID];
	make_what_is_missing(trigger->tg_relation, values, nulls);
	event_check_id(values[EVENT_COL_ID]);
	if (!restored)
		event_check(values, nulls);

	/*
	 * The top-level transaction, which is what snapshots know of after the
	 * commit: a row's xmin may be a subtransaction's.  A dump brings those of
	 * another cluster.
	 */
	values[EVENT_COL_XID] = FullTransactionIdGetDatum(GetTopFullTransactionId());
	nulls[EVENT_COL_XID] = false;
	tuple = heap_form_tuple(desc, values, nulls);

	warn_if_not_preloaded();
	replica_role_tell_of_restore();
	if (restored)
		restore_note_count(trigger->tg_relation);

	/* the relay may have passed over its row, which came before it */
	shmem_wake_relays_at_commit(restored ? RELAY_REQUEST_RECHECK : 0);
	return PointerGetDatum(tuple);
}

/*
 * The function of a later version has more arguments than the "n" we know: what
 * is given there must not be dropped without a word.
 */
static void
refuse_unknown_args(FunctionCallInfo fcinfo, int n, const char *function)
{
	for (int i = n; i < PG_NARGS(); i++)
	{
		if (!PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("the library does not know argument %d of %s",
							i + 1, function),
					 errdetail("The library has version %s, the extension in this database a later one.",
							   OUTBOX_VERSION),
					 errhint("Restart the server with the library of the extension's version.")));
	}
}

/* An argument that must not be NULL; "hint" says what to give instead. */
static Datum
required_arg(FunctionCallInfo fcinfo, int n, const char *name,
			 const char *hint)
{
	if (PG_ARGISNULL(n))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s of an event must not be null", name),
				 errhint("%s", hint)));
	return PG_GETARG_DATUM(n);
}

/*
 * Enqueue an event whose arguments before "key" are set.  From there on they
 * are the same in both functions; "n" is the number of that argument.
 */
static Datum
enqueue_event(FunctionCallInfo fcinfo, StorePublish *event, int n,
			  const char *function)
{
	PreventCommandIfReadOnly(function);
	event->key = optional_arg(fcinfo, n);
	event->type = optional_arg(fcinfo, n + 1);
	event->event_id = optional_arg(fcinfo, n + 2);
	event->metadata = optional_arg(fcinfo, n + 3);
	event->deliver_after = optional_arg(fcinfo, n + 4);
	event->expires_at = optional_arg(fcinfo, n + 5);
	refuse_unknown_args(fcinfo, n + 6, function);

	/*
	 * Only an id that was given can be there already.  Otherwise it is made
	 * here and not in the trigger, since it is what we return.
	 */
	event->may_exist = event->event_id != 0;
	if (!event->may_exist)
		event->event_id = make_uuid();
	if (!store_publish(fcinfo->flinfo->fn_oid, event))
		shmem_count_duplicate();
	PG_RETURN_DATUM(event->event_id);
}

Datum
outbox_publish(PG_FUNCTION_ARGS)
{
	StorePublish event = {0};

	event.topic = required_arg(fcinfo, 0, "topic", "Give the topic to publish to.");
	event.payload = required_arg(fcinfo, 1, "payload",
								 "The JSON null is 'null'.");
	return enqueue_event(fcinfo, &event, 2, "outbox_publish()");
}

Datum
outbox_publish_bytes(PG_FUNCTION_ARGS)
{
	StorePublish event = {0};

	event.topic = required_arg(fcinfo, 0, "topic", "Give the topic to publish to.");
	event.body = required_arg(fcinfo, 1, "payload",
							  "An empty payload is '\\x'.");
	event.content_type = required_arg(fcinfo, 2, "content_type",
									  "Use application/octet-stream for bytes of no particular type.");
	return enqueue_event(fcinfo, &event, 3, "outbox_publish_bytes()");
}
