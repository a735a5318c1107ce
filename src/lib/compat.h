/*-------------------------------------------------------------------------
 *
 * compat.h
 *		Differences between PostgreSQL 15 and 19, and between their minor
 *		versions: the only place that asks for PG_VERSION_NUM.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_COMPAT_H
#define OUTBOX_COMPAT_H

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "catalog/pg_database.h"
#include "common/jsonapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "optimizer/pathnode.h"
#include "optimizer/plancat.h"
#include "storage/latch.h"
#include "utils/acl.h"
#include "utils/memutils.h"
#include "utils/wait_event.h"

/*
 * A column of a row of a table.  The heap_getattr() of later minor versions of
 * 15 and 17 is inline and calls a function that earlier ones do not have, for
 * values of composite types.  No such call may get into our library.
 */
static inline Datum
heap_getattr_compat(HeapTuple tuple, int attnum, TupleDesc desc, bool *isnull)
{
	if (attnum <= 0)
		return heap_getsysattr(tuple, attnum, desc, isnull);
	if (attnum > HeapTupleHeaderGetNatts(tuple->t_data))
		return getmissingattr(desc, attnum, isnull);
	return fastgetattr(tuple, attnum, desc, isnull);
}

/* 16: one function for the ownership of every kind of object. */
static inline bool
owns_database_compat(Oid dboid)
{
#if PG_VERSION_NUM >= 160000
	return object_ownercheck(DatabaseRelationId, dboid, GetUserId());
#else
	return pg_database_ownercheck(dboid, GetUserId());
#endif
}

/*
 * 19: the planner asks another hook what it may know of a relation; "rel" is
 * what it knows, REL_HOOK_RELATION the relation's OID.
 */
#if PG_VERSION_NUM >= 190000
#define rel_hook_compat build_simple_rel_hook
#define rel_hook_type_compat build_simple_rel_hook_type
#define REL_HOOK_PARAMETERS PlannerInfo *root, RelOptInfo *rel, RangeTblEntry *rte
#define REL_HOOK_ARGUMENTS root, rel, rte
#define REL_HOOK_RELATION (rte->rtekind == RTE_RELATION ? rte->relid : InvalidOid)
#else
#define rel_hook_compat get_relation_info_hook
#define rel_hook_type_compat get_relation_info_hook_type
#define REL_HOOK_PARAMETERS PlannerInfo *root, Oid relation, bool inhparent, RelOptInfo *rel
#define REL_HOOK_ARGUMENTS root, relation, inhparent, rel
#define REL_HOOK_RELATION relation
#endif

/* 17: a wait event set belongs to a resource owner; NULL: until it is freed. */
static inline WaitEventSet *
create_wait_event_set_compat(int nevents)
{
#if PG_VERSION_NUM >= 170000
	return CreateWaitEventSet(NULL, nevents);
#else
	return CreateWaitEventSet(TopMemoryContext, nevents);
#endif
}

/* 17: a wait has a name of our own in pg_stat_activity. */
static inline uint32
wait_event_compat(const char *name)
{
#if PG_VERSION_NUM >= 170000
	return WaitEventExtensionNew(name);
#else
	return PG_WAIT_EXTENSION;
#endif
}

/*
 * 17: the caller may provide the lexer's struct.  "json" is UTF-8; escapes in
 * its strings are left to the caller.
 */
static inline JsonLexContext *
make_json_lex_compat(const char *json, int len)
{
#if PG_VERSION_NUM >= 170000
	return makeJsonLexContextCstringLen(NULL, json, len, PG_UTF8, false);
#else
	return makeJsonLexContextCstringLen(unconstify(char *, json), len,
										PG_UTF8, false);
#endif
}

/*
 * 17: another name.  The oldest transaction whose commit can be looked up; the
 * caller holds XactTruncationLock.
 */
static inline TransactionId
oldest_clog_xid_compat(void)
{
#if PG_VERSION_NUM >= 170000
	return TransamVariables->oldestClogXid;
#else
	return ShmemVariableCache->oldestClogXid;
#endif
}

/* 18: a place to count index searches; 19: flags. */
static inline IndexScanDesc
index_beginscan_compat(Relation table, Relation index, Snapshot snapshot,
					   int nkeys)
{
#if PG_VERSION_NUM >= 190000
	return index_beginscan(table, index, snapshot, NULL, nkeys, 0, SO_NONE);
#elif PG_VERSION_NUM >= 180000
	return index_beginscan(table, index, snapshot, NULL, nkeys, 0);
#else
	return index_beginscan(table, index, snapshot, nkeys, 0);
#endif
}

/* The version of the server that we were built for. */
static inline int
server_version_num_compat(void)
{
	return PG_VERSION_NUM;
}

/* 18: generated columns of which a row has no value. */
static inline bool
is_virtual_compat(Form_pg_attribute column)
{
#ifdef ATTRIBUTE_GENERATED_VIRTUAL
	return column->attgenerated == ATTRIBUTE_GENERATED_VIRTUAL;
#else
	return false;
#endif
}

/* Minor versions that leave a database behind when DROP is interrupted mark it. */
#ifndef DATCONNLIMIT_INVALID_DB
#define DATCONNLIMIT_INVALID_DB	(-2)
#endif

#endif							/* OUTBOX_COMPAT_H */
