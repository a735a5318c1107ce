/*-------------------------------------------------------------------------
 *
 * shmem.c
 *		Shared memory: which relays there are.
 *
 * There is one slot for each destination of a database.  That of "default" in a
 * database that has, or may have, the extension is made by whoever learns of the
 * database first: the launcher, which looks through pg_database, or a backend at
 * CREATE EXTENSION, its first publish or outbox_start_relay().  Those of other
 * destinations are asked for by the relay of "default".  The launcher starts a process
 * for each, and a process that finds no extension in its database, or that its
 * destination is gone, gives the slot back.  A database that asks while all slots are
 * taken is kept in mind: the launcher looks into it when one is free.
 *
 * Here are the struct, and what is asked of any slot by commands on databases,
 * by backends and views.  What the launcher asks is in shmem_launcher.c, what a
 * relay does with its own slot in shmem_relay.c, how it is woken at commit in
 * shmem_wake.c.
 *
 * Without preload there is no shared memory; then only the functions for
 * backends and views are called.
 *
 * Locks: see shmem_internal.h.  Nobody allocates memory or throws while
 * holding the lock or a mutex.
 *
 * Errors: nothing here throws once the server is up, but for want of memory in
 * shmem_list_relays().  A relay beyond outbox.max_relays has no slot;
 * outbox_check() then says that no relay is alive, and the launcher logs it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#include "guc.h"
#include "server/shmem_internal.h"

OutboxShared *shmem_shared = NULL;

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

static Size
shared_size(void)
{
	return add_size(offsetof(OutboxShared, slots),
					mul_size(guc_max_relays, sizeof(RelaySlot)));
}

static void
request_shmem(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	RequestAddinShmemSpace(shared_size());
	RequestNamedLWLockTranche("outbox", 1);
}

static void
startup_shmem(void)
{
	bool		found;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();

	/* After a crash of a backend this is done again, with new memory. */
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shmem_shared = ShmemInitStruct("outbox", shared_size(), &found);
	if (!found)
	{
		memset(shmem_shared, 0, shared_size());
		shmem_shared->lock = &(GetNamedLWLockTranche("outbox"))->lock;
		shmem_shared->nslots = guc_max_relays;
		for (int i = 0; i < shmem_shared->nslots; i++)
		{
			SpinLockInit(&shmem_shared->slots[i].mutex);
			LWLockInitialize(&shmem_shared->slots[i].topics_lock,
							 shmem_shared->lock->tranche);
			pg_atomic_init_u64(&shmem_shared->slots[i].duplicates, 0);
		}
	}
	LWLockRelease(AddinShmemInitLock);
}

/* From _PG_init() in the postmaster. */
void
shmem_init(void)
{
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = request_shmem;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = startup_shmem;
}

/* Is there shared memory, which is to say: were we preloaded? */
bool
shmem_attached(void)
{
	return shmem_shared != NULL;
}

/* The part of a report that is in use. */
static Size
topics_size(const TopicsReport *report)
{
	return offsetof(TopicsReport, topics) + sizeof(TopicReport) * report->n;
}

/* The slot of a destination, or NULL; the caller holds the lock. */
RelaySlot *
shmem_find_slot(Oid dboid, int destination)
{
	Assert(OidIsValid(dboid));
	for (int i = 0; i < shmem_shared->nslots; i++)
	{
		RelaySlot  *slot = &shmem_shared->slots[i];

		if (slot->dboid == dboid && slot->destination == destination)
			return slot;
	}
	return NULL;
}

/* Wake the launcher, if there is one.  The caller holds the lock. */
void
shmem_set_launcher_latch(void)
{
	if (shmem_shared->launcher_latch)
		SetLatch(shmem_shared->launcher_latch);
}

/* Where a database is among those that were refused a slot; -1: it is not. */
static int
find_refused(Oid dboid)
{
	for (int i = 0; i < shmem_shared->nrefused; i++)
	{
		if (shmem_shared->refused[i] == dboid)
			return i;
	}
	return -1;
}

/*
 * A database wants a relay and finds no slot: the launcher shall say so, and look
 * into it when one is free.  It is told once, not by every commit.  The caller
 * holds the lock exclusively.
 */
void
shmem_refuse_slot(Oid dboid)
{
	if (shmem_shared->nrefused == MAX_REFUSED || find_refused(dboid) >= 0)
		return;
	shmem_shared->refused[shmem_shared->nrefused++] = dboid;
	shmem_shared->rescan = true;
	shmem_set_launcher_latch();
}

/*
 * The database has a slot now, or is gone.  The caller holds the lock
 * exclusively.
 */
void
shmem_forget_refused(Oid dboid)
{
	int			i = find_refused(dboid);

	if (i >= 0)
		shmem_shared->refused[i] =
			shmem_shared->refused[--shmem_shared->nrefused];
}

/* How many commands want this database free. */
static int
count_holds(Oid dboid)
{
	int			holds = 0;

	for (int i = 0; i < shmem_shared->nslots; i++)
	{
		if (shmem_shared->slots[i].dboid == dboid)
			holds = Max(holds, shmem_shared->slots[i].holds);
	}
	return holds;
}

/*
 * As shmem_find_slot(), but a destination that has no slot gets one; NULL if all
 * are taken.  The caller holds the lock exclusively.
 */
RelaySlot *
shmem_find_or_make_slot(Oid dboid, int destination)
{
	RelaySlot  *slot = shmem_find_slot(dboid, destination);
	int			holds = slot ? 0 : count_holds(dboid);

	for (int i = 0; i < shmem_shared->nslots && !slot; i++)
	{
		if (OidIsValid(shmem_shared->slots[i].dboid))
			continue;

		/* The last owner's report must not be shown as this database's. */
		slot = &shmem_shared->slots[i];
		slot->dboid = dboid;
		slot->destination = destination;
		strlcpy(slot->name, destination == 0 ? "default" : "", NAMEDATALEN);
		slot->pid = 0;
		slot->latch = NULL;
		slot->holds = holds;
		slot->requests = 0;
		slot->wanted = false;
		slot->orderly = true;	/* none before it: the launcher need not wait */
		pg_atomic_write_u64(&slot->duplicates, 0);
		memset(&slot->report, 0, sizeof(slot->report));
		slot->report.since = GetCurrentTimestamp();
		shmem_set_topics(slot, NULL);
		if (destination == 0)
			shmem_forget_refused(dboid);
	}
	if (!slot)
		shmem_shared->slot_awaited = true;
	return slot;
}

/*
 * A slot's destination needs no relay any more.  The launcher knows best whose it
 * is next, if somebody has asked in vain.  The caller holds the lock exclusively.
 */
void
shmem_free_slot(RelaySlot *slot)
{
	slot->dboid = InvalidOid;
	if (!shmem_shared->slot_awaited)
		return;
	shmem_shared->slot_awaited = false;
	shmem_shared->rescan = true;
	shmem_set_launcher_latch();
}

/*
 * What a slot says of topics is this from now on; NULL: nothing.  The slot is
 * the caller's own, or it holds the lock.
 */
void
shmem_set_topics(RelaySlot *slot, const TopicsReport *report)
{
	LWLockAcquire(&slot->topics_lock, LW_EXCLUSIVE);
	if (report)
		memcpy(&slot->topics, report, topics_size(report));
	else
		memset(&slot->topics, 0, offsetof(TopicsReport, topics));
	LWLockRelease(&slot->topics_lock);
}

/* Have the launcher look for new and dropped databases, and wake it. */
void
shmem_launcher_ask_rescan(void)
{
	LWLockAcquire(shmem_shared->lock, LW_EXCLUSIVE);
	shmem_shared->rescan = true;
	shmem_set_launcher_latch();
	LWLockRelease(shmem_shared->lock);
}

/*
 * A command wants this database free of relays: ask its relays to leave, and
 * let no other start before shmem_release_relays().  False if the database has
 * no slot, hence no relay; there is nothing to release then.
 */
bool
shmem_hold_relays(Oid dboid)
{
	bool		any = false;

	LWLockAcquire(shmem_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < shmem_shared->nslots; i++)
	{
		RelaySlot  *slot = &shmem_shared->slots[i];

		if (slot->dboid != dboid)
			continue;
		any = true;
		slot->holds++;

		/* a relay takes its pid back before it ends: this is no other process */
		if (slot->pid != 0)
			kill(slot->pid, SIGTERM);
	}
	LWLockRelease(shmem_shared->lock);
	return any;
}

/* Is a relay connected to this database, or about to be? */
bool
shmem_has_relay(Oid dboid)
{
	bool		there = false;

	LWLockAcquire(shmem_shared->lock, LW_SHARED);
	for (int i = 0; i < shmem_shared->nslots && !there; i++)
		there = shmem_shared->slots[i].dboid == dboid &&
			shmem_shared->slots[i].pid != 0;
	LWLockRelease(shmem_shared->lock);
	return there;
}

/*
 * The command that shmem_hold_relays() was called for is done, however it
 * ended.  The launcher looks at the databases: one may have come or gone.
 */
void
shmem_release_relays(Oid dboid)
{
	LWLockAcquire(shmem_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < shmem_shared->nslots; i++)
	{
		RelaySlot  *slot = &shmem_shared->slots[i];

		if (slot->dboid == dboid && slot->holds > 0)
			slot->holds--;
	}
	LWLockRelease(shmem_shared->lock);
	shmem_launcher_ask_rescan();
}

/*
 * Count an event of this database that was published, but there already; shown with
 * "default".
 */
void
shmem_count_duplicate(void)
{
	RelaySlot  *slot;

	if (!shmem_shared)
		return;
	LWLockAcquire(shmem_shared->lock, LW_SHARED);
	slot = shmem_find_slot(MyDatabaseId, 0);
	if (slot)
		pg_atomic_fetch_add_u64(&slot->duplicates, 1);
	LWLockRelease(shmem_shared->lock);
}

/*
 * Copies of what all relays have reported: a list of RelayInfo, one for each
 * slot in use, palloc'd.  NIL without preload.
 */
List *
shmem_list_relays(void)
{
	List	   *relays = NIL;
	RelayInfo  *infos;
	int			n = 0;

	if (!shmem_shared)
		return NIL;

	/* Allocated beforehand: while the lock is held, there is only copying. */
	infos = palloc(sizeof(RelayInfo) * shmem_shared->nslots);
	LWLockAcquire(shmem_shared->lock, LW_SHARED);
	for (int i = 0; i < shmem_shared->nslots; i++)
	{
		RelaySlot  *slot = &shmem_shared->slots[i];

		if (!OidIsValid(slot->dboid))
			continue;
		infos[n].dboid = slot->dboid;
		infos[n].destination = slot->destination;
		infos[n].pid = slot->pid;
		SpinLockAcquire(&slot->mutex);
		strlcpy(infos[n].name, slot->name, NAMEDATALEN);
		infos[n].report = slot->report;
		SpinLockRelease(&slot->mutex);
		n++;
	}
	LWLockRelease(shmem_shared->lock);

	for (int i = 0; i < n; i++)
		relays = lappend(relays, &infos[i]);
	return relays;
}

/*
 * Copy what the relay of a destination has reported of topics: nothing if there is
 * no relay.
 */
void
shmem_copy_topics(Oid dboid, int destination, TopicsReport *report)
{
	RelaySlot  *slot;

	memset(report, 0, offsetof(TopicsReport, topics));
	if (!shmem_shared)
		return;
	LWLockAcquire(shmem_shared->lock, LW_SHARED);
	slot = shmem_find_slot(dboid, destination);
	if (slot)
	{
		LWLockAcquire(&slot->topics_lock, LW_SHARED);
		memcpy(report, &slot->topics, topics_size(&slot->topics));
		LWLockRelease(&slot->topics_lock);
	}
	LWLockRelease(shmem_shared->lock);
}
