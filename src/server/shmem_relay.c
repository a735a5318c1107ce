/*-------------------------------------------------------------------------
 *
 * shmem_relay.c
 *		A relay's own slot in shared memory.
 *
 * A relay takes the slot of its destination when it starts and has it until the
 * process ends, or until it finds that there is no such destination and gives the
 * slot back to whoever needs one next.  In between it reports what it does,
 * and is told what others want of it.
 *
 * Locks: see shmem_internal.h.  The slot is this relay's until it gives it
 * back, so that its own reports take no more than the mutex or the lock that
 * guards them.
 *
 * Errors: nothing here throws.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/timestamp.h"

#include "server/shmem_internal.h"

static RelaySlot *my_slot = NULL;	/* NULL: not taken, or given back */

/* The process ends, in whatever way.  The launcher decides what is next. */
static void
relay_detach(int code, Datum arg)
{
	if (!my_slot)
		return;
	LWLockAcquire(shmem_shared->lock, LW_EXCLUSIVE);
	my_slot->pid = 0;
	my_slot->latch = NULL;
	SpinLockAcquire(&my_slot->mutex);
	my_slot->report.status = RELAY_STOPPED;
	my_slot->report.since = GetCurrentTimestamp();
	my_slot->report.in_flight = 0;
	my_slot->report.topics_down = 0;
	my_slot->report.topics_held = 0;
	SpinLockRelease(&my_slot->mutex);
	shmem_set_topics(my_slot, NULL);
	shmem_set_launcher_latch();
	LWLockRelease(shmem_shared->lock);
}

/*
 * This process is the relay of a destination now; false if it may not be,
 * because there is one, a command wants the database free, or it is gone.
 */
bool
shmem_relay_attach(Oid dboid, int destination)
{
	RelaySlot  *slot;

	/*
	 * The launcher asked for this process because of a slot, but a while ago:
	 * the slot may have been freed meanwhile, with its database, or held.
	 */
	LWLockAcquire(shmem_shared->lock, LW_EXCLUSIVE);
	slot = shmem_find_slot(dboid, destination);
	if (!slot || slot->pid != 0 || slot->holds > 0)
	{
		LWLockRelease(shmem_shared->lock);
		return false;
	}
	slot->pid = MyProcPid;
	slot->latch = MyLatch;
	slot->requests = 0;			/* a relay that starts looks at everything */
	slot->listening = true;
	slot->orderly = false;		/* until it says so */
	my_slot = slot;
	LWLockRelease(shmem_shared->lock);

	before_shmem_exit(relay_detach, (Datum) 0);
	return true;
}

static void
set_name(RelaySlot *slot, const char *name)
{
	SpinLockAcquire(&slot->mutex);
	strlcpy(slot->name, name, NAMEDATALEN);
	SpinLockRelease(&slot->mutex);
}

/* This relay's database has the extension, and the destination, of this name. */
void
shmem_relay_found_destination(const char *name)
{
	LWLockAcquire(shmem_shared->lock, LW_EXCLUSIVE);
	my_slot->wanted = true;
	set_name(my_slot, name);
	LWLockRelease(shmem_shared->lock);
}

/*
 * Another destination of this relay's database shall have a relay, too.  One that
 * has is told that destinations were changed.  False if no slot is free.
 */
bool
shmem_relay_ask_for(int destination, const char *name)
{
	RelaySlot  *slot;

	LWLockAcquire(shmem_shared->lock, LW_EXCLUSIVE);
	slot = shmem_find_or_make_slot(my_slot->dboid, destination);
	if (slot)
	{
		slot->wanted = true;
		set_name(slot, name);
		if (!slot->latch)
			shmem_set_launcher_latch();
	}
	LWLockRelease(shmem_shared->lock);
	return slot != NULL;
}

/* Publish a report for the views. */
void
shmem_relay_report(const RelayReport *report)
{
	SpinLockAcquire(&my_slot->mutex);
	my_slot->report = *report;
	SpinLockRelease(&my_slot->mutex);
}

/* The same of what it says about topics. */
void
shmem_relay_report_topics(const TopicsReport *report)
{
	shmem_set_topics(my_slot, report);
}

/*
 * Shall commits wake this relay?  Whoever says so has to look for events after
 * that, or a commit may have been missed.
 */
void
shmem_relay_listen(bool on)
{
	my_slot->listening = on;
	pg_memory_barrier();		/* pairs with wake_relay() in shmem_wake.c */
}

/* What others asked of this relay since the last call: RELAY_REQUEST_ bits. */
int
shmem_relay_take_requests(void)
{
	int			requests;

	/*
	 * Usually none, which is seen without the lock: whoever asks sets the
	 * latch afterwards, and then this is called again.
	 */
	if (my_slot->requests == 0)
		return 0;
	LWLockAcquire(shmem_shared->lock, LW_EXCLUSIVE);
	requests = my_slot->requests;
	my_slot->requests = 0;
	LWLockRelease(shmem_shared->lock);
	return requests;
}

/* How many publishes found their event there, since the last call. */
int64
shmem_relay_take_duplicates(void)
{
	/* usually none: a look costs less than an exchange */
	if (pg_atomic_read_u64(&my_slot->duplicates) == 0)
		return 0;
	return (int64) pg_atomic_exchange_u64(&my_slot->duplicates, 0);
}

/* This relay means to end: the launcher need not wait with the next one. */
void
shmem_relay_ends_in_order(void)
{
	LWLockAcquire(shmem_shared->lock, LW_EXCLUSIVE);
	my_slot->orderly = true;
	LWLockRelease(shmem_shared->lock);
}

/*
 * There is no such destination, or no extension at all: give the slot back.  False if
 * somebody asked for the relay meanwhile (CREATE EXTENSION): look again.
 */
bool
shmem_relay_give_slot_back(void)
{
	bool		forgotten = false;

	LWLockAcquire(shmem_shared->lock, LW_EXCLUSIVE);
	if ((my_slot->requests & RELAY_REQUEST_SERVE) == 0)
	{
		my_slot->pid = 0;
		my_slot->latch = NULL;
		shmem_free_slot(my_slot);
		my_slot = NULL;
		forgotten = true;
	}
	LWLockRelease(shmem_shared->lock);
	return forgotten;
}
