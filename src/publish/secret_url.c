/*-------------------------------------------------------------------------
 *
 * secret_url.c
 *		A URL that is a secret, in a file.
 *
 * Whoever knows the URL of a webhook may use it: it has no header that could be
 * kept secret in its place.  A server that complains may repeat the URL it was
 * asked for, or only the token in it, as it came or without percent-encoding.
 * All that is hidden, except for the host by itself, which is what libcurl's
 * errors are about.
 *
 * Memory.  What is made here is in the current memory context, which is to last
 * as long as the settings.
 *
 * Errors.  What is wrong with the file or the URL is an answer.  Errors are thrown
 * as in secret_file.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "lib/stringinfo.h"

#include "http/http_url.h"
#include "publish/http_answer.h"
#include "publish/secret_url.h"

/*
 * What is shorter is not hidden: the path and the query as a whole, and a word
 * in them, which is short if it says what is there and not who may use it.
 */
#define WHOLE_MIN 4
#define WORD_MIN 8

/* Stands for the topic while the URL is taken apart, and can't be in a URL. */
#define TOPIC_MARK "\n"

/* The text without percent-encoding; what is not encoded properly stays. */
static char *
percent_decoded(const char *str)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (; *str != '\0'; str++)
	{
		char		c = *str;

		if (c == '%' && isxdigit((unsigned char) str[1]) &&
			isxdigit((unsigned char) str[2]))
		{
			char		digits[] = {str[1], str[2], '\0'};

			c = (char) strtol(digits, NULL, 16);
			str += 2;
		}
		appendStringInfoChar(&buf, c);
	}
	return buf.data;
}

/* Hide what is between any of the delimiters and has at least "min" bytes. */
static void
hide_parts(HttpPublisher *publisher, const char *str, const char *delimiters,
		   Size min)
{
	char	   *rest = pstrdup(str);
	char	   *part;

	while ((part = strsep(&rest, delimiters)) != NULL)
	{
		char	   *decoded = percent_decoded(part);

		if (strlen(part) >= min)
			http_answer_hide(publisher, part);
		if (strcmp(decoded, part) != 0 && strlen(decoded) >= min)
			http_answer_hide(publisher, decoded);
	}
}

/* Hide a URL and its parts, up to the topic and from there on. */
static void
hide_url(HttpPublisher *publisher, const char *pattern)
{
	StringInfoData url;
	const char *behind_host;
	const char *topic;

	initStringInfo(&url);
	while ((topic = strstr(pattern, HTTP_URL_TOPIC)) != NULL)
	{
		appendBinaryStringInfo(&url, pattern, topic - pattern);
		appendStringInfoString(&url, TOPIC_MARK);
		pattern = topic + strlen(HTTP_URL_TOPIC);
	}
	appendStringInfoString(&url, pattern);
	hide_parts(publisher, url.data, TOPIC_MARK, WHOLE_MIN);

	/* a path may be repeated without its first slash */
	behind_host = strstr(url.data, "://") + 3;
	behind_host += strcspn(behind_host, "/?#");
	behind_host += strspn(behind_host, "/");
	hide_parts(publisher, behind_host, TOPIC_MARK "?#", WHOLE_MIN);
	hide_parts(publisher, behind_host, TOPIC_MARK "/?#&;=", WORD_MIN);
}

/* What a file holds, with or without a line break behind it. */
static char *
url_of(const char *text)
{
	Size		len = strlen(text);

	return pnstrdup(text, len > 0 && text[len - 1] == '\n' ? len - 1 : len);
}

/* WatchedKind.problem */
static const char *
url_problem(const char *const *texts, const char *const *paths)
{
	bool		has_user = false;
	const char *problem = http_url_pattern_problem(url_of(texts[0]), &has_user);

	return problem == NULL ? NULL :
		psprintf("the URL in file \"%s\" cannot be used: %s", paths[0], problem);
}

static const WatchedKind url_kind = {
	.nfiles = 1,
	.problem = url_problem
};

/*
 * Read the URL that a secret file holds, and never show it: *url may be used as the value of outbox.http_url.  False and a
 * reason, which shows nothing of it, if that is not possible.  To be called while
 * the settings are read.
 */
bool
secret_url_read(HttpPublisher *publisher, const char *path, const char **url,
				const char **reason)
{
	const char *text;
	char	   *str;

	if (!watched_files_read(publisher->files, &url_kind, &path, &text, reason))
		return false;
	str = url_of(text);
	hide_url(publisher, str);
	*url = str;
	return true;
}
