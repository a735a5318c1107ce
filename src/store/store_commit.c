/*-------------------------------------------------------------------------
 *
 * store_commit.c
 *		No event is used before its commit is on disk.
 *
 * With synchronous_commit = off, commits are visible before they are durable,
 * and an event must not be sent that a crash could undo.  Before events are
 * used, WAL is flushed past the commits of their transactions; usually it is
 * already.  The snapshots need no flush: a position in outbox_progress has its
 * place in WAL behind all that was visible when it was taken.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xlog.h"
#include "storage/lwlock.h"

#include "lib/compat.h"
#include "store/store_internal.h"

/*
 * How far WAL has to be flushed for the commit of a transaction to be durable;
 * InvalidXLogRecPtr if it is, as after any commit that waited for its flush.
 * What is too old to be looked up was flushed long ago.
 */
static XLogRecPtr
commit_lsn(uint64 fxid)
{
	TransactionId xid = (TransactionId) fxid;
	uint64		next = U64FromFullTransactionId(ReadNextFullTransactionId());
	XLogRecPtr	lsn = InvalidXLogRecPtr;

	/* 32 bits of a transaction of half the id space ago mean another one */
	if (next - fxid > MaxTransactionId / 2)
		return lsn;
	LWLockAcquire(XactTruncationLock, LW_SHARED);
	if (!TransactionIdPrecedes(xid, oldest_clog_xid_compat()))
		lsn = TransactionIdGetCommitLSN(xid);
	LWLockRelease(XactTruncationLock);
	return lsn;
}

/* See to it that no crash undoes these events. */
void
store_flush_commits(List *events)
{
	XLogRecPtr	lsn = InvalidXLogRecPtr;
	uint64		last = 0;
	ListCell   *lc;

	foreach(lc, events)
	{
		uint64		xid = ((OutboxEvent *) lfirst(lc))->xid;

		if (xid != last)
			lsn = Max(lsn, commit_lsn(xid));
		last = xid;
	}
	if (!XLogRecPtrIsInvalid(lsn))
		XLogFlush(lsn);
}
