/*-------------------------------------------------------------------------
 *
 * launcher.c
 *		The process that keeps a relay running for every destination.
 *
 * The launcher is connected to no database (only to the shared catalogs), so
 * that it is never in the way of DROP DATABASE and the like.  Which databases
 * have the extension it can't see from there.  A slot is made for each that is to
 * be looked into (database_scan.c), and at CREATE EXTENSION and every publish; the
 * relay of "default" asks for those of a database's other destinations.  For each slot
 * a relay is started, and one that finds that there is nothing for it gives its slot
 * back and ends.
 *
 * A relay is a dynamic worker that the postmaster does not restart; the
 * launcher does, since only it can wait between tries: at once after a relay
 * that meant to end, later and later after one that does not live long, or
 * when there is no free worker process.
 *
 * SIGTERM, from a shutdown or pg_terminate_backend(), only sets a flag that
 * the main loop looks at, so that the process ends without a FATAL in the log.
 * For that, nothing here may wait but the main loop.  The exit code is always
 * 1, with which the postmaster starts another one unless it is about to shut
 * down; with 0 it would never do so.  The relays go on meanwhile, and the next
 * launcher finds them in shared memory.
 *
 * Locks: those of database_scan.c; shmem.c's.  Errors: those of the
 * transactions there end the process, which comes back a second later.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "guc.h"
#include "lib/compat.h"
#include "lib/log_limit.h"
#include "server/server.h"
#include "server/shmem.h"

/* Relays between their registration and the first sign of life. */
#define MAX_STARTING	4

/* A relay that ran this long ran well. */
#define RAN_WELL_MS		10000

/* Waits between the tries to start one relay. */
#define MIN_BACKOFF_MS	200
#define MAX_BACKOFF_MS	10000

/* A database that has waited for a process so long is worth a warning. */
#define WARN_AFTER_MS		10000

/* What the launcher remembers of the relay in a slot of shared memory. */
typedef struct RelayRecord
{
	Oid			dboid;			/* the slot's owner when this was written */
	int			destination;
	char		name[NAMEDATALEN];	/* of the destination */
	BackgroundWorkerHandle *handle; /* of the last process; NULL: none */
	TimestampTz started_at;
	TimestampTz not_before;		/* the next try */
	int			backoff_ms;		/* the wait after the next failure */
	TimestampTz failing_since;	/* no process was free; 0: there was one */
	bool		warned;			/* the log says so */
} RelayRecord;

static RelayRecord *records;	/* one for each slot */

/* From _PG_init() in the postmaster. */
void
launcher_register(void)
{
	BackgroundWorker worker;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS |
		BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 1;
	strlcpy(worker.bgw_library_name, "outbox", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "outbox_launcher_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "outbox launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "outbox launcher", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}

/* Ask the postmaster for a relay; false if no worker process is free. */
static bool
register_relay(const RelayRecord *record, BackgroundWorkerHandle **handle)
{
	BackgroundWorker worker;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS |
		BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(worker.bgw_library_name, "outbox", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "outbox_relay_main", BGW_MAXLEN);
	snprintf(worker.bgw_name, BGW_MAXLEN, "outbox relay for database %u",
			 record->dboid);
	if (record->destination > 0)
		snprintf(worker.bgw_name, BGW_MAXLEN,
				 "outbox relay for database %u, destination %d",
				 record->dboid, record->destination);
	strlcpy(worker.bgw_type, "outbox relay", BGW_MAXLEN);
	worker.bgw_main_arg = ObjectIdGetDatum(record->dboid);
	memcpy(worker.bgw_extra, &record->destination,
		   sizeof(record->destination));
	worker.bgw_notify_pid = MyProcPid;
	return RegisterDynamicBackgroundWorker(&worker, handle);
}

static void
free_handle(RelayRecord *record)
{
	if (record->handle)
		pfree(record->handle);
	record->handle = NULL;
}

/* The record of a slot, begun anew if the slot has another owner now. */
static RelayRecord *
record_of(const RelayToStart *relay)
{
	RelayRecord *record = &records[relay->slot];

	if (record->dboid != relay->dboid ||
		record->destination != relay->destination)
	{
		free_handle(record);
		memset(record, 0, sizeof(*record));
		record->dboid = relay->dboid;
		record->destination = relay->destination;
		record->backoff_ms = MIN_BACKOFF_MS;
	}
	strlcpy(record->name, relay->name, NAMEDATALEN);
	return record;
}

/* Is the process that we started last still on its way? */
static bool
is_starting(RelayRecord *record)
{
	pid_t		pid;

	if (!record->handle)
		return false;
	switch (GetBackgroundWorkerPid(record->handle, &pid))
	{
		case BGWH_STARTED:
		case BGWH_NOT_YET_STARTED:
			return true;
		default:
			return false;
	}
}

/*
 * The process has ended: when may the next one start?  The first failure
 * after a good run costs a short wait, each further one twice as long.
 */
static void
schedule_restart(RelayRecord *record, TimestampTz now, bool orderly)
{
	free_handle(record);
	if (orderly ||
		TimestampDifferenceExceeds(record->started_at, now, RAN_WELL_MS))
		record->backoff_ms = MIN_BACKOFF_MS;
	if (orderly)
	{
		record->not_before = now;
		return;
	}
	record->not_before = TimestampTzPlusMilliseconds(now, record->backoff_ms);
	record->backoff_ms = Min(record->backoff_ms * 2, MAX_BACKOFF_MS);
}

/*
 * No process is free for a relay.  That may be over in a moment, and concerns
 * nobody if the database has no extension: otherwise the log is told, once; the
 * views are up to date.
 */
static void
note_no_process(RelayRecord *record, TimestampTz now)
{
	if (record->failing_since == 0)
		record->failing_since = now;
	if (!shmem_relay_is_wanted(record->dboid, record->destination))
		return;
	shmem_note_start_failure(record->dboid, record->destination,
							 "no free worker process: raise max_worker_processes");
	if (record->warned ||
		!TimestampDifferenceExceeds(record->failing_since, now, WARN_AFTER_MS) ||
		!log_is_due(database_scan_name(record->dboid), record->name))
		return;
	record->warned = true;
	ereport(WARNING,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("outbox: could not start the relay for destination \"%s\" of database \"%s\"",
					record->name, database_scan_name(record->dboid)),
			 errdetail("All worker processes are in use."),
			 errhint("Raise max_worker_processes and restart the server.")));
}

/*
 * Start the relay of a slot.  Not having a process for it is a failed try.
 *
 * None is started where it could not connect before another transaction's end,
 * which may be a prepared one that nobody ends: while it waited for that lock, it
 * would not obey a shutdown.
 */
static void
start_relay(RelayRecord *record, TimestampTz now)
{
	if (database_scan_is_locked(record->dboid))
	{
		if (record->destination > 0 || !database_scan_failed(record->dboid))
			record->not_before = TimestampTzPlusMilliseconds(now,
															 MIN_BACKOFF_MS);
		return;
	}
	record->started_at = now;
	if (register_relay(record, &record->handle))
	{
		record->failing_since = 0;
		record->warned = false;
		return;
	}
	record->handle = NULL;
	note_no_process(record, now);
	schedule_restart(record, now, false);
}

/*
 * The process of a relay that is to be started has ended.  If it ended before it
 * saw whether there is an extension at all, nobody need start another one now:
 * the slot is free then, and this is false.
 */
static bool
note_end(RelayRecord *record, TimestampTz now, bool orderly)
{
	if (!orderly && record->destination == 0 &&
		database_scan_failed(record->dboid))
	{
		free_handle(record);
		record->dboid = InvalidOid;
		return false;
	}
	schedule_restart(record, now, orderly);
	return true;
}

/*
 * Start the relays that are not there, a few at a time.  Returns how long to
 * wait until the next may be tried, "wait_ms" at most.
 */
static long
start_relays(long wait_ms)
{
	TimestampTz now = GetCurrentTimestamp();
	int			nstarting = 0;
	int			cursor = 0;
	RelayToStart relay;

	while (shmem_next_relay_to_start(&cursor, &relay))
	{
		RelayRecord *record = record_of(&relay);

		/* A process without its slot is about to take it, or to end. */
		if (is_starting(record))
		{
			nstarting++;
			continue;
		}
		if (record->handle && !note_end(record, now, relay.orderly))
			continue;

		/* A clock that was set back must not make us wait for it. */
		record->not_before = Min(record->not_before,
								 TimestampTzPlusMilliseconds(now, MAX_BACKOFF_MS));
		if (record->not_before > now)
			wait_ms = Min(wait_ms,
						  TimestampDifferenceMilliseconds(now, record->not_before));
		else if (nstarting < MAX_STARTING)
		{
			start_relay(record, now);
			nstarting++;
		}
		else
			wait_ms = Min(wait_ms, MIN_BACKOFF_MS);
	}

	/* Nobody tells us when a slot is taken and the next one can start. */
	return nstarting > 0 ? Min(wait_ms, MIN_BACKOFF_MS) : wait_ms;
}

static void
add_error_context(void *arg)
{
	errcontext("outbox launcher");
}

static void
launcher_init(void)
{
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);

	records = MemoryContextAllocZero(TopMemoryContext,
									 sizeof(RelayRecord) * guc_max_relays);
	database_scan_init();
	shmem_launcher_attach();
}

void
outbox_launcher_main(Datum arg)
{
	ErrorContextCallback context;
	TimestampTz last_scan = 0;
	long		rescan_ms = 0;
	uint32		wait_event = wait_event_compat("OutboxLauncher");

	context.callback = add_error_context;
	context.arg = NULL;
	context.previous = error_context_stack;
	error_context_stack = &context;

	launcher_init();
	while (!ShutdownRequestPending)
	{
		TimestampTz now = GetCurrentTimestamp();

		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}

		/* A last look in the future is one of before the clock was set. */
		if (shmem_launcher_take_rescan() || last_scan > now ||
			TimestampDifferenceExceeds(last_scan, now, rescan_ms))
		{
			rescan_ms = database_scan();
			last_scan = now;
		}
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 start_relays(rescan_ms), wait_event);
		ResetLatch(MyLatch);
	}
	proc_exit(1);
}
