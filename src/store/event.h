/*-------------------------------------------------------------------------
 *
 * event.h
 *		An event in the relay's memory, as the store reads it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_EVENT_H
#define OUTBOX_EVENT_H

#include "datatype/timestamp.h"
#include "outbox_publisher.h"

/* A relay that crashed so often with an event in flight won't try it again. */
#define EVENT_MAX_CRASHES 3

/* One chunk of memory, strings and payload included. */
typedef struct OutboxEvent
{
	OutboxMessage msg;
	Size		size;			/* of the chunk */
	uint64		xid;			/* full id of the transaction that published
								 * it */
	TimestampTz deliver_after;	/* 0: at once */
	TimestampTz expires_at;		/* 0: never */
	TimestampTz since;			/* it could have been delivered */
	TimestampTz tried_at;		/* the last try of this relay; 0: none */
	bool		behind_rows;	/* of a new one: its key has rows already */
	bool		stored;			/* has a row in outbox_delivery */
	bool		waited;			/* ... which only says that it waits */
	int			attempts;		/* counted tries before */
	int			crashes;		/* of the relay, with this event in flight */
} OutboxEvent;

/* States of a row in outbox_delivery that the relay writes: X(NAME, name). */
#define DELIVERY_STATES(X) \
	X(SCHEDULED, scheduled) \
	X(PENDING, pending) \
	X(IN_PROGRESS, in_progress) \
	X(PUBLISHED, published) \
	X(FAILED, failed) \
	X(DEAD, dead) \
	X(EXPIRED, expired)

/* DELIVERY_SCHEDULED and so on. */
#define DELIVERY_STATE(NAME, name) DELIVERY_##NAME,

typedef enum DeliveryState
{
	DELIVERY_STATES(DELIVERY_STATE)
	NDELIVERY_STATES,
	DELIVERY_GONE				/* published, after a row that only waited */
} DeliveryState;

/* A row to be written to outbox_delivery. */
typedef struct Delivery
{
	int64		id;
	uint64		xid;			/* the event's */
	DeliveryState state;
	int			attempts;
	int			crashes;
	TimestampTz next_attempt_at;	/* 0: none */
	int			last_status;	/* 0: none */
	const char *last_error;		/* or NULL; in the server's encoding */
	TimestampTz tried_at;		/* the last try; 0: none since the row was
								 * written */
} Delivery;

#endif							/* OUTBOX_EVENT_H */
