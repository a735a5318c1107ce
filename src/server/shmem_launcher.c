/*-------------------------------------------------------------------------
 *
 * shmem_launcher.c
 *		Shared memory: what the launcher does with the slots.
 *
 * It makes slots for databases that are to be looked into and frees those of
 * databases that are gone or cannot be looked into, finds those without a process,
 * and is told by others, through a flag and its latch, that there is something
 * new.
 *
 * Locks: see shmem_internal.h.  Errors: nothing here throws.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/timestamp.h"

#include "server/shmem_internal.h"

static void
launcher_detach(int code, Datum arg)
{
	LWLockAcquire(shmem_shared->lock, LW_EXCLUSIVE);
	if (shmem_shared->launcher_latch == MyLatch)
		shmem_shared->launcher_latch = NULL;
	LWLockRelease(shmem_shared->lock);
}

/*
 * This process is the launcher now.  What was asked of an earlier one may have
 * been lost with it, so that the first thing to do is to look at everything.
 */
void
shmem_launcher_attach(void)
{
	before_shmem_exit(launcher_detach, (Datum) 0);
	LWLockAcquire(shmem_shared->lock, LW_EXCLUSIVE);
	shmem_shared->launcher_latch = MyLatch;
	shmem_shared->rescan = true;
	LWLockRelease(shmem_shared->lock);
}

/* Has anybody asked for a look at the databases since the last call? */
bool
shmem_launcher_take_rescan(void)
{
	bool		rescan;

	LWLockAcquire(shmem_shared->lock, LW_EXCLUSIVE);
	rescan = shmem_shared->rescan;
	shmem_shared->rescan = false;
	LWLockRelease(shmem_shared->lock);
	return rescan;
}

/*
 * The next relay, from slot *cursor on, that wants a process and has none; false at
 * the end.
 */
bool
shmem_next_relay_to_start(int *cursor, RelayToStart *relay)
{
	bool		found = false;

	LWLockAcquire(shmem_shared->lock, LW_SHARED);
	while (*cursor < shmem_shared->nslots && !found)
	{
		RelaySlot  *candidate = &shmem_shared->slots[*cursor];

		relay->slot = (*cursor)++;
		relay->dboid = candidate->dboid;
		relay->destination = candidate->destination;
		relay->orderly = candidate->orderly;
		SpinLockAcquire(&candidate->mutex);
		strlcpy(relay->name, candidate->name, NAMEDATALEN);
		SpinLockRelease(&candidate->mutex);
		found = OidIsValid(candidate->dboid) && candidate->pid == 0 &&
			candidate->holds == 0;
	}
	LWLockRelease(shmem_shared->lock);
	return found;
}

/*
 * Have a relay see whether a database has the extension, unless it has a slot
 * already; false if no slot is free.
 */
bool
shmem_look_into_database(Oid dboid)
{
	bool		ok;

	LWLockAcquire(shmem_shared->lock, LW_EXCLUSIVE);
	ok = shmem_find_or_make_slot(dboid, 0) != NULL;
	LWLockRelease(shmem_shared->lock);
	return ok;
}

/* Has somebody there asked for a relay, and found no slot? */
bool
shmem_database_is_refused(Oid dboid)
{
	bool		refused = false;

	LWLockAcquire(shmem_shared->lock, LW_SHARED);
	for (int i = 0; i < shmem_shared->nrefused && !refused; i++)
		refused = shmem_shared->refused[i] == dboid;
	LWLockRelease(shmem_shared->lock);
	return refused;
}

/* How many databases are being looked into. */
int
shmem_databases_looked_into(void)
{
	int			n = 0;

	LWLockAcquire(shmem_shared->lock, LW_SHARED);
	for (int i = 0; i < shmem_shared->nslots; i++)
	{
		const RelaySlot *slot = &shmem_shared->slots[i];

		if (OidIsValid(slot->dboid) && !slot->wanted)
			n++;
	}
	LWLockRelease(shmem_shared->lock);
	return n;
}

/* Has this relay, or whoever asked for one, found that it is needed? */
bool
shmem_relay_is_wanted(Oid dboid, int destination)
{
	RelaySlot  *slot;
	bool		wanted;

	LWLockAcquire(shmem_shared->lock, LW_SHARED);
	slot = shmem_find_slot(dboid, destination);
	wanted = slot && slot->wanted;
	LWLockRelease(shmem_shared->lock);
	return wanted;
}

/*
 * Free the slots of databases that are not in this list, and forget those of
 * them that were refused one.  False if a process or a command still uses a
 * slot; the caller tries again later.
 */
bool
shmem_remove_dropped(List *databases)
{
	bool		all = true;

	LWLockAcquire(shmem_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < shmem_shared->nslots; i++)
	{
		RelaySlot  *slot = &shmem_shared->slots[i];

		if (!OidIsValid(slot->dboid) || list_member_oid(databases, slot->dboid))
			continue;
		if (slot->pid != 0 || slot->holds != 0)
			all = false;
		else
			shmem_free_slot(slot);
	}

	/* from the end on, since the last one fills the gap */
	for (int i = shmem_shared->nrefused - 1; i >= 0; i--)
	{
		if (!list_member_oid(databases, shmem_shared->refused[i]))
			shmem_forget_refused(shmem_shared->refused[i]);
	}
	LWLockRelease(shmem_shared->lock);
	return all;
}

/*
 * Nobody could look into a database: free its slot.  False if it has the
 * extension, as far as is known, or a process or a command still uses the slot.
 */
bool
shmem_give_up_database(Oid dboid)
{
	RelaySlot  *slot;
	bool		given_up;

	LWLockAcquire(shmem_shared->lock, LW_EXCLUSIVE);
	slot = shmem_find_slot(dboid, 0);
	given_up = slot && !slot->wanted && slot->pid == 0 && slot->holds == 0;
	if (given_up)
		shmem_free_slot(slot);
	LWLockRelease(shmem_shared->lock);
	return given_up;
}

/*
 * No process could be started for a destination.  "error", one line, is what
 * outbox_relays and outbox_check() show until a relay reports again.
 */
void
shmem_note_start_failure(Oid dboid, int destination, const char *error)
{
	RelaySlot  *slot;
	TimestampTz now = GetCurrentTimestamp();

	LWLockAcquire(shmem_shared->lock, LW_SHARED);
	slot = shmem_find_slot(dboid, destination);
	if (slot)
	{
		/* Every try comes by here: "since" is when the first one failed. */
		SpinLockAcquire(&slot->mutex);
		if (slot->report.status != RELAY_STOPPED)
			slot->report.since = now;
		slot->report.status = RELAY_STOPPED;
		strlcpy(slot->report.last_error, error, OUTBOX_ERROR_SIZE);
		slot->report.last_error_at = now;
		SpinLockRelease(&slot->mutex);
	}
	LWLockRelease(shmem_shared->lock);
}
