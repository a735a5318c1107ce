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

#include "relay/relay_lane.h"
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
	int64		opened_at;		/* when reading it began */
	int64		number;			/* 1, 2, ... since the relay's start */
	dlist_head	entries;		/* unsettled, in the order of their ids */
	int64		max_gone;		/* largest id that was settled, or has a row */
	int			nleft_open;		/* not 0: no window, but for the events, so
								 * many, that the last relay left open */
} RelayWindow;

/*
 * A key, and its topic unless the order is one across topics, hashed: two of
 * them may be taken for one.
 */
typedef struct KeyId
{
	uint64		a;
	uint64		b;
} KeyId;

/*
 * The events of one key of a topic, or of all topics, as they are sent: only the
 * first is active.  Those beyond memory are its tail, rows of outbox_delivery.
 */
typedef struct KeyQueue
{
	KeyId		id;				/* hash key */
	char	   *topic;			/* NULL: of all topics */
	char	   *key;
	dlist_head	entries;		/* in the order of their ids */
	int			nentries;
	int			nbare;			/* of these, without a row */
	bool		tail;			/* there may be rows behind "last_id" */
	int64		last_id;		/* rows up to this one are taken */
	bool		listed;			/* its rows are to be read ... */
	dlist_node	node;			/* ... and so it is in KeyTable.refills */
	int64		unread_window;	/* the next row's event had not been read from
								 * the window of this number ... */
	int64		unread_until;	/* ... which may help once it is read to here;
								 * PG_INT64_MAX: never */
	int64		passed_by;		/* KeyTable.look that has passed events of it */
} KeyQueue;

/* Up to which id a key has no unsettled rows. */
typedef struct KeyFloor
{
	KeyId		id;
	int64		after;			/* 0: nothing is known */
} KeyFloor;

#define NFLOORS			1024

/* Of some keys; see relay_floor.c. */
typedef struct KeyFloors
{
	KeyFloor	places[NFLOORS];
} KeyFloors;

/* What comes back from the table takes no more than this of the room. */
#define ROOM_FOR_ROWS(room)		((room) / 4 * 3)

/* All that is known about keys; see relay_keys.c. */
typedef struct KeyTable
{
	MemoryContext context;
	bool		all_topics;		/* a key is one queue across topics */
	HTAB	   *queues;			/* KeyQueue */
	dlist_head	refills;		/* of KeyQueues */
	int			nrefills;
	HTAB	   *rows;			/* KeyIds: of keys that have unsettled rows */
	bool		complete;		/* ... and all of them */
	bool		overflowed;		/* ... as far as there was room */
	KeyFloors	floors;
	int64		look;			/* the present look ahead; see relay_ahead.c */
	bool		missed;			/* what it has passed waits for none any more */
} KeyTable;

/* A request in flight that several entries share. */
typedef struct RelayRequest
{
	int			pending;		/* entries that are not answered yet */
} RelayRequest;

typedef struct RelayEntry
{
	OutboxEvent *event;
	EntryState	state;
	RelayLane  *lane;
	dlist_node	in_list;		/* READY and IN_FLIGHT: in that list */
	pairingheap_node in_backoff;	/* BACKOFF: in that heap */
	pairingheap_node in_expiring;	/* it expires, and is not IN_FLIGHT */
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
	bool		alone;			/* may have failed because of others: goes
								 * alone */
	bool		exclusive;		/* READY: nothing else may be in flight */
	bool		stored;			/* has a row */
	bool		waited;			/* ... which only says that it waits */
	bool		recorded;		/* this try is written down beforehand */
	int			attempts;		/* counted failures */
	int64		read_at;		/* when it came into memory */
	int64		sent_at;		/* IN_FLIGHT: since when */
	int64		due_at;			/* BACKOFF: next try; IN_FLIGHT: limit */
	int			last_status;	/* 0: none */
	char	   *last_error;		/* NULL: none */
} RelayEntry;

typedef struct RelayQueue
{
	MemoryContext context;		/* of everything but the windows */
	dlist_head	windows;
	int64		nwindows;		/* so many there have been */
	LaneTable	lanes;			/* with what is ready ... */
	dlist_head	exclusives;		/* ... but for these, to be sent alone */
	dlist_head	in_flight;		/* in the order of submission */
	pairingheap *backoff;
	pairingheap *expiring;		/* what no try may begin of after a time */
	HTAB	   *by_id;			/* int64 -> RelayEntry * */
	KeyTable	keys;
	int			nentries;
	int			nin_flight;		/* entries */
	int			nrequests;		/* in flight */
	bool		exclusive;		/* what is in flight must be alone there */
	Size		bytes;			/* of events */
} RelayQueue;

/* relay_keys.c */
extern void keys_init(KeyTable *keys, MemoryContext context);
extern bool keys_scope_changed(const KeyTable *keys);
extern void keys_follow_scope(KeyTable *keys);
extern KeyQueue *keys_find(const KeyTable *keys, const char *topic,
						   const char *key);
extern KeyQueue *keys_make(KeyTable *keys, const char *topic, const char *key);
extern bool keys_join(KeyTable *keys, RelayEntry *entry);
extern void keys_stored(RelayEntry *entry);
extern RelayEntry *keys_leave(KeyTable *keys, RelayEntry *entry);
extern RelayEntry *keys_active(const KeyQueue *queue);
extern void keys_read_from(KeyTable *keys, KeyQueue *queue, int64 after);
extern void keys_look_into(KeyTable *keys, KeyQueue *queue, int64 event);
extern KeyQueue *keys_next_refill(KeyTable *keys, const RelayWindow *window);
extern void keys_await_reader(KeyQueue *queue, const RelayWindow *window,
							  int64 unread);
extern void keys_look_anew(KeyTable *keys);
extern bool keys_pass(KeyTable *keys, const char *topic, const char *key);
extern int	keys_in_turn(const KeyTable *keys);
extern int	keys_share(const KeyTable *keys);
extern void keys_note_read(KeyTable *keys, KeyQueue *queue,
						   const StoreKeyRows *rows);
extern void keys_refilled(KeyTable *keys, KeyQueue *queue, int64 last_id,
						  bool tail);
extern void keys_retire(KeyTable *keys, KeyQueue *queue);
extern void keys_note_row(KeyTable *keys, const char *topic, const char *key,
						  int64 event);
extern bool keys_note_rows(KeyTable *keys, const char *topic, const char *key);
extern bool keys_have_rows(const KeyTable *keys, const char *topic,
						   const char *key);
extern int64 keys_rows_after(const OutboxMessage *msg, void *keys);
extern void keys_all_rows_known(KeyTable *keys);
extern void keys_forget_all_rows(KeyTable *keys);

/* relay_floor.c */
extern int64 floors_find(const KeyFloors *floors, KeyId id);
extern void floors_raise(KeyFloors *floors, KeyId id, int64 after, int64 first,
						 int ndead);
extern void floors_lower(KeyFloors *floors, KeyId id, int64 event);
extern void floors_forget(KeyFloors *floors);

/* relay_window.c */
extern void queue_begin_at(RelayQueue *queue, const StorePosition *position,
						   int64 now);
extern RelayWindow *queue_add_window(RelayQueue *queue, StoreSnapshot lo,
									 StoreSnapshot hi, int64 now);
extern RelayWindow *queue_last_window(const RelayQueue *queue);
extern RelayWindow *queue_open_window(const RelayQueue *queue);
extern bool queue_has_unread_open(const RelayQueue *queue);
extern void queue_drop_window(RelayQueue *queue, RelayWindow *window);
extern void queue_drop_windows(RelayQueue *queue);
extern void queue_leave_window(RelayEntry *entry);
extern bool queue_has_gone_beyond(const RelayQueue *queue, const RelayEntry *entry);
extern void queue_position(RelayQueue *queue, StorePosition *position);

/* relay_queue.c */
extern void queue_init(RelayQueue *queue, MemoryContext context);
extern bool queue_admit(RelayQueue *queue, OutboxEvent *event,
						RelayWindow *window, int64 now);
extern RelayEntry *queue_find(const RelayQueue *queue, int64 id);
extern int	queue_nready(const RelayQueue *queue);
extern RelayEntry *queue_next_exclusive(const RelayQueue *queue);
extern void queue_make_exclusive(RelayQueue *queue, RelayEntry *entry);
extern void queue_submitted(RelayQueue *queue, RelayEntry **entries, int n,
							int64 now, int64 deadline, bool exclusive);
extern void queue_back_off(RelayQueue *queue, RelayEntry *entry, int64 due_at);
extern RelayEntry *queue_next_backoff(const RelayQueue *queue);
extern RelayEntry *queue_next_expiring(const RelayQueue *queue);
extern void queue_make_ready(RelayQueue *queue, RelayEntry *entry);
extern void queue_remove(RelayQueue *queue, RelayEntry *entry);
extern void queue_forget_batching(RelayQueue *queue);
extern List *queue_entries(RelayQueue *queue);

#endif							/* OUTBOX_RELAY_QUEUE_H */
