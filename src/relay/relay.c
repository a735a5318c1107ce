/*-------------------------------------------------------------------------
 *
 * relay.c
 *		One step of the relay: settle, read, submit, checkpoint, prune.
 *
 * The relay is a single thread of control that never waits in here: relay_main.c
 * waits, on the latch, the publisher's sockets and the time that relay_step()
 * returns.  A step does what is to be done by now, in this order: answers and
 * time-outs, the circuit breaker, events that are due again, new events,
 * submitting, a checkpoint, a batch of a prune.  Steps overlap the requests
 * in flight; there is no barrier between batches.
 *
 * Transactions are the store's and short; none is open while the publisher
 * works.  Whatever a transaction wrote or read counts only when it has
 * committed, so that a failed one leaves the relay as it was.
 *
 * Times are milliseconds of a monotonic clock, so that nobody who sets the
 * clock makes the relay hurry or sleep.  Only what lasts longer than the
 * process (next_attempt_at) is wall-clock time.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "portability/instr_time.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "guc.h"
#include "relay/relay.h"

/* While there is a backlog, pruning pauses so often its own time. */
#define PRUNE_PAUSE		50

/* So often in a step is there something to send after a quick answer. */
#define MAX_SUBMITS		16

/* With nothing at all to do, still look after things this often. */
#define MAX_WAIT_MS		60000

/* Milliseconds of the monotonic clock. */
int64
relay_clock(void)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	return (int64) INSTR_TIME_GET_MICROSEC(now) / 1000;
}

/* "database" is not copied. */
Relay *
relay_create(const char *database)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext,
												  "outbox relay",
												  ALLOCSET_DEFAULT_SIZES);
	Relay	   *relay = MemoryContextAllocZero(context, sizeof(Relay));

	relay->context = context;
	relay->database = database;
	relay->now = relay_clock();
	relay->delivery_context = AllocSetContextCreate(context,
													"outbox deliveries",
													ALLOCSET_DEFAULT_SIZES);
	relay->prune.context = context;
	queue_init(&relay->queue, AllocSetContextCreate(context, "outbox queue",
													ALLOCSET_DEFAULT_SIZES));
	relay_read_init(relay);
	relay->prune_at = relay->now + guc_cleaning_expire_interval;
	relay->sweep_at = relay->now + guc_cleaning_local_queue_expire_interval;
	relay->report.started_at = GetCurrentTimestamp();
	relay_set_status(relay, RELAY_STARTING);
	relay_send_report(relay);
	return relay;
}

/*
 * Begin where the last relay of this database stopped.  If it did not stop in
 * order, one of the events that it was about to try may be the reason: the
 * first tries of this one, and the rows it left, are watched.  False if the
 * store failed; call it again later.
 */
bool
relay_start(Relay *relay)
{
	StorePosition position;
	RelayWindow *window;

	relay->now = relay_clock();
	if (!relay_store_ok(relay, store_load_position(&position)) ||
		!relay_store_ok(relay, store_take_over(guc_minimum_retry_interval,
											   !position.clean, NULL, 0)))
		return false;

	window = queue_add_window(&relay->queue, position.lo, position.hi);
	window->store.cursor = position.last_id;
	if (!position.clean)
	{
		relay->careful = guc_batch_size + guc_max_in_flight;
		relay->careful_max_id = position.max_id;
	}
	if (!relay_checkpoint(relay, true, false))
	{
		queue_drop_window(&relay->queue, window);
		return false;
	}
	relay_configure(relay);
	return true;
}

/* Nobody waits any longer for answers that were due until then. */
static void
give_up_in_flight(Relay *relay, int64 due_until, const char *reason)
{
	OutboxAnswer answer;

	memset(&answer, 0, sizeof(answer));
	answer.outcome = OUTBOX_UNAVAILABLE;
	answer.retry_after_ms = -1;
	answer.error = reason;
	while (!dlist_is_empty(&relay->queue.in_flight))
	{
		RelayEntry *entry = dlist_head_element(RelayEntry, in_list,
											   &relay->queue.in_flight);

		if (entry->due_at > due_until)
			break;
		answer.id = entry->event->msg.id;
		publisher_cancel(answer.id);
		relay_settle(relay, &answer);
	}
}

static void
take_answers(Relay *relay)
{
	const OutboxAnswer *answer;

	while ((answer = publisher_next_answer()) != NULL)
		relay_settle(relay, answer);
	give_up_in_flight(relay, relay->now,
					  "the publisher did not answer in time");
}

/* The publisher threw from where it can't be said which message it was. */
void
relay_publisher_failed(Relay *relay)
{
	char		reason[OUTBOX_ERROR_SIZE];

	strlcpy(reason, publisher_last_error(), sizeof(reason));
	take_answers(relay);
	give_up_in_flight(relay, PG_INT64_MAX, reason);
}

/* Another publisher shall take what this one has in flight. */
static void
recall_in_flight(Relay *relay)
{
	take_answers(relay);
	while (!dlist_is_empty(&relay->queue.in_flight))
	{
		RelayEntry *entry = dlist_head_element(RelayEntry, in_list,
											   &relay->queue.in_flight);

		publisher_cancel(entry->event->msg.id);
		queue_make_ready(&relay->queue, entry);
	}
	relay->exclusive = false;
}

/* Read the settings: at the start and after every reload. */
void
relay_configure(Relay *relay)
{
	relay->now = relay_clock();
	if (!publisher_is_current())
		recall_in_flight(relay);
	relay->configured = publisher_configure(relay->database);
	relay_set_finding(relay, &relay->report.configured,
					  relay->configured ? NULL : publisher_last_error());
	if (!relay->configured)
	{
		relay_note_error(relay, publisher_last_error());
		ereport(LOG,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("outbox: publisher \"%s\" is not configured",
						guc_publisher),
				 errdetail("%s", publisher_last_error())));
	}
	else if (publisher_can_probe() && relay->breaker.state == BREAKER_CLOSED &&
			 !relay->report.endpoint.known)
		publisher_probe();

	breaker_reconfigured(&relay->breaker, relay->now);
	queue_forget_batching(&relay->queue);
	relay->prune_at = Min(relay->prune_at,
						  relay->now + guc_cleaning_expire_interval);
	relay->sweep_at = Min(relay->sweep_at,
						  relay->now + guc_cleaning_local_queue_expire_interval);
	relay->look = true;
	relay->recheck = true;
}

/* The answer to a probe also tells how the endpoint is when nothing is sent. */
static void
run_breaker(Relay *relay)
{
	Breaker    *breaker = &relay->breaker;
	ProbeResult result = publisher_probe_result();

	if (result != PROBE_NONE)
	{
		relay_set_finding(relay, &relay->report.endpoint,
						  result == PROBE_OK ? NULL : publisher_last_error());
		if (result == PROBE_FAILED)
			relay_note_error(relay, publisher_last_error());
		breaker_probe_answered(breaker, result == PROBE_OK, relay->now);
	}
	else if (breaker->state == BREAKER_PROBING &&
			 relay->now >= breaker->probe_at)
		breaker_probe_answered(breaker, false, relay->now);

	if (relay->configured && breaker_wants_probe(breaker, relay->now))
	{
		breaker_probe_started(breaker, relay->now);
		if (publisher_can_probe())
			publisher_probe();
		else
			breaker_probe_answered(breaker, true, relay->now);
	}
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
		relay->queue.nready == 0 && relay->queue.nin_flight == 0;

		if (entry->due_at > relay->now && !trial)
			break;
		queue_make_ready(&relay->queue, entry);
	}
}

/* Can anything be sent at all? */
bool
relay_can_send(Relay *relay)
{
	return guc_enabled && relay->configured &&
		!breaker_is_down(&relay->breaker);
}

/* Is there more to be sent than goes out at once? */
static bool
has_backlog(Relay *relay)
{
	return !queue_last_window(&relay->queue)->store.exhausted ||
		relay->queue.nready >= guc_max_in_flight;
}

/*
 * A batch of a prune.  While there is a backlog, that has a small share of the
 * time; otherwise the next batch follows at once.
 */
static void
prune(Relay *relay)
{
	int64		start;
	int64		npruned;
	bool		more;

	if (relay->now < relay->prune_at)
		return;
	start = relay_clock();
	if (!relay_store_ok(relay, store_prune_step(&relay->prune,
												guc_delete_batch_count,
												&npruned, &more)) || !more)
		relay->prune_at = relay->now + guc_cleaning_expire_interval;
	else if (has_backlog(relay))
		relay->prune_at = start +
			PRUNE_PAUSE * Max(relay_clock() - start, 1);
	if (npruned > 0)
	{
		relay->report.counters.pruned += npruned;
		relay->report_changed = true;
	}
}

static void
update_status(Relay *relay)
{
	if (!guc_enabled)
		relay_set_status(relay, RELAY_DISABLED);
	else if (breaker_is_down(&relay->breaker) ||
			 (relay->breaker.state == BREAKER_HALF_OPEN &&
			  relay->queue.nentries > 0))
		relay_set_status(relay, RELAY_ENDPOINT_DOWN);
	else if (relay->queue.nready > 0 || relay->queue.nin_flight > 0)
		relay_set_status(relay, RELAY_RELAYING);
	else
		relay_set_status(relay, RELAY_IDLE);
	relay_send_report(relay);
}

/* How long there is nothing to do, unless something happens. */
static long
time_to_wait(Relay *relay)
{
	int64		until = relay_checkpoint_time(relay);
	RelayEntry *entry = queue_next_backoff(&relay->queue);

	until = Min(until, relay->prune_at);
	until = Min(until, relay_spill_time(relay));
	if (entry)
		until = Min(until, entry->due_at);
	if (!dlist_is_empty(&relay->queue.in_flight))
		until = Min(until, dlist_head_element(RelayEntry, in_list,
											  &relay->queue.in_flight)->due_at);
	if (relay->configured && breaker_is_down(&relay->breaker))
		until = Min(until, relay->breaker.probe_at);
	if (relay->must_checkpoint || relay->recheck)
		until = Min(until, relay->store_retry_at);
	if (relay_can_submit(relay))
		until = relay->now;
	until = Min(until, relay_read_time(relay));
	until = Max(until, relay->store_retry_at);
	return (long) Min(Max(until - relay_clock(), 0), MAX_WAIT_MS);
}

/*
 * Do all that is to be done by now.  Returns how many milliseconds to wait
 * at most before the next step; relay->look is to be set when the latch was.
 * Works in the current memory context, which the caller resets.
 */
long
relay_step(Relay *relay)
{
	MemoryContext step_context = CurrentMemoryContext;

	relay->now = relay_clock();
	take_answers(relay);
	run_breaker(relay);
	wake_backoff(relay);
	relay_spill(relay);
	if (relay->now >= relay->store_retry_at)
		relay_read(relay);
	MemoryContextSwitchTo(step_context);
	if (relay->extension_gone)
		return 0;
	for (int i = 0; i < MAX_SUBMITS && relay_submit(relay); i++)
		take_answers(relay);
	if (relay_checkpoint_is_due(relay))
		(void) relay_checkpoint(relay, false, false);
	if (relay->now >= relay->store_retry_at)
		prune(relay);
	update_status(relay);
	return time_to_wait(relay);
}

/* Stop in order: the next relay goes on exactly here. */
void
relay_stop(Relay *relay)
{
	relay->now = relay_clock();
	take_answers(relay);
	relay_release(relay);
	(void) relay_checkpoint(relay, true, true);
}
