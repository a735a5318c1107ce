/*-------------------------------------------------------------------------
 *
 * cloudevent.c
 *		The CloudEvents 1.0 envelope, and the values of its headers.
 *
 * The envelope of an event has the same bytes at every try: all it says is
 * stored with the event or set for the whole database.
 *
 * Texts are UTF-8 as the relay hands them over, whatever the encoding of the
 * database; the functions look at bytes only, have no state, and allocate in
 * the current memory context.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/base64.h"
#include "utils/memutils.h"

#include "lib/json_text.h"
#include "lib/text.h"
#include "publish/cloudevent.h"

/* Append ,"name":"value" unless there is no value. */
static void
append_attribute(StringInfo buf, const char *name, const char *value)
{
	if (value == NULL)
		return;
	appendStringInfoString(buf, ",\"");
	appendStringInfoString(buf, name);
	appendStringInfoString(buf, "\":");
	json_append_string(buf, value, strlen(value));
}

/* Append bytes in base64; there are at most CLOUDEVENT_MAX_PAYLOAD of them. */
static void
append_base64(StringInfo buf, const char *data, Size len)
{
	int			max = pg_b64_enc_len(len);
	int			written;

	enlargeStringInfo(buf, max);
	written = pg_b64_encode((const void *) data, len, buf->data + buf->len,
							max);
	Assert(written >= 0);
	buf->len += written;
	buf->data[buf->len] = '\0';
}

/*
 * Append the event in the JSON format: a complete application/cloudevents+json
 * body.  A JSON payload goes in as it is, digit by digit.
 */
void
cloudevent_append(StringInfo buf, const OutboxMessage *message,
				  const char *source, int flags)
{
	/* at least once the payload's size: do not grow there step by step */
	enlargeStringInfo(buf, message->payload_len + 512);

	appendStringInfoString(buf, "{\"specversion\":\"1.0\"");
	append_attribute(buf, "id", message->event_id);
	append_attribute(buf, "source", source);
	append_attribute(buf, "type", message->type);
	append_attribute(buf, "time", message->time);
	append_attribute(buf, "expirytime", message->expiry_time);
	append_attribute(buf, "datacontenttype", message->content_type);
	append_attribute(buf, "partitionkey", message->key);
	append_attribute(buf, "traceparent", message->traceparent);
	if (flags & CLOUDEVENT_TRACEID)
		append_attribute(buf, "traceid", message->traceparent);
	if (flags & CLOUDEVENT_TOPIC)
		append_attribute(buf, "topic", message->topic);

	/* an attribute is a string or a number, so that this is an object's text */
	if ((flags & CLOUDEVENT_METADATA) && message->nmetadata > 0)
	{
		StringInfoData metadata;

		initStringInfo(&metadata);
		cloudevent_append_metadata(&metadata, message);
		append_attribute(buf, "metadata", metadata.data);
		pfree(metadata.data);
	}

	if (message->is_json)
	{
		appendStringInfoString(buf, ",\"data\":");
		appendBinaryStringInfo(buf, message->payload, message->payload_len);
	}
	else
	{
		appendStringInfoString(buf, ",\"data_base64\":\"");
		append_base64(buf, message->payload, message->payload_len);
		appendStringInfoChar(buf, '"');
	}
	appendStringInfoChar(buf, '}');
}

/* The metadatum of this name, or NULL. */
const char *
cloudevent_get_metadata(const OutboxMessage *message, const char *name)
{
	for (int i = 0; i < message->nmetadata; i++)
	{
		if (strcmp(message->metadata[i].name, name) == 0)
			return message->metadata[i].value;
	}
	return NULL;
}

/* Append the metadata as a JSON object of strings, without spaces. */
void
cloudevent_append_metadata(StringInfo buf, const OutboxMessage *message)
{
	appendStringInfoChar(buf, '{');
	for (int i = 0; i < message->nmetadata; i++)
	{
		if (i > 0)
			appendStringInfoChar(buf, ',');
		json_append_string(buf, message->metadata[i].name,
						   strlen(message->metadata[i].name));
		appendStringInfoChar(buf, ':');
		json_append_string(buf, message->metadata[i].value,
						   strlen(message->metadata[i].value));
	}
	appendStringInfoChar(buf, '}');
}

/* May this stand for itself in a header of the CloudEvents HTTP binding? */
static bool
is_header_char(unsigned char c)
{
	return c > ' ' && c < 0x7F && c != '"' && c != '%';
}

/*
 * A text as the value of a header in the CloudEvents HTTP binding: spaces,
 * double quotes, percent signs, control characters and all that is not ASCII
 * are percent-encoded.  The text itself is returned if there are none.
 */
const char *
cloudevent_header_value(const char *text)
{
	const char *p = text;
	StringInfoData buf;

	while (is_header_char((unsigned char) *p))
		p++;
	if (*p == '\0')
		return text;

	initStringInfo(&buf);
	appendBinaryStringInfo(&buf, text, p - text);
	for (; *p != '\0'; p++)
	{
		if (is_header_char((unsigned char) *p))
			appendStringInfoChar(&buf, *p);
		else
			text_append_percent(&buf, (unsigned char) *p);
	}
	return buf.data;
}
