/*-------------------------------------------------------------------------
 *
 * http_batch.c
 *		Requests that several messages share.
 *
 * A MessageBatch remembers the messages of a request from the moment it is
 * sent until each of them is answered or cancelled.  Its address names the
 * request.  A message alone needs no such thing and has none.
 *
 * One response speaks for all messages, unless the publisher finds more in it
 * (PublisherKind.judge_batch).  But that a request was rejected says little
 * about each of its messages: they are sent again at once, each alone, and the
 * answers to that count.  So no message is lost to another one's fault.
 *
 * What is to be sent again waits in a list until libcurl's client is left;
 * within the same callback it is sent, with the settings of then.
 *
 * Errors.  A batch is in one of the two lists before anything can fail, and a
 * message leaves it before it is sent alone.  After an error, cancelling every
 * message therefore leaves nothing behind.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "publish/http_batch.h"

static void batch_done(void *arg, int64 id, const HttpResult *result);

static int64
request_id(MessageBatch *batch)
{
	return (int64) (intptr_t) batch;
}

static void
remove_batch(MessageBatch *batch)
{
	dlist_delete(&batch->node);
	pfree(batch);
}

static void
remove_message(MessageBatch *batch, int i)
{
	batch->nmessages--;
	memmove(&batch->messages[i], &batch->messages[i + 1],
			(batch->nmessages - i) * sizeof(batch->messages[0]));
}

/* Start the request of a batch, which is in no list. */
static void
send_shared(CommonState *common, MessageBatch *batch)
{
	HttpRequest *request;
	MemoryContext old;

	dlist_push_tail(&common->batches, &batch->node);
	batch->route = 0;
	batch->generation = common->generation;
	request = http_client_new_request(common->client, request_id(batch),
									  batch_done);
	old = MemoryContextSwitchTo(http_request_context(request));
	common->kind->send_batch(common, request, batch);
	MemoryContextSwitchTo(old);
	http_client_start(common->client, request);
}

/*
 * Start the request of messages that may share one; or one request for each,
 * if the publisher has found out meanwhile that they may not.
 */
void
batch_send(CommonState *common, const OutboxMessage *const *messages, int n)
{
	MessageBatch *batch;

	if (n == 1 || common->state->max_batch <= 1)
	{
		for (int i = 0; i < n; i++)
			common_send(common, messages[i]);
		return;
	}
	batch = MemoryContextAllocZero(common->state->context,
								   offsetof(MessageBatch, messages) +
								   n * sizeof(batch->messages[0]));
	for (int i = 0; i < n; i++)
	{
		if (common_check_message(common, messages[i]))
			batch->messages[batch->nmessages++] = messages[i];
	}
	if (batch->nmessages > 0)
		send_shared(common, batch);
	else
		pfree(batch);
}

/* Start a request for each message of a batch, which is then gone. */
static void
send_singly(CommonState *common, MessageBatch *batch)
{
	while (batch->nmessages > 0)
	{
		const OutboxMessage *message = batch->messages[0];

		remove_message(batch, 0);
		common_send(common, message);
	}
	remove_batch(batch);
}

/* Start the requests that came of others' answers.  False: there were none. */
bool
batch_send_again(CommonState *common)
{
	bool		any = !dlist_is_empty(&common->again);

	while (!dlist_is_empty(&common->again))
	{
		MessageBatch *batch = dlist_head_element(MessageBatch, node,
												 &common->again);

		if (batch->singly || common->state->max_batch <= 1)
			send_singly(common, batch);
		else
		{
			dlist_delete(&batch->node);
			send_shared(common, batch);
		}
	}
	return any;
}

/* Forget a message of one of these batches, and the batch with its last one. */
static bool
cancel_in(CommonState *common, dlist_head *batches, int64 id)
{
	dlist_iter	iter;

	dlist_foreach(iter, batches)
	{
		MessageBatch *batch = dlist_container(MessageBatch, node, iter.cur);

		for (int i = 0; i < batch->nmessages; i++)
		{
			if (batch->messages[i]->id != id)
				continue;
			remove_message(batch, i);
			if (batch->nmessages == 0)
			{
				http_client_cancel(common->client, request_id(batch),
								   batch_done);
				remove_batch(batch);
			}
			return true;
		}
	}
	return false;
}

/*
 * Forget a message; its request goes on for the others.  False if it is in no
 * batch.
 */
bool
batch_cancel(CommonState *common, int64 id)
{
	return cancel_in(common, &common->batches, id) ||
		cancel_in(common, &common->again, id);
}

/* An answer for each message, all the same, in the current memory context. */
static OutboxAnswer *
make_answers(const MessageBatch *batch, const HttpResult *result,
			 OutboxOutcome outcome, const char *error)
{
	OutboxAnswer *answers = palloc(batch->nmessages * sizeof(OutboxAnswer));

	for (int i = 0; i < batch->nmessages; i++)
	{
		answers[i].id = batch->messages[i]->id;
		answers[i].outcome = outcome;
		answers[i].status = result->status;
		answers[i].retry_after_ms = error ? result->retry_after_ms : -1;
		answers[i].error = error;
	}
	return answers;
}

/* What is to be done about a response that is not 2xx? */
static BatchFate
judge_batch(CommonState *common, MessageBatch *batch,
			const HttpResult *result, const Verdict *verdict,
			OutboxAnswer *answers)
{
	batch->singly = verdict->outcome == OUTBOX_REJECTED;
	if (batch->singly)
		return BATCH_AGAIN;
	if (result->status == 0 || common->kind->judge_batch == NULL)
		return BATCH_ANSWER;
	return common->kind->judge_batch(common, batch, result, verdict, answers);
}

/*
 * HttpDoneCB of every batch.  Without settings nothing can be sent again: the
 * messages are then answered as if the request had not been made.
 */
static void
batch_done(void *arg, int64 id, const HttpResult *result)
{
	CommonState *common = arg;
	MessageBatch *batch = (MessageBatch *) (intptr_t) id;
	Verdict		verdict;
	const char *error = common_judge(common, result, &verdict);
	MemoryContext old = MemoryContextSwitchTo(common->scratch);
	OutboxAnswer *answers = make_answers(batch, result, verdict.outcome,
										 error);
	BatchFate	fate = BATCH_ANSWER;

	if (error != NULL)
		fate = judge_batch(common, batch, result, &verdict, answers);
	if (fate == BATCH_AGAIN && !common->configured)
	{
		answers = make_answers(batch, result, OUTBOX_UNAVAILABLE, error);
		fate = BATCH_ANSWER;
	}
	MemoryContextSwitchTo(old);

	if (fate == BATCH_AGAIN)
	{
		dlist_delete(&batch->node);
		dlist_push_tail(&common->again, &batch->node);
		return;
	}
	for (int i = 0; i < batch->nmessages; i++)
		outbox_answer(common->state, &answers[i]);
	remove_batch(batch);
}
