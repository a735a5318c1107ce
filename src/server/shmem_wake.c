/*-------------------------------------------------------------------------
 *
 * shmem_wake.c
 *		A transaction that published wakes the relay when it commits.
 *
 * A backend remembers during its transaction that there is something for the
 * relay, and tells it in a callback after the commit, when the events are
 * visible and, with synchronous_commit, durable.  A database whose relay does
 * not run, or that has no slot yet, gets one from the launcher this way.
 *
 * A relay that is going to look for events anyway says so ("listening" is
 * false), which saves each commit a signal.  It looks once more after it has
 * said that it listens again: a commit that found it not listening was visible
 * before that.
 *
 * Nothing is said at PREPARE TRANSACTION: whichever backend runs COMMIT
 * PREPARED does it (database_commands.c).
 *
 * Locks: the lock of shared memory, shared where the relay is there and only
 * its latch has to be set.  Errors: none; a callback after commit must not
 * throw.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"

#include "server/shmem_internal.h"

/* What this backend's transaction wants when it commits. */
static bool wake_at_commit = false;
static int	requests_at_commit = 0;

/* Wake the relay of this database, with RELAY_REQUEST_ bits. */
static void
wake_relay(int requests)
{
	RelaySlot  *slot;

	/* The usual case, in which many commits must not wait for each other. */
	LWLockAcquire(shmem_shared->lock, LW_SHARED);
	slot = shmem_find_slot(MyDatabaseId);
	if (slot && slot->latch && requests == 0)
	{
		pg_memory_barrier();	/* pairs with shmem_relay_listen() */
		if (slot->listening)
			SetLatch(slot->latch);
		LWLockRelease(shmem_shared->lock);
		return;
	}
	LWLockRelease(shmem_shared->lock);

	/* There is something to write, and the slot may be another by now. */
	LWLockAcquire(shmem_shared->lock, LW_EXCLUSIVE);
	slot = shmem_find_or_make_slot(MyDatabaseId);
	if (slot)
	{
		slot->wanted = true;
		slot->requests |= requests;
		if (slot->latch)
			SetLatch(slot->latch);
		else
			shmem_set_launcher_latch();
	}
	else
		shmem_refuse_slot(MyDatabaseId);
	LWLockRelease(shmem_shared->lock);
}

static void
xact_callback(XactEvent event, void *arg)
{
	if (!wake_at_commit)
		return;
	if (event == XACT_EVENT_COMMIT)
		wake_relay(requests_at_commit);
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT ||
		event == XACT_EVENT_PREPARE)
	{
		wake_at_commit = false;
		requests_at_commit = 0;
	}
}

/* From _PG_init() in the postmaster, so that every backend has the callback. */
void
shmem_wake_init(void)
{
	RegisterXactCallback(xact_callback, NULL);
}

/*
 * When this transaction commits, wake the relay of this database, or have it
 * started, and tell it what to look for besides new events: RELAY_REQUEST_ bits.
 */
void
shmem_wake_relay_at_commit(int requests)
{
	if (!shmem_shared)
		return;
	wake_at_commit = true;
	requests_at_commit |= requests;
}
