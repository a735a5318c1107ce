/*-------------------------------------------------------------------------
 *
 * store_try.c
 *		A part of a transaction that may fail without the rest.
 *
 * Where many rows are worked on one by one, each has a subtransaction, so that
 * one that fails leaves the others as they are.  These are not free: what goes
 * well for all of them together is done together.
 *
 * Errors: those that the caller expects become text, all others are thrown.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/resowner.h"

#include "store/store_internal.h"

/*
 * Run "attempt" in a subtransaction, in the current memory context.  NULL, or
 * the message of an error that "expected" says yes to, palloc'd.
 */
char *
store_try(void (*attempt) (void *arg), void *arg,
		  bool (*expected) (int sqlstate))
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	char	   *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		attempt(arg);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *edata;

		MemoryContextSwitchTo(context);
		edata = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		if (!expected(edata->sqlerrcode))
			ReThrowError(edata);
		error = edata->message;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return error;
}
