/*-------------------------------------------------------------------------
 *
 * answer_queue.c
 *		The publisher's answers, until the relay takes them.
 *
 * The queue knows which messages an answer is due for.  An answer for any
 * other (answered twice, cancelled, made up) is dropped.
 *
 * An answer may be longer than the struct that we know, or one day shorter: no
 * field behind its size is read, and those that it does not have are zero.
 *
 * It has room for every message before that is submitted; answering therefore
 * allocates nothing and can't fail, whatever libcurl's or a broker's callback
 * it comes from.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "lib/text.h"
#include "publish/answer_queue.h"

/* The struct when the magic number got its present value: none is shorter. */
#define MIN_ANSWER_SIZE \
	(offsetof(OutboxAnswer, error) + sizeof(const char *))

/* An answer with its own copy of the error. */
typedef struct KeptAnswer
{
	OutboxAnswer answer;
	char		error[OUTBOX_ERROR_SIZE];	/* answer.error, unless NULL */
} KeptAnswer;

struct AnswerQueue
{
	MemoryContext context;
	HTAB	   *expected;		/* ids of messages */
	KeptAnswer *answers;		/* from "first" to "last", which is outside */
	int			first;
	int			last;
	int			size;
};

/* A queue in "context", which it lives as long as. */
AnswerQueue *
answers_create(MemoryContext context)
{
	AnswerQueue *queue = MemoryContextAllocZero(context, sizeof(AnswerQueue));
	HASHCTL		ctl;

	queue->context = context;
	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(int64);
	ctl.entrysize = sizeof(int64);
	ctl.hcxt = context;
	queue->expected = hash_create("outbox messages in flight", 256, &ctl,
								  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	return queue;
}

/* Make room for the answers to "n" more messages, which are due from now on. */
void
answers_expect(AnswerQueue *queue, const OutboxMessage *const *messages, int n)
{
	int			needed = queue->last + n +
	hash_get_num_entries(queue->expected);

	if (needed > queue->size)
	{
		queue->size = Max(needed, 2 * queue->size);
		if (queue->answers)
			queue->answers = repalloc(queue->answers,
									  sizeof(KeptAnswer) * queue->size);
		else
			queue->answers = MemoryContextAlloc(queue->context,
												sizeof(KeptAnswer) * queue->size);
	}
	for (int i = 0; i < n; i++)
		hash_search(queue->expected, &messages[i]->id, HASH_ENTER, NULL);
}

/* Is an answer to this message due? */
bool
answers_is_expected(AnswerQueue *queue, int64 id)
{
	return hash_search(queue->expected, &id, HASH_FIND, NULL) != NULL;
}

/* Nobody wants an answer to this message any longer. */
void
answers_forget(AnswerQueue *queue, int64 id)
{
	hash_search(queue->expected, &id, HASH_REMOVE, NULL);
}

/* Is it one of the outcomes that we know? */
static bool
is_outcome(OutboxOutcome outcome)
{
	return outcome >= OUTBOX_DELIVERED && outcome <= OUTBOX_REJECTED;
}

/* Keep a copy of an answer, if it is due. */
void
answers_put(AnswerQueue *queue, const OutboxAnswer *answer)
{
	KeptAnswer *kept;
	bool		found;

	if (answer->size < MIN_ANSWER_SIZE)
		return;
	hash_search(queue->expected, &answer->id, HASH_REMOVE, &found);
	if (!found)
		return;
	Assert(queue->last < queue->size);
	kept = &queue->answers[queue->last++];
	memset(&kept->answer, 0, sizeof(OutboxAnswer));
	memcpy(&kept->answer, answer, Min(answer->size, sizeof(OutboxAnswer)));
	kept->answer.error = NULL;

	/* whatever it is to mean, the event is not lost for it */
	if (!is_outcome(answer->outcome))
		kept->answer.outcome = OUTBOX_RETRY;
	if (answer->outcome != OUTBOX_DELIVERED)
	{
		text_copy_line(kept->error, OUTBOX_ERROR_SIZE,
					   answer->error ? answer->error : "no reason given");
		kept->answer.error = kept->error;
	}
}

/* Is there an answer that was not taken yet? */
bool
answers_are_there(const AnswerQueue *queue)
{
	return queue->first < queue->last;
}

/* The next answer, which stays until the next call; NULL if there is none. */
const OutboxAnswer *
answers_next(AnswerQueue *queue)
{
	KeptAnswer *kept;

	if (queue->first == queue->last)
	{
		queue->first = queue->last = 0;
		return NULL;
	}
	kept = &queue->answers[queue->first++];
	if (kept->answer.error)
		kept->answer.error = kept->error;	/* the array may have moved */
	return &kept->answer;
}
