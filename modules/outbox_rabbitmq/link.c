/*-------------------------------------------------------------------------
 *
 * link.c
 *		A connection to RabbitMQ, and the messages that go through it.
 *
 * A connection is made when the first message or a probe wants it, and stays
 * until it fails.  Whatever happens, a step reads what has come, then looks at
 * the time, then writes what there is to write; so what came while the process
 * was stopped counts before the time that has passed.
 *
 * Messages wait in a ring and are encoded when the buffer that is being written
 * has little left, so that memory holds no second copy of the window.
 *
 * Time.  The oldest message decides: when it is not confirmed in time, the
 * connection is of no use.  But while RabbitMQ says that it is blocked, it is
 * known to be there: the messages are given up, and the connection stays, to
 * hear when that is over.  A broker that is not heard of for two heartbeats
 * is gone.
 *
 * Memory: a context for each connection.  Errors are answers (link_answer.c);
 * what is thrown, out of memory, leaves a connection that the relay cancels the
 * messages of.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "lib/clock.h"
#include "link_internal.h"
#include "message.h"

/* Encode more when less than this is to be written. */
#define OUT_LOW (64 * 1024)

RabbitLink *
link_create(OutboxPublisherState *state, RabbitSettings *settings)
{
	MemoryContext context = AllocSetContextCreate(state->context,
												  "outbox_rabbitmq connection",
												  ALLOCSET_DEFAULT_SIZES);
	RabbitLink *link = MemoryContextAllocZero(context, sizeof(RabbitLink));
	MemoryContext caller;

	link->context = context;
	link->state = state;
	link->settings = settings;
	link->net = net_create(context);
	link->pending = pending_create(context);
	caller = MemoryContextSwitchTo(context);
	link->in = palloc(FRAME_MAX);
	initStringInfo(&link->out);
	MemoryContextSwitchTo(caller);
	init_amqp_pool(&link->pool, FRAME_MAX);
	return link;
}

/*
 * Go on with these settings, which become its own, if its connection is as they
 * want it; false if not.
 */
bool
link_replace_settings(RabbitLink *link, RabbitSettings *settings)
{
	if (!settings_equal(link->settings, settings))
		return false;
	settings_free(link->settings);
	link->settings = settings;
	return true;
}

/* It goes on with the messages it has, and says no more of the destination. */
void
link_retire(RabbitLink *link)
{
	link->retired = true;
}

static void
connect_link(RabbitLink *link)
{
	int64		now = clock_ms();

	link->phase = LINK_CONNECTING;
	link->deadline = PENDING_NO_DEADLINE;	/* the network has its own */
	link->in_len = 0;
	resetStringInfo(&link->out);
	link->frame_max = FRAME_MAX;
	link->heartbeat_ms = 0;
	link->sent_at = link->received_at = now;
	link->confirming = link->looking = link->returning = false;
	link->blocked[0] = '\0';
	pending_restart_numbers(link->pending);
	if (!net_connect(link->net, &link->settings->address, link->settings->tls,
					 link->state->connect_timeout))
		link_fail_for(link, OUTBOX_UNAVAILABLE, "%s", net_error(link->net));
}

/* Publish a message, after a call of link_advance(). */
void
link_submit(RabbitLink *link, const OutboxMessage *message)
{
	Verdict		blocked = {
		.outcome = OUTBOX_UNAVAILABLE,
		.error = link->blocked
	};

	if (link->phase != LINK_CLOSED && link->blocked[0] != '\0')
	{
		module_answer(link->state, message->id, &blocked);
		return;
	}
	pending_put(link->pending, message,
				clock_ms() + link->state->request_timeout);
	if (link->phase == LINK_CLOSED)
		connect_link(link);
}

/* The relay waits no longer for this message, which may be another link's. */
void
link_forget(RabbitLink *link, int64 id)
{
	pending_forget(link->pending, id);
}

/* Find out whether RabbitMQ would take messages, and tell the relay. */
void
link_probe(RabbitLink *link)
{
	if (link->phase == LINK_READY && link->blocked[0] != '\0')
	{
		link_tell(link, false, link->blocked);
		return;
	}
	link->probing = true;
	if (link->phase == LINK_CLOSED)
		connect_link(link);
	else if (link->phase == LINK_READY && !link->looking)
		link_look(link);
}

/* The network is on its way, or there. */
static void
advance_connecting(RabbitLink *link)
{
	if (!net_advance(link->net))
		link_fail_for(link, OUTBOX_UNAVAILABLE, "%s", net_error(link->net));
	else if (net_is_open(link->net))
	{
		link->phase = LINK_LOGIN;
		link->deadline = clock_ms() + link->state->connect_timeout;
		frame_put_greeting(&link->out);
	}
}

/* Act on all frames that are complete. */
static void
take_frames(RabbitLink *link)
{
	Frame		frame;
	Size		done = 0;
	int			len = 0;

	while (link->phase != LINK_CLOSED &&
		   (len = frame_take(link->in + done, link->in_len - done,
							 link->frame_max, &frame)) > 0)
	{
		link_take_frame(link, &frame);
		done += len;
	}
	if (link->phase != LINK_CLOSED && len < 0)
		link_fail_malformed(link);
	if (link->phase == LINK_CLOSED)
		return;
	link->in_len -= done;
	memmove(link->in, link->in + done, link->in_len);
}

/* Read what has come, and act on it. */
static void
read_link(RabbitLink *link)
{
	Size		total = 0;

	while (link->phase != LINK_CLOSED && total < NET_TURN_BYTES)
	{
		/* no frame is larger than the buffer, so that there is always room */
		ssize_t		len = net_read(link->net, link->in + link->in_len,
								   FRAME_MAX - link->in_len);

		if (len == 0)
			break;
		if (len < 0)
		{
			link_fail_for(link, link->phase == LINK_READY ? OUTBOX_RETRY :
						  OUTBOX_UNAVAILABLE, "%s", net_error(link->net));
			break;
		}
		total += len;
		link->in_len += len;
		link->received_at = clock_ms();
		take_frames(link);
	}
}

/* Encode messages until there is enough to write. */
static void
fill_buffer(RabbitLink *link)
{
	const OutboxMessage *message;

	while (link->phase == LINK_READY && link->blocked[0] == '\0' &&
		   byte_queue_len(&link->out) < OUT_LOW &&
		   (message = pending_first_unsent(link->pending)) != NULL)
	{
		const char *problem = message_put(&link->out, CHANNEL_PUBLISH,
										  link->frame_max, message,
										  link->settings);

		if (problem == NULL)
			pending_mark_sent(link->pending);
		else
			pipeline_refuse(link->state, link->pending, problem);
	}
}

/* Write what there is to write, as far as there is room for it. */
static void
write_link(RabbitLink *link)
{
	Size		total = 0;

	for (;;)
	{
		ssize_t		len;

		fill_buffer(link);
		if (byte_queue_len(&link->out) == 0 || total >= NET_TURN_BYTES)
			break;
		len = byte_queue_write(&link->out, link->net);
		if (len == 0)
			break;
		if (len < 0)
		{
			link_fail_for(link, link->phase == LINK_READY ? OUTBOX_RETRY :
						  OUTBOX_UNAVAILABLE, "%s", net_error(link->net));
			break;
		}
		total += len;
		link->sent_at = clock_ms();
	}
}

/*
 * While the connection is blocked, what was not confirmed in time is given up,
 * and may be confirmed all the same.
 */
static void
give_up_blocked(RabbitLink *link)
{
	Verdict		verdict = {.outcome = OUTBOX_RETRY,.error = link->blocked};
	uint64		end = pending_next_number(link->pending);

	for (uint64 i = pending_oldest_number(link->pending); i < end; i++)
	{
		Pending    *pending = pending_find(link->pending, i);

		if (pending == NULL)
			continue;
		if (pending->message)
			module_answer(link->state, pending->message->id, &verdict);
		pending->message = NULL;
		pending->deadline = PENDING_NO_DEADLINE;
	}
}

/* When the oldest message has to be confirmed. */
static int64
oldest_deadline(RabbitLink *link)
{
	const Pending *oldest = pending_oldest(link->pending);

	return oldest ? oldest->deadline : PENDING_NO_DEADLINE;
}

/* Has something taken too long? */
static void
check_time(RabbitLink *link)
{
	int64		now = clock_ms();
	const char *host = link->settings->address.host;

	if (now >= link->deadline)
		link_fail_for(link, link->phase == LINK_READY ? OUTBOX_RETRY :
					  OUTBOX_UNAVAILABLE,
					  link->phase == LINK_LOGIN ?
					  "timed out logging in to \"%s\"" :
					  "timed out opening a channel or looking for the exchange at \"%s\"",
					  host);
	else if (now >= oldest_deadline(link) && link->blocked[0] != '\0')
		give_up_blocked(link);
	else if (now >= oldest_deadline(link))
		link_fail_for(link, link->phase == LINK_READY ? OUTBOX_RETRY :
					  OUTBOX_UNAVAILABLE, "timed out waiting for \"%s\"", host);
	else if (link->heartbeat_ms > 0 &&
			 now >= link->received_at + 2 * link->heartbeat_ms)
		link_fail_for(link, OUTBOX_RETRY,
					  "nothing was heard of \"%s\" for two heartbeats", host);
	else if (link->heartbeat_ms > 0 && link->out.len == 0 &&
			 now >= link->sent_at + link->heartbeat_ms / 2)
		frame_put_heartbeat(&link->out);
}

/* Go on as far as that is possible now. */
void
link_advance(RabbitLink *link)
{
	if (link->phase == LINK_CONNECTING)
		advance_connecting(link);
	if (link->phase > LINK_CONNECTING)
		read_link(link);
	if (link->phase != LINK_CLOSED)
		check_time(link);
	if (link->phase > LINK_CONNECTING)
		write_link(link);
}

/* What to wait for: as net_wait_for(). */
int
link_wait_for(RabbitLink *link, OutboxSocket *socket, int64 *deadline)
{
	if (link->phase == LINK_CLOSED)
		return 0;
	*deadline = Min(*deadline, link->deadline);
	*deadline = Min(*deadline, oldest_deadline(link));
	if (link->heartbeat_ms > 0)
	{
		*deadline = Min(*deadline,
						link->received_at + 2 * link->heartbeat_ms);
		if (link->out.len == 0)
			*deadline = Min(*deadline,
							link->sent_at + link->heartbeat_ms / 2);
	}
	return net_wait_for(link->net, byte_queue_len(&link->out) > 0, socket,
						deadline);
}

/* Is there no message that is not answered? */
bool
link_is_idle(const RabbitLink *link)
{
	return pending_oldest(link->pending) == NULL;
}

/* Tell RabbitMQ, if that takes no wait, and release everything. */
void
link_destroy(RabbitLink *link)
{
	amqp_connection_close_t close = {
		.reply_code = AMQP_REPLY_SUCCESS,
		.reply_text = frame_text("bye")
	};

	if (link->phase == LINK_READY && link->out.len == 0 &&
		frame_put_method(&link->out, 0, AMQP_CONNECTION_CLOSE_METHOD, &close))
		byte_queue_write(&link->out, link->net);
	net_destroy(link->net);
	empty_amqp_pool(&link->pool);
	settings_free(link->settings);
	MemoryContextDelete(link->context);
}
