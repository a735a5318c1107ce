/*-------------------------------------------------------------------------
 *
 * pipeline.c
 *		Answering the messages of a pipeline.
 *
 * What joins the ring of what is pending to the relay's side of it.  No state;
 * nothing is thrown.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/pipeline.h"

/* The broker has answered one that was sent: tell the relay, if it still waits. */
void
pipeline_answer(OutboxPublisherState *state, PendingRing *ring,
				Pending *pending, const Verdict *verdict)
{
	if (pending->message)
		module_answer(state, pending->message->id, verdict);
	pending_answered(ring, pending);
}

/* What was to be sent next can never be, for this reason. */
void
pipeline_refuse(OutboxPublisherState *state, PendingRing *ring,
				const char *error)
{
	Verdict		verdict = {.outcome = OUTBOX_REJECTED,.error = error};

	module_answer(state, pending_first_unsent(ring)->id, &verdict);
	pending_drop_first_unsent(ring);
}

/* The connection is gone: answer what was sent, and what was not. */
void
pipeline_answer_all(OutboxPublisherState *state, PendingRing *ring,
					const Verdict *sent, const Verdict *unsent)
{
	const OutboxMessage *message;

	while (pending_nsent(ring) > 0)
		pipeline_answer(state, ring, pending_oldest(ring), sent);
	while ((message = pending_first_unsent(ring)) != NULL)
	{
		module_answer(state, message->id, unsent);
		pending_drop_first_unsent(ring);
	}
}
