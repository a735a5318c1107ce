/*-------------------------------------------------------------------------
 *
 * oauth_grant.c
 *		How an access token is asked for, and what is answered.
 *
 * The grant is that of client credentials (RFC 6749, section 4.4).  The client's
 * secret goes into a header, or into the body with the rest, as the server of tokens
 * wants it.
 *
 * Memory.  What is made here is in the current memory context.
 *
 * Errors.  What is wrong with a setting, a file or an answer is a reason in one
 * line, which shows no secret.  Errors are thrown as in secret_file.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "common/base64.h"

#include "guc.h"
#include "http/http_url.h"
#include "lib/json_members.h"
#include "lib/text.h"
#include "publish/http_answer.h"
#include "publish/oauth_grant.h"

/* The longest answer that is looked at. */
#define ANSWER_MAX		(64 * 1024)

/* What is of interest in the answer of a token server. */
typedef struct TokenAnswer
{
	const char *token;
	const char *type;
	const char *expires_in;
	const char *error;
	const char *description;
} TokenAnswer;

/* A text in base64, in the current memory context. */
static char *
encode_base64(const char *str)
{
	int			len = strlen(str);
	int			size = pg_b64_enc_len(len);
	char	   *encoded = palloc(size + 1);

	size = pg_b64_encode((const void *) str, len, encoded, size);
	encoded[Max(size, 0)] = '\0';
	return encoded;
}

/* Append a parameter to a form, unless it is empty. */
static void
append_parameter(StringInfo form, const char *name, const char *value)
{
	if (value[0] == '\0')
		return;
	appendStringInfo(form, "&%s=", name);
	text_append_uri(form, value);
}

/* WatchedKind.problem */
static const char *
secret_problem(const char *const *texts, const char *const *paths)
{
	return strcspn(texts[0], "\r\n") > 0 ? NULL :
		psprintf("file \"%s\" contains no secret", paths[0]);
}

static const WatchedKind secret_kind = {
	.nfiles = 1,
	.problem = secret_problem
};

/* Read the client's secret, which is the first line of its file, and hide it. */
static bool
read_secret(HttpPublisher *publisher, char **secret, const char **reason)
{
	const char *const path = guc_http_oauth_client_secret_file;
	const char *text;

	if (!watched_files_read(publisher->files, &secret_kind, &path, &text, reason))
		return false;
	*secret = pnstrdup(text, strcspn(text, "\r\n"));
	http_answer_hide(publisher, *secret);
	return true;
}

/*
 * Make of the settings what a token is asked for with.  False and a reason, if
 * they are not complete.  To be called while the settings are read.
 */
bool
oauth_grant_read(HttpPublisher *publisher, OAuthGrant *grant,
				 const char **reason)
{
	StringInfoData form;
	char	   *secret;

	memset(grant, 0, sizeof(*grant));
	if (guc_http_oauth_token_url[0] == '\0')
		return true;
	if (guc_http_oauth_client_id[0] == '\0' ||
		guc_http_oauth_client_secret_file[0] == '\0')
	{
		*reason = "outbox.http_oauth_token_url is set, but outbox.http_oauth_client_id or outbox.http_oauth_client_secret_file is not";
		return false;
	}
	if (!read_secret(publisher, &secret, reason))
		return false;

	initStringInfo(&form);
	if (guc_http_oauth_auth == OAUTH_AUTH_BASIC)
	{
		/* both are encoded as in a form before they are joined */
		text_append_uri(&form, guc_http_oauth_client_id);
		appendStringInfoChar(&form, ':');
		text_append_uri(&form, secret);
		grant->authorization = psprintf("Basic %s", encode_base64(form.data));
		http_answer_hide(publisher, form.data);
		resetStringInfo(&form);
	}
	appendStringInfoString(&form, "grant_type=client_credentials");
	append_parameter(&form, "scope", guc_http_oauth_scope);
	append_parameter(&form, "audience", guc_http_oauth_audience);
	if (grant->authorization == NULL)
	{
		append_parameter(&form, "client_id", guc_http_oauth_client_id);
		append_parameter(&form, "client_secret", secret);
	}
	grant->body = form.data;
	grant->url = pstrdup(guc_http_oauth_token_url);
	return true;
}

/* Fill in a request for a token. */
void
oauth_grant_fill(const OAuthGrant *grant, HttpRequest *request)
{
	http_request_omit_headers(request);
	http_request_add_header(request, "Accept", "application/json");
	if (grant->authorization != NULL)
		http_request_add_header(request, "Authorization",
								grant->authorization);
	http_request_post(request, grant->url, "application/x-www-form-urlencoded",
					  pstrdup(grant->body), strlen(grant->body));
}

/* JsonMemberCB */
static void
answer_member(void *arg, int depth, const char *top, const char *name,
			  const char *value)
{
	TokenAnswer *answer = arg;

	if (depth != 1 || name == NULL)
		return;
	if (strcmp(name, "access_token") == 0)
		answer->token = value;
	else if (strcmp(name, "token_type") == 0)
		answer->type = value;
	else if (strcmp(name, "expires_in") == 0)
		answer->expires_in = value;
	else if (strcmp(name, "error") == 0)
		answer->error = value;
	else if (strcmp(name, "error_description") == 0)
		answer->description = value;
}

/* Why an answer, which has been read, brings no token; NULL: it brings one. */
static const char *
answer_problem(const HttpResult *result, const TokenAnswer *answer)
{
	HttpVerdict verdict = {.code = answer->error,.message = answer->description};

	if (result->status < 200 || result->status >= 300)
		return http_answer_error_line(result, &verdict);
	if (result->error != NULL || result->body_len > ANSWER_MAX)
		return "the answer is too long, or broke off";
	if (answer->token == NULL || answer->token[0] == '\0')
		return "the answer has no access_token";
	if (answer->type != NULL && pg_strcasecmp(answer->type, "bearer") != 0)
		return "the token is of another type than Bearer";
	if (http_url_part_problem(answer->token) != NULL)
		return "the token has characters that a header cannot have";
	return NULL;
}

/* How long a token lives that ends in so many seconds; -1: that is not known. */
static int64
life_in_ms(const char *expires_in)
{
	double		seconds = expires_in ? strtod(expires_in, NULL) : 0;

	/* some write 0 for what does not end; a NaN is not above it either */
	return seconds > 0 ? (int64) (Min(seconds, (double) INT_MAX) * 1000.0) : -1;
}

/*
 * The token that a request for one has brought, and the milliseconds that it lives,
 * -1 if that is not known.  NULL and a reason if there is none.
 */
const char *
oauth_grant_answer(const HttpResult *result, int64 *life_ms,
				   const char **reason)
{
	TokenAnswer answer = {0};

	if (!json_members_read_plain(result->body, result->body_len, answer_member,
								 &answer))
		memset(&answer, 0, sizeof(answer));
	*reason = answer_problem(result, &answer);
	*life_ms = life_in_ms(answer.expires_in);
	return *reason == NULL ? answer.token : NULL;
}
