/*-------------------------------------------------------------------------
 *
 * redis_entry.c
 *		An event as an entry of a stream, and other commands of Redis.
 *
 * An event is one XADD.  In binary mode its attributes are fields by the names
 * that CloudEvents gives them, and the payload is "data"; in structured mode the
 * envelope is.  Metadata are one field with a JSON object, so that none of their
 * names can be taken for an attribute.
 *
 * Commands are arrays of strings with their lengths (RESP), so that any bytes can
 * be in them.  They are written here rather than by hiredis, which would copy each
 * payload once more.
 *
 * No state.  A command is appended as a whole or, out of memory, not at all.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "common/template.h"
#include "publish/cloudevent.h"
#include "redis_entry.h"

/* The name, and what makes it one: IDMP, MAXLEN, the id, and 12 fields. */
#define MAX_ARGUMENTS 32

/* The digits of a length, and what is around an argument. */
#define ARGUMENT_OVERHEAD 32

/* A command in the making */
typedef struct Command
{
	int			n;
	const char *data[MAX_ARGUMENTS];
	Size		len[MAX_ARGUMENTS];
} Command;

static void
add_bytes(Command *command, const char *data, Size len)
{
	Assert(command->n < MAX_ARGUMENTS);
	command->data[command->n] = data;
	command->len[command->n++] = len;
}

static void
add_string(Command *command, const char *str)
{
	add_bytes(command, str, strlen(str));
}

/* A field, unless it has no value. */
static void
add_field(Command *command, const char *name, const char *value)
{
	if (value == NULL)
		return;
	add_string(command, name);
	add_string(command, value);
}

static void
append_command(StringInfo out, const Command *command)
{
	Size		size = ARGUMENT_OVERHEAD;

	for (int i = 0; i < command->n; i++)
		size += command->len[i] + ARGUMENT_OVERHEAD;
	enlargeStringInfo(out, size);
	appendStringInfo(out, "*%d\r\n", command->n);
	for (int i = 0; i < command->n; i++)
	{
		appendStringInfo(out, "$%zu\r\n", command->len[i]);
		appendBinaryStringInfo(out, command->data[i], command->len[i]);
		appendStringInfoString(out, "\r\n");
	}
}

/* Append a command of these words. */
void
redis_append_command(StringInfo out, int argc, const char *const *argv)
{
	Command		command = {0};

	for (int i = 0; i < argc; i++)
		add_string(&command, argv[i]);
	append_command(out, &command);
}

/* Add what CloudEvents knows of an event but its data. */
static void
add_attributes(Command *command, const OutboxMessage *message,
			   const char *source)
{
	StringInfoData metadata;

	add_field(command, "specversion", "1.0");
	add_field(command, "id", message->event_id);
	add_field(command, "source", source);
	add_field(command, "type", message->type);
	add_field(command, "time", message->time);
	add_field(command, "expirytime", message->expiry_time);
	add_field(command, "topic", message->topic);
	add_field(command, "datacontenttype", message->content_type);
	add_field(command, "partitionkey", message->key);
	if (message->nmetadata == 0)
		return;
	initStringInfo(&metadata);
	cloudevent_append_metadata(&metadata, message);
	add_field(command, "metadata", metadata.data);
}

/*
 * Append XADD for an event.  False and a reason, with nothing appended, if it can
 * never be in a stream.
 */
bool
redis_entry_append(StringInfo out, const OutboxMessage *message,
				   const RedisEntryOptions *options, const char *source,
				   const char **reason)
{
	Command		command = {0};
	const char *stream = template_expand(options->stream, message);
	StringInfoData envelope;

	if (stream[0] == '\0')
	{
		*reason = "the name of its stream is empty";
		return false;
	}
	if (message->payload_len > CLOUDEVENT_MAX_PAYLOAD)
	{
		*reason = "payload is too large for Redis";
		return false;
	}

	add_string(&command, "XADD");
	add_string(&command, stream);
	if (options->idmp)
	{
		/* who sends it, and what it is known by */
		add_field(&command, "IDMP", source);
		add_string(&command, message->event_id);
	}
	if (options->maxlen > 0)
	{
		add_field(&command, "MAXLEN", "~");
		add_string(&command, psprintf("%d", options->maxlen));
	}
	add_string(&command, "*");
	add_field(&command, "traceparent", message->traceparent);
	if (options->structured)
	{
		initStringInfo(&envelope);
		cloudevent_append(&envelope, message, source,
						  CLOUDEVENT_TOPIC | CLOUDEVENT_METADATA);
		add_field(&command, "content-type", "application/cloudevents+json");
		add_string(&command, "data");
		add_bytes(&command, envelope.data, envelope.len);
	}
	else
	{
		add_attributes(&command, message, source);
		add_string(&command, "data");
		add_bytes(&command, message->payload, message->payload_len);
	}
	append_command(out, &command);
	return true;
}
