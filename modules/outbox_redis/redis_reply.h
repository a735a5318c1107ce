/*-------------------------------------------------------------------------
 *
 * redis_reply.h
 *		What an answer of Redis means for an event.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REDIS_REPLY_H
#define REDIS_REPLY_H

#include <hiredis/hiredis.h>
#include <netdb.h>

#include "common/module.h"

/* Who must have an entry before its event is published. */
typedef struct RedisWait
{
	int			replicas;		/* so many, beside the server itself */
	bool		on_disk;		/* and there on disk, with the server */
} RedisWait;

/* Where MOVED says that a stream is. */
typedef struct RedisPlace
{
	char		host[NI_MAXHOST];	/* empty: where the answer is from */
	char		port[sizeof("65535")];
} RedisPlace;

extern bool redis_wait_is_wanted(const RedisWait *wait);
extern void redis_error_judge(const char *error, bool idmp, Verdict *verdict);
extern void redis_wait_judge(const redisReply *reply, const RedisWait *wanted,
							 char *error, Verdict *verdict);
extern bool redis_error_moves(const char *error, RedisPlace *place);

#endif							/* REDIS_REPLY_H */
