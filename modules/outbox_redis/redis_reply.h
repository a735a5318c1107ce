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

#include "common/module.h"

extern void redis_error_judge(const char *error, Verdict *verdict);
extern void redis_wait_judge(const redisReply *reply, int wanted, char *error,
							 Verdict *verdict);

#endif							/* REDIS_REPLY_H */
