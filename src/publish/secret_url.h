/*-------------------------------------------------------------------------
 *
 * secret_url.h
 *		A URL that is a secret, in a file.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_SECRET_URL_H
#define OUTBOX_SECRET_URL_H

#include "publish/http_publisher.h"

extern bool secret_url_read(HttpPublisher *publisher, const char *path,
							const char **url, const char **reason);

#endif							/* OUTBOX_SECRET_URL_H */
