/*-------------------------------------------------------------------------
 *
 * producer.h
 *		A producer of librdkafka: its life, and what it reports.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_KAFKA_PRODUCER_H
#define OUTBOX_KAFKA_PRODUCER_H

#include <librdkafka/rdkafka.h>

#include "record.h"
#include "settings.h"

typedef struct KafkaProducer KafkaProducer;

/*
 * Has it a broker to send to?  What is closed may be a connection that a broker
 * has found idle, until the next message shows that it is lost.
 */
typedef enum ProducerReach
{
	PRODUCER_UNTRIED,
	PRODUCER_CLOSED,			/* no connection, and nothing to send */
	PRODUCER_LOST,				/* none, or no right to send, and nothing has
								 * gone through since */
	PRODUCER_REACHED
} ProducerReach;

/* What became of a record. */
typedef struct KafkaReport
{
	uint64		number;			/* the one that it was sent with */
	rd_kafka_resp_err_t error;	/* 0: a broker has it */
} KafkaReport;

extern KafkaProducer *producer_create(MemoryContext context,
									  const KafkaSettings *settings,
									  int wakeup, const char **reason);
extern rd_kafka_resp_err_t producer_send(KafkaProducer *producer,
										 const KafkaRecord *record,
										 uint64 number);
extern bool producer_next_report(KafkaProducer *producer, KafkaReport *report);
extern int	producer_nunreported(const KafkaProducer *producer);
extern bool producer_is_broken(const KafkaProducer *producer);
extern ProducerReach producer_reach(const KafkaProducer *producer);
extern int64 producer_time(const KafkaProducer *producer);
extern void producer_check_time(KafkaProducer *producer);
extern const char *producer_trouble(const KafkaProducer *producer,
									int64 deadline);
extern void producer_destroy(KafkaProducer *producer);

#endif							/* OUTBOX_KAFKA_PRODUCER_H */
