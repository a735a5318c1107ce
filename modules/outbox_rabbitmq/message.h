/*-------------------------------------------------------------------------
 *
 * message.h
 *		From an event to a message of AMQP.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_RABBITMQ_MESSAGE_H
#define OUTBOX_RABBITMQ_MESSAGE_H

#include "lib/stringinfo.h"
#include "outbox_publisher.h"

#include "settings.h"

extern const char *message_put(StringInfo out, uint16 channel, Size frame_max,
							   const OutboxMessage *message,
							   const RabbitSettings *settings);

#endif							/* OUTBOX_RABBITMQ_MESSAGE_H */
