/*-------------------------------------------------------------------------
 *
 * proxy_credentials.h
 *		Who we are to a proxy, in a secret file.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_PROXY_CREDENTIALS_H
#define OUTBOX_PROXY_CREDENTIALS_H

#include "publish/http_publisher.h"

extern bool proxy_credentials_read(HttpPublisher *publisher, const char *path,
								   HttpOptions *options, const char **reason);

#endif							/* OUTBOX_PROXY_CREDENTIALS_H */
