/*-------------------------------------------------------------------------
 *
 * relay_trouble.c
 *		Topics that are down or held, as people see them.
 *
 * Lanes with something to send that are down or held are in a list, the one that
 * has been so for longest first, with the last error.  So what is reported of
 * them costs nothing while all is well, and no more than a bounded number of
 * copies otherwise.
 *
 * Memory: errors are in the table's context, for lanes that are not in order
 * only, and count as the lanes do.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "relay/relay_lane.h"

/*
 * The lane has changed: it is in trouble now and has something to send
 * ("listed"), because it is "held" or else down; or not.
 */
void
lane_list_trouble(LaneTable *table, RelayLane *lane, bool listed, bool held)
{
	if (listed || lane->in_trouble)
		table->troubles_changed = true;
	held = held && listed;
	table->nheld += held - lane->counted_held;
	lane->counted_held = held;
	if (listed == lane->in_trouble)
		return;
	lane->in_trouble = listed;
	if (listed)
	{
		dlist_push_tail(&table->troubles, &lane->in_troubles);
		lane->trouble_since = GetCurrentTimestamp();
	}
	else
		dlist_delete(&lane->in_troubles);
	table->ntroubles += listed ? 1 : -1;
}

/* The lane, which is down or held, failed for this reason; "status" 0: none. */
void
lane_note_error(LaneTable *table, RelayLane *lane, const char *error,
				int status)
{
	lane_forget_error(table, lane);
	lane->last_error = MemoryContextStrdup(table->context, error);
	lane->last_status = status;
	table->bytes += strlen(lane->last_error) + 1;
	table->troubles_changed |= lane->in_trouble;
}

/* The lane is in order, or nothing is known of it any more. */
void
lane_forget_error(LaneTable *table, RelayLane *lane)
{
	if (!lane->last_error)
		return;
	table->bytes -= strlen(lane->last_error) + 1;
	pfree(lane->last_error);
	lane->last_error = NULL;
	lane->last_status = 0;
}

/* When the lane may try next, on the wall; 0: now, or it does. */
static TimestampTz
next_try(const RelayLane *lane, int64 now)
{
	int64		at = lane->held_until;

	if (lane->breaker.state == BREAKER_OPEN)
		at = Max(at, lane->breaker.probe_at);
	if (lane->probing || at <= now)
		return 0;
	return TimestampTzPlusMilliseconds(GetCurrentTimestamp(), at - now);
}

/* Tell what there is to tell "now". */
void
lanes_report_troubles(LaneTable *table, int64 now, TopicsReport *report)
{
	dlist_iter	iter;

	table->troubles_changed = false;
	report->nheld = table->nheld;
	report->ndown = table->ntroubles - table->nheld;
	report->n = 0;
	dlist_foreach(iter, &table->troubles)
	{
		const RelayLane *lane = dlist_container(RelayLane, in_troubles,
												iter.cur);
		TopicReport *topic = &report->topics[report->n];

		if (report->n == MAX_TOPICS)
			break;
		strlcpy(topic->topic, lane->topic, TOPIC_SIZE);
		topic->held = lane->counted_held;
		topic->since = lane->trouble_since;
		topic->next_try = next_try(lane, now);
		topic->in_flight = lane->nrequests;
		topic->published = lane->published;
		topic->last_status = lane->last_status;
		strlcpy(topic->last_error, lane->last_error ? lane->last_error : "",
				OUTBOX_ERROR_SIZE);
		report->n++;
	}
}
