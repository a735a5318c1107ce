/*-------------------------------------------------------------------------
 *
 * http_batch.c
 *		The requests of messages: of one alone, or of several that share it.
 *
 * An HttpBatch remembers the messages of a request, from the moment it is sent
 * until each of them is answered or cancelled; its address names the request.
 * Mostly it is a message alone, whose request has a form of its own.
 *
 * One response speaks for all messages, unless the publisher finds more in it
 * (HttpPublisherKind.judge_batch).  But that a request was rejected says
 * little about each of its messages, as does a list of failures that names
 * what was not in it: the relay is told so (OutboxAnswer.alone), which sends
 * each alone, and the answers to that count.  So no message is lost to another
 * one's fault.
 *
 * A message that cannot be sent alone may be sent as a batch of one, if the
 * publisher finds so (a detour); what is answered then counts.
 *
 * A request that has another way to go, or is to be sent as it was, waits in a list
 * until libcurl's client is left; within the same callback it is sent, with the
 * settings of then.  What has to be fetched first has it wait in another list.
 *
 * Errors.  A batch is in one of the lists before anything can fail, and a
 * message leaves it before it is sent alone.  After an error, cancelling every
 * message therefore leaves nothing behind.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "publish/http_answer.h"
#include "publish/http_batch.h"

static void batch_done(void *arg, int64 id, const HttpResult *result);

static int64
request_id(HttpBatch *batch)
{
	return (int64) (intptr_t) batch;
}

static void
remove_batch(HttpBatch *batch)
{
	dlist_delete(&batch->node);
	pfree(batch);
}

static void
remove_message(HttpBatch *batch, int i)
{
	batch->nmessages--;
	memmove(&batch->messages[i], &batch->messages[i + 1],
			(batch->nmessages - i) * sizeof(batch->messages[0]));
}

/* A batch without messages yet, in no list, with room for "n" of them. */
static HttpBatch *
make_batch(HttpPublisher *publisher, int n)
{
	return MemoryContextAllocZero(publisher->state->context,
								  offsetof(HttpBatch, messages) +
								  n * sizeof(const OutboxMessage *));
}

/* Start the request of a batch, which is in no list. */
static void
send_batch(HttpPublisher *publisher, HttpBatch *batch)
{
	const HttpPublisherKind *kind = publisher->kind;
	HttpRequest *request;
	MemoryContext old;

	dlist_push_tail(&publisher->batches, &batch->node);
	batch->route = 0;
	batch->generation = publisher->generation;
	batch->credentials = publisher->credentials;
	request = http_client_new_request(publisher->client, request_id(batch),
									  batch_done);
	old = MemoryContextSwitchTo(http_request_context(request));
	if (batch->alone)
		kind->make_request(publisher, request, batch->messages[0]);
	else
		kind->make_batch_request(publisher, request, batch);
	MemoryContextSwitchTo(old);
	http_client_start(publisher->client, request);
}

/* Start the request of one message. */
static void
send_alone(HttpPublisher *publisher, const OutboxMessage *message)
{
	HttpBatch  *batch;

	if (!http_answer_check(publisher, message))
		return;
	batch = make_batch(publisher, 1);
	batch->alone = true;
	batch->messages[batch->nmessages++] = message;
	send_batch(publisher, batch);
}

/*
 * Answer messages that cannot be sent now, for a reason that has nothing to do with
 * them.
 */
static void
answer_unsent(HttpPublisher *publisher, const OutboxMessage *const *messages,
			  int n, const char *reason)
{
	for (int i = 0; i < n; i++)
	{
		OutboxAnswer answer = {
			.id = messages[i]->id,
			.outcome = OUTBOX_UNAVAILABLE,
			.retry_after_ms = -1,
			.error = reason
		};

		outbox_answer(publisher->state, &answer);
	}
}

/*
 * Start the request of messages that may share one; or one request for each,
 * if the publisher has found out meanwhile that they may not.
 */
void
http_batch_send(HttpPublisher *publisher,
				const OutboxMessage *const *messages, int n)
{
	HttpBatch  *batch;

	if (publisher->missing != NULL)
	{
		answer_unsent(publisher, messages, n, publisher->missing);
		return;
	}
	if (n == 1 || publisher->state->max_batch <= 1)
	{
		for (int i = 0; i < n; i++)
			send_alone(publisher, messages[i]);
		return;
	}
	batch = make_batch(publisher, n);
	for (int i = 0; i < n; i++)
	{
		if (http_answer_check(publisher, messages[i]))
			batch->messages[batch->nmessages++] = messages[i];
	}

	/* perhaps none of them can be sent */
	if (batch->nmessages > 0)
		send_batch(publisher, batch);
	else
		pfree(batch);
}

/* Start the requests that came of others' answers.  False: there were none. */
bool
http_batch_send_again(HttpPublisher *publisher)
{
	bool		any = !dlist_is_empty(&publisher->again);

	while (!dlist_is_empty(&publisher->again))
	{
		HttpBatch  *batch = dlist_head_element(HttpBatch, node,
											   &publisher->again);

		/* what waited may have waited for nothing */
		if (publisher->missing != NULL || !publisher->configured)
		{
			answer_unsent(publisher, batch->messages, batch->nmessages,
						  publisher->missing ? publisher->missing :
						  "the settings cannot be used any more");
			remove_batch(batch);
			continue;
		}
		dlist_delete(&batch->node);
		send_batch(publisher, batch);
	}
	return any;
}

/*
 * Have http_batch_send_again() send, or answer, what has waited.  False: there is
 * nothing.
 */
bool
http_batch_release(HttpPublisher *publisher)
{
	bool		any = !dlist_is_empty(&publisher->waiting);

	while (!dlist_is_empty(&publisher->waiting))
		dlist_push_tail(&publisher->again,
						dlist_pop_head_node(&publisher->waiting));
	return any;
}

/*
 * Forget a message of one of these batches, and the batch with its last one.
 * False if it is in none of them.
 */
static bool
cancel_in(HttpPublisher *publisher, dlist_head *batches, int64 id)
{
	dlist_iter	iter;

	dlist_foreach(iter, batches)
	{
		HttpBatch  *batch = dlist_container(HttpBatch, node, iter.cur);

		for (int i = 0; i < batch->nmessages; i++)
		{
			if (batch->messages[i]->id != id)
				continue;
			remove_message(batch, i);

			/* nobody is left who wants the response */
			if (batch->nmessages == 0)
			{
				http_client_cancel(publisher->client, request_id(batch),
								   batch_done);
				remove_batch(batch);
			}
			return true;
		}
	}
	return false;
}

/* Forget a message.  A request that it shares goes on for the others. */
void
http_batch_cancel(HttpPublisher *publisher, int64 id)
{
	if (!cancel_in(publisher, &publisher->batches, id) &&
		!cancel_in(publisher, &publisher->waiting, id))
		(void) cancel_in(publisher, &publisher->again, id);
}

/* An answer for each message, all the same, in the current memory context. */
static OutboxAnswer *
make_answers(const HttpBatch *batch, const HttpResult *result,
			 OutboxOutcome outcome, const char *error)
{
	OutboxAnswer *answers = palloc(batch->nmessages * sizeof(OutboxAnswer));

	for (int i = 0; i < batch->nmessages; i++)
		http_answer_fill(&answers[i], batch->messages[i]->id, result, outcome,
						 error);
	return answers;
}

/* What is to be done about a response that is not 2xx? */
static HttpBatchFate
judge_batch(HttpPublisher *publisher, const HttpBatch *batch,
			const HttpResult *result, const HttpVerdict *verdict,
			OutboxAnswer *answers)
{
	if (verdict->outcome == OUTBOX_REJECTED && !batch->alone && !batch->detour)
		return HTTP_BATCH_ALONE;
	if (result->status == 0 || publisher->kind->judge_batch == NULL)
		return HTTP_BATCH_ANSWER;
	return publisher->kind->judge_batch(publisher, batch, result, verdict,
										answers);
}

static bool
sends_again(HttpBatchFate fate)
{
	return fate != HTTP_BATCH_ANSWER && fate != HTTP_BATCH_ALONE;
}

/* It may be another message's fault, or nobody's: each is to be sent alone. */
static void
excuse_messages(const HttpBatch *batch, OutboxAnswer *answers)
{
	for (int i = 0; i < batch->nmessages; i++)
	{
		answers[i].outcome = OUTBOX_RETRY;
		answers[i].alone = true;
	}
}

/* HttpDoneCB of every request. */
static void
batch_done(void *arg, int64 id, const HttpResult *result)
{
	HttpPublisher *publisher = arg;
	HttpBatch  *batch = (HttpBatch *) (intptr_t) id;
	HttpVerdict verdict;
	const char *error = http_answer_judge(publisher, result, &verdict);
	MemoryContext old = MemoryContextSwitchTo(publisher->scratch);
	OutboxAnswer *answers = make_answers(batch, result, verdict.outcome,
										 error);
	HttpBatchFate fate = HTTP_BATCH_ANSWER;

	if (error != NULL)
		fate = judge_batch(publisher, batch, result, &verdict, answers);

	/*
	 * Settings that cannot be used have come meanwhile, and with them nothing
	 * can be sent again: answer as if the request had not been made.
	 */
	if (sends_again(fate) && !publisher->configured)
	{
		answers = make_answers(batch, result, OUTBOX_UNAVAILABLE, error);
		fate = HTTP_BATCH_ANSWER;
	}
	if (fate == HTTP_BATCH_ALONE)
		excuse_messages(batch, answers);
	MemoryContextSwitchTo(old);

	if (fate == HTTP_BATCH_AGAIN)
	{
		batch->detour |= batch->alone;
		batch->alone = false;
	}
	if (sends_again(fate))
	{
		/* not sent here, where the client must not be called */
		dlist_delete(&batch->node);
		dlist_push_tail(fate == HTTP_BATCH_WAIT ? &publisher->waiting :
						&publisher->again, &batch->node);
		return;
	}
	for (int i = 0; i < batch->nmessages; i++)
		outbox_answer(publisher->state, &answers[i]);
	remove_batch(batch);
}
