/*-------------------------------------------------------------------------
 *
 * relay_report.c
 *		What the relay tells about itself: views, pg_stat_activity.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "pgstat.h"
#include "utils/backend_status.h"
#include "utils/timestamp.h"

#include "relay/relay.h"

static const char *const activities[] = {
	[RELAY_STARTING] = "starting",
	[RELAY_IDLE] = "waiting for events",
	[RELAY_RELAYING] = "relaying events",
	[RELAY_ENDPOINT_DOWN] = "waiting for the endpoint to come back",
	[RELAY_STOPPED] = "stopped: library and extension do not match",
	[RELAY_DISABLED] = "disabled by outbox.enabled"
};

void
relay_set_status(Relay *relay, RelayStatus status)
{
	RelayReport *report = &relay->report;

	if (report->status == status && report->since != 0)
		return;
	report->status = status;
	report->since = GetCurrentTimestamp();
	relay->report_changed = true;
	pgstat_report_activity(status == RELAY_RELAYING ? STATE_RUNNING : STATE_IDLE,
						   activities[status]);
}

/* The newest error, for the views. */
void
relay_note_error(Relay *relay, const char *error)
{
	strlcpy(relay->report.last_error, error, OUTBOX_ERROR_SIZE);
	relay->report.last_error_at = GetCurrentTimestamp();
	relay->report_changed = true;
}

/* "problem" is NULL if all is well. */
void
relay_set_finding(Relay *relay, RelayFinding *finding, const char *problem)
{
	if (finding->known && !problem && finding->problem[0] == '\0')
		return;
	finding->known = true;
	strlcpy(finding->problem, problem ? problem : "", OUTBOX_ERROR_SIZE);
	relay->report_changed = true;
}

/* Let the others see it. */
void
relay_send_report(Relay *relay)
{
	if (relay->report.in_flight != relay->queue.nin_flight)
	{
		relay->report.in_flight = relay->queue.nin_flight;
		relay->report_changed = true;
	}
	if (relay->report_changed)
		shmem_relay_report(&relay->report);
	relay->report_changed = false;
}
