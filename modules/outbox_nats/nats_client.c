/*-------------------------------------------------------------------------
 *
 * nats_client.c
 *		The messages on their way to a server of NATS.
 *
 * There is one connection (nats_connection.c), made when there is something to
 * send, and kept.  Messages are written as fast as the socket takes them.  Each is
 * acknowledged for itself, so that one that is not in time is that message's
 * failure as long as the server is heard of otherwise, which a PING makes sure of.
 * A server that is not heard of is gone: the connection is closed, and all that
 * was sent is to be sent again, where JetStream drops what it has by its id.
 *
 * When settings change, or the server says that it is about to end, nothing more
 * is sent; when all answers are there, what comes next makes a new connection.
 *
 * Memory: state->context; messages are not copied but for what waits to be
 * written.  Errors: those of the server are answers; only out of memory is thrown.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/broker_client.h"
#include "common/byte_queue.h"
#include "common/pipeline.h"
#include "lib/clock.h"
#include "nats_settings.h"
#include "nats_protocol.h"

/* As long as so much waits to be written, no message is added to it. */
#define OUT_ENOUGH	(256 * 1024)

/* A server has so long to answer a PING, even beyond a message's time. */
#define PONG_MS		500

struct BrokerClient
{
	OutboxPublisherState *state;
	const NatsSettings *settings;
	NatsConnection *connection;
	PendingRing *ring;
	bool		in_use;			/* the connection: answers are expected of it */
	bool		was_ready;		/* messages may have been sent on it */
	bool		draining;		/* send nothing more on it */
	int64		asked_at;		/* when the server was asked whether it is
								 * there; 0: it has said something since */
	bool		probing;		/* somebody waits for more PONGs than these, */
	uint64		npongs;
	int64		probe_deadline; /* until this, in clock_ms() */
};

/* A client of "state", without a connection. */
BrokerClient *
broker_client_create(OutboxPublisherState *state)
{
	BrokerClient *client = MemoryContextAllocZero(state->context,
												  sizeof(BrokerClient));

	client->state = state;
	client->connection = nats_connection_create(state->context);
	client->ring = pending_create(state->context);
	return client;
}

/* Close the connection; nobody waits for an answer on it. */
static void
leave_connection(BrokerClient *client)
{
	nats_connection_close(client->connection);
	client->in_use = client->was_ready = false;
	client->draining = false;
}

/*
 * The connection is of no use: say this of what was sent on it, and to all others
 * that wait.
 */
static void
give_up_connection(BrokerClient *client, const Verdict *sent)
{
	bool		tell = client->probing || !client->was_ready ||
	sent->outcome == OUTBOX_UNAVAILABLE;

	leave_connection(client);
	client->probing = false;
	pipeline_lost(client->state, client->ring, sent, tell);
}

/* If it was closed by what happened on it, answer what will not be answered now. */
static void
notice_closing(BrokerClient *client)
{
	Verdict		verdict = nats_connection_verdict(client->connection);

	if (client->in_use && nats_connection_is_closed(client->connection))
		give_up_connection(client, &verdict);
}

/* Begin to connect, if there is a reason to. */
static void
connect_if_needed(BrokerClient *client)
{
	OutboxPublisherState *state = client->state;

	if (client->in_use ||
		(!client->probing && !pending_first_unsent(client->ring)))
		return;
	client->in_use = true;
	client->asked_at = 0;
	pending_restart_numbers(client->ring);
	nats_connection_open(client->connection, &client->settings->server,
						 state->connect_timeout, state->request_timeout);
	notice_closing(client);
}

void
broker_client_configure(BrokerClient *client, const BrokerSettings *settings)
{
	client->settings = (const NatsSettings *) settings;

	/* what was sent is answered on the connection that it was sent on */
	if (pending_nsent(client->ring) > 0)
		client->draining = true;
	else
		leave_connection(client);
}

/* An acknowledgement. */
static void
handle_reply(BrokerClient *client, const NatsFrame *frame)
{
	uint64		number = nats_inbox_number(nats_connection_inbox(client->connection),
										   &frame->subject);
	Pending    *pending = pending_find(client->ring, number);
	Verdict		verdict;

	if (pending == NULL)
		return;
	nats_reply_judge(frame, nats_connection_info(client->connection), &verdict);
	pipeline_answer(client->state, client->ring, pending, &verdict);
}

/*
 * We may not publish to the subject that the error has in quotes: what was sent
 * there fails, since no other answer will come.
 */
static void
fail_subject(BrokerClient *client, const NatsText *words)
{
	const char *error = pnstrdup(words->data, words->len);
	const char *subject = strchr(error, '"');
	int			len = subject ? strcspn(++subject, "\"") : 0;
	Verdict		verdict = {.outcome = OUTBOX_RETRY,.error = error};

	for (uint64 number = pending_oldest_number(client->ring);
		 number < pending_next_number(client->ring); number++)
	{
		Pending    *pending = pending_find(client->ring, number);
		const char *own;
		const char *reason;

		if (pending == NULL || pending->message == NULL)
			continue;
		own = nats_message_subject(&client->settings->message, pending->message,
								   &reason);
		if (own && strlen(own) == len && memcmp(own, subject, len) == 0)
			pipeline_answer(client->state, client->ring, pending, &verdict);
	}
}

/* Take what the server says. */
static void
read_answers(BrokerClient *client)
{
	NatsFrame	frame;
	Size		total = 0;

	while (nats_connection_read(client->connection, &frame, &total))
	{
		if (frame.op == NATS_MSG)
			handle_reply(client, &frame);
		else
			fail_subject(client, &frame.words);
	}
	if (nats_connection_heard_at(client->connection) >= client->asked_at)
		client->asked_at = 0;
	notice_closing(client);
	client->was_ready |= nats_connection_is_ready(client->connection);
	if (client->probing && nats_connection_is_ready(client->connection) &&
		nats_connection_npongs(client->connection) > client->npongs)
	{
		client->probing = false;
		outbox_probe_answer(client->state, true, NULL);
	}
}

/* Append the next message to what is written; or refuse it. */
static void
send_first_unsent(BrokerClient *client)
{
	const OutboxMessage *message = pending_first_unsent(client->ring);
	const char *problem;
	const char *subject;
	const char *reply;

	subject = nats_message_subject(&client->settings->message, message,
								   &problem);
	reply = nats_inbox_subject(nats_connection_inbox(client->connection),
							   pending_next_number(client->ring));
	if (subject &&
		nats_message_append(nats_connection_output(client->connection), message,
							&client->settings->message, client->state->source,
							subject, reply,
							nats_connection_info(client->connection)->max_payload,
							&problem))
	{
		(void) pending_mark_sent(client->ring);
		return;
	}
	pipeline_refuse(client->state, client->ring, problem);
}

/* Write what the socket takes: what waits to be, and then messages. */
static void
write_messages(BrokerClient *client)
{
	StringInfo	out = nats_connection_output(client->connection);
	Size		total = 0;
	Size		len;

	do
	{
		while (nats_connection_is_ready(client->connection) &&
			   !client->draining && byte_queue_len(out) < OUT_ENOUGH &&
			   pending_first_unsent(client->ring))
			send_first_unsent(client);
		len = total < NET_TURN_BYTES ?
			nats_connection_write(client->connection) : 0;
		total += len;
	} while (len > 0);
	notice_closing(client);
}

/*
 * When the server has to be asked whether it is there: half of the time before
 * the oldest message is late, unless it says something anyway.
 */
static int64
time_to_ask(BrokerClient *client, const Pending *oldest)
{
	int			timeout = client->state->request_timeout;

	return Max(nats_connection_heard_at(client->connection),
			   oldest->deadline - timeout) + timeout / 2;
}

/*
 * When something has to be done about the oldest message: to ask whether the
 * server is there or, when that has been done or is too late, to give it up.
 */
static int64
time_to_act(BrokerClient *client, const Pending *oldest)
{
	if (client->asked_at == 0)
		return Min(time_to_ask(client, oldest), oldest->deadline);
	return Max(oldest->deadline, client->asked_at + PONG_MS);
}

/* The server has not answered in time: leave it. */
static void
leave_mute_server(BrokerClient *client)
{
	Verdict		late = {
		.outcome = OUTBOX_RETRY,
		.error = "timed out waiting for the server"
	};

	give_up_connection(client, &late);
}

/* Look what has taken too long. */
static void
check_time(BrokerClient *client)
{
	int64		now = clock_ms();
	Pending    *oldest;
	Verdict		late = {
		.outcome = OUTBOX_RETRY,
		.error = "timed out waiting for JetStream's acknowledgement"
	};

	while (nats_connection_is_ready(client->connection) &&
		   (oldest = pending_oldest(client->ring)) != NULL &&
		   now >= time_to_act(client, oldest))
	{
		/* what was not sent by now was not because the server does not read */
		if (client->asked_at != 0 ||
			(now >= oldest->deadline && pending_nsent(client->ring) == 0))
			leave_mute_server(client);
		else if (now >= oldest->deadline)
			pipeline_answer(client->state, client->ring, oldest, &late);
		else
		{
			nats_connection_ping(client->connection);
			client->asked_at = now;
		}
	}
	if (nats_connection_is_ready(client->connection) && client->probing &&
		now >= client->probe_deadline)
		leave_mute_server(client);
}

/* Go on as far as that is possible now. */
void
broker_client_advance(BrokerClient *client)
{
	read_answers(client);
	check_time(client);
	client->draining |= nats_connection_is_leaving(client->connection);
	if (client->draining && pending_nsent(client->ring) == 0)
		leave_connection(client);
	connect_if_needed(client);
	write_messages(client);
}

/* Take a message, to be sent by broker_client_advance(). */
void
broker_client_submit(BrokerClient *client, const OutboxMessage *message)
{
	pending_put(client->ring, message,
				clock_ms() + client->state->request_timeout);
}

/* What to wait for, and for how long: as in OutboxSocketsCB. */
int
broker_client_wait_for(BrokerClient *client, OutboxSocket *socket, long *timeout_ms)
{
	int64		deadline = PENDING_NO_DEADLINE;
	Pending    *oldest = pending_oldest(client->ring);
	int			n;

	n = nats_connection_wait_for(client->connection, socket, &deadline);
	if (oldest && nats_connection_is_ready(client->connection))
		deadline = Min(deadline, time_to_act(client, oldest));
	if (client->probing && nats_connection_is_ready(client->connection))
		deadline = Min(deadline, client->probe_deadline);

	/* what nobody has connected for yet */
	if (!client->in_use && (client->probing || pending_first_unsent(client->ring)))
		deadline = 0;
	*timeout_ms = deadline == PENDING_NO_DEADLINE ? -1 :
		(long) Max(deadline - clock_ms(), 0);
	return n;
}

/* Nobody waits any longer for the answer to this message. */
void
broker_client_cancel(BrokerClient *client, int64 id)
{
	pending_forget(client->ring, id);
}

/* Ask whether the server is there. */
void
broker_client_probe(BrokerClient *client)
{
	if (client->probing)
		return;
	client->probing = true;
	client->npongs = nats_connection_npongs(client->connection);
	client->probe_deadline = clock_ms() + client->state->request_timeout;
	if (nats_connection_is_ready(client->connection))
		nats_connection_ping(client->connection);
}

/* Close the connection without waiting for anything. */
void
broker_client_destroy(BrokerClient *client)
{
	nats_connection_destroy(client->connection);
}
