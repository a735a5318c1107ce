/*-------------------------------------------------------------------------
 *
 * event_check.c
 *		What makes an event valid.
 *
 * Everything is checked when the event is published, in the transaction of
 * the application, which is told what is wrong.  Later there would only be a
 * relay that cannot send it, and an event that blocks its key.  So the checks
 * are those of the strictest way out: names that fit into headers and URLs,
 * text that can be converted to UTF-8.  What else a receiver refuses is not
 * known here.
 *
 * Of a row that is restored only the id is checked.  It was published elsewhere,
 * where other limits may have held, and to refuse it would be to lose it, and all
 * of its table's dump.  If it is no event by now, that shows when it is read
 * (store_event.c).
 *
 * No state, no locks.
 *
 * Errors: bad input is ERRCODE_INVALID_PARAMETER_VALUE, a NULL that may not be
 * one ERRCODE_NULL_VALUE_NOT_ALLOWED, too large a payload
 * ERRCODE_PROGRAM_LIMIT_EXCEEDED; the hint says what is allowed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "api/event_check.h"
#include "api/media_type.h"
#include "api/trace_context.h"
#include "guc.h"
#include "lib/json_text.h"
#include "lib/text.h"
#include "store/event_columns.h"

/* Metadata travels in a URL or in headers: receivers have limits of 8 kB. */
#define MAX_METADATA_BYTES	4096

/*
 * Throws if a text, which is always sent as UTF-8, can't be, or has characters
 * there that CloudEvents has in no attribute.
 */
static void
check_characters(const char *what, const char *s, int len)
{
	const char *utf8 = pg_server_to_any(s, len, PG_UTF8);
	Size		utf8_len = utf8 == s ? len : strlen(utf8);

	if (text_has_control(utf8, utf8_len) || text_has_c1(utf8, utf8_len))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s of an event must not contain control characters",
						what),
				 errdetail("It would have to be sent in a header or a URL."),
				 errhint("Remove line breaks, tabs and the like.")));
	if (text_has_noncharacter(utf8, utf8_len))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s of an event must not contain noncharacters", what),
				 errdetail("CloudEvents has none in its attributes."),
				 errhint("Remove U+FFFE, U+FFFF, U+FDD0 and the like.")));
}

/* A text that is sent in a header or a URL; "what" names it in messages. */
static void
check_text(const char *what, const char *s, int len, int max)
{
	if (len == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s of an event must not be empty", what),
				 errhint("Give at least one character, or NULL where that is allowed.")));
	if (len > max)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s of an event is too long", what),
				 errdetail("It has %d bytes.", len),
				 errhint("At most %d bytes are allowed.", max)));
	check_characters(what, s, len);
}

/* The same for a value of the row, which may be NULL. */
static void
check_text_datum(const char *what, Datum value, bool isnull)
{
	text	   *t;

	if (isnull)
		return;
	t = DatumGetTextPP(value);
	check_text(what, VARDATA_ANY(t), VARSIZE_ANY_EXHDR(t), EVENT_NAME_BYTES);
}

/* "size" of bytes; 0: the text of JSON, which was not written to its end. */
static void
refuse_payload_size(int size)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("payload of an event is too large"),
			 size > 0 ?
			 errdetail("It has %d bytes, outbox.max_payload_size is %d.",
					   size, guc_max_payload_size) :
			 errdetail("As text it has more than the %d bytes of outbox.max_payload_size.",
					   guc_max_payload_size),
			 errhint("Publish a reference to the data, or raise outbox.max_payload_size and the limit of the receiver.")));
}

/* Exactly one of payload and body, not too large, bytes with their type. */
static void
check_payload(const Datum *values, const bool *nulls)
{
	if (nulls[EVENT_COL_PAYLOAD] == nulls[EVENT_COL_BODY])
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("an event must have either a payload or a body"),
				 errhint("Use payload for JSON, body and content_type for bytes.")));
	if (!nulls[EVENT_COL_PAYLOAD])
	{
		Jsonb	   *jb = DatumGetJsonbP(values[EVENT_COL_PAYLOAD]);
		StringInfoData text;

		/*
		 * The size is that of the text, which is what is sent: a number like
		 * 1e100000 has a few bytes in jsonb.
		 */
		initStringInfo(&text);
		if (!json_append_jsonb(&text, jb, guc_max_payload_size))
			refuse_payload_size(0);

		/* throws if there is a character that UTF-8 does not have */
		(void) pg_server_to_any(text.data, text.len, PG_UTF8);
		pfree(text.data);
	}
	else
	{
		bytea	   *body = DatumGetByteaPP(values[EVENT_COL_BODY]);

		if (VARSIZE_ANY_EXHDR(body) > guc_max_payload_size)
			refuse_payload_size(VARSIZE_ANY_EXHDR(body));
		if (nulls[EVENT_COL_CONTENT_TYPE])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("content_type of an event must not be null"),
					 errhint("Use application/octet-stream for bytes of no particular type.")));
	}
}

/*
 * A media type, but none that makes the body another event than the one whose
 * attributes stand beside it.  What goes with a JSON payload has to be a type of
 * JSON: in one mode of CloudEvents a receiver gets the payload's text, in
 * another its value.
 */
static void
check_content_type(Datum value, bool isnull, bool json)
{
	const char *s;

	if (isnull)
		return;
	check_text_datum("content_type", value, false);
	s = TextDatumGetCString(value);
	if (!media_type_is_valid(s))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("content_type of an event is not a media type"),
				 errdetail("It is \"%s\".", s),
				 errhint("A media type has the form type/subtype, application/xml for instance, in ASCII.")));
	if (media_type_is_cloudevents(s))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("content_type of an event must not be one of CloudEvents"),
				 errdetail("A receiver would take the payload for an event of its own, with another id and source."),
				 errhint("Give the type of what is in the payload: its CloudEvent is made when it is sent.")));
	if (json && !media_type_is_json(s))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("content_type of an event with a JSON payload must be a type of JSON"),
				 errdetail("It is \"%s\".", s),
				 errhint("Leave it NULL, or put what is not JSON into body.")));
}

/* A trace context that was given as such, in the column. */
static void
check_traceparent(const char *s, int len)
{
	if (!trace_context_is_valid(s, len))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("traceparent of an event is not a W3C trace context"),
				 errdetail("It is \"%.*s\".", pg_mbcliplen(s, len, 64), s),
				 errhint("It has the form 00-<trace id>-<parent id>-<flags>, in hexadecimal digits of lower case.")));
}

/*
 * A flat object of strings.  Returns the trace context if there is one among
 * them, palloc'd and whatever it consists of, else NULL.
 */
static text *
check_metadata(Datum value, bool isnull)
{
	Jsonb	   *jb;
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;
	text	   *traceparent = NULL;
	bool		is_traceparent = false;

	if (isnull)
		return NULL;
	jb = DatumGetJsonbP(value);
	if (VARSIZE(jb) > MAX_METADATA_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("metadata of an event is too large"),
				 errdetail("It has %d bytes.", (int) VARSIZE(jb)),
				 errhint("At most %d bytes are allowed; put more into the payload.",
						 MAX_METADATA_BYTES)));

	/*
	 * Nested values are skipped, so that one shows as a value that is not a
	 * string.  A scalar is an array of one element here.
	 */
	it = JsonbIteratorInit(&jb->root);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_BEGIN_ARRAY ||
			(token == WJB_VALUE && v.type != jbvString))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("metadata of an event must be a flat object of strings"),
					 errdetail("It has a value that is not a string."),
					 errhint("For instance {\"tenant\": \"a\"}.")));
		if (token == WJB_KEY)
		{
			check_text("a name in metadata", v.val.string.val,
					   v.val.string.len, EVENT_NAME_BYTES);
			is_traceparent = v.val.string.len == 11 &&
				memcmp(v.val.string.val, "traceparent", 11) == 0;
		}
		else if (token == WJB_VALUE && !is_traceparent && v.val.string.len > 0)
			check_text("a value in metadata", v.val.string.val,
					   v.val.string.len, MAX_METADATA_BYTES);
		if (token == WJB_VALUE && is_traceparent)
			traceparent = cstring_to_text_with_len(v.val.string.val,
												   v.val.string.len);
	}
	return traceparent;
}

/*
 * Move the trace context from the metadata to its own column, from which
 * publishers take it.  Among the metadata it comes from whoever called the
 * application, whose transaction must not fail for it: one that is not valid is
 * left out.  One that is in the column already counts, and has to be valid.
 */
static void
take_traceparent(Datum *values, bool *nulls)
{
	text	   *found = check_metadata(values[EVENT_COL_METADATA],
									   nulls[EVENT_COL_METADATA]);

	if (found)
		values[EVENT_COL_METADATA] =
			DirectFunctionCall2(jsonb_delete, values[EVENT_COL_METADATA],
								PointerGetDatum(cstring_to_text("traceparent")));
	if (!nulls[EVENT_COL_TRACEPARENT])
	{
		text	   *t = DatumGetTextPP(values[EVENT_COL_TRACEPARENT]);

		check_traceparent(VARDATA_ANY(t), VARSIZE_ANY_EXHDR(t));
	}
	else if (found && trace_context_is_valid(VARDATA_ANY(found),
											 VARSIZE_ANY_EXHDR(found)))
	{
		values[EVENT_COL_TRACEPARENT] = PointerGetDatum(found);
		nulls[EVENT_COL_TRACEPARENT] = false;
	}
}

static void
check_time(const char *what, Datum value, bool isnull)
{
	if (!isnull && TIMESTAMP_NOT_FINITE(DatumGetTimestampTz(value)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s of an event must be finite", what),
				 errhint("Give a time, or leave it out.")));
}

/* What has expired when its time comes is not worth publishing. */
static void
check_expiry(const Datum *values, const bool *nulls)
{
	TimestampTz expires_at;
	TimestampTz now;

	check_time("expires_at", values[EVENT_COL_EXPIRES_AT],
			   nulls[EVENT_COL_EXPIRES_AT]);
	if (nulls[EVENT_COL_EXPIRES_AT])
		return;
	expires_at = DatumGetTimestampTz(values[EVENT_COL_EXPIRES_AT]);
	now = GetCurrentTimestamp();
	if (expires_at <= now)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("expires_at of an event must be after now"),
				 errdetail("It is %s.", timestamptz_to_str(expires_at)),
				 errhint("Give a later time, or leave it out.")));
	if (!nulls[EVENT_COL_DELIVER_AFTER] &&
		expires_at <= DatumGetTimestampTz(values[EVENT_COL_DELIVER_AFTER]))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("expires_at of an event must be after its deliver_after"),
				 errdetail("It is %s.", timestamptz_to_str(expires_at)),
				 errhint("Give a later time, or leave it out.")));
}

/* 0 is where the relay's position begins: throws unless it is behind that. */
void
event_check_id(Datum id)
{
	if (DatumGetInt64(id) <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("id of an event must be positive"),
				 errdetail("It is %lld.", (long long) DatumGetInt64(id)),
				 errhint("Leave it out: it is made here.")));
}

/*
 * Check a row that is to be inserted into outbox_event, by EventColumn; throws
 * if it is not a valid event.  A trace context among the metadata moves to its
 * column: "values" and "nulls" change, the new ones are palloc'd.
 */
void
event_check(Datum *values, bool *nulls)
{
	if (nulls[EVENT_COL_TOPIC])
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("topic of an event must not be null"),
				 errhint("Give the topic to publish to.")));
	check_text_datum("topic", values[EVENT_COL_TOPIC], false);
	check_text_datum("key", values[EVENT_COL_KEY], nulls[EVENT_COL_KEY]);
	check_text_datum("type", values[EVENT_COL_TYPE], nulls[EVENT_COL_TYPE]);
	check_payload(values, nulls);
	check_content_type(values[EVENT_COL_CONTENT_TYPE], nulls[EVENT_COL_CONTENT_TYPE],
					   nulls[EVENT_COL_BODY]);
	take_traceparent(values, nulls);
	check_time("deliver_after", values[EVENT_COL_DELIVER_AFTER],
			   nulls[EVENT_COL_DELIVER_AFTER]);
	check_expiry(values, nulls);
	check_time("created_at", values[EVENT_COL_CREATED_AT], nulls[EVENT_COL_CREATED_AT]);
}
