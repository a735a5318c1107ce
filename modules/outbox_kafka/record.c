/*-------------------------------------------------------------------------
 *
 * record.c
 *		From an event to a record of Kafka.
 *
 * In binary mode the value is the payload as it is and the attributes of
 * CloudEvents are headers, "ce_id" and so on, as its binding for Kafka has
 * them; in structured mode the value is a JSON envelope.  In both, the event's
 * key is the record's, and metadata are headers by their own names, but those
 * that consumers take for ours.
 *
 * A record has the time at which it is sent, not the event's (ce_time): Kafka
 * goes by it when it deletes what is old.
 *
 * Memory: what is made on the way is in the current context, which is emptied
 * after each callback.  Errors: what Kafka cannot carry is an answer.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/module.h"
#include "common/template.h"
#include "lib/stringinfo.h"
#include "publish/cloudevent.h"
#include "record.h"

/* A topic's name has at most so many characters. */
#define TOPIC_MAX 249

/* Beside the metadata: content-type, attributes, and traceparent by its name. */
#define MAX_HEADERS_OF_OURS 11

static const char *const reserved[] = {
	"ce_*", "content-type", "traceparent", NULL
};

/* May this be in the name of a topic? */
static bool
is_topic_character(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
		(c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
}

/* Why Kafka can have no topic of this name; NULL: it can. */
static const char *
find_topic_problem(const char *topic)
{
	Size		len = 0;

	while (is_topic_character(topic[len]))
		len++;
	if (topic[len] != '\0')
		return "the name of a topic of Kafka has only the characters a-z, A-Z, 0-9, \".\", \"_\" and \"-\"";
	if (len == 0 || len > TOPIC_MAX)
		return "the name of a topic of Kafka has from 1 to 249 characters";
	if (strcmp(topic, ".") == 0 || strcmp(topic, "..") == 0)
		return "no topic of Kafka is named \".\" or \"..\"";
	return NULL;
}

/* Why Kafka cannot carry this event; NULL: it can. */
static const char *
find_problem(const OutboxMessage *message, const char *topic)
{
	const char *name = module_reserved_metadata(message, reserved);

	if (name != NULL)
		return psprintf("metadata must not have the name \"%s\", by which consumers know the event",
						name);
	return find_topic_problem(topic);
}

/* Add a header, unless there is no value. */
static void
add_header(KafkaRecord *record, const char *name, const char *value)
{
	if (value == NULL)
		return;
	record->headers[record->nheaders].name = name;
	record->headers[record->nheaders++].value = value;
}

static void
add_headers(KafkaRecord *record, const OutboxMessage *message,
			const KafkaSettings *settings)
{
	record->headers = palloc(sizeof(KafkaHeader) *
							 (MAX_HEADERS_OF_OURS + message->nmetadata));
	record->nheaders = 0;
	if (settings->structured)
		add_header(record, "content-type", "application/cloudevents+json");
	else
	{
		add_header(record, "content-type", message->content_type);
		add_header(record, "ce_specversion", "1.0");
		add_header(record, "ce_id", message->event_id);
		add_header(record, "ce_source", settings->source);
		add_header(record, "ce_type", message->type);
		add_header(record, "ce_time", message->time);
		add_header(record, "ce_expirytime", message->expiry_time);
		add_header(record, "ce_topic", message->topic);
		add_header(record, "ce_partitionkey", message->key);
		add_header(record, "ce_traceparent", message->traceparent);
	}

	/* for what traces messages and knows nothing of CloudEvents */
	add_header(record, "traceparent", message->traceparent);
	for (int i = 0; i < message->nmetadata; i++)
		add_header(record, message->metadata[i].name,
				   message->metadata[i].value);
}

/* Fill in a record.  Returns why there can be none, or NULL. */
const char *
record_make(KafkaRecord *record, const OutboxMessage *message,
			const KafkaSettings *settings)
{
	const char *topic = template_expand(settings->topic, message);
	const char *problem = find_problem(message, topic);

	if (problem != NULL)
		return problem;
	record->topic = topic;
	record->key = message->key;
	record->value = message->payload;
	record->size = message->payload_len;
	if (settings->structured)
	{
		StringInfoData envelope;

		initStringInfo(&envelope);
		cloudevent_append(&envelope, message, settings->source,
						  CLOUDEVENT_TOPIC | CLOUDEVENT_METADATA);
		record->value = envelope.data;
		record->size = envelope.len;
	}
	add_headers(record, message, settings);
	return NULL;
}
