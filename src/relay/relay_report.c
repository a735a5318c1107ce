/*-------------------------------------------------------------------------
 *
 * relay_report.c
 *		What the relay tells about itself: views, pg_stat_activity.  (The log is
 *		relay_log.c's.)
 *
 * The report is the relay's own until relay_send_report() copies it into
 * shared memory, at the end of each step, under the slot's spinlock.  What there
 * is to say of topics follows when it has changed, a few times a second, under a
 * lock.
 *
 * Nothing here fails but for want of memory.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "pgstat.h"
#include "utils/backend_status.h"
#include "utils/timestamp.h"

#include "guc.h"
#include "relay/relay_internal.h"

/* What there is to say of topics is copied into shared memory no more often. */
#define TOPICS_PAUSE_MS		100

static const char *const activities[] = {
	[RELAY_STARTING] = "starting",
	[RELAY_IDLE] = "waiting for events",
	[RELAY_RELAYING] = "relaying events",
	[RELAY_ENDPOINT_DOWN] = "waiting for the endpoint to come back",
	[RELAY_STOPPED] = "stopped: library and extension do not match",
	[RELAY_DISABLED] = "disabled by outbox.enabled",
	[RELAY_PAUSING] = "waiting for answers before a pause",
	[RELAY_PAUSED] = "paused"
};

void
relay_set_status(Relay *relay, RelayStatus status)
{
	RelayReport *report = &relay->reporter.report;

	relay_log_status(relay, status);
	if (report->status == status && report->since != 0)
		return;
	report->status = status;
	report->since = GetCurrentTimestamp();
	relay->reporter.changed = true;
	pgstat_report_activity(status == RELAY_RELAYING ? STATE_RUNNING : STATE_IDLE,
						   activities[status]);
}

/* The newest error, for the views. */
void
relay_note_error(Relay *relay, const char *error)
{
	RelayReport *report = &relay->reporter.report;

	strlcpy(report->last_error, error, OUTBOX_ERROR_SIZE);
	report->last_error_at = GetCurrentTimestamp();
	relay->reporter.changed = true;
}

/* "problem" is NULL if all is well. */
static void
set_finding(Relay *relay, RelayFinding *finding, const char *problem)
{
	/* mostly it is well, and was before */
	if (finding->known && !problem && finding->problem[0] == '\0')
		return;
	finding->known = true;
	strlcpy(finding->problem, problem ? problem : "", OUTBOX_ERROR_SIZE);
	relay->reporter.changed = true;
}

/* Which publisher and source the settings name. */
static void
report_names(Relay *relay)
{
	RelayReport *report = &relay->reporter.report;

	strlcpy(report->publisher, guc_publisher, PUBLISHER_SIZE);
	strlcpy(report->source, guc_source[0] != '\0' ? guc_source :
			relay->destination.source, SOURCE_SIZE);
	relay->reporter.changed = true;
}

/* Can the publisher that the settings name send with them?  NULL: it can. */
void
relay_found_configured(Relay *relay, const char *problem)
{
	RelayReport *report = &relay->reporter.report;

	report_names(relay);
	set_finding(relay, &report->configured, problem);
}

/* Does the destination answer?  NULL: it does. */
void
relay_found_endpoint(Relay *relay, const char *problem)
{
	set_finding(relay, &relay->reporter.report.endpoint, problem);
}

/* Could the last prune delete what was due?  NULL: it could. */
void
relay_found_pruning(Relay *relay, const char *problem)
{
	set_finding(relay, &relay->reporter.report.pruning, problem);
}

/* The next prune begins in so many milliseconds; -1: another relay does that. */
void
relay_found_next_prune(Relay *relay, int64 wait)
{
	relay->reporter.report.next_prune = wait < 0 ? 0 :
		GetCurrentTimestamp() + wait * 1000;
	relay->reporter.changed = true;
}

/* What does the publisher say of this?  NULL: all is well, if that is known. */
void
relay_found_notice(Relay *relay, OutboxNotice notice, bool known,
				   const char *problem)
{
	RelayReport *report = &relay->reporter.report;
	RelayFinding *finding = notice == OUTBOX_NOTICE_FILES ? &report->files :
	&report->clock;

	set_finding(relay, finding, problem);
	finding->known = known;
	relay->reporter.changed = true;
}

/* Whether it does is not known: it may be another one from now on. */
void
relay_forget_endpoint(Relay *relay)
{
	relay->reporter.report.endpoint.known = false;
	relay->reporter.changed = true;
}

/* A lane was answered: "failure" is NULL if that went well. */
void
relay_report_lane(Relay *relay, RelayLane *lane, const OutboxAnswer *failure)
{
	if (failure && lane_is_stopped(lane))
		lane_note_error(&relay->queue.lanes, lane, failure->error,
						failure->status);
	relay_log_lane(relay, lane, failure);
}

/*
 * Let the others see which topics are in trouble.  Not at every step: it is a
 * long text, and nobody reads it that fast.
 */
static void
send_topics(Relay *relay)
{
	RelayReporter *reporter = &relay->reporter;

	if (relay_report_time(relay) > relay->now)
		return;
	lanes_report_troubles(&relay->queue.lanes, relay->now, &reporter->topics);
	shmem_relay_report_topics(&reporter->topics);
	reporter->topics_sent_at = relay->now;
	reporter->report.topics_down = reporter->topics.ndown;
	reporter->report.topics_held = reporter->topics.nheld;
	reporter->changed = true;
}

/* When there is something about topics to be reported, if nothing happens. */
int64
relay_report_time(const Relay *relay)
{
	if (!relay->queue.lanes.troubles_changed)
		return PG_INT64_MAX;
	return relay->reporter.topics_sent_at + TOPICS_PAUSE_MS;
}

/* Let the others see it. */
void
relay_send_report(Relay *relay)
{
	RelayReporter *reporter = &relay->reporter;

	send_topics(relay);
	if (reporter->report.in_flight != relay->queue.nin_flight)
	{
		reporter->report.in_flight = relay->queue.nin_flight;
		reporter->changed = true;
	}
	if (reporter->changed)
		shmem_relay_report(&reporter->report);
	reporter->changed = false;
}
