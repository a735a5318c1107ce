/*-------------------------------------------------------------------------
 *
 * relay_configure.c
 *		The relay takes settings into use.
 *
 * At its start and after every reload the publisher reads the settings; everybody
 * else, too, has to hear that they are others now.
 *
 * A publisher that cannot use them may be able to without a reload: when a file that
 * they name is there, or fits another one, or a library is installed.  So it is
 * asked again every few seconds.  Once it can be used, it looks after its files by
 * itself.  A bad setting of the destination is no matter of files: its relay waits for
 * another one.
 *
 * Errors: a publisher's are trapped (publisher_call.c); nothing else here throws.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "guc.h"
#include "lib/clock.h"
#include "lib/log_limit.h"
#include "relay/relay_internal.h"

/* How often a publisher that is not configured is asked again. */
#define CONFIGURE_PAUSE_MS	5000

/*
 * The publisher cannot use the settings, for this reason.  If it was only asked
 * "again", that may be known.
 */
static void
note_problem(Relay *relay, const char *problem, bool again)
{
	if (again &&
		strcmp(relay->reporter.report.configured.problem, problem) == 0)
		return;
	relay_note_error(relay, problem);
	if (!log_is_due("publisher not configured", problem))
		return;
	ereport(LOG,
			(errcode(ERRCODE_CONFIG_FILE_ERROR),
			 errmsg("outbox: publisher \"%s\" is not configured for destination \"%s\" of database \"%s\"",
					guc_publisher, relay->destination.name, relay->database),
			 errdetail("%s", problem),
			 errhint("Nothing is sent until it is: change the settings and reload, or mend the file that they name.")));
}

/* Have the publisher read the settings. */
static void
configure_publisher(Relay *relay, bool again)
{
	const char *problem;

	relay->configure_at = relay->now + CONFIGURE_PAUSE_MS;
	if (!publisher_is_current(relay->publisher))
		relay_recall_in_flight(relay);
	relay->configured = publisher_configure(relay->publisher,
											relay->destination.source);
	problem = relay->configured ? NULL : publisher_last_error(relay->publisher);
	if (relay->destination.problem[0] != '\0')
	{
		relay->configured = false;
		problem = relay->destination.problem;
		relay->configure_at = PG_INT64_MAX;
	}
	if (problem)
		note_problem(relay, problem, again);
	relay_found_configured(relay, problem);
}

/* The publisher has read the settings: so does everybody else. */
static void
configure_others(Relay *relay)
{
	/*
	 * The destination may be another one now.  Tell whether it is there
	 * before the first event needs it; a breaker that is open will do that by
	 * itself.
	 */
	relay_forget_endpoint(relay);
	if (relay->configured && publisher_can_probe(relay->publisher) &&
		relay->breaker.state == BREAKER_CLOSED)
		publisher_probe(relay->publisher);

	breaker_reconfigured(&relay->breaker, relay->now);
	lanes_reconfigured(&relay->queue.lanes, relay_slots(relay), relay->now);
	queue_forget_batching(&relay->queue);
	relay_prune_configure(relay);
	relay_abandon_configure(relay);
	relay_read_configure(relay);
	relay_requests_init(relay);
	relay_rows_configure(relay);
}

/* Read the settings: at the start and after every reload. */
void
relay_configure(Relay *relay)
{
	relay->now = clock_ms();
	configure_publisher(relay, false);
	configure_others(relay);
}

/* Have a publisher that is not configured read the settings again, if it is time. */
void
relay_configure_again(Relay *relay)
{
	if (relay_configure_time(relay) > relay->now)
		return;
	configure_publisher(relay, true);
	if (relay->configured)
		configure_others(relay);
}

/* When that is; PG_INT64_MAX: it need not. */
int64
relay_configure_time(const Relay *relay)
{
	return relay->configured ? PG_INT64_MAX : relay->configure_at;
}

/* Will relay_configure() load another publisher? */
bool
relay_changes_publisher(const Relay *relay)
{
	return !publisher_is_current(relay->publisher);
}
