/*-------------------------------------------------------------------------
 *
 * nats_message.c
 *		An event as a message of NATS.
 *
 * In binary mode the payload is the message's, and the attributes are headers
 * ("ce-id"); in structured mode the payload is an envelope.  In both,
 * Nats-Msg-Id is the event's id, by which JetStream drops what it has taken
 * already; metadata are headers, and so is traceparent, for tracing libraries.
 * Values of headers are percent-encoded as those of CloudEvents in HTTP are.
 *
 * Metadata of an event come from who may publish, who is not who may administer
 * a stream: names that mean something to the server, or would speak for us, are
 * refused.
 *
 * No state.  Allocates in the current memory context; errors are reasons, and
 * only out of memory is thrown.
 *
 * Facts: the NATS binding of CloudEvents 1.0.2, and
 * https://docs.nats.io/nats-concepts/jetstream/headers.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "common/module.h"
#include "common/template.h"
#include "nats_message.h"
#include "nats_protocol.h"
#include "publish/cloudevent.h"

/* The server takes 4096 bytes in a line; subject, reply and sizes share it. */
#define MAX_SUBJECT 3072

/* What may not be the name of a metadatum. */
static const char *const reserved[] = {
	"Nats-*", "ce-*", "Content-Type", "traceparent", NULL
};

/*
 * The subject of a message.  NULL and a reason if nothing can be published to
 * it.
 */
const char *
nats_message_subject(const NatsMessageOptions *options,
					 const OutboxMessage *message, const char **reason)
{
	const char *subject = template_expand(options->subject, message);
	const char *problem = nats_subject_problem(subject);

	if (problem == NULL && strlen(subject) > MAX_SUBJECT)
		problem = "it is too long";
	if (problem == NULL)
		return subject;
	*reason = psprintf("no message can have the subject \"%.100s\": %s", subject,
					   problem);
	return NULL;
}

/* Can this be the name of a header? */
static bool
is_header_name(const char *name)
{
	const char *p = name;

	while (*p > ' ' && *p <= '~' && *p != ':')
		p++;
	return *p == '\0' && p > name;
}

/* Append a header unless it has no value. */
static void
append_value(StringInfo header, const char *name, const char *value)
{
	if (value != NULL)
		nats_append_header(header, name, cloudevent_header_value(value));
}

/* Append the metadata as headers; false and a reason if one cannot be. */
static bool
append_metadata(StringInfo header, const OutboxMessage *message,
				const char **reason)
{
	const char *taken = module_reserved_metadata(message, reserved);

	if (taken != NULL)
	{
		*reason = psprintf("the name \"%s\" in metadata is reserved", taken);
		return false;
	}
	for (int i = 0; i < message->nmetadata; i++)
	{
		const char *name = message->metadata[i].name;

		if (!is_header_name(name))
		{
			*reason = psprintf("the name \"%s\" in metadata cannot be that of a header",
							   name);
			return false;
		}
		append_value(header, name, message->metadata[i].value);
	}
	return true;
}

/* Append what CloudEvents knows of an event but its data. */
static void
append_attributes(StringInfo header, const OutboxMessage *message,
				  const char *source)
{
	append_value(header, "ce-specversion", "1.0");
	append_value(header, "ce-id", message->event_id);
	append_value(header, "ce-source", source);
	append_value(header, "ce-type", message->type);
	append_value(header, "ce-time", message->time);
	append_value(header, "ce-expirytime", message->expiry_time);
	append_value(header, "ce-topic", message->topic);
	append_value(header, "ce-datacontenttype", message->content_type);
	append_value(header, "ce-partitionkey", message->key);
	append_value(header, "ce-traceparent", message->traceparent);
	nats_append_header(header, "Content-Type", message->content_type);
}

/*
 * Append an event, to be answered at "reply", to what goes to the server, which
 * takes "max_payload" bytes of header and payload.  False and a reason, with
 * nothing appended, if the event can never be sent.
 */
bool
nats_message_append(StringInfo out, const OutboxMessage *message,
					const NatsMessageOptions *options, const char *source,
					const char *subject, const char *reply, Size max_payload,
					const char **reason)
{
	StringInfoData header;
	StringInfoData envelope;
	const char *payload = message->payload;
	Size		len = message->payload_len;

	initStringInfo(&header);
	nats_append_header(&header, "Nats-Msg-Id", message->event_id);
	if (options->expect_stream[0] != '\0')
		nats_append_header(&header, "Nats-Expected-Stream",
						   options->expect_stream);
	if (!append_metadata(&header, message, reason))
		return false;
	append_value(&header, "traceparent", message->traceparent);

	if (!options->structured)
		append_attributes(&header, message, source);
	else if (len <= Min(max_payload, CLOUDEVENT_MAX_PAYLOAD))
	{
		/* a payload that is too large by itself is not made an envelope of */
		nats_append_header(&header, "Content-Type",
						   "application/cloudevents+json");
		initStringInfo(&envelope);
		cloudevent_append(&envelope, message, source, CLOUDEVENT_TOPIC);
		payload = envelope.data;
		len = envelope.len;
	}

	if (header.len + len > max_payload)
	{
		*reason = psprintf("message of %zu bytes is larger than the server's max_payload of %zu",
						   header.len + len, max_payload);
		return false;
	}
	nats_append_publish(out, subject, reply, &header, payload, len);
	return true;
}
