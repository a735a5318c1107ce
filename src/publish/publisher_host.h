/*-------------------------------------------------------------------------
 *
 * publisher_host.h
 *		The relay's side of the publisher interface: choose, load, call, trap.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_PUBLISHER_HOST_H
#define OUTBOX_PUBLISHER_HOST_H

#include "outbox_publisher.h"

typedef enum ProbeResult
{
	PROBE_NONE,					/* no answer since the last call */
	PROBE_OK,
	PROBE_FAILED				/* publisher_last_error() tells why */
} ProbeResult;

extern bool publisher_configure(const char *database);
extern bool publisher_is_current(void);
extern int	publisher_max_batch(Size *max_bytes);
extern bool publisher_can_batch(const OutboxMessage *message);
extern void publisher_submit(const OutboxMessage *const *messages, int n);
extern int	publisher_sockets(const OutboxSocket **sockets, long *timeout_ms);
extern bool publisher_ready(const OutboxSocket *ready, int n);
extern void publisher_cancel(int64 id);
extern const OutboxAnswer *publisher_next_answer(void);
extern bool publisher_can_probe(void);
extern void publisher_probe(void);
extern ProbeResult publisher_probe_result(void);
extern const char *publisher_last_error(void);

#endif							/* OUTBOX_PUBLISHER_HOST_H */
