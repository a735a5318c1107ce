/*-------------------------------------------------------------------------
 *
 * oauth_token.h
 *		The access token that requests are sent with, by OAuth 2.0.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_OAUTH_TOKEN_H
#define OUTBOX_OAUTH_TOKEN_H

#include "publish/http_publisher.h"

typedef struct OAuthToken OAuthToken;

extern OAuthToken *oauth_token_create(HttpPublisher *publisher);
extern bool oauth_token_configure(OAuthToken *token, const char **reason);
extern const char *oauth_token_authorization(const OAuthToken *token);
extern HttpBatchFate oauth_token_refused(OAuthToken *token,
										 const HttpBatch *batch);
extern bool oauth_token_run(OAuthToken *token);
extern long oauth_token_timeout_ms(const OAuthToken *token, long timeout_ms);

#endif							/* OUTBOX_OAUTH_TOKEN_H */
