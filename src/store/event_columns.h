/*-------------------------------------------------------------------------
 *
 * event_columns.h
 *		The columns of outbox_event, in the order of the table.
 *
 * C code meets them in three forms, all made from the one list here: as
 * places in a row that is deformed, as attribute numbers, which are one more,
 * and as the columns of a SELECT.  A column that is appended to the table is
 * appended to the list.  The table of an earlier version does not have the last
 * ones: they are NULL, in a SELECT as in a row that is deformed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_EVENT_COLUMNS_H
#define OUTBOX_EVENT_COLUMNS_H

/* X(NAME, name) for each. */
#define EVENT_COLUMNS(X) \
	X(ID, id) \
	X(XID, xid) \
	X(EVENT_ID, event_id) \
	X(TOPIC, topic) \
	X(KEY, key) \
	X(TYPE, type) \
	X(PAYLOAD, payload) \
	X(BODY, body) \
	X(CONTENT_TYPE, content_type) \
	X(METADATA, metadata) \
	X(TRACEPARENT, traceparent) \
	X(DELIVER_AFTER, deliver_after) \
	X(EXPIRES_AT, expires_at) \
	X(CREATED_AT, created_at) \
	X(PUBLISHED_BY, published_by)

/* EVENT_COL_ID and so on, from 0. */
#define EVENT_COLUMN_PLACE(NAME, name) EVENT_COL_##NAME,

typedef enum EventColumn
{
	EVENT_COLUMNS(EVENT_COLUMN_PLACE)
	NEVENT_COLUMNS
} EventColumn;

/* Longest topic, key and the like, in bytes. */
#define EVENT_NAME_BYTES	255

/* The number that heap_getattr() and the like want. */
#define EVENT_ATTNUM(column) ((AttrNumber) ((column) + 1))

/*
 * "e.id, e.xid, ..." of outbox_event AS e, in a Statement: it is filled in when
 * that is prepared, for then it is known which columns the table has.
 */
#define EVENT_COLUMN_LIST "@e@"

#endif							/* OUTBOX_EVENT_COLUMNS_H */
