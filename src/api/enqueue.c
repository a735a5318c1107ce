/*-------------------------------------------------------------------------
 *
 * enqueue.c
 *		The way in: SQL functions that publish, and the trigger behind them.
 *
 * outbox_publish() and outbox_publish_bytes() only insert a row.  Everything
 * that makes an event valid is checked in the BEFORE INSERT trigger, which
 * INSERT, COPY and a restored dump pass as well.  The trigger also stamps the
 * transaction (never the id: restored rows keep theirs), makes the event's
 * UUID, and has the relay woken at commit.
 *
 * A row that logical replication applies belongs to the publisher of that
 * replication, which delivers it: in session_replication_role = replica the
 * trigger drops it.  Another trigger keeps replication from changing or
 * deleting rows of ours that have the same ids.
 *
 * Errors: bad input is ERRCODE_INVALID_PARAMETER_VALUE with what is allowed
 * in the detail or the hint; the user's transaction fails, nothing is stored.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "access/xact.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/rel.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"
#include "utils/xid8.h"

#include "guc.h"
#include "lib/json_text.h"
#include "server/shmem.h"
#include "store/store.h"
#include "lib/uuidv7.h"

/* Longest topic, key, type, content type and name in metadata, in bytes. */
#define MAX_NAME_BYTES	255

/* Metadata travels in a URL or in headers: receivers have limits of 8 kB. */
#define MAX_METADATA_BYTES	4096

/* Columns of outbox_event, from 0 on. */
enum
{
	COL_ID,
	COL_XID,
	COL_EVENT_ID,
	COL_TOPIC,
	COL_KEY,
	COL_TYPE,
	COL_PAYLOAD,
	COL_BODY,
	COL_CONTENT_TYPE,
	COL_METADATA,
	COL_TRACEPARENT,
	COL_DELIVER_AFTER,
	COL_CREATED_AT,
	NCOLS
};

PG_FUNCTION_INFO_V1(outbox_publish);
PG_FUNCTION_INFO_V1(outbox_publish_bytes);
PG_FUNCTION_INFO_V1(outbox_event_insert);
PG_FUNCTION_INFO_V1(outbox_drop_replicated);

static void
warn_if_not_preloaded(void)
{
	static bool warned = false;

	if (shmem_attached() || warned)
		return;
	warned = true;
	ereport(WARNING,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("events are stored but not delivered"),
			 errdetail("The outbox library is not preloaded, so that no relay runs."),
			 errhint("Add outbox to shared_preload_libraries and restart the server.")));
}

/* C0, DEL, and in UTF-8 C1. */
static bool
has_control_character(const char *s, int len)
{
	bool		utf8 = GetDatabaseEncoding() == PG_UTF8;

	for (int i = 0; i < len; i++)
	{
		unsigned char c = (unsigned char) s[i];

		if (c < 0x20 || c == 0x7f)
			return true;
		if (utf8 && c == 0xc2 && i + 1 < len &&
			(unsigned char) s[i + 1] < 0xa0)
			return true;
	}
	return false;
}

/* Throws if the text can't be sent, which is always as UTF-8. */
static void
check_encoding(const char *s, int len)
{
	if (GetDatabaseEncoding() != PG_UTF8)
		(void) pg_server_to_any(s, len, PG_UTF8);
}

/* "what" names the text in messages. */
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
	if (has_control_character(s, len))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s of an event must not contain control characters",
						what),
				 errdetail("It would have to be sent in a header or a URL."),
				 errhint("Remove line breaks, tabs and the like.")));
	check_encoding(s, len);
}

static void
check_text_datum(const char *what, Datum value, bool isnull)
{
	text	   *t;

	if (isnull)
		return;
	t = DatumGetTextPP(value);
	check_text(what, VARDATA_ANY(t), VARSIZE_ANY_EXHDR(t), MAX_NAME_BYTES);
}

static void
report_payload_size(int size)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("payload of an event is too large"),
			 errdetail("It has %d bytes, outbox.max_payload_size is %d.",
					   size, guc_max_payload_size),
			 errhint("Publish a reference to the data, or raise outbox.max_payload_size and the limit of the receiver.")));
}

/*
 * The size of JSON is that of its text, which is what is sent: a number like
 * 1e100000 has a few bytes in jsonb.
 */
static void
check_payload(Datum *values, bool *nulls)
{
	if (nulls[COL_PAYLOAD] == nulls[COL_BODY])
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("an event must have either a payload or a body"),
				 errhint("Use payload for JSON, body and content_type for bytes.")));
	if (!nulls[COL_PAYLOAD])
	{
		Jsonb	   *jb = DatumGetJsonbP(values[COL_PAYLOAD]);
		StringInfoData text;

		initStringInfo(&text);
		json_append_jsonb(&text, jb);
		if (text.len > guc_max_payload_size)
			report_payload_size(text.len);
		check_encoding(text.data, text.len);
		pfree(text.data);
	}
	else
	{
		bytea	   *body = DatumGetByteaPP(values[COL_BODY]);

		if (VARSIZE_ANY_EXHDR(body) > guc_max_payload_size)
			report_payload_size(VARSIZE_ANY_EXHDR(body));
		if (nulls[COL_CONTENT_TYPE])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("content_type of an event must not be null"),
					 errhint("Use application/octet-stream for bytes of no particular type.")));
	}
}

/* Is this subtype json, or does it end in +json? */
static bool
is_json_subtype(const char *subtype, size_t len)
{
	if (len == 4)
		return pg_strncasecmp(subtype, "json", 4) == 0;
	return len > 5 && pg_strncasecmp(subtype + len - 5, "+json", 5) == 0;
}

/*
 * A media type: two tokens and a slash, then perhaps parameters.  What goes
 * with a JSON payload has to be a type of JSON: in one mode of CloudEvents a
 * receiver gets the payload's text, in another its value.
 */
static void
check_content_type(Datum value, bool isnull, bool json)
{
	const char *s;
	size_t		type,
				subtype,
				end;
	bool		ok;

	if (isnull)
		return;
	check_text_datum("content_type", value, false);
	s = TextDatumGetCString(value);
	type = strcspn(s, "/; \",");
	subtype = s[type] == '/' ? strcspn(s + type + 1, "/; \",") : 0;
	end = type + 1 + subtype;
	ok = type > 0 && subtype > 0;
	if (ok)
		end += strspn(s + end, " ");
	ok = ok && (s[end] == ';' || s[end] == '\0');
	for (const char *p = s; *p && ok; p++)
		ok = !IS_HIGHBIT_SET(*p);
	if (!ok)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("content_type of an event is not a media type"),
				 errdetail("It is \"%s\".", s),
				 errhint("A media type has the form type/subtype, application/xml for instance, in ASCII.")));
	if (json && !is_json_subtype(s + type + 1, subtype))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("content_type of an event with a JSON payload must be a type of JSON"),
				 errdetail("It is \"%s\".", s),
				 errhint("Leave it NULL, or put what is not JSON into body.")));
}

/* W3C trace context: 00-<32 hex digits>-<16>-<2>, in lower case. */
static void
check_traceparent(const char *s, int len)
{
	static const char form[] = "xx-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx-xxxxxxxxxxxxxxxx-xx";
	bool		ok = len == sizeof(form) - 1;

	for (int i = 0; ok && i < len; i++)
	{
		if (form[i] == '-')
			ok = s[i] == '-';
		else
			ok = (s[i] >= '0' && s[i] <= '9') || (s[i] >= 'a' && s[i] <= 'f');
	}
	if (!ok)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("traceparent of an event is not a W3C trace context"),
				 errdetail("It is \"%.*s\".", Min(len, 64), s),
				 errhint("It has the form 00-<trace id>-<parent id>-<flags>, in hexadecimal digits of lower case.")));
}

/* Returns the trace context, if there is one in the metadata, or NULL. */
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
					   v.val.string.len, MAX_NAME_BYTES);
			is_traceparent = v.val.string.len == 11 &&
				memcmp(v.val.string.val, "traceparent", 11) == 0;
		}
		else if (token == WJB_VALUE && v.val.string.len > 0)
			check_text("a value in metadata", v.val.string.val,
					   v.val.string.len, MAX_METADATA_BYTES);
		if (token == WJB_VALUE && is_traceparent)
			traceparent = cstring_to_text_with_len(v.val.string.val,
												   v.val.string.len);
	}
	return traceparent;
}

/* Moves the trace context out of the metadata, unless it is given anyway. */
static void
take_traceparent(Datum *values, bool *nulls)
{
	text	   *found = check_metadata(values[COL_METADATA],
									   nulls[COL_METADATA]);

	if (found)
	{
		values[COL_METADATA] =
			DirectFunctionCall2(jsonb_delete, values[COL_METADATA],
								PointerGetDatum(cstring_to_text("traceparent")));
		if (nulls[COL_TRACEPARENT])
			values[COL_TRACEPARENT] = PointerGetDatum(found);
		nulls[COL_TRACEPARENT] = false;
	}
	if (!nulls[COL_TRACEPARENT])
	{
		text	   *t = DatumGetTextPP(values[COL_TRACEPARENT]);

		check_traceparent(VARDATA_ANY(t), VARSIZE_ANY_EXHDR(t));
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

/* 0 is where the relay's position begins. */
static void
check_id(Datum value)
{
	if (DatumGetInt64(value) <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("id of an event must be positive"),
				 errdetail("It is %lld.", (long long) DatumGetInt64(value)),
				 errhint("Leave it out: it is made here.")));
}

static void
check_event(Datum *values, bool *nulls)
{
	if (nulls[COL_TOPIC])
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("topic of an event must not be null"),
				 errhint("Give the topic to publish to.")));
	check_id(values[COL_ID]);
	check_text_datum("topic", values[COL_TOPIC], false);
	check_text_datum("key", values[COL_KEY], nulls[COL_KEY]);
	check_text_datum("type", values[COL_TYPE], nulls[COL_TYPE]);
	check_payload(values, nulls);
	check_content_type(values[COL_CONTENT_TYPE], nulls[COL_CONTENT_TYPE],
					   nulls[COL_BODY]);
	take_traceparent(values, nulls);
	check_time("deliver_after", values[COL_DELIVER_AFTER],
			   nulls[COL_DELIVER_AFTER]);
	check_time("created_at", values[COL_CREATED_AT], nulls[COL_CREATED_AT]);
}

/* The BEFORE INSERT trigger of outbox_event; see above. */
Datum
outbox_event_insert(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	TupleDesc	desc;
	HeapTuple	tuple;
	Datum	   *values;
	bool	   *nulls;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!TRIGGER_FIRED_BEFORE(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
		!TRIGGER_FIRED_BY_INSERT(trigger->tg_event) ||
		strcmp(RelationGetRelationName(trigger->tg_relation), "outbox_event") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"outbox_event_insert\" is the trigger of table \"outbox_event\"")));
	if (SessionReplicationRole == SESSION_REPLICATION_ROLE_REPLICA)
		return PointerGetDatum(NULL);

	desc = RelationGetDescr(trigger->tg_relation);
	Assert(desc->natts >= NCOLS);
	values = palloc(sizeof(Datum) * desc->natts);
	nulls = palloc(sizeof(bool) * desc->natts);
	heap_deform_tuple(trigger->tg_trigtuple, desc, values, nulls);
	check_event(values, nulls);

	values[COL_XID] = FullTransactionIdGetDatum(GetTopFullTransactionId());
	nulls[COL_XID] = false;
	if (nulls[COL_EVENT_ID])
	{
		pg_uuid_t  *uuid = palloc(sizeof(pg_uuid_t));

		uuidv7_generate(uuid);
		values[COL_EVENT_ID] = UUIDPGetDatum(uuid);
		nulls[COL_EVENT_ID] = false;
	}
	tuple = heap_form_tuple(desc, values, nulls);

	warn_if_not_preloaded();
	shmem_wake_relay_at_commit(false);
	return PointerGetDatum(tuple);
}

/*
 * BEFORE trigger of all our tables: what replication wants to do to a row of
 * another database, which happens to have the id of one of ours, is not done.
 */
Datum
outbox_drop_replicated(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!TRIGGER_FIRED_BEFORE(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigger->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"outbox_drop_replicated\" is a trigger of the tables of outbox")));
	if (SessionReplicationRole == SESSION_REPLICATION_ROLE_REPLICA)
		return PointerGetDatum(NULL);
	if (TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
		return PointerGetDatum(trigger->tg_newtuple);
	return PointerGetDatum(trigger->tg_trigtuple);
}

/* An argument that may be NULL; 0 stands for that. */
static Datum
optional_arg(FunctionCallInfo fcinfo, int n)
{
	return PG_ARGISNULL(n) ? (Datum) 0 : PG_GETARG_DATUM(n);
}

static Datum
required_arg(FunctionCallInfo fcinfo, int n, const char *name,
			 const char *hint)
{
	if (PG_ARGISNULL(n))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s of an event must not be null", name),
				 errhint("%s", hint)));
	return PG_GETARG_DATUM(n);
}

/* Arguments from key on are the same in both functions; "n" is its number. */
static Datum
publish(FunctionCallInfo fcinfo, StorePublish *event, int n,
		const char *function)
{
	pg_uuid_t  *made;

	PreventCommandIfReadOnly(function);
	if (SessionReplicationRole == SESSION_REPLICATION_ROLE_REPLICA)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot publish events while session_replication_role is \"replica\""),
				 errdetail("Rows that replication applies are delivered where they come from."),
				 errhint("Publish in session_replication_role \"origin\" or \"local\".")));
	event->key = optional_arg(fcinfo, n);
	event->type = optional_arg(fcinfo, n + 1);
	event->event_id = optional_arg(fcinfo, n + 2);
	event->metadata = optional_arg(fcinfo, n + 3);
	event->deliver_after = optional_arg(fcinfo, n + 4);
	event->may_exist = event->event_id != 0;
	if (!event->may_exist)
	{
		made = palloc(sizeof(pg_uuid_t));
		uuidv7_generate(made);
		event->event_id = UUIDPGetDatum(made);
	}
	if (!store_publish(fcinfo->flinfo->fn_oid, event))
		shmem_count_duplicate();
	PG_RETURN_DATUM(event->event_id);
}

Datum
outbox_publish(PG_FUNCTION_ARGS)
{
	StorePublish event = {0};

	event.topic = required_arg(fcinfo, 0, "topic", "Give the topic to publish to.");
	event.payload = required_arg(fcinfo, 1, "payload",
								 "The JSON null is 'null'.");
	return publish(fcinfo, &event, 2, "outbox_publish()");
}

Datum
outbox_publish_bytes(PG_FUNCTION_ARGS)
{
	StorePublish event = {0};

	event.topic = required_arg(fcinfo, 0, "topic", "Give the topic to publish to.");
	event.body = required_arg(fcinfo, 1, "payload",
							  "An empty payload is '\\x'.");
	event.content_type = required_arg(fcinfo, 2, "content_type",
									  "Use application/octet-stream for bytes of no particular type.");
	return publish(fcinfo, &event, 3, "outbox_publish_bytes()");
}
