/*-------------------------------------------------------------------------
 *
 * shmem_wake.c
 *		A transaction that published wakes the relays when it commits.
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

/*
 * Wake the relays of this database that listen.  False if that of "default", which
 * finds the others, has no process.  The caller holds the lock.
 */
static bool
wake_listening(void)
{
	bool		first = false;

	pg_memory_barrier();		/* pairs with shmem_relay_listen() */
	for (int i = 0; i < shmem_shared->nslots; i++)
	{
		RelaySlot  *slot = &shmem_shared->slots[i];

		if (slot->dboid != MyDatabaseId)
			continue;
		if (slot->destination == 0)
			first = slot->latch != NULL;
		if (slot->latch && slot->listening)
			SetLatch(slot->latch);
	}
	return first;
}

/* The same with something to be told to each; the caller holds it exclusively. */
static void
ask_relays(int requests)
{
	RelaySlot  *first = shmem_find_or_make_slot(MyDatabaseId, 0);

	if (first)
		first->wanted = true;
	else
		shmem_refuse_slot(MyDatabaseId);
	for (int i = 0; i < shmem_shared->nslots; i++)
	{
		RelaySlot  *slot = &shmem_shared->slots[i];

		if (slot->dboid != MyDatabaseId)
			continue;
		slot->requests |= requests;
		if (slot->latch)
			SetLatch(slot->latch);
		else
			shmem_set_launcher_latch();
	}
}

/* Wake the relays of this database, with RELAY_REQUEST_ bits. */
static void
wake_relays(int requests)
{
	bool		done;

	/* The usual case, in which many commits must not wait for each other. */
	LWLockAcquire(shmem_shared->lock, LW_SHARED);
	done = requests == 0 && wake_listening();
	LWLockRelease(shmem_shared->lock);
	if (done)
		return;

	/* There is something to write, and slots may be others by now. */
	LWLockAcquire(shmem_shared->lock, LW_EXCLUSIVE);
	ask_relays(requests);
	LWLockRelease(shmem_shared->lock);
}

static void
xact_callback(XactEvent event, void *arg)
{
	if (!wake_at_commit)
		return;
	if (event == XACT_EVENT_COMMIT)
		wake_relays(requests_at_commit);
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
 * When this transaction commits, wake the relays of this database, or have them
 * started, and tell them what to look for besides new events: RELAY_REQUEST_ bits.
 */
void
shmem_wake_relays_at_commit(int requests)
{
	if (!shmem_shared)
		return;
	wake_at_commit = true;
	requests_at_commit |= requests;
}
