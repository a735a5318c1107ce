/*-------------------------------------------------------------------------
 *
 * relay_prune.c
 *		When published events are deleted.
 *
 * By one relay of a database, whichever comes first, as long as it lives; in batches,
 * each a short transaction of the store, in the relay's own steps.
 * What fails concerns nothing but pruning: it is reported, and tried again later
 * and later.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "guc.h"
#include "lib/clock.h"
#include "relay/relay_internal.h"

/* While there is a backlog, pruning pauses so often its own time. */
#define PRUNE_PAUSE		50

/* Pruning that failed is tried again so much later at most. */
#define MAX_PRUNE_WAIT_MS	(60 * 60 * 1000)

/* The next prune begins in so many milliseconds, if it is this relay that prunes. */
static void
set_next_prune(Relay *relay, int64 wait)
{
	relay->pruner.at = relay->now + wait;
	relay_found_next_prune(relay, wait);
}

void
relay_prune_init(Relay *relay)
{
	relay->pruner.store.context = relay->context;
	set_next_prune(relay, guc_cleaning_expire_interval);
}

/* There are other settings, by which it may be time sooner. */
void
relay_prune_configure(Relay *relay)
{
	if (relay->pruner.at > relay->now + guc_cleaning_expire_interval)
		set_next_prune(relay, guc_cleaning_expire_interval);
}

/*
 * A prune is over.  What could not be deleted will hardly be deleted soon: each
 * failure in a row doubles the wait for the next prune.
 */
static void
end_prune(Relay *relay)
{
	RelayPruner *pruner = &relay->pruner;
	const StorePrune *prune = &pruner->store;
	int64		wait = guc_cleaning_expire_interval;

	if (prune->nresisting > 0)
		relay_found_pruning(relay, psprintf(INT64_FORMAT " rows cannot be deleted: %s",
											prune->nresisting, prune->problem));
	else
		relay_found_pruning(relay, prune->problem[0] ? prune->problem : NULL);
	if (prune->problem[0] == '\0')
		pruner->failures = 0;
	else
		pruner->failures++;
	for (int i = 0; i < pruner->failures && wait < MAX_PRUNE_WAIT_MS; i++)
		wait = Min(wait * 2, MAX_PRUNE_WAIT_MS);
	set_next_prune(relay, wait);
}

/*
 * A batch of a prune.  While there is a backlog, that has a small share of the
 * time; otherwise the next batch follows at once.  What fails concerns nothing
 * but pruning.
 */
void
relay_prune(Relay *relay)
{
	RelayPruner *pruner = &relay->pruner;
	StoreResult result;
	int64		start;
	int64		npruned;
	bool		more;

	if (relay->now < pruner->at)
		return;
	if (!pruner->mine && !(pruner->mine = store_lock_pruning()))
	{
		pruner->at = relay->now + guc_cleaning_expire_interval;
		relay_found_next_prune(relay, -1);
		return;
	}
	start = clock_ms();
	result = store_prune_step(&pruner->store, guc_delete_batch_count, &npruned,
							  &more);
	if (result == STORE_NO_EXTENSION)
		(void) relay_store_ok(relay, result);
	if (!more)
		end_prune(relay);
	else if (relay_has_backlog(relay))
		pruner->at = start + PRUNE_PAUSE * Max(clock_ms() - start, 1);
	relay_count_pruned(relay, npruned);
}
