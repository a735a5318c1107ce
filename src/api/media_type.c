/*-------------------------------------------------------------------------
 *
 * media_type.c
 *		Media types, as the content types of events are.
 *
 * The grammar is RFC 9110's: type/subtype, both tokens, then parameters.  A
 * content type becomes a header as it is, and whoever reads that must find in it
 * what we did.
 *
 * No state, no memory, no errors: these functions only look.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "api/media_type.h"
#include "lib/text.h"

#define CLOUDEVENTS "application/cloudevents"

/* The length of a string in double quotes; 0: there is none, or no end of it. */
static Size
quoted_length(const char *str)
{
	const char *p = str;

	if (*p++ != '"')
		return 0;
	for (; *p != '"'; p++)
	{
		/* a backslash stands before any character, a quote among them */
		if (*p == '\\')
			p++;
		if (*p < ' ' || *p > '~')
			return 0;
	}
	return p + 1 - str;
}

/*
 * The length of a parameter and the semicolon in front of it, both with spaces
 * before them; the parameter may be missing.  0: there is no semicolon, or
 * something else behind it.
 */
static Size
parameter_length(const char *str)
{
	const char *p = str + strspn(str, " ");
	Size		name;
	Size		value;

	if (*p++ != ';')
		return 0;
	p += strspn(p, " ");
	name = text_token_length(p);
	if (name == 0)
		return p - str;
	p += name;
	if (*p++ != '=')
		return 0;
	value = *p == '"' ? quoted_length(p) : text_token_length(p);
	return value == 0 ? 0 : p + value - str;
}

/* Is it a media type, perhaps with parameters? */
bool
media_type_is_valid(const char *type)
{
	Size		len = text_token_length(type);

	if (len == 0 || type[len] != '/')
		return false;
	type += len + 1;
	len = text_token_length(type);
	if (len == 0)
		return false;
	for (type += len; *type != '\0'; type += len)
	{
		len = parameter_length(type);
		if (len == 0)
			return false;
	}
	return true;
}

/* Is the subtype of this media type json, or does it end in +json? */
bool
media_type_is_json(const char *type)
{
	const char *subtype = strchr(type, '/') + 1;
	Size		len = text_token_length(subtype);

	if (len == 4)
		return pg_strncasecmp(subtype, "json", 4) == 0;
	return len > 5 && pg_strncasecmp(subtype + len - 5, "+json", 5) == 0;
}

/*
 * Does a receiver take a body of this media type for a whole CloudEvent, or
 * for several?
 */
bool
media_type_is_cloudevents(const char *type)
{
	return pg_strncasecmp(type, CLOUDEVENTS, strlen(CLOUDEVENTS)) == 0;
}
