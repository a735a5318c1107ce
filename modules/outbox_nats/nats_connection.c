/*-------------------------------------------------------------------------
 *
 * nats_connection.c
 *		A connection to a server of NATS, from its first word to its last.
 *
 *	CLOSED -> CONNECTING -> HELLO -> (TLS: CONNECTING) -> LOGIN -> READY -> CLOSED
 *
 * The server speaks first (INFO); we say who we are, subscribe to the inbox where
 * answers go, and ask for a PONG, which says that both were accepted.  What the
 * server says of itself is dealt with here; what it says of messages is for
 * whoever reads.
 *
 * Memory: the context that it was made in.  The buffer for reading keeps the size
 * that it once needed.  Errors: whatever is wrong with the server closes the
 * connection, with a reason; only out of memory is thrown.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/byte_queue.h"
#include "lib/clock.h"
#include "lib/text.h"
#include "nats_connection.h"

#define IN_CHUNK	(64 * 1024)

/* What is said of one subject, after which the connection goes on. */
#define PUBLISH_VIOLATION "Permissions Violation for Publish"

/* Errors that one of our messages may be to blame for; others are everybody's. */
static const char *const blaming_errors[] = {
	"Maximum Payload", "Maximum Control Line", "Unknown Protocol", "Parser Error",
	"Invalid"
};

typedef enum NatsPhase
{
	NATS_CLOSED,
	NATS_CONNECTING,			/* or in the handshake of TLS */
	NATS_HELLO,					/* waiting for INFO */
	NATS_LOGIN,					/* waiting for the first PONG */
	NATS_READY
} NatsPhase;

struct NatsConnection
{
	NatsPhase	phase;
	NetConnection *net;
	const NatsServer *server;	/* that it was opened to; until it is READY */
	int64		deadline;		/* until it has to be READY, in clock_ms() */
	bool		tls_is_on;
	int64		heard_at;		/* when anything was read last, in clock_ms() */
	uint64		npongs;			/* of all connections */
	NatsInfo	info;
	char		inbox[NATS_INBOX_SIZE];
	StringInfoData in;			/* handled up to its cursor */
	StringInfoData out;			/* written up to its cursor */
	OutboxOutcome outcome;		/* of what was sent, since it was closed */
	bool		blame;			/* one of these may be the reason for its end */
	char		error[OUTBOX_ERROR_SIZE];
};

NatsConnection *
nats_connection_create(MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	NatsConnection *connection = palloc0(sizeof(NatsConnection));

	connection->net = net_create(context);
	initStringInfo(&connection->in);
	initStringInfo(&connection->out);
	MemoryContextSwitchTo(old);
	return connection;
}

bool
nats_connection_is_closed(const NatsConnection *connection)
{
	return connection->phase == NATS_CLOSED;
}

/* Can messages be sent? */
bool
nats_connection_is_ready(const NatsConnection *connection)
{
	return connection->phase == NATS_READY;
}

/* Has the server said that it is about to end, and that we should leave it? */
bool
nats_connection_is_leaving(const NatsConnection *connection)
{
	return connection->phase == NATS_READY && connection->info.lame_duck;
}

/* What the server says of itself. */
const NatsInfo *
nats_connection_info(const NatsConnection *connection)
{
	return &connection->info;
}

/* What the subjects of all answers begin with. */
const char *
nats_connection_inbox(const NatsConnection *connection)
{
	return connection->inbox;
}

/* Why it was closed, by the server or by what it did: what is to be said of messages. */
Verdict
nats_connection_verdict(const NatsConnection *connection)
{
	Verdict		verdict = {
		.outcome = connection->outcome,
		.alone = connection->blame,
		.error = connection->error
	};

	return verdict;
}

/* How many answers to PINGs have been read, ever. */
uint64
nats_connection_npongs(const NatsConnection *connection)
{
	return connection->npongs;
}

/* When the server has last said anything, in clock_ms(). */
int64
nats_connection_heard_at(const NatsConnection *connection)
{
	return connection->heard_at;
}

/* What is to be written, for messages to be appended. */
StringInfo
nats_connection_output(NatsConnection *connection)
{
	return &connection->out;
}

/* Close it, without waiting for anything. */
void
nats_connection_close(NatsConnection *connection)
{
	net_close(connection->net);
	connection->phase = NATS_CLOSED;
	resetStringInfo(&connection->in);
	resetStringInfo(&connection->out);
}

/* The same, for good. */
void
nats_connection_destroy(NatsConnection *connection)
{
	nats_connection_close(connection);
	net_destroy(connection->net);
}

/* Close it for this reason, which may be in one of its buffers. */
static void
connection_failed(NatsConnection *connection, const char *reason)
{
	text_copy_line(connection->error, sizeof(connection->error), reason);
	nats_connection_close(connection);
}

/*
 * Begin to connect: at most "connect_ms" until the socket is connected, and
 * "login_ms" from then on until the server has accepted us.
 */
void
nats_connection_open(NatsConnection *connection, const NatsServer *server,
					 int connect_ms, int login_ms)
{
	Assert(connection->phase == NATS_CLOSED);
	connection->phase = NATS_CONNECTING;
	connection->server = server;
	connection->tls_is_on = false;
	connection->outcome = OUTBOX_RETRY;
	connection->blame = false;
	connection->deadline = clock_ms() + connect_ms + login_ms;
	if (!net_connect(connection->net, &server->address, NULL, connect_ms))
		connection_failed(connection, net_error(connection->net));
}

/* Ask the server for a PONG. */
void
nats_connection_ping(NatsConnection *connection)
{
	appendStringInfoString(&connection->out, "PING\r\n");
}

/* The server has said who it is: say who we are. */
static void
log_in(NatsConnection *connection)
{
	const char *reason;

	if (!connection->info.headers)
		reason = "the server has no headers, which JetStream's ids need";
	else if (!nats_inbox_make(connection->inbox))
		reason = "no random numbers can be had";
	else if (nats_login_append(&connection->out, &connection->server->identity,
							   &connection->info, connection->tls_is_on,
							   &reason))
	{
		appendStringInfo(&connection->out, "SUB %s* 1\r\nPING\r\n",
						 connection->inbox);
		connection->phase = NATS_LOGIN;
		return;
	}
	connection_failed(connection, reason);
}

/* INFO: the server's first word, or news. */
static void
handle_info(NatsConnection *connection, const NatsFrame *frame)
{
	const NatsServer *server = connection->server;

	if (!nats_info_parse(&frame->words, &connection->info))
		connection_failed(connection, "the server's INFO is not JSON");
	else if (connection->phase != NATS_HELLO)
		return;
	else if (server->tls == NULL)
		log_in(connection);
	else if (!connection->info.tls_offered)
		connection_failed(connection, "the server does not offer TLS");
	else
	{
		/* who has added something to INFO in clear text is not the server */
		resetStringInfo(&connection->in);
		connection->tls_is_on = true;
		connection->phase = NATS_CONNECTING;
		if (!net_start_tls(connection->net, server->tls))
			connection_failed(connection, net_error(connection->net));
	}
}

/* Is this an error that the server goes on after? */
static bool
is_of_one_subject(const char *error)
{
	return pg_strncasecmp(error, PUBLISH_VIOLATION,
						  strlen(PUBLISH_VIOLATION)) == 0;
}

/* -ERR: true if it is for the reader, else it is the end. */
static bool
handle_error(NatsConnection *connection, const NatsFrame *frame)
{
	const char *error = pnstrdup(frame->words.data, frame->words.len);

	if (connection->phase == NATS_READY && is_of_one_subject(error))
		return true;
	connection->outcome = OUTBOX_UNAVAILABLE;
	for (int i = 0; i < lengthof(blaming_errors); i++)
	{
		if (pg_strncasecmp(error, blaming_errors[i],
						   strlen(blaming_errors[i])) != 0)
			continue;
		connection->outcome = OUTBOX_RETRY;
		connection->blame = true;
	}
	connection_failed(connection, psprintf("the server said: %s", error));
	return false;
}

/* Deal with a frame; true if it is for the reader. */
static bool
handle_frame(NatsConnection *connection, const NatsFrame *frame)
{
	/* a server introduces itself first */
	if (connection->phase == NATS_HELLO && frame->op != NATS_INFO &&
		frame->op != NATS_ERR)
	{
		connection_failed(connection, "the server does not speak NATS");
		return false;
	}
	switch (frame->op)
	{
		case NATS_INFO:
			handle_info(connection, frame);
			return false;
		case NATS_ERR:
			return handle_error(connection, frame);
		case NATS_MSG:
			return connection->phase == NATS_READY;
		case NATS_PING:
			appendStringInfoString(&connection->out, "PONG\r\n");
			return false;
		case NATS_PONG:
			connection->npongs++;
			if (connection->phase == NATS_LOGIN)
				connection->phase = NATS_READY;
			return false;
		default:
			return false;
	}
}

/*
 * Read what is there, behind what was read before, unless enough was read already;
 * false: nothing new.
 */
static bool
read_chunk(NatsConnection *connection, Size *total)
{
	StringInfo	in = &connection->in;
	ssize_t		len;

	if (*total >= NET_TURN_BYTES)
		return false;
	memmove(in->data, in->data + in->cursor, in->len - in->cursor);
	in->len -= in->cursor;
	in->cursor = 0;
	enlargeStringInfo(in, IN_CHUNK);
	len = net_read(connection->net, in->data + in->len, IN_CHUNK);
	if (len < 0)
		connection_failed(connection, net_error(connection->net));
	if (len <= 0)
		return false;
	*total += len;
	in->len += len;
	connection->heard_at = clock_ms();
	return true;
}

/* Go on connecting, as far as that is possible now. */
static void
advance_connecting(NatsConnection *connection)
{
	if (!net_advance(connection->net))
		connection_failed(connection, net_error(connection->net));
	else if (net_is_open(connection->net))
	{
		connection->phase = NATS_HELLO;
		if (connection->tls_is_on)
			log_in(connection);
	}
}

/*
 * Go on with connecting and reading until there is a frame for the caller: an
 * acknowledgement (NATS_MSG), or an error of one subject (NATS_ERR); it points
 * into a buffer, until the next call.  False: there is nothing more now, or the
 * connection is closed.  *total is how many bytes were read; from 0 on, they have
 * a limit.
 */
bool
nats_connection_read(NatsConnection *connection, NatsFrame *frame, Size *total)
{
	if (connection->phase == NATS_CONNECTING)
		advance_connecting(connection);
	while (connection->phase > NATS_CONNECTING)
	{
		StringInfo	in = &connection->in;
		Size		len = nats_parse(in->data + in->cursor,
									 in->len - in->cursor, frame);

		if (frame->op == NATS_INVALID)
			connection_failed(connection, "the server does not speak NATS");
		else if (frame->op == NATS_INCOMPLETE)
		{
			if (!read_chunk(connection, total))
				break;
		}
		else
		{
			in->cursor += len;
			if (handle_frame(connection, frame))
				return true;
		}
	}
	if (connection->phase != NATS_CLOSED && connection->phase != NATS_READY &&
		clock_ms() >= connection->deadline)
		connection_failed(connection, "timed out logging in to the server");
	return false;
}

/*
 * Write what the socket takes: how many bytes.  0: there is nothing to write, or no
 * room for it, or the connection is closed.
 */
Size
nats_connection_write(NatsConnection *connection)
{
	ssize_t		len;

	if (connection->phase <= NATS_CONNECTING || byte_queue_len(&connection->out) == 0)
		return 0;
	len = byte_queue_write(&connection->out, connection->net);
	if (len < 0)
		connection_failed(connection, net_error(connection->net));
	return Max(len, 0);
}

/* As net_wait_for(). */
int
nats_connection_wait_for(NatsConnection *connection, OutboxSocket *socket,
						 int64 *deadline)
{
	if (connection->phase != NATS_CLOSED && connection->phase != NATS_READY)
		*deadline = Min(*deadline, connection->deadline);
	return net_wait_for(connection->net,
						byte_queue_len(&connection->out) > 0, socket, deadline);
}
