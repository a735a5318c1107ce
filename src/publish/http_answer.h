/*-------------------------------------------------------------------------
 *
 * http_answer.h
 *		What messages are answered, before and after their request.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_HTTP_ANSWER_H
#define OUTBOX_HTTP_ANSWER_H

#include "publish/http_publisher.h"

extern bool http_answer_check(HttpPublisher *publisher,
							  const OutboxMessage *message);
extern const char *http_answer_judge(HttpPublisher *publisher,
									 const HttpResult *result,
									 HttpVerdict *verdict);
extern const char *http_answer_error_line(const HttpResult *result,
										  const HttpVerdict *verdict);
extern void http_answer_fill(OutboxAnswer *answer, int64 id,
							 const HttpResult *result, OutboxOutcome outcome,
							 const char *error);
extern void http_answer_hide(HttpPublisher *publisher, const char *secret);
extern void http_answer_set_secrets(HttpPublisher *publisher,
									HttpOptions *options);

#endif							/* OUTBOX_HTTP_ANSWER_H */
