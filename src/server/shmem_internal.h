/*-------------------------------------------------------------------------
 *
 * shmem_internal.h
 *		What the files of shared memory share: the struct and its slots.
 *
 * The lock guards which slot belongs to whom, and everything else in the
 * struct unless a field's comment says otherwise.  A slot's mutex guards its
 * report.  What it says of topics is too long for a spinlock: that has a lock of
 * its own, which is taken after the other one.  Whoever looks at a slot that is
 * not its own holds the lock, too, so that the slot cannot change hands
 * meanwhile.
 *
 * A Latch pointer points into the PGPROC array, so that it means the same in
 * every process.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_SHMEM_INTERNAL_H
#define OUTBOX_SHMEM_INTERNAL_H

#include "port/atomics.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/spin.h"

#include "server/shmem.h"

typedef struct RelaySlot
{
	Oid			dboid;			/* InvalidOid: the slot is free */
	int			destination;	/* its id in that database; 0: default */
	char		name[NAMEDATALEN];	/* of the destination; guarded by mutex */
	pid_t		pid;			/* of the relay; 0: none */
	Latch	   *latch;			/* of the relay; NULL: none */
	int			holds;			/* commands that want the database free */
	int			requests;		/* RELAY_REQUEST_ bits for the relay */
	volatile bool listening;	/* the relay wants to be woken by commits;
								 * written without the lock, with barriers */
	bool		wanted;			/* there is the destination, as far as is
								 * known; false: that is to be seen */
	bool		orderly;		/* the last relay, if any, meant to end */
	pg_atomic_uint64 duplicates;	/* publishes that were there already, and
									 * the relay has not counted */
	slock_t		mutex;			/* guards report */
	RelayReport report;
	LWLock		topics_lock;	/* guards topics */
	TopicsReport topics;
} RelaySlot;

/* More databases than these ask again with their next publish.  (A destination that
 * finds no slot is asked for again by the relay of "default".) */
#define MAX_REFUSED		64

typedef struct OutboxShared
{
	LWLock	   *lock;			/* never changes, nor does nslots */
	Latch	   *launcher_latch; /* NULL: no launcher */
	bool		rescan;			/* the launcher shall look for databases */
	bool		slot_awaited;	/* ... as soon as a slot is free: somebody
								 * found none */
	int			nrefused;
	Oid			refused[MAX_REFUSED];	/* databases that asked for a relay
										 * and found no slot */
	int			nslots;
	RelaySlot	slots[FLEXIBLE_ARRAY_MEMBER];
} OutboxShared;

/* shmem.c */
extern OutboxShared *shmem_shared;	/* NULL: the library is not preloaded */

extern RelaySlot *shmem_find_slot(Oid dboid, int destination);
extern RelaySlot *shmem_find_or_make_slot(Oid dboid, int destination);
extern void shmem_free_slot(RelaySlot *slot);
extern void shmem_set_launcher_latch(void);
extern void shmem_refuse_slot(Oid dboid);
extern void shmem_forget_refused(Oid dboid);
extern void shmem_set_topics(RelaySlot *slot, const TopicsReport *report);

#endif							/* OUTBOX_SHMEM_INTERNAL_H */
