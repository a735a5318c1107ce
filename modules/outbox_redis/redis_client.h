/*-------------------------------------------------------------------------
 *
 * redis_client.h
 *		A connection to a server of Redis, and the entries on their way to it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REDIS_CLIENT_H
#define REDIS_CLIENT_H

#include "common/net.h"
#include "redis_entry.h"

typedef struct RedisClient RedisClient;

/* What it goes by, from one reading of the settings to the next. */
typedef struct RedisOptions
{
	Address		address;
	SSL_CTX    *tls;			/* NULL: without */
	const char *user;			/* NULL: the default one */
	const char *password;		/* NULL: no login */
	int			wait;			/* replicas that must have an entry */
	RedisEntryOptions entry;
} RedisOptions;

extern RedisClient *redis_client_create(OutboxPublisherState *state);
extern void redis_client_configure(RedisClient *client,
								   const RedisOptions *options);
extern void redis_client_submit(RedisClient *client,
								const OutboxMessage *message);
extern void redis_client_advance(RedisClient *client);
extern int	redis_client_wait_for(RedisClient *client, OutboxSocket *socket,
								  long *timeout_ms);
extern void redis_client_cancel(RedisClient *client, int64 id);
extern void redis_client_probe(RedisClient *client);
extern void redis_client_destroy(RedisClient *client);

#endif							/* REDIS_CLIENT_H */
