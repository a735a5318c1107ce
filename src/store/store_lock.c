/*-------------------------------------------------------------------------
 *
 * store_lock.c
 *		Advisory locks of relays, and of who makes a destination.
 *
 * The SQL functions for advisory locks have the classes 1 and 2, so that no user
 * can take these.
 *
 * - One relay for a destination of a database: RELAY_CLASS, by the destination's
 *   number, held until the process ends.
 * - One pruner for a database, whichever of its relays comes first: held likewise.
 * - The horizon: what no destination needs any longer, and so may be deleted.
 *   Whoever adds a destination, or has what was published sent again, keeps it for
 *   a transaction; each transaction of a prune has it for itself.  So what somebody
 *   begins to need is never deleted before that can be seen, nor passed by.
 * - Which destinations there are, to whoever deletes an event by hand: each is told,
 *   and none may begin before the event is gone and have a row of it.  Those who delete
 *   do not wait for each other, nor do those who add a destination; each waits for
 *   transactions of the other kind to end.
 * - What a relay does to the tables of a database when it starts (store_fit.c): for a
 *   transaction, one relay at a time.
 *
 * Errors: a lock that is waited for in vain ends the transaction, as any other.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/lock.h"

#include "store/store_internal.h"

#define LOCK_KEY		0x6f757462	/* "outb" */

/* Classes */
#define RELAY_CLASS		3
#define DATABASE_CLASS	4

/* Of DATABASE_CLASS */
#define PRUNER			1
#define HORIZON			2
#define FITTING			3
#define DESTINATIONS	4

/* Take a lock until the process ends; false if somebody else has it. */
static bool
take_for_process(int which, int class)
{
	LOCKTAG		tag;
	bool		taken;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, LOCK_KEY, which, class);
	StartTransactionCommand();
	taken = LockAcquire(&tag, ExclusiveLock, true, true) != LOCKACQUIRE_NOT_AVAIL;
	CommitTransactionCommand();
	return taken;
}

/*
 * Be the only relay of this database for its destination, even beside one that
 * another launcher or an older server process started; false if there is one.
 */
bool
store_lock_destination(void)
{
	return take_for_process(store_destination(), RELAY_CLASS);
}

/* Be the one who prunes this database; false if there is one. */
bool
store_lock_pruning(void)
{
	return take_for_process(PRUNER, DATABASE_CLASS);
}

/* Take a lock until the end of the transaction; false if it is not free. */
static bool
take_for_transaction(int which, LOCKMODE mode, bool wait)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, LOCK_KEY, which, DATABASE_CLASS);
	return LockAcquire(&tag, mode, false, !wait) != LOCKACQUIRE_NOT_AVAIL;
}

/* Until the end of the transaction, be the only relay that makes tables fit. */
void
store_lock_fitting(void)
{
	(void) take_for_transaction(FITTING, ExclusiveLock, true);
}

/* Until the end of the transaction, be the only one who moves the horizon. */
void
store_lock_horizon(void)
{
	(void) take_for_transaction(HORIZON, ExclusiveLock, true);
}

/* Until the end of the transaction, keep the horizon where it is. */
void
store_keep_horizon(void)
{
	(void) take_for_transaction(HORIZON, ShareLock, true);
}

/* The same, unless somebody is just moving it: then this is false. */
bool
store_try_to_keep_horizon(void)
{
	return take_for_transaction(HORIZON, ShareLock, false);
}

/* Until the end of the transaction, let nobody else add a destination. */
void
store_keep_destinations(void)
{
	(void) take_for_transaction(DESTINATIONS, RowExclusiveLock, true);
}

/*
 * Wait for the transactions that have deleted events, and let nobody else delete one until
 * the end of this one.
 */
void
store_await_deletes(void)
{
	(void) take_for_transaction(DESTINATIONS, ShareLock, true);
}

/*
 * Has this destination no relay?  Then there will be none before the end of the
 * transaction.
 */
bool
store_has_no_relay(int destination)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, LOCK_KEY, destination, RELAY_CLASS);
	return LockAcquire(&tag, ExclusiveLock, false, true) != LOCKACQUIRE_NOT_AVAIL;
}
