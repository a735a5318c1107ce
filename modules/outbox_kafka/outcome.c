/*-------------------------------------------------------------------------
 *
 * outcome.c
 *		From an error of Kafka, or of librdkafka, to an answer.
 *
 * Kafka's errors have positive numbers, which are the answer's status; those of
 * librdkafka are negative, and none.  librdkafka itself tries again what may
 * go well the next time, for as long as a message may take, so that most of
 * what is wrong ends as a message that has timed out; why, it has said before.
 *
 * Kafka judges a batch of records as one.  So what may be the fault of one of
 * them is a verdict on that one only when it was sent alone.
 *
 * No state.  Texts are constants, or in the current memory context.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "outcome.h"

static const struct
{
	rd_kafka_resp_err_t error;
	OutboxOutcome outcome;
	bool		alone;
}			outcomes[] = {

	/* larger than the topic takes: one record, or a batch of small ones */
	{RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, OUTBOX_REJECTED, true},
	{RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE, OUTBOX_REJECTED, true},

	/* one without a key, for a topic that keeps the last one of each key */
	{RD_KAFKA_RESP_ERR_INVALID_RECORD, OUTBOX_REJECTED, true},

	/* what a producer had when it broke, for whosever fault */
	{RD_KAFKA_RESP_ERR__PURGE_QUEUE, OUTBOX_RETRY, true},
	{RD_KAFKA_RESP_ERR__PURGE_INFLIGHT, OUTBOX_RETRY, true},
	{RD_KAFKA_RESP_ERR__FATAL, OUTBOX_RETRY, true}
};

/* An error by itself: what is not in the table may be the topic's. */
static void
judge_error(Verdict *verdict, rd_kafka_resp_err_t error)
{
	memset(verdict, 0, sizeof(*verdict));
	verdict->outcome = OUTBOX_RETRY;
	verdict->status = Max((int) error, 0);
	verdict->error = rd_kafka_err2str(error);
	for (int i = 0; i < lengthof(outcomes); i++)
	{
		if (outcomes[i].error != error)
			continue;
		verdict->outcome = outcomes[i].outcome;
		verdict->alone = outcomes[i].alone;
	}
}

/* What a report says of a message with this deadline, in clock_ms(). */
void
outcome_of_report(Verdict *verdict, rd_kafka_resp_err_t error,
				  const KafkaProducer *producer, int64 deadline)
{
	const char *trouble = producer_trouble(producer, deadline);

	if (error == RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		memset(verdict, 0, sizeof(*verdict));
		verdict->outcome = OUTBOX_DELIVERED;
		return;
	}
	judge_error(verdict, error);
	if (error > 0 || trouble == NULL)
		return;
	if (producer_reach(producer) == PRODUCER_LOST)
	{
		verdict->outcome = OUTBOX_UNAVAILABLE;
		verdict->alone = false;
		verdict->error = trouble;
	}
	else
		verdict->error = psprintf("%s: %s", verdict->error, trouble);
}

/* Why librdkafka did not even begin to send a message. */
void
outcome_of_refusal(Verdict *verdict, rd_kafka_resp_err_t error)
{
	judge_error(verdict, error);

	/* it looks at nothing but the message, and Kafka has said nothing */
	verdict->alone = false;
	verdict->status = 0;
	if (error == RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE)
		verdict->error = "the message is larger than message.max.bytes, which outbox_kafka.options_file can set";
}
