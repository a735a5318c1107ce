/*-------------------------------------------------------------------------
 *
 * template.c
 *		Names made of what a message has: {topic}, {key}, {type}.
 *
 * No state.  What is returned is in the current memory context, or the
 * message's.  A problem is a constant sentence, fit for the detail of an error.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"

#include "common/template.h"
#include "lib/text.h"

/* What a message has in place of the braces that "str" begins with, or NULL. */
static const char *
placeholder_value(const char *str, const OutboxMessage *message, Size *len)
{
	const struct
	{
		const char *name;
		const char *value;
	}			placeholders[] = {
		{"{topic}", message->topic},
		{"{key}", message->key ? message->key : ""},
		{"{type}", message->type}
	};

	for (int i = 0; i < lengthof(placeholders); i++)
	{
		*len = strlen(placeholders[i].name);
		if (strncmp(str, placeholders[i].name, *len) == 0)
			return placeholders[i].value;
	}
	return NULL;
}

/* What is wrong with a pattern; NULL: nothing. */
const char *
template_problem(const char *pattern)
{
	const OutboxMessage sample = {.topic = "",.type = ""};
	Size		len;

	if (text_has_control(pattern, strlen(pattern)))
		return "It must not contain control characters.";
	for (const char *p = pattern; (p = strpbrk(p, "{}")) != NULL; p += len)
	{
		if (placeholder_value(p, &sample, &len) == NULL)
			return "Braces can only be around \"topic\", \"key\" and \"type\".";
	}
	return NULL;
}

/* The name that this pattern, which has no problem, makes of a message. */
const char *
template_expand(const char *pattern, const OutboxMessage *message)
{
	StringInfoData buf;
	Size		len;

	if (strcmp(pattern, "{topic}") == 0)
		return message->topic;
	initStringInfo(&buf);
	while (*pattern != '\0')
	{
		const char *value = placeholder_value(pattern, message, &len);

		if (value == NULL)
		{
			appendStringInfoChar(&buf, *pattern++);
			continue;
		}
		appendStringInfoString(&buf, value);
		pattern += len;
	}
	return buf.data;
}
