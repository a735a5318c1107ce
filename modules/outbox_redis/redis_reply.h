/*-------------------------------------------------------------------------
 *
 * redis_reply.h
 *		What an error of Redis means for an event.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REDIS_REPLY_H
#define REDIS_REPLY_H

#include "common/module.h"

extern void redis_error_judge(const char *error, Verdict *verdict);

#endif							/* REDIS_REPLY_H */
