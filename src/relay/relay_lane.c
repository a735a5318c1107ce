/*-------------------------------------------------------------------------
 *
 * relay_lane.c
 *		Topics in the relay's memory: how they are, and what waits in them.
 *
 * A lane is one topic.  It has those of its events that are ready, and a
 * circuit breaker: an error that may be the topic's stops the topic only.
 *
 * A lane waits for its turn in the list of its kind.  One that is down or held
 * is asleep: in a heap, by the time when it may try one event.  What changes its
 * place ends in lane_update().  Whose turn it is, relay_turn.c says; how fast it
 * is answered, relay_pace.c; what people see of it, relay_trouble.c.
 *
 * Is it the topic or the destination?  While no recent answer was a success and
 * several lanes have failed, each lane tries one event at a time.
 *
 * Nor does every event deserve it if each is refused for good.  After
 * outbox.breaker_threshold refusals with nothing delivered in between, by the lane or
 * by any, the lane is down like one that fails, and no further refusal is believed.
 *
 * What waits in a lane for long may leave memory: its tail are rows of
 * outbox_delivery, pending, behind "walked".  They are read back, in the order
 * of their ids, when the lane can send and has little left.  An event of a lane
 * that has a tail joins that.
 *
 * Memory: lanes are in the table's context; of those without events, the oldest
 * is forgotten for a new one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "utils/memutils.h"

#include "guc.h"
#include "relay/relay_lane.h"

/* So many lanes without events are kept. */
#define MAX_UNUSED		1000

/* A lane with a tail wants rows when it has so few entries ready. */
#define WALK_BELOW		32

static int
compare_wake(const pairingheap_node *a, const pairingheap_node *b, void *arg)
{
	const RelayLane *x = pairingheap_const_container(RelayLane, in_asleep, a);
	const RelayLane *y = pairingheap_const_container(RelayLane, in_asleep, b);

	/* the heap has its largest on top */
	return x->wake_at < y->wake_at ? 1 : x->wake_at > y->wake_at ? -1 : 0;
}

void
lanes_init(LaneTable *table, MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	HASHCTL		ctl;

	memset(table, 0, sizeof(*table));
	table->context = context;
	for (int i = 0; i < NLANE_LISTS; i++)
		dlist_init(&table->lists[i]);
	for (int i = 0; i < NPACES; i++)
		dlist_init(&table->walks[i]);
	dlist_init(&table->watched);
	dlist_init(&table->unused);
	dlist_init(&table->troubles);
	table->period = 1;
	table->look = 1;
	table->asleep = pairingheap_allocate(compare_wake, NULL);
	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(LaneId);
	ctl.entrysize = sizeof(RelayLane);
	ctl.hcxt = context;
	table->lanes = hash_create("outbox lanes", 64, &ctl,
							   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	MemoryContextSwitchTo(old);
}

/* Is it not to send but for a try now and then? */
bool
lane_is_down(const RelayLane *lane)
{
	return lane->breaker.state != BREAKER_CLOSED;
}

/* Will its ready events stay where they are, whatever slots are free? */
bool
lane_is_stopped(const RelayLane *lane)
{
	return lane_is_down(lane) || lane->held_until > 0;
}

/* Does everything fail, so that it may be the destination? */
bool
lanes_suspect_outage(const LaneTable *table)
{
	return guc_breaker_threshold > 0 && table->nfailing >= 2 &&
		table->failures >= guc_breaker_threshold;
}

/* May the lane have but one event in flight? */
bool
lane_sends_one(const LaneTable *table, const RelayLane *lane)
{
	return lane_is_down(lane) || lanes_suspect_outage(table);
}

/* Where it belongs now, and since when it could try if it is asleep. */
static LanePlace
proper_place(const LaneTable *table, const RelayLane *lane, int64 *wake_at)
{
	*wake_at = lane->held_until;
	if (lane->probing)
		return LANE_NOWHERE;

	/*
	 * What is to be tried may have to be read first.  What is here waits, if
	 * for anything, for others of its key, which may be in other lanes.
	 */
	if (lane->nready == 0 &&
		!(lane->tail && lane->nentries == lane->nwaiting &&
		  lane_is_stopped(lane)))
		return LANE_NOWHERE;
	if (lane->breaker.state == BREAKER_OPEN)
		*wake_at = Max(*wake_at, lane->breaker.probe_at);
	if (lane_is_stopped(lane))
		return LANE_ASLEEP;
	if (lane_sends_one(table, lane) && lane->nrequests > 0)
		return LANE_NOWHERE;
	switch (lane->pace)
	{
		case PACE_FAST:
			return LANE_FAST;
		case PACE_SLOW:
			return LANE_SLOW;
		default:
			return lane->nrequests > 0 ? LANE_UNANSWERED : LANE_NEW;
	}
}

/* Count the lane as one with something to do, or none.  A pause is no trouble. */
static void
count_lane(LaneTable *table, RelayLane *lane)
{
	bool		works = lane->nentries > 0 || lane->tail;
	bool		held = lane->held_until > 0;
	bool		down = works && lane_is_down(lane) && !held;
	bool		working = works && !down;

	lane_list_trouble(table, lane, works && lane_is_stopped(lane), held);
	table->nworking += working - lane->counted_working;
	table->ndown += down - lane->counted_down;
	lane->counted_working = working;
	lane->counted_down = down;
}

/* What a lane takes of memory, but for its error. */
static Size
lane_bytes(const RelayLane *lane)
{
	return sizeof(RelayLane) + strlen(lane->topic) + 1;
}

/* Nothing of a topic is here any more. */
static void
forget_lane(LaneTable *table, RelayLane *lane)
{
	Assert(lane->nentries == 0 && lane->nrequests == 0 && !lane->in_trouble);
	dlist_delete(&lane->in_unused);
	table->nunused--;
	table->bytes -= lane_bytes(lane);
	lane_forget_error(table, lane);
	pfree(lane->topic);
	hash_search(table->lanes, &lane->id, HASH_REMOVE, NULL);
}

/* Keep a lane that is not used any more in view: it may be forgotten. */
static void
list_unused(LaneTable *table, RelayLane *lane)
{
	bool		unused = lane->nentries == 0 && !lane->tail;

	if (unused == lane->unused)
		return;
	lane->unused = unused;
	if (unused)
		dlist_push_tail(&table->unused, &lane->in_unused);
	else
		dlist_delete(&lane->in_unused);
	table->nunused += unused ? 1 : -1;
}

/* Ask for rows of the lane, or not any more. */
static void
list_walk(LaneTable *table, RelayLane *lane, bool wanted)
{
	dlist_head *walks = NULL;

	if (wanted)
		walks = &table->walks[lane_is_stopped(lane) ? PACE_FAST : lane->pace];
	if (walks == lane->walks)
		return;
	if (lane->walks)
		dlist_delete(&lane->in_walks);
	lane->walks = walks;
	if (!walks)
		return;
	lane->walk_number = ++table->nwalks;
	dlist_push_tail(walks, &lane->in_walks);
}

/* Something about the lane has changed: put it where it belongs. */
void
lane_update(LaneTable *table, RelayLane *lane)
{
	int64		wake_at;
	LanePlace	place = proper_place(table, lane, &wake_at);

	table->nready[lane->place] -= lane->counted;
	lane->counted = lane->nready;
	table->nready[place] += lane->counted;
	if (place != lane->place ||
		(place == LANE_ASLEEP && wake_at != lane->wake_at))
	{
		if (lane->place < NLANE_LISTS)
			dlist_delete(&lane->node);
		else if (lane->place == LANE_ASLEEP)
			pairingheap_remove(table->asleep, &lane->in_asleep);
		lane->wake_at = wake_at;
		if (place < NLANE_LISTS)
			dlist_push_tail(&table->lists[place], &lane->node);
		else if (place == LANE_ASLEEP)
			pairingheap_add(table->asleep, &lane->in_asleep);
		lane->place = place;
	}

	/* one that is stopped asks when it may try one */
	if (!lane_is_stopped(lane) || !lane->tail || lane->nready > 0)
		list_walk(table, lane, lane->tail && !lane_is_stopped(lane) &&
				  lane->nready < WALK_BELOW);
	if (!lane_is_stopped(lane))
		lane_forget_error(table, lane);
	if (lane->passed_by == table->look && lane->nready == 0 && !lane->tail)
		table->missed = true;
	count_lane(table, lane);
	list_unused(table, lane);
}

static LaneId
make_id(const char *topic)
{
	const unsigned char *name = (const unsigned char *) topic;
	int			len = strlen(topic);
	LaneId		id;

	id.a = hash_bytes_extended(name, len, 1);
	id.b = hash_bytes_extended(name, len, 2);
	return id;
}

/* The lane of a topic; NULL if nothing is known of it. */
RelayLane *
lanes_find(const LaneTable *table, const char *topic)
{
	LaneId		id = make_id(topic);

	return hash_search(table->lanes, &id, HASH_FIND, NULL);
}

/* The lane of a topic, a new one if need be. */
RelayLane *
lanes_make(LaneTable *table, const char *topic)
{
	LaneId		id = make_id(topic);
	bool		found;
	RelayLane  *lane;

	if (table->nunused > MAX_UNUSED)
		forget_lane(table, dlist_head_element(RelayLane, in_unused,
											  &table->unused));
	lane = hash_search(table->lanes, &id, HASH_ENTER, &found);
	if (found)
		return lane;
	memset(lane, 0, sizeof(*lane));
	lane->id = id;
	lane->topic = MemoryContextStrdup(table->context, topic);
	table->bytes += lane_bytes(lane);
	dlist_init(&lane->ready);
	lane->place = LANE_NOWHERE;

	/* what goes well for others is expected of it */
	lane->breaker.proven = table->proven;
	return lane;
}

/* So many more of its events are in memory, and wait for others (or less). */
void
lane_count_entries(LaneTable *table, RelayLane *lane, int n, int nwaiting)
{
	lane->nentries += n;
	lane->nwaiting += nwaiting;
	lane_update(table, lane);
}

/* One is ready, behind those that are. */
void
lane_add_ready(LaneTable *table, RelayLane *lane, dlist_node *node)
{
	dlist_push_tail(&lane->ready, node);
	lane->nready++;
	lane_update(table, lane);
}

/* One is not ready any more. */
void
lane_remove_ready(LaneTable *table, RelayLane *lane, dlist_node *node)
{
	dlist_delete(node);
	lane->nready--;
	lane_update(table, lane);
}

/* The destination took, or knowingly refused, an event of the lane. */
void
lane_succeeded(LaneTable *table, RelayLane *lane, int64 now)
{
	if (lane->breaker.state != BREAKER_CLOSED)
		lane->recovered_at = now;
	breaker_succeeded(&lane->breaker);
	lane->held_until = 0;
	table->proven = true;
	table->succeeded_at = now;
	table->failures = 0;
	table->nfailing = 0;
	table->period++;
	lane_update(table, lane);
}

/*
 * An event of the lane failed, by its own, the lane's or the destination's
 * fault.  True if that counts as an attempt: the lane is in order, as far as
 * is known, and so is the destination.
 */
bool
lane_failed(LaneTable *table, RelayLane *lane, int64 now)
{
	breaker_failed(&lane->breaker, now);
	if (lane->held_until <= now)
		lane->held_until = 0;
	table->failures++;
	if (lane->failed_in != table->period)
		table->nfailing++;
	lane->failed_in = table->period;
	lane_update(table, lane);
	return breaker_counts_attempt(&lane->breaker) &&
		(guc_breaker_threshold == 0 ||
		 table->failures < guc_breaker_threshold);
}

/* An event was delivered: what is refused from now on has itself to blame. */
void
lane_forget_refusals(LaneTable *table, RelayLane *lane)
{
	lane->refusals = 0;
	table->refusals = 0;
}

/*
 * Is it an event's own fault if it is refused?  Not when so many were in a row that
 * it may as well be the wrong proxy, or a certificate that has expired.
 */
bool
lane_believes_refusal(const LaneTable *table, const RelayLane *lane)
{
	return guc_breaker_threshold == 0 ||
		Max(lane->refusals, table->refusals) < guc_breaker_threshold;
}

/*
 * An event of the lane was refused, which was believed.  True if it is the last
 * one that is, and takes the lane down.
 */
bool
lane_refused(LaneTable *table, RelayLane *lane, int64 id, int64 now)
{
	/* somebody may have had it sent again */
	if (lane->refused_id != id)
	{
		lane->refusals++;
		table->refusals++;
	}
	lane->refused_id = id;
	if (lane_believes_refusal(table, lane))
		return false;
	breaker_open(&lane->breaker, now);
	lane_update(table, lane);
	return true;
}

/* The destination wants nothing of this topic until then; then one first. */
void
lane_hold(LaneTable *table, RelayLane *lane, int64 until)
{
	lane->held_until = Max(lane->held_until, until);
	if (guc_breaker_threshold > 0 && lane->breaker.state == BREAKER_CLOSED)
		lane->breaker.state = BREAKER_HALF_OPEN;
	lane_update(table, lane);
}

/*
 * There are other settings, and so many slots: what failed on account of the
 * old may be well, and lanes that are down may try at once.
 */
void
lanes_reconfigured(LaneTable *table, int nslots, int64 now)
{
	HASH_SEQ_STATUS status;
	RelayLane  *lane;

	table->nslots = nslots;
	hash_seq_init(&status, table->lanes);
	while ((lane = hash_seq_search(&status)) != NULL)
	{
		lane->breaker.failures = 0;
		if (!lane_is_stopped(lane))
			continue;
		breaker_reconfigured(&lane->breaker, now);
		if (guc_breaker_threshold == 0)
			lane->breaker.state = BREAKER_CLOSED;
		lane->held_until = 0;
		lane_update(table, lane);
	}
}

/* An event of the lane has left for the table, to wait there. */
void
lane_has_row(LaneTable *table, RelayLane *lane, int64 id)
{
	lane->walked = lane->tail ? Min(lane->walked, id - 1) : id - 1;
	lane->tail = true;
	lane_update(table, lane);
}

/*
 * The lane, which is asleep, may try an event now, but has none in memory that
 * does not wait.  It is asleep again when it has.
 */
void
lane_ask_for_rows(LaneTable *table, RelayLane *lane)
{
	list_walk(table, lane, true);
	pairingheap_remove(table->asleep, &lane->in_asleep);
	lane->place = LANE_NOWHERE;
}

/* Its next rows have been read; "more": there may be others. */
void
lane_walked(LaneTable *table, RelayLane *lane, bool more)
{
	lane->tail = more;
	list_walk(table, lane, false);
	lane_update(table, lane);
}
