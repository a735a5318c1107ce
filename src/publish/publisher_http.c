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
 * A request may be signed (webhook_signature.c), and carry its id in Idempotency-Key
 * and some of an event's metadata as headers.  An event that has such goes alone.
 *
 * Errors.  Some statuses say that this message will never be taken, by a setting.
 * All others but 2xx may come of the message, of its topic's route or of a server
 * in trouble: which, the relay finds out by trying again and by what becomes
 * of other messages.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "guc.h"
#include "http/http_header.h"
#include "http/http_status.h"
#include "http/http_url.h"
#include "lib/text.h"
#include "publish/cloudevent.h"
#include "publish/http_post.h"
#include "publish/oauth_token.h"
#include "publish/proxy_credentials.h"
#include "publish/publisher_over_http.h"
#include "publish/publishers.h"
#include "publish/secret_headers.h"
#include "publish/secret_url.h"
#include "publish/webhook_signature.h"

typedef struct EndpointPublisher
{
	HttpPublisher http;
	const char *url;			/* with the placeholder */
	HttpContentMode mode;
	OAuthToken *token;
	bool		has_proxy;
	bool		topic_slashes;	/* a topic in the path may have slashes */
	bool		batched;		/* batch mode, whatever the other mode */
	List	   *metadata_headers;	/* char *: these of the metadata are
									 * headers */
	HttpPostOptions post;
	bool		plain;			/* the endpoint takes nothing compressed */
} EndpointPublisher;

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

/* Is one of these lines a header of this name? */
static bool
has_header(List *headers, const char *name)
{
	ListCell   *lc;

	foreach(lc, headers)
	{
		const char *line = lfirst(lc);

		if (strcspn(line, ":") == strlen(name) &&
			pg_strncasecmp(line, name, strlen(name)) == 0)
			return true;
	}
	return false;
}

/*
 * Read which metadata are headers.  False and a reason if one of them is a header
 * that every request has: receivers would take either.
 */
static bool
read_metadata_headers(EndpointPublisher *endpoint, List *headers,
					  const char **reason)
{
	char	   *names = pstrdup(guc_http_metadata_headers);
	char	   *name;

	endpoint->metadata_headers = NIL;
	while ((name = strsep(&names, HTTP_HEADER_SEPARATORS)) != NULL)
	{
		if (has_header(headers, name))
		{
			*reason = psprintf("\"%s\" in outbox.http_metadata_headers is a header of every request, too",
							   name);
			return false;
		}
		if (name[0] != '\0')
			endpoint->metadata_headers = lappend(endpoint->metadata_headers, name);
	}
	return true;
}

/* Read the secrets to sign with, if there are any; false and a reason as above. */
static bool
read_keys(EndpointPublisher *endpoint, const char **reason)
{
	endpoint->post.keys = NULL;
	return guc_http_signature_secret_file[0] == '\0' ||
		webhook_keys_read(&endpoint->http, guc_http_signature_secret_file,
						  &endpoint->post.keys, reason);
}

/* Add the header with an access token, if there is to be one; as above. */
static bool
add_authorization(EndpointPublisher *endpoint, List **headers,
				  const char **reason)
{
	const char *header;

	if (!oauth_token_configure(endpoint->token, reason))
		return false;
	header = oauth_token_authorization(endpoint->token);
	if (guc_http_oauth_token_url[0] != '\0' &&
		has_header(*headers, "Authorization"))
	{
		*reason = "outbox.http_oauth_token_url is set, and there is an Authorization header, too";
		return false;
	}
	if (header != NULL)
		*headers = lappend(*headers, unconstify(char *, header));
	return true;
}

/*
 * Fill in through which proxy requests go, and which addresses they may go to;
 * false and a reason as above.
 */
static bool
read_proxy(EndpointPublisher *endpoint, HttpOptions *options,
		   const char **reason)
{
	options->allowed_addresses = guc_http_allowed_addresses;
	endpoint->has_proxy = guc_http_proxy[0] != '\0';
	if (!endpoint->has_proxy)
		return true;

	/* it is the proxy that connects, wherever it likes */
	if (guc_http_allowed_addresses[0] != '\0')
	{
		*reason = "both outbox.http_proxy and outbox.http_allowed_addresses are set";
		return false;
	}
	options->proxy = guc_http_proxy;
	return guc_http_proxy_credentials_file[0] == '\0' ||
		proxy_credentials_read(&endpoint->http, guc_http_proxy_credentials_file,
							   options, reason);
}

/* HttpPublisherKind.configure */
static bool
endpoint_configure(HttpPublisher *publisher, HttpOptions *options,
				   const char **reason)
{
	EndpointPublisher *endpoint = (EndpointPublisher *) publisher;
	List	   *headers;
	const char **lines;
	ListCell   *lc;

	if (!read_url(endpoint, reason) || !read_proxy(endpoint, options, reason))
		return false;
	endpoint->mode = guc_http_content_mode;
	endpoint->topic_slashes = guc_http_topic_slashes;

	/* a receiver that expects arrays gets nothing else */
	endpoint->batched = guc_http_batch_size > 1;
	publisher->state->max_batch = guc_http_batch_size;
	publisher->state->max_batch_bytes = HTTP_BATCH_BYTES_MAX;

	/* whoever sees errors (pg_monitor) may see the setting, too */
	headers = secret_headers_add(publisher, NIL, guc_http_headers, false);
	if (guc_http_headers_file[0] != '\0' &&
		!secret_headers_read(publisher, &headers, guc_http_headers_file, reason))
		return false;
	if (!add_authorization(endpoint, &headers, reason) ||
		!read_metadata_headers(endpoint, headers, reason) ||
		!read_keys(endpoint, reason))
		return false;
	endpoint->post.idempotency_key = guc_http_idempotency_key;
	endpoint->post.compress = guc_http_compression == HTTP_COMPRESSION_GZIP &&
		!endpoint->plain;
	endpoint->post.compress_min = guc_http_compression_min;

	lines = palloc((list_length(headers) + 1) * sizeof(char *));
	foreach(lc, headers)
		lines[options->nheaders++] = lfirst(lc);
	options->headers = lines;
	return true;
}

/* HttpPublisherKind.message_problem */
static const char *
endpoint_message_problem(HttpPublisher *publisher, const OutboxMessage *message)
{
	EndpointPublisher *endpoint = (EndpointPublisher *) publisher;

	return http_url_topic_problem(endpoint->url, message->topic,
								  endpoint->topic_slashes);
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
	add_attribute(request, "ce-expirytime", message->expiry_time);
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

/* Does this of the metadata go with requests as a header? */
static bool
is_metadata_header(const EndpointPublisher *endpoint, const char *name)
{
	ListCell   *lc;

	foreach(lc, endpoint->metadata_headers)
	{
		if (strcmp(lfirst(lc), name) == 0)
			return true;
	}
	return false;
}

/* Add the headers that a message alone has of its own. */
static void
add_own_headers(const EndpointPublisher *endpoint, HttpRequest *request,
				const OutboxMessage *message)
{
	/* for what traces requests and knows nothing of CloudEvents */
	if (message->traceparent != NULL)
		http_request_add_header(request, "traceparent", message->traceparent);
	for (int i = 0; i < message->nmetadata; i++)
	{
		if (is_metadata_header(endpoint, message->metadata[i].name))
			http_request_add_header(request, message->metadata[i].name,
									cloudevent_header_value(message->metadata[i].value));
	}
}

/* OutboxCanBatchCB: headers of its own are those of its request. */
static bool
endpoint_can_batch(OutboxPublisherState *state, const OutboxMessage *message)
{
	const EndpointPublisher *endpoint = state->private_data;

	for (int i = 0; i < message->nmetadata; i++)
	{
		if (is_metadata_header(endpoint, message->metadata[i].name))
			return false;
	}
	return true;
}

/* Post messages of one topic in batch mode. */
static void
post_batch(EndpointPublisher *endpoint, HttpRequest *request,
		   const OutboxMessage *const *messages, int n)
{
	const char *id = NULL;
	StringInfoData array;

	initStringInfo(&array);
	for (int i = 0; i < n; i++)
	{
		appendStringInfoChar(&array, i == 0 ? '[' : ',');
		cloudevent_append(&array, messages[i], endpoint->http.state->source,
						  CLOUDEVENT_TOPIC | CLOUDEVENT_METADATA);
	}
	appendStringInfoChar(&array, ']');

	/* nobody asks for an id that is not sent */
	if (endpoint->post.idempotency_key || endpoint->post.keys != NULL)
		id = webhook_batch_id(messages, n);
	http_post(&endpoint->http, &endpoint->post, request, id,
			  topic_url(endpoint->url, messages[0]->topic),
			  "application/cloudevents-batch+json", array.data, array.len);
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

	add_own_headers(endpoint, request, message);
	if (endpoint->batched)
	{
		post_batch(endpoint, request, &message, 1);
		return;
	}
	if (endpoint->mode == HTTP_MODE_BINARY)
	{
		add_attributes(request, message, source);
		http_post(publisher, &endpoint->post, request, message->event_id, url, message->content_type,
				  message->payload, message->payload_len);
		return;
	}
	initStringInfo(&envelope);
	cloudevent_append(&envelope, message, source,
					  CLOUDEVENT_TOPIC | CLOUDEVENT_METADATA);
	http_post(publisher, &endpoint->post, request, message->event_id, url,
			  "application/cloudevents+json", envelope.data, envelope.len);
}

/* HttpPublisherKind.judge */
static void
endpoint_judge(HttpPublisher *publisher, const HttpResult *result,
			   HttpVerdict *verdict)
{
	const EndpointPublisher *endpoint = (EndpointPublisher *) publisher;

	/* it may take it as it is: endpoint_judge_batch() */
	if (result->status == 415 && result->encoded)
	{
		verdict->outcome = OUTBOX_RETRY;
		return;
	}

	/* Proxy Authentication Required: no event is to blame, nor a topic */
	if (endpoint->has_proxy && result->status == 407)
		return;
	verdict->outcome = http_status_list_has(guc_http_permanent_statuses,
											result->status) ?
		OUTBOX_REJECTED : OUTBOX_RETRY;
}

/* HttpPublisherKind.judge_batch */
static HttpBatchFate
endpoint_judge_batch(HttpPublisher *publisher, const HttpBatch *batch,
					 const HttpResult *result, const HttpVerdict *verdict,
					 OutboxAnswer *answers)
{
	EndpointPublisher *endpoint = (EndpointPublisher *) publisher;

	if (result->status == 401)
		return oauth_token_refused(endpoint->token, batch);
	if (result->status != 415 || !result->encoded)
		return HTTP_BATCH_ANSWER;

	/* what is under way may be answered so as well */
	if (!endpoint->plain)
		ereport(LOG,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("outbox: the endpoint takes no compressed requests"),
				 errdetail("It has answered one with HTTP 415."),
				 errhint("They are not compressed until the next reload. Set outbox.http_compression = off.")));
	endpoint->plain = true;
	endpoint->post.compress = false;
	return HTTP_BATCH_REPEAT;
}

static const HttpPublisherKind endpoint_kind = {
	.size = sizeof(EndpointPublisher),
	.configure = endpoint_configure,
	.message_problem = endpoint_message_problem,
	.make_request = endpoint_make_request,
	.judge = endpoint_judge,
	.make_batch_request = endpoint_make_batch_request,
	.judge_batch = endpoint_judge_batch
};

static void
endpoint_startup(OutboxPublisherState *state)
{
	EndpointPublisher *endpoint;

	over_http_startup(state, &endpoint_kind);
	endpoint = state->private_data;
	endpoint->token = oauth_token_create(&endpoint->http);
}

/* OutboxCheckConfiguredCB */
static bool
endpoint_check_configured(OutboxPublisherState *state, const char **reason)
{
	EndpointPublisher *endpoint = state->private_data;

	/* it may be another endpoint */
	endpoint->plain = false;
	return over_http_check_configured(state, reason);
}

/* OutboxSocketsCB */
static int
endpoint_sockets(OutboxPublisherState *state, const OutboxSocket **sockets,
				 long *timeout_ms)
{
	EndpointPublisher *endpoint = state->private_data;
	int			n = over_http_sockets(state, sockets, timeout_ms);

	*timeout_ms = oauth_token_timeout_ms(endpoint->token, *timeout_ms);
	return n;
}

/* OutboxReadyCB */
static void
endpoint_ready(OutboxPublisherState *state, const OutboxSocket *ready, int n)
{
	EndpointPublisher *endpoint = state->private_data;

	over_http_ready(state, ready, n);
	if (oauth_token_run(endpoint->token))
		over_http_ready(state, NULL, 0);
}

const OutboxPublisherCallbacks http_publisher = {
	OUTBOX_PUBLISHER_HEAD,
	.startup_cb = endpoint_startup,
	.check_configured_cb = endpoint_check_configured,
	.submit_cb = over_http_submit,
	.can_batch_cb = endpoint_can_batch,
	.sockets_cb = endpoint_sockets,
	.ready_cb = endpoint_ready,
	.cancel_cb = over_http_cancel,
	.shutdown_cb = over_http_shutdown
};
