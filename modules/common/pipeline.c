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

/* Say this of all that was sent and is not answered. */
void
pipeline_answer_sent(OutboxPublisherState *state, PendingRing *ring,
					 const Verdict *verdict)
{
	while (pending_nsent(ring) > 0)
		pipeline_answer(state, ring, pending_oldest(ring), verdict);
}

/* Say this of all that was not sent. */
void
pipeline_answer_unsent(OutboxPublisherState *state, PendingRing *ring,
					   const Verdict *verdict)
{
	const OutboxMessage *message;

	while ((message = pending_first_unsent(ring)) != NULL)
	{
		module_answer(state, message->id, verdict);
		pending_drop_first_unsent(ring);
	}
}

/*
 * The connection is gone.  Say this of what was sent on it, of which nobody knows
 * whether it has arrived; what was not sent is unavailable, for the same reason.
 * "tell": the relay hears of that at once, not only when some have failed.
 */
void
pipeline_lost(OutboxPublisherState *state, PendingRing *ring,
			  const Verdict *sent, bool tell)
{
	Verdict		unsent = *sent;

	unsent.outcome = OUTBOX_UNAVAILABLE;
	unsent.alone = false;
	pipeline_answer_sent(state, ring, sent);
	pipeline_answer_unsent(state, ring, &unsent);
	if (tell)
		outbox_probe_answer(state, false, sent->error);
}
