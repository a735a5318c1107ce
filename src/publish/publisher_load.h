/*-------------------------------------------------------------------------
 *
 * publisher_load.h
 *		From the name of a publisher to its callbacks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_PUBLISHER_LOAD_H
#define OUTBOX_PUBLISHER_LOAD_H

#include "outbox_publisher.h"

extern void publisher_load_callbacks(const char *name,
									 OutboxPublisherCallbacks *callbacks);

#endif							/* OUTBOX_PUBLISHER_LOAD_H */
