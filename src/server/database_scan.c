/*-------------------------------------------------------------------------
 *
 * database_scan.c
 *		The launcher's list of databases: which are to be looked into.
 *
 * Every database that is seen for the first time gets a slot, hence a relay,
 * which sees whether the extension is there.  A few at a time, so that they leave
 * slots and processes to others.  Once is enough: from then on CREATE EXTENSION
 * and every publish ask for a relay.  Where they find no slot, the launcher looks
 * into the database again as soon as one is free.
 *
 * A database that cannot be looked into, because its directory is damaged for
 * instance, gives its slot back as well, or a few of them would keep all others
 * waiting.  It is tried again later and later.
 *
 * Locks: on pg_database and single databases, if they can be had at once, for a
 * moment; shmem.c's.  Errors: those of reading pg_database.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "guc.h"
#include "lib/compat.h"
#include "lib/log_limit.h"
#include "server/server.h"
#include "server/shmem.h"

/* Databases that are looked into at the same time. */
#define MAX_PROBES		4

/* How often to look for databases that nobody told us of. */
#define RESCAN_MS		60000

/* How soon to look again when pg_database was locked. */
#define LOCKED_RESCAN_MS	1000

/* ... and when there are more databases to be looked into. */
#define PROBE_RESCAN_MS		50

/* Waits until a database is tried again that could not be looked into. */
#define MIN_FAILED_MS	1000
#define MAX_FAILED_MS	RESCAN_MS

/* A database that was looked into at least once. */
typedef struct SeenDatabase
{
	Oid			dboid;			/* hash key */
	TimestampTz not_before;		/* the next try; DT_NOEND: none is needed */
	int			failed_ms;		/* the last wait after a try that failed; 0:
								 * none has */
} SeenDatabase;

static HTAB *seen_databases;

/* The name of a database, as it was at the last look. */
typedef struct DatabaseName
{
	Oid			dboid;
	NameData	name;
} DatabaseName;

static MemoryContext names_context; /* of what follows */
static List *names = NIL;		/* DatabaseName * */

/* When the launcher starts. */
void
database_scan_init(void)
{
	HASHCTL		ctl;

	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(Oid);
	ctl.entrysize = sizeof(SeenDatabase);
	seen_databases = hash_create("outbox databases", 64, &ctl,
								 HASH_ELEM | HASH_BLOBS);
	names_context = AllocSetContextCreate(TopMemoryContext,
										  "outbox database names",
										  ALLOCSET_SMALL_SIZES);
}

static void
note_name(const FormData_pg_database *database)
{
	MemoryContext old = MemoryContextSwitchTo(names_context);
	DatabaseName *name = palloc(sizeof(DatabaseName));

	name->dboid = database->oid;
	name->name = database->datname;
	names = lappend(names, name);
	MemoryContextSwitchTo(old);
}

/* The name of a database, until the next look at all; "" if none is known. */
const char *
database_scan_name(Oid dboid)
{
	ListCell   *lc;

	foreach(lc, names)
	{
		DatabaseName *name = lfirst(lc);

		if (name->dboid == dboid)
			return NameStr(name->name);
	}
	return "";
}

/*
 * Every database that can be connected to, as a list of Oids in the caller's
 * memory context, and their names.  False if pg_database is locked.
 */
static bool
list_databases(List **databases)
{
	MemoryContext result_context = CurrentMemoryContext;
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();

	/* A wait for the lock would keep us from SIGTERM, and relays from us. */
	if (!ConditionalLockRelationOid(DatabaseRelationId, AccessShareLock))
	{
		CommitTransactionCommand();
		return false;
	}
	rel = table_open(DatabaseRelationId, NoLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	*databases = NIL;
	names = NIL;
	MemoryContextReset(names_context);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database database = (Form_pg_database) GETSTRUCT(tuple);
		MemoryContext old;

		/* What an interrupted DROP DATABASE left can only be dropped. */
		if (!database->datallowconn ||
			database->datconnlimit == DATCONNLIMIT_INVALID_DB)
			continue;
		old = MemoryContextSwitchTo(result_context);
		*databases = lappend_oid(*databases, database->oid);
		MemoryContextSwitchTo(old);
		note_name(database);
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
	return true;
}

/* Forget the databases that are gone. */
static void
forget_dropped(List *databases)
{
	HASH_SEQ_STATUS status;
	SeenDatabase *seen;

	hash_seq_init(&status, seen_databases);
	while ((seen = hash_seq_search(&status)) != NULL)
	{
		if (!list_member_oid(databases, seen->dboid))
			hash_search(seen_databases, &seen->dboid, HASH_REMOVE, NULL);
	}
}

/* There is no slot for the database, and none will be free by itself. */
static void
report_no_slot(Oid dboid)
{
	const char *name = database_scan_name(dboid);

	if (!log_is_due("no slot", name))
		return;
	ereport(LOG,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("outbox: there is no relay for database \"%s\"", name),
			 errdetail("All %d of outbox.max_relays are in use.",
					   guc_max_relays),
			 errhint("Raise outbox.max_relays and restart the server.")));
}

/*
 * Is the database to be looked into now?  If it is to be later, *wait_ms is no
 * longer than that afterwards.
 */
static bool
is_to_be_probed(Oid dboid, TimestampTz now, long *wait_ms)
{
	SeenDatabase *seen = hash_search(seen_databases, &dboid, HASH_FIND, NULL);

	if (!seen)
		return true;
	if (seen->not_before == DT_NOEND)
		return shmem_database_is_refused(dboid);

	/* A clock that was set back must not make us wait for it. */
	seen->not_before = Min(seen->not_before,
						   TimestampTzPlusMilliseconds(now, seen->failed_ms));
	if (seen->not_before <= now)
		return true;
	*wait_ms = Min(*wait_ms,
				   TimestampDifferenceMilliseconds(now, seen->not_before));
	return false;
}

/* The entry of a database, made if there is none. */
static SeenDatabase *
remember(Oid dboid)
{
	bool		found;
	SeenDatabase *seen = hash_search(seen_databases, &dboid, HASH_ENTER,
									 &found);

	if (!found)
	{
		seen->not_before = DT_NOEND;
		seen->failed_ms = 0;
	}
	return seen;
}

/*
 * Have databases looked into that were not there the last time or could not be
 * looked into, a few at a time.  Returns how long to wait until the next look.
 */
long
database_scan(void)
{
	List	   *databases;
	ListCell   *lc;
	TimestampTz now = GetCurrentTimestamp();
	long		wait_ms = RESCAN_MS;
	int			nprobes;

	if (!list_databases(&databases))
		return LOCKED_RESCAN_MS;
	forget_dropped(databases);
	if (!shmem_remove_dropped(databases))
		wait_ms = LOCKED_RESCAN_MS;
	nprobes = shmem_databases_looked_into();
	foreach(lc, databases)
	{
		Oid			dboid = lfirst_oid(lc);

		if (!is_to_be_probed(dboid, now, &wait_ms))
			continue;
		if (nprobes >= MAX_PROBES)
		{
			wait_ms = PROBE_RESCAN_MS;
			break;
		}

		/* Where no slot is free, nobody looks: the next scan tries again. */
		if (shmem_look_into_database(dboid))
		{
			remember(dboid)->not_before = DT_NOEND;
			nprobes++;
		}
		else if (nprobes > 0)
			wait_ms = PROBE_RESCAN_MS;
		else
			report_no_slot(dboid);
	}
	list_free(databases);
	return wait_ms;
}

/*
 * The relay that was to look into a database has ended before it did: the slot
 * is free again, and another one tries later.  False if the database is known to
 * have the extension: its slot is its own.
 */
bool
database_scan_failed(Oid dboid)
{
	SeenDatabase *seen;

	if (!shmem_give_up_database(dboid))
		return false;
	seen = remember(dboid);
	seen->failed_ms = Max(MIN_FAILED_MS,
						  Min(seen->failed_ms * 2, MAX_FAILED_MS));
	seen->not_before = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
												   seen->failed_ms);
	shmem_launcher_ask_rescan();
	return true;
}

/*
 * Would whoever connects to this database have to wait for another transaction,
 * which renames it for instance?
 */
bool
database_scan_is_locked(Oid dboid)
{
	LOCKTAG		tag;
	bool		locked;

	/* what a connection begins with: InitPostgres() */
	SET_LOCKTAG_OBJECT(tag, InvalidOid, DatabaseRelationId, dboid, 0);
	StartTransactionCommand();
	locked = LockAcquire(&tag, RowExclusiveLock, false, true) ==
		LOCKACQUIRE_NOT_AVAIL;
	CommitTransactionCommand();
	return locked;
}
