/*-------------------------------------------------------------------------
 *
 * record.h
 *		From an event to a record of Kafka.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_KAFKA_RECORD_H
#define OUTBOX_KAFKA_RECORD_H

#include "outbox_publisher.h"

#include "settings.h"

typedef struct KafkaHeader
{
	const char *name;
	const char *value;
} KafkaHeader;

/* A record; its strings are the message's and the settings', or palloc'd. */
typedef struct KafkaRecord
{
	const char *topic;
	const char *key;			/* NULL: none */
	const char *value;			/* never NULL, which would mean "delete" */
	Size		size;
	KafkaHeader *headers;
	int			nheaders;
} KafkaRecord;

extern const char *record_make(KafkaRecord *record,
							   const OutboxMessage *message,
							   const KafkaSettings *settings);

#endif							/* OUTBOX_KAFKA_RECORD_H */
