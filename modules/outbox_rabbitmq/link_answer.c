/*-------------------------------------------------------------------------
 *
 * link_answer.c
 *		What became of the messages of a connection.
 *
 * Nothing is published but by RabbitMQ's own word, a confirm.  What no queue
 * wanted is returned first and confirmed then, so the return is remembered.
 * When a connection ends, nobody knows of what was sent and not confirmed.
 *
 * Errors: as in pending.c.  Answers do not throw.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "link_internal.h"

/* Tell the relay how the destination is: "error" if it is not up. */
void
link_tell(RabbitLink *link, bool up, const char *error)
{
	if (!link->retired)
		outbox_probe_answer(link->state, up, error);
	link->probing = false;
}

/* RabbitMQ has confirmed a message, or said that it could not take it. */
static void
confirm_pending(RabbitLink *link, Pending *pending, bool taken)
{
	Verdict		verdict = {.outcome = OUTBOX_DELIVERED};

	if (!taken)
	{
		verdict.outcome = OUTBOX_RETRY;
		verdict.error = "RabbitMQ could not take the message (basic.nack)";
	}
	else if (pending->remark)
	{
		verdict.outcome = link->settings->reject_unroutable ?
			OUTBOX_REJECTED : OUTBOX_FAILED;
		verdict.status = pending->status;
		verdict.error = pending->remark;
	}
	pipeline_answer(link->state, link->pending, pending, &verdict);
}

/*
 * RabbitMQ has confirmed the message with this number, or with "multiple" all
 * up to it (0: all), or said that it could not take them.
 */
void
link_confirm(RabbitLink *link, uint64 number, bool multiple, bool taken)
{
	uint64		last = pending_next_number(link->pending) - 1;
	Pending    *pending;

	if (number == 0 || number > last)
		number = multiple ? last : 0;
	for (uint64 i = multiple ? pending_oldest_number(link->pending) : number;
		 i <= number; i++)
	{
		pending = pending_find(link->pending, i);
		if (pending)
			confirm_pending(link, pending, taken);
	}
}

/* No queue wanted this event, for which RabbitMQ had this reason. */
void
link_note_return(RabbitLink *link, const char *event_id, Size len)
{
	Pending    *pending = pending_find_event(link->pending, event_id, len);

	if (pending)
		pending_set_remark(link->pending, pending, link->return_status,
						   link->return_text);
}

/*
 * The connection is of no use any longer: end it, and say this of what was sent.
 * What was not sent is unavailable for the same reason.
 */
void
link_fail(RabbitLink *link, const Verdict *verdict)
{
	bool		tell = link->probing || link->phase != LINK_READY ||
	verdict->outcome == OUTBOX_UNAVAILABLE;

	net_close(link->net);
	link->phase = LINK_CLOSED;
	link->probing = false;
	pipeline_lost(link->state, link->pending, verdict, tell && !link->retired);
}

/* The same with an error of ours, and no status. */
void
link_fail_for(RabbitLink *link, OutboxOutcome outcome, const char *format,...)
{
	char		error[OUTBOX_ERROR_SIZE];
	Verdict		verdict = {.outcome = outcome,.error = error};
	va_list		args;

	va_start(args, format);
	vsnprintf(error, sizeof(error), format, args);
	va_end(args);
	link_fail(link, &verdict);
}

/* The same for somebody who does not speak AMQP, or not as it is to be spoken. */
void
link_fail_malformed(RabbitLink *link)
{
	link_fail_for(link, OUTBOX_RETRY,
				  "\"%s\" sent something that is not AMQP 0-9-1",
				  link->settings->address.host);
}
