/*-------------------------------------------------------------------------
 *
 * relay_keys.c
 *		The order of events: queues of keys, in memory and beyond.
 *
 * Events of one topic and key (with outbox.key_scope = all: of one key) are sent
 * one at a time, in the order of their ids.  Those in memory are a KeyQueue.
 * When there are too many of them, or the first is in trouble, the others become
 * its tail: rows of outbox_delivery, of which the next are read when the queue
 * runs low (a refill).  A queue with neither entries nor a wish to be refilled is
 * forgotten; its rows are then woken by the time that one is due, by a request,
 * or when the relay starts.
 *
 * Which keys have rows is known by hashes of them.  That is a cache: while it
 * is not complete (after a start, or when there are too many keys), each new
 * event is looked up in the table, and that two keys have one hash only lets
 * one of them take the way through the table, too.
 *
 * That a key's first rows are gone is known as well, for some (relay_floor.c).
 *
 * Memory: everything is in the table's context; a KeyQueue has copies of its
 * names.  Hashes take at most 1/8 of outbox.relay_memory.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "utils/memutils.h"

#include "guc.h"
#include "relay/relay_queue.h"

/* Of a key whose others wait in the table, at most so many are in memory. */
#define MAX_SHARE		100

/* What a hash costs in a hash table, roughly. */
#define ROW_BYTES		48

void
keys_init(KeyTable *keys, MemoryContext context)
{
	HASHCTL		ctl;

	memset(keys, 0, sizeof(*keys));
	keys->context = context;
	keys->look = 1;
	dlist_init(&keys->refills);
	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(KeyId);
	ctl.entrysize = sizeof(KeyQueue);
	ctl.hcxt = context;
	keys->queues = hash_create("outbox keys", 256, &ctl,
							   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	ctl.entrysize = sizeof(KeyId);
	keys->rows = hash_create("outbox keys with rows", 256, &ctl,
							 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/* Has outbox.key_scope another value than the one that the queues are made by? */
bool
keys_scope_changed(const KeyTable *keys)
{
	return keys->all_topics != (guc_key_scope == KEY_SCOPE_ALL);
}

/* Make the queues by its value from now on.  There must be none yet. */
void
keys_follow_scope(KeyTable *keys)
{
	Assert(hash_get_num_entries(keys->queues) == 0 &&
		   hash_get_num_entries(keys->rows) == 0);
	keys->all_topics = guc_key_scope == KEY_SCOPE_ALL;
}

static KeyId
make_id(const KeyTable *keys, const char *topic, const char *key)
{
	const unsigned char *t = (const unsigned char *) topic;
	const unsigned char *k = (const unsigned char *) key;
	int			tlen = keys->all_topics ? 0 : strlen(topic);
	int			klen = strlen(key);
	KeyId		id;

	id.a = hash_bytes_extended(k, klen, hash_bytes_extended(t, tlen, 1));
	id.b = hash_bytes_extended(k, klen, hash_bytes_extended(t, tlen, 2));
	return id;
}

/* The queue of a key; NULL if nothing of it is in memory. */
KeyQueue *
keys_find(const KeyTable *keys, const char *topic, const char *key)
{
	KeyId		id = make_id(keys, topic, key);

	return hash_search(keys->queues, &id, HASH_FIND, NULL);
}

/* The queue of a key, a new one with a tail that nothing is known of if need be. */
KeyQueue *
keys_make(KeyTable *keys, const char *topic, const char *key)
{
	KeyId		id = make_id(keys, topic, key);
	bool		found;
	KeyQueue   *queue = hash_search(keys->queues, &id, HASH_ENTER, &found);

	if (found)
		return queue;
	queue->topic = keys->all_topics ? NULL :
		MemoryContextStrdup(keys->context, topic);
	queue->key = MemoryContextStrdup(keys->context, key);
	dlist_init(&queue->entries);
	queue->nentries = 0;
	queue->nbare = 0;
	queue->tail = false;
	queue->last_id = 0;
	queue->listed = false;
	queue->unread_window = 0;
	queue->passed_by = 0;
	return queue;
}

static void
forget_queue(KeyTable *keys, KeyQueue *queue)
{
	Assert(dlist_is_empty(&queue->entries) && !queue->listed);
	if (queue->topic)
		pfree(queue->topic);
	pfree(queue->key);
	hash_search(keys->queues, &queue->id, HASH_REMOVE, NULL);
}

static void
list_refill(KeyTable *keys, KeyQueue *queue)
{
	if (queue->listed)
		return;
	queue->listed = true;
	keys->nrefills++;
	queue->unread_window = 0;
	dlist_push_tail(&keys->refills, &queue->node);
}

static void
unlist_refill(KeyTable *keys, KeyQueue *queue)
{
	if (!queue->listed)
		return;
	dlist_delete(&queue->node);
	keys->nrefills--;
	queue->listed = false;
}

/* How many keys are sent side by side, if all have something to send. */
int
keys_in_turn(const KeyTable *keys)
{
	return Max(1, Min(hash_get_num_entries(keys->queues), guc_max_in_flight));
}

/*
 * So many entries of a key with a tail are to be in memory, so that there is
 * room for as many keys as are sent side by side.
 */
int
keys_share(const KeyTable *keys)
{
	int			share = ROOM_FOR_ROWS(4 * guc_batch_size) / keys_in_turn(keys);

	return Max(2, Min(share, MAX_SHARE));
}

/* Has a queue with a tail so few entries left that it is to be refilled? */
static bool
runs_low(const KeyTable *keys, const KeyQueue *queue)
{
	return queue->nentries < keys_share(keys) / 2;
}

/* The first entry of a key, the only one that may be sent. */
RelayEntry *
keys_active(const KeyQueue *queue)
{
	return dlist_head_element(RelayEntry, in_key,
							  unconstify(dlist_head *, &queue->entries));
}

/*
 * Put the entry into the queue of its key, by id: mostly at the end, but an
 * event that was scheduled, retried or committed late may be older than those
 * in memory.  It never passes the one that is active.  True if it is the only
 * one.
 */
bool
keys_join(KeyTable *keys, RelayEntry *entry)
{
	const OutboxMessage *msg = &entry->event->msg;
	KeyQueue   *queue = keys_make(keys, msg->topic, msg->key);
	dlist_iter	iter;

	entry->key = queue;
	if (!entry->stored)
		queue->nbare++;
	queue->last_id = Max(queue->last_id, msg->id);
	if (queue->nentries++ == 0)
	{
		dlist_push_head(&queue->entries, &entry->in_key);
		return true;
	}
	dlist_reverse_foreach(iter, &queue->entries)
	{
		RelayEntry *other = dlist_container(RelayEntry, in_key, iter.cur);

		if (other->event->msg.id < msg->id || other->state != ENTRY_WAITING)
		{
			dlist_insert_after(iter.cur, &entry->in_key);
			return false;
		}
	}
	pg_unreachable();			/* the first one is never WAITING */
}

/* The entry has a row now. */
void
keys_stored(RelayEntry *entry)
{
	if (!entry->stored && entry->key)
		entry->key->nbare--;
	entry->stored = true;
}

/*
 * Take the entry out of the queue of its key.  Returns who is the first of it
 * then, or NULL.
 */
RelayEntry *
keys_leave(KeyTable *keys, RelayEntry *entry)
{
	KeyQueue   *queue = entry->key;

	dlist_delete(&entry->in_key);
	entry->key = NULL;
	if (!entry->stored)
		queue->nbare--;
	queue->nentries--;
	if (queue->tail && runs_low(keys, queue))
		list_refill(keys, queue);
	if (queue->nentries > 0)
		return keys_active(queue);
	if (queue->passed_by == keys->look)
		keys->missed = true;
	if (!queue->listed)
		forget_queue(keys, queue);
	return NULL;
}

/* What is not read yet is looked at from the beginning. */
void
keys_look_anew(KeyTable *keys)
{
	keys->look++;
	keys->missed = false;
}

/*
 * The look passes an event of this key, if that has to wait for those that are in
 * memory; else false.
 */
bool
keys_pass(KeyTable *keys, const char *topic, const char *key)
{
	KeyQueue   *queue = keys_find(keys, topic, key);

	if (!queue || queue->nentries == 0)
		return false;
	queue->passed_by = keys->look;
	return true;
}

/*
 * There may be rows of this key behind an id that are to be looked at, as far as
 * it is not known that there are none.
 */
void
keys_read_from(KeyTable *keys, KeyQueue *queue, int64 after)
{
	after = Max(after, floors_find(&keys->floors, queue->id));
	if (queue->nentries > 0 || queue->tail)
		after = Min(after, queue->last_id);
	queue->tail = true;
	queue->last_id = after;
	list_refill(keys, queue);
	(void) keys_note_rows(keys, queue->topic, queue->key);
}

/*
 * The key has a row of this event.  Unless something of the key is here, it may
 * have others in front of that.
 */
void
keys_look_into(KeyTable *keys, KeyQueue *queue, int64 event)
{
	bool		known = queue->nentries > 0 || queue->tail;

	floors_lower(&keys->floors, queue->id, event);
	keys_read_from(keys, queue, known ? event - 1 : 0);
}

/*
 * The next row of the key has to wait until its event is read: it may be in this
 * window, the last one, or else in a later one.
 */
void
keys_await_reader(KeyQueue *queue, const RelayWindow *window, int64 unread)
{
	bool		later = window->store.exhausted || unread <= window->store.cursor;

	queue->unread_window = window->number;
	queue->unread_until = later ? PG_INT64_MAX : unread;
}

/*
 * Does the key not wait for the reader any more?  Events that have rows are
 * passed over without a word: when everything was read, that one was.
 */
static bool
reader_has_come(const KeyQueue *queue, const RelayWindow *window)
{
	if (queue->unread_window != window->number)
		return true;
	if (queue->unread_until == PG_INT64_MAX)
		return false;
	return window->store.exhausted ||
		queue->unread_until <= window->store.cursor;
}

/*
 * The next key whose rows are to be read, or NULL.  One that waits for the
 * reader is left alone until that has come further in "window", the last one.
 */
KeyQueue *
keys_next_refill(KeyTable *keys, const RelayWindow *window)
{
	dlist_iter	iter;

	dlist_foreach(iter, &keys->refills)
	{
		KeyQueue   *queue = dlist_container(KeyQueue, node, iter.cur);

		if (reader_has_come(queue, window))
			return queue;
	}
	return NULL;
}

/*
 * These rows of the key were read, and are not in memory yet.  What has rows will
 * be there if these are all, and new events go behind it there.
 */
void
keys_note_read(KeyTable *keys, KeyQueue *queue, const StoreKeyRows *rows)
{
	floors_raise(&keys->floors, queue->id, queue->last_id, rows->first,
				 rows->ndead);
	if (rows->rest == KEY_END)
		hash_search(keys->rows, &queue->id, HASH_REMOVE, NULL);
}

/*
 * Rows up to "last_id" were read.  Without "tail", nothing is behind them that
 * the key's own progress will free.
 */
void
keys_refilled(KeyTable *keys, KeyQueue *queue, int64 last_id, bool tail)
{
	queue->tail = tail;
	queue->last_id = Max(queue->last_id, last_id);
	unlist_refill(keys, queue);
	if (tail && runs_low(keys, queue))
		list_refill(keys, queue);
	else if (queue->nentries == 0)
		forget_queue(keys, queue);
}

/*
 * What is left of the key waits in the table for a time or a request.  The
 * queue is forgotten with its last entry.
 */
void
keys_retire(KeyTable *keys, KeyQueue *queue)
{
	queue->tail = false;
	unlist_refill(keys, queue);
	(void) keys_note_rows(keys, queue->topic, queue->key);
}

/* The key will have, or has again, a row of this event. */
void
keys_note_row(KeyTable *keys, const char *topic, const char *key, int64 event)
{
	floors_lower(&keys->floors, make_id(keys, topic, key), event);
}

/*
 * The key has unsettled rows.  False if there is no room for that: only a look
 * into the table tells it then.
 */
bool
keys_note_rows(KeyTable *keys, const char *topic, const char *key)
{
	KeyId		id = make_id(keys, topic, key);

	if (hash_search(keys->rows, &id, HASH_FIND, NULL))
		return true;
	if (hash_get_num_entries(keys->rows) >=
		(Size) guc_relay_memory * 1024 / 8 / ROW_BYTES)
	{
		keys->overflowed = true;
		keys->complete = false;
		return false;
	}
	hash_search(keys->rows, &id, HASH_ENTER, NULL);
	return true;
}

/* Is the key known to have unsettled rows? */
bool
keys_have_rows(const KeyTable *keys, const char *topic, const char *key)
{
	KeyId		id = make_id(keys, topic, key);

	return hash_search(keys->rows, &id, HASH_FIND, NULL) != NULL;
}

/*
 * Behind which id rows of a new event's key are to be looked for, as
 * StoreRowsAfter has it.  Not at all if it waits anyway.
 */
int64
keys_rows_after(const OutboxMessage *msg, void *keys)
{
	const KeyTable *table = keys;
	const KeyQueue *queue = keys_find(table, msg->topic, msg->key);

	if ((queue && queue->tail) || keys_have_rows(table, msg->topic, msg->key))
		return PG_INT64_MAX;
	return floors_find(&table->floors, make_id(table, msg->topic, msg->key));
}

/* A walk over all rows has noted their keys. */
void
keys_all_rows_known(KeyTable *keys)
{
	keys->complete = !keys->overflowed;
}

/* What was known of rows may be wrong: a setting that rules them has changed. */
void
keys_forget_all_rows(KeyTable *keys)
{
	HASH_SEQ_STATUS status;
	KeyId	   *id;

	hash_seq_init(&status, keys->rows);
	while ((id = hash_seq_search(&status)) != NULL)
		hash_search(keys->rows, id, HASH_REMOVE, NULL);
	keys->overflowed = false;
	keys->complete = false;
	floors_forget(&keys->floors);
}
