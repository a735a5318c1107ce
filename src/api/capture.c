/*-------------------------------------------------------------------------
 *
 * capture.c
 *		A trigger that publishes what becomes of a table's rows.
 *
 * outbox_capture() is an AFTER trigger of a user's table.  Its event is an
 * object: operation, schema and table, and the row as it is ("new") and was
 * ("old"), of which NULL is the one that there is none of.
 *
 * Rights.  Whoever writes the table needs none of ours, as with any trigger; so
 * what the function does for him must be nothing that he could turn to his use.
 * It runs as who writes the table, and so does everything of the user's that is
 * called on the way: output functions of types, casts to json.  What they make
 * is finished, one value of jsonb and a text, when the event is inserted.  Only
 * that is done as the function's owner, as outbox_publish() does it.  Who may
 * make such a trigger is said by EXECUTE on the function, which is asked for then.
 *
 * What the arguments mean, capture_plan.c says.
 *
 * Memory: what is made is in the context that is reset after each call.  Locks:
 * none but those of the statement.  Errors fail it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/rel.h"
#include "utils/uuid.h"

#include "api/capture_plan.h"
#include "lib/uuidv7.h"
#include "store/store.h"

PG_FUNCTION_INFO_V1(outbox_capture);

/* Throws unless it is called as an AFTER trigger, of a row or of TRUNCATE. */
static TriggerData *
check_call(FunctionCallInfo fcinfo)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_AFTER(trigger->tg_event) ||
		(!TRIGGER_FIRED_FOR_ROW(trigger->tg_event) &&
		 !TRIGGER_FIRED_BY_TRUNCATE(trigger->tg_event)))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"outbox_capture\" must be fired AFTER ROW, or AFTER TRUNCATE"),
				 errhint("Use it in CREATE TRIGGER ... AFTER INSERT OR UPDATE OR DELETE ... FOR EACH ROW, or AFTER TRUNCATE ... FOR EACH STATEMENT.")));
	return trigger;
}

/* A row of the table, taken apart. */
typedef struct CaptureRow
{
	Datum	   *values;
	bool	   *nulls;
} CaptureRow;

static CaptureRow *
take_apart(HeapTuple tuple, TupleDesc desc)
{
	CaptureRow *row = palloc(sizeof(CaptureRow));

	row->values = palloc(sizeof(Datum) * desc->natts);
	row->nulls = palloc(sizeof(bool) * desc->natts);
	heap_deform_tuple(tuple, desc, row->values, row->nulls);
	return row;
}

/* What is published of a row, as a record, of which no value is elsewhere. */
static Datum
make_record(const CapturePlan *plan, const CaptureRow *row)
{
	Datum	   *values = palloc(sizeof(Datum) * plan->ncolumns);
	bool	   *nulls = palloc(sizeof(bool) * plan->ncolumns);

	for (int i = 0; i < plan->ncolumns; i++)
	{
		values[i] = row->values[plan->columns[i] - 1];
		nulls[i] = row->nulls[plan->columns[i] - 1];
	}
	return HeapTupleGetDatum(heap_form_tuple(plan->row, values, nulls));
}

/* Has a column of two rows the same value, byte by byte? */
static bool
is_same(TupleDesc desc, AttrNumber column, const CaptureRow *a,
		const CaptureRow *b)
{
	Form_pg_attribute type = TupleDescAttr(desc, column - 1);
	int			i = column - 1;

	if (a->nulls[i] || b->nulls[i])
		return a->nulls[i] == b->nulls[i];
	return datum_image_eq(a->values[i], b->values[i], type->attbyval, type->attlen);
}

/* Would the event say of both rows the same, and have the key of both? */
static bool
is_unchanged(const CapturePlan *plan, TupleDesc desc, const CaptureRow *new,
			 const CaptureRow *old)
{
	for (int i = 0; i < plan->ncolumns; i++)
	{
		if (!is_same(desc, plan->columns[i], new, old))
			return false;
	}
	return plan->key == 0 || is_same(desc, plan->key, new, old);
}

static const char *
operation_name(TriggerEvent event)
{
	if (TRIGGER_FIRED_BY_INSERT(event))
		return "INSERT";
	if (TRIGGER_FIRED_BY_UPDATE(event))
		return "UPDATE";
	return TRIGGER_FIRED_BY_DELETE(event) ? "DELETE" : "TRUNCATE";
}

/*
 * The event of a change, as jsonb.  Code of users may run, as who writes the
 * table; "new" and "old" are NULL if there is no such row.
 */
static Datum
make_payload(CapturePlan *plan, const char *operation, const CaptureRow *new,
			 const CaptureRow *old)
{
	Datum		values[NMEMBERS];
	bool		nulls[NMEMBERS] = {false};

	values[MEMBER_OPERATION] = CStringGetTextDatum(operation);
	values[MEMBER_SCHEMA] = plan->schema;
	values[MEMBER_TABLE] = plan->table;
	nulls[MEMBER_NEW] = new == NULL;
	nulls[MEMBER_OLD] = old == NULL;
	if (new)
		values[MEMBER_NEW] = make_record(plan, new);
	if (old)
		values[MEMBER_OLD] = make_record(plan, old);
	return FunctionCall1(&plan->to_jsonb,
						 HeapTupleGetDatum(heap_form_tuple(plan->event, values,
														   nulls)));
}

/* The key of a row as text; 0: it has none.  As with make_payload(). */
static Datum
make_key(CapturePlan *plan, const CaptureRow *row)
{
	if (plan->key == 0 || row == NULL || row->nulls[plan->key - 1])
		return (Datum) 0;
	return CStringGetTextDatum(OutputFunctionCall(&plan->key_output,
												  row->values[plan->key - 1]));
}

/* Insert the event as the owner of the function, which runs nobody else's code. */
static void
publish_as(Oid owner, Oid function, const StorePublish *event)
{
	Oid			userid;
	int			sec_context;

	/* an error puts it back with the transaction */
	GetUserIdAndSecContext(&userid, &sec_context);
	SetUserIdAndSecContext(owner, sec_context | SECURITY_LOCAL_USERID_CHANGE);
	(void) store_publish(function, event);
	SetUserIdAndSecContext(userid, sec_context);
}

/* The trigger; see above. */
Datum
outbox_capture(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = check_call(fcinfo);
	CapturePlan *plan = capture_plan_find(fcinfo->flinfo, trigger);
	TupleDesc	desc = RelationGetDescr(trigger->tg_relation);
	CaptureRow *new = NULL;
	CaptureRow *old = NULL;
	StorePublish event = {0};
	pg_uuid_t	uuid;

	if (TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
		new = take_apart(trigger->tg_trigtuple, desc);
	else if (!TRIGGER_FIRED_BY_TRUNCATE(trigger->tg_event))
		old = take_apart(trigger->tg_trigtuple, desc);
	if (TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
		new = take_apart(trigger->tg_newtuple, desc);
	if (plan->skip_unchanged && new && old && is_unchanged(plan, desc, new, old))
		return PointerGetDatum(NULL);

	/* whatever is the user's is called here, before anybody else's rights are */
	event.topic = plan->topic;
	event.payload = make_payload(plan, operation_name(trigger->tg_event), new, old);
	event.key = make_key(plan, new ? new : old);
	uuidv7_generate(&uuid);
	event.event_id = UUIDPGetDatum(&uuid);
	publish_as(plan->owner, fcinfo->flinfo->fn_oid, &event);
	return PointerGetDatum(NULL);
}
