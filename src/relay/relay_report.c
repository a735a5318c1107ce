/*-------------------------------------------------------------------------
 *
 * relay_report.c
 *		What the relay tells about itself: views, pg_stat_activity, the log.
 *
 * The report is the relay's own until relay_send_report() copies it into
 * shared memory, at the end of each step, under the slot's spinlock.
 *
 * Nothing here fails.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "pgstat.h"
#include "utils/backend_status.h"
#include "utils/timestamp.h"

#include "relay/relay_internal.h"

/* A topic's trouble is not told more often. */
#define LANE_LOG_PAUSE_MS	60000

static const char *const activities[] = {
	[RELAY_STARTING] = "starting",
	[RELAY_IDLE] = "waiting for events",
	[RELAY_RELAYING] = "relaying events",
	[RELAY_ENDPOINT_DOWN] = "waiting for the endpoint to come back",
	[RELAY_STOPPED] = "stopped: library and extension do not match",
	[RELAY_DISABLED] = "disabled by outbox.enabled"
};

/*
 * One line when the destination goes down and one when it is back.  A relay
 * that is disabled meanwhile cannot know, and says nothing.
 */
static void
log_endpoint(const RelayReport *report, RelayStatus status)
{
	if (status == RELAY_ENDPOINT_DOWN)
		ereport(LOG,
				(errcode(ERRCODE_CONNECTION_EXCEPTION),
				 errmsg("outbox: the destination is down"),
				 errdetail("%s", report->last_error),
				 errhint("Delivery goes on by itself when the destination is back.")));
	else if (report->status == RELAY_ENDPOINT_DOWN &&
			 (status == RELAY_IDLE || status == RELAY_RELAYING))
		ereport(LOG,
				(errcode(ERRCODE_SUCCESSFUL_COMPLETION),
				 errmsg("outbox: the destination is back")));
}

void
relay_set_status(Relay *relay, RelayStatus status)
{
	RelayReport *report = &relay->reporter.report;

	if (report->status == status && report->since != 0)
		return;
	log_endpoint(report, status);
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

/* Can the publisher send with its settings?  NULL: it can. */
void
relay_found_configured(Relay *relay, const char *problem)
{
	set_finding(relay, &relay->reporter.report.configured, problem);
}

/* Does the destination answer?  NULL: it does. */
void
relay_found_endpoint(Relay *relay, const char *problem)
{
	set_finding(relay, &relay->reporter.report.endpoint, problem);
}

/* Whether it does is not known: it may be another one from now on. */
void
relay_forget_endpoint(Relay *relay)
{
	relay->reporter.report.endpoint.known = false;
	relay->reporter.changed = true;
}

/*
 * A lane was answered: "error" is NULL if that went well.  One line when it goes
 * down and one when it is back, but not all the time if it goes to and fro.
 * That everything is down is the destination's to say.
 */
void
relay_report_lane(Relay *relay, RelayLane *lane, const char *error)
{
	bool		down = lane->breaker.state == BREAKER_OPEN && error;

	if (down == lane->reported_down ||
		(down && lanes_suspect_outage(&relay->queue.lanes)))
		return;
	if (down && lane->reported_at > 0 &&
		relay->now - lane->reported_at < LANE_LOG_PAUSE_MS)
		return;
	lane->reported_down = down;
	if (!down)
	{
		ereport(LOG,
				(errcode(ERRCODE_SUCCESSFUL_COMPLETION),
				 errmsg("outbox: topic \"%s\" is back", lane->topic)));
		return;
	}
	lane->reported_at = relay->now;
	ereport(LOG,
			(errcode(ERRCODE_CONNECTION_EXCEPTION),
			 errmsg("outbox: topic \"%s\" is down", lane->topic),
			 errdetail("%s", error),
			 errhint("One of its events is tried every outbox.breaker_probe_interval; other topics go on.")));
}

void
relay_count_published(Relay *relay)
{
	relay->reporter.report.counters.published++;
	relay->reporter.changed = true;
}

/* A try has failed, for this reason. */
void
relay_count_failure(Relay *relay, const char *error)
{
	relay->reporter.report.counters.failed_attempts++;
	relay_note_error(relay, error);
}

void
relay_count_dead(Relay *relay)
{
	relay->reporter.report.counters.dead++;
	relay->reporter.changed = true;
}

void
relay_count_pruned(Relay *relay, int64 n)
{
	if (n == 0)
		return;
	relay->reporter.report.counters.pruned += n;
	relay->reporter.changed = true;
}

/* Let the others see it. */
void
relay_send_report(Relay *relay)
{
	RelayReporter *reporter = &relay->reporter;

	if (reporter->report.in_flight != relay->queue.nin_flight)
	{
		reporter->report.in_flight = relay->queue.nin_flight;
		reporter->changed = true;
	}
	if (reporter->changed)
		shmem_relay_report(&reporter->report);
	reporter->changed = false;
}
