/*-------------------------------------------------------------------------
 *
 * relay_internal.h
 *		What the files of the relay share.
 *
 * Each part of the relay belongs to one file: others read it, or call that
 * file's functions.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_RELAY_INTERNAL_H
#define OUTBOX_RELAY_INTERNAL_H

#include "publish/publisher_host.h"
#include "relay/breaker.h"
#include "relay/relay.h"
#include "relay/relay_queue.h"
#include "server/shmem.h"
#include "store/store.h"

/* What this relay is for: relay_destination.c. */
typedef struct RelayDestination
{
	int			id;				/* 0: default */
	char	   *name;			/* NULL: not known yet, as what follows */
	char	   *settings;		/* as they were when the relay started */
	char	   *source;			/* of events, likewise */
	bool		paused;
	bool		changed;		/* somebody has changed something */
	bool		ends;			/* it is gone, or has other settings, or the
								 * database another source */
	bool		applied;		/* the settings are in use */
	int64		look_at;		/* look for changes, and for other
								 * destinations */
	char		problem[OUTBOX_ERROR_SIZE]; /* of a setting; empty: none */
} RelayDestination;

/* When to read new events: relay_read.c.  Times are monotonic. */
typedef struct RelayReader
{
	bool		look;			/* there may be new events */
	int64		look_at;		/* but not before this time */
	bool		listening;		/* commits wake us */
	int64		found_at;		/* the last look */
	int			nfound;			/* looks in that millisecond that found some */
	int64		poll_at;		/* look anyway */
	int64		sweep_at;		/* compare memory with the table */
	int64		largest_read;	/* id of all events that were ever read */
} RelayReader;

/* What people ask for: relay_requests.c. */
typedef struct RelayRequests
{
	bool		asked;			/* somebody may have asked for something */
	StoreRequestCursor cursor;	/* what was asked for and is served */
	List	   *replaying;		/* patterns of topics of which events are yet
								 * to be sent again */
} RelayRequests;

/* What is to be taken back from the table: relay_rows.c. */
typedef struct RelayRows
{
	bool		sweep;			/* events may have been deleted */
	StoreTimeCursor due;		/* rows due up to here are taken */
	TimestampTz next_due;		/* of the next one; wall clock */
	bool		walking;		/* rows behind "walked" are to be looked at */
	int64		walked;
} RelayRows;

/* Care after a crash: relay_submit.c. */
typedef struct RelaySender
{
	int			careful;		/* so many tries are written down beforehand */
	int64		careful_max_id; /* ... of events up to this one */
} RelaySender;

/* What is behind a memory that is full: relay_ahead.c. */
typedef struct RelayAhead
{
	StoreAhead	store;			/* looked at up to here ... */
	int64		window;			/* ... from the window of this number */
	int64		again_at;		/* look again; 0: others were found, if any */
} RelayAhead;

/* What the next checkpoint has to write: relay_checkpoint.c. */
typedef struct RelayJournal
{
	MemoryContext context;		/* of the errors in deliveries */
	Delivery   *deliveries;
	int			ndeliveries;
	int			size;			/* of the array */
	int			nsettled;		/* without a row, since the last one */
	int64		dirty_since;	/* 0: there is nothing to write */
	int64		changed_since;	/* something is to be written that can wait;
								 * 0: nothing is */
	TimestampTz earliest_due;	/* of the rows since relay_take_due() */
	bool		must_checkpoint;	/* the store failed: first see if it works */
	bool		must_flush;		/* the next one takes back a counted crash */
	int64		retry_at;		/* the store failed: leave it alone until then */
	bool		extension_gone;
} RelayJournal;

/* What the relay tells about itself: relay_report.c. */
typedef struct RelayReporter
{
	RelayReport report;
	bool		changed;		/* since it was sent */
	TopicsReport topics;
	int64		topics_sent_at;
} RelayReporter;

/* What the log is told, and not yet: relay_log.c. */
typedef struct RelayLog
{
	bool		told_down;		/* the log says that the destination is */
	int64		nuntold;		/* events that died and are not in the log */
	int64		tell_at;		/* ... and when to say so, if there are any */
	char		untold[OUTBOX_ERROR_SIZE + 2 * TOPIC_SIZE]; /* the last one */
} RelayLog;

/* An event that is dead, for the log. */
typedef struct RelayDeadEvent
{
	int64		id;
	const char *event_id;
	const char *topic;
	int			attempts;		/* 0: it could not be read */
	int			status;			/* 0: there was none */
	const char *error;
} RelayDeadEvent;

/* When to delete what was published: relay_prune.c. */
typedef struct RelayPruner
{
	StorePrune	store;
	int64		at;				/* the next batch */
	int			failures;		/* in a row */
	bool		mine;			/* no other relay of the database prunes */
} RelayPruner;

/* When to give up what was not delivered: relay_abandon.c. */
typedef struct RelayAbandoner
{
	StoreAbandon store;			/* the pass that is made, if one is */
	bool		passing;
	List	   *destinations;	/* those of the round, and what is told of
								 * them */
	int			current;		/* which of them it has come to */
	int64		at;				/* the next batch */
	int64		spent;			/* milliseconds by the batches of the round */
} RelayAbandoner;

struct Relay
{
	MemoryContext context;		/* lives as long as the process */
	const char *database;		/* its name */
	int64		now;			/* monotonic milliseconds of this step */

	RelayDestination destination;
	PublisherHost *publisher;
	bool		configured;		/* it can send; relay_configure.c */
	int64		configure_at;	/* when to see again whether it can */
	Breaker		breaker;
	RelayQueue	queue;

	RelayReader reader;
	RelayRequests requests;
	RelayRows	rows;
	RelayAhead	ahead;
	RelaySender sender;
	RelayJournal journal;
	RelayReporter reporter;
	StoreCounters counters;		/* relay_count.c */
	RelayLog	log;
	RelayPruner pruner;
	RelayAbandoner abandoner;

	/* relay_cut.c */
	int64		full_since;		/* memory, of what waits; 0: it is not */

	/* relay_settle.c */
	int64		recovered_at;	/* the last time that not all failed any more,
								 * or somebody was there again */
	int64		answers_at;		/* the "now" in which answers were last taken */
	bool		stood_still;	/* for long, before that */
};

/* relay_destination.c */
extern void relay_destination_init(Relay *relay, int id);
extern bool relay_begin_destination(Relay *relay);
extern void relay_follow_destination(Relay *relay);
extern int64 relay_destination_time(const Relay *relay);
extern bool relay_is_enabled(const Relay *relay);

/* relay_configure.c */
extern void relay_configure_again(Relay *relay);
extern int64 relay_configure_time(const Relay *relay);

/* relay_log.c */
extern void relay_log_status(Relay *relay, RelayStatus status);
extern void relay_log_lane(Relay *relay, RelayLane *lane,
						   const OutboxAnswer *failure);
extern void relay_log_dead(Relay *relay, const RelayDeadEvent *event);
extern void relay_log_untold(Relay *relay, bool end);
extern int64 relay_log_time(const Relay *relay);

/* relay_report.c */
extern void relay_set_status(Relay *relay, RelayStatus status);
extern void relay_note_error(Relay *relay, const char *error);
extern void relay_found_configured(Relay *relay, const char *problem);
extern void relay_found_endpoint(Relay *relay, const char *problem);
extern void relay_found_pruning(Relay *relay, const char *problem);
extern void relay_found_next_prune(Relay *relay, int64 wait);
extern void relay_found_notice(Relay *relay, OutboxNotice notice, bool known,
							   const char *problem);
extern void relay_forget_endpoint(Relay *relay);
extern void relay_report_lane(Relay *relay, RelayLane *lane,
							  const OutboxAnswer *failure);
extern int64 relay_report_time(const Relay *relay);
extern void relay_send_report(Relay *relay);

/* relay_count.c */
extern void relay_count_published(Relay *relay, const RelayEntry *entry);
extern void relay_count_failure(Relay *relay, const char *error);
extern void relay_count_dead(Relay *relay);
extern void relay_found_dead(Relay *relay, const List *events);
extern void relay_count_expired(Relay *relay, int64 n);
extern void relay_count_pruned(Relay *relay, int64 n);
extern void relay_count_duplicates(Relay *relay);

/* relay_abandon.c */
extern void relay_abandon_init(Relay *relay);
extern void relay_abandon_configure(Relay *relay);
extern void relay_abandon(Relay *relay);

/* relay_prune.c */
extern void relay_prune_init(Relay *relay);
extern void relay_prune_configure(Relay *relay);
extern void relay_prune(Relay *relay);

/* relay_checkpoint.c */
extern void relay_journal_init(Relay *relay);
extern bool relay_store_ok(Relay *relay, StoreResult result);
extern void relay_add_delivery(Relay *relay, const OutboxEvent *event,
							   DeliveryState state, int attempts, int crashes,
							   TimestampTz next_attempt_at, int last_status,
							   const char *last_error);
extern void relay_note_settled(Relay *relay);
extern void relay_note_changed(Relay *relay);
extern void relay_flush_next(Relay *relay);
extern TimestampTz relay_take_due(Relay *relay);
extern bool relay_checkpoint(Relay *relay, bool durable, bool clean);
extern int64 relay_checkpoint_time(const Relay *relay);

/* relay_room.c */
extern Size relay_event_memory(const Relay *relay);
extern bool relay_can_send(const Relay *relay);
extern bool relay_has_to_replay(const Relay *relay);
extern bool relay_has_backlog(const Relay *relay);
extern bool relay_has_room(const Relay *relay);
extern Size relay_room_for_rows(const Relay *relay);
extern bool relay_has_room_for_rows(const Relay *relay);
extern bool relay_is_short(const Relay *relay);
extern bool relay_wants_events(const Relay *relay);
extern bool relay_wants_rows(const Relay *relay);

/* relay_ahead.c */
extern bool relay_others_wait(Relay *relay);
extern void relay_forget_ahead(Relay *relay);

/* relay_spill.c */
extern void relay_store_key(Relay *relay, KeyQueue *key);
extern void relay_add_to_lane(Relay *relay, OutboxEvent *event);
extern void relay_add_to_tail(Relay *relay, OutboxEvent *event);
extern void relay_retire_key(Relay *relay, RelayEntry *entry);
extern void relay_spill_entry(Relay *relay, RelayEntry *entry);
extern void relay_spill(Relay *relay);
extern int64 relay_spill_time(Relay *relay);
extern void relay_release(Relay *relay);

/* relay_cut.c */
extern void relay_yield_to_row(Relay *relay, const char *topic, const char *name);
extern void relay_make_room(Relay *relay);
extern int64 relay_make_room_time(const Relay *relay);

/* relay_expire.c */
extern bool relay_is_over(const OutboxEvent *event);
extern int	relay_ttl_seconds(const OutboxEvent *event);
extern void relay_expire_event(Relay *relay, const OutboxEvent *event);
extern void relay_expire_entry(Relay *relay, RelayEntry *entry);
extern void relay_expire(Relay *relay);
extern int64 relay_expire_time(const Relay *relay);

/* relay_settle.c */
extern void relay_settle(Relay *relay, const OutboxAnswer *answer);
extern void relay_take_answers(Relay *relay);
extern void relay_give_up_in_flight(Relay *relay, const char *reason);
extern void relay_recall_in_flight(Relay *relay);

/* relay_submit.c */
extern void relay_be_careful(Relay *relay, int64 max_id);
extern int	relay_slots(const Relay *relay);
extern bool relay_can_submit(Relay *relay);
extern bool relay_submit(Relay *relay);

/* relay_requests.c */
extern void relay_requests_init(Relay *relay);
extern void relay_apply_served(Relay *relay, const StoreServed *served,
							   TimestampTz now);
extern void relay_serve_requests(Relay *relay);
extern void relay_expect_replay(Relay *relay);
extern bool relay_is_replaying(const Relay *relay, const char *topic);

/* relay_rows.c */
extern void relay_rows_init(Relay *relay);
extern void relay_rows_configure(Relay *relay);
extern void relay_sweep_next(Relay *relay);
extern void relay_forget_entry(Relay *relay, RelayEntry *entry);
extern void relay_hear_of_due_at(RelayRows *rows, TimestampTz due);
extern void relay_walk_rows(RelayRows *rows);
extern bool relay_may_look_for_keys(const Relay *relay);
extern bool relay_rows_wanted(Relay *relay);
extern void relay_take_rows(Relay *relay);
extern int64 relay_rows_time(Relay *relay);

/* relay_read.c */
extern void relay_read_init(Relay *relay);
extern void relay_read_configure(Relay *relay);
extern void relay_hear_of_unreadable(Relay *relay);
extern void relay_read(Relay *relay);
extern int64 relay_read_time(Relay *relay);

#endif							/* OUTBOX_RELAY_INTERNAL_H */
