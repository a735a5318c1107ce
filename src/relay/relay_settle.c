/*-------------------------------------------------------------------------
 *
 * relay_settle.c
 *		What an answer means for an event, and what no answer means.
 *
 * Retry has two tiers.  The local one is the relay's memory: the first
 * outbox.local_retry_times tries, a short wait apart.  After that comes the
 * persistent one: the row in outbox_delivery says when the event is due, with
 * waits that grow.  A wait that the destination asked for is honoured in
 * either.  After outbox.max_retry_times retries the event is dead.
 *
 * Only failures that tell something of the event count.  While its topic or the
 * destination is in trouble, it waits for that to end: in its lane, which tries
 * one event now and then.  What was sent during an outage tells nothing even if
 * it fails when that is over.
 *
 * A refusal is the event's own, but not when everything is refused: then something
 * else is wrong, and it is its topic's failure (relay_lane.c).
 *
 * What may have failed because of others is sent again at once, alone
 * (relay_submit.c).  An event is excused so only once, or a publisher that says
 * so each time would have it sent for ever.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "common/pg_prng.h"
#include "utils/timestamp.h"

#include "guc.h"
#include "lib/clock.h"
#include "relay/relay_internal.h"

/* A wait of the persistent tier is longer by up to this part of it. */
#define JITTER			0.1

/* Between two steps: longer than a step and a wait usually are. */
#define STANDSTILL_MS	1000

/* The wait before try number attempts + 1, in the persistent tier. */
static int64
persistent_wait(int attempts)
{
	int			step = Max(attempts - guc_local_retry_times - 1, 0);
	double		wait = guc_failed_retry_interval *
	pow(guc_retry_backoff, Min(step, 1000));

	wait = Min(wait, (double) guc_max_retry_interval);
	return (int64) (wait * (1.0 + JITTER * pg_prng_double(&pg_global_prng_state)));
}

static void
settle_delivered(Relay *relay, RelayEntry *entry)
{
	relay_count_published(relay, entry);
	if (entry->stored)
		relay_add_delivery(relay, entry->event,
						   entry->waited ? DELIVERY_GONE : DELIVERY_PUBLISHED,
						   entry->attempts + 1, 0, 0, entry->last_status, NULL);
	else
		relay_note_settled(relay);
	queue_remove(&relay->queue, entry);
}

static void
settle_dead(Relay *relay, RelayEntry *entry)
{
	OutboxEvent *event = entry->event;
	RelayDeadEvent dead = {event->msg.id, event->msg.event_id,
		event->msg.topic, entry->attempts, entry->last_status,
	entry->last_error};

	relay_count_dead(relay);
	relay_add_delivery(relay, event, DELIVERY_DEAD, entry->attempts, 0, 0,
					   entry->last_status, entry->last_error);
	relay_log_dead(relay, &dead);
	if (guc_dead_key_policy == DEAD_KEY_BLOCK)
		relay_retire_key(relay, entry);
	queue_remove(&relay->queue, entry);
}

/*
 * It will never be taken.  If the destination says so of many in a row, the others
 * had better wait.  What has no status was not refused there: it never went.
 */
static void
settle_refused(Relay *relay, RelayEntry *entry, const OutboxAnswer *answer)
{
	if (answer->status != 0 &&
		lane_refused(&relay->queue.lanes, entry->lane, answer->id,
					 relay->now))
		relay_report_lane(relay, entry->lane, answer);
	settle_dead(relay, entry);
}

static void
settle_persistent(Relay *relay, RelayEntry *entry, int64 wait)
{
	TimestampTz due = TimestampTzPlusMilliseconds(clock_now(), wait);

	/* it comes back in time to expire, and lets those behind it go then */
	if (entry->event->expires_at != 0)
		due = Min(due, entry->event->expires_at);
	relay_add_delivery(relay, entry->event, DELIVERY_FAILED, entry->attempts, 0,
					   due, entry->last_status, entry->last_error);
	relay_retire_key(relay, entry);
	queue_remove(&relay->queue, entry);
}

/* This try has crashed nothing: write that down as well. */
static void
forget_recorded(Relay *relay, RelayEntry *entry)
{
	if (entry->recorded)
		relay_spill_entry(relay, entry);
	entry->recorded = false;
}

/*
 * It may be tried again: from which tier, and when?  "counted": the failure
 * is the event's own, or the destination was there for others.  "asked" is the
 * wait that the destination wants, in milliseconds; -1: none.
 */
static void
settle_failed(Relay *relay, RelayEntry *entry, bool counted, int64 asked)
{
	int64		wait;

	if (relay_is_over(entry->event))
	{
		relay_expire_entry(relay, entry);
		return;
	}
	if (counted && entry->attempts > guc_max_retry_times)
	{
		settle_dead(relay, entry);
		return;
	}

	/* the lane says when, and tries another one first */
	if (!counted && lane_is_stopped(entry->lane))
	{
		forget_recorded(relay, entry);
		queue_make_ready(&relay->queue, entry);
		return;
	}

	/*
	 * What does not count stays in memory however often it happens: it is the
	 * destination's trouble, which the breaker ends soon.  A long wait that
	 * was asked for, but not of the lane, is better kept in the table, where
	 * it outlives us.
	 */
	asked = Min(asked, guc_max_retry_interval);
	if ((!counted || entry->attempts <= guc_local_retry_times) &&
		asked <= guc_minimum_retry_interval)
	{
		wait = Max(guc_local_failed_retry_interval, asked);
		forget_recorded(relay, entry);
		queue_back_off(&relay->queue, entry, relay->now + wait);
		return;
	}
	wait = Max(persistent_wait(entry->attempts), guc_minimum_retry_interval);
	settle_persistent(relay, entry, Max(wait, asked));
}

/* It may have failed because of others: it is sent again by itself. */
static void
settle_excused(Relay *relay, RelayEntry *entry)
{
	entry->alone = true;
	forget_recorded(relay, entry);
	queue_make_ready(&relay->queue, entry);
}

static void
note_failure(Relay *relay, RelayEntry *entry, const OutboxAnswer *answer)
{
	relay_count_failure(relay, answer->error);
	entry->waited = false;		/* its row says less than is known now */
	if (entry->last_error)
		pfree(entry->last_error);
	entry->last_error = MemoryContextStrdup(relay->queue.context,
											answer->error);
}

/*
 * An event has gone through, or somebody knows what is wrong with it: all else is
 * well.  But that the destination was there does not mean that it is, if the
 * publisher says no.
 */
static void
note_success(Relay *relay, RelayLane *lane)
{
	if (lanes_suspect_outage(&relay->queue.lanes) ||
		relay->breaker.state != BREAKER_CLOSED)
		relay->recovered_at = relay->now;
	breaker_succeeded(&relay->breaker);
	if (!breaker_is_down(&relay->breaker))
		relay_found_endpoint(relay, NULL);
	lane_succeeded(&relay->queue.lanes, lane, relay->now);
	relay_report_lane(relay, lane, NULL);
}

/*
 * Was the event sent while everything failed, or all of its topic?  Then its
 * failure is part of that, also if others go through again by the time that it is
 * known.
 */
static bool
was_sent_in_outage(const Relay *relay, const RelayEntry *entry)
{
	return lanes_suspect_outage(&relay->queue.lanes) ||
		entry->sent_at <= Max(relay->recovered_at, entry->lane->recovered_at);
}

/*
 * This event failed, and it can't be told whether the fault is its own, its
 * topic's or, if others fare no better, the destination's.  True if the failure
 * counts as an attempt.
 */
static bool
judge_lane(Relay *relay, RelayEntry *entry, const OutboxAnswer *answer)
{
	LaneTable  *lanes = &relay->queue.lanes;
	RelayLane  *lane = entry->lane;
	bool		counted = false;

	/* somebody was there to fail it */
	breaker_reached(&relay->breaker);

	/* a rate that is limited is nobody's fault */
	if (answer->retry_after_ms >= 0)
		lane_hold(lanes, lane, relay->now +
				  Min(answer->retry_after_ms, guc_max_retry_interval));
	else
		counted = lane_failed(lanes, lane, relay->now) &&
			!was_sent_in_outage(relay, entry);
	relay_report_lane(relay, lane, answer);
	return counted;
}

/*
 * Tell the breakers what the answer says of destination and topic.  True if a
 * failure counts as the event's attempt, unless the event is "excused".
 */
static bool
judge_answer(Relay *relay, RelayEntry *entry, const OutboxAnswer *answer,
			 bool excused)
{
	if (answer->outcome != OUTBOX_UNAVAILABLE)
		lane_answered(&relay->queue.lanes, entry->lane,
					  relay->now - entry->sent_at, relay->now);
	switch (answer->outcome)
	{
		case OUTBOX_DELIVERED:
			lane_forget_refusals(&relay->queue.lanes, entry->lane);
			/* FALLTHROUGH */
		case OUTBOX_FAILED:
		case OUTBOX_REJECTED:
			note_success(relay, entry->lane);
			return true;

		case OUTBOX_RETRY:

			/* one event may have failed many, which is no outage */
			if (excused)
				return false;

			/* nor is it the lane, if the publisher says who it is */
			if (relay->breaker.told)
				break;
			return judge_lane(relay, entry, answer);

		case OUTBOX_UNAVAILABLE:
			break;
	}
	breaker_failed(&relay->breaker, relay->now);
	relay_found_endpoint(relay, answer->error);
	return breaker_counts_attempt(&relay->breaker) &&
		!was_sent_in_outage(relay, entry);
}

/* The publisher's answer to a message in flight. */
void
relay_settle(Relay *relay, const OutboxAnswer *answer)
{
	RelayEntry *entry = queue_find(&relay->queue, answer->id);
	OutboxAnswer doubted = *answer;
	bool		excused;
	bool		counted;

	/* it may have been discarded or taken back meanwhile */
	if (!entry || entry->state != ENTRY_IN_FLIGHT)
		return;

	/* the crash that was counted ahead did not happen */
	if (entry->recorded)
		relay_flush_next(relay);
	entry->event->crashes = 0;

	/* too many refusals are the topic's failure, and no event's attempt */
	if (answer->outcome == OUTBOX_REJECTED && answer->status != 0 &&
		!lane_believes_refusal(&relay->queue.lanes, entry->lane))
	{
		doubted.outcome = OUTBOX_RETRY;
		answer = &doubted;
	}

	entry->last_status = answer->status;
	if (answer->outcome != OUTBOX_DELIVERED)
		note_failure(relay, entry, answer);
	excused = answer->alone && !entry->alone;
	counted = judge_answer(relay, entry, answer, excused) &&
		!excused && answer != &doubted;
	if (answer->outcome != OUTBOX_DELIVERED && counted)
		entry->attempts++;

	if (answer->outcome == OUTBOX_DELIVERED)
		settle_delivered(relay, entry);
	else if (excused)
		settle_excused(relay, entry);
	else if (answer->outcome == OUTBOX_REJECTED)
		settle_refused(relay, entry, answer);
	else
		settle_failed(relay, entry, counted, answer->retry_after_ms);
}

/*
 * Nobody waits any longer for answers that were due until then: that is the
 * outcome.
 */
static void
give_up_overdue(Relay *relay, int64 due_until, OutboxOutcome outcome,
				const char *reason)
{
	OutboxAnswer answer;

	memset(&answer, 0, sizeof(answer));
	answer.outcome = outcome;
	answer.retry_after_ms = -1;
	answer.error = reason;

	/*
	 * in the order of submission, which but for a reload is that of the
	 * limits
	 */
	while (!dlist_is_empty(&relay->queue.in_flight))
	{
		RelayEntry *entry = dlist_head_element(RelayEntry, in_list,
											   &relay->queue.in_flight);

		if (entry->due_at > due_until)
			break;
		answer.id = entry->event->msg.id;
		publisher_cancel(relay->publisher, answer.id);
		relay_settle(relay, &answer);
	}
}

/*
 * Has this process stood still before this step, as when it is stopped or its
 * machine is paused?
 */
static bool
has_stood_still(Relay *relay)
{
	if (relay->answers_at != relay->now)
		relay->stood_still = relay->now - relay->answers_at > STANDSTILL_MS;
	relay->answers_at = relay->now;
	return relay->stood_still;
}

/* Settle what the publisher has answered, and what it should have by now. */
void
relay_take_answers(Relay *relay)
{
	const OutboxAnswer *answer;

	while ((answer = publisher_next_answer(relay->publisher)) != NULL)
		relay_settle(relay, answer);

	/*
	 * The publisher has had no chance to see what came in meanwhile.  The
	 * next step follows at once, for the time is up, but behind a look at the
	 * sockets.
	 */
	if (has_stood_still(relay))
		return;
	give_up_overdue(relay, relay->now, OUTBOX_RETRY,
					"the publisher did not answer in time");
}

/* Nothing that is in flight will be answered, for this reason. */
void
relay_give_up_in_flight(Relay *relay, const char *reason)
{
	char		copy[OUTBOX_ERROR_SIZE];

	/*
	 * cancelling may throw, and the publisher's last error is another one
	 * then
	 */
	strlcpy(copy, reason, sizeof(copy));
	relay_take_answers(relay);
	give_up_overdue(relay, PG_INT64_MAX, OUTBOX_UNAVAILABLE, copy);
}

/* Another publisher shall take what this one has in flight. */
void
relay_recall_in_flight(Relay *relay)
{
	relay_take_answers(relay);
	while (!dlist_is_empty(&relay->queue.in_flight))
	{
		RelayEntry *entry = dlist_head_element(RelayEntry, in_list,
											   &relay->queue.in_flight);

		publisher_cancel(relay->publisher, entry->event->msg.id);
		queue_make_ready(&relay->queue, entry);
	}
}
