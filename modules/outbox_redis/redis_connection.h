/*-------------------------------------------------------------------------
 *
 * redis_connection.h
 *		A connection to a server of Redis, and the answers on it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REDIS_CONNECTION_H
#define REDIS_CONNECTION_H

#include <hiredis/hiredis.h>

#include "lib/stringinfo.h"

#include "common/net.h"

typedef struct RedisConnection RedisConnection;

/* Where to and as whom; what it points to lasts until the next one is given. */
typedef struct RedisServer
{
	const Address *address;
	SSL_CTX    *tls;			/* NULL: without */
	const char *user;			/* NULL: the default one */
	const char *password;		/* NULL: no login */
	bool		needs_waitaof;	/* it is of no use without WAITAOF */
} RedisServer;

/* What an answer is to */
typedef enum RedisRequest
{
	REDIS_LOGIN = 'A',			/* whose only answer that matters is an error */
	REDIS_READY = 'R',			/* the PING behind it */
	REDIS_PING = 'P',
	REDIS_XADD = 'X',
	REDIS_WAIT = 'W'			/* or WAITAOF */
} RedisRequest;

extern RedisConnection *redis_connection_create(MemoryContext context);
extern void redis_connection_open(RedisConnection *connection,
								  const RedisServer *server, int connect_ms,
								  int login_ms);
extern bool redis_connection_is_closed(const RedisConnection *connection);
extern bool redis_connection_is_ready(const RedisConnection *connection);
extern const char *redis_connection_error(const RedisConnection *connection);
extern StringInfo redis_connection_output(RedisConnection *connection);
extern void redis_connection_expect(RedisConnection *connection,
									RedisRequest request);
extern void redis_connection_send(RedisConnection *connection,
								  RedisRequest request, int argc,
								  const char *const *argv);
extern const redisReply *redis_connection_read(RedisConnection *connection,
											   RedisRequest *request,
											   Size *total);
extern Size redis_connection_write(RedisConnection *connection);
extern int	redis_connection_wait_for(RedisConnection *connection,
									  OutboxSocket *socket, int64 *deadline);
extern void redis_connection_close(RedisConnection *connection);
extern void redis_connection_destroy(RedisConnection *connection);

#endif							/* REDIS_CONNECTION_H */
