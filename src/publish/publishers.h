/*-------------------------------------------------------------------------
 *
 * publishers.h
 *		The publishers in this library.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_PUBLISHERS_H
#define OUTBOX_PUBLISHERS_H

#include "outbox_publisher.h"

extern const OutboxPublisherCallbacks dapr_publisher;	/* publisher_dapr.c */
extern const OutboxPublisherCallbacks http_publisher;	/* publisher_http.c */

#endif							/* OUTBOX_PUBLISHERS_H */
