/*-------------------------------------------------------------------------
 *
 * relay_count.c
 *		What becomes of events, counted since the destination was made.
 *
 * A relay begins with what the last checkpoint says, and each of its own has the
 * counters as they are then: so they last as long as the position, and views read
 * them from there.  What is counted while nothing else is to be written is written
 * a second later.
 *
 * Nothing here fails but for want of memory.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/clock.h"
#include "relay/relay_internal.h"

/* The destination has it. */
void
relay_count_published(Relay *relay, const RelayEntry *entry)
{
	StoreCounters *counters = &relay->counters;

	entry->lane->published++;
	counters->published++;
	latency_add(&counters->latency, clock_now() - entry->event->since);
}

/* A try has failed, for this reason. */
void
relay_count_failure(Relay *relay, const char *error)
{
	relay->counters.failed_attempts++;
	relay_note_changed(relay);
	relay_note_error(relay, error);
}

static void
count_some(Relay *relay, int64 *counter, int64 n)
{
	if (n == 0)
		return;
	*counter += n;
	relay_note_changed(relay);
}

void
relay_count_dead(Relay *relay)
{
	count_some(relay, &relay->counters.died, 1);
}

/* The store has found these events to be dead: StoreDeadEvent *. */
void
relay_found_dead(Relay *relay, const List *events)
{
	const ListCell *lc;

	foreach(lc, events)
	{
		const StoreDeadEvent *found = lfirst(lc);
		RelayDeadEvent event = {.id = found->id,
			.event_id = found->event_id ? found->event_id : "unknown",
			.topic = found->topic ? found->topic : "unknown",
		.error = found->error};

		relay_count_dead(relay);
		relay_note_error(relay, found->error);
		relay_log_dead(relay, &event);
	}
}

void
relay_count_expired(Relay *relay, int64 n)
{
	count_some(relay, &relay->counters.expired, n);
}

void
relay_count_pruned(Relay *relay, int64 n)
{
	count_some(relay, &relay->counters.pruned, n);
}

/* Publishes of events that were there already, by whoever made them. */
void
relay_count_duplicates(Relay *relay)
{
	count_some(relay, &relay->counters.duplicates_suppressed,
			   shmem_relay_take_duplicates());
}
