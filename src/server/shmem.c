/*-------------------------------------------------------------------------
 *
 * shmem.c
 *		Shared memory: which databases have a relay, and who wakes whom.
 *
 * There is one slot a database that has, or may have, the extension.  It is
 * made by whoever learns of the database first (the launcher at start-up, a
 * backend at CREATE EXTENSION or at its first publish), the launcher starts
 * a process for each, and a process that finds no extension in its database
 * gives the slot back.
 *
 * Locks: shared->lock guards which slot belongs to whom (dboid, pid, latch,
 * holds, requests); a slot's mutex guards its report, which only its relay
 * writes.  A Latch pointer in a slot points into the PGPROC array, so that
 * it means the same in every process.
 *
 * A relay that is going to look for events anyway says so ("listening" is
 * false), which saves each commit a signal.  It looks once more after it has
 * said that it listens again: a commit that found it not listening was visible
 * before that.
 *
 * Errors: nothing here throws once the server is up.  A database beyond
 * outbox.max_databases has no slot; outbox_check() then says that no relay
 * is alive, and the launcher logs it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "utils/timestamp.h"

#include "lib/compat.h"
#include "guc.h"
#include "server/shmem.h"

typedef struct RelaySlot
{
	Oid			dboid;			/* InvalidOid: the slot is free */
	pid_t		pid;			/* of the relay; 0: none */
	Latch	   *latch;			/* of the relay; NULL: none */
	int			holds;			/* commands that want the database free */
	int			requests;		/* RELAY_REQUEST_ bits for the relay */
	volatile bool listening;	/* the relay wants to be woken by commits */
	bool		orderly;		/* the last relay, if any, meant to end */
	pg_atomic_uint64 duplicates;	/* publishes that were there already */
	slock_t		mutex;			/* guards report */
	RelayReport report;
} RelaySlot;

typedef struct OutboxShared
{
	LWLock	   *lock;
	Latch	   *launcher_latch; /* NULL: no launcher */
	bool		rescan;			/* the launcher shall look for databases */
	int			nslots;
	RelaySlot	slots[FLEXIBLE_ARRAY_MEMBER];
} OutboxShared;

static OutboxShared *shared = NULL;
static RelaySlot *my_slot = NULL;	/* in a relay */

/* What this backend's transaction wants when it commits. */
static bool wake_at_commit = false;
static bool recheck_at_commit = false;

static shmem_startup_hook_type prev_shmem_startup_hook = NULL;
#ifdef HAVE_SHMEM_REQUEST_HOOK
static shmem_request_hook_type prev_shmem_request_hook = NULL;
#endif

static Size
shared_size(void)
{
	return add_size(offsetof(OutboxShared, slots),
					mul_size(guc_max_databases, sizeof(RelaySlot)));
}

static void
request_shmem(void)
{
#ifdef HAVE_SHMEM_REQUEST_HOOK
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
#endif
	RequestAddinShmemSpace(shared_size());
	RequestNamedLWLockTranche("outbox", 1);
}

static void
startup_shmem(void)
{
	bool		found;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("outbox", shared_size(), &found);
	if (!found)
	{
		memset(shared, 0, shared_size());
		shared->lock = &(GetNamedLWLockTranche("outbox"))->lock;
		shared->nslots = guc_max_databases;
		for (int i = 0; i < shared->nslots; i++)
		{
			SpinLockInit(&shared->slots[i].mutex);
			pg_atomic_init_u64(&shared->slots[i].duplicates, 0);
		}
	}
	LWLockRelease(AddinShmemInitLock);
}

/* Caller holds the lock. */
static RelaySlot *
find_slot(Oid dboid)
{
	Assert(OidIsValid(dboid));
	for (int i = 0; i < shared->nslots; i++)
	{
		if (shared->slots[i].dboid == dboid)
			return &shared->slots[i];
	}
	return NULL;
}

/* Caller holds the lock exclusively.  NULL if all slots are taken. */
static RelaySlot *
find_or_make_slot(Oid dboid)
{
	RelaySlot  *slot = find_slot(dboid);

	for (int i = 0; i < shared->nslots && !slot; i++)
	{
		if (OidIsValid(shared->slots[i].dboid))
			continue;
		slot = &shared->slots[i];
		slot->dboid = dboid;
		slot->pid = 0;
		slot->latch = NULL;
		slot->holds = 0;
		slot->requests = 0;
		slot->orderly = true;
		pg_atomic_write_u64(&slot->duplicates, 0);
		memset(&slot->report, 0, sizeof(slot->report));
		slot->report.since = GetCurrentTimestamp();
	}
	return slot;
}

/* Caller holds the lock. */
static void
wake_launcher(void)
{
	if (shared->launcher_latch)
		SetLatch(shared->launcher_latch);
}

/*
 * After the commit of a transaction that published: the events are visible
 * and, with synchronous_commit, durable.  Nothing here can fail.
 */
static void
wake_relay(bool recheck)
{
	RelaySlot  *slot;

	LWLockAcquire(shared->lock, LW_SHARED);
	slot = find_slot(MyDatabaseId);
	if (slot && slot->latch && !recheck)
	{
		pg_memory_barrier();	/* pairs with shmem_relay_listen() */
		if (slot->listening)
			SetLatch(slot->latch);
		LWLockRelease(shared->lock);
		return;
	}
	LWLockRelease(shared->lock);

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	slot = find_or_make_slot(MyDatabaseId);
	if (slot)
	{
		if (recheck)
			slot->requests |= RELAY_REQUEST_RECHECK;
		if (slot->latch)
			SetLatch(slot->latch);
		else
			wake_launcher();
	}
	LWLockRelease(shared->lock);
}

static void
xact_callback(XactEvent event, void *arg)
{
	if (!wake_at_commit)
		return;
	if (event == XACT_EVENT_COMMIT)
		wake_relay(recheck_at_commit);
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT ||
		event == XACT_EVENT_PREPARE)
	{
		wake_at_commit = false;
		recheck_at_commit = false;
	}
}

/* From _PG_init() in the postmaster. */
void
shmem_init(void)
{
#ifdef HAVE_SHMEM_REQUEST_HOOK
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = request_shmem;
#else
	request_shmem();
#endif
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = startup_shmem;
	RegisterXactCallback(xact_callback, NULL);
}

/* Is there shared memory, which is to say: were we preloaded? */
bool
shmem_attached(void)
{
	return shared != NULL;
}

/*
 * When this transaction commits, wake the relay of this database, or have it
 * started.  With "recheck" it also looks for exceptions changed by hand.
 */
void
shmem_wake_relay_at_commit(bool recheck)
{
	if (!shared)
		return;
	wake_at_commit = true;
	recheck_at_commit |= recheck;
}

/* An event was published that was there already. */
void
shmem_count_duplicate(void)
{
	RelaySlot  *slot;

	if (!shared)
		return;
	LWLockAcquire(shared->lock, LW_SHARED);
	slot = find_slot(MyDatabaseId);
	if (slot)
		pg_atomic_fetch_add_u64(&slot->duplicates, 1);
	LWLockRelease(shared->lock);
}

/* A list of RelayInfo, one for each slot in use, palloc'd. */
List *
shmem_relays(void)
{
	List	   *relays = NIL;
	RelayInfo  *infos;
	int			n = 0;

	if (!shared)
		return NIL;

	/* Nothing is allocated while the lock is held. */
	infos = palloc(sizeof(RelayInfo) * shared->nslots);
	LWLockAcquire(shared->lock, LW_SHARED);
	for (int i = 0; i < shared->nslots; i++)
	{
		RelaySlot  *slot = &shared->slots[i];

		if (!OidIsValid(slot->dboid))
			continue;
		infos[n].dboid = slot->dboid;
		infos[n].pid = slot->pid;
		infos[n].duplicates = pg_atomic_read_u64(&slot->duplicates);
		SpinLockAcquire(&slot->mutex);
		infos[n].report = slot->report;
		SpinLockRelease(&slot->mutex);
		n++;
	}
	LWLockRelease(shared->lock);

	for (int i = 0; i < n; i++)
		relays = lappend(relays, &infos[i]);
	return relays;
}

static void
launcher_detach(int code, Datum arg)
{
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	if (shared->launcher_latch == MyLatch)
		shared->launcher_latch = NULL;
	LWLockRelease(shared->lock);
}

/* This process is the launcher now. */
void
shmem_launcher_attach(void)
{
	before_shmem_exit(launcher_detach, (Datum) 0);
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	shared->launcher_latch = MyLatch;
	shared->rescan = true;
	LWLockRelease(shared->lock);
}

/* Shall the launcher look for new and dropped databases?  Asked once. */
bool
shmem_launcher_take_rescan(void)
{
	bool		rescan;

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	rescan = shared->rescan;
	shared->rescan = false;
	LWLockRelease(shared->lock);
	return rescan;
}

/*
 * The next database, from slot *cursor on, that wants a process and has none;
 * InvalidOid at the end.  Sets *slot to the number of its slot, and *orderly
 * to whether its last relay meant to end.
 */
Oid
shmem_next_relay_to_start(int *cursor, int *slot, bool *orderly)
{
	Oid			dboid = InvalidOid;

	LWLockAcquire(shared->lock, LW_SHARED);
	while (*cursor < shared->nslots && !OidIsValid(dboid))
	{
		RelaySlot  *candidate = &shared->slots[*cursor];

		*slot = (*cursor)++;
		if (OidIsValid(candidate->dboid) && candidate->pid == 0 &&
			candidate->holds == 0)
			dboid = candidate->dboid;
		*orderly = candidate->orderly;
	}
	LWLockRelease(shared->lock);
	return dboid;
}

/* A slot for a database; false if there is none left. */
bool
shmem_add_database(Oid dboid)
{
	bool		ok;

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	ok = find_or_make_slot(dboid) != NULL;
	LWLockRelease(shared->lock);
	return ok;
}

/* The database is gone.  False if a process still has its slot. */
bool
shmem_remove_database(Oid dboid)
{
	RelaySlot  *slot;
	bool		in_use;

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	slot = find_slot(dboid);
	in_use = slot && (slot->pid != 0 || slot->holds != 0);
	if (slot && !in_use)
		slot->dboid = InvalidOid;
	LWLockRelease(shared->lock);
	return !in_use;
}

/* No process could be started; "error" is for the operator. */
void
shmem_note_start_failure(Oid dboid, const char *error)
{
	RelaySlot  *slot;
	TimestampTz now = GetCurrentTimestamp();

	LWLockAcquire(shared->lock, LW_SHARED);
	slot = find_slot(dboid);
	if (slot)
	{
		SpinLockAcquire(&slot->mutex);
		if (slot->report.status != RELAY_STOPPED)
			slot->report.since = now;
		slot->report.status = RELAY_STOPPED;
		strlcpy(slot->report.last_error, error, OUTBOX_ERROR_SIZE);
		slot->report.last_error_at = now;
		SpinLockRelease(&slot->mutex);
	}
	LWLockRelease(shared->lock);
}

static void
relay_detach(int code, Datum arg)
{
	if (!my_slot)
		return;
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	my_slot->pid = 0;
	my_slot->latch = NULL;
	my_slot->requests &= ~RELAY_REQUEST_LEAVE;
	SpinLockAcquire(&my_slot->mutex);
	my_slot->report.status = RELAY_STOPPED;
	my_slot->report.since = GetCurrentTimestamp();
	my_slot->report.in_flight = 0;
	SpinLockRelease(&my_slot->mutex);
	wake_launcher();
	LWLockRelease(shared->lock);
}

/*
 * This process is the relay of a database now; false if it may not be,
 * because there is one, or a command wants the database free.
 */
bool
shmem_relay_attach(Oid dboid)
{
	RelaySlot  *slot;

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	slot = find_or_make_slot(dboid);
	if (!slot || slot->pid != 0 || slot->holds > 0)
	{
		LWLockRelease(shared->lock);
		return false;
	}
	slot->pid = MyProcPid;
	slot->latch = MyLatch;
	slot->requests = 0;
	slot->listening = true;
	slot->orderly = false;
	pg_atomic_write_u64(&slot->duplicates, 0);
	my_slot = slot;
	LWLockRelease(shared->lock);

	before_shmem_exit(relay_detach, (Datum) 0);
	return true;
}

void
shmem_relay_report(const RelayReport *report)
{
	SpinLockAcquire(&my_slot->mutex);
	my_slot->report = *report;
	SpinLockRelease(&my_slot->mutex);
}

/*
 * Shall commits wake this relay?  Whoever says so has to look for events after
 * that, or a commit may have been missed.
 */
void
shmem_relay_listen(bool on)
{
	my_slot->listening = on;
	pg_memory_barrier();		/* pairs with wake_relay() */
}

/* What others asked of this relay since the last call. */
int
shmem_relay_take_requests(void)
{
	int			requests;

	if (my_slot->requests == 0) /* no lock: the latch comes after the request */
		return 0;
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	requests = my_slot->requests;
	my_slot->requests = 0;
	LWLockRelease(shared->lock);
	return requests;
}

/* This relay means to end: there is no reason to wait with the next one. */
void
shmem_relay_ends_in_order(void)
{
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	my_slot->orderly = true;
	LWLockRelease(shared->lock);
}

/*
 * This relay's database has no extension: give the slot back.  False if
 * somebody asked for the relay meanwhile (CREATE EXTENSION): look again.
 */
bool
shmem_relay_forget_database(void)
{
	bool		forgotten = false;

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	if ((my_slot->requests & RELAY_REQUEST_RECHECK) == 0)
	{
		my_slot->dboid = InvalidOid;
		my_slot->pid = 0;
		my_slot->latch = NULL;
		my_slot = NULL;
		forgotten = true;
	}
	LWLockRelease(shared->lock);
	return forgotten;
}

/*
 * A command wants this database free of relays: ask its relay to leave, and
 * let no other start before shmem_release_relay().  False if the database has
 * no slot, hence no relay; there is nothing to release then.
 */
bool
shmem_hold_relay(Oid dboid)
{
	RelaySlot  *slot;

	if (!shared)
		return false;
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	slot = find_slot(dboid);
	if (slot)
	{
		slot->holds++;
		slot->requests |= RELAY_REQUEST_LEAVE;
		if (slot->latch)
			SetLatch(slot->latch);
	}
	LWLockRelease(shared->lock);
	return slot != NULL;
}

/* Does a relay of this database run? */
bool
shmem_relay_is_there(Oid dboid)
{
	RelaySlot  *slot;
	bool		there;

	LWLockAcquire(shared->lock, LW_SHARED);
	slot = find_slot(dboid);
	there = slot && slot->pid != 0;
	LWLockRelease(shared->lock);
	return there;
}

/* The command is done, however it ended; the launcher looks again. */
void
shmem_release_relay(Oid dboid)
{
	RelaySlot  *slot;

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	slot = find_slot(dboid);
	if (slot && slot->holds > 0)
		slot->holds--;
	LWLockRelease(shared->lock);
	shmem_wake_launcher(true);
}

/* With "rescan", it looks for new and dropped databases as well. */
void
shmem_wake_launcher(bool rescan)
{
	if (!shared)
		return;
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	shared->rescan |= rescan;
	wake_launcher();
	LWLockRelease(shared->lock);
}
