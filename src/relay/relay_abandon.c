/*-------------------------------------------------------------------------
 *
 * relay_abandon.c
 *		Giving up what is not delivered within outbox.abandon_after.
 *
 * Every outbox.cleaning_expire_interval there is a round: a pass over what the relay's
 * destination has not delivered, also while it is paused, down, disabled or not
 * configured; and the relay of "default" makes one for each destination that has no
 * relay, for want of a slot for instance.  What a pass does to the tables is for
 * store_abandon.c to say; here, it is done to memory as after a request.
 *
 * A round takes a small share of the time: while there is something to be sent its batches
 * make pauses, and the next one waits the longer, the longer this one took.
 *
 * Somebody loses events then, and is told: a warning for each destination, at most once a
 * minute, says how many.
 *
 * What fails concerns nothing else, as in relay_prune.c: it is reported, and tried again
 * in the next round.  Memory: the list of destinations lives as long as the relay, and is
 * made anew for each round.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "guc.h"
#include "lib/clock.h"
#include "lib/log_limit.h"
#include "relay/relay_internal.h"

/* A batch is followed by so often its own time for other work. */
#define PAUSE	50

/* A destination of which this relay gives up what is too old. */
typedef struct Abandoned
{
	int			id;
	char	   *name;
	int			after;			/* outbox.abandon_after, in seconds */
	int64		n;				/* given up since the last warning */
} Abandoned;

void
relay_abandon_init(Relay *relay)
{
	relay->abandoner.store.context = relay->context;
	relay->abandoner.at = relay->now + guc_cleaning_expire_interval;
}

/* There are other settings, by which something may be too old now. */
void
relay_abandon_configure(Relay *relay)
{
	relay->abandoner.at = Min(relay->abandoner.at,
							  relay->now + guc_cleaning_expire_interval);
}

/* Where is the event? */
static StorePlace
find_place(int64 id, void *arg)
{
	const RelayEntry *entry = queue_find(arg, id);

	if (!entry)
		return PLACE_TABLE;
	return entry->state == ENTRY_IN_FLIGHT ? PLACE_IN_FLIGHT : PLACE_MEMORY;
}

/* Have a destination in the list of the round, with what "known" says of it. */
static List *
add_destination(List *list, const List *known, int id, const char *name, int after)
{
	Abandoned  *item = palloc0(sizeof(Abandoned));
	const ListCell *lc;

	foreach(lc, known)
	{
		const Abandoned *old = lfirst(lc);

		if (old->id == id)
			*item = *old;
	}
	item->id = id;
	item->name = pstrdup(name);
	item->after = after;
	return lappend(list, item);
}

/* The setting of a destination that has no relay to read it, in seconds. */
static int
abandon_after(const StoreOther *other)
{
	int			after;

	if (!other->abandon_after)
		return guc_abandon_after;

	/* its relay would not be configured with a bad one */
	if (!parse_int(other->abandon_after, &after, GUC_UNIT_S, NULL))
		return 0;
	return after;
}

/* List the destinations of a round; false if they are not known. */
static bool
begin_round(Relay *relay)
{
	RelayAbandoner *abandoner = &relay->abandoner;
	List	   *others = NIL;
	List	   *list;
	MemoryContext old;
	ListCell   *lc;

	if (relay->destination.id == 0 &&
		!relay_store_ok(relay, store_list_others(&others)))
		return false;
	old = MemoryContextSwitchTo(relay->context);
	list = add_destination(NIL, abandoner->destinations, relay->destination.id,
						   relay->destination.name, guc_abandon_after);
	foreach(lc, others)
	{
		const StoreOther *other = lfirst(lc);

		list = add_destination(list, abandoner->destinations, other->id,
							   other->name, abandon_after(other));
	}
	MemoryContextSwitchTo(old);
	foreach(lc, abandoner->destinations)
		pfree(((Abandoned *) lfirst(lc))->name);
	list_free_deep(abandoner->destinations);
	abandoner->destinations = list;
	abandoner->current = 0;
	abandoner->spent = 0;
	return true;
}

/* Begin a pass for the destination that the round has come to. */
static void
begin_pass(Relay *relay, const Abandoned *item)
{
	StoreAbandon *store = &relay->abandoner.store;

	store_begin_abandon(store, item->id,
						clock_now() - item->after * USECS_PER_SEC);
	snprintf(store->reason, sizeof(store->reason),
			 "not delivered within %d s (outbox.abandon_after)", item->after);
	store->place = find_place;
	store->arg = &relay->queue;
	relay->abandoner.passing = true;
}

/* Tell that something was given up, unless that was told just now. */
static void
warn_of_abandoned(Relay *relay, Abandoned *item)
{
	if (item->n == 0 || !log_is_due("events given up", item->name))
		return;
	ereport(WARNING,
			(errcode(ERRCODE_WARNING),
			 errmsg_plural("outbox: %lld event has expired that destination \"%s\" of database \"%s\" has not taken",
						   "outbox: %lld events have expired that destination \"%s\" of database \"%s\" has not taken",
						   item->n, (long long) item->n, item->name, relay->database),
			 errdetail("They were not delivered within outbox.abandon_after, which is %d s.",
					   item->after),
			 errhint("outbox_replay() sends them to it, as long as they are kept.")));
	item->n = 0;
}

/*
 * The relay can send nothing, and has nothing in memory: its position goes behind what the
 * pass has found to be settled.
 */
static void
pass_abandoned(Relay *relay)
{
	StoreAbandon *store = &relay->abandoner.store;
	RelayQueue *queue = &relay->queue;
	bool		own = store->destination == relay->destination.id;
	StorePosition position;
	bool		moved;

	if (!own)
	{
		(void) store_pass_abandoned(store, NULL, NULL, &moved);
		return;
	}
	if (relay_can_send(relay) || queue->nentries > 0 ||
		store_pass_abandoned(store, &queue_last_window(queue)->store,
							 &position, &moved) != STORE_OK || !moved)
		return;
	queue_drop_windows(queue);
	queue_begin_at(queue, &position, relay->now);
	relay_forget_ahead(relay);
	relay->reader.largest_read = position.largest_read;
	relay->reader.look = true;
}

/* A pass has come to its end, or could not. */
static void
end_pass(Relay *relay, Abandoned *item, StoreResult result)
{
	if (result == STORE_OK)
		pass_abandoned(relay);
	else if (result == STORE_NO_EXTENSION)
		(void) relay_store_ok(relay, result);
	else
		relay_note_error(relay, store_last_error());
	warn_of_abandoned(relay, item);
	relay->abandoner.passing = false;
	relay->abandoner.current++;
}

/* A batch of a pass, and what it has done to the table done to memory. */
static void
abandon_batch(Relay *relay, Abandoned *item)
{
	StoreAbandon *store = &relay->abandoner.store;
	bool		own = item->id == relay->destination.id;
	List	   *served;
	ListCell   *lc;
	int64		nexpired;
	bool		more;
	StoreResult result;

	result = store_abandon_step(store,
								own ? &queue_last_window(&relay->queue)->store :
								NULL, guc_delete_batch_count, &served, &nexpired,
								&more);
	item->n += nexpired;
	relay_hear_of_unreadable(relay);
	if (own)
	{
		relay_count_expired(relay, nexpired);
		foreach(lc, served)
			relay_apply_served(relay, lfirst(lc), clock_now());
	}
	if (!more)
		end_pass(relay, item, result);
}

/* Do the next batch of a round, if it is time. */
void
relay_abandon(Relay *relay)
{
	RelayAbandoner *abandoner = &relay->abandoner;
	int64		start = clock_ms();
	Abandoned  *item;

	if (relay->now < abandoner->at)
		return;

	/* what was settled is to be seen in the table */
	if (relay->journal.must_checkpoint || relay->journal.ndeliveries > 0)
	{
		if (!relay_checkpoint(relay, false, false))
			return;
	}
	if (abandoner->current >= list_length(abandoner->destinations) &&
		!begin_round(relay))
		return;
	item = list_nth(abandoner->destinations, abandoner->current);
	if (item->after == 0)
		abandoner->current++;
	else
	{
		if (!abandoner->passing)
			begin_pass(relay, item);
		abandon_batch(relay, item);
	}
	start = clock_ms() - start;
	abandoner->spent += start;
	if (abandoner->current >= list_length(abandoner->destinations))
		abandoner->at = relay->now + Max(guc_cleaning_expire_interval,
										 PAUSE * abandoner->spent);
	else if (relay_can_send(relay) && relay_has_backlog(relay))
		abandoner->at = clock_ms() + PAUSE * start;
}
