/*-------------------------------------------------------------------------
 *
 * mqtt_client.c
 *		A connection to a broker of MQTT 5, and the messages on their way to it.
 *
 * There is one connection, made when there is something to send, and kept alive.
 * CONNECT begins a session that ends with the connection, so that neither side
 * resends by itself what belongs to another one: what becomes of an event is the
 * relay's to know.  Messages are written as fast as the socket takes them, up to as
 * many as the broker takes unacknowledged.  Each has an identifier, which is its
 * number in the ring modulo their count, and is acknowledged for itself.
 *
 * The broker answers a PINGREQ between the acknowledgements, which it sends in
 * order.  So when the oldest message is not acknowledged in time, the connection is
 * of no use: it is closed, and what was sent is to be sent again, and may arrive
 * twice then.
 *
 * When settings change, nothing more is sent; when all answers are there, what
 * comes next makes a new connection.
 *
 * Memory: state->context.  Errors: those of the broker are answers; only out of
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
#include "mqtt_settings.h"
#include "mqtt_reason.h"

/* As long as so much waits to be written, no message is added to it. */
#define OUT_ENOUGH	(256 * 1024)

#define IN_CHUNK	(16 * 1024)

/* Seconds without a packet of ours after which the broker may close, unless it says. */
#define KEEP_ALIVE	60

/* Identifiers are from 1 to this. */
#define MAX_IDENTIFIER	65535

struct BrokerClient
{
	OutboxPublisherState *state;
	const MqttSettings *settings;
	NetConnection *net;
	bool		in_use;			/* the connection: answers are expected of it */
	bool		greeted;		/* CONNECT was sent */
	bool		ready;			/* and accepted */
	bool		draining;		/* send nothing more on it */
	bool		probing;		/* somebody wants to hear whether it is there */
	int64		deadline;		/* until it has to be ready, in clock_ms() */
	int64		pinged_at;		/* a PINGREQ is not answered; 0: none is out */
	int64		sent_at;		/* when something was written last */
	int			keep_alive_ms;	/* 0: we need not say anything */
	int			window;			/* unacknowledged messages */
	Size		max_size;		/* bytes in a packet */
	PendingRing *ring;
	StringInfoData in;			/* handled up to its cursor */
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
	initStringInfo(&client->in);
	initStringInfo(&client->out);
	MemoryContextSwitchTo(old);
	return client;
}

/* Close the connection; nobody waits for an answer on it. */
static void
leave_connection(BrokerClient *client)
{
	net_close(client->net);
	client->in_use = client->greeted = client->ready = false;
	client->draining = false;
	client->pinged_at = 0;
	resetStringInfo(&client->in);
	resetStringInfo(&client->out);
}

/*
 * The connection is of no use, for this reason: say so to all who wait.  That is
 * the "outcome" of what was sent on it; with "blame", one of that may be the reason.
 */
static void
give_up_for(BrokerClient *client, const char *reason, OutboxOutcome outcome,
			bool blame)
{
	char		error[OUTBOX_ERROR_SIZE];
	Verdict		sent = {.outcome = outcome,.alone = blame,.error = error};
	bool		tell = client->probing || !client->ready ||
	outcome == OUTBOX_UNAVAILABLE;

	/* it may be the connection's own, which the next one overwrites */
	text_copy_line(error, sizeof(error), reason);
	leave_connection(client);
	client->probing = false;
	pipeline_lost(client->state, client->ring, &sent, tell);
}

/* The same if nobody can tell whose fault it is. */
static void
give_up_connection(BrokerClient *client, const char *reason)
{
	give_up_for(client, reason, OUTBOX_RETRY, false);
}

/* The broker has said why it ends the connection. */
static void
handle_disconnect(BrokerClient *client, const MqttPacket *packet)
{
	bool		blame = mqtt_reason_blames(packet->reason);

	give_up_for(client, psprintf("the broker disconnected: %s",
								 mqtt_reason_text(packet)),
				blame ? OUTBOX_RETRY : OUTBOX_UNAVAILABLE, blame);
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
	pending_restart_numbers(client->ring);
	if (!net_connect(client->net, &client->settings->broker.address,
					 client->settings->broker.tls, state->connect_timeout))
		give_up_connection(client, net_error(client->net));
}

void
broker_client_configure(BrokerClient *client, const BrokerSettings *settings)
{
	client->settings = (const MqttSettings *) settings;

	/* what was sent is answered on the connection that it was sent on */
	if (pending_nsent(client->ring) > 0)
		client->draining = true;
	else
		leave_connection(client);
}

/* Ask the broker for a sign of life. */
static void
send_ping(BrokerClient *client)
{
	mqtt_append_packet(&client->out, MQTT_PINGREQ, NULL, NULL, 0);
	client->pinged_at = clock_ms();
}

/* The broker has let us in, or not. */
static void
handle_connack(BrokerClient *client, const MqttPacket *packet)
{
	int			keep_alive = packet->keep_alive >= 0 ? packet->keep_alive :
	KEEP_ALIVE;

	if (packet->reason != 0)
		give_up_connection(client, psprintf("the broker refused the connection: %s",
											mqtt_reason_text(packet)));
	else if (packet->maximum_qos < 1)
		give_up_connection(client, "the broker does not acknowledge messages (QoS 0 only)");
	else
	{
		client->ready = true;
		client->keep_alive_ms = keep_alive * 1000;
		client->max_size = packet->maximum_size;
		client->window = Min(client->settings->broker.max_messages,
							 packet->receive_maximum);
		if (client->probing)
			outbox_probe_answer(client->state, true, NULL);
		client->probing = false;
	}
}

/* The identifier of the message with this number. */
static uint16
identifier_of(uint64 number)
{
	return (number - 1) % MAX_IDENTIFIER + 1;
}

/* An acknowledgement, which may be a refusal. */
static void
handle_puback(BrokerClient *client, const MqttPacket *packet)
{
	uint64		oldest = pending_oldest_number(client->ring);
	int			distance = packet->id - identifier_of(oldest);
	Pending    *pending;
	Verdict		verdict;

	if (distance < 0)
		distance += MAX_IDENTIFIER;
	pending = pending_find(client->ring, oldest + distance);
	if (packet->id == 0 || pending == NULL)
	{
		give_up_connection(client, "the broker acknowledges what was not sent");
		return;
	}
	mqtt_reason_judge(packet, client->settings->accept_unheard, &verdict);
	pipeline_answer(client->state, client->ring, pending, &verdict);
}

static void
handle_packet(BrokerClient *client, const MqttPacket *packet)
{
	if (!client->ready && packet->kind != MQTT_CONNACK)
	{
		give_up_connection(client, "the server does not speak MQTT 5");
		return;
	}
	switch (packet->kind)
	{
		case MQTT_CONNACK:
			handle_connack(client, packet);
			break;
		case MQTT_PUBACK:
			handle_puback(client, packet);
			break;
		case MQTT_PINGRESP:
			client->pinged_at = 0;
			if (client->probing)
				outbox_probe_answer(client->state, true, NULL);
			client->probing = false;
			break;
		default:
			handle_disconnect(client, packet);
			break;
	}
}

/* Handle what packets are there as a whole. */
static void
handle_input(BrokerClient *client)
{
	StringInfo	in = &client->in;

	while (client->in_use)
	{
		MqttPacket	packet;
		Size		len = mqtt_parse(in->data + in->cursor, in->len - in->cursor,
									 &packet);

		if (packet.kind == MQTT_INCOMPLETE)
			break;
		if (packet.kind == MQTT_INVALID)
		{
			give_up_connection(client, "the server does not speak MQTT 5");
			return;
		}
		in->cursor += len;
		handle_packet(client, &packet);
	}
	memmove(in->data, in->data + in->cursor, in->len - in->cursor);
	in->len -= in->cursor;
	in->cursor = 0;
}

/* Go on connecting, and read until nothing is there. */
static void
read_answers(BrokerClient *client)
{
	Size		total = 0;

	if (!client->in_use)
		return;
	if (!net_advance(client->net))
	{
		give_up_connection(client, net_error(client->net));
		return;
	}
	if (net_is_open(client->net) && !client->greeted)
	{
		mqtt_connect_append(&client->out, &client->settings->identity, KEEP_ALIVE);
		client->greeted = true;
	}
	while (client->in_use && net_is_open(client->net) &&
		   total < NET_TURN_BYTES)
	{
		StringInfo	in = &client->in;
		ssize_t		len;

		enlargeStringInfo(in, IN_CHUNK);
		len = net_read(client->net, in->data + in->len, IN_CHUNK);
		if (len < 0)
			give_up_connection(client, net_error(client->net));
		if (len <= 0)
			return;
		total += len;
		in->len += len;
		handle_input(client);
	}
}

/* Can a message be appended to what is written? */
static bool
can_send(BrokerClient *client)
{
	return client->ready && !client->draining &&
		pending_first_unsent(client->ring) &&
		pending_next_number(client->ring) <
		pending_oldest_number(client->ring) + client->window &&
		byte_queue_len(&client->out) < OUT_ENOUGH;
}

/* Append the next message to what is written; or refuse it. */
static void
send_first_unsent(BrokerClient *client)
{
	const char *problem;

	if (mqtt_message_append(&client->out, pending_first_unsent(client->ring),
							&client->settings->message, client->state->source,
							identifier_of(pending_next_number(client->ring)),
							client->max_size, &problem))
		(void) pending_mark_sent(client->ring);
	else
		pipeline_refuse(client->state, client->ring, problem);
}

/* Write what the socket takes: what waits to be, and then messages. */
static void
write_packets(BrokerClient *client)
{
	Size		total = 0;

	while (client->in_use && net_is_open(client->net))
	{
		ssize_t		len;

		while (can_send(client))
			send_first_unsent(client);
		if (byte_queue_len(&client->out) == 0 || total >= NET_TURN_BYTES)
			return;
		len = byte_queue_write(&client->out, client->net);
		if (len < 0)
			give_up_connection(client, net_error(client->net));
		if (len <= 0)
			return;
		total += len;
		client->sent_at = clock_ms();
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
	if (client->pinged_at != 0)
		deadline = Min(deadline,
					   client->pinged_at + client->state->request_timeout);
	return deadline;
}

/* When the broker has to hear of us; PENDING_NO_DEADLINE: never. */
static int64
time_to_ping(BrokerClient *client)
{
	if (!client->ready || client->keep_alive_ms == 0 || client->pinged_at != 0)
		return PENDING_NO_DEADLINE;
	return client->sent_at + client->keep_alive_ms / 2;
}

/* Go on as far as that is possible now. */
void
broker_client_advance(BrokerClient *client)
{
	read_answers(client);
	if (client->in_use && clock_ms() >= time_to_give_up(client))
		give_up_connection(client, client->ready ?
						   "timed out waiting for the broker's answer" :
						   "timed out logging in to the broker");
	if (client->draining && pending_nsent(client->ring) == 0)
		leave_connection(client);
	connect_if_needed(client);
	if (client->in_use && clock_ms() >= time_to_ping(client))
		send_ping(client);
	write_packets(client);
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
	int			n = net_wait_for(client->net, byte_queue_len(&client->out) > 0,
								 socket, &deadline);

	/* what nobody has connected for yet */
	if (!client->in_use && (client->probing || pending_first_unsent(client->ring)))
		deadline = 0;
	else if (client->in_use)
		deadline = Min(deadline, Min(time_to_give_up(client),
									 time_to_ping(client)));
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

/* Ask whether the broker is there. */
void
broker_client_probe(BrokerClient *client)
{
	client->probing = true;
	if (client->ready && client->pinged_at == 0)
		send_ping(client);
}

/* Close the connection without waiting for anything. */
void
broker_client_destroy(BrokerClient *client)
{
	leave_connection(client);
	net_destroy(client->net);
}
