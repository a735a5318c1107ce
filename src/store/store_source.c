/*-------------------------------------------------------------------------
 *
 * store_source.c
 *		The source of a database's events is about to become another one.
 *
 * It is the one row of outbox_source, which relays read with their destination
 * (store_destination.c).
 *
 * Locks: that of the row, so that of two transactions that give a source, the later
 * one counts.  Errors go to the user.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "store/store_internal.h"

static Statement delete_source = {"DELETE FROM @s@.outbox_source", 0};

/* Make room for the row that the trigger, "function", was called for. */
void
store_clear_source(Oid function)
{
	store_begin_statements(function);
	store_write_for_function(&delete_source, NULL, NULL);
	SPI_finish();
}
