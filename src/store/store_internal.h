/*-------------------------------------------------------------------------
 *
 * store_internal.h
 *		What the files of the store share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_STORE_INTERNAL_H
#define OUTBOX_STORE_INTERNAL_H

#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "storage/block.h"
#include "store/store.h"

#define STATEMENT_MAX_ARGS	14

/*
 * A statement with its kept plan.  In the text, @s@ stands for the schema of
 * the extension, quoted, @d@ for the number of the relay's destination, and @e@ for
 * EVENT_COLUMN_LIST; there is no other @.
 */
typedef struct Statement
{
	const char *sql;
	int			nargs;
	Oid			argtypes[STATEMENT_MAX_ARGS];
	SPIPlanPtr	plan;			/* NULL: not prepared for this schema yet */
	struct Statement *next;		/* in the list of prepared ones */
} Statement;

/* What store_event_receiver() takes behind EVENT_COLUMN_LIST, of an event with a
 * row d and of one without, and how many columns these are in all. */
#define STORE_ROW ", d.state, d.attempts, d.crashes, d.renewed_at"
#define STORE_NO_ROW ", NULL::text, NULL::int4, NULL::int4, NULL::timestamptz"
#define STORE_EVENT_COLUMNS	(NEVENT_COLUMNS + 4)

/*
 * This event has no row in outbox_delivery, of none of these destinations; "id" is
 * a column.  They are looked up, whatever the planner thinks of that table: this
 * cannot become a join.
 */
#define HAS_NO_ROW(id, destinations) \
	" (SELECT d.id FROM unnest(" destinations ") n(destination)," \
	"  LATERAL (SELECT d.id FROM @s@.outbox_delivery d" \
	"   WHERE d.destination = n.destination AND d.id = " id " OFFSET 0) d" \
	"  LIMIT 1) IS NULL"

/*
 * A row of the event with this id, to be selected or joined to.  The order has
 * the primary key read: the other index that has an id in it could only be read
 * from end to end.
 */
#define EVENT_BY_ID(columns, id) \
	" (SELECT " columns " FROM @s@.outbox_event e" \
	"  WHERE e.id BETWEEN " id " AND " id " ORDER BY e.id LIMIT 1)"

/* Counters in outbox_progress: X(column, field of StoreCounters); latency comes behind. */
#define STORE_COUNTERS(X) \
	X(published, published) \
	X(failed_attempts, failed_attempts) \
	X(died, died) \
	X(expired, expired) \
	X(duplicates_suppressed, duplicates_suppressed) \
	X(pruned, pruned) \
	X(latency_us, latency.sum_us)

#define COUNTER_NAME(column, field) ", " #column
#define COUNTER_OR_ZERO(column, field) ", coalesce(" #column ", 0)"
#define COUNTER_ONE(column, field) + 1

/* ", published, ..." to be written, and the same of a row that may be missing. */
#define COUNTER_COLUMNS	STORE_COUNTERS(COUNTER_NAME) ", latency"
#define COUNTER_COLUMNS_READ STORE_COUNTERS(COUNTER_OR_ZERO) \
	", coalesce((SELECT array_agg(coalesce(l.n, 0) ORDER BY l.i)" \
	"  FROM unnest(latency) WITH ORDINALITY l(n, i)), '{}')"
#define COUNTERS_NARGS (STORE_COUNTERS(COUNTER_ONE) + 1)

/* What a row becomes whose event is to be sent again. */
#define FRESH(now) \
	" SET state = 'pending', attempts = 0, crashes = 0," \
	" next_attempt_at = " now ", renewed_at = " now "," \
	" updated_at = clock_timestamp()"

/* A transaction of the relay that runs; on the stack of who runs it. */
typedef struct Guard
{
	struct GuardLimit *limit;	/* of its kind */
	int			ms;				/* how long it may take */
	int64		started_at;		/* clock_ms() */
	ErrorContextCallback context;
} Guard;

/* A batch of a prune. */
typedef struct PruneArgs
{
	StorePrune *prune;
	int			limit;
	int64	   *npruned;
	Datum		destinations;	/* int4[]: those that there are */
} PruneArgs;

/* store_guard.c */
extern bool guard_begin(Guard *guard, void (*body) (void *arg));
extern bool guard_interrupted(void);
extern bool guard_timed_out(Guard *guard);
extern void guard_end(Guard *guard, bool ok);

/* store.c */
extern void store_use_schema(Oid nspoid);
extern uint64 store_execute(Statement *stmt, Datum *values, const char *nulls);
extern uint64 store_execute_latest(Statement *stmt, Datum *values);
extern void store_execute_into(Statement *stmt, const Datum *values,
							   DestReceiver *dest);
extern Datum store_result(int row, int column, bool *isnull);
extern Datum store_value(int row, int column);
extern StoreResult store_transaction(void (*body) (void *arg), void *arg);
extern bool store_skips_dead(void);
extern bool store_orders_all_topics(void);
extern Oid	store_relation(const char *name);
extern int	store_destination(void);
extern int	store_last_sqlstate(void);

/* store_destination.c */
extern Datum store_list_destinations(void);

/* store_filter.c */
extern bool store_takes_all(void);

/* store_lock.c */
extern void store_lock_fitting(void);
extern void store_lock_horizon(void);
extern void store_keep_horizon(void);
extern void store_keep_destinations(void);
extern void store_await_deletes(void);
extern bool store_try_to_keep_horizon(void);
extern bool store_has_no_relay(int destination);

/* store_session.c */
extern void store_begin_statements(Oid function);
extern uint64 store_write_for_function(Statement *statement, Datum *values,
									   const char *nulls);

/* store_abandon_position.c */
extern const StoreWindow *abandon_find_window(StoreAbandon *abandon,
											  const StoreWindow *window,
											  StoreWindow *position);

/* store_prune_each.c */
extern bool prune_blames_row(int sqlstate);
extern bool prune_each_late(const PruneArgs *args);
extern bool prune_each_of_walk(const PruneArgs *args);
extern void prune_each_exception(const PruneArgs *args, Statement *statement,
								 Datum *values, const int64 *ids, int n);

/* store_prune_exceptions.c */
extern bool prune_exceptions(const PruneArgs *args);

/* store_prune_dropped.c */
extern bool prune_dropped(const PruneArgs *args);

/* A step of giving up (store_abandon.c). */
typedef struct AbandonArgs
{
	StoreAbandon *abandon;
	const StoreWindow *window;	/* what has been read; NULL: there is no relay */
	int			limit;
	MemoryContext context;		/* of the results */
	List	  **served;
	int64	   *nexpired;
	bool	   *more;
} AbandonArgs;

/* An event by itself, in store_try() */
typedef struct OneAbandoned
{
	AbandonArgs *args;
	const StoreWindow *window;	/* of what is ahead */
	int64		id;
} OneAbandoned;

/* store_abandon_rows.c */
extern StorePlace abandon_place_of(const AbandonArgs *args, int64 id);
extern void abandon_add_served(AbandonArgs *args, int row, bool gone);
extern uint64 abandon_write_rows(AbandonArgs *args, Statement *statement,
								 const int64 *ids, int n);
extern bool abandon_rows(AbandonArgs *args);

/* store_abandon_ahead.c */
extern bool abandon_ahead(AbandonArgs *args);

/* store_delivery.c */
extern Datum store_ids_of_events(const OutboxEvent *const *events, int n);

/* store_try.c */
extern char *store_try(void (*attempt) (void *arg), void *arg,
					   bool (*expected) (int sqlstate));

/* store_counters.c */
extern void counters_to_values(const StoreCounters *counters, Datum *values);
extern void counters_from_result(StoreCounters *counters, int first);

/* store_values.c */
extern Datum store_array(Datum *values, bool *nulls, int n, Oid type);
extern Datum store_id_array(const int64 *ids, int n);
extern int64 *store_ids_of_array(Datum array, int *n);
extern const char *store_state_name(DeliveryState state);
extern DeliveryState store_state(Datum name);
extern char *store_utf8(Datum value);
extern Datum store_text(const char *utf8);

/* store_commit.c */
extern void store_flush_commits(List *events);

/* store_dead.c */
extern bool dead_retry(StoreRequestCursor *cursor, int64 request,
					   const Datum *topic, TimestampTz until, TimestampTz now,
					   int limit);

/* store_event.c */
extern OutboxEvent *store_make_event(StringInfo pool, TupleTableSlot *slot,
									 MemoryContext context);

/* store_receiver.c */
extern DestReceiver *store_event_receiver(List **events, Size max_bytes);
extern DestReceiver *store_new_event_receiver(List **events, Size max_bytes);
extern bool store_event_receiver_stopped(DestReceiver *dest);
extern int	store_event_receiver_nseen(DestReceiver *dest);
extern int64 store_event_receiver_last_id(DestReceiver *dest);

/* store_ids.c */
#define STORE_PRIMARY_KEY	"outbox_event_pkey" /* on (id) */
#define STORE_XID_INDEX		"outbox_event_xid_id_idx"	/* on (xid, id) */

extern void ids_find_range(StoreWindow *window);
extern int64 ids_largest(void);
extern BlockNumber ids_block(int64 id);
extern int	ids_of_window(const StoreWindow *window, int limit,
						  int64 **result);
extern int	ids_behind(uint64 xid, int64 id, int limit, uint64 **xids,
					   int64 **result);

/* store_salvage.c */
extern bool store_read_by_id(const int64 *ids, int n, Size max_bytes,
							 List **events);
extern bool salvage_blames_event(int sqlstate);
extern char *salvage_read_names(StoreDeadEvent *names);
extern bool salvage_runs(void);
extern void salvage_set_aside(int64 id, bool is_new, const char *error);
extern int	salvage_new_events(const int64 *ids, int n, Size max_bytes,
							   List **events);
extern int	salvage_ids_without_row(int64 *ids, int n);
extern bool store_failed_on_event(StoreResult result);
extern StoreResult store_salvage(void (*body) (void *arg), void *arg);

/* store_rows.c */
extern void store_mark_behind_rows(List *events, StoreRowsAfter rows_after,
								   void *arg);

#endif							/* OUTBOX_STORE_INTERNAL_H */
