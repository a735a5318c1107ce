/*-------------------------------------------------------------------------
 *
 * http_batch.h
 *		The requests of messages: of one alone, or of several that share it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_HTTP_BATCH_H
#define OUTBOX_HTTP_BATCH_H

#include "publish/http_publisher.h"

extern void http_batch_send(HttpPublisher *publisher,
							const OutboxMessage *const *messages, int n);
extern bool http_batch_send_again(HttpPublisher *publisher);
extern bool http_batch_release(HttpPublisher *publisher);
extern void http_batch_cancel(HttpPublisher *publisher, int64 id);

#endif							/* OUTBOX_HTTP_BATCH_H */
