/*-------------------------------------------------------------------------
 *
 * webhook_signature.h
 *		Signatures of requests, as Standard Webhooks has them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_WEBHOOK_SIGNATURE_H
#define OUTBOX_WEBHOOK_SIGNATURE_H

#include "publish/http_publisher.h"

typedef struct WebhookKeys WebhookKeys;

extern bool webhook_keys_read(HttpPublisher *publisher, const char *path,
							  WebhookKeys **keys, const char **reason);
extern const char *webhook_batch_id(const OutboxMessage *const *messages,
									int n);
extern void webhook_sign(WebhookKeys *keys, HttpRequest *request,
						 const char *id, const char *body, Size len);

#endif							/* OUTBOX_WEBHOOK_SIGNATURE_H */
