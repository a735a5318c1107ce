/*-------------------------------------------------------------------------
 *
 * answer_queue.h
 *		The publisher's answers, until the relay takes them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_ANSWER_QUEUE_H
#define OUTBOX_ANSWER_QUEUE_H

#include "outbox_publisher.h"

typedef struct AnswerQueue AnswerQueue;

extern AnswerQueue *answers_create(MemoryContext context);
extern void answers_expect(AnswerQueue *queue,
						   const OutboxMessage *const *messages, int n);
extern bool answers_is_expected(AnswerQueue *queue, int64 id);
extern void answers_forget(AnswerQueue *queue, int64 id);
extern void answers_put(AnswerQueue *queue, const OutboxAnswer *answer);
extern bool answers_are_there(const AnswerQueue *queue);
extern const OutboxAnswer *answers_next(AnswerQueue *queue);

#endif							/* OUTBOX_ANSWER_QUEUE_H */
