/*-------------------------------------------------------------------------
 *
 * client_certificate.h
 *		Who we are, for servers that ask for a certificate.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_CLIENT_CERTIFICATE_H
#define OUTBOX_CLIENT_CERTIFICATE_H

#include "publish/http_publisher.h"

extern bool client_certificate_read(HttpPublisher *publisher,
									HttpOptions *options,
									const char **reason);

#endif							/* OUTBOX_CLIENT_CERTIFICATE_H */
