/*-------------------------------------------------------------------------
 *
 * relay.c
 *		One step of the relay: settle, read, submit, checkpoint, prune.
 *
 * The relay is a single thread of control that never waits in here:
 * relay_main.c waits, on the latch, the publisher's sockets and the time that
 * relay_step() returns.  A step does what is to be done by now, in this order:
 * answers and time-outs, the circuit breaker, events that are due again, new
 * events, what has expired, submitting, a checkpoint, a batch of what is given up
 * and one of a prune.  Steps overlap the requests in flight; there is no barrier
 * between batches.
 *
 * Transactions are the store's and short; none is open while the publisher
 * works.  Whatever a transaction wrote or read counts only when it has
 * committed, so that a failed one leaves the relay as it was.
 *
 * Memory: the relay lives as long as its process.  A step works in a context
 * that its caller resets; entries and events are freed one by one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "guc.h"
#include "lib/clock.h"
#include "relay/relay_internal.h"

/* So often in a step is there something to send after a quick answer. */
#define MAX_SUBMITS		16

/* With nothing at all to do, still look after things this often. */
#define MAX_WAIT_MS		60000

/* Begin with nothing in memory. */
static void
make_queue(Relay *relay)
{
	queue_init(&relay->queue, AllocSetContextCreate(relay->context,
													"outbox queue",
													ALLOCSET_DEFAULT_SIZES));
}

/* The relay of a destination; "database" is its name, not copied. */
Relay *
relay_create(const char *database, int destination)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext,
												  "outbox relay",
												  ALLOCSET_DEFAULT_SIZES);
	Relay	   *relay = MemoryContextAllocZero(context, sizeof(Relay));

	relay->context = context;
	relay->database = database;
	relay->now = clock_ms();
	relay->publisher = publisher_create(context, database);
	relay_destination_init(relay, destination);
	relay_prune_init(relay);
	relay_abandon_init(relay);
	make_queue(relay);
	relay_journal_init(relay);
	relay_read_init(relay);
	relay_requests_init(relay);
	relay_rows_init(relay);
	relay->reporter.report.started_at = GetCurrentTimestamp();
	relay_set_status(relay, RELAY_STARTING);
	relay_send_report(relay);
	return relay;
}

/* The relay does not run, and the views say why. */
void
relay_idle(Relay *relay, const char *why)
{
	relay_note_error(relay, why);
	relay_set_status(relay, RELAY_STOPPED);
	relay_send_report(relay);
}

/* Make what is in the tables fit this server; false if the store failed. */
static bool
fit_to_server(Relay *relay)
{
	bool		set_back;

	if (!relay_store_ok(relay, store_lift_sequences()) ||
		!relay_store_ok(relay, store_fit_position(&set_back)))
		return false;
	if (set_back)
		relay_note_error(relay, "the server's counter of transactions was set back; see the server log");
	return true;
}

/*
 * Begin where the last relay of this destination stopped, or this one before it
 * forgot everything.  If that has died by itself, one of the events that it was
 * about to try may be the reason: the first tries of this one, and the rows it
 * left, are watched.  False if the store failed; call it again later, unless the
 * relay has to end.
 */
bool
relay_start(Relay *relay)
{
	StorePosition position;
	List	   *dead = NIL;
	bool		died = false;
	bool		ok;

	relay->now = clock_ms();
	ok = fit_to_server(relay) && relay_begin_destination(relay);
	keys_follow_scope(&relay->queue.keys);
	ok = ok && relay_store_ok(relay, store_load_position(&position));
	if (ok)
	{
		died = relay_death_pending() && !position.clean;
		ok = relay_store_ok(relay, store_take_over(guc_minimum_retry_interval,
												   died, NULL, 0, &dead));
	}
	if (!ok)
	{
		relay_send_report(relay);
		return false;
	}

	relay->reader.largest_read = position.largest_read;
	relay->counters = position.counters;
	queue_begin_at(&relay->queue, &position, relay->now);
	relay_found_dead(relay, dead);
	store_free_dead(dead);

	/* from here on, a crash of ours is to be found by the next relay */
	if (!relay_checkpoint(relay, true, false))
	{
		queue_drop_windows(&relay->queue);
		relay_send_report(relay);
		return false;
	}
	relay_death_done();
	relay_configure(relay);
	if (died)
		relay_be_careful(relay, position.max_id);
	return true;
}

/*
 * What the publisher says of the destination, asked or not, also tells how it
 * is when nothing is sent.
 */
static void
hear_of_destination(Relay *relay)
{
	const char *problem;
	Destination destination = publisher_hear_of_destination(relay->publisher,
															&problem);

	if (destination == DESTINATION_UNKNOWN)
		return;
	relay_found_endpoint(relay, problem);
	if (problem)
		relay_note_error(relay, problem);
	if (destination == DESTINATION_UP && relay->breaker.state != BREAKER_CLOSED)
		relay->recovered_at = relay->now;
	breaker_told(&relay->breaker, destination == DESTINATION_UP, relay->now);
}

/* What the publisher says that an operator should see to. */
static void
hear_notices(Relay *relay)
{
	for (int i = 0; i < OUTBOX_NNOTICES; i++)
	{
		const char *problem;
		bool		known;

		if (publisher_hear_notice(relay->publisher, i, &known, &problem))
			relay_found_notice(relay, i, known, problem);
	}
}

static void
run_breaker(Relay *relay)
{
	Breaker    *breaker = &relay->breaker;
	bool		can_probe = publisher_can_probe(relay->publisher);

	hear_of_destination(relay);
	breaker_check_probe(breaker, relay->now);
	if (!relay->configured || !breaker_wants_probe(breaker, relay->now))
		return;
	breaker_probe_started(breaker, can_probe, relay->now);
	if (can_probe)
		publisher_probe(relay->publisher);
}

/*
 * Entries whose wait is over; and if the destination may be back, and nothing
 * else could tell, the first of them even before that.
 */
static void
wake_backoff(Relay *relay)
{
	RelayEntry *entry;

	while ((entry = queue_next_backoff(&relay->queue)) != NULL)
	{
		bool		trial = relay->breaker.state == BREAKER_HALF_OPEN &&
		queue_nready(&relay->queue) == 0 && relay->queue.nin_flight == 0;

		if (entry->due_at > relay->now && !trial)
			break;
		queue_make_ready(&relay->queue, entry);
	}
}

/*
 * Is the destination down?  If nobody is there, or if all that there is to send
 * fails.
 */
static bool
endpoint_is_down(Relay *relay)
{
	const Breaker *breaker = &relay->breaker;

	if (breaker_is_down(breaker) ||
		(breaker->state == BREAKER_HALF_OPEN && relay->queue.nentries > 0))
		return true;
	if (!lanes_all_down(&relay->queue.lanes, relay->now))
		return false;
	if (relay->reporter.report.status != RELAY_ENDPOINT_DOWN)
		relay_found_endpoint(relay, relay->reporter.report.last_error);
	return true;
}

static void
update_status(Relay *relay)
{
	hear_notices(relay);
	if (!guc_enabled)
		relay_set_status(relay, RELAY_DISABLED);
	else if (relay->destination.paused)
		relay_set_status(relay, relay->queue.nin_flight > 0 ?
						 RELAY_PAUSING : RELAY_PAUSED);
	else if (endpoint_is_down(relay))
		relay_set_status(relay, RELAY_ENDPOINT_DOWN);
	else if (queue_nready(&relay->queue) > 0 || relay->queue.nin_flight > 0)
		relay_set_status(relay, RELAY_RELAYING);
	else
		relay_set_status(relay, RELAY_IDLE);
	relay_send_report(relay);
}

/*
 * How long there is nothing to do, unless something happens.  Every part says
 * when it has something to do next; the earliest of these times counts.
 */
static long
time_to_wait(Relay *relay)
{
	int64		until = Min(relay_checkpoint_time(relay),
							Min(relay->pruner.at, relay->abandoner.at));
	RelayEntry *entry = queue_next_backoff(&relay->queue);

	until = Min(until, relay_spill_time(relay));
	until = Min(until, relay_make_room_time(relay));
	until = Min(until, relay_read_time(relay));
	until = Min(until, relay_rows_time(relay));
	until = Min(until, relay_report_time(relay));
	until = Min(until, relay_log_time(relay));
	until = Min(until, relay_configure_time(relay));
	until = Min(until, relay_destination_time(relay));
	until = Min(until, relay_expire_time(relay));
	until = Min(until, lanes_wake_time(&relay->queue.lanes, relay->now));
	if (entry)
		until = Min(until, entry->due_at);
	if (!dlist_is_empty(&relay->queue.in_flight))
		until = Min(until, dlist_head_element(RelayEntry, in_list,
											  &relay->queue.in_flight)->due_at);
	if (relay->configured && breaker_is_down(&relay->breaker))
		until = Min(until, relay->breaker.probe_at);
	if (relay->journal.must_checkpoint || relay_can_submit(relay))
		until = relay->now;

	/* but not before the store may be used again: most of it needs the store */
	until = Max(until, relay->journal.retry_at);
	return (long) Min(Max(until - clock_ms(), 0), MAX_WAIT_MS);
}

/*
 * Do all that is to be done by now.  Returns how many milliseconds to wait
 * at most before the next step; relay_woken() is to be called when the latch
 * was set.  Works in the current memory context, which the caller resets.
 */
long
relay_step(Relay *relay)
{
	MemoryContext step_context = CurrentMemoryContext;

	relay->now = clock_ms();
	relay_configure_again(relay);
	relay_take_answers(relay);
	lanes_find_slow(&relay->queue.lanes, relay->now);
	run_breaker(relay);
	wake_backoff(relay);
	relay_spill(relay);
	relay_make_room(relay);
	if (relay->now >= relay->journal.retry_at)
		relay_follow_destination(relay);
	if (relay->now >= relay->journal.retry_at)
		relay_read(relay);
	MemoryContextSwitchTo(step_context);
	if (relay->journal.extension_gone)
		return 0;

	/*
	 * A publisher that answers at once makes room for more at once.  What has
	 * expired leaves right before a try, and also if there can be none.
	 */
	relay_expire(relay);
	for (int i = 0; i < MAX_SUBMITS && relay_submit(relay); i++)
	{
		relay_take_answers(relay);
		hear_of_destination(relay);
		relay_expire(relay);
	}
	relay_count_duplicates(relay);
	if (relay_checkpoint_time(relay) <= relay->now)
		(void) relay_checkpoint(relay, false, false);
	if (relay->now >= relay->journal.retry_at)
		relay_abandon(relay);
	if (relay->now >= relay->journal.retry_at)
		relay_prune(relay);
	update_status(relay);
	relay_log_untold(relay, false);
	return time_to_wait(relay);
}

/*
 * Tell "update" what the publisher waits on, and get its longest wait, as
 * OutboxSocketsCB has it.  False if it could not say, or "update" threw because
 * that cannot be waited on: then everything in flight has failed.
 */
bool
relay_sockets(Relay *relay,
			  void (*update) (const OutboxSocket *sockets, int n),
			  long *timeout_ms)
{
	bool		ok = publisher_sockets(relay->publisher, update, timeout_ms);

	if (!ok)
		relay_give_up_in_flight(relay, publisher_last_error(relay->publisher));
	return ok;
}

/*
 * Let the publisher work: sockets are ready or, with n = 0, its time is up.
 * It may throw from where it can't be said which message it was; then
 * everything in flight has failed.
 */
void
relay_sockets_ready(Relay *relay, const OutboxSocket *ready, int n)
{
	if (!publisher_ready(relay->publisher, ready, n))
		relay_give_up_in_flight(relay, publisher_last_error(relay->publisher));
}

/*
 * Hear what the publisher has said by now, and submit nothing.  True if there
 * is more in flight.
 */
bool
relay_settle_answered(Relay *relay)
{
	relay->now = clock_ms();
	relay_take_answers(relay);
	hear_of_destination(relay);
	return relay->queue.nin_flight > 0;
}

/* Does outbox.key_scope want events in other queues than they are in? */
bool
relay_changes_scope(const Relay *relay)
{
	return keys_scope_changed(&relay->queue.keys);
}

/* Is the extension not, or not any longer, the one that we work for? */
bool
relay_extension_is_gone(const Relay *relay)
{
	return relay->journal.extension_gone;
}

/*
 * Stop in order: the next relay goes on exactly here.  False if that could not
 * be written down: it may be tried again.
 */
bool
relay_stop(Relay *relay)
{
	bool		ok;

	relay->now = clock_ms();
	relay_take_answers(relay);
	relay_release(relay);
	ok = relay_checkpoint(relay, true, true);
	relay_log_untold(relay, true);
	if (!ok)
		relay_send_report(relay);
	return ok;
}

/*
 * Forget everything that is in memory: relay_stop() has written it down, and
 * relay_start() is to follow.  What is in flight is not waited for any longer.
 */
void
relay_forget(Relay *relay)
{
	dlist_iter	iter;

	dlist_foreach(iter, &relay->queue.in_flight)
	{
		RelayEntry *entry = dlist_container(RelayEntry, in_list, iter.cur);

		publisher_cancel(relay->publisher, entry->event->msg.id);
	}
	MemoryContextDelete(relay->queue.context);
	make_queue(relay);
	relay_forget_ahead(relay);

	/* what was reported of lanes is not true any more */
	relay->queue.lanes.troubles_changed = true;
}
