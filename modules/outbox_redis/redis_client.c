/*-------------------------------------------------------------------------
 *
 * redis_client.c
 *		A connection to a server of Redis, and the entries on their way to it.
 *
 * There is one connection, made when there is something to send, and kept.  It
 * begins with AUTH, if there is a password, and PING, whose answer says that the
 * server is ready.  Commands are written as fast as the socket takes them, and
 * Redis answers them in their order: what is expected next is a queue of one
 * character a command.
 *
 * With outbox_redis.wait, entries go in groups.  Behind each is a WAIT, which says
 * how many replicas have the group; only then are its entries delivered, and only
 * then the next group is sent, since Redis does nothing else for us while it waits.
 *
 * A server that does not answer in time is gone, since its answers are in order:
 * the connection is closed, and what was sent is to be sent again, and may be in
 * the stream twice then.
 *
 * When settings change, nothing more is sent; when all answers are there, what
 * comes next makes a new connection.
 *
 * Memory: state->context.  hiredis, which takes answers apart, has its own, and
 * throws nothing; nor is anything thrown while it is at work.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/broker_client.h"
#include "common/byte_queue.h"
#include "common/pipeline.h"
#include "lib/clock.h"
#include "lib/text.h"
#include "redis_settings.h"
#include "redis_reply.h"

/* As long as so much waits to be written, no entry is added to it. */
#define OUT_ENOUGH	(256 * 1024)

#define IN_CHUNK	(16 * 1024)

/* No answer that we ask for has more than a line. */
#define MAX_ANSWER	(64 * 1024)

/* Commands whose answers are expected */
#define EXPECT_AUTH	'A'
#define EXPECT_PING	'P'
#define EXPECT_XADD	'X'
#define EXPECT_WAIT	'W'

/* The status of a pending entry that is in the stream, and waits for replicas. */
#define STORED 1

struct BrokerClient
{
	OutboxPublisherState *state;
	const RedisSettings *settings;
	NetConnection *net;
	bool		in_use;			/* the connection: answers are expected of it */
	bool		greeted;		/* AUTH and PING were sent */
	bool		ready;			/* and answered */
	bool		draining;		/* send nothing more on it */
	bool		probing;		/* somebody waits for the answer to a PING */
	int			group_wait;		/* a WAIT for so many replicas is sent; 0:
								 * none */
	int64		deadline;		/* until it has to be ready, or has to answer
								 * who is probing; in clock_ms() */
	redisReader *reader;
	Size		unanswered;		/* bytes of an answer that is not whole */
	PendingRing *ring;
	uint64		next_answer;	/* number of the next entry to be answered */
	StringInfoData expected;	/* answered up to its cursor */
	StringInfoData out;			/* written up to its cursor */
};

/* A client of "state", without a connection. */
BrokerClient *
broker_client_create(OutboxPublisherState *state)
{
	MemoryContext old = MemoryContextSwitchTo(state->context);
	BrokerClient *client = palloc0(sizeof(BrokerClient));

	client->state = state;
	client->net = net_create(state->context);
	client->ring = pending_create(state->context);
	initStringInfo(&client->expected);
	initStringInfo(&client->out);
	MemoryContextSwitchTo(old);
	return client;
}

/* Close the connection; nobody waits for an answer on it. */
static void
leave_connection(BrokerClient *client)
{
	net_close(client->net);
	if (client->reader)
		redisReaderFree(client->reader);
	client->reader = NULL;
	client->in_use = client->greeted = client->ready = false;
	client->draining = false;
	client->group_wait = 0;
	resetStringInfo(&client->expected);
	resetStringInfo(&client->out);
}

/*
 * The connection is of no use, for this reason, which is the destination's: answer
 * all that was submitted, and who has asked.
 */
static void
give_up_connection(BrokerClient *client, const char *reason)
{
	char		error[OUTBOX_ERROR_SIZE];
	Verdict		verdict = {.outcome = OUTBOX_UNAVAILABLE,.error = error};

	/* the reason may be the reader's, or in a reply */
	text_copy_line(error, sizeof(error), reason);
	leave_connection(client);
	pipeline_answer_all(client->state, client->ring, &verdict, &verdict);
	if (client->probing)
		outbox_probe_answer(client->state, false, error);
	client->probing = false;
}

/* Send a command of these words; "expect" is its kind. */
static void
send_command(BrokerClient *client, char expect, int argc,
			 const char *const *argv)
{
	/* both or, out of memory, none */
	enlargeStringInfo(&client->expected, 1);
	redis_append_command(&client->out, argc, argv);
	appendStringInfoChar(&client->expected, expect);
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
	client->deadline = clock_ms() + state->connect_timeout +
		state->request_timeout;
	client->next_answer = 1;
	client->unanswered = 0;
	pending_restart_numbers(client->ring);
	client->reader = redisReaderCreate();
	if (client->reader == NULL)
		give_up_connection(client, "out of memory");
	else if (!net_connect(client->net, &client->settings->broker.address,
						  client->settings->broker.tls, state->connect_timeout))
		give_up_connection(client, net_error(client->net));
}

/* Say who we are, and ask whether the server is ready. */
static void
greet_server(BrokerClient *client)
{
	const BrokerSettings *broker = &client->settings->broker;
	const char *login[] = {"AUTH", broker->user, broker->password};
	const char *login_default[] = {"AUTH", broker->password};
	const char *ping[] = {"PING"};

	if (broker->password && broker->user)
		send_command(client, EXPECT_AUTH, lengthof(login), login);
	else if (broker->password)
		send_command(client, EXPECT_AUTH, lengthof(login_default),
					 login_default);
	send_command(client, EXPECT_PING, lengthof(ping), ping);
	client->greeted = true;
}

void
broker_client_configure(BrokerClient *client, const BrokerSettings *settings)
{
	client->settings = (const RedisSettings *) settings;

	/* what was sent is answered on the connection that it was sent on */
	if (pending_nsent(client->ring) > 0)
		client->draining = true;
	else
		leave_connection(client);
}

/* Tell it at once if nobody's entries can be stored, before any is an attempt. */
static void
tell_outage(BrokerClient *client, const Verdict *verdict)
{
	if (verdict->outcome == OUTBOX_UNAVAILABLE)
		outbox_probe_answer(client->state, false, verdict->error);
}

/* The answer to an XADD. */
static void
handle_added(BrokerClient *client, const redisReply *reply)
{
	Pending    *pending = pending_find(client->ring, client->next_answer++);
	Verdict		verdict = {.outcome = OUTBOX_DELIVERED};
	char		error[OUTBOX_ERROR_SIZE];

	Assert(pending != NULL);
	if (reply->type == REDIS_REPLY_ERROR)
	{
		text_copy_line(error, sizeof(error), reply->str);
		redis_error_judge(error, &verdict);
		tell_outage(client, &verdict);
	}
	else if (reply->type != REDIS_REPLY_STRING)
	{
		/* only the entry's id says that there is one */
		give_up_connection(client, "the server does not answer XADD with an id");
		return;
	}
	else if (client->group_wait > 0)
	{
		pending->status = STORED;
		return;
	}
	pipeline_answer(client->state, client->ring, pending, &verdict);
}

/* The answer to a WAIT: settle its group. */
static void
handle_waited(BrokerClient *client, const redisReply *reply)
{
	char		error[OUTBOX_ERROR_SIZE];
	Verdict		verdict;
	Pending    *oldest;

	redis_wait_judge(reply, client->group_wait, error, &verdict);
	tell_outage(client, &verdict);
	while (pending_nsent(client->ring) > 0)
	{
		oldest = pending_oldest(client->ring);
		Assert(oldest->status == STORED);
		pipeline_answer(client->state, client->ring, oldest, &verdict);
	}
	client->group_wait = 0;
}

/* The answer to a PING: the server is there, and writes if it is the master. */
static void
handle_ping(BrokerClient *client)
{
	client->ready = true;
	if (client->probing)
		outbox_probe_answer(client->state, true, NULL);
	client->probing = false;
}

static void
handle_reply(BrokerClient *client, const redisReply *reply)
{
	char		expect = '\0';

	if (byte_queue_len(&client->expected) > 0)
	{
		expect = client->expected.data[client->expected.cursor];
		byte_queue_take(&client->expected, 1);
	}
	switch (expect)
	{
		case EXPECT_AUTH:
			if (reply->type == REDIS_REPLY_ERROR)
				give_up_connection(client, reply->str);
			break;
		case EXPECT_PING:
			if (reply->type == REDIS_REPLY_ERROR)
				give_up_connection(client, reply->str);
			else
				handle_ping(client);
			break;
		case EXPECT_XADD:
			handle_added(client, reply);
			break;
		case EXPECT_WAIT:
			handle_waited(client, reply);
			break;
		default:
			give_up_connection(client, reply->type == REDIS_REPLY_ERROR ?
							   reply->str : "the server says what it was not asked");
			break;
	}
}

/* Handle what answers are there as a whole. */
static void
handle_replies(BrokerClient *client)
{
	void	   *reply;

	while (client->reader)
	{
		if (redisReaderGetReply(client->reader, &reply) != REDIS_OK)
		{
			give_up_connection(client, client->reader->errstr);
			return;
		}
		if (reply == NULL)
			return;
		client->unanswered = 0;
		handle_reply(client, reply);
		freeReplyObject(reply);
	}
}

/* Go on connecting, and read until nothing is there. */
static void
read_answers(BrokerClient *client)
{
	char		chunk[IN_CHUNK];
	Size		total = 0;

	if (!client->in_use)
		return;
	if (!net_advance(client->net))
	{
		give_up_connection(client, net_error(client->net));
		return;
	}
	if (net_is_open(client->net) && !client->greeted)
		greet_server(client);
	while (client->in_use && net_is_open(client->net) &&
		   total < NET_TURN_BYTES)
	{
		ssize_t		len = net_read(client->net, chunk, sizeof(chunk));

		if (len < 0)
			give_up_connection(client, net_error(client->net));
		if (len <= 0)
			return;
		total += len;
		client->unanswered += len;
		if (redisReaderFeed(client->reader, chunk, len) != REDIS_OK)
			give_up_connection(client, client->reader->errstr);
		else
			handle_replies(client);

		/* hiredis would keep whatever comes, until all of it has */
		if (client->in_use && client->unanswered > MAX_ANSWER)
			give_up_connection(client, "the server's answer is too long");
	}
}

/* Append the next entry to what is written; or refuse it. */
static void
send_first_unsent(BrokerClient *client)
{
	const OutboxMessage *message = pending_first_unsent(client->ring);
	const char *problem;

	enlargeStringInfo(&client->expected, 1);
	if (redis_entry_append(&client->out, message, &client->settings->entry,
						   client->state->source, &problem))
	{
		appendStringInfoChar(&client->expected, EXPECT_XADD);
		(void) pending_mark_sent(client->ring);
		return;
	}
	pipeline_refuse(client->state, client->ring, problem);
}

/* Append as many entries as there is room for; with WAIT, one group. */
static void
send_entries(BrokerClient *client)
{
	int			replicas = client->settings->wait;
	const char *wait[] = {
		"WAIT", psprintf("%d", replicas),
		psprintf("%d", client->state->request_timeout / 2)
	};

	while (pending_first_unsent(client->ring) &&
		   byte_queue_len(&client->out) < OUT_ENOUGH)
		send_first_unsent(client);
	if (replicas == 0 || pending_nsent(client->ring) == 0)
		return;
	send_command(client, EXPECT_WAIT, lengthof(wait), wait);
	client->group_wait = replicas;
}

/* Write what the socket takes: what waits to be, and then entries. */
static void
write_commands(BrokerClient *client)
{
	Size		total = 0;

	while (client->in_use && net_is_open(client->net))
	{
		ssize_t		len;

		if (client->ready && !client->draining && client->group_wait == 0 &&
			pending_first_unsent(client->ring))
			send_entries(client);
		if (byte_queue_len(&client->out) == 0 || total >= NET_TURN_BYTES)
			return;
		len = byte_queue_write(&client->out, client->net);
		if (len < 0)
			give_up_connection(client, net_error(client->net));
		if (len <= 0)
			return;
		total += len;
	}
}

/* When something has taken too long; PENDING_NO_DEADLINE: never. */
static int64
time_to_give_up(BrokerClient *client)
{
	Pending    *oldest = pending_oldest(client->ring);
	int64		deadline = oldest ? oldest->deadline : PENDING_NO_DEADLINE;

	if (!client->ready)
		return client->deadline;
	return client->probing ? Min(deadline, client->deadline) : deadline;
}

/* Go on as far as that is possible now. */
void
broker_client_advance(BrokerClient *client)
{
	read_answers(client);
	if (client->in_use && clock_ms() >= time_to_give_up(client))
		give_up_connection(client, client->ready ?
						   "timed out waiting for the server's answer" :
						   "timed out logging in to the server");
	if (client->draining && pending_nsent(client->ring) == 0)
		leave_connection(client);
	connect_if_needed(client);
	write_commands(client);
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
broker_client_wait_for(BrokerClient *client, OutboxSocket *socket,
					   long *timeout_ms)
{
	int64		deadline = PENDING_NO_DEADLINE;
	int			n = net_wait_for(client->net, byte_queue_len(&client->out) > 0,
								 socket, &deadline);

	/* what nobody has connected for yet */
	if (!client->in_use && (client->probing || pending_first_unsent(client->ring)))
		deadline = 0;
	else if (client->in_use)
		deadline = Min(deadline, time_to_give_up(client));
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
	const char *ping[] = {"PING"};

	if (client->ready && !client->probing)
	{
		send_command(client, EXPECT_PING, lengthof(ping), ping);
		client->deadline = clock_ms() + client->state->request_timeout;
	}
	client->probing = true;
}

/* Close the connection without waiting for anything. */
void
broker_client_destroy(BrokerClient *client)
{
	leave_connection(client);
	net_destroy(client->net);
}
