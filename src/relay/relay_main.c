/*-------------------------------------------------------------------------
 *
 * relay_main.c
 *		The relay's process: start, wait, signals, end.
 *
 * The launcher starts it with the OID of its database and the number of its
 * destination.  It ends itself when the extension, or the destination, is not (or no
 * longer) there.
 *
 * SIGTERM ends it in order, also when it comes from a command that wants the
 * database for itself.  A statement that runs is cancelled.  Then nothing more
 * is submitted; the answers that come in within ANSWERS_MS are taken, so that
 * what has been delivered is not sent again, and what is in flight then is left
 * to the next relay.  All this takes less than a second, whatever the receiver
 * or a statement does, and however often it is asked for.  Another value of
 * outbox.key_scope ends everything but the process in the same way.  While it
 * connects, which may be a wait for somebody's lock, SIGTERM cancels that.  Neither
 * leaves a FATAL or an ERROR in the log.
 *
 * The SQL objects may be older than the library, within its major version.  With
 * others it does not work: the process then says so once and idles until one of
 * them changes.
 *
 * Errors of transactions and publishers are trapped where they are called
 * (store.c, publisher_host.c).  One that arrives here ends the process with
 * code 1; the launcher starts another one after a while.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "lib/clock.h"
#include "lib/compat.h"
#include "lib/version.h"
#include "relay/relay.h"
#include "server/shmem.h"
#include "store/store.h"

/* How often a relay that idles for its version, or cannot write, tries again. */
#define VERSION_CHECK_MS	1000

/* A publisher that can't say what it waits for is asked again after this. */
#define PUBLISHER_PAUSE_MS	100

/* So long is another relay's lock waited for, and how often it is tried. */
#define LOCK_WAIT_MS	1000
#define LOCK_RETRY_MS	20

#define MAX_READY	64

/* In an orderly end: the wait for answers, and for the last checkpoint. */
#define ANSWERS_MS		200
#define LAST_CHECKPOINT_MS	500

static char *database_name;
static int	destination_id;		/* 0: default */
static Relay *the_relay = NULL; /* for the error context */

static uint32 wait_event;		/* what pg_stat_activity says while we wait */

/* The wait set, and the publisher's sockets that it was made for. */
static WaitEventSet *wait_set = NULL;
static OutboxSocket *wait_sockets = NULL;
static int	wait_nsockets = 0;

/* SIGTERM: the main loop ends the process; no statement keeps it waiting. */
static void
handle_sigterm(SIGNAL_ARGS)
{
	int			save_errno = errno;

	ShutdownRequestPending = true;
	store_interrupt();
	SetLatch(MyLatch);
	errno = save_errno;
}

/* The database's name, in TopMemoryContext. */
static char *
read_database_name(void)
{
	char	   *name;

	StartTransactionCommand();
	name = MemoryContextStrdup(TopMemoryContext,
							   get_database_name(MyDatabaseId));
	CommitTransactionCommand();
	return name;
}

/* End because this process has done what it was for. */
static void
end_in_order(int code)
{
	relay_death_none();
	shmem_relay_ends_in_order();
	proc_exit(code);
}

/* Is it time to leave?  Also absorbs what others asked for. */
static bool
must_leave(Relay *relay)
{
	int			requests = shmem_relay_take_requests();

	if (requests & RELAY_REQUEST_SERVE)
		relay_ask_next(relay);
	if (requests & RELAY_REQUEST_RECHECK)
		relay_recheck(relay);
	if (requests & (RELAY_REQUEST_RECHECK | RELAY_REQUEST_DESTINATIONS))
		relay_destinations_changed(relay);
	return ShutdownRequestPending;
}

/* Interrupts other than the request to stop.  True after a reload. */
static bool
handle_interrupts(void)
{
	/* pg_cancel_backend(): there is no statement to cancel out here */
	HOLD_CANCEL_INTERRUPTS();
	CHECK_FOR_INTERRUPTS();
	RESUME_CANCEL_INTERRUPTS();
	QueryCancelPending = false;
	if (!ConfigReloadPending)
		return false;
	ConfigReloadPending = false;
	ProcessConfigFile(PGC_SIGHUP);
	return true;
}

/*
 * Make the wait set anew if the publisher waits for other sockets now.  Throws
 * if one of them cannot be waited for; then there is no complete set.
 */
static void
update_wait_set(const OutboxSocket *sockets, int n)
{
	/* a publisher without sockets has no array of them */
	if (wait_set && n == wait_nsockets &&
		(n == 0 || memcmp(sockets, wait_sockets, sizeof(OutboxSocket) * n) == 0))
		return;
	if (wait_set)
		FreeWaitEventSet(wait_set);
	wait_set = NULL;
	wait_nsockets = -1;			/* not that of any array, until the end */
	wait_set = create_wait_event_set_compat(n + 2);
	AddWaitEventToSet(wait_set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(wait_set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL,
					  NULL);
	for (int i = 0; i < n; i++)
		AddWaitEventToSet(wait_set, sockets[i].events, sockets[i].fd, NULL,
						  NULL);

	if (wait_sockets)
		pfree(wait_sockets);
	wait_sockets = NULL;
	wait_sockets = MemoryContextAlloc(TopMemoryContext,
									  sizeof(OutboxSocket) * Max(n, 1));
	if (n > 0)
		memcpy(wait_sockets, sockets, sizeof(OutboxSocket) * n);
	wait_nsockets = n;
}

/* Wait for one reason only: signals, requests and time. */
static void
wait_for_latch(long timeout_ms)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 timeout_ms, wait_event);
	ResetLatch(MyLatch);
}

/*
 * Wait for the latch, the publisher's sockets, or the time, and let the
 * publisher work on its sockets.  True if the latch was set.
 */
static bool
wait_for_work(Relay *relay, long timeout_ms)
{
	OutboxSocket ready[MAX_READY];
	WaitEvent	events[MAX_READY];
	long		publisher_ms;
	int			nready = 0;
	int			nevents;
	bool		latch_set = false;

	if (!relay_sockets(relay, update_wait_set, &publisher_ms))
	{
		wait_for_latch(PUBLISHER_PAUSE_MS);
		return true;
	}
	if (publisher_ms >= 0)
		timeout_ms = Min(timeout_ms, publisher_ms);
	nevents = WaitEventSetWait(wait_set, timeout_ms, events, MAX_READY,
							   wait_event);
	for (int i = 0; i < nevents; i++)
	{
		if (events[i].events & WL_LATCH_SET)
		{
			ResetLatch(MyLatch);
			latch_set = true;
		}
		else
		{
			ready[nready] = wait_sockets[events[i].pos - 2];
			ready[nready++].events = events[i].events;
		}
	}

	/* without a ready socket, it is its time that may be up */
	if (nready > 0 || publisher_ms >= 0)
		relay_sockets_ready(relay, ready, nready);
	return latch_set;
}

/*
 * Be the only relay of the destination.  One that makes a pass for those without a relay
 * (relay_abandon.c) has the lock for moments; false if somebody has it for longer.
 */
static bool
lock_destination(void)
{
	int64		until = clock_ms() + LOCK_WAIT_MS;

	while (!store_lock_destination())
	{
		if (clock_ms() >= until)
			return false;
		if (ShutdownRequestPending)
			proc_exit(1);
		wait_for_latch(LOCK_RETRY_MS);
	}
	return true;
}

/*
 * Find the extension; without it, or while another process works for it,
 * there is nothing to do here.
 */
static void
find_extension(void)
{
	while (store_attach(destination_id) != STORE_OK)
	{
		if (shmem_relay_give_slot_back())
			proc_exit(0);
		(void) shmem_relay_take_requests();
	}
	if (destination_id == 0)
		shmem_relay_found_destination("default");
	if (!lock_destination())
	{
		ereport(LOG,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("outbox: there is another relay for this destination of database \"%s\"",
						database_name)));
		proc_exit(1);
	}
}

/* Idle as long as the library does not work with the extension's version. */
static void
await_version(Relay *relay)
{
	char		error[OUTBOX_ERROR_SIZE];
	bool		logged = false;

	while (!version_serves(OUTBOX_VERSION, store_extension_version()))
	{
		snprintf(error, sizeof(error),
				 "library is version %s, extension is version %s",
				 OUTBOX_VERSION, store_extension_version());
		if (!logged)
		{
			relay_idle(relay, error);
			ereport(LOG,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("outbox: the relay of database \"%s\" idles: %s",
							database_name, error),
					 errhint("Run ALTER EXTENSION outbox UPDATE, or restart the server with the matching library.")));
			logged = true;
		}
		wait_for_latch(VERSION_CHECK_MS);
		(void) handle_interrupts();
		if (must_leave(relay) || store_attach(destination_id) != STORE_OK)
			end_in_order(1);
	}
}

/*
 * There is no such destination: another one may need the slot.  It may be just another
 * one now, with other settings: then somebody has asked for a relay.
 */
static void
leave_before_start(void)
{
	relay_death_none();
	if (shmem_relay_give_slot_back())
		proc_exit(0);
	end_in_order(1);
}

/* Begin, however long it takes. */
static void
await_start(Relay *relay)
{
	while (!relay_start(relay))
	{
		if (relay_extension_is_gone(relay))
			end_in_order(1);
		if (relay_has_to_end(relay))
			leave_before_start();
		wait_for_latch(VERSION_CHECK_MS);
		(void) handle_interrupts();
		if (must_leave(relay))
			end_in_order(1);
	}
}

/*
 * Let answers come in for a while, without submitting anything.  Neither
 * commits nor signals make it longer.
 */
static void
await_answers(Relay *relay)
{
	int64		until = clock_ms() + ANSWERS_MS;
	int64		left;

	while (relay_settle_answered(relay) && (left = until - clock_ms()) > 0)
	{
		if (wait_for_work(relay, left))
			relay_woken(relay);
	}
}

/* End in order, as described at the top. */
static void
leave_in_order(Relay *relay)
{
	await_answers(relay);
	store_allow_last(LAST_CHECKPOINT_MS);
	(void) relay_stop(relay);
	end_in_order(1);
}

/*
 * What is in memory is in the wrong queues now: end in order, but for the
 * process, and begin anew.  Until the end is written down, nothing is forgotten.
 */
static void
begin_anew(Relay *relay)
{
	await_answers(relay);
	while (!relay_stop(relay))
	{
		if (relay_extension_is_gone(relay))
			end_in_order(0);
		wait_for_latch(VERSION_CHECK_MS);
		(void) handle_interrupts();
		if (must_leave(relay))
			leave_in_order(relay);
		await_answers(relay);
	}
	relay_forget(relay);
	await_start(relay);
}

/* The settings were read again. */
static void
follow_settings(Relay *relay)
{
	if (relay_changes_scope(relay))
	{
		begin_anew(relay);		/* with all settings */
		return;
	}

	/* what this publisher has in flight, another one would send again */
	if (relay_changes_publisher(relay))
		await_answers(relay);
	relay_configure(relay);
}

static void
relay_loop(Relay *relay)
{
	MemoryContext step_context = AllocSetContextCreate(TopMemoryContext,
													   "outbox relay step",
													   ALLOCSET_DEFAULT_SIZES);

	for (;;)
	{
		long		timeout_ms;

		/* what a transaction leaves behind is another context */
		MemoryContextSwitchTo(step_context);
		if (handle_interrupts())
			follow_settings(relay);
		if (must_leave(relay))
			leave_in_order(relay);
		timeout_ms = relay_step(relay);
		MemoryContextSwitchTo(step_context);
		if (relay_extension_is_gone(relay))
			end_in_order(0);
		if (relay_has_to_end(relay))
			leave_in_order(relay);

		/* a statement that had to wait has reset the latch for itself */
		if (!ShutdownRequestPending && wait_for_work(relay, timeout_ms))
			relay_woken(relay);
		MemoryContextReset(step_context);
	}
}

/* Error context: whose relay says this?  (%d in log_line_prefix is empty.) */
static void
name_relay(void *arg)
{
	const char *name = the_relay ? relay_destination_name(the_relay) : NULL;

	if (destination_id == 0)
		errcontext("outbox relay of database \"%s\"", database_name);
	else if (name)
		errcontext("outbox relay of database \"%s\", destination \"%s\"",
				   database_name, name);
	else
		errcontext("outbox relay of database \"%s\", destination %d",
				   database_name, destination_id);
}

void
outbox_relay_main(Datum arg)
{
	Oid			dboid = DatumGetObjectId(arg);
	ErrorContextCallback context;
	Relay	   *relay;

	memcpy(&destination_id, MyBgworkerEntry->bgw_extra, sizeof(destination_id));
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, relay_handle_early_sigterm);
	BackgroundWorkerUnblockSignals();
	if (!shmem_relay_attach(dboid, destination_id))
		proc_exit(1);
	relay_connect(dboid);
	pqsignal(SIGTERM, handle_sigterm);
	if (ShutdownRequestPending)
		proc_exit(1);
	relay_pin_session();
	store_plan_for_large_tables();
	wait_event = wait_event_compat("OutboxRelay");
	database_name = read_database_name();
	context.callback = name_relay;
	context.arg = NULL;
	context.previous = error_context_stack;
	error_context_stack = &context;

	find_extension();
	relay_death_begin(MyDatabaseId, destination_id);
	if (relay_death_pending())
		ereport(LOG,
				(errcode(ERRCODE_CRASH_SHUTDOWN),
				 errmsg("outbox: the relay of database \"%s\" has died by itself",
						database_name),
				 errdetail("What it may have been sending is watched from now on.")));
	the_relay = relay = relay_create(database_name, destination_id);
	await_version(relay);
	await_start(relay);
	relay_loop(relay);
}
