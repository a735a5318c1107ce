/*-------------------------------------------------------------------------
 *
 * relay_window.c
 *		The windows that events came from, and the position that follows.
 *
 * A window has exactly its entries that are neither settled nor have a row in
 * outbox_delivery, in the order of their ids.  Several windows can be in work at
 * a time; only the last one is read from.  It always stays, since its "hi" is
 * where the next one begins.
 *
 * The position is in front of the first such entry, unless something behind that
 * is settled, which a crash would have sent again: then the position passes the
 * entry, and names it as open.  So does it the next one, up to STORE_MAX_OPEN of
 * them.
 *
 * What the last relay left open is read before anything else, in the order of
 * ids, into a window of its own, the first one: it may be of any earlier window.
 * As long as it is there, the position names it.
 *
 * Memory: a window has a context of its own.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "relay/relay_queue.h"

/* A new last window, with copies of the snapshots; "hi" may be NULL. */
RelayWindow *
queue_add_window(RelayQueue *queue, StoreSnapshot lo, StoreSnapshot hi,
				 int64 now)
{
	MemoryContext context = AllocSetContextCreate(queue->context,
												  "outbox window",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	RelayWindow *window = palloc0(sizeof(RelayWindow));

	window->context = context;
	window->opened_at = now;
	window->number = ++queue->nwindows;
	window->store.lo = store_copy_snapshot(lo);
	window->store.hi = hi ? store_copy_snapshot(hi) : NULL;
	MemoryContextSwitchTo(old);
	dlist_init(&window->entries);
	dlist_push_tail(&queue->windows, &window->node);
	return window;
}

/* The one that is read from. */
RelayWindow *
queue_last_window(const RelayQueue *queue)
{
	return dlist_tail_element(RelayWindow, node,
							  unconstify(dlist_head *, &queue->windows));
}

/* It must have no entries. */
void
queue_drop_window(RelayQueue *queue, RelayWindow *window)
{
	Assert(dlist_is_empty(&window->entries));
	dlist_delete(&window->node);
	MemoryContextDelete(window->context);
}

/* Drop all of them. */
void
queue_drop_windows(RelayQueue *queue)
{
	while (!dlist_is_empty(&queue->windows))
		queue_drop_window(queue, dlist_head_element(RelayWindow, node,
													&queue->windows));
}

/*
 * Begin at a position, without any window yet.  What it leaves open is to be read
 * first.
 */
void
queue_begin_at(RelayQueue *queue, const StorePosition *position, int64 now)
{
	RelayWindow *window;

	if (position->nopen > 0)
	{
		window = queue_add_window(queue, position->lo, position->hi, now);
		window->nleft_open = position->nopen;
	}
	window = queue_add_window(queue, position->lo, position->hi, now);
	window->store.cursor = position->last_id;
	if (position->nopen > 0)
	{
		Size		size = sizeof(int64) * position->nopen;

		window->store.open = memcpy(MemoryContextAlloc(window->context, size),
									position->open, size);
		window->store.nopen = position->nopen;
	}
}

/* The first window. */
static RelayWindow *
first_window(const RelayQueue *queue)
{
	return dlist_head_element(RelayWindow, node,
							  unconstify(dlist_head *, &queue->windows));
}

/* Are there events, left open by the last relay, that are not read yet? */
bool
queue_has_unread_open(const RelayQueue *queue)
{
	return queue_last_window(queue)->store.nopen > 0;
}

/* The window that these come into. */
RelayWindow *
queue_open_window(const RelayQueue *queue)
{
	Assert(first_window(queue)->nleft_open > 0);
	return first_window(queue);
}

/* The last window of which something is settled, or NULL. */
static const RelayWindow *
last_gone(const RelayQueue *queue)
{
	dlist_iter	iter;

	dlist_reverse_foreach(iter, unconstify(dlist_head *, &queue->windows))
	{
		const RelayWindow *window = dlist_container(RelayWindow, node, iter.cur);

		if (window->max_gone > 0)
			return window;
	}
	return NULL;
}

/* Is what "last" has settled, as last_gone() has it, behind this entry? */
static bool
has_gone_beyond(const RelayWindow *last, const RelayEntry *entry)
{
	if (!last || entry->window->number > last->number)
		return false;
	return entry->window->number < last->number ||
		last->max_gone > entry->event->msg.id;
}

/*
 * Are there events behind this one, if it is linked into a window, that are
 * settled?
 */
bool
queue_has_gone_beyond(const RelayQueue *queue, const RelayEntry *entry)
{
	return entry->window && has_gone_beyond(last_gone(queue), entry);
}

/* It holds the position no longer: it is settled, or has a row now. */
void
queue_leave_window(RelayEntry *entry)
{
	RelayWindow *window = entry->window;

	if (!window)
		return;
	dlist_delete(&entry->in_window);
	window->max_gone = Max(window->max_gone, entry->event->msg.id);
	entry->window = NULL;
}

/* Drop windows in front that are done. */
static void
drop_done_windows(RelayQueue *queue)
{
	for (;;)
	{
		RelayWindow *window = first_window(queue);

		if (!dlist_is_empty(&window->entries) ||
			window == queue_last_window(queue) ||
			(window->nleft_open > 0 && queue_has_unread_open(queue)))
			break;
		queue_drop_window(queue, window);
	}
}

/* The position in front of an entry, or with NULL behind all that was read. */
static void
set_position(StorePosition *position, const StoreWindow *window,
			 const RelayEntry *entry)
{
	bool		done = !entry && window->exhausted;

	position->lo = done ? window->hi : window->lo;
	position->hi = window->hi;
	if (entry)
		position->last_id = entry->event->msg.id - 1;
	else
		position->last_id = done ? 0 : window->cursor;
}

/*
 * Up to where everything is settled but what is named as open, given that what
 * is not linked into a window is.  Drops windows that are done; the snapshots of
 * *position are those of the rest, its array of ids is palloc'd.
 */
void
queue_position(RelayQueue *queue, StorePosition *position)
{
	const StoreWindow *last_read = &queue_last_window(queue)->store;
	const RelayWindow *gone;
	dlist_iter	windows;
	dlist_iter	entries;

	drop_done_windows(queue);
	gone = last_gone(queue);
	position->open = palloc(sizeof(int64) * (first_window(queue)->nleft_open +
											 STORE_MAX_OPEN));

	/* what is not read yet is as an earlier position has left it */
	position->nopen = last_read->nopen;
	for (int i = 0; i < last_read->nopen; i++)
		position->open[i] = last_read->open[i];

	dlist_foreach(windows, &queue->windows)
	{
		RelayWindow *window = dlist_container(RelayWindow, node, windows.cur);

		dlist_foreach(entries, &window->entries)
		{
			const RelayEntry *entry = dlist_container(RelayEntry, in_window,
													  entries.cur);

			/* no position can be in front of what an earlier one has passed */
			if (window->nleft_open == 0 &&
				(position->nopen >= STORE_MAX_OPEN ||
				 !has_gone_beyond(gone, entry)))
			{
				set_position(position, &window->store, entry);
				return;
			}
			position->open[position->nopen++] = entry->event->msg.id;
		}
	}
	set_position(position, last_read, NULL);
}
