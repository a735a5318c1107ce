/*-------------------------------------------------------------------------
 *
 * optional_arg.h
 *		Arguments that a caller need not give.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_OPTIONAL_ARG_H
#define OUTBOX_OPTIONAL_ARG_H

#include "fmgr.h"

/*
 * An argument that may be NULL; 0 stands for that.  The function of an earlier
 * version has less of them.
 */
static inline Datum
optional_arg(FunctionCallInfo fcinfo, int n)
{
	return n >= PG_NARGS() || PG_ARGISNULL(n) ? (Datum) 0 : PG_GETARG_DATUM(n);
}

#endif							/* OUTBOX_OPTIONAL_ARG_H */
