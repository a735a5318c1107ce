/*-------------------------------------------------------------------------
 *
 * store_filter.c
 *		Which events a destination takes.
 *
 * What a destination takes is said by patterns of topics, in versions.  A version
 * holds for the events that are not visible in its snapshot, until the next one
 * does.  A new version has no snapshot yet: the relay gives it that of the window
 * that it opens next, so that all that it has read before belongs to an earlier
 * version, and all that it reads from then on to this one.  Views and dumps say the
 * same of an event by outbox_takes().
 *
 * A version that holds for no event any more is pruned (store_prune.c).
 *
 * "default" takes everything as long as it has no version; of another destination,
 * what is older than its first version is none of its business.
 *
 * The versions are in a context of their own, which lives until they are read again.
 * Errors: those of the statements, in a transaction of the store.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "lib/topic_pattern.h"
#include "store/store_internal.h"

/* The newest first; snapshot NULL: not in use yet */
static Statement read_versions = {
	"SELECT f.topics, f.since FROM @s@.outbox_filter f"
	" WHERE f.destination = @d@ ORDER BY f.version DESC",
	0
};

/* $1 snapshot; of several that wait, the newest is meant */
static Statement begin_version = {
	"UPDATE @s@.outbox_filter f SET since = $1 WHERE f.destination = @d@"
	" AND f.version = (SELECT max(n.version) FROM @s@.outbox_filter n"
	"  WHERE n.destination = @d@) AND f.since IS NULL",
	1, {PG_SNAPSHOTOID}
};

static Statement forget_waiting = {
	"DELETE FROM @s@.outbox_filter f WHERE f.destination = @d@"
	" AND f.since IS NULL AND f.version < (SELECT max(n.version)"
	"  FROM @s@.outbox_filter n WHERE n.destination = @d@)",
	0
};

typedef struct FilterVersion
{
	StoreSnapshot since;
	char	  **patterns;		/* in UTF-8 */
	int			n;
} FilterVersion;

/* What this relay's destination takes. */
typedef struct Filter
{
	MemoryContext context;
	FilterVersion *versions;	/* in use, the newest first */
	int			nversions;
	bool		waiting;		/* there is a version that is not in use yet */
} Filter;

static Filter *filter = NULL;	/* NULL: not read yet */

/* Patterns of an array of text, in UTF-8 and the current memory context. */
static char **
read_patterns(Datum array, int *n)
{
	Datum	   *values;
	bool	   *nulls;
	char	  **patterns;
	int			nvalues;

	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false,
					  TYPALIGN_INT, &values, &nulls, &nvalues);
	patterns = palloc(sizeof(char *) * Max(nvalues, 1));
	*n = 0;
	for (int i = 0; i < nvalues; i++)
	{
		if (!nulls[i])
			patterns[(*n)++] = store_utf8(values[i]);
	}
	return patterns;
}

/* In a transaction: what the rows say from now on. */
static void
read_filter_body(void *arg)
{
	Filter	   *read = arg;
	int			n = (int) store_execute(&read_versions, NULL, NULL);
	MemoryContext old = MemoryContextSwitchTo(read->context);

	read->versions = palloc0(sizeof(FilterVersion) * Max(n, 1));
	for (int i = 0; i < n; i++)
	{
		FilterVersion *version = &read->versions[read->nversions];
		bool		isnull;
		Datum		since = store_result(i, 2, &isnull);

		if (isnull)
		{
			read->waiting = true;
			continue;
		}
		version->since = store_copy_snapshot((StoreSnapshot) DatumGetPointer(since));
		version->patterns = read_patterns(store_value(i, 1), &version->n);
		read->nversions++;
	}
	MemoryContextSwitchTo(old);
}

/* Read what this relay's destination takes.  On failure nothing changes. */
StoreResult
store_read_filter(void)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext,
												  "outbox filter",
												  ALLOCSET_SMALL_SIZES);
	Filter	   *read = MemoryContextAllocZero(context, sizeof(Filter));
	StoreResult result;

	read->context = context;
	result = store_transaction(read_filter_body, read);
	if (result != STORE_OK)
	{
		MemoryContextDelete(context);
		return result;
	}
	if (filter)
		MemoryContextDelete(filter->context);
	filter = read;
	return STORE_OK;
}

static void
begin_version_body(void *arg)
{
	Datum		since = PointerGetDatum(arg);

	store_execute(&begin_version, &since, NULL);
	store_execute(&forget_waiting, NULL, NULL);
}

/*
 * If a new version waits, it holds from here on: for what is not visible in this
 * snapshot, which is the beginning of a window of which nothing has been read.
 */
StoreResult
store_begin_filter(StoreSnapshot since)
{
	StoreResult result;

	if (!filter->waiting)
		return STORE_OK;
	result = store_transaction(begin_version_body, since);
	return result == STORE_OK ? store_read_filter() : result;
}

/*
 * Does this relay's destination take an event of this transaction and topic, in
 * UTF-8?  Needs no transaction.
 */
bool
store_takes(uint64 xid, const char *topic)
{
	for (int i = 0; i < filter->nversions; i++)
	{
		const FilterVersion *version = &filter->versions[i];

		if (!store_is_visible(version->since, xid))
			return topic_patterns_match(version->patterns, version->n, topic);
	}
	return store_destination() == 0;
}

/* Does it take everything, so that nothing need be looked at? */
bool
store_takes_all(void)
{
	return filter->nversions == 0 && store_destination() == 0;
}
