/*-------------------------------------------------------------------------
 *
 * publisher_http.c
 *		Post each event to an HTTP endpoint, as a CloudEvent.
 *
 * In binary mode the body is the payload as it is and the attributes are
 * headers ("ce-id"); in structured mode the body is a JSON envelope.  Beyond
 * the attributes of CloudEvents, an event has "topic", and "metadata": a
 * string that holds a JSON object.
 *
 * With outbox.http_batch_size above 1, events of one topic share a request: a
 * JSON array of envelopes in CloudEvents' batch mode, even if it has only one.
 *
 * Errors.  Four statuses say that this message will never be taken.  All
 * others but 2xx may come of the message, of its topic's route or of a server
 * in trouble: which, the relay finds out by trying again and by what becomes
 * of other messages.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "guc.h"
#include "http/http_header.h"
#include "http/http_url.h"
#include "lib/secret_file.h"
#include "lib/text.h"
#include "publish/cloudevent.h"
#include "publish/http_answer.h"
#include "publish/publisher_over_http.h"
#include "publish/publishers.h"
#include "publish/secret_url.h"

/*
 * What is shorter is not hidden of http_headers_file: a value or the last word of
 * it ("Bearer word"), and any other word, which may say what is there.
 */
#define SECRET_MIN 4
#define WORD_MIN 8

typedef struct EndpointPublisher
{
	HttpPublisher http;
	const char *url;			/* with the placeholder */
	HttpContentMode mode;
	bool		batched;		/* batch mode, whatever the other mode */
} EndpointPublisher;

/* Hide a header's value, and the words in it. */
static void
hide_value(HttpPublisher *publisher, char *header)
{
	char	   *value = strchr(header, ':') + 1;
	char	   *word;

	value += strspn(value, " \t");
	word = strrchr(value, ' ');
	if (strlen(value) >= SECRET_MIN)
		http_answer_hide(publisher, value);
	if (word != NULL && strlen(word + 1) >= SECRET_MIN)
		http_answer_hide(publisher, word + 1);
	value = pstrdup(value);
	while ((word = strsep(&value, " \t,;=\"")) != NULL)
	{
		if (strlen(word) >= WORD_MIN)
			http_answer_hide(publisher, word);
	}
}

/*
 * Append the lines of "str", which is changed, to a list of headers.  Empty
 * lines are skipped.  False and a reason, which shows the number of a bad line
 * and "origin" but nothing of the text, if one of them is not a header.
 */
static bool
add_headers(HttpPublisher *publisher, char *str, const char *origin,
			bool secret, List **headers, const char **reason)
{
	for (int number = 1; *str != '\0'; number++)
	{
		char	   *line = str;
		Size		len = strcspn(line, "\n");
		const char *problem;

		str += len;
		if (*str == '\n')
			*str++ = '\0';

		/* a receiver does not see blanks at the end, and could echo the rest */
		while (len > 0 && strchr(" \t\r", line[len - 1]))
			line[--len] = '\0';
		if (len == 0)
			continue;
		problem = http_header_problem(line, len);
		if (problem != NULL)
		{
			*reason = psprintf("line %d of %s: %s", number, origin, problem);
			return false;
		}
		if (secret)
			hide_value(publisher, line);
		*headers = lappend(*headers, line);
	}
	return true;
}

/* Read where to post to; false and a reason if it cannot be told. */
static bool
read_url(EndpointPublisher *endpoint, const char **reason)
{
	bool		is_set = guc_http_url[0] != '\0';

	if (guc_http_url_file[0] != '\0')
	{
		if (!is_set)
			return secret_url_read(&endpoint->http, guc_http_url_file,
								   &endpoint->url, reason);
		*reason = "both outbox.http_url and outbox.http_url_file are set";
		return false;
	}
	if (!is_set)
		*reason = "neither outbox.http_url nor outbox.http_url_file is set";
	endpoint->url = pstrdup(guc_http_url);
	return is_set;
}

/* HttpPublisherKind.configure */
static bool
endpoint_configure(HttpPublisher *publisher, HttpOptions *options,
				   const char **reason)
{
	EndpointPublisher *endpoint = (EndpointPublisher *) publisher;
	List	   *headers = NIL;
	const char **lines;
	ListCell   *lc;

	if (!read_url(endpoint, reason))
		return false;
	endpoint->mode = guc_http_content_mode;

	/* a receiver that expects arrays gets nothing else */
	endpoint->batched = guc_http_batch_size > 1;
	publisher->state->max_batch = guc_http_batch_size;
	publisher->state->max_batch_bytes = HTTP_BATCH_BYTES_MAX;

	/* whoever sees errors (pg_monitor) may see the setting, too */
	if (!add_headers(publisher, pstrdup(guc_http_headers),
					 "outbox.http_headers", false, &headers, reason))
		return false;
	if (guc_http_headers_file[0] != '\0')
	{
		char	   *str;

		if (!secret_file_read(guc_http_headers_file, &str, reason) ||
			!add_headers(publisher, str,
						 psprintf("file \"%s\"", guc_http_headers_file),
						 true, &headers, reason))
			return false;
	}

	lines = palloc((list_length(headers) + 1) * sizeof(char *));
	foreach(lc, headers)
		lines[options->nheaders++] = lfirst(lc);
	options->headers = lines;
	return true;
}

/* The URL to post an event of this topic to. */
static const char *
topic_url(const char *pattern, const char *topic)
{
	const char *place = strstr(pattern, HTTP_URL_TOPIC);
	StringInfoData url;

	if (place == NULL)
		return pattern;
	initStringInfo(&url);
	while (place != NULL)
	{
		appendBinaryStringInfo(&url, pattern, place - pattern);
		text_append_uri_segment(&url, topic);
		pattern = place + strlen(HTTP_URL_TOPIC);
		place = strstr(pattern, HTTP_URL_TOPIC);
	}
	appendStringInfoString(&url, pattern);
	return url.data;
}

/* Add an attribute in binary mode, if the event has it. */
static void
add_attribute(HttpRequest *request, const char *name, const char *value)
{
	if (value != NULL)
		http_request_add_header(request, name, cloudevent_header_value(value));
}

/* Add all there is to know about the event but its payload. */
static void
add_attributes(HttpRequest *request, const OutboxMessage *message,
			   const char *source)
{
	add_attribute(request, "ce-specversion", "1.0");
	add_attribute(request, "ce-id", message->event_id);
	add_attribute(request, "ce-source", source);
	add_attribute(request, "ce-type", message->type);
	add_attribute(request, "ce-time", message->time);
	add_attribute(request, "ce-topic", message->topic);
	add_attribute(request, "ce-partitionkey", message->key);
	add_attribute(request, "ce-traceparent", message->traceparent);
	if (message->nmetadata > 0)
	{
		StringInfoData metadata;

		initStringInfo(&metadata);
		cloudevent_append_metadata(&metadata, message);
		add_attribute(request, "ce-metadata", metadata.data);
	}
}

/* Post messages of one topic in batch mode. */
static void
post_batch(EndpointPublisher *endpoint, HttpRequest *request,
		   const OutboxMessage *const *messages, int n)
{
	StringInfoData array;

	initStringInfo(&array);
	for (int i = 0; i < n; i++)
	{
		appendStringInfoChar(&array, i == 0 ? '[' : ',');
		cloudevent_append(&array, messages[i], endpoint->http.state->source,
						  CLOUDEVENT_TOPIC | CLOUDEVENT_METADATA);
	}
	appendStringInfoChar(&array, ']');

	http_request_post(request, topic_url(endpoint->url, messages[0]->topic),
					  "application/cloudevents-batch+json", array.data,
					  array.len);
}

/* HttpPublisherKind.make_batch_request */
static void
endpoint_make_batch_request(HttpPublisher *publisher, HttpRequest *request,
							HttpBatch *batch)
{
	post_batch((EndpointPublisher *) publisher, request, batch->messages,
			   batch->nmessages);
}

/* HttpPublisherKind.make_request */
static void
endpoint_make_request(HttpPublisher *publisher, HttpRequest *request,
					  const OutboxMessage *message)
{
	EndpointPublisher *endpoint = (EndpointPublisher *) publisher;
	const char *source = publisher->state->source;
	const char *url = topic_url(endpoint->url, message->topic);
	StringInfoData envelope;

	/* for what traces requests and knows nothing of CloudEvents */
	if (message->traceparent != NULL)
		http_request_add_header(request, "traceparent", message->traceparent);

	if (endpoint->batched)
	{
		post_batch(endpoint, request, &message, 1);
		return;
	}
	if (endpoint->mode == HTTP_MODE_BINARY)
	{
		add_attributes(request, message, source);
		http_request_post(request, url, message->content_type,
						  message->payload, message->payload_len);
		return;
	}
	initStringInfo(&envelope);
	cloudevent_append(&envelope, message, source,
					  CLOUDEVENT_TOPIC | CLOUDEVENT_METADATA);
	http_request_post(request, url, "application/cloudevents+json",
					  envelope.data, envelope.len);
}

/* HttpPublisherKind.judge */
static void
endpoint_judge(const HttpResult *result, HttpVerdict *verdict)
{
	switch (result->status)
	{
		case 400:				/* Bad Request */
		case 413:				/* Content Too Large */
		case 415:				/* Unsupported Media Type */
		case 422:				/* Unprocessable Content */
			verdict->outcome = OUTBOX_REJECTED;
			break;
		default:
			verdict->outcome = OUTBOX_RETRY;
			break;
	}
}

static const HttpPublisherKind endpoint_kind = {
	.size = sizeof(EndpointPublisher),
	.configure = endpoint_configure,
	.make_request = endpoint_make_request,
	.judge = endpoint_judge,
	.make_batch_request = endpoint_make_batch_request
};

static void
endpoint_startup(OutboxPublisherState *state)
{
	over_http_startup(state, &endpoint_kind);
}

const OutboxPublisherCallbacks http_publisher = {
	OUTBOX_PUBLISHER_HEAD,
	.startup_cb = endpoint_startup,
	.check_configured_cb = over_http_check_configured,
	.submit_cb = over_http_submit,
	.sockets_cb = over_http_sockets,
	.ready_cb = over_http_ready,
	.cancel_cb = over_http_cancel,
	.shutdown_cb = over_http_shutdown
};
