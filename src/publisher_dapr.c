/*-------------------------------------------------------------------------
 *
 * publisher_dapr.c
 *		Publish through the HTTP API of a Dapr sidecar.
 *
 * An event is a POST to /v1.0/publish/{pubsub}/{topic} with a complete
 * CloudEvent as its body, which daprd passes on as it is (but for topic and
 * pubsubname, which it sets).  So an event has the same id, time and bytes at
 * every try.  Metadata are query parameters, for daprd and the broker behind
 * it.  Several events at a time are several requests: daprd's bulk API changes
 * large numbers in JSON.
 *
 * Errors.  daprd's status and the errorCode in the response's body decide.
 * Only an error that this message will meet for ever makes it OUTBOX_REJECTED;
 * what an operator has to mend, or what may come of a sidecar that is starting
 * or stopping, is the destination's fault.  A failed publish at the broker has
 * but one errorCode whatever its cause: retried a limited number of times.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "cloudevent.h"
#include "common/jsonapi.h"
#include "compat.h"
#include "guc.h"
#include "publisher_common.h"
#include "publishers.h"

/* Anything in the place of an errorCode. */
#define ANY_CODE "*"

typedef struct DaprState
{
	CommonState common;
	const char *base_url;		/* of the API, without a slash at its end */
	const char *publish_url;	/* a topic is missing at its end */
} DaprState;

/* Responses that are not OUTBOX_UNAVAILABLE; code NULL: it has none. */
static const struct DaprOutcome
{
	int			status;
	const char *code;
	OutboxOutcome outcome;
}			dapr_outcomes[] = {
	{400, NULL, OUTBOX_RETRY},
	{400, "ERR_PUBSUB_EVENTS_SER", OUTBOX_REJECTED},
	{400, "ERR_PUBSUB_REQUEST_METADATA", OUTBOX_REJECTED},
	{403, "ERR_PUBSUB_FORBIDDEN", OUTBOX_RETRY},
	{413, ANY_CODE, OUTBOX_REJECTED},
	{431, ANY_CODE, OUTBOX_REJECTED},
	{500, "ERR_PUBSUB_CLOUD_EVENTS_SER", OUTBOX_REJECTED},
	{500, "ERR_PUBSUB_PUBLISH_MESSAGE", OUTBOX_RETRY},
};

/*
 * The header line with the token for daprd.  False and a reason, which does
 * not show it, if there is no proper token in the file.
 */
static bool
read_token(CommonState *common, const char **line, const char **reason)
{
	char	   *token;
	Size		len;

	if (!common_read_file(guc_dapr_api_token_file, &token, reason))
		return false;
	len = strlen(token);
	while (len > 0 && (token[len - 1] == '\n' || token[len - 1] == '\r'))
		token[--len] = '\0';
	if (len == 0)
	{
		*reason = psprintf("file \"%s\" contains no token",
						   guc_dapr_api_token_file);
		return false;
	}
	for (const char *p = token; *p != '\0'; p++)
	{
		if ((unsigned char) *p < ' ' || *p == 0x7F)
		{
			*reason = psprintf("the token in file \"%s\" contains a control character",
							   guc_dapr_api_token_file);
			return false;
		}
	}
	common_hide(common, token);
	*line = psprintf("dapr-api-token: %s", token);
	return true;
}

/* PublisherKind.configure */
static bool
dapr_configure(CommonState *common, HttpOptions *options, const char **reason)
{
	DaprState  *dapr = (DaprState *) common;
	StringInfoData url;

	initStringInfo(&url);
	if (strncmp(guc_dapr_endpoint, "unix:", 5) == 0)
	{
		options->unix_socket = pstrdup(guc_dapr_endpoint + 5);
		appendStringInfoString(&url, "http://localhost");
	}
	else
		appendStringInfoString(&url, guc_dapr_endpoint);
	while (url.len > 0 && url.data[url.len - 1] == '/')
		url.data[--url.len] = '\0';
	if (url.len == 0)
	{
		*reason = "outbox.dapr_endpoint is not set";
		return false;
	}
	dapr->base_url = pstrdup(url.data);

	appendStringInfoString(&url, "/v1.0/publish/");
	cloudevent_append_uri_segment(&url, guc_dapr_pubsub_name);
	appendStringInfoChar(&url, '/');
	dapr->publish_url = url.data;

	if (guc_dapr_api_token_file[0] != '\0')
	{
		const char **line = palloc(sizeof(char *));

		if (!read_token(common, line, reason))
			return false;
		options->headers = line;
		options->nheaders = 1;
	}
	return true;
}

/* Append a message's metadata as query parameters, its key among them. */
static void
append_query(StringInfo url, const OutboxMessage *message)
{
	bool		add_key = message->key != NULL;
	char		separator = '?';

	for (int i = 0; i < message->nmetadata; i++)
	{
		appendStringInfo(url, "%cmetadata.", separator);
		cloudevent_append_uri(url, message->metadata[i].name);
		appendStringInfoChar(url, '=');
		cloudevent_append_uri(url, message->metadata[i].value);
		separator = '&';
		if (strcmp(message->metadata[i].name, "partitionKey") == 0)
			add_key = false;
	}
	if (add_key)
	{
		appendStringInfo(url, "%cmetadata.partitionKey=", separator);
		cloudevent_append_uri(url, message->key);
	}
}

/*
 * PublisherKind.send.  daprd overwrites traceparent in the body unless traceid
 * is there as well.
 */
static void
dapr_send(CommonState *common, HttpRequest *request,
		  const OutboxMessage *message)
{
	DaprState  *dapr = (DaprState *) common;
	StringInfoData url;
	StringInfoData body;

	initStringInfo(&url);
	appendStringInfoString(&url, dapr->publish_url);
	cloudevent_append_uri_segment(&url, message->topic);
	append_query(&url, message);

	initStringInfo(&body);
	cloudevent_append(&body, message, common->state->source,
					  CLOUDEVENT_TRACEID);

	http_add_header(request, "Content-Type", "application/cloudevents+json");
	if (message->traceparent != NULL)
		http_add_header(request, "traceparent", message->traceparent);
	http_post(request, url.data, body.data, body.len);
}

/*
 * Read token after token, and fill in errorCode and message of the outermost
 * object.  The body may end anywhere; daprd puts these two first.
 */
static void
scan_error(JsonLexContext *lex, Verdict *verdict)
{
	const char **value = NULL;	/* where the next string goes */
	int			depth = 0;

	while (json_lex(lex) == JSON_SUCCESS && lex->token_type != JSON_TOKEN_END)
	{
		switch (lex->token_type)
		{
			case JSON_TOKEN_OBJECT_START:
			case JSON_TOKEN_ARRAY_START:
				depth++;
				value = NULL;
				break;
			case JSON_TOKEN_OBJECT_END:
			case JSON_TOKEN_ARRAY_END:
				depth--;
				break;
			case JSON_TOKEN_STRING:
				if (value != NULL)
					*value = pstrdup(lex->strval->data);
				if (value != NULL || depth != 1)
					value = NULL;
				else if (strcmp(lex->strval->data, "errorCode") == 0)
					value = &verdict->code;
				else if (strcmp(lex->strval->data, "message") == 0)
					value = &verdict->message;
				break;
			case JSON_TOKEN_COLON:
				break;
			default:
				value = NULL;
				break;
		}
	}
}

/*
 * Fill in errorCode and message if the body is one of daprd's errors.  The
 * lexer may throw, at an escape that this database's encoding cannot show for
 * one; what was found before that counts.
 */
static void
read_error(const HttpResult *result, Verdict *verdict)
{
	MemoryContext old = CurrentMemoryContext;

	if (result->body[0] != '{')
		return;
	PG_TRY();
	{
		scan_error(make_json_lex_compat(result->body, result->body_len),
				   verdict);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(old);
		FlushErrorState();
	}
	PG_END_TRY();
}

static bool
ends_with(const char *str, const char *end)
{
	Size		len = strlen(str);
	Size		endlen = strlen(end);

	return len >= endlen && strcmp(str + len - endlen, end) == 0;
}

/*
 * PublisherKind.judge.  The one message that is looked at is that of a body
 * above daprd's limit, which has the errorCode of a failure at the broker, or
 * none up to version 1.14.  A response that broke off may have lost its
 * errorCode, and means nothing by not having one.
 */
static void
dapr_judge(const HttpResult *result, Verdict *verdict)
{
	read_error(result, verdict);
	if (verdict->code == NULL && result->error != NULL)
		return;

	for (int i = 0; i < lengthof(dapr_outcomes); i++)
	{
		const char *code = dapr_outcomes[i].code;

		if (result->status != dapr_outcomes[i].status)
			continue;
		if (code == verdict->code ||
			(code != NULL && strcmp(code, ANY_CODE) == 0) ||
			(code != NULL && verdict->code != NULL &&
			 strcmp(code, verdict->code) == 0))
			verdict->outcome = dapr_outcomes[i].outcome;
	}
	if (verdict->outcome == OUTBOX_RETRY &&
		ends_with(verdict->message ? verdict->message : result->body,
				  ": stream too large"))
		verdict->outcome = OUTBOX_REJECTED;
}

static const PublisherKind dapr_kind = {
	.size = sizeof(DaprState),
	.configure = dapr_configure,
	.send = dapr_send,
	.judge = dapr_judge
};

static void
dapr_startup(OutboxPublisherState *state)
{
	common_startup(state, &dapr_kind);
}

/* HttpDoneCB of a probe. */
static void
probe_done(void *arg, int64 id, const HttpResult *result)
{
	CommonState *common = arg;
	OutboxOutcome outcome;
	const char *error = common_judge(common, result, &outcome);

	outbox_probe_answer(common->state, outcome == OUTBOX_DELIVERED, error);
}

/*
 * Ask daprd whether its components are up, whatever the state of the
 * application beside it.
 */
static void
dapr_probe(OutboxPublisherState *state)
{
	DaprState  *dapr = state->private_data;
	HttpRequest *request;
	MemoryContext old;

	/* a probe that nobody has waited for */
	http_cancel(dapr->common.client, 0, probe_done);

	request = http_new_request(dapr->common.client, 0, probe_done);
	old = MemoryContextSwitchTo(http_request_context(request));
	http_get(request, psprintf("%s/v1.0/healthz/outbound", dapr->base_url));
	MemoryContextSwitchTo(old);
	http_ready(dapr->common.client, NULL, 0);
}

const OutboxPublisherCallbacks dapr_publisher = {
	.magic = OUTBOX_PUBLISHER_MAGIC,
	.startup_cb = dapr_startup,
	.check_configured_cb = common_check_configured,
	.submit_cb = common_submit,
	.sockets_cb = common_sockets,
	.ready_cb = common_ready,
	.cancel_cb = common_cancel,
	.probe_cb = dapr_probe,
	.shutdown_cb = common_shutdown
};
