/*-------------------------------------------------------------------------
 *
 * link_internal.h
 *		What the files of a connection share: link.c is built on
 *		link_method.c, and that on link_answer.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_RABBITMQ_LINK_INTERNAL_H
#define OUTBOX_RABBITMQ_LINK_INTERNAL_H

#include "common/byte_queue.h"
#include "common/pipeline.h"
#include "frame.h"
#include "lib/text.h"
#include "link.h"

/* What a connection has: a channel to publish, and one to look around. */
#define CHANNEL_PUBLISH 1
#define CHANNEL_LOOK	2

typedef enum LinkPhase
{
	LINK_CLOSED,
	LINK_CONNECTING,			/* until the network is there */
	LINK_LOGIN,					/* until RabbitMQ has opened the connection */
	LINK_OPENING,				/* until channels and exchange are known */
	LINK_READY
} LinkPhase;

struct RabbitLink
{
	MemoryContext context;		/* holds this and what it points to */
	OutboxPublisherState *state;
	RabbitSettings *settings;	/* its own */
	LinkPhase	phase;
	NetConnection *net;
	PendingRing *pending;
	amqp_pool_t pool;			/* of the frame that is looked at */

	char	   *in;				/* what was received, FRAME_MAX bytes */
	Size		in_len;
	StringInfoData out;			/* written up to its cursor */
	Size		frame_max;

	int64		deadline;		/* in clock_ms(): to be ready, or to have seen
								 * the exchange */
	int64		heartbeat_ms;	/* 0: none */
	int64		sent_at;		/* when anything was sent and received last */
	int64		received_at;

	bool		confirming;		/* the channel to publish is open */
	bool		looking;		/* the exchange was asked for */
	bool		retired;		/* says nothing more of the destination */
	bool		probing;		/* the relay wants to know how it is */
	char		blocked[OUTBOX_ERROR_SIZE]; /* why RabbitMQ takes nothing; "":
											 * it does */

	/* A message that is being returned. */
	bool		returning;		/* its header is expected */
	int			return_status;
	char		return_text[OUTBOX_ERROR_SIZE];
};

/* link_answer.c */
extern void link_tell(RabbitLink *link, bool up, const char *error);
extern void link_confirm(RabbitLink *link, uint64 number, bool multiple,
						 bool taken);
extern void link_note_return(RabbitLink *link, const char *event_id, Size len);
extern void link_fail(RabbitLink *link, const Verdict *verdict);
extern void link_fail_for(RabbitLink *link, OutboxOutcome outcome,
						  const char *format,...) pg_attribute_printf(3, 4);
extern void link_fail_malformed(RabbitLink *link);

/* link_method.c */
extern void link_take_frame(RabbitLink *link, const Frame *frame);
extern void link_look(RabbitLink *link);

#endif							/* OUTBOX_RABBITMQ_LINK_INTERNAL_H */
