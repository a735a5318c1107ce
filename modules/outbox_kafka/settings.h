/*-------------------------------------------------------------------------
 *
 * settings.h
 *		The settings of outbox_kafka.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_KAFKA_SETTINGS_H
#define OUTBOX_KAFKA_SETTINGS_H

#include "common/file_watch.h"
#include "outbox_publisher.h"

/* An option of librdkafka. */
typedef struct KafkaOption
{
	const char *name;
	const char *value;
} KafkaOption;

/* What the settings are at a time, files included. */
typedef struct KafkaSettings
{
	MemoryContext context;		/* holds this and what it points to */
	const char *topic;			/* a template */
	const char *source;			/* of CloudEvents */
	bool		structured;		/* content mode; else binary */
	int			max_messages;
	int			message_timeout;	/* milliseconds, for librdkafka */

	/* What a producer is made with: of two with one name, the later counts. */
	KafkaOption *options;
	int			noptions;
	const char *files;			/* which files TLS has: another text when one
								 * of them is another file */
} KafkaSettings;

extern void settings_define(void);
extern KafkaSettings *settings_read(OutboxPublisherState *state,
									FileWatch *watch, const char **reason);
extern bool settings_make_same_producer(const KafkaSettings *a,
										const KafkaSettings *b);
extern void settings_free(KafkaSettings *settings);

#endif							/* OUTBOX_KAFKA_SETTINGS_H */
