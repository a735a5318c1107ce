/*-------------------------------------------------------------------------
 *
 * fuzz_rows.c
 *		A row of outbox_event, from the check by its trigger to what is sent.
 *
 * An input is the bits of Presence in two bytes, three times of eight bytes each,
 * and the other columns, each with a NUL behind it, of which the last is payload
 * or body.
 *
 * What has to hold: a row that the check accepts becomes an event; any other may
 * do so, or be refused by an error of the kind that makes the row dead.  The
 * envelope is JSON, by the server's own parser, and says what is in the row;
 * headers are printable ASCII and can be decoded into it; what is said of numbers
 * is so by arithmetic in decimals.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/tupdesc.h"
#include "catalog/pg_type.h"
#include "common/base64.h"
#include "executor/tuptable.h"
#include "mb/pg_wchar.h"
#include "tcop/dest.h"
#include "utils/builtins.h"
#include "utils/float.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"
#include "utils/xid8.h"

#include "api/event_check.h"
#include "api/trace_context.h"
#include "fuzz.h"
#include "lib/text.h"
#include "publish/cloudevent.h"
#include "publish/dapr_numbers.h"
#include "store/event.h"
#include "store/event_columns.h"
#include "store/store_internal.h"

/* Behind the columns of the table: those of the row in outbox_delivery */
#define NCOLUMNS (NEVENT_COLUMNS + 3)

/* Which columns are not NULL, and whether the last one is the body. */
typedef enum Presence
{
	HAS_TOPIC = 0x01,
	HAS_KEY = 0x02,
	HAS_TYPE = 0x04,
	HAS_CONTENT_TYPE = 0x08,
	HAS_METADATA = 0x10,
	HAS_TRACEPARENT = 0x20,
	HAS_DELIVER_AFTER = 0x40,
	HAS_CREATED_AT = 0x80,
	HAS_PAYLOAD = 0x100,
	HAS_BODY = 0x200,
	HAS_STATE = 0x400,
	HAS_EXPIRES_AT = 0x800		/* the same time as created_at */
} Presence;

typedef struct Row
{
	Datum		values[NCOLUMNS];
	bool		nulls[NCOLUMNS];
	List	   *events;			/* OutboxEvent, made of it */
} Row;

/* Let a column be the value, if that is one of its type. */
static void
set_column(Row *row, int column, bool there, Datum value)
{
	row->values[column] = value;
	row->nulls[column] = !there;
}

/* Text that the database would have taken */
static void
set_text(Row *row, int column, bool there, const char *str)
{
	there &= pg_verifymbstr(str, strlen(str), true);
	set_column(row, column, there, CStringGetTextDatum(str));
}

static void
set_jsonb(Row *row, int column, bool there, const char *json)
{
	Jsonb	   *jsonb = there && pg_verifymbstr(json, strlen(json), true) ?
	fuzz_jsonb(json) : NULL;

	set_column(row, column, jsonb != NULL, PointerGetDatum(jsonb));
}

static int64
take_int64(FuzzInput *input)
{
	uint64		value = 0;

	for (int i = 0; i < 8; i++)
		value = value << 8 | fuzz_byte(input);
	return (int64) value;
}

/* A time as a column of its type may have it */
static TimestampTz
take_time(FuzzInput *input)
{
	TimestampTz time = take_int64(input);

	return IS_VALID_TIMESTAMP(time) || TIMESTAMP_NOT_FINITE(time) ? time : 0;
}

static void
make_row(Row *row, FuzzInput *input)
{
	static pg_uuid_t uuid;
	int			there = fuzz_byte(input) << 8;
	TimestampTz deliver_after;
	TimestampTz created_at;

	there |= fuzz_byte(input);
	deliver_after = take_time(input);
	created_at = take_time(input);
	memset(row->nulls, true, sizeof(row->nulls));
	set_column(row, EVENT_COL_ID, true, Int64GetDatum(take_int64(input)));
	set_column(row, EVENT_COL_XID, true,
			   FullTransactionIdGetDatum(FullTransactionIdFromU64(3)));
	set_column(row, EVENT_COL_EVENT_ID, true, UUIDPGetDatum(&uuid));
	set_column(row, EVENT_COL_DELIVER_AFTER, there & HAS_DELIVER_AFTER,
			   TimestampTzGetDatum(deliver_after));
	set_column(row, EVENT_COL_CREATED_AT, there & HAS_CREATED_AT,
			   TimestampTzGetDatum(created_at));
	set_column(row, EVENT_COL_EXPIRES_AT, there & HAS_EXPIRES_AT,
			   TimestampTzGetDatum(created_at));
	set_text(row, EVENT_COL_TOPIC, there & HAS_TOPIC, fuzz_string(input));
	set_text(row, EVENT_COL_KEY, there & HAS_KEY, fuzz_string(input));
	set_text(row, EVENT_COL_TYPE, there & HAS_TYPE, fuzz_string(input));
	set_text(row, EVENT_COL_CONTENT_TYPE, there & HAS_CONTENT_TYPE,
			 fuzz_string(input));
	set_text(row, EVENT_COL_TRACEPARENT, there & HAS_TRACEPARENT,
			 fuzz_string(input));
	set_jsonb(row, EVENT_COL_METADATA, there & HAS_METADATA,
			  fuzz_string(input));
	set_text(row, NEVENT_COLUMNS, there & HAS_STATE, "pending");
	set_column(row, EVENT_COL_BODY, there & HAS_BODY,
			   PointerGetDatum(cstring_to_text_with_len(input->data, input->len)));
	set_jsonb(row, EVENT_COL_PAYLOAD, there & HAS_PAYLOAD, fuzz_string(input));
}

static void
check_row(void *arg)
{
	Row		   *row = arg;

	event_check(row->values, row->nulls);
}

/* Give the row to what makes an event of those that are read. */
static void
read_row(void *arg)
{
	Row		   *row = arg;
	TupleDesc	desc = CreateTemplateTupleDesc(NCOLUMNS);
	TupleTableSlot *slot;
	DestReceiver *receiver = store_event_receiver(&row->events, 0);

	/* nobody looks at the types: the values are there */
	for (int i = 0; i < NCOLUMNS; i++)
		TupleDescInitEntry(desc, i + 1, NULL, INT8OID, -1, 0);

	/* a copy is complete in every version of the server */
	slot = MakeSingleTupleTableSlot(CreateTupleDescCopy(desc), &TTSOpsVirtual);
	memcpy(slot->tts_values, row->values, sizeof(row->values));
	memcpy(slot->tts_isnull, row->nulls, sizeof(row->nulls));
	ExecStoreVirtualTuple(slot);
	receiver->receiveSlot(slot, receiver);
	ExecDropSingleTupleTableSlot(slot);
}

/* Is it an error that makes a row dead (store_salvage.c)? */
static bool
is_fault_of_row(int sqlstate)
{
	return ERRCODE_TO_CATEGORY(sqlstate) == ERRCODE_DATA_EXCEPTION ||
		ERRCODE_TO_CATEGORY(sqlstate) == ERRCODE_INTERNAL_ERROR;
}

/* Is a member of the envelope this string, or not there if that is NULL? */
static void
check_member(Jsonb *envelope, const char *name, const char *str)
{
	JsonbValue	value;
	bool		there = getKeyJsonValueFromContainer(&envelope->root, name,
													 strlen(name), &value) != NULL;

	if (there != (str != NULL))
		fuzz_fail("member \"%s\" is %sthere", name, there ? "" : "not ");
	if (there && (value.type != jbvString ||
				  value.val.string.len != strlen(str) ||
				  memcmp(value.val.string.val, str, strlen(str)) != 0))
		fuzz_fail("member \"%s\" is not \"%s\"", name, str);
}

/* Is the payload in the envelope that of the row? */
static void
check_data(const Row *row, Jsonb *envelope, const OutboxMessage *message)
{
	JsonbValue	value;
	text	   *body;
	int			max;
	char	   *decoded;

	if (message->is_json)
	{
		Jsonb	   *payload = DatumGetJsonbP(row->values[EVENT_COL_PAYLOAD]);
		Datum		data = DirectFunctionCall2(jsonb_object_field,
											   PointerGetDatum(envelope),
											   CStringGetTextDatum("data"));

		/* the server has read UTF-8 as what it has itself */
		if (GetDatabaseEncoding() == PG_UTF8 &&
			compareJsonbContainers(&payload->root, &DatumGetJsonbP(data)->root) != 0)
			fuzz_fail("data is not the payload");
		return;
	}
	if (getKeyJsonValueFromContainer(&envelope->root, "data_base64", 11, &value) == NULL ||
		value.type != jbvString)
		fuzz_fail("no data_base64");
	body = DatumGetTextPP(row->values[EVENT_COL_BODY]);
	max = pg_b64_dec_len(value.val.string.len);
	decoded = palloc(max);
	if (pg_b64_decode(value.val.string.val, value.val.string.len,
					  (void *) decoded, max) != VARSIZE_ANY_EXHDR(body) ||
		memcmp(decoded, VARDATA_ANY(body), VARSIZE_ANY_EXHDR(body)) != 0)
		fuzz_fail("data_base64 is not the body");
}

static void
check_envelope(const Row *row, const OutboxMessage *message)
{
	StringInfoData buf;
	StringInfoData metadata;
	Jsonb	   *envelope;

	initStringInfo(&buf);
	cloudevent_append(&buf, message, "/fuzz",
					  CLOUDEVENT_TRACEID | CLOUDEVENT_TOPIC | CLOUDEVENT_METADATA);
	if (strlen(buf.data) != buf.len)
		fuzz_fail("the envelope has a NUL");
	if (!fuzz_is_json(buf.data))
		fuzz_fail("the envelope is not JSON: %s", buf.data);
	envelope = fuzz_jsonb(buf.data);

	/* a string may be longer than one in jsonb, or a number too large */
	if (envelope == NULL)
		return;
	initStringInfo(&metadata);
	cloudevent_append_metadata(&metadata, message);
	check_member(envelope, "specversion", "1.0");
	check_member(envelope, "id", message->event_id);
	check_member(envelope, "source", "/fuzz");
	check_member(envelope, "type", message->type);
	check_member(envelope, "time", message->time);
	check_member(envelope, "expirytime", message->expiry_time);
	check_member(envelope, "datacontenttype", message->content_type);
	check_member(envelope, "partitionkey", message->key);
	check_member(envelope, "traceparent", message->traceparent);
	check_member(envelope, "traceid", message->traceparent);
	check_member(envelope, "topic", message->topic);
	check_member(envelope, "metadata",
				 message->nmetadata > 0 ? metadata.data : NULL);
	check_data(row, envelope, message);
	if (message->nmetadata > 0 && fuzz_jsonb(metadata.data) == NULL)
		fuzz_fail("the metadata are not JSON: %s", metadata.data);
}

/* Is the value of a header harmless, and does it say what the text does? */
static void
check_header(const char *text)
{
	const char *value;
	StringInfoData decoded;

	if (text == NULL)
		return;
	value = cloudevent_header_value(text);
	initStringInfo(&decoded);
	for (const char *p = value; *p != '\0'; p++)
	{
		unsigned int c = (unsigned char) *p;

		if (c <= ' ' || c > '~' || c == '"')
			fuzz_fail("a header has byte %u", c);
		if (c == '%')
		{
			if (sscanf(p + 1, "%2x", &c) != 1)
				fuzz_fail("a header has a bad escape: %s", value);
			p += 2;
		}
		appendStringInfoChar(&decoded, (char) c);
	}
	if (strcmp(decoded.data, text) != 0)
		fuzz_fail("a header says \"%s\", not \"%s\"", decoded.data, text);
}

static void
check_headers(const OutboxMessage *message)
{
	check_header(message->event_id);
	check_header(message->type);
	check_header(message->time);
	check_header(message->expiry_time);
	check_header(message->topic);
	check_header(message->key);
	for (int i = 0; i < message->nmetadata; i++)
		check_header(message->metadata[i].value);
}

/* What of an event goes into a header or a URL as it is, once it is checked. */
static void
check_attributes(const OutboxMessage *message)
{
	const char *const raw[] = {message->content_type, message->traceparent,
	message->time, message->expiry_time};

	for (int i = 0; i < lengthof(raw); i++)
	{
		for (const char *p = raw[i] ? raw[i] : ""; *p != '\0'; p++)
		{
			if (*p < ' ' || *p > '~')
				fuzz_fail("a header has byte %u", (unsigned char) *p);
		}
	}
	if (message->traceparent &&
		!trace_context_is_valid(message->traceparent, strlen(message->traceparent)))
		fuzz_fail("a trace context is \"%s\"", message->traceparent);
	if (pg_strncasecmp(message->content_type, "application/cloudevents", 23) == 0)
		fuzz_fail("an event is a whole event: %s", message->content_type);
}

static void
numeric_to_float(void *arg)
{
	Datum	   *value = arg;

	*value = DirectFunctionCall1(numeric_float8, *value);
}

/*
 * Is what is said of the numbers in a payload so?  A double that is written with
 * as many digits as it takes has to be the same decimal; and daprd puts no zero
 * behind a fraction.
 */
static void
check_numbers(Jsonb *payload, const OutboxMessage *message)
{
	bool		finite = dapr_numbers_are_finite(message->payload,
												 message->payload_len);
	bool		exact = dapr_numbers_are_exact(message->payload,
											   message->payload_len);
	JsonbIterator *it = JsonbIteratorInit(&payload->root);
	JsonbIteratorToken token;
	JsonbValue	v;

	while ((token = JsonbIteratorNext(&it, &v, false)) != WJB_DONE)
	{
		Datum		number;
		Datum		value;
		char	   *text;
		char	   *shortest;

		if ((token != WJB_ELEM && token != WJB_VALUE) || v.type != jbvNumeric)
			continue;
		number = value = NumericGetDatum(v.val.numeric);
		text = DatumGetCString(DirectFunctionCall1(numeric_out, number));

		if (fuzz_try(numeric_to_float, &value) != 0)
		{
			/* beyond a double; one that is less than 1, at the other end */
			if (exact || (finite && text[strspn(text, "-")] != '0'))
				fuzz_fail("%s is taken for a double", text);
			continue;
		}
		if (!exact)
			continue;
		shortest = float8out_internal(DatumGetFloat8(value));
		value = DirectFunctionCall3(numeric_in, CStringGetDatum(shortest),
									ObjectIdGetDatum(InvalidOid),
									Int32GetDatum(-1));
		if (!DatumGetBool(DirectFunctionCall2(numeric_eq, value, number)))
			fuzz_fail("%s is not exactly %s", text, shortest);
		if (strchr(text, '.') && text[strlen(text) - 1] == '0')
			fuzz_fail("%s has a zero at its end", text);
	}
}

/* FuzzTarget */
void
fuzz_rows(FuzzInput *input)
{
	Row			row = {.events = NIL};
	bool		valid;
	int			sqlstate;
	const OutboxMessage *message;

	make_row(&row, input);
	sqlstate = fuzz_try(check_row, &row);
	valid = sqlstate == 0 && !row.nulls[EVENT_COL_CREATED_AT];
	if (sqlstate != 0 &&
		ERRCODE_TO_CATEGORY(sqlstate) != ERRCODE_DATA_EXCEPTION &&
		sqlstate != ERRCODE_PROGRAM_LIMIT_EXCEEDED)
		fuzz_fail("the check throws %s", unpack_sql_state(sqlstate));

	sqlstate = fuzz_try(read_row, &row);
	if (sqlstate != 0)
	{
		if (valid)
			fuzz_fail("a valid row is refused: %s", unpack_sql_state(sqlstate));
		if (!is_fault_of_row(sqlstate))
			fuzz_fail("reading throws %s", unpack_sql_state(sqlstate));
		return;
	}
	message = &((OutboxEvent *) linitial(row.events))->msg;
	check_envelope(&row, message);
	check_headers(message);
	if (valid)
		check_attributes(message);
	if (message->is_json)
		check_numbers(DatumGetJsonbP(row.values[EVENT_COL_PAYLOAD]), message);
}
