/*-------------------------------------------------------------------------
 *
 * publisher_dapr_bulk.h
 *		Publish several events in one request to a Dapr sidecar: what
 *		publisher_dapr.c uses for that, and the state that it shares.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_PUBLISHER_DAPR_BULK_H
#define OUTBOX_PUBLISHER_DAPR_BULK_H

#include "guc.h"
#include "publish/cloudevent.h"
#include "publish/http_publisher.h"

/* Ways to daprd's bulk API. */
typedef enum DaprBulkRoute
{
	DAPR_BULK_ROUTE_ALPHA,		/* since 1.10, deprecated since 1.17 */
	DAPR_BULK_ROUTE_STABLE,		/* since 1.17 */
	DAPR_BULK_ROUTE_NONE
} DaprBulkRoute;

/* What is known of daprd's bulk API. */
typedef struct DaprBulkState
{
	DaprBulk	mode;			/* outbox.dapr_bulk */
	int64		asked_at;		/* for daprd's version, in clock_ms(); 0: not
								 * yet */
	char		version[32];	/* daprd's; empty: not known */
	bool		has_stable;		/* that has the stable route */
	bool		missing[DAPR_BULK_ROUTE_NONE];	/* routes not found */
} DaprBulkState;

typedef struct DaprPublisher
{
	HttpPublisher http;
	const char *base_url;		/* of the API, without a slash at its end */
	const char *pubsub;			/* a segment of a URL */
	const char *publish_url;	/* of single events; the topic follows */
	DaprBulkState bulk;
} DaprPublisher;

/*
 * What brokers behind daprd go by is the metadatum partitionKey.  A message
 * gets its key for that, unless it has one of its own: then this is NULL.
 */
static inline const char *
dapr_partition_key(const OutboxMessage *message)
{
	if (cloudevent_get_metadata(message, "partitionKey") != NULL)
		return NULL;
	return message->key;
}

/*
 * The metadatum ttlInSeconds, by which daprd or a broker behind it drops what has
 * expired.  0: the message does not expire, or has a time to live among its
 * metadata that counts.
 */
static inline int
dapr_ttl_seconds(const OutboxMessage *message)
{
	for (int i = 0; i < message->nmetadata; i++)
	{
		if (pg_strcasecmp(message->metadata[i].name, "ttlInSeconds") == 0 ||
			pg_strcasecmp(message->metadata[i].name, "ttl") == 0)
			return 0;
	}
	return message->ttl_seconds;
}

/* dapr_version.c */
extern const char *dapr_version_in(const char *metadata, size_t len);
extern void dapr_version_found(DaprBulkState *bulk, const char *version);

/* publisher_dapr_bulk.c */
extern void dapr_bulk_configure(DaprPublisher *dapr);
extern void dapr_bulk_look_again(DaprPublisher *dapr);
extern bool dapr_bulk_can_batch(OutboxPublisherState *state,
								const OutboxMessage *message);
extern void dapr_bulk_make_request(HttpPublisher *publisher,
								   HttpRequest *request, HttpBatch *batch);
extern HttpBatchFate dapr_bulk_judge(HttpPublisher *publisher,
									 const HttpBatch *batch,
									 const HttpResult *result,
									 const HttpVerdict *verdict,
									 OutboxAnswer *answers);

#endif							/* OUTBOX_PUBLISHER_DAPR_BULK_H */
