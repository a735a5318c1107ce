/*-------------------------------------------------------------------------
 *
 * nats_connection.h
 *		A connection to a server of NATS, from its first word to its last.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NATS_CONNECTION_H
#define NATS_CONNECTION_H

#include "common/module.h"
#include "common/net.h"
#include "nats_login.h"

typedef struct NatsConnection NatsConnection;

/* Where to and as whom; what it points to lasts until the next one is given. */
typedef struct NatsServer
{
	Address		address;
	SSL_CTX    *tls;			/* NULL: without */
	NatsIdentity identity;
} NatsServer;

extern NatsConnection *nats_connection_create(MemoryContext context);
extern void nats_connection_open(NatsConnection *connection,
								 const NatsServer *server, int connect_ms,
								 int login_ms);
extern bool nats_connection_is_closed(const NatsConnection *connection);
extern bool nats_connection_is_ready(const NatsConnection *connection);
extern bool nats_connection_is_leaving(const NatsConnection *connection);
extern const NatsInfo *nats_connection_info(const NatsConnection *connection);
extern const char *nats_connection_inbox(const NatsConnection *connection);
extern Verdict nats_connection_verdict(const NatsConnection *connection);
extern void nats_connection_ping(NatsConnection *connection);
extern uint64 nats_connection_npongs(const NatsConnection *connection);
extern int64 nats_connection_heard_at(const NatsConnection *connection);
extern StringInfo nats_connection_output(NatsConnection *connection);
extern bool nats_connection_read(NatsConnection *connection, NatsFrame *frame,
								 Size *total);
extern Size nats_connection_write(NatsConnection *connection);
extern int	nats_connection_wait_for(NatsConnection *connection,
									 OutboxSocket *socket, int64 *deadline);
extern void nats_connection_close(NatsConnection *connection);
extern void nats_connection_destroy(NatsConnection *connection);

#endif							/* NATS_CONNECTION_H */
