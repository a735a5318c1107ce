/*-------------------------------------------------------------------------
 *
 * relay_room.c
 *		Is there room for more events in memory, and use for them?
 *
 * Pure questions about the state of the relay.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "guc.h"
#include "relay/relay_internal.h"

/*
 * The bytes that events may take in memory: outbox.relay_memory but for what is
 * known of their topics.  That leaves them a half of it at least, or so many
 * topics that nothing fits beside them would stop the relay.
 */
Size
relay_event_memory(const Relay *relay)
{
	Size		memory = (Size) guc_relay_memory * 1024;

	return memory - Min(relay->queue.lanes.bytes, memory / 2);
}

/* Can anything be sent at all? */
bool
relay_can_send(const Relay *relay)
{
	return relay_is_enabled(relay) && relay->configured &&
		!breaker_is_down(&relay->breaker);
}

/* Is a replay still to be served, or the rest of one? */
bool
relay_has_to_replay(const Relay *relay)
{
	return relay->requests.replaying != NIL;
}

/* Is there room in memory for another event? */
bool
relay_has_room(const Relay *relay)
{
	return relay->queue.nentries < 4 * guc_batch_size &&
		relay->queue.bytes < relay_event_memory(relay);
}

/* Is there room for another row?  New events keep some of it. */
bool
relay_has_room_for_rows(const Relay *relay)
{
	return relay->queue.nentries < ROOM_FOR_ROWS(4 * guc_batch_size) &&
		relay->queue.bytes < ROOM_FOR_ROWS(relay_event_memory(relay));
}

/* The bytes of rows that there is room for; at least one. */
Size
relay_room_for_rows(const Relay *relay)
{
	Size		room = ROOM_FOR_ROWS(relay_event_memory(relay));

	return room > relay->queue.bytes ? room - relay->queue.bytes : 1;
}

/*
 * Is there room for more rows, and use for them?  Not before what the last relay
 * left open is read, nor before a replay has made all of its rows, which may come in
 * front of them.
 */
bool
relay_wants_rows(const Relay *relay)
{
	return relay_has_room_for_rows(relay) && relay_is_short(relay) &&
		!queue_has_unread_open(&relay->queue) && !relay_has_to_replay(relay);
}

/*
 * Is less ready than can be sent at once, although something can be sent?  What
 * waits for its lane to be in order, or for its share, is not ready to go.
 */
bool
relay_is_short(const Relay *relay)
{
	Size		bytes;
	int64		enough = publisher_max_messages(relay->publisher);

	if (enough == 0)
		enough = (int64) guc_max_in_flight *
			publisher_max_batch(relay->publisher, &bytes);
	return relay_can_send(relay) &&
		lanes_ready_to_go(&relay->queue.lanes) < Min(enough, guc_batch_size);
}

/*
 * Is there room for more events, and use for them?  Once memory was full, many
 * are read at a time.
 */
bool
relay_wants_events(const Relay *relay)
{
	bool		room = relay->full_since == 0 ?
	relay_has_room(relay) : relay_has_room_for_rows(relay);

	return room && relay_is_short(relay);
}

/* Is there more to be sent than goes out at once? */
bool
relay_has_backlog(const Relay *relay)
{
	return !queue_last_window(&relay->queue)->store.exhausted ||
		queue_nready(&relay->queue) >= guc_max_in_flight;
}
