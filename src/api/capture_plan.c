/*-------------------------------------------------------------------------
 *
 * capture_plan.c
 *		What a trigger of outbox_capture() publishes: its arguments, understood.
 *
 * They are text, which nobody looks at when the trigger is made.  What they mean
 * is found out once a statement, for each relation: columns may come and go, and
 * those of a partition may be in another order than those of its parent.
 *
 * A plan lives as long as the trigger's FmgrInfo, in whose context it is.  Locks:
 * that of pg_trigger, while it is read.  Errors: what is wrong with the arguments
 * fails the statement that fires the trigger.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "nodes/makefuncs.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/varlena.h"

#include "api/capture_plan.h"
#include "lib/compat.h"

#define ARGUMENTS_HINT \
	"The arguments are a topic and, as wanted, 'key=column', 'columns=column, ...' and 'unchanged=skip'."

/* An argument that means nothing. */
static void
refuse_argument(const Trigger *trigger, const char *argument)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("trigger \"%s\" has an argument that outbox_capture() does not know",
					trigger->tgname),
			 errdetail("It is \"%s\".", argument),
			 errhint(ARGUMENTS_HINT)));
}

/* The number of a column that an argument names; throws if there is none. */
static AttrNumber
find_column(Relation relation, const Trigger *trigger, const char *name)
{
	AttrNumber	column = get_attnum(RelationGetRelid(relation), name);

	if (column <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of relation \"%s\" does not exist",
						name, RelationGetRelationName(relation)),
				 errdetail("Trigger \"%s\" has it among the arguments of outbox_capture().",
						   trigger->tgname),
				 errhint("Make the trigger anew with the columns that there are.")));
	if (is_virtual_compat(TupleDescAttr(RelationGetDescr(relation), column - 1)))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("column \"%s\" of relation \"%s\" is a virtual generated column",
						name, RelationGetRelationName(relation)),
				 errdetail("A trigger is not given its value."),
				 errhint("Make it a stored one, or name the columns that it is made of.")));
	return column;
}

/* The columns named in a list of identifiers, palloc'd; sets how many. */
static AttrNumber *
find_columns(Relation relation, const Trigger *trigger, const char *argument,
			 const char *value, int *n)
{
	AttrNumber *columns;
	List	   *names;
	ListCell   *lc;

	if (!SplitIdentifierString(pstrdup(value), ',', &names) || names == NIL)
		refuse_argument(trigger, argument);
	columns = palloc(sizeof(AttrNumber) * list_length(names));
	*n = 0;
	foreach(lc, names)
		columns[(*n)++] = find_column(relation, trigger, lfirst(lc));
	return columns;
}

/* All columns that a row has values of, palloc'd; sets how many. */
static AttrNumber *
all_columns(TupleDesc desc, int *n)
{
	AttrNumber *columns = palloc(sizeof(AttrNumber) * Max(desc->natts, 1));

	*n = 0;
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(desc, i);

		if (!column->attisdropped && !is_virtual_compat(column))
			columns[(*n)++] = column->attnum;
	}
	return columns;
}

/* If the argument is "name=value", the value; else NULL. */
static const char *
option_value(const char *argument, const char *name)
{
	Size		len = strlen(name);

	return strncmp(argument, name, len) == 0 && argument[len] == '=' ?
		argument + len + 1 : NULL;
}

static void
read_arguments(CapturePlan *plan, Relation relation, const Trigger *trigger)
{
	int			nkeys;

	if (trigger->tgnargs == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("trigger \"%s\" has no topic to publish to", trigger->tgname),
				 errhint(ARGUMENTS_HINT)));
	plan->topic = CStringGetTextDatum(trigger->tgargs[0]);
	for (int i = 1; i < trigger->tgnargs; i++)
	{
		const char *argument = trigger->tgargs[i];
		const char *value;

		if ((value = option_value(argument, "key")) != NULL)
		{
			plan->key = find_columns(relation, trigger, argument, value, &nkeys)[0];
			if (nkeys > 1)
				refuse_argument(trigger, argument);
		}
		else if ((value = option_value(argument, "columns")) != NULL)
			plan->columns = find_columns(relation, trigger, argument, value,
										 &plan->ncolumns);
		else if (strcmp(argument, "unchanged=skip") == 0)
			plan->skip_unchanged = true;
		else
			refuse_argument(trigger, argument);
	}
	if (!plan->columns)
		plan->columns = all_columns(RelationGetDescr(relation), &plan->ncolumns);
}

/*
 * The relation that somebody made the trigger on: that of a partition is a copy
 * of its parent's.
 */
static Oid
find_origin(Oid trigger)
{
	Relation	catalog = table_open(TriggerRelationId, AccessShareLock);
	Oid			origin = InvalidOid;

	while (OidIsValid(trigger))
	{
		ScanKeyData key;
		SysScanDesc scan;
		HeapTuple	tuple;

		ScanKeyInit(&key, Anum_pg_trigger_oid, BTEqualStrategyNumber, F_OIDEQ,
					ObjectIdGetDatum(trigger));
		scan = systable_beginscan(catalog, TriggerOidIndexId, true, NULL, 1, &key);
		tuple = systable_getnext(scan);
		trigger = InvalidOid;
		if (HeapTupleIsValid(tuple))
		{
			origin = ((Form_pg_trigger) GETSTRUCT(tuple))->tgrelid;
			trigger = ((Form_pg_trigger) GETSTRUCT(tuple))->tgparentid;
		}
		systable_endscan(scan);
	}
	table_close(catalog, AccessShareLock);
	return origin;
}

/* The owner of a function. */
static Oid
function_owner(Oid function)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("function with OID %u does not exist", function)));
	owner = ((Form_pg_proc) GETSTRUCT(tuple))->proowner;
	ReleaseSysCache(tuple);
	return owner;
}

/* The type of a record of these columns of a relation. */
static TupleDesc
describe_row(TupleDesc relation, const AttrNumber *columns, int n)
{
	TupleDesc	desc = CreateTemplateTupleDesc(n);

	for (int i = 0; i < n; i++)
		TupleDescCopyEntry(desc, i + 1, relation, columns[i]);

	/* a copy is complete in every version of the server */
	return BlessTupleDesc(CreateTupleDescCopy(desc));
}

/* The type of the event. */
static TupleDesc
describe_event(void)
{
	TupleDesc	desc = CreateTemplateTupleDesc(NMEMBERS);

	TupleDescInitEntry(desc, MEMBER_OPERATION + 1, "operation", TEXTOID, -1, 0);
	TupleDescInitEntry(desc, MEMBER_SCHEMA + 1, "schema", TEXTOID, -1, 0);
	TupleDescInitEntry(desc, MEMBER_TABLE + 1, "table", TEXTOID, -1, 0);
	TupleDescInitEntry(desc, MEMBER_NEW + 1, "new", RECORDOID, -1, 0);
	TupleDescInitEntry(desc, MEMBER_OLD + 1, "old", RECORDOID, -1, 0);
	return BlessTupleDesc(CreateTupleDescCopy(desc));
}

/* Find to_jsonb(), which is told the type of its argument by an expression. */
static void
find_to_jsonb(FmgrInfo *to_jsonb)
{
	List	   *args = list_make1(makeNullConst(RECORDOID, -1, InvalidOid));

	fmgr_info_cxt(F_TO_JSONB, to_jsonb, CurrentMemoryContext);
	fmgr_info_set_expr((Node *) makeFuncExpr(F_TO_JSONB, JSONBOID, args,
											 InvalidOid, InvalidOid,
											 COERCE_EXPLICIT_CALL),
					   to_jsonb);
}

/* How values of the key's column become text. */
static void
find_key_output(CapturePlan *plan, TupleDesc desc)
{
	Oid			output;
	bool		is_varlena;

	getTypeOutputInfo(TupleDescAttr(desc, plan->key - 1)->atttypid, &output,
					  &is_varlena);
	fmgr_info_cxt(output, &plan->key_output, CurrentMemoryContext);
}

/* Make a plan, in the current memory context. */
static CapturePlan *
make_plan(Oid function, const TriggerData *trigger)
{
	Relation	relation = trigger->tg_relation;
	CapturePlan *plan = palloc0(sizeof(CapturePlan));
	Oid			origin = RelationGetRelid(relation);

	if (trigger->tg_trigger->tgisclone)
		origin = find_origin(trigger->tg_trigger->tgoid);
	plan->trigger = trigger->tg_trigger->tgoid;
	plan->relation = RelationGetRelid(relation);
	plan->owner = function_owner(function);
	plan->table = CStringGetTextDatum(get_rel_name(origin));
	plan->schema = CStringGetTextDatum(get_namespace_name(get_rel_namespace(origin)));
	read_arguments(plan, relation, trigger->tg_trigger);
	plan->row = describe_row(RelationGetDescr(relation), plan->columns,
							 plan->ncolumns);
	plan->event = describe_event();
	find_to_jsonb(&plan->to_jsonb);
	if (plan->key > 0)
		find_key_output(plan, RelationGetDescr(relation));
	return plan;
}

/* The plan for this trigger; it is made when the first row of a statement comes. */
CapturePlan *
capture_plan_find(FmgrInfo *flinfo, const TriggerData *trigger)
{
	CapturePlan *plan = flinfo->fn_extra;
	MemoryContext old;

	if (plan && plan->trigger == trigger->tg_trigger->tgoid &&
		plan->relation == RelationGetRelid(trigger->tg_relation))
		return plan;
	old = MemoryContextSwitchTo(flinfo->fn_mcxt);
	plan = flinfo->fn_extra = make_plan(flinfo->fn_oid, trigger);
	MemoryContextSwitchTo(old);
	return plan;
}
