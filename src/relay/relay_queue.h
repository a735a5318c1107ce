/*-------------------------------------------------------------------------
 *
 * relay_queue.h
 *		The events in the relay's memory.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_RELAY_QUEUE_H
#define OUTBOX_RELAY_QUEUE_H

#include "lib/ilist.h"
#include "lib/pairingheap.h"
#include "utils/hsearch.h"

#include "store/event.h"
#include "store/store.h"

typedef enum EntryState
{
	ENTRY_READY,				/* to be submitted */
	ENTRY_WAITING,				/* for an earlier event of its key */
	ENTRY_IN_FLIGHT,			/* the publisher has it */
	ENTRY_BACKOFF				/* failed; to be tried again from here */
} EntryState;

/* A window that is being read or has unsettled events in memory. */
typedef struct RelayWindow
{
	dlist_node	node;			/* in queue->windows, oldest first */
	MemoryContext context;		/* of this struct and the snapshots */
	StoreWindow store;
	dlist_head	entries;		/* unsettled, in the order of their ids */
	int64		max_gone;		/* largest id that was settled, or has a row */
} RelayWindow;

/* The events of one key, as they are sent; only the first is active. */
typedef struct KeyQueue
{
	char		key[256];		/* hash key */
	dlist_head	entries;
} KeyQueue;

/* A request in flight that several entries share. */
typedef struct RelayRequest
{
	int			pending;		/* entries that are not answered yet */
} RelayRequest;

typedef struct RelayEntry
{
	OutboxEvent *event;
	EntryState	state;
	dlist_node	in_list;		/* READY and IN_FLIGHT: in that list */
	pairingheap_node in_backoff;	/* BACKOFF: in that heap */
	RelayWindow *window;		/* it holds the position there; NULL: not */
	dlist_node	in_window;
	KeyQueue   *key;			/* NULL: it has none */
	dlist_node	in_key;
	RelayRequest *request;		/* IN_FLIGHT: shared with others; or NULL */
	enum
	{
		BATCH_UNKNOWN,
		BATCH_NO,
		BATCH_YES
	}			can_batch;		/* may it share a request? */
	bool		stored;			/* has a row, in progress */
	bool		recorded;		/* this try is written down beforehand */
	int			attempts;		/* counted failures */
	int64		read_at;		/* when it came into memory */
	int64		due_at;			/* BACKOFF: next try; IN_FLIGHT: limit */
	int			last_status;	/* 0: none */
	char	   *last_error;		/* NULL: none */
} RelayEntry;

typedef struct RelayQueue
{
	MemoryContext context;		/* of everything but the windows */
	dlist_head	windows;
	dlist_head	ready;
	dlist_head	in_flight;		/* in the order of submission */
	pairingheap *backoff;
	HTAB	   *by_id;			/* int64 -> RelayEntry * */
	HTAB	   *by_key;			/* KeyQueue */
	int			nentries;
	int			nready;
	int			nin_flight;		/* entries */
	int			nrequests;		/* in flight */
	bool		exclusive;		/* what is in flight must be alone there */
	Size		bytes;			/* of events */
} RelayQueue;

extern void queue_init(RelayQueue *queue, MemoryContext context);
extern RelayWindow *queue_add_window(RelayQueue *queue, StoreSnapshot lo,
									 StoreSnapshot hi);
extern RelayWindow *queue_last_window(const RelayQueue *queue);
extern void queue_drop_window(RelayQueue *queue, RelayWindow *window);
extern bool queue_has_gone_beyond(const RelayQueue *queue, const RelayEntry *entry);
extern void queue_position(RelayQueue *queue, StorePosition *position);

extern bool queue_admit(RelayQueue *queue, OutboxEvent *event,
						RelayWindow *window, int64 now);
extern RelayEntry *queue_find(const RelayQueue *queue, int64 id);
extern void queue_leave_window(RelayEntry *entry);
extern RelayEntry *queue_active(const KeyQueue *key);
extern RelayEntry *queue_next_ready(const RelayQueue *queue);
extern void queue_submitted(RelayQueue *queue, RelayEntry **entries, int n,
							int64 deadline, bool exclusive);
extern void queue_back_off(RelayQueue *queue, RelayEntry *entry, int64 due_at);
extern RelayEntry *queue_next_backoff(const RelayQueue *queue);
extern void queue_make_ready(RelayQueue *queue, RelayEntry *entry);
extern void queue_remove(RelayQueue *queue, RelayEntry *entry);
extern void queue_forget_batching(RelayQueue *queue);
extern List *queue_entries(RelayQueue *queue);

#endif							/* OUTBOX_RELAY_QUEUE_H */
