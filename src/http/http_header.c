/*-------------------------------------------------------------------------
 *
 * http_header.c
 *		Which headers a user may add to requests, and where a response begins.
 *
 * libcurl sends a header as it is given, so that whatever could end one and
 * begin another is refused here.  So are the headers that a request or its
 * CloudEvents envelope has of its own: a second one would be read by some
 * receivers in place of the first.
 *
 * No state, no memory, no errors: the problem is a constant sentence, fit for
 * the detail of an error.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "http/http_header.h"
#include "lib/text.h"

/* In lower case. */
static const char *const reserved_headers[] = {
	"ce-*", "connection", "content-length", "content-type", "expect", "host",
	"idempotency-key", "keep-alive", "te", "trailer", "traceparent",
	"transfer-encoding", "upgrade", "webhook-id", "webhook-signature",
	"webhook-timestamp", NULL
};

/*
 * Whoever publishes must not say who sends a request, for whom, by which way, or how
 * it is to be read.
 */
static const char *const trusted_headers[] = {
	"accept*", "access-control-*", "authorization", "cache-control", "content-*",
	"cookie*", "dapr-*", "date", "forwarded", "from", "if-*", "max-forwards",
	"origin", "pragma", "proxy-*", "range", "referer", "sec-*", "set-cookie*",
	"signature*", "user-agent", "via", "warning", "webhook-*", "x-forwarded-*",
	"x-http-method*", "x-method-override", "x-original-*", "x-real-ip",
	"x-rewrite-url", NULL
};

/* Is it one of these names, where what ends with "*" only has to begin so? */
static bool
is_one_of(const char *name, Size len, const char *const *names)
{
	for (; *names != NULL; names++)
	{
		Size		n = strlen(*names);
		bool		begins = (*names)[n - 1] == '*';

		n -= begins;
		if ((begins ? len >= n : len == n) &&
			pg_strncasecmp(*names, name, n) == 0)
			return true;
	}
	return false;
}

/*
 * Why "line" (len bytes) is not a header that a user may add to requests;
 * NULL if it is.
 */
const char *
http_header_problem(const char *line, Size len)
{
	const char *colon = memchr(line, ':', len);
	Size		namelen = colon ? colon - line : 0;

	if (namelen == 0)
		return "A header has the form \"Name: value\".";
	if (text_token_length(line) < namelen)
		return "The name of a header must not contain spaces, separators or control characters.";

	/* a tab is white space in a value, the only such control character */
	for (Size i = namelen; i < len; i++)
	{
		if (text_is_control(line[i]) && line[i] != '\t')
			return "The value of a header must not contain control characters.";
	}
	if (is_one_of(line, namelen, reserved_headers))
		return "This header is set by outbox itself.";
	return NULL;
}

/*
 * The problem of the first line that has one, in a text with a header a line
 * and perhaps empty lines; NULL if none has.
 */
const char *
http_header_list_problem(const char *lines)
{
	while (*lines != '\0')
	{
		Size		len = strcspn(lines, "\n");
		const char *problem = len > 0 ? http_header_problem(lines, len) : NULL;

		if (problem != NULL)
			return problem;
		lines += len;
		if (*lines == '\n')
			lines++;
	}
	return NULL;
}

/*
 * Why a list of names, with commas between them, are not those of headers that come
 * of what was published; NULL if they are.
 */
const char *
http_header_names_problem(const char *names)
{
	while (names[strspn(names, HTTP_HEADER_SEPARATORS)] != '\0')
	{
		Size		len;

		names += strspn(names, HTTP_HEADER_SEPARATORS);
		len = strcspn(names, HTTP_HEADER_SEPARATORS);
		if (text_token_length(names) < len)
			return "The name of a header must not contain spaces, separators or control characters.";
		if (is_one_of(names, len, reserved_headers))
			return "This header is set by outbox itself.";
		if (is_one_of(names, len, trusted_headers))
			return "A header that HTTP or authorisation gives a meaning to cannot come from who publishes.";
		names += len;
	}
	return NULL;
}

/*
 * Is it a response's first line?  libcurl takes whatever else begins like one
 * for that of a response with status 200.
 */
bool
http_header_is_status(const char *line, Size len)
{
	static const char form[] = "HTTP/9.9 999";
	Size		n = 0;

	/* HTTP/2 has no second digit */
	for (const char *p = form; *p != '\0'; p++, n++)
	{
		if (*p == '.' && n < len && line[n] == ' ')
			p += 2;
		if (n >= len || (*p == '9' ? !isdigit((unsigned char) line[n]) :
						 line[n] != *p))
			return false;
	}
	return n == len || isspace((unsigned char) line[n]);
}
