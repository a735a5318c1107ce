/*-------------------------------------------------------------------------
 *
 * relay_lane.h
 *		Topics in the relay's memory: which of them may send now.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_RELAY_LANE_H
#define OUTBOX_RELAY_LANE_H

#include "lib/ilist.h"
#include "lib/pairingheap.h"
#include "utils/hsearch.h"

#include "relay/breaker.h"
#include "server/shmem.h"

/* A lane whose answers take longer in the mean is slow. */
#define LANE_SLOW_MS	250

/* What is known of how fast a lane is answered. */
typedef enum LanePace
{
	PACE_UNKNOWN,				/* nothing was answered yet */
	PACE_FAST,
	PACE_SLOW,
	NPACES
} LanePace;

/* Where a lane waits for its turn. */
typedef enum LanePlace
{
	LANE_FAST,					/* in a list: to send, as are the next three */
	LANE_SLOW,
	LANE_NEW,					/* nothing answered, nothing in flight */
	LANE_UNANSWERED,			/* nothing answered, something in flight */
	NLANE_LISTS,
	LANE_ASLEEP = NLANE_LISTS,	/* in a heap: down, or held */
	LANE_NOWHERE,				/* nothing to send, or an answer comes first */
	NLANE_PLACES
} LanePlace;

/* A topic's name, hashed. */
typedef struct LaneId
{
	uint64		a;
	uint64		b;
} LaneId;

/* One topic. */
typedef struct RelayLane
{
	LaneId		id;				/* hash key */
	char	   *topic;
	int			nentries;		/* in memory */
	int			nwaiting;		/* ... of these, for others of their keys */
	dlist_head	ready;			/* of RelayEntries, to be submitted */
	int			nready;
	int			nrequests;		/* in flight */
	bool		tail;			/* rows of it may be pending in the table ... */
	int64		walked;			/* ... none of them up to this id */
	dlist_head *walks;			/* that of LaneTable.walks it is in; or NULL */
	dlist_node	in_walks;
	int64		walk_number;	/* in the order of asking */
	int64		passed_by;		/* LaneTable.look that has passed events of it */

	Breaker		breaker;		/* OPEN, HALF_OPEN: it is down */
	bool		probing;		/* HALF_OPEN: an event is trying */
	int64		held_until;		/* the destination asked for this; 0: not */
	int64		recovered_at;	/* the last time that it was in order again */
	uint32		failed_in;		/* LaneTable.period of the last failure */
	int			refusals;		/* events refused since one was delivered */
	int64		refused_id;		/* the last one of them */

	LanePace	pace;
	double		mean_ms;		/* of the answers' times */
	int64		waits_since;	/* for any answer; if it has requests */
	bool		watched;		/* it may turn out to be slow */
	dlist_node	in_watched;

	LanePlace	place;
	dlist_node	node;			/* in the list of its place */
	pairingheap_node in_asleep;
	int64		wake_at;		/* ASLEEP: when it may try */
	int			counted;		/* of "nready", in LaneTable.nready */
	bool		counted_working;	/* in LaneTable.nworking */
	bool		counted_down;	/* in LaneTable.ndown */

	bool		unused;			/* it is in LaneTable.unused */
	dlist_node	in_unused;

	bool		in_trouble;		/* it is in LaneTable.troubles ... */
	dlist_node	in_troubles;
	TimestampTz trouble_since;	/* ... since then; wall clock */
	bool		counted_held;	/* in LaneTable.nheld */
	char	   *last_error;		/* NULL unless it is down or held */
	int			last_status;	/* 0: none */

	bool		told_down;		/* relay_log.c: the log says so */
	int64		published;		/* relay_report.c: since the lane was made */
} RelayLane;

/* All topics that something is known of; see relay_lane.c. */
typedef struct LaneTable
{
	MemoryContext context;
	HTAB	   *lanes;
	dlist_head	lists[NLANE_LISTS];
	int			nslots;			/* most requests in flight */
	int			turn;			/* the list that is asked first */
	pairingheap *asleep;
	dlist_head	walks[NPACES];	/* lanes whose rows are to be read, by pace;
								 * what is to try is with the fast */
	int64		nwalks;			/* so many were asked for */
	int64		look;			/* the present look ahead; see relay_ahead.c */
	bool		missed;			/* what it has passed waits no more */
	dlist_head	watched;		/* the longest without an answer first */
	dlist_head	unused;			/* nothing to do; the oldest first */
	int			nunused;
	Size		bytes;			/* of lanes, names and errors */

	dlist_head	troubles;		/* down or held with events; the oldest first */
	int			ntroubles;
	int			nheld;			/* of these, the ones that are held */
	bool		troubles_changed;	/* since lanes_report_troubles() */

	int			nready[NLANE_PLACES];	/* entries */
	int			nrequests[NPACES];	/* in flight, by the lane's pace */
	double		first_ms;		/* mean time until a lane's first answer */
	int			nprobes;
	int			nworking;		/* lanes with events that are not down */
	int			ndown;			/* ... and that are */

	bool		proven;			/* an event has gone through */
	int64		succeeded_at;	/* the last one */
	int			failures;		/* since then, in all lanes */
	int			nfailing;		/* lanes that had one since then */
	int			refusals;		/* in all lanes, since one was delivered */
	uint32		period;			/* counts successes */
} LaneTable;

/* relay_lane.c */
extern void lanes_init(LaneTable *table, MemoryContext context);
extern RelayLane *lanes_find(const LaneTable *table, const char *topic);
extern RelayLane *lanes_make(LaneTable *table, const char *topic);
extern void lane_update(LaneTable *table, RelayLane *lane);
extern void lane_count_entries(LaneTable *table, RelayLane *lane, int n,
							   int nwaiting);
extern void lane_add_ready(LaneTable *table, RelayLane *lane, dlist_node *node);
extern void lane_remove_ready(LaneTable *table, RelayLane *lane,
							  dlist_node *node);
extern void lane_succeeded(LaneTable *table, RelayLane *lane, int64 now);
extern bool lane_failed(LaneTable *table, RelayLane *lane, int64 now);
extern void lane_forget_refusals(LaneTable *table, RelayLane *lane);
extern bool lane_believes_refusal(const LaneTable *table,
								  const RelayLane *lane);
extern bool lane_refused(LaneTable *table, RelayLane *lane, int64 id,
						 int64 now);
extern void lane_hold(LaneTable *table, RelayLane *lane, int64 until);
extern void lanes_reconfigured(LaneTable *table, int nslots, int64 now);
extern bool lane_sends_one(const LaneTable *table, const RelayLane *lane);
extern bool lane_is_down(const RelayLane *lane);
extern bool lane_is_stopped(const RelayLane *lane);
extern bool lanes_suspect_outage(const LaneTable *table);
extern void lane_has_row(LaneTable *table, RelayLane *lane, int64 id);
extern void lane_ask_for_rows(LaneTable *table, RelayLane *lane);
extern void lane_walked(LaneTable *table, RelayLane *lane, bool more);

/* relay_pace.c */
extern void lane_request_begins(LaneTable *table, RelayLane *lane, int64 now);
extern void lane_request_ends(LaneTable *table, RelayLane *lane);
extern void lane_answered(LaneTable *table, RelayLane *lane, int64 ms,
						  int64 now);
extern void lanes_find_slow(LaneTable *table, int64 now);

/* relay_trouble.c */
extern void lane_list_trouble(LaneTable *table, RelayLane *lane, bool listed,
							  bool held);
extern void lane_note_error(LaneTable *table, RelayLane *lane,
							const char *error, int status);
extern void lane_forget_error(LaneTable *table, RelayLane *lane);
extern void lanes_report_troubles(LaneTable *table, int64 now,
								  TopicsReport *report);

/* relay_turn.c */
extern RelayLane *lanes_next(LaneTable *table, int64 now);
extern bool lane_waits_long(const LaneTable *table, const RelayLane *lane);
extern void lanes_look_anew(LaneTable *table);
extern bool lanes_pass(LaneTable *table, const char *topic);
extern void lanes_take_turn(LaneTable *table, RelayLane *lane);
extern RelayLane *lanes_next_walk(const LaneTable *table);
extern int	lanes_ready(const LaneTable *table);
extern int	lanes_ready_to_go(const LaneTable *table);
extern bool lanes_all_down(const LaneTable *table, int64 now);
extern int64 lanes_wake_time(const LaneTable *table, int64 now);

#endif							/* OUTBOX_RELAY_LANE_H */
