/*-------------------------------------------------------------------------
 *
 * secret_headers.h
 *		Headers that a user adds to requests, of which some are secret.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_SECRET_HEADERS_H
#define OUTBOX_SECRET_HEADERS_H

#include "publish/http_publisher.h"

extern List *secret_headers_add(HttpPublisher *publisher, List *headers,
								const char *text, bool secret);
extern bool secret_headers_read(HttpPublisher *publisher, List **headers,
								const char *path, const char **reason);

#endif							/* OUTBOX_SECRET_HEADERS_H */
