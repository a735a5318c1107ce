/*-------------------------------------------------------------------------
 *
 * capture_plan.h
 *		What a trigger of outbox_capture() publishes: its arguments, understood.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_CAPTURE_PLAN_H
#define OUTBOX_CAPTURE_PLAN_H

#include "access/tupdesc.h"
#include "commands/trigger.h"
#include "fmgr.h"

/* The members of an event, in this order. */
enum
{
	MEMBER_OPERATION,
	MEMBER_SCHEMA,
	MEMBER_TABLE,
	MEMBER_NEW,
	MEMBER_OLD,
	NMEMBERS
};

/* What a trigger publishes of a relation. */
typedef struct CapturePlan
{
	Oid			trigger;
	Oid			relation;
	Oid			owner;			/* of the function: who inserts */
	Datum		topic;			/* text, as the next two */
	Datum		schema;			/* where the trigger was made */
	Datum		table;
	AttrNumber	key;			/* 0: events have none */
	FmgrInfo	key_output;
	int			ncolumns;
	AttrNumber *columns;
	bool		skip_unchanged;
	TupleDesc	row;			/* the columns, as a record */
	TupleDesc	event;
	FmgrInfo	to_jsonb;		/* of such a record */
} CapturePlan;

extern CapturePlan *capture_plan_find(FmgrInfo *flinfo, const TriggerData *trigger);

#endif							/* OUTBOX_CAPTURE_PLAN_H */
