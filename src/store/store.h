/*-------------------------------------------------------------------------
 *
 * store.h
 *		Every SQL statement that C runs.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_STORE_H
#define OUTBOX_STORE_H

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"
#include "utils/array.h"

#include "lib/latency.h"
#include "lib/text.h"
#include "store/event.h"

typedef enum StoreResult
{
	STORE_OK,
	STORE_NO_EXTENSION,			/* dropped, renamed or replaced: start anew */
	STORE_FAILED				/* logged; store_last_error() tells what */
} StoreResult;

/* pg_snapshot, a varlena; palloc'd. */
typedef struct varlena *StoreSnapshot;

/* So many events may a position pass that are not settled. */
#define STORE_MAX_OPEN	256

/* Counted for a destination since it was made. */
typedef struct StoreCounters
{
	int64		published;
	int64		failed_attempts;
	int64		died;			/* became dead */
	int64		expired;
	int64		duplicates_suppressed;
	int64		pruned;
	LatencyHistogram latency;	/* of what was published, since it was due */
} StoreCounters;

/* The newest row of outbox_progress. */
typedef struct StorePosition
{
	StoreSnapshot lo;
	StoreSnapshot hi;
	int64		last_id;
	int64	   *open;			/* ids of events that are not settled though
								 * it has passed them */
	int			nopen;
	int64		largest_read;	/* of all events that were ever read */
	bool		clean;
	StoreCounters counters;
	int64		max_id;			/* of the events that are there now */
} StorePosition;

/* The events visible in "hi" and not in "lo"; see store_window.c. */
typedef struct StoreWindow
{
	StoreSnapshot lo;
	StoreSnapshot hi;
	int64		cursor;			/* events up to this id have been read */
	const int64 *open;			/* to be read first, in order: what the
								 * position that it begins at has passed */
	int			nopen;
	int64		min_id;			/* range of ids of transactions from xmax(lo)
								 * on */
	int64		max_id;			/* less than min_id: there are none */
	ArrayType  *late;			/* xid8[]: transactions that "lo" saw running */
	bool		replay;			/* when it was opened, something was to be
								 * sent again: it may be of keys of its events */
	bool		opened;			/* hi, min_id, max_id and late are set */
	bool		exhausted;		/* everything has been read */
} StoreWindow;

/* What one checkpoint writes. */
typedef struct StoreCheckpoint
{
	const Delivery *deliveries;
	int			ndeliveries;
	StorePosition position;
	bool		durable;		/* flush before returning */
} StoreCheckpoint;

/* A key within its topic, both UTF-8 and palloc'd, and a row of it. */
typedef struct StoreKey
{
	char	   *topic;
	char	   *key;
	int64		id;
} StoreKey;

/*
 * Where a reader of rows by a time stands: when they become due (store_walk.c), or
 * died (store_dead.c).
 */
typedef struct StoreTimeCursor
{
	TimestampTz time;
	int64		id;
} StoreTimeCursor;

/* Rows that were read back: what can be sent, and keys to be looked into. */
typedef struct StoreRows
{
	List	   *events;			/* OutboxEvent *: of no key */
	List	   *keys;			/* StoreKey *: some more than once */
	bool		more;			/* there are further rows behind these */
} StoreRows;

/* What is behind the rows of a key that may be sent. */
typedef enum StoreKeyRest
{
	KEY_END,					/* nothing */
	KEY_MORE,					/* further rows, to be read later */
	KEY_WAITS					/* one that must not be sent now */
} StoreKeyRest;

/* The rows of a key that may be sent, one after the other. */
typedef struct StoreKeyRows
{
	List	   *events;			/* OutboxEvent * */
	int64		last;			/* rows up to this id were looked at */
	int64		first;			/* there is no unsettled row before this id */
	int			ndead;			/* entries of settled rows that were passed */
	int64		unread;			/* the next one's event has not been read from
								 * a window; 0: it has, or there is none */
	StoreKeyRest rest;
} StoreKeyRows;

/*
 * Behind which id rows of the event's key are to be looked for; PG_INT64_MAX: not
 * at all.
 */
typedef int64 (*StoreRowsAfter) (const OutboxMessage *msg, void *arg);

/* Where a look at events that are not read yet stands; see store_ahead.c. */
typedef struct StoreAhead
{
	StoreSnapshot seen;			/* what was visible when it came ... */
	int64		at;				/* ... to this id */
} StoreAhead;

/* What it has found. */
typedef enum StoreFound
{
	FOUND_END,					/* nothing, and there is no more */
	FOUND_MORE,					/* nothing yet */
	FOUND_OTHER					/* an event that does not wait for others */
} StoreFound;

/* Would an event have to wait for others?  "key" is NULL if it has none. */
typedef bool (*StoreWaits) (const char *topic, const char *key, void *arg);

/*
 * Where the reader of requests stands; see store_request.c.  Zeroes: at the
 * beginning.
 */
typedef struct StoreRequestCursor
{
	int64		done;			/* there are none up to this id, nor will be */
	int64		seen;			/* those up to this id were served ... */
	uint64		seen_before;	/* ... as far as transactions before this one
								 * had not ended later */
	int64		retrying;		/* the one for the dead that is served ... */
	StoreTimeCursor died;		/* ... and up to where: store_dead.c */
} StoreRequestCursor;

/* An event that a request has concerned. */
typedef struct StoreServed
{
	StoreKey	key;			/* id of the event; topic NULL: it has no key,
								 * or has no row */
	bool		gone;			/* given up or deleted; else due now */
} StoreServed;

/* What a prune does, in this order. */
typedef enum PruneStep
{
	PRUNE_LATE,					/* events of transactions that ended late */
	PRUNE_WALK,					/* the other events */
	PRUNE_EXCEPTIONS,			/* those with rows */
	PRUNE_POSITIONS,			/* old ones */
	PRUNE_THINNING,				/* all but one a second */
	PRUNE_NOTES,				/* of restores */
	PRUNE_FILTERS,				/* versions that hold for no event */
	PRUNE_DROPPED,				/* what is left of destinations */
	PRUNE_DONE
} PruneStep;

/* Where a prune stands; see store_prune.c. */
typedef struct StorePrune
{
	MemoryContext context;		/* of the snapshots */
	StoreSnapshot done;			/* pruned is what is visible in it */
	StoreSnapshot target;		/* and will be in this; NULL: none chosen */
	uint64		cursor_xid;
	int64		cursor_id;
	uint64		start_xid;		/* where the walk to the target began */
	int64		start_id;
	PruneStep	step;
	bool		one_by_one;		/* a batch of the step has failed ... */
	int64		tried_id;		/* ... and ids up to this one were tried */
	int			exception_of;	/* exceptions of destinations before this one
								 * were looked at ... */
	int			exception_state;	/* ... and of this one, states before this
									 * one ... */
	StoreTimeCursor exception;	/* ... and in this one, those up to here */
	int64		nresisting;		/* rows that this prune could not delete */
	char		problem[OUTBOX_ERROR_SIZE]; /* why; empty: all is well */
} StorePrune;

/* Where an event is, as far as a relay's memory goes. */
typedef enum StorePlace
{
	PLACE_TABLE,				/* not in memory */
	PLACE_MEMORY,				/* it waits there */
	PLACE_IN_FLIGHT
} StorePlace;

/* A pass that gives up what is too old; see store_abandon.c. */
typedef struct StoreAbandon
{
	MemoryContext context;		/* of the snapshots */
	int			destination;
	TimestampTz until;			/* what is as old as this */
	char		reason[OUTBOX_ERROR_SIZE];
	StorePlace	(*place) (int64 id, void *arg);
	void	   *arg;

	/* where it stands; zeroes: at the beginning */
	bool		rows_done;		/* all rows have been looked at ... */
	int64		row;			/* ... or those up to this id ... */
	uint64		xid;			/* ... and events up to this (xid, id) */
	int64		id;
	StoreSnapshot seen;			/* when the walk over events began; NULL: it
								 * has not */
	StoreSnapshot hi;			/* of the window that was read then */
	uint64		left;			/* the first transaction of which something is
								 * left; 0: none */
	int64		largest;		/* id that was met */
	bool		unread;			/* there is something that the position does
								 * not cover, and may pass */
} StoreAbandon;

/* What a relay knows of its destination; see store_destination.c. */
typedef struct StoreDestination
{
	char	   *name;			/* NULL: there is no such destination */
	bool		paused;
	char	   *settings;		/* as a text, to be compared */
	char	   *source;			/* of the events of its database */
} StoreDestination;

/* A setting that is another one for a destination. */
typedef struct StoreSetting
{
	char	   *name;
	char	   *value;
} StoreSetting;

/* Another destination of the database. */
typedef struct StoreOther
{
	int			id;
	char	   *name;
	char	   *abandon_after;	/* the setting; NULL: it has none of its own */
} StoreOther;

/*
 * An event that is dead because it cannot be read, or since relays crashed with it; texts
 * are UTF-8.
 */
typedef struct StoreDeadEvent
{
	int64		id;
	uint64		xid;			/* 0, if not even that can be read */
	char	   *event_id;		/* NULL, as what follows: it can't either */
	char	   *topic;
	char	   *key;			/* or it has none */
	char	   *error;			/* never NULL; in the server's encoding */
} StoreDeadEvent;

/* store.c: the relay's transactions */
extern StoreResult store_attach(int destination);
extern bool store_is_relay(void);
extern const char *store_extension_version(void);
extern const char *store_last_error(void);
extern StoreSnapshot store_copy_snapshot(StoreSnapshot snapshot);

/* store_destination.c */
extern StoreResult store_read_destination(StoreDestination *destination);
extern StoreResult store_read_settings(List **settings);
extern StoreResult store_list_others(List **others);
extern StoreResult store_ensure_position(void);

/* store_filter.c: which events it takes */
extern StoreResult store_read_filter(void);
extern StoreResult store_begin_filter(StoreSnapshot since);
extern bool store_takes(uint64 xid, const char *topic);

/* store_lock.c */
extern bool store_lock_destination(void);
extern bool store_lock_pruning(void);

/* store_position.c */
extern bool store_is_visible(StoreSnapshot snapshot, uint64 xid);
extern bool store_is_covered(const StorePosition *position, uint64 xid,
							 int64 id);
extern bool store_has_read(const StoreWindow *window, uint64 xid, int64 id);

/* store_fit.c: what a relay sets right before it begins */
extern StoreResult store_fit_position(bool *set_back);
extern StoreResult store_lift_sequences(void);

/* store_guard.c: how long they may take */
extern void store_interrupt(void);
extern void store_allow_last(int limit_ms);

/* store_plan.c */
extern void store_plan_for_large_tables(void);

/* store_window.c: new events */
extern StoreResult store_load_position(StorePosition *position);
extern bool store_nothing_since(StoreSnapshot snapshot);
extern StoreResult store_read_window(StoreWindow *window,
									 MemoryContext window_context, int limit,
									 Size max_bytes,
									 StoreRowsAfter rows_after, void *arg,
									 List **events, int *npassed);

/* store_ahead.c: events that are not read yet */
extern StoreResult store_look_ahead(StoreAhead *ahead, MemoryContext context,
									int limit, StoreWaits waits, void *arg,
									StoreFound *found);

/* store_walk.c: taking exceptions back */
extern StoreResult store_read_due(StoreTimeCursor *cursor, TimestampTz now,
								  int limit, StoreRows *rows);
extern StoreResult store_next_due(const StoreTimeCursor *cursor,
								  TimestampTz *due);
extern void store_free_keys(List *keys);
extern StoreResult store_walk_rows(int64 *cursor, int limit, int max_events,
								   StoreRows *rows);
extern StoreResult store_walk_topic(const char *topic, int64 *cursor,
									int limit, int max_events,
									StoreRows *rows);

/* store_rows.c: those of a key */
extern StoreResult store_read_key(const StoreKey *key, int64 after,
								  const StoreWindow *window, TimestampTz now,
								  int limit, Size max_bytes,
								  StoreKeyRows *rows);

/* store_salvage.c: events that cannot be read */
extern List *store_take_unreadable(void);
extern void store_free_dead(List *list);

/* store_take_over.c */
extern StoreResult store_take_over(int minimum_interval_ms, bool died,
								   const OutboxEvent *const *events, int n,
								   List **dead);

/* store_delivery.c: exceptions and checkpoints */
extern StoreResult store_checkpoint(StoreCheckpoint *checkpoint);
extern StoreResult store_find_deleted(const OutboxEvent *const *events, int n,
									  List **gone);

/* store_abandon.c */
extern void store_begin_abandon(StoreAbandon *abandon, int destination,
								TimestampTz until);
extern StoreResult store_abandon_step(StoreAbandon *abandon,
									  const StoreWindow *window, int limit,
									  List **served, int64 *nexpired, bool *more);

/* store_abandon_position.c */
extern StoreResult store_pass_abandoned(StoreAbandon *abandon,
										const StoreWindow *window,
										StorePosition *position, bool *moved);

/* store_prune.c */
extern StoreResult store_prune_step(StorePrune *prune, int limit,
									int64 *npruned, bool *more);

/* store_request.c: what people ask */
extern StoreResult store_serve_requests(StoreRequestCursor *cursor,
										const StoreWindow *window,
										bool (*in_memory) (int64 id, void *arg),
										void *arg, TimestampTz now, int limit,
										List **served, List **replaying,
										bool *more);

/* A destination, as a user wants it. */
typedef struct StoreDefinition
{
	Datum		name;			/* text */
	Datum		topics;			/* text[]; or 0: as they are */
	Datum		settings;		/* jsonb; or 0: as they are */
} StoreDefinition;

/* store_session.c: in the caller's transaction */
typedef struct StorePublish
{
	Datum		topic;
	Datum		payload;		/* jsonb; or 0 */
	Datum		body;			/* bytea; or 0 */
	Datum		content_type;	/* text; or 0, as all that follow */
	Datum		key;
	Datum		type;
	Datum		event_id;
	Datum		metadata;
	Datum		deliver_after;
	Datum		expires_at;
	bool		may_exist;		/* event_id was given by the user */
} StorePublish;

extern bool store_in_function(void);
extern bool store_publish(Oid function, const StorePublish *event);
extern void store_note_restore(Oid schema, int64 nevents);
extern int64 store_count_unsettled(Oid schema, Oid owner, int64 limit);

/* store_ask.c: likewise */
extern void store_retry(Oid function, Datum event_id, Datum destination);
extern void store_discard(Oid function, Datum event_id, Datum destination);
extern int64 store_retry_dead(Oid function, Datum topic, Datum destination);
extern int64 store_replay(Oid function, Datum destination, Datum topic,
						  Datum since);
extern void store_forget(Oid function, Datum id);
extern void store_forget_all(Oid function);

/* store_source.c: likewise */
extern void store_clear_source(Oid function);

/* store_define.c: likewise */
extern bool store_add_destination(Oid function, const StoreDefinition *definition,
								  bool from_start);
extern void store_alter_destination(Oid function,
									const StoreDefinition *definition);
extern int64 store_drop_destination(Oid function, Datum name);
extern void store_pause_destination(Oid function, Datum name, bool paused);
extern char *store_destination_setting(Oid function, Datum name,
									   const char *setting);

#endif							/* OUTBOX_STORE_H */
