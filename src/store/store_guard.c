/*-------------------------------------------------------------------------
 *
 * store_guard.c
 *		How long a transaction of the relay may take, and who may cut it short.
 *
 * While a transaction runs, nobody reads the answers that come in, and nobody
 * looks whether the relay shall end.  So each has a limit, armed as
 * STATEMENT_TIMEOUT, which no background worker has by itself.  What takes
 * longer is cancelled, logged with its statement, and tried again like
 * anything else that failed.
 *
 * How long is right depends on sizes that the operator chose
 * (outbox.batch_size, outbox.delete_batch_count), on the backlog and on the
 * disk.  So every kind of transaction begins with a second.  Its limit is
 * doubled whenever one was cancelled for its time, and halved when one needed
 * less than a quarter: whatever ends in ten minutes gets through at last, and
 * the log tells of every try.
 *
 * A request to end cancels the transaction that runs and lets no other one
 * begin, but for the last checkpoint, which has a limit of its own.
 *
 * Signals: store_interrupt() runs in a handler, and only sets flags.  The
 * timeout's own handler sends SIGINT, which cancels as in any backend.
 *
 * Errors: nothing here throws.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/elog.h"
#include "utils/timeout.h"

#include "lib/clock.h"
#include "store/store_internal.h"

#define MIN_LIMIT_MS	1000
#define MAX_LIMIT_MS	(10 * 60 * 1000)

#define MAX_BODIES		32

/* What is known of one kind of transaction. */
struct GuardLimit
{
	void		(*body) (void *arg);	/* the function that makes the kind */
	int			ms;
};

static struct GuardLimit limits[MAX_BODIES];
static int	nlimits = 0;

static volatile sig_atomic_t running = false;
static volatile sig_atomic_t interrupted = false;	/* none may run */
static volatile sig_atomic_t last_ms = 0;	/* of the last one; 0: not yet */

/*
 * The relay shall end: cancel what runs, and let nothing else begin.  To be
 * called from a signal handler; once the last transaction is allowed, nothing
 * happens any more.
 */
void
store_interrupt(void)
{
	if (last_ms > 0)
		return;
	interrupted = true;
	if (running)
	{
		QueryCancelPending = true;
		InterruptPending = true;
	}
}

/* After store_interrupt(), transactions may run again, for so long at most. */
void
store_allow_last(int limit_ms)
{
	last_ms = limit_ms;
	interrupted = false;
}

/* Is the relay about to end, so that no transaction may run? */
bool
guard_interrupted(void)
{
	return interrupted;
}

static struct GuardLimit *
find_or_add_limit(void (*body) (void *arg))
{
	for (int i = 0; i < nlimits; i++)
	{
		if (limits[i].body == body)
			return &limits[i];
	}
	Assert(nlimits < MAX_BODIES);
	limits[nlimits].body = body;
	limits[nlimits].ms = MIN_LIMIT_MS;
	return &limits[nlimits++];
}

/* Error context: what "too long" was. */
static void
name_limit(void *arg)
{
	if (geterrcode() == ERRCODE_QUERY_CANCELED)
		errcontext("transaction of the relay, limited to %d ms",
				   ((Guard *) arg)->ms);
}

/*
 * A transaction with this body begins; *guard belongs to it until
 * guard_end().  False: it may not.
 */
bool
guard_begin(Guard *guard, void (*body) (void *arg))
{
	/* in this order, or a signal in between would do nothing */
	running = true;
	if (interrupted)
	{
		running = false;
		return false;
	}
	guard->limit = find_or_add_limit(body);
	guard->ms = last_ms > 0 ? last_ms : guard->limit->ms;
	guard->started_at = clock_ms();
	guard->context.callback = name_limit;
	guard->context.arg = guard;
	guard->context.previous = error_context_stack;
	error_context_stack = &guard->context;
	enable_timeout_after(STATEMENT_TIMEOUT, guard->ms);
	return true;
}

/*
 * The transaction was cancelled.  True if that was because its time was up:
 * the next of its kind may take longer.
 */
bool
guard_timed_out(Guard *guard)
{
	struct GuardLimit *limit = guard->limit;

	if (clock_ms() - guard->started_at < guard->ms)
		return false;
	limit->ms = Min(limit->ms * 2, MAX_LIMIT_MS);
	return true;
}

/*
 * The transaction has ended; "ok": it has committed.  A cancel that came too
 * late for it is forgotten, so that it meets nothing else.
 */
void
guard_end(Guard *guard, bool ok)
{
	struct GuardLimit *limit = guard->limit;

	error_context_stack = guard->context.previous;
	running = false;
	disable_timeout(STATEMENT_TIMEOUT, false);
	QueryCancelPending = false;
	if (ok && clock_ms() - guard->started_at < limit->ms / 4)
		limit->ms = Max(limit->ms / 2, MIN_LIMIT_MS);
}
