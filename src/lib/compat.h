/*-------------------------------------------------------------------------
 *
 * compat.h
 *		Differences between PostgreSQL 14 and 18: the only place that asks
 *		for PG_VERSION_NUM.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_COMPAT_H
#define OUTBOX_COMPAT_H

#include "access/genam.h"
#include "access/transam.h"
#include "catalog/pg_database.h"
#include "common/jsonapi.h"
#if PG_VERSION_NUM >= 150000
#include "common/pg_prng.h"
#endif
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/acl.h"
#include "utils/guc.h"
#include "utils/memutils.h"

/* 15: shared memory is asked for in a hook, before that in _PG_init(). */
#if PG_VERSION_NUM >= 150000
#define HAVE_SHMEM_REQUEST_HOOK 1
#endif

/* 15: settings of an unknown name under our prefix are refused. */
static inline void
reserve_guc_prefix_compat(const char *prefix)
{
#if PG_VERSION_NUM >= 150000
	MarkGUCPrefixReserved(prefix);
#else
	EmitWarningsOnPlaceholders(prefix);
#endif
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

/* 17: the caller may provide the lexer's struct.  "json" is UTF-8. */
static inline JsonLexContext *
make_json_lex_compat(const char *json, int len)
{
#if PG_VERSION_NUM >= 170000
	return makeJsonLexContextCstringLen(NULL, json, len, PG_UTF8, true);
#else
	return makeJsonLexContextCstringLen(unconstify(char *, json), len,
										PG_UTF8, true);
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

/* 18: a place to count index searches. */
static inline IndexScanDesc
index_beginscan_compat(Relation table, Relation index, Snapshot snapshot,
					   int nkeys)
{
#if PG_VERSION_NUM >= 180000
	return index_beginscan(table, index, snapshot, NULL, nkeys, 0);
#else
	return index_beginscan(table, index, snapshot, nkeys, 0);
#endif
}

/* 15: a set-returning function gets its tuplestore in one call. */
static inline void
init_materialized_srf_compat(FunctionCallInfo fcinfo)
{
#if PG_VERSION_NUM >= 160000
	InitMaterializedSRF(fcinfo, 0);
#elif PG_VERSION_NUM >= 150000
	SetSingleFuncCall(fcinfo, 0);
#else
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	MemoryContext old;

	if (!result || !IsA(result, ReturnSetInfo) ||
		(result->allowedModes & SFRM_Materialize) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("set-valued function called in context that cannot accept a set")));
	old = MemoryContextSwitchTo(result->econtext->ecxt_per_query_memory);
	get_call_result_type(fcinfo, NULL, &result->setDesc);
	result->setDesc = BlessTupleDesc(result->setDesc);
	result->returnMode = SFRM_Materialize;
	result->setResult =
		tuplestore_begin_heap((result->allowedModes & SFRM_Materialize_Random) != 0,
							  false, work_mem);
	MemoryContextSwitchTo(old);
#endif
}

/* 15: another generator for random numbers that need not be strong. */
static inline double
random_fraction_compat(void)
{
#if PG_VERSION_NUM >= 150000
	return pg_prng_double(&pg_global_prng_state);
#else
	return (double) random() / ((double) MAX_RANDOM_VALUE + 1);
#endif
}

/* The version of the server that we were built for. */
static inline int
server_version_num_compat(void)
{
	return PG_VERSION_NUM;
}

/* Minor versions that leave a database behind when DROP is interrupted mark it. */
#ifndef DATCONNLIMIT_INVALID_DB
#define DATCONNLIMIT_INVALID_DB	(-2)
#endif

#endif							/* OUTBOX_COMPAT_H */
