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
 * Facts: src/server.c, createSharedObjects(), and src/t_stream.c of
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

/* What a server that does not know IDMP takes it for: the id of an entry. */
#define BAD_ID "ERR Invalid stream ID"

#define MOVED "MOVED "

/* Has anybody to have an entry but the server's memory? */
bool
redis_wait_is_wanted(const RedisWait *wait)
{
	return wait->replicas > 0 || wait->on_disk;
}

/*
 * What this error, the text of a reply, says of the event that was to be added,
 * with or without IDMP.
 */
void
redis_error_judge(const char *error, bool idmp, Verdict *verdict)
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

	/* ours is always "*" */
	if (idmp && strncmp(error, BAD_ID, strlen(BAD_ID)) == 0)
	{
		verdict->outcome = OUTBOX_UNAVAILABLE;
		verdict->error = "the server does not know IDMP of XADD, which Redis has from 8.6 on: set outbox_redis.idmp to off";
	}
}

/* Has everybody an entry who must, by this answer? */
static bool
is_enough(const redisReply *reply, const RedisWait *wanted)
{
	if (!wanted->on_disk)
		return reply->type == REDIS_REPLY_INTEGER &&
			reply->integer >= wanted->replicas;
	return reply->type == REDIS_REPLY_ARRAY && reply->elements == 2 &&
		reply->element[0]->type == REDIS_REPLY_INTEGER &&
		reply->element[0]->integer >= 1 &&
		reply->element[1]->type == REDIS_REPLY_INTEGER &&
		reply->element[1]->integer >= wanted->replicas;
}

/*
 * What the answer to a WAIT or a WAITAOF says of the entries before it; "error", of
 * OUTBOX_ERROR_SIZE, is for the verdict's.
 */
void
redis_wait_judge(const redisReply *reply, const RedisWait *wanted, char *error,
				 Verdict *verdict)
{
	memset(verdict, 0, sizeof(*verdict));
	verdict->outcome = OUTBOX_DELIVERED;
	if (is_enough(reply, wanted))
		return;
	verdict->outcome = OUTBOX_UNAVAILABLE;
	verdict->error = error;
	if (reply->type == REDIS_REPLY_ERROR)
		text_copy_line(error, OUTBOX_ERROR_SIZE, reply->str);
	else if (!wanted->on_disk && reply->type == REDIS_REPLY_INTEGER)
		snprintf(error, OUTBOX_ERROR_SIZE, "%lld of %d replicas have stored it",
				 reply->integer, wanted->replicas);
	else if (wanted->on_disk && reply->type == REDIS_REPLY_ARRAY)
		snprintf(error, OUTBOX_ERROR_SIZE,
				 "the server or one of %d replicas does not have it on disk in time",
				 wanted->replicas);
	else
		strlcpy(error, "WAIT was not answered by a number", OUTBOX_ERROR_SIZE);
}

/* Is the stream of this error on another node of a cluster, and where? */
bool
redis_error_moves(const char *error, RedisPlace *place)
{
	const char *host;
	const char *colon;

	if (strncmp(error, MOVED, strlen(MOVED)) != 0)
		return false;

	/* MOVED slot host:port, in which the host may be an IPv6 address */
	host = strchr(error + strlen(MOVED), ' ');
	colon = strrchr(error, ':');
	if (host == NULL || colon == NULL || colon <= host ||
		colon - ++host >= sizeof(place->host) ||
		strlcpy(place->port, colon + 1, sizeof(place->port)) >= sizeof(place->port))
		return false;
	memcpy(place->host, host, colon - host);
	place->host[colon - host] = '\0';
	return true;
}
