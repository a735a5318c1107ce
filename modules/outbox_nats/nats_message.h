/*-------------------------------------------------------------------------
 *
 * nats_message.h
 *		An event as a message of NATS.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NATS_MESSAGE_H
#define NATS_MESSAGE_H

#include "lib/stringinfo.h"
#include "outbox_publisher.h"

/* How messages are made: the settings, as they were when last read. */
typedef struct NatsMessageOptions
{
	const char *subject;		/* a template */
	const char *expect_stream;	/* empty: any */
	bool		structured;		/* an envelope instead of headers */
} NatsMessageOptions;

extern const char *nats_message_subject(const NatsMessageOptions *options,
										const OutboxMessage *message,
										const char **reason);
extern bool nats_message_append(StringInfo out, const OutboxMessage *message,
								const NatsMessageOptions *options,
								const char *source, const char *subject,
								const char *reply, Size max_payload,
								const char **reason);

#endif							/* NATS_MESSAGE_H */
