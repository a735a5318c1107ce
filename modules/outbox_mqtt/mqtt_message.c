/*-------------------------------------------------------------------------
 *
 * mqtt_message.c
 *		An event as a message of MQTT 5, and the packet that begins it all.
 *
 * In binary mode the payload is the message's and the attributes are user
 * properties by their own names, as the MQTT binding of CloudEvents 1.0 has them;
 * in structured mode the payload is an envelope.  In both, metadata are user
 * properties too.  What is an attribute's name cannot be one of metadata.
 *
 * No state.  Allocates in the current memory context; errors are reasons, and only
 * out of memory is thrown.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "common/module.h"
#include "common/template.h"
#include "mqtt_message.h"
#include "publish/cloudevent.h"

/* Flags of CONNECT */
#define CLEAN_START		0x02
#define HAS_PASSWORD	0x40
#define HAS_USER		0x80

#define PROTOCOL_VERSION 5

/* What may not be the name of a metadatum. */
static const char *const reserved[] = {
	"id", "source", "specversion", "type", "time", "datacontenttype", "dataschema",
	"subject", "topic", "partitionkey", "traceparent", "expirytime", NULL
};

/* Append CONNECT; "keep_alive" is in seconds. */
void
mqtt_connect_append(StringInfo out, const MqttIdentity *identity, int keep_alive)
{
	StringInfoData head;

	initStringInfo(&head);
	mqtt_put_string(&head, "MQTT");
	appendStringInfoChar(&head, PROTOCOL_VERSION);
	appendStringInfoChar(&head, CLEAN_START |
						 (identity->user ? HAS_USER : 0) |
						 (identity->password ? HAS_PASSWORD : 0));
	mqtt_put_uint16(&head, keep_alive);
	appendStringInfoChar(&head, 0); /* no properties */
	mqtt_put_string(&head, identity->client_id);
	if (identity->user)
		mqtt_put_string(&head, identity->user);
	if (identity->password)
		mqtt_put_string(&head, identity->password);
	mqtt_append_packet(out, MQTT_CONNECT, &head, NULL, 0);
}

/* Why nothing can be published to this topic; NULL if it can be. */
static const char *
topic_problem(const char *topic)
{
	if (topic[0] == '\0')
		return "it is empty";
	if (strlen(topic) > MQTT_MAX_STRING)
		return "it is too long";
	if (strpbrk(topic, "+#"))
		return "it has a wildcard";
	if (topic[0] == '$')
		return "it is reserved by MQTT";
	return NULL;
}

/* A user property, unless it has no value. */
static void
put_attribute(StringInfo properties, const char *name, const char *value)
{
	if (value)
		mqtt_put_user_property(properties, name, value);
}

/* All that CloudEvents knows of an event but its data. */
static void
put_attributes(StringInfo properties, const OutboxMessage *message,
			   const char *source)
{
	put_attribute(properties, "specversion", "1.0");
	put_attribute(properties, "id", message->event_id);
	put_attribute(properties, "source", source);
	put_attribute(properties, "type", message->type);
	put_attribute(properties, "time", message->time);
	put_attribute(properties, "expirytime", message->expiry_time);
	put_attribute(properties, "topic", message->topic);
	put_attribute(properties, "partitionkey", message->key);
}

/*
 * Append an event as PUBLISH with this id, of at most "max_size" bytes.  False and
 * a reason, with nothing appended, if it can never be sent.
 */
bool
mqtt_message_append(StringInfo out, const OutboxMessage *message,
					const MqttMessageOptions *options, const char *source,
					uint16 id, Size max_size, const char **reason)
{
	const char *topic = template_expand(options->topic, message);
	const char *problem = topic_problem(topic);
	const char *taken = module_reserved_metadata(message, reserved);
	const char *payload = message->payload;
	Size		payload_len = message->payload_len;
	StringInfoData properties;
	StringInfoData head;
	StringInfoData envelope;

	if (problem)
	{
		*reason = psprintf("no message can have the topic \"%.100s\": %s", topic,
						   problem);
		return false;
	}
	if (taken)
	{
		*reason = psprintf("the name \"%s\" in metadata is reserved", taken);
		return false;
	}

	initStringInfo(&properties);
	for (int i = 0; i < message->nmetadata; i++)
		mqtt_put_user_property(&properties, message->metadata[i].name,
							   message->metadata[i].value);
	put_attribute(&properties, "traceparent", message->traceparent);
	if (!options->structured)
	{
		put_attributes(&properties, message, source);
		mqtt_put_property(&properties, MQTT_CONTENT_TYPE, message->content_type);
	}
	else
		mqtt_put_property(&properties, MQTT_CONTENT_TYPE,
						  "application/cloudevents+json");
	if (options->structured || message->is_json)
		mqtt_put_property(&properties, MQTT_PAYLOAD_IS_TEXT, NULL);

	/* what is too large by itself is not made an envelope of */
	if (options->structured && payload_len <= Min(max_size, CLOUDEVENT_MAX_PAYLOAD))
	{
		initStringInfo(&envelope);
		cloudevent_append(&envelope, message, source, CLOUDEVENT_TOPIC);
		payload = envelope.data;
		payload_len = envelope.len;
	}

	initStringInfo(&head);
	mqtt_put_string(&head, topic);
	mqtt_put_uint16(&head, id);
	mqtt_put_properties(&head, &properties);
	if (mqtt_packet_size(head.len + payload_len) > max_size)
	{
		*reason = psprintf("message of %zu bytes is larger than the broker takes, which is %zu",
						   mqtt_packet_size(head.len + payload_len), max_size);
		return false;
	}
	mqtt_append_packet(out, MQTT_PUBLISH, &head, payload, payload_len);
	return true;
}
