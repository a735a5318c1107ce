/*-------------------------------------------------------------------------
 *
 * relay.h
 *		The relay: from the tables to the publisher and back.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_RELAY_H
#define OUTBOX_RELAY_H

#include "relay/breaker.h"
#include "publish/publisher_host.h"
#include "relay/relay_queue.h"
#include "server/shmem.h"
#include "store/store.h"

typedef struct Relay
{
	MemoryContext context;		/* lives as long as the process */
	const char *database;
	int64		now;			/* monotonic milliseconds of this step */

	RelayQueue	queue;
	Breaker		breaker;
	bool		configured;		/* the publisher can send */
	bool		exclusive;		/* the one in flight is suspected of a crash */
	int			careful;		/* so many tries are written down beforehand */
	int64		careful_max_id; /* ... of events up to this one */

	/* What the next checkpoint has to write. */
	MemoryContext delivery_context; /* of the errors in deliveries */
	Delivery   *deliveries;
	int			ndeliveries;
	int			deliveries_size;
	int			nsettled;		/* without a row, since the last one */
	int64		dirty_since;	/* 0: there is nothing to write */
	bool		must_checkpoint;	/* the store failed: first see if it works */
	bool		must_flush;		/* the next one takes back a counted crash */

	/* When to do what; monotonic but for next_due. */
	bool		look;			/* there may be new events */
	bool		listening;		/* commits wake us; see relay_read.c */
	int64		look_at;		/* but not before this time */
	int64		found_at;		/* the last look */
	int			nfound;			/* looks in that millisecond that found some */
	int64		poll_at;
	TimestampTz next_due;		/* of the persistent tier */
	TimestampTz due_floor;		/* what was due before is taken */
	int64		due_check_at;	/* do not trust next_due beyond this */
	int64		store_retry_at; /* the store failed: leave it alone until then */
	int64		sweep_at;
	int64		prune_at;
	StorePrune	prune;

	bool		recheck;		/* exceptions were changed by hand */
	bool		extension_gone;
	RelayReport report;
	bool		report_changed;
} Relay;

/* relay.c */
extern Relay *relay_create(const char *database);
extern bool relay_start(Relay *relay);
extern void relay_configure(Relay *relay);
extern long relay_step(Relay *relay);
extern void relay_publisher_failed(Relay *relay);
extern void relay_stop(Relay *relay);
extern bool relay_can_send(Relay *relay);
extern int64 relay_clock(void);

/* relay_read.c */
extern void relay_read_init(Relay *relay);
extern void relay_read(Relay *relay);
extern int64 relay_read_time(Relay *relay);

/* relay_submit.c */
extern bool relay_can_submit(Relay *relay);
extern bool relay_submit(Relay *relay);

/* relay_report.c */
extern void relay_set_status(Relay *relay, RelayStatus status);
extern void relay_note_error(Relay *relay, const char *error);
extern void relay_set_finding(Relay *relay, RelayFinding *finding,
							  const char *problem);
extern void relay_send_report(Relay *relay);

/* relay_settle.c */
extern void relay_admit(Relay *relay, OutboxEvent *event, RelayWindow *window);
extern void relay_settle(Relay *relay, const OutboxAnswer *answer);
extern void relay_spill(Relay *relay);
extern int64 relay_spill_time(Relay *relay);
extern void relay_record_try(Relay *relay, RelayEntry *entry);
extern void relay_release(Relay *relay);

/* relay_checkpoint.c */
extern bool relay_store_ok(Relay *relay, StoreResult result);
extern void relay_add_delivery(Relay *relay, const OutboxEvent *event,
							   DeliveryState state, int attempts, int crashes,
							   TimestampTz next_attempt_at, int last_status,
							   const char *last_error);
extern bool relay_checkpoint(Relay *relay, bool durable, bool clean);
extern bool relay_checkpoint_is_due(Relay *relay);
extern int64 relay_checkpoint_time(Relay *relay);

#endif							/* OUTBOX_RELAY_H */
