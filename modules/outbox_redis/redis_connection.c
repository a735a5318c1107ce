/*-------------------------------------------------------------------------
 *
 * redis_connection.c
 *		A connection to a server of Redis, and the answers on it.
 *
 *	CLOSED -> CONNECTING -> LOGIN -> READY -> CLOSED
 *
 * It begins with AUTH, if there is a password, and PING, whose answer says that
 * the server is ready.  If WAITAOF is going to be used, the server is asked whether
 * it can do that before anything is written to it.
 *
 * Redis answers in the order of the commands: what is expected next is a queue of
 * one character a command.  Answers to the login are dealt with here; all others
 * are for whoever reads.
 *
 * Memory: the context that it was made in.  hiredis, which takes answers apart, has
 * its own, and throws nothing; nor is anything thrown while it is at work.  Errors:
 * whatever is wrong with the server closes the connection, with a reason; only out
 * of memory is thrown.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/byte_queue.h"
#include "lib/clock.h"
#include "lib/text.h"
#include "redis_connection.h"
#include "redis_entry.h"

#define IN_CHUNK	(16 * 1024)

/* No answer that we ask for has more than a few lines. */
#define MAX_ANSWER	(64 * 1024)

typedef enum RedisPhase
{
	REDIS_CLOSED,
	REDIS_CONNECTING,			/* or in the handshake of TLS */
	REDIS_LOGGING_IN,			/* waiting for the answer to the PING */
	REDIS_OPEN
} RedisPhase;

struct RedisConnection
{
	RedisPhase	phase;
	NetConnection *net;
	const RedisServer *server;	/* that it was opened to; until it is OPEN */
	int64		deadline;		/* until it has to be OPEN, in clock_ms() */
	redisReader *reader;
	redisReply *reply;			/* the last one that somebody has read; or
								 * NULL */
	Size		unanswered;		/* bytes of an answer that is not whole */
	StringInfoData expected;	/* answered up to its cursor */
	StringInfoData out;			/* written up to its cursor */
	char		error[OUTBOX_ERROR_SIZE];
};

RedisConnection *
redis_connection_create(MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	RedisConnection *connection = palloc0(sizeof(RedisConnection));

	connection->net = net_create(context);
	initStringInfo(&connection->expected);
	initStringInfo(&connection->out);
	MemoryContextSwitchTo(old);
	return connection;
}

bool
redis_connection_is_closed(const RedisConnection *connection)
{
	return connection->phase == REDIS_CLOSED;
}

/* Can entries be sent? */
bool
redis_connection_is_ready(const RedisConnection *connection)
{
	return connection->phase == REDIS_OPEN;
}

/* Why it was closed, by the server or by what it did. */
const char *
redis_connection_error(const RedisConnection *connection)
{
	return connection->error;
}

static void
free_reply(RedisConnection *connection)
{
	if (connection->reply)
		freeReplyObject(connection->reply);
	connection->reply = NULL;
}

/* Close it, without waiting for anything. */
void
redis_connection_close(RedisConnection *connection)
{
	net_close(connection->net);
	free_reply(connection);
	if (connection->reader)
		redisReaderFree(connection->reader);
	connection->reader = NULL;
	connection->phase = REDIS_CLOSED;
	resetStringInfo(&connection->expected);
	resetStringInfo(&connection->out);
}

/* The same, for good. */
void
redis_connection_destroy(RedisConnection *connection)
{
	redis_connection_close(connection);
	net_destroy(connection->net);
}

/* Close it for this reason, which may be the reader's, or in a reply. */
static void
connection_failed(RedisConnection *connection, const char *reason)
{
	text_copy_line(connection->error, sizeof(connection->error), reason);
	redis_connection_close(connection);
}

/*
 * Begin to connect: at most "connect_ms" until the socket is connected, and
 * "login_ms" from then on until the server has accepted us.
 */
void
redis_connection_open(RedisConnection *connection, const RedisServer *server,
					  int connect_ms, int login_ms)
{
	Assert(connection->phase == REDIS_CLOSED);
	connection->phase = REDIS_CONNECTING;
	connection->server = server;
	connection->deadline = clock_ms() + connect_ms + login_ms;
	connection->unanswered = 0;
	connection->reader = redisReaderCreate();
	if (connection->reader == NULL)
		connection_failed(connection, "out of memory");
	else if (!net_connect(connection->net, server->address, server->tls, connect_ms))
		connection_failed(connection, net_error(connection->net));
}

/*
 * What is to be written, for a command to be appended; that it was is then noted by
 * redis_connection_expect(), which does not throw.
 */
StringInfo
redis_connection_output(RedisConnection *connection)
{
	enlargeStringInfo(&connection->expected, 1);
	return &connection->out;
}

void
redis_connection_expect(RedisConnection *connection, RedisRequest request)
{
	appendStringInfoChar(&connection->expected, request);
}

/* Send a command of these words. */
void
redis_connection_send(RedisConnection *connection, RedisRequest request, int argc,
					  const char *const *argv)
{
	redis_append_command(redis_connection_output(connection), argc, argv);
	redis_connection_expect(connection, request);
}

/* Say who we are, and ask whether the server is ready. */
static void
log_in(RedisConnection *connection)
{
	const RedisServer *server = connection->server;
	const char *login[] = {"AUTH", server->user, server->password};
	const char *login_default[] = {"AUTH", server->password};
	const char *waitaof[] = {"WAITAOF", "1", "0", "1"};
	const char *ping[] = {"PING"};

	if (server->password && server->user)
		redis_connection_send(connection, REDIS_LOGIN, lengthof(login), login);
	else if (server->password)
		redis_connection_send(connection, REDIS_LOGIN, lengthof(login_default),
							  login_default);
	if (server->needs_waitaof)
		redis_connection_send(connection, REDIS_LOGIN, lengthof(waitaof), waitaof);
	redis_connection_send(connection, REDIS_READY, lengthof(ping), ping);
	connection->phase = REDIS_LOGGING_IN;
}

/* Go on connecting, as far as that is possible now. */
static void
advance_connecting(RedisConnection *connection)
{
	if (!net_advance(connection->net))
		connection_failed(connection, net_error(connection->net));
	else if (net_is_open(connection->net))
		log_in(connection);
}

/* Read what is there, unless enough was read already; false: nothing new. */
static bool
read_chunk(RedisConnection *connection, Size *total)
{
	char		chunk[IN_CHUNK];
	ssize_t		len;

	if (*total >= NET_TURN_BYTES)
		return false;

	/* hiredis would keep whatever comes, until all of it has */
	if (connection->unanswered > MAX_ANSWER)
	{
		connection_failed(connection, "the server's answer is too long");
		return false;
	}
	len = net_read(connection->net, chunk, sizeof(chunk));
	if (len < 0)
		connection_failed(connection, net_error(connection->net));
	if (len <= 0)
		return false;
	*total += len;
	connection->unanswered += len;
	if (redisReaderFeed(connection->reader, chunk, len) == REDIS_OK)
		return true;
	connection_failed(connection, connection->reader->errstr);
	return false;
}

/* Deal with an answer; true if it is for the reader. */
static bool
handle_reply(RedisConnection *connection, RedisRequest request)
{
	const redisReply *reply = connection->reply;

	switch (request)
	{
		case REDIS_LOGIN:
		case REDIS_READY:
			if (reply->type == REDIS_REPLY_ERROR)
				connection_failed(connection, reply->str);
			else if (request == REDIS_READY)
				connection->phase = REDIS_OPEN;
			return false;
		case REDIS_PING:
			if (reply->type != REDIS_REPLY_ERROR)
				return true;
			connection_failed(connection, reply->str);
			return false;
		case REDIS_XADD:
		case REDIS_WAIT:
			return true;
	}

	/* nothing was expected */
	connection_failed(connection, reply->type == REDIS_REPLY_ERROR ?
					  reply->str : "the server says what it was not asked");
	return false;
}

/* Which request the next answer is to; 0: none. */
static RedisRequest
take_expected(RedisConnection *connection)
{
	RedisRequest request = 0;

	if (byte_queue_len(&connection->expected) > 0)
	{
		request = connection->expected.data[connection->expected.cursor];
		byte_queue_take(&connection->expected, 1);
	}
	return request;
}

/*
 * Go on with connecting and reading until there is an answer for the caller, and
 * to what; it is there until the next call.  NULL: there is nothing more now, or
 * the connection is closed.  *total is how many bytes were read; from 0 on, they
 * have a limit.
 */
const redisReply *
redis_connection_read(RedisConnection *connection, RedisRequest *request,
					  Size *total)
{
	if (connection->phase == REDIS_CONNECTING)
		advance_connecting(connection);
	while (connection->phase > REDIS_CONNECTING)
	{
		void	   *reply;

		free_reply(connection);
		if (redisReaderGetReply(connection->reader, &reply) != REDIS_OK)
			connection_failed(connection, connection->reader->errstr);
		else if (reply != NULL)
		{
			connection->reply = reply;
			connection->unanswered = 0;
			*request = take_expected(connection);
			if (handle_reply(connection, *request))
				return connection->reply;
		}
		else if (!read_chunk(connection, total))
			break;
	}
	if (connection->phase != REDIS_CLOSED && connection->phase != REDIS_OPEN &&
		clock_ms() >= connection->deadline)
		connection_failed(connection, "timed out logging in to the server");
	return NULL;
}

/*
 * Write what the socket takes: how many bytes.  0: there is nothing to write, or no
 * room for it, or the connection is closed.
 */
Size
redis_connection_write(RedisConnection *connection)
{
	ssize_t		len;

	if (connection->phase <= REDIS_CONNECTING ||
		byte_queue_len(&connection->out) == 0)
		return 0;
	len = byte_queue_write(&connection->out, connection->net);
	if (len < 0)
		connection_failed(connection, net_error(connection->net));
	return Max(len, 0);
}

/* As net_wait_for(). */
int
redis_connection_wait_for(RedisConnection *connection, OutboxSocket *socket,
						  int64 *deadline)
{
	if (connection->phase != REDIS_CLOSED && connection->phase != REDIS_OPEN)
		*deadline = Min(*deadline, connection->deadline);
	return net_wait_for(connection->net, byte_queue_len(&connection->out) > 0,
						socket, deadline);
}
