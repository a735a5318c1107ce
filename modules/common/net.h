/*-------------------------------------------------------------------------
 *
 * net.h
 *		A connection to a broker that never waits, with or without TLS.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_NET_H
#define OUTBOX_NET_H

#include "outbox_publisher.h"

#include "common/address.h"
#include "common/tls.h"

/* So much is read or written in one go, before others have their turn. */
#define NET_TURN_BYTES	(1024 * 1024)

typedef struct NetConnection NetConnection;

extern NetConnection *net_create(MemoryContext context);
extern bool net_connect(NetConnection *net, const Address *address,
						SSL_CTX *tls, int timeout_ms);
extern bool net_start_tls(NetConnection *net, SSL_CTX *tls);
extern bool net_advance(NetConnection *net);
extern bool net_is_open(const NetConnection *net);
extern bool net_is_closed(const NetConnection *net);
extern ssize_t net_read(NetConnection *net, void *buf, Size size);
extern ssize_t net_write(NetConnection *net, const void *buf, Size size);
extern int	net_wait_for(NetConnection *net, bool to_write,
						 OutboxSocket *socket, int64 *deadline);
extern const char *net_error(const NetConnection *net);
extern void net_close(NetConnection *net);
extern void net_destroy(NetConnection *net);

#endif							/* OUTBOX_NET_H */
