/*-------------------------------------------------------------------------
 *
 * oauth_grant.h
 *		How an access token is asked for, and what is answered.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_OAUTH_GRANT_H
#define OUTBOX_OAUTH_GRANT_H

#include "publish/http_publisher.h"

/* What a token is asked for with, made of the settings. */
typedef struct OAuthGrant
{
	const char *url;			/* NULL: none is asked for */
	const char *authorization;	/* a header's value; NULL: the body has it */
	const char *body;
} OAuthGrant;

extern bool oauth_grant_read(HttpPublisher *publisher, OAuthGrant *grant,
							 const char **reason);
extern void oauth_grant_fill(const OAuthGrant *grant, HttpRequest *request);
extern const char *oauth_grant_answer(const HttpResult *result, int64 *life_ms,
									  const char **reason);

#endif							/* OUTBOX_OAUTH_GRANT_H */
