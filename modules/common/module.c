/*-------------------------------------------------------------------------
 *
 * module.c
 *		What every publisher in modules/ does alike: settings, secrets,
 *		names, answers.
 *
 * No state.  What is returned is in the current memory context, or the
 * message's.  Errors: those of secret_file.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/module.h"
#include "common/template.h"
#include "lib/secret_file.h"

const struct config_enum_entry module_content_modes[] = {
	{"binary", MODULE_BINARY, false},
	{"structured", MODULE_STRUCTURED, false},
	{NULL, 0, false}
};

/* Answer a message that is in flight. */
void
module_answer(OutboxPublisherState *state, int64 id, const Verdict *verdict)
{
	OutboxAnswer answer = {
		.id = id,
		.outcome = verdict->outcome,
		.alone = verdict->alone,
		.status = verdict->status,
		.retry_after_ms = -1,
		.error = verdict->error
	};

	outbox_answer(state, &answer);
}

/* Whose certificates are trusted: a module's setting, or that of outbox; or empty. */
const char *
module_ca_file(const char *own, const OutboxPublisherState *state)
{
	if (own[0] != '\0')
		return own;
	return state->tls_ca_file ? state->tls_ca_file : "";
}

/* For check hooks: a value is accepted unless there is a problem, which is told. */
bool
module_accept_unless(const char *problem)
{
	if (problem != NULL)
		GUC_check_errdetail("%s", problem);
	return problem == NULL;
}

/* The check hook of a setting that is a template. */
bool
module_check_template(char **newval, void **extra, GucSource source)
{
	return module_accept_unless(template_problem(*newval));
}

/*
 * Read a secret that is one line, with or without a line break behind it, from
 * a secret file.  False, and the reason, if that is not possible.
 */
bool
module_read_secret(const char *path, const char **secret, const char **reason)
{
	char	   *str;
	Size		len;

	if (!secret_file_read(path, &str, reason))
		return false;
	len = strcspn(str, "\r\n");
	if (str[len + strspn(str + len, "\r\n")] != '\0')
	{
		*reason = psprintf("file \"%s\" has more than one line", path);
		return false;
	}
	str[len] = '\0';
	*secret = str;
	return true;
}

/* Is this a name that "pattern" has, which may end with "*"?  Case is ignored. */
static bool
name_matches(const char *name, const char *pattern)
{
	Size		len = strlen(pattern);

	if (len > 0 && pattern[len - 1] == '*')
		return pg_strncasecmp(name, pattern, len - 1) == 0;
	return pg_strcasecmp(name, pattern) == 0;
}

/*
 * The first name of a message's metadata that means something to the broker or
 * to those who read from it, and is not for whoever may publish to use; NULL
 * if there is none.  "reserved" ends with NULL; what ends with "*" stands for
 * all names that begin like it.
 */
const char *
module_reserved_metadata(const OutboxMessage *message,
						 const char *const *reserved)
{
	for (int i = 0; i < message->nmetadata; i++)
	{
		for (const char *const *pattern = reserved; *pattern; pattern++)
		{
			if (name_matches(message->metadata[i].name, *pattern))
				return message->metadata[i].name;
		}
	}
	return NULL;
}
