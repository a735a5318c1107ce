/*-------------------------------------------------------------------------
 *
 * broker_client.h
 *		What a module with one connection has of its own.
 *
 * broker_publisher.c, which is compiled into the module, makes a publisher of it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_BROKER_CLIENT_H
#define OUTBOX_BROKER_CLIENT_H

#include "common/broker_settings.h"
#include "outbox_publisher.h"

extern const BrokerKind broker_kind;
extern BrokerVariables broker_variables;

/* A connection to the broker, and the messages on their way to it. */
typedef struct BrokerClient BrokerClient;

/* One without a connection, in state->context. */
extern BrokerClient *broker_client_create(OutboxPublisherState *state);

/*
 * The settings, as broker_kind reads them, have changed; these hold until the next
 * call.  What is in flight goes on with the connection that it was sent on.
 */
extern void broker_client_configure(BrokerClient *client,
									const BrokerSettings *settings);

/* Take a message, or take note of a question, for broker_client_advance(). */
extern void broker_client_submit(BrokerClient *client,
								 const OutboxMessage *message);
extern void broker_client_probe(BrokerClient *client);

/* Go on as far as that is possible now. */
extern void broker_client_advance(BrokerClient *client);

/* What to wait for (0 or 1 sockets), and for how long: as in OutboxSocketsCB. */
extern int	broker_client_wait_for(BrokerClient *client, OutboxSocket *socket,
								   long *timeout_ms);

/* Nobody waits any longer for the answer to this message. */
extern void broker_client_cancel(BrokerClient *client, int64 id);

/* Close the connection without waiting for anything. */
extern void broker_client_destroy(BrokerClient *client);

#endif							/* OUTBOX_BROKER_CLIENT_H */
