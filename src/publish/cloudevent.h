/*-------------------------------------------------------------------------
 *
 * cloudevent.h
 *		The CloudEvents 1.0 envelope, and the values of its headers.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_CLOUDEVENT_H
#define OUTBOX_CLOUDEVENT_H

#include "lib/stringinfo.h"
#include "outbox_publisher.h"

/* Attributes that only some receivers want. */
#define CLOUDEVENT_TRACEID	0x01	/* traceid, equal to traceparent */
#define CLOUDEVENT_TOPIC	0x02	/* topic */
#define CLOUDEVENT_METADATA 0x04	/* metadata, as the text of an object */

/* Payloads up to this size fit into an envelope, base64 or not. */
#define CLOUDEVENT_MAX_PAYLOAD	(MaxAllocSize / 2)

extern void cloudevent_append(StringInfo buf, const OutboxMessage *message,
							  const char *source, int flags);
extern const char *cloudevent_get_metadata(const OutboxMessage *message,
										   const char *name);
extern void cloudevent_append_metadata(StringInfo buf,
									   const OutboxMessage *message);
extern const char *cloudevent_header_value(const char *text);

#endif							/* OUTBOX_CLOUDEVENT_H */
