/*-------------------------------------------------------------------------
 *
 * redis_reply.c
 *		What an answer of Redis means for an event.
 *
 * An error begins with a word in capitals that says of what kind it is.  Some are
 * the server's, whatever is written; all others may be those of one stream: it is
 * another type of value, or on another node of a cluster, or not ours to write to.
 *
 * No state; nothing is thrown.
 *
 * Facts: src/server.c, createSharedObjects(), of
 * https://github.com/redis/redis, 7.0.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/text.h"
#include "redis_reply.h"

/* Nothing can be written to this server now. */
static const char *const everybodys[] = {
	"CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOAUTH", "NOREPLICAS", "OOM",
	"READONLY", "BUSY", "UNBLOCKED"
};

/* What this error, the text of a reply, says of the event that was to be added. */
void
redis_error_judge(const char *error, Verdict *verdict)
{
	Size		len = strcspn(error, " ");

	memset(verdict, 0, sizeof(*verdict));
	verdict->outcome = OUTBOX_RETRY;
	verdict->error = error;
	for (int i = 0; i < lengthof(everybodys); i++)
	{
		if (strlen(everybodys[i]) == len &&
			memcmp(error, everybodys[i], len) == 0)
			verdict->outcome = OUTBOX_UNAVAILABLE;
	}
}

/*
 * What the answer to a WAIT for so many replicas says of the entries before it;
 * "error", of OUTBOX_ERROR_SIZE, is for the verdict's.
 */
void
redis_wait_judge(const redisReply *reply, int wanted, char *error,
				 Verdict *verdict)
{
	memset(verdict, 0, sizeof(*verdict));
	verdict->outcome = OUTBOX_DELIVERED;
	if (reply->type == REDIS_REPLY_INTEGER && reply->integer >= wanted)
		return;
	verdict->outcome = OUTBOX_UNAVAILABLE;
	verdict->error = error;
	if (reply->type == REDIS_REPLY_INTEGER)
		snprintf(error, OUTBOX_ERROR_SIZE, "%lld of %d replicas have stored it",
				 reply->integer, wanted);
	else
		text_copy_line(error, OUTBOX_ERROR_SIZE, reply->str ? reply->str :
					   "WAIT was not answered by a number");
}
