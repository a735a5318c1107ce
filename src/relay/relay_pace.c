/*-------------------------------------------------------------------------
 *
 * relay_pace.c
 *		How fast topics are answered.
 *
 * A lane is slow while its answers take long in the mean; requests that were
 * not answered yet count by their age.  How soon lanes have their first answer
 * says what to expect of others that are new.  What follows from that for whose
 * turn it is, relay_turn.c says.
 *
 * Pure state, as in relay_lane.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/relay_lane.h"

/*
 * A single time counts for at most so much: one late answer among many makes no
 * lane slow, and none is slow for long after it has recovered.
 */
#define LONGEST_MS		(4 * LANE_SLOW_MS)

/* The weight of the newest time in the mean. */
#define NEWEST_WEIGHT	0.125

static void
stop_watching(RelayLane *lane)
{
	if (lane->watched)
		dlist_delete(&lane->in_watched);
	lane->watched = false;
}

/* It waits for an answer from now on: tell when that takes long. */
static void
watch(LaneTable *table, RelayLane *lane, int64 now)
{
	stop_watching(lane);
	lane->waits_since = now;
	if (lane->nrequests == 0 || lane->pace == PACE_SLOW)
		return;
	dlist_push_tail(&table->watched, &lane->in_watched);
	lane->watched = true;
}

/* Let the time count in a mean. */
static void
add_to_mean(double *mean, double ms)
{
	*mean += NEWEST_WEIGHT * (ms - *mean);
}

static void
set_pace(LaneTable *table, RelayLane *lane, LanePace pace)
{
	table->nrequests[lane->pace] -= lane->nrequests;
	lane->pace = pace;
	table->nrequests[lane->pace] += lane->nrequests;
	if (pace == PACE_SLOW)
		stop_watching(lane);
}

/* A request of the lane is in flight.  If the lane is down, it is its try. */
void
lane_request_begins(LaneTable *table, RelayLane *lane, int64 now)
{
	lane->nrequests++;
	table->nrequests[lane->pace]++;
	if (lane->nrequests == 1)
		watch(table, lane, now);
	if (lane_is_down(lane))
	{
		lane->breaker.state = BREAKER_HALF_OPEN;
		lane->probing = true;
		table->nprobes++;
	}
	lane_update(table, lane);
}

/* A request is over, or recalled. */
void
lane_request_ends(LaneTable *table, RelayLane *lane)
{
	lane->nrequests--;
	table->nrequests[lane->pace]--;
	if (lane->nrequests == 0)
		stop_watching(lane);
	if (lane->probing)
		table->nprobes--;
	lane->probing = false;
	lane_update(table, lane);
}

/* An event of it was answered after so long, well or not. */
void
lane_answered(LaneTable *table, RelayLane *lane, int64 ms, int64 now)
{
	double		newest = Min(ms, LONGEST_MS);

	if (lane->pace == PACE_UNKNOWN)
	{
		lane->mean_ms = newest;
		add_to_mean(&table->first_ms, newest);
	}
	else
		add_to_mean(&lane->mean_ms, newest);
	set_pace(table, lane, lane->mean_ms > LANE_SLOW_MS ? PACE_SLOW : PACE_FAST);
	watch(table, lane, now);
	lane_update(table, lane);
}

/* Call those lanes slow that have waited too long for an answer. */
void
lanes_find_slow(LaneTable *table, int64 now)
{
	while (!dlist_is_empty(&table->watched))
	{
		RelayLane  *lane = dlist_head_element(RelayLane, in_watched,
											  &table->watched);
		int64		waited = now - lane->waits_since;

		if (waited <= LANE_SLOW_MS)
			break;

		/* it may take any time from here on */
		if (lane->pace == PACE_UNKNOWN)
			add_to_mean(&table->first_ms, LONGEST_MS);
		lane->mean_ms = Max(lane->mean_ms, Min(waited, LONGEST_MS));
		set_pace(table, lane, PACE_SLOW);
		lane_update(table, lane);
	}
}
