/*-------------------------------------------------------------------------
 *
 * relay_log.c
 *		What the relay says in the server's log of its destination, of topics and of
 *		events, and how often.
 *
 * There may be relays of many databases in one log, so that every line says whose it
 * is.  Nothing is said of the same thing more than once a minute (log_limit.c).
 *
 * Of a destination or a topic that is down, there is one line, and one when it is back.
 * Where it goes to and fro, a line waits until it may be said, and is not said at all
 * if it is not true any more: so the last line always says how it is.
 *
 * The first event of a topic that dies has a line of its own.  While others follow
 * it, one line a minute says how many there were since the last one, in all topics.
 *
 * Texts are in one line: publishers' by publisher_call.c, those of rows and
 * topics because the trigger lets no others in.
 *
 * Memory: what is said later is copied, in a fixed place.  Errors: out of memory
 * only.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/log_limit.h"
#include "relay/relay_internal.h"

/* Nothing is said of a topic that is to wait for less. */
#define LONG_HOLD_MS	60000

/* Whose it is, for the format and as its arguments. */
#define WHOSE			"destination \"%s\" of database \"%s\""
#define WHOSE_ARGS(relay) \
	(relay)->destination.name, (relay)->database

/*
 * The relay is in this state.  One that is disabled meanwhile cannot know when the
 * destination is back, and says nothing.
 */
void
relay_log_status(Relay *relay, RelayStatus status)
{
	const RelayReport *report = &relay->reporter.report;
	bool		down = status == RELAY_ENDPOINT_DOWN;

	if (down == relay->log.told_down ||
		(down && !log_is_due("destination down", "")))
		return;
	if (!down && status != RELAY_IDLE && status != RELAY_RELAYING)
		return;
	relay->log.told_down = down;
	if (down)
		ereport(LOG,
				(errcode(ERRCODE_CONNECTION_EXCEPTION),
				 errmsg("outbox: " WHOSE " is down", WHOSE_ARGS(relay)),
				 errdetail("%s", report->endpoint.problem[0] != '\0' ?
						   report->endpoint.problem : report->last_error),
				 errhint("Delivery goes on by itself when the destination is back.")));
	else
		ereport(LOG,
				(errcode(ERRCODE_SUCCESSFUL_COMPLETION),
				 errmsg("outbox: " WHOSE " is back", WHOSE_ARGS(relay))));
}

/*
 * A lane was answered: "failure" is NULL if that went well.  That everything is down
 * is the destination's to say.
 */
void
relay_log_lane(Relay *relay, RelayLane *lane, const OutboxAnswer *failure)
{
	bool		held = lane->held_until - relay->now >= LONG_HOLD_MS;
	bool		down = failure &&
	(held || lane->breaker.state == BREAKER_OPEN);

	if (down == lane->told_down || (failure && !down) ||
		(down && (lanes_suspect_outage(&relay->queue.lanes) ||
				  !log_is_due("topic down", lane->topic))))
		return;
	lane->told_down = down;
	if (!down)
		ereport(LOG,
				(errcode(ERRCODE_SUCCESSFUL_COMPLETION),
				 errmsg("outbox: topic \"%s\" is back at " WHOSE, lane->topic,
						WHOSE_ARGS(relay))));
	else if (held)
		ereport(LOG,
				(errcode(ERRCODE_CONNECTION_EXCEPTION),
				 errmsg("outbox: topic \"%s\" is held by " WHOSE, lane->topic,
						WHOSE_ARGS(relay)),
				 errdetail("%s", failure->error),
				 errhint("One of its events is tried when the wait is over that the destination asked for; other topics go on.")));
	else
		ereport(LOG,
				(errcode(ERRCODE_CONNECTION_EXCEPTION),
				 errmsg("outbox: topic \"%s\" is down at " WHOSE, lane->topic,
						WHOSE_ARGS(relay)),
				 errdetail("%s", failure->error),
				 errhint("One of its events is tried every outbox.breaker_probe_interval; other topics go on.")));
}

/* What is known of why an event is dead, in one line. */
static char *
cause_of_death(const RelayDeadEvent *event)
{
	if (event->attempts == 0)
		return psprintf("Row %lld of table \"outbox_event\": %s",
						(long long) event->id, event->error);
	if (event->status == 0)
		return psprintf("Tries: %d. %s", event->attempts, event->error);
	return psprintf("Tries: %d. Status: %d. %s", event->attempts,
					event->status, event->error);
}

/* The event is dead.  What it points to is not kept. */
void
relay_log_dead(Relay *relay, const RelayDeadEvent *event)
{
	RelayLog   *log = &relay->log;

	if (!log_is_news("event dead", event->topic))
	{
		if (log->nuntold++ == 0)
			log->tell_at = relay->now + LOG_PAUSE_MS;
		snprintf(log->untold, sizeof(log->untold), "event \"%s\" of topic \"%s\". %s",
				 event->event_id, event->topic, cause_of_death(event));
		return;
	}
	ereport(LOG,
			(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
			 errmsg("outbox: event \"%s\" of topic \"%s\" is dead for " WHOSE,
					event->event_id, event->topic, WHOSE_ARGS(relay)),
			 errdetail("%s", cause_of_death(event)),
			 errhint("outbox_payload() shows what is in it. Once the cause is mended, outbox_retry() sends it again; outbox_discard() gives it up.")));
}

/*
 * Say how many events have died of which nothing was said, if it is time, or in any
 * case if this is the "end".
 */
void
relay_log_untold(Relay *relay, bool end)
{
	RelayLog   *log = &relay->log;

	if (log->nuntold == 0 || (!end && relay->now < log->tell_at))
		return;
	ereport(LOG,
			(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
			 errmsg_plural("outbox: %lld more event is dead for " WHOSE,
						   "outbox: %lld more events are dead for " WHOSE,
						   log->nuntold, (long long) log->nuntold,
						   WHOSE_ARGS(relay)),
			 errdetail("The last one is %s", log->untold),
			 errhint("outbox_topics counts them by topic, outbox_failures has the last ones and their reasons. Once the cause is mended, outbox_retry_dead() sends them again.")));
	log->nuntold = 0;
}

/* When there is something to be said, if nothing happens. */
int64
relay_log_time(const Relay *relay)
{
	return relay->log.nuntold > 0 ? relay->log.tell_at : PG_INT64_MAX;
}
