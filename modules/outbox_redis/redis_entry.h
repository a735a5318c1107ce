/*-------------------------------------------------------------------------
 *
 * redis_entry.h
 *		An event as an entry of a stream, and other commands of Redis.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REDIS_ENTRY_H
#define REDIS_ENTRY_H

#include "lib/stringinfo.h"
#include "outbox_publisher.h"

/* How entries are made: the settings, as they were when last read. */
typedef struct RedisEntryOptions
{
	const char *stream;			/* a template */
	int			maxlen;			/* about so many entries are kept; 0: all */
	bool		idmp;			/* the server is to drop what it has already */
	bool		structured;		/* an envelope instead of fields */
} RedisEntryOptions;

extern void redis_append_command(StringInfo out, int argc,
								 const char *const *argv);
extern bool redis_entry_append(StringInfo out, const OutboxMessage *message,
							   const RedisEntryOptions *options,
							   const char *source, const char **reason);

#endif							/* REDIS_ENTRY_H */
