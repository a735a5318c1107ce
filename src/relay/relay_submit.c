/*-------------------------------------------------------------------------
 *
 * relay_submit.c
 *		Which events are sent now, and in which requests.
 *
 * At most outbox.max_in_flight requests are under way; or, for a publisher that
 * says so, because it has a pipeline, as many messages as it wants.  Whose turn
 * the next request is, relay_turn.c says.  A publisher that can take several
 * messages in one is given batches: of what is ready in a lane, without waiting
 * for more, messages that may share a request.  Two events of one key are never
 * ready at a time, so that no batch has both.
 *
 * After a crash of the relay, the events that may have been in flight then
 * are watched: a try is written down before it is made, and an event that was
 * there at two crashes is sent alone.  So is one of which the publisher said
 * that it may have failed because of others.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "guc.h"
#include "relay/relay_internal.h"

/* A message that is not answered is given up so long after its time. */
#define ANSWER_GRACE_MS	1000

/* For each place in a request, so many entries are looked at. */
#define LOOKS_PER_PLACE	4

/* What is to be submitted: entries that are in flight already. */
typedef struct Submission
{
	RelayEntry **entries;
	int			n;
	int			nrequests;
	int			room;			/* at most so many requests */
	int			max_entries;	/* at most so many entries in all of them */
	int			max_batch;
	Size		max_bytes;
} Submission;

/*
 * The last relay crashed, perhaps at an event that it was about to send.
 * Events up to "max_id" may have been in its hands; more of them than it can
 * have held at a time need no watching.
 */
void
relay_be_careful(Relay *relay, int64 max_id)
{
	relay->sender.careful = guc_batch_size +
		Max(guc_max_in_flight, publisher_max_messages(relay->publisher));
	relay->sender.careful_max_id = max_id;
}

/*
 * Must nothing else be in flight with it, now that its lane has its turn?  In a
 * pipeline, each message can be the reason why others fail; a request is alone
 * already when it is not shared.
 */
static bool
goes_exclusively(const Relay *relay, const RelayEntry *entry)
{
	return entry->alone && publisher_max_messages(relay->publisher) > 0;
}

/*
 * May it share a request?  What has failed goes alone: whatever it was, it
 * must not make others fail again.  The publisher is asked once.
 */
static bool
can_share_request(Relay *relay, RelayEntry *entry)
{
	if (entry->attempts > 0 || entry->last_error)
		return false;
	if (entry->can_batch == BATCH_UNKNOWN)
		entry->can_batch = publisher_can_batch(relay->publisher,
											   &entry->event->msg) ?
			BATCH_YES : BATCH_NO;
	return entry->can_batch == BATCH_YES;
}

/*
 * The entries of the lane's next request: the first that is ready, and those
 * that may share a request with it.  Returns how many.
 */
static int
choose_entries(Relay *relay, RelayLane *lane, int max_batch, Size max_bytes,
			   RelayEntry **entries)
{
	RelayEntry *first = dlist_head_element(RelayEntry, in_list, &lane->ready);
	Size		bytes = first->event->msg.payload_len;
	int			n = 1;
	int			looks = LOOKS_PER_PLACE * max_batch;
	dlist_iter	iter;

	entries[0] = first;
	if (max_batch == 1 || !can_share_request(relay, first))
		return n;
	dlist_foreach(iter, &lane->ready)
	{
		RelayEntry *entry = dlist_container(RelayEntry, in_list, iter.cur);
		Size		len = entry->event->msg.payload_len;

		if (n == max_batch || looks-- == 0)
			break;
		if (entry == first || bytes + len > max_bytes ||
			!can_share_request(relay, entry))
			continue;
		entries[n++] = entry;
		bytes += len;
	}
	return n;
}

/*
 * Put entries into flight that share a request.  The publisher has them only
 * later; but it may answer at once, and what they are counts for what may be
 * chosen next.
 */
static void
add_request(Relay *relay, Submission *sub, int n, bool exclusive)
{
	RelayEntry **entries = sub->entries + sub->n;
	int64		deadline = relay->now + guc_request_timeout + ANSWER_GRACE_MS;

	for (int i = 0; i < n; i++)
	{
		entries[i]->event->msg.attempt = entries[i]->attempts + 1;
		entries[i]->event->msg.batch = sub->nrequests;
		entries[i]->event->msg.ttl_seconds = relay_ttl_seconds(entries[i]->event);
	}
	queue_submitted(&relay->queue, entries, n, relay->now, deadline,
					exclusive);
	sub->n += n;
	sub->nrequests++;
}

/*
 * The entries of the next request; returns how many.  0: there is none, or what
 * comes next waits until nothing is in flight.
 */
static int
choose_next(Relay *relay, const Submission *sub)
{
	LaneTable  *lanes = &relay->queue.lanes;
	RelayLane  *lane = lanes_next(lanes, relay->now);
	RelayEntry *first;
	int			max_batch = Min(sub->max_batch, sub->max_entries - sub->n);

	if (!lane)
		return 0;
	lanes_take_turn(lanes, lane);
	first = dlist_head_element(RelayEntry, in_list, &lane->ready);
	if (goes_exclusively(relay, first))
	{
		queue_make_exclusive(&relay->queue, first);
		return 0;
	}

	/* a try that finds out how things are goes alone */
	if (lane_sends_one(lanes, lane))
		max_batch = 1;
	return choose_entries(relay, lane, max_batch, sub->max_bytes,
						  sub->entries + sub->n);
}

/* Choose what to send: what goes exclusively, else lane by lane. */
static void
choose_requests(Relay *relay, Submission *sub)
{
	RelayEntry *exclusive;
	int			n;

	while (!queue_next_exclusive(&relay->queue) &&
		   sub->nrequests < sub->room && sub->n < sub->max_entries &&
		   (n = choose_next(relay, sub)) > 0)
		add_request(relay, sub, n, false);

	exclusive = queue_next_exclusive(&relay->queue);
	if (exclusive && relay->queue.nrequests == 0)
	{
		sub->entries[0] = exclusive;
		add_request(relay, sub, 1, true);
	}
}

/*
 * Write down that this entry is about to be tried: the crash is counted ahead,
 * and taken back by the answer.  An entry that is recorded for the first time
 * may have been in flight at the crash that made us careful as well.
 */
static void
record_try(Relay *relay, RelayEntry *entry)
{
	entry->event->crashes = Max(entry->event->crashes, 1) + 1;
	relay_spill_entry(relay, entry);
	entry->recorded = true;
}

/*
 * Write down those of the tries that are watched, before any is made.  False
 * if that failed.
 */
static bool
record_tries(Relay *relay, Submission *sub)
{
	bool		any = false;

	for (int i = 0; i < sub->n; i++)
	{
		RelayEntry *entry = sub->entries[i];

		/* what a crash is known of is watched for as long as it is here */
		if (entry->event->crashes == 0 &&
			(relay->sender.careful <= 0 ||
			 entry->event->msg.id > relay->sender.careful_max_id))
			continue;
		relay->sender.careful--;
		if (!entry->recorded)
			record_try(relay, entry);
		any = true;
	}
	return !any || relay_checkpoint(relay, true, false);
}

/* So many requests may be in flight; or messages, in a pipeline. */
int
relay_slots(const Relay *relay)
{
	int			window = publisher_max_messages(relay->publisher);

	return window > 0 ? window : guc_max_in_flight;
}

/*
 * How many more requests may be made now?  With a window, each may be one of
 * its messages.
 */
static int
request_room(const Relay *relay)
{
	int			window = publisher_max_messages(relay->publisher);
	int			room;

	if (!relay_can_send(relay) || relay_has_to_replay(relay) ||
		relay->journal.must_checkpoint || relay->queue.exclusive)
		return 0;
	room = window > 0 ? window - relay->queue.nin_flight :
		guc_max_in_flight - relay->queue.nrequests;
	return Min(room, breaker_allowance(&relay->breaker,
									   relay->queue.nrequests));
}

/* Is there something that may be sent now? */
bool
relay_can_submit(Relay *relay)
{
	if (request_room(relay) <= 0)
		return false;

	/* nothing passes it, or it would never have its turn */
	if (queue_next_exclusive(&relay->queue))
		return relay->queue.nrequests == 0;
	return lanes_next(&relay->queue.lanes, relay->now) != NULL;
}

/*
 * Hand to the publisher what may be sent now.  It may have answered some or
 * all of it when this returns, so that there is room for more.  False if
 * nothing was sent.
 */
bool
relay_submit(Relay *relay)
{
	Submission	sub = {0};
	const OutboxMessage **messages;

	if (!relay_can_submit(relay))
		return false;
	sub.room = request_room(relay);
	sub.max_batch = publisher_max_batch(relay->publisher, &sub.max_bytes);

	/* the one that finds out whether the destination is back goes alone */
	if (relay->breaker.state == BREAKER_HALF_OPEN)
		sub.max_batch = 1;
	sub.max_entries = publisher_max_messages(relay->publisher) > 0 ? sub.room :
		INT_MAX;
	sub.entries = palloc(sizeof(RelayEntry *) * queue_nready(&relay->queue));
	choose_requests(relay, &sub);
	if (sub.n == 0)
		return false;
	if (!record_tries(relay, &sub))
	{
		for (int i = 0; i < sub.n; i++)
			queue_make_ready(&relay->queue, sub.entries[i]);
		return false;
	}

	messages = palloc(sizeof(OutboxMessage *) * sub.n);
	for (int i = 0; i < sub.n; i++)
		messages[i] = &sub.entries[i]->event->msg;
	publisher_submit(relay->publisher, messages, sub.n);
	return true;
}
