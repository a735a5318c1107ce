/*-------------------------------------------------------------------------
 *
 * relay_submit.c
 *		Which events are sent now, and in which requests.
 *
 * At most outbox.max_in_flight requests are under way; or, for a publisher that
 * says so, because it has a pipeline, as many messages as it wants.  One that
 * can take several messages in one request is given batches: of what is ready,
 * without waiting for more, messages of one topic that may share a request.
 * Two events of one key are never ready at a time, so that no batch has both.
 *
 * After a crash of the relay, the events that may have been in flight then
 * are watched: a try is written down before it is made, and an event that was
 * there at two crashes is sent alone.  So is one of which the publisher said
 * that it may have failed because of others.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "guc.h"
#include "relay/relay_internal.h"

/* A message that is not answered is given up so long after its time. */
#define ANSWER_GRACE_MS	1000

/* Messages that will share a request; in the context of the step. */
typedef struct Batch
{
	const char *topic;			/* NULL: nothing can be added */
	RelayEntry **entries;
	int			n;
	Size		bytes;
} Batch;

/* What is to be submitted. */
typedef struct Submission
{
	Batch	   *batches;
	int			nbatches;
	int			room;			/* at most so many batches */
	int64		max_entries;	/* at most so many entries in all of them */
	int			nready;			/* entries to choose from */
	int			max_batch;
	Size		max_bytes;
	int			nentries;		/* in all batches */
	bool		exclusive;		/* one entry, and nothing else in flight */
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

/* Would one more crash make it dead?  That one shall tell for certain. */
static bool
is_suspect(const RelayEntry *entry)
{
	return entry->event->crashes >= EVENT_MAX_CRASHES - 1;
}

/*
 * Must nothing else be in flight with it?  In a pipeline, each message can be
 * the reason why others fail; a request is alone already when it is not shared.
 */
static bool
goes_exclusively(const Relay *relay, const RelayEntry *entry)
{
	return is_suspect(entry) ||
		(entry->alone && publisher_max_messages(relay->publisher) > 0);
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

/* The batch that this entry can join, the newest first; NULL if none. */
static Batch *
find_batch(Submission *sub, RelayEntry *entry)
{
	const OutboxMessage *msg = &entry->event->msg;

	for (int i = sub->nbatches - 1; i >= 0; i--)
	{
		Batch	   *batch = &sub->batches[i];

		if (batch->topic && batch->n < sub->max_batch &&
			batch->bytes + msg->payload_len <= sub->max_bytes &&
			strcmp(batch->topic, msg->topic) == 0)
			return batch;
	}
	return NULL;
}

/* Begin a new batch with this entry. */
static void
add_batch(Submission *sub, RelayEntry *entry, bool open)
{
	Batch	   *batch = &sub->batches[sub->nbatches++];

	batch->topic = open ? entry->event->msg.topic : NULL;
	batch->entries = palloc(sizeof(RelayEntry *) *
							(open ? Min(sub->max_batch, sub->nready) : 1));
	batch->entries[0] = entry;
	batch->n = 1;
	batch->bytes = entry->event->msg.payload_len;
	sub->nentries++;
}

/* Put the entry into a batch, if there is one for it.  False: there is not. */
static bool
put_into_batch(Relay *relay, Submission *sub, RelayEntry *entry)
{
	bool		open = sub->max_batch > 1 && can_share_request(relay, entry);
	Batch	   *batch = open ? find_batch(sub, entry) : NULL;

	if (batch)
	{
		batch->entries[batch->n++] = entry;
		batch->bytes += entry->event->msg.payload_len;
		sub->nentries++;
	}
	else if (sub->nbatches < sub->room)
		add_batch(sub, entry, open);
	else
		return false;
	return true;
}

/*
 * Choose from the entries that are ready, in their order.  When there is no
 * room for another batch, those there are may still be filled.
 */
static void
choose_entries(Relay *relay, Submission *sub)
{
	dlist_iter	iter;

	dlist_foreach(iter, &relay->queue.ready)
	{
		RelayEntry *entry = dlist_container(RelayEntry, in_list, iter.cur);

		/* nothing passes it, or it would never have its turn */
		if (goes_exclusively(relay, entry))
		{
			if (sub->nentries == 0 && relay->queue.nrequests == 0)
			{
				add_batch(sub, entry, false);
				sub->exclusive = true;
			}
			break;
		}
		if (!put_into_batch(relay, sub, entry) && sub->max_batch == 1)
			break;
		if (sub->nentries >= sub->max_entries)
			break;
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

	for (int b = 0; b < sub->nbatches; b++)
	{
		for (int i = 0; i < sub->batches[b].n; i++)
		{
			RelayEntry *entry = sub->batches[b].entries[i];

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
	}
	return !any || relay_checkpoint(relay, true, false);
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

	if (!relay_can_send(relay) || relay->journal.must_checkpoint ||
		relay->queue.exclusive)
		return 0;
	room = window > 0 ? window - relay->queue.nin_flight :
		guc_max_in_flight - relay->queue.nrequests;
	return Min(room, breaker_allowance(&relay->breaker,
									   relay->queue.nrequests));
}

/* Is there something that may be sent now? */
bool
relay_can_submit(const Relay *relay)
{
	if (relay->queue.nready == 0 || request_room(relay) <= 0)
		return false;

	/* what stands at the head and goes exclusively waits until it can */
	return relay->queue.nrequests == 0 ||
		!goes_exclusively(relay, queue_next_ready(&relay->queue));
}

/* Hand the chosen entries to the publisher, batch by batch. */
static void
submit_entries(Relay *relay, Submission *sub)
{
	const OutboxMessage **messages;
	int64		deadline = relay->now + guc_request_timeout + ANSWER_GRACE_MS;
	int			n = 0;

	messages = palloc(sizeof(OutboxMessage *) * sub->nentries);
	for (int b = 0; b < sub->nbatches; b++)
	{
		for (int i = 0; i < sub->batches[b].n; i++)
		{
			RelayEntry *entry = sub->batches[b].entries[i];

			entry->event->msg.attempt = entry->attempts + 1;
			entry->event->msg.batch = b;
			messages[n++] = &entry->event->msg;
		}

		/* in flight before the publisher has them: it may answer at once */
		queue_submitted(&relay->queue, sub->batches[b].entries,
						sub->batches[b].n, deadline, sub->exclusive);
	}
	publisher_submit(relay->publisher, messages, n);
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

	if (!relay_can_submit(relay))
		return false;
	sub.room = request_room(relay);
	sub.max_batch = publisher_max_batch(relay->publisher, &sub.max_bytes);

	/* the one that finds out whether the destination is back goes alone */
	if (relay->breaker.state == BREAKER_HALF_OPEN)
		sub.max_batch = 1;
	sub.max_entries = publisher_max_messages(relay->publisher) > 0 ? sub.room :
		(int64) sub.room * sub.max_batch;
	sub.nready = relay->queue.nready;
	sub.batches = palloc(sizeof(Batch) * Min(sub.room, sub.nready));
	choose_entries(relay, &sub);
	if (sub.nbatches == 0 || !record_tries(relay, &sub))
		return false;
	submit_entries(relay, &sub);
	return true;
}
