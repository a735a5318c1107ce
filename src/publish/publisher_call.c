/*-------------------------------------------------------------------------
 *
 * publisher_call.c
 *		Call a publisher: in which memory, what it throws, what it answers.
 *
 * A publisher is not trusted to be correct.  What it throws is trapped and
 * logged here and becomes a false result.  A message that is never answered is
 * cancelled by the relay when its time is up.
 *
 * Answers are kept in a queue (answer_queue.c) that the relay empties when the
 * callback has returned, so that no publisher ever runs inside the relay's
 * bookkeeping.  Of what it says of the destination the last is kept.
 *
 * Memory: a callback works in a context that is emptied when it returns; those
 * that publisher_host.c calls, in the publisher's own.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "lib/log_limit.h"
#include "publish/publisher_host_internal.h"

/* A publisher's text, as one line. */
void
publisher_copy_reason(char *to, const char *reason)
{
	text_copy_line(to, OUTBOX_ERROR_SIZE,
				   reason ? reason : "no reason given");
}

static PublisherHost *
host_of(OutboxPublisherState *state)
{
	return (PublisherHost *) state;
}

/* OutboxPublisherState.answer */
void
publisher_take_answer(OutboxPublisherState *state, const OutboxAnswer *answer)
{
	answers_put(host_of(state)->answers, answer);
}

/* OutboxPublisherState.probe_answer */
void
publisher_take_probe_answer(OutboxPublisherState *state, bool ok, const char *error)
{
	PublisherHost *host = host_of(state);

	/* what it says last is how it is */
	host->destination = ok ? DESTINATION_UP : DESTINATION_DOWN;
	if (!ok)
		publisher_copy_reason(host->problem, error);
}

/* OutboxPublisherState.notice */
void
publisher_take_notice(OutboxPublisherState *state, OutboxNotice notice,
					  const char *problem)
{
	HeardNotice *heard = &host_of(state)->notices[notice];

	heard->is_new = true;
	heard->known = true;
	heard->problem[0] = '\0';
	if (problem)
		publisher_copy_reason(heard->problem, problem);
}

/* Settings are read: what was said with the old ones need not be so any more. */
void
publisher_forget_notices(PublisherHost *host)
{
	memset(host->notices, 0, sizeof(host->notices));
	for (int i = 0; i < OUTBOX_NNOTICES; i++)
		host->notices[i].is_new = true;
}

/*
 * What the publisher says of this, if that is new: not known, or *problem, which is
 * NULL if all is well.
 */
bool
publisher_hear_notice(PublisherHost *host, OutboxNotice notice, bool *known,
					  const char **problem)
{
	HeardNotice *heard = &host->notices[notice];
	bool		is_new = heard->is_new;

	heard->is_new = false;
	*known = heard->known;
	*problem = heard->problem[0] != '\0' ? heard->problem : NULL;
	return is_new;
}

/* The next answer that came in, until the next call; NULL if there is none. */
const OutboxAnswer *
publisher_next_answer(PublisherHost *host)
{
	return answers_next(host->answers);
}

/*
 * Run "body", which calls the publisher, in this memory context.  False, and
 * the reason in last_error, if it threw; the error is logged.
 */
bool
publisher_call_in(PublisherHost *host, MemoryContext context,
				  void (*body) (PublisherHost *, void *arg), void *arg)
{
	MemoryContext caller = CurrentMemoryContext;
	volatile bool ok = true;

	host->calling = true;
	PG_TRY();
	{
		MemoryContextSwitchTo(context);
		body(host, arg);
	}
	PG_CATCH();
	{
		ErrorData  *edata;

		/* no interrupt may replace the error before it is reported */
		HOLD_INTERRUPTS();
		MemoryContextSwitchTo(caller);
		edata = CopyErrorData();
		publisher_copy_reason(host->last_error, edata->message);
		FreeErrorData(edata);
		if (log_is_due("publisher threw", host->last_error))
			EmitErrorReport();
		FlushErrorState();
		ok = false;
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();

	MemoryContextSwitchTo(caller);
	MemoryContextReset(host->call_context);
	host->calling = false;
	return ok;
}

/* The same in a context that is empty again afterwards. */
bool
publisher_call(PublisherHost *host, void (*body) (PublisherHost *, void *arg),
			   void *arg)
{
	return publisher_call_in(host, host->call_context, body, arg);
}

/* "arg" is the message's id. */
static void
cancel_body(PublisherHost *host, void *arg)
{
	if (host->callbacks->cancel_cb)
		host->callbacks->cancel_cb(&host->state, *(int64 *) arg);
}

typedef struct SubmitArgs
{
	const OutboxMessage *const *messages;
	int			n;
} SubmitArgs;

static void
submit_body(PublisherHost *host, void *arg)
{
	SubmitArgs *args = arg;

	host->callbacks->submit_cb(&host->state, args->messages, args->n);
}

/* How many messages one request may take, and how many bytes of payload. */
int
publisher_max_batch(const PublisherHost *host, Size *max_bytes)
{
	*max_bytes = host->state.max_batch_bytes;
	return Max(host->state.max_batch, 1);
}

/* How many messages may be unanswered; 0: what counts is requests. */
int
publisher_max_messages(const PublisherHost *host)
{
	return Max(host->state.max_messages, 0);
}

typedef struct CanBatchArgs
{
	const OutboxMessage *message;
	bool		can;
} CanBatchArgs;

static void
can_batch_body(PublisherHost *host, void *arg)
{
	CanBatchArgs *args = arg;

	args->can = host->callbacks->can_batch_cb(&host->state, args->message);
}

/* May this message share a request?  If the publisher throws, it may not. */
bool
publisher_can_batch(PublisherHost *host, const OutboxMessage *message)
{
	CanBatchArgs args = {message, false};

	if (!host->callbacks->can_batch_cb)
		return true;
	return publisher_call(host, can_batch_body, &args) && args.can;
}

/*
 * Start to publish messages.  If this throws, the ones that were not answered
 * are cancelled and answered as unavailable.
 */
void
publisher_submit(PublisherHost *host, const OutboxMessage *const *messages,
				 int n)
{
	SubmitArgs	args = {messages, n};
	OutboxAnswer answer;
	char		reason[OUTBOX_ERROR_SIZE];

	answers_expect(host->answers, messages, n);
	if (publisher_call(host, submit_body, &args))
		return;

	/* cancelling may throw again, and overwrite the reason that counts */
	strlcpy(reason, host->last_error, sizeof(reason));
	memset(&answer, 0, sizeof(answer));
	answer.outcome = OUTBOX_UNAVAILABLE;
	answer.retry_after_ms = -1;
	answer.error = reason;
	answer.size = sizeof(answer);
	for (int i = 0; i < n; i++)
	{
		answer.id = messages[i]->id;
		if (!answers_is_expected(host->answers, answer.id))
			continue;
		publisher_call(host, cancel_body, &answer.id);
		answers_put(host->answers, &answer);
	}
}

typedef struct SocketsArgs
{
	PublisherWaitSet update;
	long		timeout_ms;
} SocketsArgs;

static void
sockets_body(PublisherHost *host, void *arg)
{
	SocketsArgs *args = arg;
	const OutboxSocket *sockets = NULL;
	int			n = 0;

	if (host->callbacks && host->callbacks->sockets_cb)
		n = host->callbacks->sockets_cb(&host->state, &sockets,
										&args->timeout_ms);
	if (n < 0)
		ereport(ERROR,
				(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
				 errmsg("publisher \"%s\" waits for %d sockets",
						host->loaded_name, n)));
	args->update(sockets, n);
}

/*
 * Have "update" told the publisher's sockets, and get its longest wait: -1: it
 * has no limit, 0: it has said something that the relay has not heard yet.
 * False if the publisher threw, or "update" did because a descriptor cannot be
 * waited for: then nothing that is in flight will be answered.
 */
bool
publisher_sockets(PublisherHost *host, PublisherWaitSet update,
				  long *timeout_ms)
{
	SocketsArgs args = {update, -1};
	bool		ok = publisher_call(host, sockets_body, &args);

	*timeout_ms = args.timeout_ms;
	if (host->destination != DESTINATION_UNKNOWN ||
		answers_are_there(host->answers))
		*timeout_ms = 0;
	return ok;
}

typedef struct ReadyArgs
{
	const OutboxSocket *sockets;
	int			n;
} ReadyArgs;

static void
ready_body(PublisherHost *host, void *arg)
{
	ReadyArgs  *args = arg;

	host->callbacks->ready_cb(&host->state, args->sockets, args->n);
}

/*
 * Sockets are ready or, with n = 0, the time is up.  False if the publisher
 * threw: then nothing that is in flight will be answered.
 */
bool
publisher_ready(PublisherHost *host, const OutboxSocket *ready, int n)
{
	ReadyArgs	args = {ready, n};

	if (!host->callbacks || !host->callbacks->ready_cb)
		return true;
	return publisher_call(host, ready_body, &args);
}

/* Give up waiting for this message's answer. */
void
publisher_cancel(PublisherHost *host, int64 id)
{
	answers_forget(host->answers, id);
	publisher_call(host, cancel_body, &id);
}

bool
publisher_can_probe(const PublisherHost *host)
{
	return host->callbacks && host->callbacks->probe_cb;
}

static void
probe_body(PublisherHost *host, void *arg)
{
	host->callbacks->probe_cb(&host->state);
}

/* Start a probe; publisher_hear_of_destination() has its answer in due time. */
void
publisher_probe(PublisherHost *host)
{
	if (!publisher_call(host, probe_body, NULL))
		publisher_take_probe_answer(&host->state, false, host->last_error);
}

/*
 * What the publisher has said of the destination since the last call, asked or
 * not; if that is down, *problem tells why, until the publisher is called.
 */
Destination
publisher_hear_of_destination(PublisherHost *host, const char **problem)
{
	Destination result = host->destination;

	*problem = result == DESTINATION_DOWN ? host->problem : NULL;
	host->destination = DESTINATION_UNKNOWN;
	return result;
}

/* Why the last function failed: one line. */
const char *
publisher_last_error(const PublisherHost *host)
{
	return host->last_error;
}
