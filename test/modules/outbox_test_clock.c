/*-------------------------------------------------------------------------
 *
 * outbox_test_clock.c
 *		Lets time pass for the relay without waiting for it.
 *
 * To be preloaded behind outbox.  outbox_test.clock_skew is by how much the
 * clocks of src/lib/clock.c are ahead; a relay that runs has a new value with
 * the next reload.  The clocks of SQL (now(), clock_timestamp()) and of the
 * receiver are not touched.
 *
 * A monotonic clock must not go back, so the value may only grow while a relay
 * runs; test/lib/OutboxTest.pm restarts the server before it is 0 again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "fmgr.h"
#include "utils/guc.h"

PG_MODULE_MAGIC;

PGDLLEXPORT void _PG_init(void);

/* The variable of src/lib/clock.c. */
static int64 *outbox_skew_ms = NULL;

static int	skew_ms = 0;

static void
assign_skew(int newval, void *extra)
{
	*outbox_skew_ms = newval;
}

void
_PG_init(void)
{
	/*
	 * A symbol is a symbol, be it a function's or a variable's.  Looked up by
	 * name it is found whatever order the libraries are loaded in, and one
	 * that is missing is an error that says in which library.
	 */
	outbox_skew_ms = load_external_function("outbox", "outbox_clock_skew_ms",
											true, NULL);

	DefineCustomIntVariable("outbox_test.clock_skew",
							"By how much outbox's clocks are ahead.",
							NULL, &skew_ms, 0, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MS,
							NULL, assign_skew, NULL);
}
