/*-------------------------------------------------------------------------
 *
 * publisher_dapr.c
 *		Publish through the HTTP API of a Dapr sidecar.
 *
 * An event is a POST to /v1.0/publish/{pubsub}/{topic} with a complete
 * CloudEvent as its body, which daprd passes on as it is (but for topic and
 * pubsubname, which it sets).  So an event has the same id, time and bytes at
 * every try.  Metadata are query parameters, for daprd and the broker behind
 * it; an event that has too many for a URL goes through the bulk API, which has
 * them in the body.  Several events may share a request to that, as far as it
 * leaves them as they are: see publisher_dapr_bulk.c.
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

#include "guc.h"
#include "http/http_url.h"
#include "lib/json_members.h"
#include "lib/text.h"
#include "publish/cloudevent.h"
#include "publish/dapr_numbers.h"
#include "publish/http_answer.h"
#include "publish/publisher_dapr_bulk.h"
#include "publish/publisher_over_http.h"
#include "publish/publishers.h"

/* Anything in the place of an errorCode, which may be missing, too. */
#define ANY_CODE "*"

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
	{414, ANY_CODE, OUTBOX_REJECTED},
	{429, ANY_CODE, OUTBOX_RETRY},
	{431, ANY_CODE, OUTBOX_REJECTED},
	{500, "ERR_PUBSUB_CLOUD_EVENTS_SER", OUTBOX_REJECTED},
	{500, "ERR_PUBSUB_PUBLISH_MESSAGE", OUTBOX_RETRY},
};

/* How many bytes of a file are the token?  Who writes one by hand ends it with a line. */
static Size
token_length(const char *text)
{
	Size		len = strlen(text);

	while (len > 0 && strchr(" \t\r\n", text[len - 1]))
		len--;
	return len;
}

/* WatchedKind.problem */
static const char *
token_problem(const char *const *texts, const char *const *paths)
{
	Size		len = token_length(texts[0]);

	if (len == 0)
		return psprintf("file \"%s\" contains no token", paths[0]);

	/* a line break would begin another header */
	if (text_has_control(texts[0], len))
		return psprintf("the token in file \"%s\" contains a control character",
						paths[0]);
	return NULL;
}

static const WatchedKind token_kind = {
	.nfiles = 1,
	.problem = token_problem
};

/*
 * The header line with the token for daprd.  False and a reason, which does
 * not show it, if there is no proper token in the file.
 */
static bool
read_token(HttpPublisher *publisher, const char **line, const char **reason)
{
	const char *const path = guc_dapr_api_token_file;
	const char *text;
	char	   *token;

	if (!watched_files_read(publisher->files, &token_kind, &path, &text, reason))
		return false;
	token = pnstrdup(text, token_length(text));
	http_answer_hide(publisher, token);
	*line = psprintf("dapr-api-token: %s", token);
	return true;
}

/*
 * What daprd's URLs begin with, without a slash at the end; NULL: there is no
 * endpoint.  Fills in unix_socket.
 */
static const char *
make_base_url(HttpOptions *options)
{
	StringInfoData url;

	initStringInfo(&url);
	if (strncmp(guc_dapr_endpoint, HTTP_UNIX_PREFIX,
				strlen(HTTP_UNIX_PREFIX)) == 0)
	{
		options->unix_socket = pstrdup(guc_dapr_endpoint +
									   strlen(HTTP_UNIX_PREFIX));
		/* nobody looks for this host, but a URL must have one */
		appendStringInfoString(&url, "http://localhost");
	}
	else
		appendStringInfoString(&url, guc_dapr_endpoint);
	while (url.len > 0 && url.data[url.len - 1] == '/')
		url.data[--url.len] = '\0';
	return url.len > 0 ? url.data : NULL;
}

/* HttpPublisherKind.configure */
static bool
dapr_configure(HttpPublisher *publisher, HttpOptions *options,
			   const char **reason)
{
	DaprPublisher *dapr = (DaprPublisher *) publisher;
	StringInfoData pubsub;

	dapr->base_url = make_base_url(options);
	if (dapr->base_url == NULL)
	{
		*reason = "outbox.dapr_endpoint is not set";
		return false;
	}

	/* encoded once, for it is a segment of every URL */
	initStringInfo(&pubsub);
	text_append_uri_segment(&pubsub, guc_dapr_pubsub_name);
	dapr->pubsub = pubsub.data;
	dapr->publish_url = psprintf("%s/v1.0/publish/%s/", dapr->base_url,
								 dapr->pubsub);

	if (guc_dapr_api_token_file[0] != '\0')
	{
		const char **line = palloc(sizeof(char *));

		if (!read_token(publisher, line, reason))
			return false;
		options->headers = line;
		options->nheaders = 1;
	}
	dapr_bulk_configure(dapr);
	return true;
}

/* Is the payload to go to the broker as it is, which daprd tells by this? */
static bool
is_raw(const OutboxMessage *message)
{
	/* Go's ParseBool() */
	static const char *const truths[] = {"1", "t", "T", "true", "TRUE", "True"};
	const char *value = cloudevent_get_metadata(message, "rawPayload");

	for (int i = 0; value != NULL && i < lengthof(truths); i++)
	{
		if (strcmp(value, truths[i]) == 0)
			return true;
	}
	return false;
}

/*
 * HttpPublisherKind.message_problem.  daprd would take such a number, and so
 * would the broker; but the event would never come out of it.
 */
static const char *
dapr_message_problem(HttpPublisher *publisher, const OutboxMessage *message)
{
	if (message->is_json && !is_raw(message) &&
		!dapr_numbers_are_finite(message->payload, message->payload_len))
		return "the payload has a number outside of float64: no subscriber of Dapr could decode the event";
	return NULL;
}

/* Append metadata as query parameters, key and time to live among them. */
static void
append_query(StringInfo url, const OutboxMessage *message)
{
	const char *key = dapr_partition_key(message);
	int			ttl = dapr_ttl_seconds(message);
	char		separator = '?';

	for (int i = 0; i < message->nmetadata; i++)
	{
		appendStringInfo(url, "%cmetadata.", separator);
		text_append_uri(url, message->metadata[i].name);
		appendStringInfoChar(url, '=');
		text_append_uri(url, message->metadata[i].value);
		separator = '&';
	}
	if (key != NULL)
	{
		appendStringInfo(url, "%cmetadata.partitionKey=", separator);
		text_append_uri(url, key);
		separator = '&';
	}
	if (ttl > 0)
		appendStringInfo(url, "%cmetadata.ttlInSeconds=%d", separator, ttl);
}

/*
 * HttpPublisherKind.make_request.  daprd overwrites traceparent in the body
 * unless traceid is there as well.
 */
static void
dapr_make_request(HttpPublisher *publisher, HttpRequest *request,
				  const OutboxMessage *message)
{
	DaprPublisher *dapr = (DaprPublisher *) publisher;
	StringInfoData url;
	StringInfoData body;

	dapr_bulk_look_again(dapr);
	initStringInfo(&url);
	appendStringInfoString(&url, dapr->publish_url);
	text_append_uri_segment(&url, message->topic);
	append_query(&url, message);

	initStringInfo(&body);
	cloudevent_append(&body, message, publisher->state->source,
					  CLOUDEVENT_TRACEID);

	if (message->traceparent != NULL)
		http_request_add_header(request, "traceparent", message->traceparent);
	http_request_post(request, url.data, "application/cloudevents+json",
					  body.data, body.len);
}

/* JsonMemberCB: is it one of the two that tell an error? */
static void
error_member(void *arg, int depth, const char *top, const char *name,
			 const char *value)
{
	HttpVerdict *verdict = arg;

	if (depth != 1 || name == NULL)
		return;
	if (strcmp(name, "errorCode") == 0)
		verdict->code = value;
	else if (strcmp(name, "message") == 0)
		verdict->message = value;
}

/* Is a response's errorCode, NULL if it has none, the one in dapr_outcomes? */
static bool
matches_code(const char *code, const char *expected)
{
	if (expected == NULL)
		return code == NULL;
	if (strcmp(expected, ANY_CODE) == 0)
		return true;
	return code != NULL && strcmp(expected, code) == 0;
}

static bool
ends_with(const char *str, const char *end)
{
	Size		len = strlen(str);
	Size		endlen = strlen(end);

	return len >= endlen && strcmp(str + len - endlen, end) == 0;
}

/*
 * HttpPublisherKind.judge.  See dapr_outcomes; whatever is not there stays
 * "unavailable".
 */
static void
dapr_judge(HttpPublisher *publisher, const HttpResult *result,
		   HttpVerdict *verdict)
{
	(void) json_members_read(result->body, result->body_len, error_member,
							 verdict);

	/*
	 * A response that broke off may have lost its errorCode, and means
	 * nothing by not having one.
	 */
	if (verdict->code == NULL && result->error != NULL)
		return;

	for (int i = 0; i < lengthof(dapr_outcomes); i++)
	{
		if (result->status == dapr_outcomes[i].status &&
			matches_code(verdict->code, dapr_outcomes[i].code))
			verdict->outcome = dapr_outcomes[i].outcome;
	}

	/*
	 * The one message that is looked at is that of a body above daprd's
	 * limit, which has the errorCode of a failure at the broker, or none up
	 * to version 1.14.
	 */
	if (verdict->outcome == OUTBOX_RETRY &&
		ends_with(verdict->message ? verdict->message : result->body,
				  ": stream too large"))
		verdict->outcome = OUTBOX_REJECTED;
}

static const HttpPublisherKind dapr_kind = {
	.size = sizeof(DaprPublisher),
	.configure = dapr_configure,
	.message_problem = dapr_message_problem,
	.make_request = dapr_make_request,
	.judge = dapr_judge,
	.make_batch_request = dapr_bulk_make_request,
	.judge_batch = dapr_bulk_judge
};

static void
dapr_startup(OutboxPublisherState *state)
{
	over_http_startup(state, &dapr_kind);
}

/* HttpDoneCB of a probe. */
static void
probe_done(void *arg, int64 id, const HttpResult *result)
{
	HttpPublisher *publisher = arg;
	HttpVerdict verdict;
	const char *error = http_answer_judge(publisher, result, &verdict);

	outbox_probe_answer(publisher->state, error == NULL, error);
}

/*
 * Ask daprd whether its components are up, whatever the state of the
 * application beside it.
 */
static void
dapr_probe(OutboxPublisherState *state)
{
	DaprPublisher *dapr = state->private_data;
	HttpRequest *request;
	MemoryContext old;

	over_http_follow_files(&dapr->http);

	/* a probe that nobody has waited for */
	http_client_cancel(dapr->http.client, 0, probe_done);

	request = http_client_new_request(dapr->http.client, 0, probe_done);
	old = MemoryContextSwitchTo(http_request_context(request));
	http_request_get(request, psprintf("%s/v1.0/healthz/outbound",
									   dapr->base_url));
	MemoryContextSwitchTo(old);
	http_client_start(dapr->http.client, request);
	over_http_ready(state, NULL, 0);
}

const OutboxPublisherCallbacks dapr_publisher = {
	OUTBOX_PUBLISHER_HEAD,
	.startup_cb = dapr_startup,
	.check_configured_cb = over_http_check_configured,
	.submit_cb = over_http_submit,
	.can_batch_cb = dapr_bulk_can_batch,
	.sockets_cb = over_http_sockets,
	.ready_cb = over_http_ready,
	.cancel_cb = over_http_cancel,
	.probe_cb = dapr_probe,
	.shutdown_cb = over_http_shutdown
};
