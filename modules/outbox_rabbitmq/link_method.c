/*-------------------------------------------------------------------------
 *
 * link_method.c
 *		What RabbitMQ says, and what is said to it in turn.
 *
 * A connection is opened step by step, as AMQP wants it; then both channels at
 * once.  It is ready when the channel to publish confirms and the exchange has
 * been seen to be there.
 *
 *		start			who we are, and what we understand
 *		tune			how large frames are, and how often hearts beat
 *		open-ok			channel 1: open, confirm.select
 *						channel 2: open, a passive declare of the exchange
 *
 * What is wrong with one message closes the channel to publish for all that are
 * in flight.  So each of them is tried again alone, and when it is closed with a
 * single one unanswered, the fault is that one's.  The channel is opened anew.
 * But that the exchange is not there is nobody's fault.
 *
 * Errors are answers: they end the connection.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/clock.h"
#include "link_internal.h"

/* Of librabbitmq's texts, which do not end with a NUL, for "%.*s". */
#define TEXT_ARGS(text) (int) (text).len, (const char *) (text).bytes

/* An exchange that every broker has, in place of the one without a name. */
#define ANY_EXCHANGE "amq.direct"

/* Say this.  What does not fit into a frame is a setting that is too long. */
static void
say(RabbitLink *link, uint16 channel, amqp_method_number_t id, void *arguments)
{
	if (!frame_put_method(&link->out, channel, id, arguments))
		link_fail_for(link, OUTBOX_UNAVAILABLE,
					  "settings are too long for %s", amqp_method_name(id));
}

/* Is this one of the mechanisms, which are separated by spaces? */
static bool
offers_plain(amqp_bytes_t mechanisms)
{
	char	   *list = pnstrdup(mechanisms.bytes, mechanisms.len);
	char	   *name;

	while ((name = strsep(&list, " ")) != NULL)
	{
		if (strcmp(name, "PLAIN") == 0)
			return true;
	}
	return false;
}

/* What we understand, beyond what everybody has to. */
static void
fill_capabilities(amqp_table_entry_t *entries, int n)
{
	static const char *const names[] = {
		"authentication_failure_close", "basic.nack", "connection.blocked",
		"consumer_cancel_notify", "publisher_confirms"
	};

	Assert(n == lengthof(names));
	for (int i = 0; i < n; i++)
	{
		entries[i].key = frame_text(names[i]);
		entries[i].value.kind = AMQP_FIELD_KIND_BOOLEAN;
		entries[i].value.value.boolean = 1;
	}
}

/* connection.start: log in. */
static void
take_start(RabbitLink *link, const amqp_connection_start_t *start)
{
	const RabbitSettings *settings = link->settings;
	amqp_table_entry_t capabilities[5];
	amqp_table_entry_t properties[3];
	amqp_connection_start_ok_t ok = {
		.client_properties = {lengthof(properties), properties},
		.mechanism = frame_text("PLAIN"),
		.locale = frame_text("en_US")
	};
	StringInfoData response;

	if (!offers_plain(start->mechanisms))
	{
		link_fail_for(link, OUTBOX_UNAVAILABLE,
					  "RabbitMQ does not let users log in by password, only by %.*s",
					  TEXT_ARGS(start->mechanisms));
		return;
	}
	fill_capabilities(capabilities, lengthof(capabilities));
	properties[0].key = frame_text("product");
	properties[0].value.kind = AMQP_FIELD_KIND_UTF8;
	properties[0].value.value.bytes = frame_text("outbox_rabbitmq");
	properties[1].key = frame_text("connection_name");
	properties[1].value.kind = AMQP_FIELD_KIND_UTF8;
	properties[1].value.value.bytes =
		frame_text(psprintf("outbox %s", settings->source));
	properties[2].key = frame_text("capabilities");
	properties[2].value.kind = AMQP_FIELD_KIND_TABLE;
	properties[2].value.value.table.num_entries = lengthof(capabilities);
	properties[2].value.value.table.entries = capabilities;

	/* for nobody, by this user, with this password */
	initStringInfo(&response);
	appendStringInfoChar(&response, '\0');
	appendStringInfoString(&response, settings->user);
	appendStringInfoChar(&response, '\0');
	appendStringInfoString(&response, settings->password);
	ok.response.bytes = response.data;
	ok.response.len = response.len;
	say(link, 0, AMQP_CONNECTION_START_OK_METHOD, &ok);
	explicit_bzero(response.data, response.len);
}

/* connection.tune: agree, and open the virtual host. */
static void
take_tune(RabbitLink *link, const amqp_connection_tune_t *tune)
{
	int			heartbeat = link->settings->heartbeat;
	amqp_connection_tune_ok_t ok = {.channel_max = tune->channel_max};
	amqp_connection_open_t open = {
		.virtual_host = frame_text(link->settings->address.path)
	};

	/* 0 is without limit, and none */
	if (tune->frame_max != 0)
		link->frame_max = Min(tune->frame_max, FRAME_MAX);
	if (tune->heartbeat != 0)
		heartbeat = Min(tune->heartbeat, heartbeat);
	if (link->frame_max < AMQP_FRAME_MIN_SIZE)
	{
		link_fail_for(link, OUTBOX_UNAVAILABLE,
					  "RabbitMQ wants frames of %zu bytes, less than AMQP allows",
					  link->frame_max);
		return;
	}
	link->heartbeat_ms = heartbeat * INT64CONST(1000);
	ok.frame_max = link->frame_max;
	ok.heartbeat = heartbeat;
	say(link, 0, AMQP_CONNECTION_TUNE_OK_METHOD, &ok);
	say(link, 0, AMQP_CONNECTION_OPEN_METHOD, &open);
}

/* Open the channel to publish, of which confirm.select-ok is the last answer. */
static void
open_publish_channel(RabbitLink *link)
{
	amqp_channel_open_t open = {{0}};
	amqp_confirm_select_t confirm = {0};

	link->phase = LINK_OPENING;
	link->confirming = false;
	link->deadline = clock_ms() + link->state->connect_timeout;
	say(link, CHANNEL_PUBLISH, AMQP_CHANNEL_OPEN_METHOD, &open);
	say(link, CHANNEL_PUBLISH, AMQP_CONFIRM_SELECT_METHOD, &confirm);
}

/* Ask whether the exchange is there. */
void
link_look(RabbitLink *link)
{
	const char *exchange = link->settings->exchange;
	amqp_exchange_declare_t declare = {
		.exchange = frame_text(exchange[0] ? exchange : ANY_EXCHANGE),
		.type = frame_text("direct"),	/* does not count */
		.passive = 1
	};

	link->looking = true;
	link->deadline = clock_ms() + link->state->connect_timeout;
	say(link, CHANNEL_LOOK, AMQP_EXCHANGE_DECLARE_METHOD, &declare);
}

/* connection.open-ok: we are in. */
static void
take_open_ok(RabbitLink *link)
{
	amqp_channel_open_t open = {{0}};

	open_publish_channel(link);
	say(link, CHANNEL_LOOK, AMQP_CHANNEL_OPEN_METHOD, &open);
	link_look(link);
}

/* A part of what it takes to be ready is there. */
static void
become_ready(RabbitLink *link)
{
	if (!link->confirming || link->looking)
		return;
	link->phase = LINK_READY;
	link->deadline = PENDING_NO_DEADLINE;
	if (link->probing)
		link_tell(link, true, NULL);
}

/* What was sent may have closed the channel: what to say of it? */
static void
judge_channel_close(RabbitLink *link, int code, Verdict *verdict)
{
	bool		single = pending_nsent(link->pending) == 1;

	verdict->outcome = OUTBOX_RETRY;
	verdict->alone = !single;
	verdict->status = code;
	if (single && (code == AMQP_PRECONDITION_FAILED ||
				   code == AMQP_CONTENT_TOO_LARGE))
		verdict->outcome = OUTBOX_REJECTED;
}

/* channel.close: for what was sent on it, or for what was asked on it. */
static void
take_channel_close(RabbitLink *link, uint16 channel,
				   const amqp_channel_close_t *closed)
{
	char		error[OUTBOX_ERROR_SIZE];
	Verdict		verdict = {
		.outcome = OUTBOX_UNAVAILABLE,
		.status = closed->reply_code,
		.error = error
	};
	amqp_channel_close_ok_t ok = {0};

	snprintf(error, sizeof(error), "%.*s", TEXT_ARGS(closed->reply_text));
	if (channel != CHANNEL_PUBLISH || closed->reply_code == AMQP_NOT_FOUND)
	{
		link_fail(link, &verdict);
		return;
	}
	judge_channel_close(link, closed->reply_code, &verdict);
	pipeline_answer_sent(link->state, link->pending, &verdict);
	pending_restart_numbers(link->pending);
	link->returning = false;
	say(link, CHANNEL_PUBLISH, AMQP_CHANNEL_CLOSE_OK_METHOD, &ok);
	open_publish_channel(link);
}

/*
 * connection.close: because somebody wants it so, because we may not log in, or
 * because of what was sent.
 */
static void
take_connection_close(RabbitLink *link, const amqp_connection_close_t *closed)
{
	char		error[OUTBOX_ERROR_SIZE];
	Verdict		verdict = {
		.outcome = OUTBOX_UNAVAILABLE,
		.status = closed->reply_code,
		.error = error
	};
	amqp_connection_close_ok_t ok = {0};

	snprintf(error, sizeof(error), "%.*s", TEXT_ARGS(closed->reply_text));
	if (link->phase == LINK_READY &&
		closed->reply_code != AMQP_CONNECTION_FORCED)
	{
		verdict.outcome = OUTBOX_RETRY;
		verdict.alone = pending_nsent(link->pending) > 1;
	}

	/* for its log; whether that arrives does not matter */
	if (byte_queue_len(&link->out) == 0)
	{
		say(link, 0, AMQP_CONNECTION_CLOSE_OK_METHOD, &ok);
		byte_queue_write(&link->out, link->net);
	}
	link_fail(link, &verdict);
}

/* connection.blocked: it takes nothing for now. */
static void
take_blocked(RabbitLink *link, const amqp_connection_blocked_t *blocked)
{
	Verdict		verdict = {
		.outcome = OUTBOX_UNAVAILABLE,
		.error = link->blocked
	};

	snprintf(link->blocked, sizeof(link->blocked),
			 "RabbitMQ takes no messages for now: %.*s",
			 TEXT_ARGS(blocked->reason));
	pipeline_answer_unsent(link->state, link->pending, &verdict);
	link_tell(link, false, link->blocked);
}

static void
take_unblocked(RabbitLink *link)
{
	link->blocked[0] = '\0';
	link_tell(link, true, NULL);
}

/* basic.return: the message itself follows. */
static void
take_return(RabbitLink *link, const amqp_basic_return_t *returned)
{
	link->returning = true;
	link->return_status = returned->reply_code;
	snprintf(link->return_text, sizeof(link->return_text),
			 "no queue takes it: %.*s, exchange \"%.*s\", routing key \"%.*s\"",
			 TEXT_ARGS(returned->reply_text), TEXT_ARGS(returned->exchange),
			 TEXT_ARGS(returned->routing_key));
}

/* Methods that are about the connection. */
static void
take_connection_method(RabbitLink *link, const amqp_method_t *method)
{
	switch (method->id)
	{
		case AMQP_CONNECTION_START_METHOD:
			take_start(link, method->decoded);
			break;
		case AMQP_CONNECTION_TUNE_METHOD:
			take_tune(link, method->decoded);
			break;
		case AMQP_CONNECTION_OPEN_OK_METHOD:
			take_open_ok(link);
			break;
		case AMQP_CONNECTION_CLOSE_METHOD:
			take_connection_close(link, method->decoded);
			break;
		case AMQP_CONNECTION_BLOCKED_METHOD:
			take_blocked(link, method->decoded);
			break;
		case AMQP_CONNECTION_UNBLOCKED_METHOD:
			take_unblocked(link);
			break;
		default:
			link_fail_malformed(link);
			break;
	}
}

/* channel.flow: whether to send is what "blocked" is for, but it is polite. */
static void
take_flow(RabbitLink *link, uint16 channel, const amqp_channel_flow_t *flow)
{
	amqp_channel_flow_ok_t ok = {flow->active};

	say(link, channel, AMQP_CHANNEL_FLOW_OK_METHOD, &ok);
}

/* Methods that are about a channel. */
static void
take_channel_method(RabbitLink *link, uint16 channel,
					const amqp_method_t *method)
{
	amqp_basic_ack_t *ack = method->decoded;
	amqp_basic_nack_t *nack = method->decoded;

	switch (method->id)
	{
		case AMQP_CHANNEL_OPEN_OK_METHOD:
		case AMQP_CHANNEL_CLOSE_OK_METHOD:
			break;
		case AMQP_CONFIRM_SELECT_OK_METHOD:
			link->confirming = true;
			become_ready(link);
			break;
		case AMQP_EXCHANGE_DECLARE_OK_METHOD:
			link->looking = false;
			become_ready(link);
			break;
		case AMQP_BASIC_ACK_METHOD:
			link_confirm(link, ack->delivery_tag, ack->multiple, true);
			break;
		case AMQP_BASIC_NACK_METHOD:
			link_confirm(link, nack->delivery_tag, nack->multiple, false);
			break;
		case AMQP_BASIC_RETURN_METHOD:
			take_return(link, method->decoded);
			break;
		case AMQP_CHANNEL_FLOW_METHOD:
			take_flow(link, channel, method->decoded);
			break;
		case AMQP_CHANNEL_CLOSE_METHOD:
			take_channel_close(link, channel, method->decoded);
			break;
		default:
			link_fail_malformed(link);
			break;
	}
}

/* The header of a message: what comes back tells by its id which it is. */
static void
take_header(RabbitLink *link, const amqp_basic_properties_t *properties)
{
	if (link->returning &&
		(properties->_flags & AMQP_BASIC_MESSAGE_ID_FLAG) != 0)
		link_note_return(link, properties->message_id.bytes,
						 properties->message_id.len);
	link->returning = false;
}

/* Act on a frame that has come; the connection may be closed afterwards. */
void
link_take_frame(RabbitLink *link, const Frame *frame)
{
	amqp_method_t method;
	amqp_basic_properties_t *properties;
	bool		ok = true;

	switch (frame->type)
	{
		case AMQP_FRAME_METHOD:
			ok = frame_decode_method(frame, &link->pool, &method);
			if (ok && frame->channel == 0)
				take_connection_method(link, &method);
			else if (ok)
				take_channel_method(link, frame->channel, &method);
			break;
		case AMQP_FRAME_HEADER:
			ok = frame_decode_header(frame, &link->pool, &properties);
			if (ok)
				take_header(link, properties);
			break;
		case AMQP_FRAME_BODY:	/* of what comes back; we have it */
		case AMQP_FRAME_HEARTBEAT:
			break;
		default:
			ok = false;
			break;
	}
	recycle_amqp_pool(&link->pool);
	if (!ok)
		link_fail_malformed(link);
}
