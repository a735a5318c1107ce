/*-------------------------------------------------------------------------
 *
 * publisher_host.h
 *		The relay's side of the publisher interface: load, call, trap.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_PUBLISHER_HOST_H
#define OUTBOX_PUBLISHER_HOST_H

#include "outbox_publisher.h"

typedef struct PublisherHost PublisherHost;

/* What a publisher says of its destination. */
typedef enum Destination
{
	DESTINATION_UNKNOWN,		/* nothing since it was asked last */
	DESTINATION_UP,
	DESTINATION_DOWN
} Destination;

/* Gets ready to wait for these sockets, and throws if that is not possible. */
typedef void (*PublisherWaitSet) (const OutboxSocket *sockets, int n);

extern PublisherHost *publisher_create(MemoryContext parent,
									   const char *database);
extern bool publisher_configure(PublisherHost *host, const char *source);
extern bool publisher_is_current(const PublisherHost *host);
extern int	publisher_max_batch(const PublisherHost *host, Size *max_bytes);
extern int	publisher_max_messages(const PublisherHost *host);
extern bool publisher_can_batch(PublisherHost *host,
								const OutboxMessage *message);
extern void publisher_submit(PublisherHost *host,
							 const OutboxMessage *const *messages, int n);
extern bool publisher_sockets(PublisherHost *host, PublisherWaitSet update,
							  long *timeout_ms);
extern bool publisher_ready(PublisherHost *host, const OutboxSocket *ready,
							int n);
extern void publisher_cancel(PublisherHost *host, int64 id);
extern const OutboxAnswer *publisher_next_answer(PublisherHost *host);
extern bool publisher_can_probe(const PublisherHost *host);
extern void publisher_probe(PublisherHost *host);
extern Destination publisher_hear_of_destination(PublisherHost *host,
												 const char **problem);
extern bool publisher_hear_notice(PublisherHost *host, OutboxNotice notice,
								  bool *known, const char **problem);
extern const char *publisher_last_error(const PublisherHost *host);

#endif							/* OUTBOX_PUBLISHER_HOST_H */
