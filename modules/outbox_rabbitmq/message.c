/*-------------------------------------------------------------------------
 *
 * message.c
 *		From an event to a message of AMQP.
 *
 * In binary mode the body is the payload as it is and the attributes of
 * CloudEvents are headers, "cloudEvents_id" and so on, as its binding for AMQP
 * has them; in structured mode the body is a JSON envelope.  In both, id, type
 * and time are properties as well, and metadata are headers by their own
 * names, but those that mean something to RabbitMQ: whoever may publish an
 * event has no say in where it goes.
 *
 * Memory: what is made on the way is in the current context, which is emptied
 * after each callback.  Errors: what AMQP cannot carry is an answer.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "datatype/timestamp.h"
#include "utils/datetime.h"

#include "common/module.h"
#include "common/template.h"
#include "frame.h"
#include "message.h"
#include "publish/cloudevent.h"

/* Properties and names of headers have at most so many bytes. */
#define SHORT_TEXT_MAX 255

/* Beside the metadata: attributes, and traceparent by its own name. */
#define MAX_HEADERS_OF_OURS 10

/*
 * RabbitMQ sends a message to the routing keys in CC and BCC as well, and knows
 * by the headers of a dead letter where that has been.
 */
static const char *const reserved[] = {
	"CC", "BCC", "cloudEvents*", "traceparent", "x-death", "x-first-death-*",
	"x-last-death-*", NULL
};

/* Add a header, unless there is no value. */
static void
add_header(amqp_table_t *headers, const char *name, const char *value)
{
	amqp_table_entry_t *entry = &headers->entries[headers->num_entries];

	if (value == NULL)
		return;
	entry->key = frame_text(name);
	entry->value.kind = AMQP_FIELD_KIND_UTF8;
	entry->value.value.bytes = frame_text(value);
	headers->num_entries++;
}

static void
add_headers(amqp_table_t *headers, const OutboxMessage *message,
			const RabbitSettings *settings)
{
	headers->entries = palloc(sizeof(amqp_table_entry_t) *
							  (MAX_HEADERS_OF_OURS + message->nmetadata));
	headers->num_entries = 0;
	if (!settings->structured)
	{
		add_header(headers, "cloudEvents_specversion", "1.0");
		add_header(headers, "cloudEvents_id", message->event_id);
		add_header(headers, "cloudEvents_source", settings->source);
		add_header(headers, "cloudEvents_type", message->type);
		add_header(headers, "cloudEvents_time", message->time);
		add_header(headers, "cloudEvents_expirytime", message->expiry_time);
		add_header(headers, "cloudEvents_topic", message->topic);
		add_header(headers, "cloudEvents_partitionkey", message->key);
		add_header(headers, "cloudEvents_traceparent", message->traceparent);
	}

	/* for what traces messages and knows nothing of CloudEvents */
	add_header(headers, "traceparent", message->traceparent);
	for (int i = 0; i < message->nmetadata; i++)
		add_header(headers, message->metadata[i].name,
				   message->metadata[i].value);
}

/* Seconds since 1970 of a time by RFC 3339 in UTC; false if it is none. */
static bool
unix_time(const char *str, uint64 *seconds)
{
	int			year,
				month,
				day,
				hour,
				minute,
				second;
	int64		days;

	if (sscanf(str, "%d-%d-%dT%d:%d:%d", &year, &month, &day, &hour, &minute,
			   &second) != 6)
		return false;
	days = date2j(year, month, day) - UNIX_EPOCH_JDATE;
	*seconds = days * SECS_PER_DAY + hour * SECS_PER_HOUR +
		minute * SECS_PER_MINUTE + second;
	return days >= 0;
}

static void
fill_properties(amqp_basic_properties_t *properties,
				const OutboxMessage *message, const RabbitSettings *settings)
{
	memset(properties, 0, sizeof(*properties));
	properties->_flags = AMQP_BASIC_CONTENT_TYPE_FLAG |
		AMQP_BASIC_HEADERS_FLAG | AMQP_BASIC_DELIVERY_MODE_FLAG |
		AMQP_BASIC_MESSAGE_ID_FLAG | AMQP_BASIC_TYPE_FLAG;
	properties->content_type = frame_text(settings->structured ?
										  "application/cloudevents+json" :
										  message->content_type);
	properties->delivery_mode = settings->persistent ?
		AMQP_DELIVERY_PERSISTENT : AMQP_DELIVERY_NONPERSISTENT;
	properties->message_id = frame_text(message->event_id);
	properties->type = frame_text(message->type);
	if (unix_time(message->time, &properties->timestamp))
		properties->_flags |= AMQP_BASIC_TIMESTAMP_FLAG;
	add_headers(&properties->headers, message, settings);
}

/* Why a message of this size is not sent; NULL: it is. */
static const char *
find_size_problem(Size size, const RabbitSettings *settings)
{
	if (size <= settings->max_message_size)
		return NULL;
	return psprintf("the message has %zu bytes, more than the %zu of outbox_rabbitmq.max_message_size",
					size, settings->max_message_size);
}

/* Why AMQP cannot carry this event to this routing key; NULL: it can. */
static const char *
find_problem(const OutboxMessage *message, const char *routing_key,
			 const RabbitSettings *settings)
{
	const char *name = module_reserved_metadata(message, reserved);
	bool		too_long;

	if (name != NULL)
		return psprintf("metadata must not have the name \"%s\", which means something to RabbitMQ",
						name);
	if (strlen(routing_key) > SHORT_TEXT_MAX)
		return "its routing key has more than 255 bytes";

	/* publishing allows no more either, but what was restored is not checked */
	too_long = strlen(message->type) > SHORT_TEXT_MAX ||
		strlen(message->content_type) > SHORT_TEXT_MAX;
	for (int i = 0; i < message->nmetadata; i++)
		too_long |= strlen(message->metadata[i].name) > SHORT_TEXT_MAX;
	if (too_long)
		return "its type, its content type or a name in its metadata has more than 255 bytes";
	return find_size_problem(message->payload_len, settings);
}

/*
 * Put all that publishes an event.  If that is not possible, nothing is put, and
 * the reason is returned; else NULL.
 */
const char *
message_put(StringInfo out, uint16 channel, Size frame_max,
			const OutboxMessage *message, const RabbitSettings *settings)
{
	const char *routing_key = template_expand(settings->routing_key, message);
	const char *problem = find_problem(message, routing_key, settings);
	const char *body = message->payload;
	Size		size = message->payload_len;
	amqp_basic_publish_t publish = {
		.exchange = frame_text(settings->exchange),
		.routing_key = frame_text(routing_key),
		.mandatory = settings->mandatory
	};
	amqp_basic_properties_t properties;
	int			begin = out->len;

	if (problem == NULL && settings->structured)
	{
		StringInfoData envelope;

		initStringInfo(&envelope);
		cloudevent_append(&envelope, message, settings->source,
						  CLOUDEVENT_TOPIC | CLOUDEVENT_METADATA);
		body = envelope.data;
		size = envelope.len;
		problem = find_size_problem(size, settings);
	}
	if (problem != NULL)
		return problem;
	fill_properties(&properties, message, settings);

	/* from here on nothing throws: no half of a message is ever sent */
	frame_reserve(out, frame_max, size);
	if (!frame_put_method(out, channel, AMQP_BASIC_PUBLISH_METHOD, &publish) ||
		!frame_put_header(out, channel, frame_max, &properties, size))
	{
		out->len = begin;
		return "its properties and headers do not fit into a frame of AMQP";
	}
	frame_put_body(out, channel, frame_max, body, size);
	return NULL;
}
