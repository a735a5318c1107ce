/*-------------------------------------------------------------------------
 *
 * store_receiver.c
 *		Where the statements that read events send their rows.
 *
 * A receiver makes one chunk of memory of each row (store_event.c), in the context
 * that was current when the receiver was made, and stops the statement when they take
 * too much.  A result set in between, with payloads of a megabyte, would not be
 * bounded.  Of new events it only takes those that go to the relay's destination; of
 * the others, no more is read than what tells that.
 *
 * Errors: those of store_event.c, which end the transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "tcop/dest.h"
#include "utils/memutils.h"
#include "utils/xid8.h"

#include "store/event_columns.h"
#include "store/store_internal.h"

typedef struct EventReceiver
{
	DestReceiver pub;
	List	  **events;			/* of OutboxEvent, appended to */
	MemoryContext context;		/* of the events and the list */
	MemoryContext row_context;	/* reset for every row */
	StringInfoData pool;		/* strings of the current event */
	Size		max_bytes;
	Size		bytes;
	bool		stopped;		/* because of max_bytes */
	bool		filter;			/* take only what the destination takes */
	int			nseen;			/* rows, taken or not ... */
	int64		last_id;		/* ... and the id of the last one */
} EventReceiver;

/*
 * Does the event go to this destination?  Only what is needed for that is read; if
 * that is not there, it goes to where that is said.
 */
static bool
is_taken(const TupleTableSlot *slot)
{
	const Datum *values = slot->tts_values;
	const bool *nulls = slot->tts_isnull;

	if (nulls[EVENT_COL_ID] || nulls[EVENT_COL_XID] || nulls[EVENT_COL_TOPIC])
		return true;
	return store_takes(U64FromFullTransactionId(DatumGetFullTransactionId(values[EVENT_COL_XID])),
					   store_utf8(values[EVENT_COL_TOPIC]));
}

static bool
receive_slot(TupleTableSlot *slot, DestReceiver *dest)
{
	EventReceiver *self = (EventReceiver *) dest;
	MemoryContext old = MemoryContextSwitchTo(self->row_context);
	OutboxEvent *event;

	slot_getallattrs(slot);
	if (self->filter && !is_taken(slot))
	{
		self->nseen++;
		self->last_id = DatumGetInt64(slot->tts_values[EVENT_COL_ID]);
		MemoryContextSwitchTo(old);
		MemoryContextReset(self->row_context);
		return true;
	}
	event = store_make_event(&self->pool, slot, self->context);
	self->nseen++;
	self->last_id = event->msg.id;
	MemoryContextSwitchTo(self->context);
	*self->events = lappend(*self->events, event);
	MemoryContextSwitchTo(old);
	MemoryContextReset(self->row_context);

	self->bytes += event->size;
	self->stopped = self->bytes >= self->max_bytes;
	return !self->stopped;
}

static void
start_receiver(DestReceiver *dest, int operation, TupleDesc typeinfo)
{
	Assert(typeinfo->natts == STORE_EVENT_COLUMNS);
}

static void
do_nothing(DestReceiver *dest)
{
}

/*
 * A receiver that appends OutboxEvents to *events, in the current memory
 * context, until they have "max_bytes" (0: no limit).  It lives until the end
 * of the transaction.
 */
DestReceiver *
store_event_receiver(List **events, Size max_bytes)
{
	MemoryContext context = CurrentMemoryContext;
	MemoryContext old = MemoryContextSwitchTo(CurTransactionContext);
	EventReceiver *self = palloc0(sizeof(EventReceiver));

	self->pub.receiveSlot = receive_slot;
	self->pub.rStartup = start_receiver;
	self->pub.rShutdown = do_nothing;
	self->pub.rDestroy = do_nothing;
	self->pub.mydest = DestNone;
	self->events = events;
	self->context = context;
	self->row_context = AllocSetContextCreate(CurrentMemoryContext,
											  "outbox row",
											  ALLOCSET_DEFAULT_SIZES);
	initStringInfo(&self->pool);
	self->max_bytes = max_bytes > 0 ? max_bytes : SIZE_MAX;
	MemoryContextSwitchTo(old);
	return (DestReceiver *) self;
}

/* The same for new events, of which those are taken that go to the destination. */
DestReceiver *
store_new_event_receiver(List **events, Size max_bytes)
{
	DestReceiver *dest = store_event_receiver(events, max_bytes);

	((EventReceiver *) dest)->filter = !store_takes_all();
	return dest;
}

/* How many rows it has seen, taken or not. */
int
store_event_receiver_nseen(DestReceiver *dest)
{
	return ((EventReceiver *) dest)->nseen;
}

/* The id of the last one of these. */
int64
store_event_receiver_last_id(DestReceiver *dest)
{
	return ((EventReceiver *) dest)->last_id;
}

/* Did it stop because of max_bytes? */
bool
store_event_receiver_stopped(DestReceiver *dest)
{
	return ((EventReceiver *) dest)->stopped;
}
