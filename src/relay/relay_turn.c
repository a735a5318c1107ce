/*-------------------------------------------------------------------------
 *
 * relay_turn.c
 *		Which lane sends next, or is read next.
 *
 * Lanes take turns, one request each.  But requests that are answered late
 * would end up with every slot, so that slow lanes together have a share of
 * them, and the last slots are for lanes that have none.  A lane that was never
 * answered has one request until then while others have something to send.  With
 * less than four slots, there is nothing to share.
 *
 * What waits for its lane's share is not counted as ready to go: others are read
 * meanwhile, however much of it there is.  But lanes that are new wait for each
 * other only, and not for long, while others like them are quickly answered.
 *
 * Lanes that are down try one event each, the one that has waited longest first;
 * together they have a share as well.
 *
 * Choosing looks at no more lanes than have requests in flight, however many
 * there are.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "guc.h"
#include "relay/relay_lane.h"

/* With fewer slots, there is nothing to share. */
#define MIN_SHARED		4

/* Of lanes with requests in flight, so many are passed over at a time. */
#define MAX_LOOKS		64

/* So many slots are everybody's but those of one kind, which is "part" less. */
static int
share_without(const LaneTable *table, int part)
{
	return table->nslots - Max(1, table->nslots / part);
}

/*
 * Is there a slot for lanes of this list, as far as all of their kind have their
 * share?  Of the last slots, those that are new have a half, so that others find
 * one while they are on trial.
 */
static bool
kind_has_share(const LaneTable *table, LanePlace place)
{
	int			slow = table->nrequests[PACE_SLOW];
	int			late = slow + table->nrequests[PACE_UNKNOWN];
	int			limit = share_without(table, 16);

	if (table->nslots < MIN_SHARED)
		return true;
	switch (place)
	{
		case LANE_SLOW:
			return late < limit && slow < share_without(table, 4);
		case LANE_NEW:
		case LANE_UNANSWERED:
			return late < limit + Max(1, table->nslots / 32);
		default:
			return true;
	}
}

/*
 * Does what is ready in lanes of this list not wait for long?  New lanes whose
 * share is taken, but not by slow ones, go soon if their first answers do not
 * take long in the mean.
 */
static bool
goes_soon(const LaneTable *table, LanePlace place)
{
	return kind_has_share(table, place) ||
		((place == LANE_NEW || place == LANE_UNANSWERED) &&
		 table->nrequests[PACE_SLOW] < share_without(table, 16) &&
		 table->first_ms <= LANE_SLOW_MS);
}

/* May what is ready in the lane, which is stopped or waits its turn, take long? */
bool
lane_waits_long(const LaneTable *table, const RelayLane *lane)
{
	return lane->place >= NLANE_LISTS || !goes_soon(table, lane->place);
}

/* What is not read yet is looked at from the beginning. */
void
lanes_look_anew(LaneTable *table)
{
	table->look++;
	table->missed = false;
}

/*
 * The look passes an event of this topic, if it would have to wait for long behind
 * others of its lane, here or in the table; else false.
 */
bool
lanes_pass(LaneTable *table, const char *topic)
{
	RelayLane  *lane = lanes_find(table, topic);

	if (!lane || (lane->nready == 0 && !lane->tail) ||
		!lane_waits_long(table, lane))
		return false;
	lane->passed_by = table->look;
	return true;
}

/*
 * May the lane, which waits in a list, have another request in flight?  The last
 * slots are for lanes that have none: of several that are fast, none is known to
 * be answered no more before they would have taken all.  One that is slow may
 * have more than the share of the slow ones if there is no other.
 */
static bool
has_share(const LaneTable *table, const RelayLane *lane)
{
	int			all = 0;

	if (table->nslots < MIN_SHARED)
		return true;
	for (int i = 0; i < NPACES; i++)
		all += table->nrequests[i];
	if (lane->nrequests > 0 && all >= share_without(table, 16))
		return false;
	return kind_has_share(table, lane->place) ||
		(lane->place == LANE_SLOW && lane->nrequests > 0 &&
		 lane->nrequests == table->nrequests[PACE_SLOW]);
}

/* The lane of a list whose turn it is; NULL if none of it may send. */
static RelayLane *
next_of_list(LaneTable *table, LanePlace place)
{
	dlist_head *list = &table->lists[place];
	RelayLane  *first = NULL;

	for (int i = 0; i < MAX_LOOKS && !dlist_is_empty(list); i++)
	{
		RelayLane  *lane = dlist_head_element(RelayLane, node, list);

		if (has_share(table, lane))
			return lane;

		/* if one without requests has no share, none has */
		if (lane == first || lane->nrequests == 0)
			break;
		if (!first)
			first = lane;
		dlist_delete(&lane->node);
		dlist_push_tail(list, &lane->node);
	}
	return NULL;
}

/* The lane that has waited longest to try an event; NULL: none may. */
static RelayLane *
next_probe(LaneTable *table, int64 now)
{
	while (!pairingheap_is_empty(table->asleep))
	{
		RelayLane  *lane = pairingheap_container(RelayLane, in_asleep,
												 pairingheap_first(table->asleep));

		if (lane->wake_at > now)
			break;
		if (lane->nready == 0)
		{
			lane_ask_for_rows(table, lane);
			continue;
		}
		if (lane_is_down(lane))
			return table->nprobes < Max(1, table->nslots / 8) ? lane : NULL;

		/* it was only held */
		lane->held_until = 0;
		lane_update(table, lane);
	}
	return NULL;
}

/*
 * The lane that may begin a request now; NULL if there is none.  It has an
 * entry that is ready.  Unless it takes its turn, it is the next one again.
 */
RelayLane *
lanes_next(LaneTable *table, int64 now)
{
	RelayLane  *lane;

	lanes_find_slow(table, now);
	lane = next_probe(table, now);
	if (lane)
		return lane;
	for (int i = 0; i < LANE_UNANSWERED; i++)
	{
		LanePlace	place = (table->turn + i) % LANE_UNANSWERED;

		/* in an outage, those that have a request in flight leave the list */
		while ((lane = next_of_list(table, place)) != NULL)
		{
			lane_update(table, lane);
			if (lane->place == place)
				return lane;
		}
	}
	while ((lane = next_of_list(table, LANE_UNANSWERED)) != NULL)
	{
		lane_update(table, lane);
		if (lane->place == LANE_UNANSWERED)
			return lane;
	}
	return NULL;
}

/* The lane, which was the next one, takes its turn: others come first now. */
void
lanes_take_turn(LaneTable *table, RelayLane *lane)
{
	if (lane->place >= NLANE_LISTS)
		return;
	dlist_delete(&lane->node);
	dlist_push_tail(&table->lists[lane->place], &lane->node);
	if (lane->place < LANE_UNANSWERED)
		table->turn = lane->place + 1;
}

/*
 * The lane whose rows are to be read next, which has asked for it first; NULL if
 * there is none.  What could not be sent soon would have to leave memory again.
 */
RelayLane *
lanes_next_walk(const LaneTable *table)
{
	RelayLane  *next = NULL;

	for (int pace = 0; pace < NPACES; pace++)
	{
		dlist_head *walks = unconstify(dlist_head *, &table->walks[pace]);
		RelayLane  *lane;

		if (dlist_is_empty(walks) ||
			(pace == PACE_UNKNOWN && !goes_soon(table, LANE_NEW)))
			continue;
		lane = dlist_head_element(RelayLane, in_walks, walks);
		if (!next || lane->walk_number < next->walk_number)
			next = lane;
	}
	return next;
}

/* Entries that are ready. */
int
lanes_ready(const LaneTable *table)
{
	int			n = 0;

	for (int i = 0; i < NLANE_PLACES; i++)
		n += table->nready[i];
	return n;
}

/* Entries that are ready, and whose lanes do not wait long for their share. */
int
lanes_ready_to_go(const LaneTable *table)
{
	int			n = 0;

	for (int i = 0; i < NLANE_LISTS; i++)
	{
		if (goes_soon(table, i))
			n += table->nready[i];
	}
	return n;
}

/* Is every lane with something to do down, and has nothing gone through? */
bool
lanes_all_down(const LaneTable *table, int64 now)
{
	return table->ndown > 0 && table->nworking == 0 &&
		now - table->succeeded_at >= guc_breaker_probe_interval;
}

/*
 * When a lane may try that may not now, or is found to be slow; PG_INT64_MAX if
 * there is no such time.
 */
int64
lanes_wake_time(const LaneTable *table, int64 now)
{
	int64		until = PG_INT64_MAX;
	RelayLane  *lane;

	if (!dlist_is_empty(unconstify(dlist_head *, &table->watched)))
	{
		lane = dlist_head_element(RelayLane, in_watched,
								  unconstify(dlist_head *, &table->watched));
		until = lane->waits_since + LANE_SLOW_MS + 1;
	}
	if (pairingheap_is_empty(table->asleep))
		return until;
	lane = pairingheap_container(RelayLane, in_asleep,
								 pairingheap_first(table->asleep));
	return lane->wake_at > now ? Min(until, lane->wake_at) : until;
}
