/*-------------------------------------------------------------------------
 *
 * publisher_dapr_bulk.c
 *		Publish several events in one request to a Dapr sidecar.
 *
 * An event is the same CloudEvent as in a request of its own, its metadata
 * stand beside it, and the response tells the events that failed.
 *
 * Numbers.  daprd decodes such a request into doubles and writes them anew,
 * whereas it leaves the numbers of a single event as they are.  With
 * outbox.dapr_bulk = auto, an event shares a request only if its numbers
 * certainly come out as they went in.
 *
 * Metadata.  daprd limits the request line and the headers, by no fixed size.
 * An event that it refuses for that when it is sent alone is sent here alone,
 * where its metadata are in the body, whatever outbox.dapr_bulk says; unless
 * that would change its numbers.
 *
 * Routes.  The stable route is that of a single event for a pubsub component
 * called "bulk" to a daprd before 1.17, and so not to be tried without
 * knowing.  daprd is asked for its version when the first batch is sent; until
 * it has answered, and if it does not, the alpha route is used.  A route that
 * is not there is not used again until the settings are read again, or daprd is
 * another one; with none left, every event has a request of its own, and daprd
 * is asked for its version now and then.  Only an event that can go no other way
 * tries both routes nevertheless, each once: what is not there may be there by
 * now, and a version that is not known may be a new one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "lib/clock.h"
#include "lib/json_members.h"
#include "lib/json_text.h"
#include "lib/text.h"
#include "publish/cloudevent.h"
#include "publish/dapr_numbers.h"
#include "publish/http_answer.h"
#include "publish/publisher_dapr_bulk.h"

#define BULK_MAX_ENTRIES 100

/* What an entry needs besides its payload, roughly. */
#define ENTRY_OVERHEAD 768

static void version_done(void *arg, int64 id, const HttpResult *result);

/* The route to use now for what can also go without. */
static DaprBulkRoute
current_route(DaprPublisher *dapr)
{
	if (dapr->bulk.has_stable && !dapr->bulk.missing[DAPR_BULK_ROUTE_STABLE])
		return DAPR_BULK_ROUTE_STABLE;
	if (!dapr->bulk.missing[DAPR_BULK_ROUTE_ALPHA])
		return DAPR_BULK_ROUTE_ALPHA;
	return DAPR_BULK_ROUTE_NONE;
}

/*
 * The route for the one message of a batch that can go no other way; NONE: all
 * have been tried.
 */
static DaprBulkRoute
detour_route(const DaprPublisher *dapr, const HttpBatch *batch)
{
	DaprBulkRoute first = dapr->bulk.has_stable ?
	DAPR_BULK_ROUTE_STABLE : DAPR_BULK_ROUTE_ALPHA;
	DaprBulkRoute second = dapr->bulk.has_stable ?
	DAPR_BULK_ROUTE_ALPHA : DAPR_BULK_ROUTE_STABLE;

	if (!(batch->tried & (1 << first)))
		return first;
	if (!(batch->tried & (1 << second)))
		return second;
	return DAPR_BULK_ROUTE_NONE;
}

/* Tell how large a batch may be, after something that it depends on changed. */
static void
set_max_batch(DaprPublisher *dapr)
{
	OutboxPublisherState *state = dapr->http.state;

	state->max_batch = BULK_MAX_ENTRIES;
	state->max_batch_bytes = HTTP_BATCH_BYTES_MAX;
	if (dapr->bulk.mode == DAPR_BULK_OFF ||
		current_route(dapr) == DAPR_BULK_ROUTE_NONE)
		state->max_batch = 1;
}

/* The settings are read; what was found out with the old ones is forgotten. */
void
dapr_bulk_configure(DaprPublisher *dapr)
{
	http_client_cancel(dapr->http.client, 0, version_done);
	dapr->bulk.mode = guc_dapr_bulk;
	dapr->bulk.asked_at = 0;
	dapr->bulk.version[0] = '\0';
	dapr->bulk.has_stable = false;
	memset(dapr->bulk.missing, false, sizeof(dapr->bulk.missing));
	set_max_batch(dapr);
}

/* HttpDoneCB of the question for daprd's version.  No answer is one, too. */
static void
version_done(void *arg, int64 id, const HttpResult *result)
{
	DaprPublisher *dapr = arg;
	const char *version;
	MemoryContext old;

	if (result->status != 200)
		return;
	MemoryContextReset(dapr->http.scratch);
	old = MemoryContextSwitchTo(dapr->http.scratch);
	version = dapr_version_in(result->body, result->body_len);
	if (version)
		dapr_version_found(&dapr->bulk, version);
	MemoryContextSwitchTo(old);
	set_max_batch(dapr);
}

/* Start to ask daprd for its version, in place of a question that is open. */
static void
ask_version(DaprPublisher *dapr)
{
	HttpRequest *request;
	MemoryContext old;

	http_client_cancel(dapr->http.client, 0, version_done);
	dapr->bulk.asked_at = clock_ms();
	request = http_client_new_request(dapr->http.client, 0, version_done);
	old = MemoryContextSwitchTo(http_request_context(request));
	http_request_get(request, psprintf("%s/v1.0/metadata", dapr->base_url));
	MemoryContextSwitchTo(old);
	http_client_start(dapr->http.client, request);
}

/*
 * A message goes alone.  If that is for want of a route, is daprd another one by
 * now?
 */
void
dapr_bulk_look_again(DaprPublisher *dapr)
{
	if (dapr->bulk.mode != DAPR_BULK_OFF &&
		current_route(dapr) == DAPR_BULK_ROUTE_NONE &&
		clock_ms() - dapr->bulk.asked_at >= guc_breaker_probe_interval)
		ask_version(dapr);
}

/*
 * Why can this message not be in a bulk request?  NULL: it can.  rawPayload is
 * for a whole request, not for one of its events.
 */
static const char *
bulk_obstacle(const DaprPublisher *dapr, const OutboxMessage *message)
{
	if (cloudevent_get_metadata(message, "rawPayload") != NULL)
		return "its bulk API has no rawPayload";
	if (dapr->bulk.mode != DAPR_BULK_ON && message->is_json &&
		!dapr_numbers_are_exact(message->payload, message->payload_len))
		return "its bulk API would change the numbers";
	return NULL;
}

/* OutboxCanBatchCB */
bool
dapr_bulk_can_batch(OutboxPublisherState *state, const OutboxMessage *message)
{
	return bulk_obstacle(state->private_data, message) == NULL;
}

/*
 * Append the metadata of an event, key and time to live among them: an object,
 * always.
 */
static void
append_metadata(StringInfo body, const OutboxMessage *message)
{
	const char *key = dapr_partition_key(message);
	int			ttl = dapr_ttl_seconds(message);
	const char *separator = message->nmetadata > 0 ? "," : "";

	cloudevent_append_metadata(body, message);
	body->len--;				/* the brace */
	if (key != NULL)
	{
		appendStringInfo(body, "%s\"partitionKey\":", separator);
		json_append_string(body, key, strlen(key));
		separator = ",";
	}
	if (ttl > 0)
		appendStringInfo(body, "%s\"ttlInSeconds\":\"%d\"", separator, ttl);
	appendStringInfoChar(body, '}');
}

static void
append_entry(StringInfo body, const OutboxMessage *message,
			 const char *source)
{
	appendStringInfoString(body, "{\"entryId\":\"");
	appendStringInfoString(body, message->event_id);
	appendStringInfoString(body, "\",\"event\":");
	cloudevent_append(body, message, source, CLOUDEVENT_TRACEID);
	appendStringInfoString(body, ",\"contentType\":"
						   "\"application/cloudevents+json\",\"metadata\":");
	append_metadata(body, message);
	appendStringInfoChar(body, '}');
}

/* HttpPublisherKind.make_batch_request */
void
dapr_bulk_make_request(HttpPublisher *publisher, HttpRequest *request,
					   HttpBatch *batch)
{
	DaprPublisher *dapr = (DaprPublisher *) publisher;
	DaprBulkRoute route = batch->detour ? detour_route(dapr, batch) :
	current_route(dapr);
	const char *content_type = "application/json";
	StringInfoData url;
	StringInfoData body;
	Size		size = 0;

	/* what comes of it is for later batches: this one does not wait */
	if (dapr->bulk.asked_at == 0)
		ask_version(dapr);

	/* with none left, there are no batches but one that found out just now */
	if (route == DAPR_BULK_ROUTE_NONE)
		route = DAPR_BULK_ROUTE_ALPHA;
	batch->route = route;
	batch->tried |= 1 << route;

	/*
	 * With this type, which the stable route does not look at, a daprd that
	 * takes it for a component refuses the array, which is no event, in place
	 * of publishing it.
	 */
	if (route == DAPR_BULK_ROUTE_STABLE && !dapr->bulk.has_stable)
		content_type = "application/cloudevents+json";

	initStringInfo(&url);
	appendStringInfo(&url, "%s/%s/publish/bulk/%s/", dapr->base_url,
					 route == DAPR_BULK_ROUTE_STABLE ? "v1.0" : "v1.0-alpha1",
					 dapr->pubsub);
	text_append_uri_segment(&url, batch->messages[0]->topic);

	/* growing step by step would copy what is there again and again */
	for (int i = 0; i < batch->nmessages; i++)
		size += batch->messages[i]->payload_len + ENTRY_OVERHEAD;
	initStringInfo(&body);
	enlargeStringInfo(&body, size);
	for (int i = 0; i < batch->nmessages; i++)
	{
		appendStringInfoChar(&body, i == 0 ? '[' : ',');
		append_entry(&body, batch->messages[i], publisher->state->source);
	}
	appendStringInfoChar(&body, ']');

	http_request_post(request, url.data, content_type, body.data, body.len);
}

/*
 * Does the response to a batch say that its route is not there?  daprd takes
 * an unknown path for the name of an application, and before 1.17 the stable
 * route for that to a component.
 */
static bool
route_is_missing(const HttpBatch *batch, const HttpResult *result,
				 const HttpVerdict *verdict)
{
	if (result->status != 404 || verdict->code == NULL)
		return false;
	if (strcmp(verdict->code, "ERR_DIRECT_INVOKE") == 0)
		return true;
	return batch->route == DAPR_BULK_ROUTE_STABLE &&
		strcmp(verdict->code, "ERR_PUBSUB_NOT_FOUND") == 0 &&
		verdict->message != NULL &&
		strcmp(verdict->message, "pubsub bulk is not found") == 0;
}

/* The entries that a response names as failed. */
typedef struct FailedEntries
{
	const HttpResult *result;
	const HttpVerdict *verdict;
	const HttpBatch *batch;
	OutboxAnswer *answers;		/* errors are filled in */
	bool	   *listed;			/* for each message: is it among them? */
	const char *entry_id;		/* of the object that is being read */
	const char *error;
	int			n;				/* entries read */
	bool		unknown;		/* one of them is of no message */
} FailedEntries;

/*
 * An entry has been read.  One that is of no message may be that of a message
 * cancelled meanwhile, but may as well mean any other one.
 */
static void
entry_failed(FailedEntries *failed)
{
	HttpVerdict verdict = *failed->verdict;
	int			i;

	failed->n++;
	for (i = 0; i < failed->batch->nmessages; i++)
	{
		if (failed->entry_id != NULL &&
			strcmp(failed->batch->messages[i]->event_id,
				   failed->entry_id) == 0)
			break;
	}
	if (i == failed->batch->nmessages)
	{
		failed->unknown = true;
		return;
	}
	failed->listed[i] = true;
	verdict.message = failed->error ? failed->error : "";
	failed->answers[i].error =
		http_answer_error_line(failed->result, &verdict);
}

/*
 * JsonMemberCB: failedEntries is an array of objects in the outermost one.
 * Whatever else is in that array may mean any message.
 */
static void
entry_member(void *arg, int depth, const char *top, const char *name,
			 const char *value)
{
	FailedEntries *failed = arg;

	if (top == NULL || strcmp(top, "failedEntries") != 0)
		return;
	if (depth == 2 && name == NULL && value != NULL)
	{
		failed->n++;
		failed->unknown = true;
	}
	if (depth != 3)
		return;
	if (name == NULL && value == NULL)
	{
		entry_failed(failed);
		failed->entry_id = NULL;
		failed->error = NULL;
	}
	else if (name != NULL && strcmp(name, "entryId") == 0)
		failed->entry_id = value;
	else if (name != NULL && strcmp(name, "error") == 0)
		failed->error = value;
}

/*
 * The one message of a batch can be sent neither alone, for its URL, nor in
 * bulk: say why, and what to do.
 */
static void
set_too_long(OutboxAnswer *answer, const char *obstacle)
{
	answer->outcome = OUTBOX_REJECTED;
	answer->error = psprintf("key and metadata do not fit into daprd's limit for a URL, and %s: raise its --read-buffer-size",
							 obstacle);
}

/* A message alone was refused: is that for its URL, and is there another way? */
static HttpBatchFate
judge_alone(DaprPublisher *dapr, const HttpBatch *batch,
			const HttpResult *result, OutboxAnswer *answer)
{
	const OutboxMessage *message = batch->messages[0];
	const char *obstacle;

	/* Request Header Fields Too Large, or from what is before daprd, URI */
	if (result->status != 431 && result->status != 414)
		return HTTP_BATCH_ANSWER;

	/* neither is for what the other way has in its body */
	if (message->nmetadata == 0 && message->key == NULL)
		return HTTP_BATCH_ANSWER;
	obstacle = bulk_obstacle(dapr, message);
	if (obstacle == NULL)
		return HTTP_BATCH_AGAIN;
	set_too_long(answer, obstacle);
	return HTTP_BATCH_ANSWER;
}

static void
set_delivered(OutboxAnswer *answer)
{
	answer->outcome = OUTBOX_DELIVERED;
	answer->status = 0;
	answer->retry_after_ms = -1;
	answer->error = NULL;
}

/*
 * HttpPublisherKind.judge_batch.  A response of status 500 may name the events
 * that failed; daprd has published all others.  A list with a name that is not
 * of this request says nothing of any event: each is sent again by itself.
 */
HttpBatchFate
dapr_bulk_judge(HttpPublisher *publisher, const HttpBatch *batch,
				const HttpResult *result, const HttpVerdict *verdict,
				OutboxAnswer *answers)
{
	DaprPublisher *dapr = (DaprPublisher *) publisher;
	FailedEntries failed = {result, verdict, batch, answers};
	bool		whole;
	bool		cut;

	if (batch->alone)
		return judge_alone(dapr, batch, result, &answers[0]);
	if (route_is_missing(batch, result, verdict))
	{
		/* with other settings, this may have been another daprd */
		if (batch->generation == publisher->generation)
			dapr->bulk.missing[batch->route] = true;
		set_max_batch(dapr);
		if (!batch->detour)
			return publisher->state->max_batch > 1 ?
				HTTP_BATCH_AGAIN : HTTP_BATCH_ALONE;
		if (detour_route(dapr, batch) != DAPR_BULK_ROUTE_NONE)
			return HTTP_BATCH_AGAIN;
		set_too_long(&answers[0], "it has no bulk API");
		return HTTP_BATCH_ANSWER;
	}
	if (result->status != 500)
		return HTTP_BATCH_ANSWER;

	failed.listed = palloc0(batch->nmessages * sizeof(bool));
	whole = json_members_read(result->body, result->body_len, entry_member,
							  &failed);

	/*
	 * A text that cannot be read to its end may have a list where it stops:
	 * it broke off, or is longer than what is kept of it.  Without one, it is
	 * about the request.
	 */
	cut = result->error != NULL || (!whole && result->body[0] == '{');
	if (failed.n == 0 && !cut)
		return HTTP_BATCH_ANSWER;
	if (whole && failed.unknown && !batch->detour)
		return HTTP_BATCH_ALONE;

	/* if the list was not read to its end, each event may be in it */
	whole &= failed.n > 0 && !failed.unknown;
	for (int i = 0; i < batch->nmessages; i++)
	{
		if (whole && !failed.listed[i])
			set_delivered(&answers[i]);
		else
			answers[i].outcome = OUTBOX_RETRY;
	}
	return HTTP_BATCH_ANSWER;
}
