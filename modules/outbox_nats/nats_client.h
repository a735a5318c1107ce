/*-------------------------------------------------------------------------
 *
 * nats_client.h
 *		The messages on their way to a server of NATS.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NATS_CLIENT_H
#define NATS_CLIENT_H

#include "nats_connection.h"
#include "nats_message.h"

typedef struct NatsClient NatsClient;

/* What it goes by, from one reading of the settings to the next. */
typedef struct NatsOptions
{
	NatsServer	server;
	NatsMessageOptions message;
} NatsOptions;

extern NatsClient *nats_client_create(OutboxPublisherState *state);
extern void nats_client_configure(NatsClient *client,
								  const NatsOptions *options);
extern void nats_client_submit(NatsClient *client,
							   const OutboxMessage *message);
extern void nats_client_advance(NatsClient *client);
extern int	nats_client_wait_for(NatsClient *client, OutboxSocket *socket,
								 long *timeout_ms);
extern void nats_client_cancel(NatsClient *client, int64 id);
extern void nats_client_probe(NatsClient *client);
extern void nats_client_destroy(NatsClient *client);

#endif							/* NATS_CLIENT_H */
