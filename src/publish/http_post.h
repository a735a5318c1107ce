/*-------------------------------------------------------------------------
 *
 * http_post.h
 *		The last steps to a request: compress, name, sign.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_HTTP_POST_H
#define OUTBOX_HTTP_POST_H

#include "publish/http_publisher.h"
#include "publish/webhook_signature.h"

/* How requests are posted; what it points to lasts as long as the settings. */
typedef struct HttpPostOptions
{
	bool		idempotency_key;	/* the id is a header, too */
	WebhookKeys *keys;			/* to sign with; NULL: not signed */
	bool		compress;		/* bodies from so many bytes on */
	Size		compress_min;
} HttpPostOptions;

extern void http_post(HttpPublisher *publisher, const HttpPostOptions *options,
					  HttpRequest *request, const char *id, const char *url,
					  const char *content_type, const char *body, Size len);

#endif							/* OUTBOX_HTTP_POST_H */
