/*-------------------------------------------------------------------------
 *
 * store_event.c
 *		From a row of outbox_event to an event in the relay's memory.
 *
 * Everything textual becomes UTF-8, which is what CloudEvents and JSON are.
 *
 * The trigger has seen to it that an event can be made of every row that was
 * published here.  But rows are restored, triggers can be disabled, and disks
 * fail: so no value is used before it is known to be there, of the kind that is
 * expected, and not too large.
 *
 * Errors: a row that no event can be made of, and whatever PostgreSQL throws
 * while it reads one (a damaged TOAST value, say), end the transaction, with an
 * error of class 22 or XX; store_salvage.c finds out which row it was.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/commit_ts.h"
#include "access/detoast.h"
#include "access/transam.h"
#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"
#include "utils/xid8.h"

#include "lib/json_text.h"
#include "store/event_columns.h"
#include "store/store_internal.h"

/* What follows the columns of EVENT_COLUMN_LIST, NULL without a row in
 * outbox_delivery: see STORE_ROW. */
enum
{
	COL_STATE = NEVENT_COLUMNS,
	COL_ATTEMPTS,
	COL_CRASHES,
	COL_RENEWED_AT
};

/*
 * Events that were restored from elsewhere may be larger than those that can be
 * published here, but there is an end to it.
 */
#define MAX_PAYLOAD_BYTES	(256 * 1024 * 1024)

/* Where the strings of an event are in the pool. */
typedef struct EventStrings
{
	Size		event_id;
	Size		topic;
	Size		key;
	Size		type;
	Size		content_type;
	Size		traceparent;
	Size		time;
	Size		expiry_time;
	Size		pairs;			/* names and values of the metadata */
	Size		payload;
} EventStrings;

#define COLUMN_NAME(NAME, name) [EVENT_COL_##NAME] = #name,

static const char *const column_names[] = {
	EVENT_COLUMNS(COLUMN_NAME)
};

/* Add bytes to the pool, a NUL behind them; returns where. */
static Size
pool_bytes(StringInfo pool, const char *data, Size len)
{
	Size		offset = pool->len;

	appendBinaryStringInfo(pool, data, len);
	appendStringInfoChar(pool, '\0');
	return offset;
}

/* The same for text in the server's encoding. */
static Size
pool_text(StringInfo pool, const char *data, int len)
{
	char	   *utf8 = pg_server_to_any(data, len, PG_UTF8);

	if (utf8 != data)
		len = strlen(utf8);
	return pool_bytes(pool, utf8, len);
}

static Size
pool_datum(StringInfo pool, Datum value)
{
	text	   *t = DatumGetTextPP(value);

	return pool_text(pool, VARDATA_ANY(t), VARSIZE_ANY_EXHDR(t));
}

/* The row is nothing that was ever published. */
static void
refuse_column(EventColumn column, const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("column \"%s\" %s", column_names[column], what)));
}

/* Metadata as NUL-terminated names and values, one after the other. */
static int
pool_metadata(StringInfo pool, Datum value)
{
	Jsonb	   *jb = DatumGetJsonbP(value);
	JsonbIterator *it = JsonbIteratorInit(&jb->root);
	JsonbIteratorToken token;
	JsonbValue	v;
	int			n = 0;

	if (!JB_ROOT_IS_OBJECT(jb))
		refuse_column(EVENT_COL_METADATA, "is not an object");
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token != WJB_KEY && token != WJB_VALUE)
			continue;
		if (v.type != jbvString)
			refuse_column(EVENT_COL_METADATA,
						  "has a value that is not a string");
		pool_text(pool, v.val.string.val, v.val.string.len);
		if (token == WJB_VALUE)
			n++;
	}
	return n;
}

/* RFC 3339 in UTC, with microseconds. */
static Size
pool_time(StringInfo pool, TimestampTz when)
{
	struct pg_tm tm;
	fsec_t		fsec;
	char		buf[64];
	char	   *p = buf;

	if (timestamp2tm(when, NULL, &tm, &fsec, NULL, NULL) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("timestamp out of range")));
	if (tm.tm_year < 0)
		*p++ = '-';
	p = pg_ultostr_zeropad(p, abs(tm.tm_year), 4);
	*p++ = '-';
	p = pg_ultostr_zeropad(p, tm.tm_mon, 2);
	*p++ = '-';
	p = pg_ultostr_zeropad(p, tm.tm_mday, 2);
	*p++ = 'T';
	p = pg_ultostr_zeropad(p, tm.tm_hour, 2);
	*p++ = ':';
	p = pg_ultostr_zeropad(p, tm.tm_min, 2);
	*p++ = ':';
	p = pg_ultostr_zeropad(p, tm.tm_sec, 2);
	*p++ = '.';
	p = pg_ultostr_zeropad(p, fsec, 6);
	*p++ = 'Z';
	return pool_bytes(pool, buf, p - buf);
}

/* What uuid_out() makes, which appends one character at a time. */
static Size
pool_uuid(StringInfo pool, Datum value)
{
	static const char hex[] = "0123456789abcdef";
	const unsigned char *bytes = DatumGetUUIDP(value)->data;
	char		buf[2 * UUID_LEN + 4];
	char	   *p = buf;

	for (int i = 0; i < UUID_LEN; i++)
	{
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*p++ = '-';
		*p++ = hex[bytes[i] >> 4];
		*p++ = hex[bytes[i] & 0xF];
	}
	return pool_bytes(pool, buf, p - buf);
}

/* JSON, which is made where it stays unless it has to be converted. */
static Size
pool_json(StringInfo pool, Datum value)
{
	Jsonb	   *jb = DatumGetJsonbP(value);
	Size		offset = pool->len;
	char	   *utf8;

	if (!json_append_jsonb(pool, jb, MAX_PAYLOAD_BYTES))
		refuse_column(EVENT_COL_PAYLOAD, "has more than 256 MB as text");
	utf8 = pg_server_to_any(pool->data + offset, pool->len - offset, PG_UTF8);
	if (utf8 != pool->data + offset)
	{
		Size		len = strlen(utf8);

		if (len > MAX_PAYLOAD_BYTES)
			refuse_column(EVENT_COL_PAYLOAD, "has more than 256 MB in UTF-8");
		pool->len = offset;
		appendBinaryStringInfo(pool, utf8, len);
	}
	appendStringInfoChar(pool, '\0');
	return offset;
}

/* The payload, whichever it is; sets its length and kind. */
static Size
pool_payload(StringInfo pool, TupleTableSlot *slot, OutboxMessage *msg)
{
	Size		offset;

	msg->is_json = !slot->tts_isnull[EVENT_COL_PAYLOAD];
	if (msg->is_json)
	{
		offset = pool_json(pool, slot->tts_values[EVENT_COL_PAYLOAD]);
	}
	else
	{
		Datum		value = slot->tts_values[EVENT_COL_BODY];
		bytea	   *body;

		if (toast_raw_datum_size(value) - VARHDRSZ > MAX_PAYLOAD_BYTES)
			refuse_column(EVENT_COL_BODY, "has more than 256 MB");
		body = DatumGetByteaPP(value);
		offset = pool_bytes(pool, VARDATA_ANY(body), VARSIZE_ANY_EXHDR(body));
	}
	msg->payload_len = pool->len - offset - 1;
	return offset;
}

/* Names and values of the metadata follow each other from "strings" on. */
static void
point_metadata(OutboxMetadata *metadata, int n, const char *strings)
{
	for (int i = 0; i < n; i++)
	{
		metadata[i].name = strings;
		metadata[i].value = strings + strlen(strings) + 1;
		strings = metadata[i].value + strlen(metadata[i].value) + 1;
	}
}

/* A name that is part of addresses and indexes. */
static void
check_name(EventColumn column, Datum value)
{
	Size		len = VARSIZE_ANY_EXHDR(DatumGetTextPP(value));

	if (len == 0 || len > EVENT_NAME_BYTES)
		refuse_column(column, "is empty or too long");
}

/* Throws if no event can be made of the row. */
static void
check_row(const Datum *values, const bool *nulls)
{
	static const EventColumn required[] = {
		EVENT_COL_ID, EVENT_COL_XID, EVENT_COL_EVENT_ID, EVENT_COL_TOPIC,
		EVENT_COL_CREATED_AT
	};

	for (int i = 0; i < lengthof(required); i++)
	{
		if (nulls[required[i]])
			refuse_column(required[i], "is null");
	}
	check_name(EVENT_COL_TOPIC, values[EVENT_COL_TOPIC]);
	if (!nulls[EVENT_COL_KEY])
		check_name(EVENT_COL_KEY, values[EVENT_COL_KEY]);
	if (nulls[EVENT_COL_PAYLOAD] && nulls[EVENT_COL_BODY])
		refuse_column(EVENT_COL_PAYLOAD, "is null, and so is \"body\"");
	if (!nulls[EVENT_COL_PAYLOAD] && !nulls[EVENT_COL_BODY])
		refuse_column(EVENT_COL_PAYLOAD, "has a value, and so has \"body\"");
	if (!nulls[EVENT_COL_BODY] && nulls[EVENT_COL_CONTENT_TYPE])
		refuse_column(EVENT_COL_CONTENT_TYPE, "is null");
	if (TIMESTAMP_NOT_FINITE(DatumGetTimestampTz(values[EVENT_COL_CREATED_AT])))
		refuse_column(EVENT_COL_CREATED_AT, "is infinite");
	if (!nulls[EVENT_COL_DELIVER_AFTER] &&
		TIMESTAMP_NOT_FINITE(DatumGetTimestampTz(values[EVENT_COL_DELIVER_AFTER])))
		refuse_column(EVENT_COL_DELIVER_AFTER, "is infinite");
	if (!nulls[EVENT_COL_EXPIRES_AT] &&
		TIMESTAMP_NOT_FINITE(DatumGetTimestampTz(values[EVENT_COL_EXPIRES_AT])))
		refuse_column(EVENT_COL_EXPIRES_AT, "is infinite");
}

/* Gather the strings of an event in the pool. */
static void
pool_event(StringInfo pool, TupleTableSlot *slot, OutboxMessage *msg,
		   EventStrings *at)
{
	Datum	   *values = slot->tts_values;
	bool	   *nulls = slot->tts_isnull;

	resetStringInfo(pool);
	at->event_id = pool_uuid(pool, values[EVENT_COL_EVENT_ID]);
	at->topic = pool_datum(pool, values[EVENT_COL_TOPIC]);
	if (!nulls[EVENT_COL_KEY])
		at->key = pool_datum(pool, values[EVENT_COL_KEY]);
	at->type = nulls[EVENT_COL_TYPE] ? at->topic :
		pool_datum(pool, values[EVENT_COL_TYPE]);
	at->content_type = nulls[EVENT_COL_CONTENT_TYPE] ?
		pool_bytes(pool, "application/json", 16) :
		pool_datum(pool, values[EVENT_COL_CONTENT_TYPE]);
	if (!nulls[EVENT_COL_TRACEPARENT])
		at->traceparent = pool_datum(pool, values[EVENT_COL_TRACEPARENT]);
	at->time = pool_time(pool, DatumGetTimestampTz(values[EVENT_COL_CREATED_AT]));
	if (!nulls[EVENT_COL_EXPIRES_AT])
		at->expiry_time = pool_time(pool, DatumGetTimestampTz(values[EVENT_COL_EXPIRES_AT]));
	at->pairs = pool->len;
	if (!nulls[EVENT_COL_METADATA])
		msg->nmetadata = pool_metadata(pool, values[EVENT_COL_METADATA]);
	at->payload = pool_payload(pool, slot, msg);
}

/*
 * When the transaction of the event committed, if that is known and later than "created":
 * the server forgets it in time, and an id of 32 bits is only that of a transaction which
 * is not too far back.
 */
static TimestampTz
commit_time(uint64 xid, TimestampTz created)
{
	TimestampTz committed;

	if (!track_commit_timestamp || xid < FirstNormalTransactionId ||
		U64FromFullTransactionId(ReadNextFullTransactionId()) - xid > PG_INT32_MAX ||
		!TransactionIdGetCommitTsData((TransactionId) xid, &committed, NULL))
		return created;
	return Max(committed, created);
}

/* Since when it could have been delivered: that is what its latency counts from. */
static TimestampTz
deliverable_since(const OutboxEvent *event, TupleTableSlot *slot)
{
	Datum	   *values = slot->tts_values;
	TimestampTz since = commit_time(event->xid,
									DatumGetTimestampTz(values[EVENT_COL_CREATED_AT]));

	since = Max(since, event->deliver_after);
	if (!slot->tts_isnull[COL_RENEWED_AT])
		since = Max(since, DatumGetTimestampTz(values[COL_RENEWED_AT]));
	return since;
}

/* What is known of the event beyond the message. */
static void
set_state(OutboxEvent *event, TupleTableSlot *slot)
{
	Datum	   *values = slot->tts_values;
	bool	   *nulls = slot->tts_isnull;

	event->xid = U64FromFullTransactionId(DatumGetFullTransactionId(values[EVENT_COL_XID]));
	if (!nulls[EVENT_COL_DELIVER_AFTER])
		event->deliver_after = DatumGetTimestampTz(values[EVENT_COL_DELIVER_AFTER]);
	if (!nulls[EVENT_COL_EXPIRES_AT])
		event->expires_at = DatumGetTimestampTz(values[EVENT_COL_EXPIRES_AT]);
	event->since = deliverable_since(event, slot);
	event->stored = !nulls[COL_STATE];
	if (event->stored)
	{
		event->attempts = nulls[COL_ATTEMPTS] ? 0 :
			DatumGetInt32(values[COL_ATTEMPTS]);
		event->crashes = nulls[COL_CRASHES] ? 0 :
			DatumGetInt32(values[COL_CRASHES]);
		event->waited = event->attempts == 0 &&
			store_state(values[COL_STATE]) == DELIVERY_PENDING;
	}
}

/*
 * The event of a row, as the statements that read events have it, in one chunk of
 * memory in this context: the event, its metadata array, its strings.  "pool" is for
 * the time in between.
 */
OutboxEvent *
store_make_event(StringInfo pool, TupleTableSlot *slot, MemoryContext context)
{
	bool	   *nulls = slot->tts_isnull;
	OutboxMessage msg;
	EventStrings at;
	OutboxEvent *event;
	OutboxMetadata *metadata;
	char	   *strings;
	Size		size;

	memset(&msg, 0, sizeof(msg));
	memset(&at, 0, sizeof(at));
	check_row(slot->tts_values, nulls);
	msg.id = DatumGetInt64(slot->tts_values[EVENT_COL_ID]);
	pool_event(pool, slot, &msg, &at);

	/* only now the size is known, and the pool moves no more */
	size = MAXALIGN(sizeof(OutboxEvent)) +
		sizeof(OutboxMetadata) * msg.nmetadata + pool->len;
	event = MemoryContextAllocExtended(context, size,
									   MCXT_ALLOC_HUGE);
	memset(event, 0, sizeof(*event));
	metadata = (OutboxMetadata *) ((char *) event + MAXALIGN(sizeof(OutboxEvent)));
	strings = (char *) (metadata + msg.nmetadata);
	memcpy(strings, pool->data, pool->len);

	msg.event_id = strings + at.event_id;
	msg.topic = strings + at.topic;
	msg.key = nulls[EVENT_COL_KEY] ? NULL : strings + at.key;
	msg.type = strings + at.type;
	msg.content_type = strings + at.content_type;
	msg.traceparent = nulls[EVENT_COL_TRACEPARENT] ? NULL :
		strings + at.traceparent;
	msg.time = strings + at.time;
	msg.expiry_time = nulls[EVENT_COL_EXPIRES_AT] ? NULL :
		strings + at.expiry_time;
	msg.payload = strings + at.payload;
	point_metadata(metadata, msg.nmetadata, strings + at.pairs);
	msg.metadata = metadata;

	event->msg = msg;
	event->size = size;
	set_state(event, slot);
	return event;
}
