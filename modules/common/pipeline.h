/*-------------------------------------------------------------------------
 *
 * pipeline.h
 *		Answering the messages of a pipeline.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_PIPELINE_H
#define OUTBOX_PIPELINE_H

#include "common/module.h"
#include "common/pending.h"

extern void pipeline_answer(OutboxPublisherState *state, PendingRing *ring,
							Pending *pending, const Verdict *verdict);
extern void pipeline_refuse(OutboxPublisherState *state, PendingRing *ring,
							const char *error);
extern void pipeline_answer_sent(OutboxPublisherState *state, PendingRing *ring,
								 const Verdict *verdict);
extern void pipeline_answer_unsent(OutboxPublisherState *state,
								   PendingRing *ring, const Verdict *verdict);
extern void pipeline_lost(OutboxPublisherState *state, PendingRing *ring,
						  const Verdict *sent, bool tell);

#endif							/* OUTBOX_PIPELINE_H */
