/*-------------------------------------------------------------------------
 *
 * redis_client.c
 *		The entries on their way to a server of Redis.
 *
 * There is one connection (redis_connection.c), made when there is something to
 * send, and kept.  Entries are written as fast as the socket takes them.
 *
 * With outbox_redis.wait or waitaof, entries go in groups.  Behind each is a WAIT,
 * which says how many replicas have the group, or a WAITAOF, which says that of
 * disks; only then are its entries delivered, and only then the next group is sent,
 * since Redis does nothing else for us while it waits.
 *
 * A node of a cluster may say that a stream is on another one.  That is followed
 * once: what was sent is answered, and all that comes goes there.  Whoever sends us
 * on from there has streams on several nodes, which is said: we have one connection.
 *
 * A server that does not answer in time is gone, since its answers are in order:
 * the connection is closed, and what was sent is to be sent again, and may be in
 * the stream twice then.
 *
 * When settings change, nothing more is sent; when all answers are there, what
 * comes next makes a new connection.
 *
 * Memory: state->context.  Errors: those of the server are answers; only out of
 * memory is thrown.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/broker_client.h"
#include "common/byte_queue.h"
#include "common/pipeline.h"
#include "lib/clock.h"
#include "lib/text.h"
#include "redis_connection.h"
#include "redis_settings.h"

/* As long as so much waits to be written, no entry is added to it. */
#define OUT_ENOUGH	(256 * 1024)

/* The status of a pending entry that is in the stream, and waits for others. */
#define STORED 1

/* Does the connection go where the settings say? */
typedef enum RedisCourse
{
	COURSE_AS_SET,
	COURSE_MOVED,				/* the next one goes to "place" */
	COURSE_FOLLOWED				/* this one does */
} RedisCourse;

struct BrokerClient
{
	OutboxPublisherState *state;
	const RedisSettings *settings;
	RedisConnection *connection;
	RedisServer server;			/* that it was opened to */
	RedisCourse course;
	RedisPlace	place;
	Address		address;		/* of this place */
	bool		in_use;			/* the connection: answers are expected of it */
	bool		was_ready;		/* entries may have been sent on it */
	bool		draining;		/* send nothing more on it */
	bool		probing;		/* somebody waits for the answer to a PING */
	int64		probe_deadline; /* until this, in clock_ms() */
	bool		in_group;		/* a group is sent, which waits for */
	RedisWait	group;			/* these */
	PendingRing *ring;
	uint64		next_answer;	/* number of the next entry to be answered */
};

/* A client of "state", without a connection. */
BrokerClient *
broker_client_create(OutboxPublisherState *state)
{
	BrokerClient *client = MemoryContextAllocZero(state->context,
												  sizeof(BrokerClient));

	client->state = state;
	client->connection = redis_connection_create(state->context);
	client->ring = pending_create(state->context);
	return client;
}

/* Close the connection; nobody waits for an answer on it. */
static void
leave_connection(BrokerClient *client)
{
	redis_connection_close(client->connection);
	client->in_use = client->was_ready = false;
	client->draining = client->in_group = false;
	if (client->course == COURSE_FOLLOWED)
		client->course = COURSE_AS_SET;
}

/*
 * The connection is of no use, for this reason, which is not in one of its buffers:
 * answer all that was submitted, and who has asked.
 */
static void
give_up_connection(BrokerClient *client, const char *reason)
{
	Verdict		sent = {.outcome = OUTBOX_RETRY,.error = reason};
	bool		tell = client->probing || !client->was_ready;

	leave_connection(client);
	client->course = COURSE_AS_SET;
	client->probing = false;
	pipeline_lost(client->state, client->ring, &sent, tell);
}

/* If it was closed by what happened on it, answer what will not be answered now. */
static void
notice_closing(BrokerClient *client)
{
	if (client->in_use && redis_connection_is_closed(client->connection))
		give_up_connection(client, redis_connection_error(client->connection));
}

/* Begin to connect, if there is a reason to. */
static void
connect_if_needed(BrokerClient *client)
{
	OutboxPublisherState *state = client->state;
	const RedisSettings *settings = client->settings;

	if (client->in_use ||
		(!client->probing && !pending_first_unsent(client->ring)))
		return;
	client->in_use = true;
	client->next_answer = 1;
	pending_restart_numbers(client->ring);
	client->server.address = &settings->broker.address;
	client->server.tls = settings->broker.tls;
	client->server.user = settings->broker.user;
	client->server.password = settings->broker.password;
	client->server.needs_waitaof = settings->wait.on_disk;
	if (client->course == COURSE_MOVED)
	{
		client->course = COURSE_FOLLOWED;
		client->address = settings->broker.address;
		if (client->place.host[0] != '\0')
			client->address.host = client->place.host;
		client->address.port = client->place.port;
		client->server.address = &client->address;
	}
	redis_connection_open(client->connection, &client->server,
						  state->connect_timeout, state->request_timeout);
	notice_closing(client);
}

void
broker_client_configure(BrokerClient *client, const BrokerSettings *settings)
{
	client->settings = (const RedisSettings *) settings;
	client->course = COURSE_AS_SET;

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

/*
 * Send this entry, whose stream is on another node, once more: there.  False if we
 * were sent on already, or it does not say where.
 */
static bool
follow_stream(BrokerClient *client, Pending *pending, const char *error)
{
	const OutboxMessage *message = pending->message;
	int64		deadline = pending->deadline;
	RedisPlace	place;

	if (client->course == COURSE_FOLLOWED || !redis_error_moves(error, &place))
		return false;
	client->course = COURSE_MOVED;
	client->place = place;
	client->draining = true;
	pending_answered(client->ring, pending);
	if (message)
		pending_put(client->ring, message, deadline);
	return true;
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
		if (follow_stream(client, pending, error))
			return;
		redis_error_judge(error, client->settings->entry.idmp, &verdict);
		tell_outage(client, &verdict);
	}
	else if (reply->type != REDIS_REPLY_STRING)
	{
		/* only the entry's id says that there is one */
		give_up_connection(client, "the server does not answer XADD with an id");
		return;
	}
	else if (client->in_group)
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

	redis_wait_judge(reply, &client->group, error, &verdict);
	tell_outage(client, &verdict);
	while (pending_nsent(client->ring) > 0)
	{
		oldest = pending_oldest(client->ring);
		Assert(oldest->status == STORED);
		pipeline_answer(client->state, client->ring, oldest, &verdict);
	}
	client->in_group = false;
}

/* The server is there, and writes if it is the master. */
static void
tell_ready(BrokerClient *client)
{
	if (client->probing)
		outbox_probe_answer(client->state, true, NULL);
	client->probing = false;
}

/* Take what the server says. */
static void
read_answers(BrokerClient *client)
{
	Size		total = 0;
	RedisRequest request;
	const redisReply *reply;

	while ((reply = redis_connection_read(client->connection, &request,
										  &total)) != NULL)
	{
		if (request == REDIS_XADD)
			handle_added(client, reply);
		else if (request == REDIS_WAIT)
			handle_waited(client, reply);
		else
			tell_ready(client);
	}
	notice_closing(client);
	if (!client->was_ready && redis_connection_is_ready(client->connection))
	{
		client->was_ready = true;
		tell_ready(client);
	}
}

/* Append the next entry to what is written; or refuse it. */
static void
send_first_unsent(BrokerClient *client)
{
	const OutboxMessage *message = pending_first_unsent(client->ring);
	StringInfo	out = redis_connection_output(client->connection);
	const char *problem;

	if (redis_entry_append(out, message, &client->settings->entry,
						   client->state->source, &problem))
	{
		redis_connection_expect(client->connection, REDIS_XADD);
		(void) pending_mark_sent(client->ring);
		return;
	}
	pipeline_refuse(client->state, client->ring, problem);
}

/* Have the server say when those have the entries that must. */
static void
send_wait(BrokerClient *client, const RedisWait *wanted)
{
	const char *replicas = psprintf("%d", wanted->replicas);
	const char *timeout = psprintf("%d", client->state->request_timeout / 2);
	const char *wait[] = {"WAIT", replicas, timeout};
	const char *waitaof[] = {"WAITAOF", "1", replicas, timeout};

	if (wanted->on_disk)
		redis_connection_send(client->connection, REDIS_WAIT, lengthof(waitaof),
							  waitaof);
	else
		redis_connection_send(client->connection, REDIS_WAIT, lengthof(wait), wait);
	client->in_group = true;
	client->group = *wanted;
}

/* Append as many entries as there is room for; with WAIT, one group. */
static void
send_entries(BrokerClient *client)
{
	StringInfo	out = redis_connection_output(client->connection);

	while (pending_first_unsent(client->ring) && byte_queue_len(out) < OUT_ENOUGH)
		send_first_unsent(client);
	if (redis_wait_is_wanted(&client->settings->wait) &&
		pending_nsent(client->ring) > 0)
		send_wait(client, &client->settings->wait);
}

/* Write what the socket takes: what waits to be, and then entries. */
static void
write_commands(BrokerClient *client)
{
	Size		total = 0;
	Size		len;

	do
	{
		if (redis_connection_is_ready(client->connection) && !client->draining &&
			!client->in_group && pending_first_unsent(client->ring))
			send_entries(client);
		len = total < NET_TURN_BYTES ?
			redis_connection_write(client->connection) : 0;
		total += len;
	} while (len > 0);
	notice_closing(client);
}

/* When something has taken too long; PENDING_NO_DEADLINE: never. */
static int64
time_to_give_up(BrokerClient *client)
{
	Pending    *oldest = pending_oldest(client->ring);
	int64		deadline = oldest ? oldest->deadline : PENDING_NO_DEADLINE;

	/* until it is ready, the connection has its own */
	if (!redis_connection_is_ready(client->connection))
		return PENDING_NO_DEADLINE;
	return client->probing ? Min(deadline, client->probe_deadline) : deadline;
}

/* Go on as far as that is possible now. */
void
broker_client_advance(BrokerClient *client)
{
	read_answers(client);
	if (clock_ms() >= time_to_give_up(client))
		give_up_connection(client, "timed out waiting for the server's answer");
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
	int			n = redis_connection_wait_for(client->connection, socket,
											  &deadline);

	/* what nobody has connected for yet */
	if (!client->in_use && (client->probing || pending_first_unsent(client->ring)))
		deadline = 0;
	else
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

	if (redis_connection_is_ready(client->connection) && !client->probing)
	{
		redis_connection_send(client->connection, REDIS_PING, lengthof(ping), ping);
		client->probe_deadline = clock_ms() + client->state->request_timeout;
	}
	client->probing = true;
}

/* Close the connection without waiting for anything. */
void
broker_client_destroy(BrokerClient *client)
{
	redis_connection_destroy(client->connection);
}
