/*-------------------------------------------------------------------------
 *
 * oauth_token.c
 *		The access token that requests are sent with, by OAuth 2.0.
 *
 * oauth_grant.c says how it is asked for.  A token is fetched when there are settings
 * for one, and anew when nine tenths of its life are over, but no sooner than a
 * minute before its end; without a known end, when the endpoint has answered 401.
 * One fetch is under way at a time, by the client that sends the events, among
 * whose requests it is just another one.
 *
 * While there is no token that can be used, the destination is down, and the
 * publisher says so by itself: that no event pays for it takes the relay to hear
 * of it before it hears of the events that it had.  Fetches that fail are a
 * growing wait apart.
 *
 * What was sent with an earlier token and answered 401 is sent again with the
 * present one.  A 401 to the present one has another fetched, for which the
 * request waits; unless the token has just come, which will not help: then it is
 * the endpoint that does not want the event.
 *
 * Memory.  The struct and the token live as long as the publisher, the grant until
 * settings are read again.
 *
 * Errors.  What is wrong with a setting or an answer is a reason in one line.
 * Errors are thrown out of memory, as in secret_file.c, and by the client.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "guc.h"
#include "lib/clock.h"
#include "lib/log_limit.h"
#include "publish/http_answer.h"
#include "publish/http_batch.h"
#include "publish/oauth_grant.h"
#include "publish/oauth_token.h"
#include "publish/publisher_over_http.h"

/* A token is not renewed sooner before its end, ... */
#define RENEW_MS		60000

/* ... nor on account of a 401 when it is younger than this. */
#define FRESH_MS		1000

/* The longest wait between two fetches that fail. */
#define WAIT_MAX_MS		60000

struct OAuthToken
{
	HttpPublisher *publisher;
	OAuthGrant	grant;			/* in the publisher's settings */
	char	   *asked;			/* for what, as one text */
	char	   *bearer;			/* the present token; NULL: there is none */

	int64		obtained_at;	/* of the present token, if there is one ... */
	int64		expires_at;		/* ... PG_INT64_MAX: unknown */
	int64		fetch_at;		/* when to fetch; PG_INT64_MAX: never */
	int64		wait_ms;		/* after the last fetch, which failed; 0: not */
	bool		fetching;
	bool		refused;		/* the present token was answered 401 */
	bool		said_down;		/* the relay believes so on our account */
	bool		give_up;		/* it will have heard: let go what waits */

	/* of a fetch that has ended, until oauth_token_run() */
	bool		ended;
	char	   *fetched;		/* the token; NULL: there is none, for ... */
	char	   *problem;		/* ... this reason */
	int64		life_ms;		/* -1: unknown */
	int64		asked_wait_ms;	/* until the next fetch; -1: none */
};

/* In the publisher's context. */
OAuthToken *
oauth_token_create(HttpPublisher *publisher)
{
	OAuthToken *token = MemoryContextAllocZero(publisher->state->context,
											   sizeof(OAuthToken));

	token->publisher = publisher;
	token->fetch_at = PG_INT64_MAX;
	return token;
}

/* From now on there is no token, for this reason; the relay is to stop sending. */
static void
lose_token(OAuthToken *token, const char *problem)
{
	HttpPublisher *publisher = token->publisher;
	MemoryContext old = MemoryContextSwitchTo(publisher->state->context);
	char	   *missing = psprintf("no access token: %s", problem);

	MemoryContextSwitchTo(old);
	if (publisher->missing)
		pfree(publisher->missing);
	publisher->missing = missing;
	if (token->bearer)
		pfree(token->bearer);
	token->bearer = NULL;
	publisher->credentials++;
	token->expires_at = PG_INT64_MAX;
	token->said_down = true;
	outbox_probe_answer(publisher->state, false, missing);
}

/* Whatever was missing is there. */
static void
stop_missing(OAuthToken *token)
{
	HttpPublisher *publisher = token->publisher;

	if (publisher->missing)
		pfree(publisher->missing);
	publisher->missing = NULL;
	if (token->said_down)
		outbox_probe_answer(publisher->state, true, NULL);
	token->said_down = false;
}

static int64
fetch_id(OAuthToken *token)
{
	return (int64) (intptr_t) token;
}

/* HttpDoneCB of a fetch, which oauth_token_run() goes on with. */
static void
fetch_done(void *arg, int64 id, const HttpResult *result)
{
	OAuthToken *token = (OAuthToken *) (intptr_t) id;
	HttpPublisher *publisher = token->publisher;
	const char *fetched;
	const char *problem;
	MemoryContext old;

	token->fetching = false;
	token->ended = true;
	token->fetched = NULL;
	token->asked_wait_ms = result->retry_after_ms;

	MemoryContextReset(publisher->scratch);
	old = MemoryContextSwitchTo(publisher->scratch);
	fetched = oauth_grant_answer(result, &token->life_ms, &problem);
	MemoryContextSwitchTo(publisher->state->context);
	if (fetched != NULL)
		token->fetched = pstrdup(fetched);
	else
		token->problem = pstrdup(problem);
	MemoryContextSwitchTo(old);
}

static void
start_fetch(OAuthToken *token)
{
	HttpPublisher *publisher = token->publisher;
	HttpRequest *request;
	MemoryContext old;

	/* one whose end was lost to an error */
	http_client_cancel(publisher->client, fetch_id(token), fetch_done);

	token->fetch_at = PG_INT64_MAX;
	request = http_client_new_request(publisher->client, fetch_id(token),
									  fetch_done);
	old = MemoryContextSwitchTo(http_request_context(request));
	oauth_grant_fill(&token->grant, request);
	MemoryContextSwitchTo(old);
	http_client_start(publisher->client, request);
	token->fetching = true;
}

/* Use the token that was fetched. */
static void
take_token(OAuthToken *token, int64 now)
{
	HttpPublisher *publisher = token->publisher;

	if (token->bearer)
		pfree(token->bearer);
	token->bearer = token->fetched;
	publisher->credentials++;
	token->obtained_at = now;
	token->refused = false;
	token->wait_ms = 0;
	token->expires_at = PG_INT64_MAX;
	if (token->life_ms >= 0)
	{
		token->expires_at = now + token->life_ms;
		token->fetch_at = now + Max(token->life_ms / 10 * 9,
									token->life_ms - RENEW_MS);
	}
	stop_missing(token);

	/* the header of requests to come, and what is not to be shown of them */
	if (publisher->configured)
		over_http_read_again(publisher);
}

/*
 * No token was fetched: try again later.  If the present one is still good, that
 * is worth a line in the log and no more.
 */
static void
note_failed_fetch(OAuthToken *token, int64 now)
{
	int64		wait = token->wait_ms > 0 ? 2 * token->wait_ms :
	guc_breaker_probe_interval;

	if (token->bearer == NULL || token->refused)
	{
		lose_token(token, token->problem);
		token->give_up = true;
	}
	else if (token->wait_ms == 0 &&
			 log_is_due("token not renewed", token->problem))
		ereport(LOG,
				(errcode(ERRCODE_CONNECTION_EXCEPTION),
				 errmsg("outbox: could not renew the access token"),
				 errdetail("%s", token->problem),
				 errhint("The present one is used until it ends; another try follows.")));
	token->wait_ms = Min(wait, WAIT_MAX_MS);
	token->fetch_at = now + Max(token->wait_ms, token->asked_wait_ms);
	pfree(token->problem);
}

/*
 * Go on with what is due.  To be called when the client has been left.  True if
 * requests that waited for a token can be sent, or are to be answered.
 */
bool
oauth_token_run(OAuthToken *token)
{
	HttpPublisher *publisher = token->publisher;
	int64		now = clock_ms();
	bool		release = token->give_up || !publisher->configured;

	token->give_up = false;
	if (token->ended)
	{
		token->ended = false;
		if (token->fetched != NULL)
		{
			take_token(token, now);
			release = true;
		}
		else
			note_failed_fetch(token, now);
	}
	if (now >= token->expires_at)
		lose_token(token, "it has expired");
	if (now >= token->fetch_at && !token->fetching && publisher->configured)
		start_fetch(token);
	return release && http_batch_release(publisher);
}

/*
 * A request of these messages was answered 401: what is to be done about it?
 */
HttpBatchFate
oauth_token_refused(OAuthToken *token, const HttpBatch *batch)
{
	int64		now = clock_ms();

	if (token->grant.url == NULL)
		return HTTP_BATCH_ANSWER;
	if (batch->credentials != token->publisher->credentials)
		return HTTP_BATCH_REPEAT;
	if (!token->fetching && now - token->obtained_at < FRESH_MS)
		return HTTP_BATCH_ANSWER;
	token->refused = true;
	if (!token->fetching)
		token->fetch_at = now;
	return HTTP_BATCH_WAIT;
}

/*
 * Read the settings.  What was fetched by the same ones stays.  False and a reason
 * if they cannot be used.
 */
bool
oauth_token_configure(OAuthToken *token, const char **reason)
{
	HttpPublisher *publisher = token->publisher;
	char	   *asked;

	memset(&token->grant, 0, sizeof(token->grant));
	if (!oauth_grant_read(publisher, &token->grant, reason))
		return false;
	if (token->bearer)
		http_answer_hide(publisher, token->bearer);

	/* with another secret it would be the same token */
	asked = psprintf("%s\n%s\n%s\n%s", guc_http_oauth_token_url,
					 guc_http_oauth_client_id, guc_http_oauth_scope,
					 guc_http_oauth_audience);
	if (token->asked != NULL && strcmp(token->asked, asked) == 0)
	{
		if (token->grant.url != NULL && token->bearer == NULL)
			token->fetch_at = clock_ms();
		return true;
	}

	/* what was fetched or is under way is not what is wanted now */
	http_client_cancel(publisher->client, fetch_id(token), fetch_done);
	token->fetching = token->ended = token->refused = false;
	token->wait_ms = 0;
	if (token->asked)
		pfree(token->asked);
	token->asked = MemoryContextStrdup(publisher->state->context, asked);
	if (token->grant.url != NULL)
	{
		token->fetch_at = clock_ms();
		lose_token(token, "it is being fetched");
		return true;
	}

	/* requests need none any more */
	token->fetch_at = token->expires_at = PG_INT64_MAX;
	if (token->bearer)
		pfree(token->bearer);
	token->bearer = NULL;
	stop_missing(token);
	return true;
}

/*
 * How long to wait at most, in milliseconds: "timeout_ms" (-1: for ever), unless
 * something is due here before.
 */
long
oauth_token_timeout_ms(const OAuthToken *token, long timeout_ms)
{
	int64		due = token->expires_at;
	int64		left;

	if (!token->fetching)
		due = Min(due, token->fetch_at);
	if (token->ended || token->give_up)
		return 0;
	if (due == PG_INT64_MAX)
		return timeout_ms;
	left = Max(due - clock_ms(), 0);
	return timeout_ms < 0 ? (long) left : (long) Min(left, timeout_ms);
}

/* The header that requests are to have; NULL: there is none. */
const char *
oauth_token_authorization(const OAuthToken *token)
{
	return token->bearer ? psprintf("Authorization: Bearer %s", token->bearer) :
		NULL;
}
