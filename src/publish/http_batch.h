/*-------------------------------------------------------------------------
 *
 * http_batch.h
 *		Requests that several messages share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_PUBLISHER_BATCH_H
#define OUTBOX_PUBLISHER_BATCH_H

#include "publish/publisher_over_http.h"

extern void batch_send(CommonState *common,
					   const OutboxMessage *const *messages, int n);
extern bool batch_send_again(CommonState *common);
extern bool batch_cancel(CommonState *common, int64 id);

#endif							/* OUTBOX_PUBLISHER_BATCH_H */
