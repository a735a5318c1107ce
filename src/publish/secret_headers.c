/*-------------------------------------------------------------------------
 *
 * secret_headers.c
 *		Headers that a user adds to requests, of which some are secret.
 *
 * Headers are one a line.  Those of a setting may be shown; of those in a file, a
 * server may repeat the value as a whole, or a word of it.
 *
 * Memory.  What is made here is in the current memory context, which is to last
 * as long as the settings.
 *
 * Errors.  What is wrong with a file is an answer, which shows the number of the
 * line but nothing of its text.  Errors are thrown as in secret_file.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "http/http_header.h"
#include "lib/text.h"
#include "publish/http_answer.h"
#include "publish/secret_headers.h"

/*
 * What is shorter is not hidden: a value or the last word of it ("Bearer word"),
 * and any other word, which may say what is there.
 */
#define SECRET_MIN 4
#define WORD_MIN 8

/* Hide a header's value, and the words in it. */
static void
hide_value(HttpPublisher *publisher, char *header)
{
	char	   *value = strchr(header, ':') + 1;
	char	   *word;

	value += strspn(value, " \t");
	word = strrchr(value, ' ');
	if (strlen(value) >= SECRET_MIN)
		http_answer_hide(publisher, value);
	if (word != NULL && strlen(word + 1) >= SECRET_MIN)
		http_answer_hide(publisher, word + 1);
	value = pstrdup(value);
	while ((word = strsep(&value, " \t,;=\"")) != NULL)
	{
		if (strlen(word) >= WORD_MIN)
			http_answer_hide(publisher, word);
	}
}

/* WatchedKind.problem */
static const char *
headers_problem(const char *const *texts, const char *const *paths)
{
	const char *rest = texts[0];
	const char *line;
	Size		len;

	for (int number = 1; (line = text_next_line(&rest, &len)) != NULL; number++)
	{
		const char *problem = len > 0 ? http_header_problem(line, len) : NULL;

		if (problem != NULL)
			return psprintf("line %d of file \"%s\": %s", number, paths[0],
							problem);
	}
	return NULL;
}

static const WatchedKind headers_kind = {
	.nfiles = 1,
	.problem = headers_problem
};

/*
 * Append the lines of "text", which are headers, to a list.  Empty lines are
 * skipped, as is white space at the end of one: a receiver does not see it, and
 * could echo the rest.
 */
List *
secret_headers_add(HttpPublisher *publisher, List *headers, const char *text,
				   bool secret)
{
	const char *line;
	Size		len;

	while ((line = text_next_line(&text, &len)) != NULL)
	{
		char	   *header;

		if (len == 0)
			continue;
		header = pnstrdup(line, len);
		if (secret)
			hide_value(publisher, header);
		headers = lappend(headers, header);
	}
	return headers;
}

/* The same with what a secret file holds; false and a reason if it can't be used. */
bool
secret_headers_read(HttpPublisher *publisher, List **headers, const char *path,
					const char **reason)
{
	const char *text;

	if (!watched_files_read(publisher->files, &headers_kind, &path, &text, reason))
		return false;
	*headers = secret_headers_add(publisher, *headers, text, true);
	return true;
}
