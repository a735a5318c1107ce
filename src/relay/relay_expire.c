/*-------------------------------------------------------------------------
 *
 * relay_expire.c
 *		Events that are of no use any more after a time.
 *
 * No try of an event begins after its expires_at; one that is under way by then
 * counts by its answer.  What is not delivered gets a row "expired", and those
 * behind it of its key go on.
 *
 * What is in memory expires when its time has come, whatever it waits for.  A row
 * that has failed is due then at the latest (relay_settle.c).  Any other row
 * expires when it is taken back, because it has its turn, and what is not read yet
 * when it is read: until then only the view says so.
 *
 * Time is that of the wall clock.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "lib/clock.h"
#include "relay/relay_internal.h"

/* Is its time over? */
bool
relay_is_over(const OutboxEvent *event)
{
	return event->expires_at != 0 && event->expires_at <= clock_now();
}

/* What OutboxMessage.ttl_seconds is for a try that begins now. */
int
relay_ttl_seconds(const OutboxEvent *event)
{
	int64		left;

	if (event->expires_at == 0)
		return 0;
	left = (event->expires_at - clock_now() + USECS_PER_SEC - 1) / USECS_PER_SEC;
	return (int) Min(Max(left, 1), PG_INT32_MAX);
}

/* "last_error" is that of its tries in memory, or NULL. */
static void
write_expired(Relay *relay, const OutboxEvent *event, int attempts,
			  int last_status, const char *last_error)
{
	char	   *error = psprintf("not delivered by %s%s%s",
								 event->msg.expiry_time, last_error ? ": " : "",
								 last_error ? last_error : "");

	relay_count_expired(relay, 1);
	relay_add_delivery(relay, event, DELIVERY_EXPIRED, attempts, 0, 0,
					   last_status, error);
	pfree(error);
}

/* A new event has expired before it came into memory. */
void
relay_expire_event(Relay *relay, const OutboxEvent *event)
{
	write_expired(relay, event, 0, 0, NULL);
}

/* The entry, which is not in flight or was just answered, has expired. */
void
relay_expire_entry(Relay *relay, RelayEntry *entry)
{
	write_expired(relay, entry->event, entry->attempts, entry->last_status,
				  entry->last_error);
	queue_remove(&relay->queue, entry);
}

/* Let go of what has expired in memory. */
void
relay_expire(Relay *relay)
{
	RelayEntry *entry;

	while ((entry = queue_next_expiring(&relay->queue)) != NULL &&
		   relay_is_over(entry->event))
		relay_expire_entry(relay, entry);
}

/* When the next one in memory expires, if ever. */
int64
relay_expire_time(const Relay *relay)
{
	RelayEntry *entry = queue_next_expiring(&relay->queue);

	if (!entry)
		return PG_INT64_MAX;
	return relay->now + clock_ms_until(entry->event->expires_at);
}
