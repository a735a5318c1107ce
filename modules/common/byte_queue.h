/*-------------------------------------------------------------------------
 *
 * byte_queue.h
 *		Bytes that are put at one end of a buffer and taken at the other.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_BYTE_QUEUE_H
#define OUTBOX_BYTE_QUEUE_H

#include "lib/stringinfo.h"

#include "common/net.h"

extern Size byte_queue_len(const StringInfoData *queue);
extern void byte_queue_take(StringInfo queue, Size len);
extern ssize_t byte_queue_write(StringInfo queue, NetConnection *net);

#endif							/* OUTBOX_BYTE_QUEUE_H */
