/*-------------------------------------------------------------------------
 *
 * cloudevent.c
 *		The CloudEvents 1.0 envelope, and the encodings that go with it.
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

#include "publish/cloudevent.h"
#include "common/base64.h"
#include "lib/json_text.h"
#include "lib/text.h"
#include "utils/memutils.h"

/* The source of events that has no other name: /cluster/database; palloc'd. */
const char *
cloudevent_make_source(const char *cluster, const char *database)
{
	StringInfoData source;

	initStringInfo(&source);
	appendStringInfoChar(&source, '/');
	text_append_uri(&source, cluster);
	appendStringInfoChar(&source, '/');
	text_append_uri(&source, database);
	return source.data;
}

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
	append_attribute(buf, "datacontenttype", message->content_type);
	append_attribute(buf, "partitionkey", message->key);
	append_attribute(buf, "traceparent", message->traceparent);
	if (flags & CLOUDEVENT_TRACEID)
		append_attribute(buf, "traceid", message->traceparent);
	if (flags & CLOUDEVENT_TOPIC)
		append_attribute(buf, "topic", message->topic);
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

static void
append_percent(StringInfo buf, unsigned char c)
{
	static const char digits[] = "0123456789ABCDEF";

	appendStringInfoChar(buf, '%');
	appendStringInfoChar(buf, digits[c >> 4]);
	appendStringInfoChar(buf, digits[c & 0x0F]);
}

/* RFC 3986's unreserved characters, the only ones safe anywhere in a URL. */
static bool
is_unreserved(unsigned char c)
{
	return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
		(c >= '0' && c <= '9') ||
		c == '-' || c == '.' || c == '_' || c == '~';
}

/* Append a text percent-encoded, as a name or a value in a URL's query. */
void
cloudevent_append_uri(StringInfo buf, const char *text)
{
	const char *p = text;

	while (is_unreserved((unsigned char) *p))
		p++;
	appendBinaryStringInfo(buf, text, p - text);
	for (; *p != '\0'; p++)
	{
		if (is_unreserved((unsigned char) *p))
			appendStringInfoChar(buf, *p);
		else
			append_percent(buf, (unsigned char) *p);
	}
}

/*
 * Append a text percent-encoded, as one segment of a URL's path.  "." and ".."
 * alone would be taken for steps in the path.
 */
void
cloudevent_append_uri_segment(StringInfo buf, const char *text)
{
	if (strcmp(text, ".") == 0)
		appendStringInfoString(buf, "%2E");
	else if (strcmp(text, "..") == 0)
		appendStringInfoString(buf, "%2E%2E");
	else
		cloudevent_append_uri(buf, text);
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
			append_percent(&buf, (unsigned char) *p);
	}
	return buf.data;
}
