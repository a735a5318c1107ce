/*-------------------------------------------------------------------------
 *
 * publisher_over_http.h
 *		The callbacks of a publisher that speaks HTTP.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_PUBLISHER_OVER_HTTP_H
#define OUTBOX_PUBLISHER_OVER_HTTP_H

#include "publish/http_publisher.h"

/* Before anything is sent. */
extern void over_http_follow_files(HttpPublisher *publisher);
extern void over_http_read_again(HttpPublisher *publisher);

/* Callbacks of OutboxPublisherCallbacks, and startup_cb's work. */
extern void over_http_startup(OutboxPublisherState *state,
							  const HttpPublisherKind *kind);
extern bool over_http_check_configured(OutboxPublisherState *state,
									   const char **reason);
extern void over_http_submit(OutboxPublisherState *state,
							 const OutboxMessage *const *messages, int n);
extern int	over_http_sockets(OutboxPublisherState *state,
							  const OutboxSocket **sockets, long *timeout_ms);
extern void over_http_ready(OutboxPublisherState *state,
							const OutboxSocket *ready, int n);
extern void over_http_cancel(OutboxPublisherState *state, int64 id);
extern void over_http_shutdown(OutboxPublisherState *state);

#endif							/* OUTBOX_PUBLISHER_OVER_HTTP_H */
