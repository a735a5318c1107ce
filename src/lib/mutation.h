/*-------------------------------------------------------------------------
 *
 * mutation.h
 *		Deliberate mistakes, by which the tests in test/torture are tested.
 *
 * Only in a build with -DOUTBOX_MUTATION (make torture-mutants): the variable
 * OUTBOX_MUTATION in the server's environment names the one that is made.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_MUTATION_H
#define OUTBOX_MUTATION_H

#ifdef OUTBOX_MUTATION

#include "tcop/dest.h"

static inline bool
mutation_is(const char *name)
{
	const char *value = getenv("OUTBOX_MUTATION");

	return value != NULL && strcmp(value, name) == 0;
}

extern void mutation_read_uncommitted(Oid nspoid, DestReceiver *dest);

#else
#define mutation_is(name)	false
#define mutation_read_uncommitted(nspoid, dest) ((void) 0)
#endif

#endif							/* OUTBOX_MUTATION_H */
