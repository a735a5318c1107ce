/*-------------------------------------------------------------------------
 *
 * link.h
 *		A connection to RabbitMQ, and the messages that go through it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_RABBITMQ_LINK_H
#define OUTBOX_RABBITMQ_LINK_H

#include "outbox_publisher.h"

#include "settings.h"

typedef struct RabbitLink RabbitLink;

extern RabbitLink *link_create(OutboxPublisherState *state,
							   RabbitSettings *settings);
extern bool link_replace_settings(RabbitLink *link, RabbitSettings *settings);
extern void link_retire(RabbitLink *link);
extern void link_submit(RabbitLink *link, const OutboxMessage *message);
extern void link_forget(RabbitLink *link, int64 id);
extern void link_probe(RabbitLink *link);
extern void link_advance(RabbitLink *link);
extern int	link_wait_for(RabbitLink *link, OutboxSocket *socket,
						  int64 *deadline);
extern bool link_is_idle(const RabbitLink *link);
extern void link_destroy(RabbitLink *link);

#endif							/* OUTBOX_RABBITMQ_LINK_H */
