/*-------------------------------------------------------------------------
 *
 * outcome.h
 *		From an error of Kafka, or of librdkafka, to an answer.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_KAFKA_OUTCOME_H
#define OUTBOX_KAFKA_OUTCOME_H

#include "common/module.h"
#include "producer.h"

extern void outcome_of_report(Verdict *verdict, rd_kafka_resp_err_t error,
							  const KafkaProducer *producer, int64 deadline);
extern void outcome_of_refusal(Verdict *verdict, rd_kafka_resp_err_t error);

#endif							/* OUTBOX_KAFKA_OUTCOME_H */
