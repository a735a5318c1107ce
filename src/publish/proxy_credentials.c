/*-------------------------------------------------------------------------
 *
 * proxy_credentials.c
 *		Who we are to a proxy, in a secret file.
 *
 * The file has one line: a name, a colon and a password.  It goes to the proxy
 * alone, by Basic authentication.
 *
 * Memory.  What is made here is in the current memory context, which is to last
 * as long as the settings.
 *
 * Errors.  What is wrong with the file is an answer, which shows nothing of it.
 * Errors are thrown as in secret_file.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/text.h"
#include "publish/http_answer.h"
#include "publish/proxy_credentials.h"

/* The line of the file. */
static char *
first_line(const char *text)
{
	return pnstrdup(text, strcspn(text, "\r\n"));
}

/* WatchedKind.problem */
static const char *
credentials_problem(const char *const *texts, const char *const *paths)
{
	const char *line = first_line(texts[0]);
	const char *colon = strchr(line, ':');

	if (colon == NULL || colon == line || text_has_control(line, strlen(line)))
		return psprintf("file \"%s\" must have a line of the form \"name:password\"",
						paths[0]);
	return NULL;
}

static const WatchedKind credentials_kind = {
	.nfiles = 1,
	.problem = credentials_problem
};

/*
 * Read the file, and fill in proxy_user and proxy_password.  False and a reason, if
 * that is not possible.  To be called while the settings are read.
 */
bool
proxy_credentials_read(HttpPublisher *publisher, const char *path,
					   HttpOptions *options, const char **reason)
{
	const char *text;
	char	   *user;
	char	   *password;

	if (!watched_files_read(publisher->files, &credentials_kind, &path, &text,
							reason))
		return false;
	user = first_line(text);

	/* together they may be repeated as the header has them, in base64 */
	http_answer_hide(publisher, user);
	user = pstrdup(user);
	password = strchr(user, ':');
	*password++ = '\0';
	http_answer_hide(publisher, password);
	options->proxy_user = user;
	options->proxy_password = password;
	return true;
}
