/*-------------------------------------------------------------------------
 *
 * publisher_dapr.h
 *		What publisher_dapr.c and publisher_dapr_bulk.c share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_PUBLISHER_DAPR_H
#define OUTBOX_PUBLISHER_DAPR_H

#include "guc.h"
#include "publish/publisher_over_http.h"

/* Ways to daprd's bulk API. */
typedef enum BulkRoute
{
	BULK_ROUTE_ALPHA,			/* since 1.10, deprecated since 1.17 */
	BULK_ROUTE_STABLE,			/* since 1.17 */
	BULK_ROUTE_NONE
} BulkRoute;

typedef struct DaprState
{
	CommonState common;
	const char *base_url;		/* of the API, without a slash at its end */
	const char *pubsub;			/* a segment of a URL */
	const char *publish_url;	/* of single events; the topic follows */

	/* Of bulk: see publisher_dapr_bulk.c. */
	DaprBulk	bulk;
	bool		asked;			/* for daprd's version */
	bool		has_stable;		/* its version has the stable route */
	bool		missing[BULK_ROUTE_NONE];	/* routes that were not found */
} DaprState;

/*
 * A string that is a member of an object in JSON; "depth" is 1 in the
 * outermost object.  At the end of every object it is called without a name.
 * The strings stay in the memory context that the reading began in.
 */
typedef void (*DaprMemberCB) (void *arg, int depth, const char *name,
							  const char *value);

/* publisher_dapr.c */
extern bool dapr_read_json(const HttpResult *result, DaprMemberCB member,
						   void *arg);
extern const char *dapr_partition_key(const OutboxMessage *message);

/* publisher_dapr_bulk.c */
extern void dapr_configure_bulk(DaprState *dapr);
extern bool dapr_can_batch(OutboxPublisherState *state,
						   const OutboxMessage *message);
extern void dapr_send_batch(CommonState *common, HttpRequest *request,
							MessageBatch *batch);
extern BatchFate dapr_judge_batch(CommonState *common,
								  const MessageBatch *batch,
								  const HttpResult *result,
								  const Verdict *verdict,
								  OutboxAnswer *answers);

#endif							/* OUTBOX_PUBLISHER_DAPR_H */
