/*-------------------------------------------------------------------------
 *
 * publisher_over_http.c
 *		What the publishers that speak HTTP have in common.
 *
 * A publisher is a PublisherKind: how to read its settings, how to make a
 * request of a message, what to think of a response.  All else, from the
 * check of a message to the line that tells the operator what went wrong, is
 * here and the same for all of them; what is about requests that several
 * messages share is in http_batch.c.
 *
 * Memory.  The publisher's state lives as long as the publisher is loaded.
 * Settings are in a context that is reset when they are read again; requests
 * in flight do not point there.  The text of an error is made in a context
 * that is reset for the next one.
 *
 * Errors.  A wrong setting, an unreadable file or a message that cannot be
 * sent is an answer, not an error.  Errors are thrown out of memory and when
 * libcurl fails; the relay then cancels what is in flight.
 *
 * Secrets (the contents of files that settings name) go into headers only.  A
 * server may repeat what it was sent, so that its texts are searched for them
 * before they are shown.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "publish/cloudevent.h"
#include "guc.h"
#include "lib/text.h"
#include "publish/http_batch.h"
#include "publish/publisher_over_http.h"
#include "utils/memutils.h"

/*
 * The most that a message may put into a request's URL and headers, before
 * they are encoded.  No server takes more, and libcurl stops at a megabyte.
 */
#define ATTRIBUTES_MAX (64 * 1024)

/* Allocate the publisher's state. */
void
common_startup(OutboxPublisherState *state, const PublisherKind *kind)
{
	CommonState *common = palloc0(kind->size);

	common->kind = kind;
	common->state = state;
	common->settings = AllocSetContextCreate(CurrentMemoryContext,
											 "outbox publisher settings",
											 ALLOCSET_SMALL_SIZES);
	common->scratch = AllocSetContextCreate(CurrentMemoryContext,
											"outbox publisher answer",
											ALLOCSET_DEFAULT_SIZES);
	common->client = http_client_create(common);
	dlist_init(&common->batches);
	dlist_init(&common->again);
	state->private_data = common;
}

bool
common_check_configured(OutboxPublisherState *state, const char **reason)
{
	CommonState *common = state->private_data;
	HttpOptions options = {0};
	MemoryContext old;
	bool		configured;

	common->configured = false;
	MemoryContextReset(common->settings);
	common->secrets = NIL;
	common->generation++;

	old = MemoryContextSwitchTo(common->settings);
	configured = common->kind->configure(common, &options, reason);
	MemoryContextSwitchTo(old);
	if (!configured)
		return false;

	if (guc_tls_ca_file[0] != '\0')
		options.ca_file = guc_tls_ca_file;
	options.connect_timeout = state->connect_timeout;
	options.request_timeout = state->request_timeout;
	/* a probe, and a question of the publisher's own */
	options.max_connections = state->max_in_flight + 2;
	http_client_configure(common->client, &options);
	common->configured = true;
	return true;
}

/*
 * Why the message cannot be sent, or NULL.  What is stored has been checked
 * already; but one line break in a header is another header, which makes it
 * worth a second look.
 */
static const char *
message_problem(const OutboxMessage *message)
{
	const char *const texts[] = {message->event_id, message->topic,
		message->key, message->type, message->time, message->traceparent,
	message->content_type};
	Size		total = 0;

	for (int i = 0; i < lengthof(texts); i++)
	{
		Size		len;

		if (texts[i] == NULL)
			continue;
		len = strlen(texts[i]);
		if (text_has_control(texts[i], len))
			return "an attribute of the event contains a control character";
		total += len;
	}
	for (int i = 0; i < message->nmetadata; i++)
	{
		const OutboxMetadata *entry = &message->metadata[i];
		Size		namelen = strlen(entry->name);
		Size		valuelen = strlen(entry->value);

		if (text_has_control(entry->name, namelen) ||
			text_has_control(entry->value, valuelen))
			return "the metadata of the event contains a control character";
		total += namelen + valuelen;
	}
	if (total > ATTRIBUTES_MAX)
		return "the attributes and the metadata of the event are too large";
	if (message->payload_len > CLOUDEVENT_MAX_PAYLOAD)
		return "the payload of the event is too large";
	return NULL;
}

/*
 * Overwrite what must not be shown with stars.  "str" is the server's, and
 * may hold a secret as often as it likes; long ones come first, since one may
 * be a part of another.
 */
static void
mask_secrets(CommonState *common, char *str)
{
	ListCell   *lc;

	foreach(lc, common->secrets)
	{
		const char *secret = lfirst(lc);
		Size		len = strlen(secret);

		for (char *p = strstr(str, secret); p; p = strstr(p + len, secret))
			memset(p, '*', len);
	}
}

/*
 * The line that tells an operator why there was no 2xx: "HTTP 500 CODE: what
 * the server said", or what libcurl says if the server said nothing.  In the
 * current memory context.
 */
const char *
common_error_line(CommonState *common, const HttpResult *result,
				  const Verdict *verdict)
{
	const char *str = verdict->message ? verdict->message : result->body;
	StringInfoData foreign;
	StringInfoData line;

	if (str[0] == '\0' && result->error != NULL)
		str = result->error;

	else if (str[0] == '\0' && result->status >= 300 && result->status < 400)
		str = "redirects are not followed";

	initStringInfo(&foreign);
	if (verdict->code != NULL)
		appendStringInfo(&foreign, " %s", verdict->code);
	if (str[0] != '\0')
		appendStringInfo(&foreign, result->status != 0 ? ": %s" : "%s", str);
	mask_secrets(common, foreign.data);

	initStringInfo(&line);
	if (result->status != 0)
		appendStringInfo(&line, "HTTP %d", result->status);
	text_append_line(&line, foreign.data, ERROR_TEXT_MAX, true);
	return line.data;
}

/*
 * What a result means for a message.  NULL if it is delivered, else the reason
 * in one line; that and the verdict last until the next call.  The status
 * decides, even if the response broke off in its body.
 */
const char *
common_judge(CommonState *common, const HttpResult *result,
			 Verdict *verdict)
{
	MemoryContext old;
	const char *error;

	MemoryContextReset(common->scratch);
	verdict->outcome = OUTBOX_DELIVERED;
	verdict->code = NULL;
	verdict->message = NULL;
	if (result->status >= 200 && result->status < 300)
		return NULL;

	verdict->outcome = OUTBOX_UNAVAILABLE;
	old = MemoryContextSwitchTo(common->scratch);
	if (result->status != 0)
		common->kind->judge(result, verdict);
	error = common_error_line(common, result, verdict);
	MemoryContextSwitchTo(old);
	return error;
}

/* HttpDoneCB of every message. */
static void
message_done(void *arg, int64 id, const HttpResult *result)
{
	CommonState *common = arg;
	OutboxAnswer answer;
	Verdict		verdict;

	answer.id = id;
	answer.error = common_judge(common, result, &verdict);
	answer.outcome = verdict.outcome;
	answer.status = result->status;
	answer.retry_after_ms = answer.error ? result->retry_after_ms : -1;
	outbox_answer(common->state, &answer);
}

/* Can the message be sent?  If not, this is the answer. */
bool
common_check_message(CommonState *common, const OutboxMessage *message)
{
	OutboxAnswer answer = {0};

	answer.error = message_problem(message);
	if (answer.error == NULL)
		return true;
	answer.id = message->id;
	answer.outcome = OUTBOX_REJECTED;
	answer.retry_after_ms = -1;
	outbox_answer(common->state, &answer);
	return false;
}

/* Start the request of one message. */
void
common_send(CommonState *common, const OutboxMessage *message)
{
	HttpRequest *request;
	MemoryContext old;

	if (!common_check_message(common, message))
		return;
	request = http_client_new_request(common->client, message->id,
									  message_done);
	old = MemoryContextSwitchTo(http_request_context(request));
	common->kind->send(common, request, message);
	MemoryContextSwitchTo(old);
	http_client_start(common->client, request);
}

/* Let requests make progress, those included that come of others' answers. */
void
common_progress(CommonState *common, const OutboxSocket *ready, int n)
{
	http_client_ready(common->client, ready, n);
	while (batch_send_again(common))
		http_client_ready(common->client, NULL, 0);
}

void
common_submit(OutboxPublisherState *state,
			  const OutboxMessage *const *messages, int n)
{
	CommonState *common = state->private_data;
	int			next;

	for (int i = 0; i < n; i = next)
	{
		next = i + 1;
		while (next < n && messages[next]->batch == messages[i]->batch)
			next++;
		batch_send(common, messages + i, next - i);
	}
	common_progress(common, NULL, 0);
}

int
common_sockets(OutboxPublisherState *state, const OutboxSocket **sockets,
			   long *timeout_ms)
{
	CommonState *common = state->private_data;

	return http_client_sockets(common->client, sockets, timeout_ms);
}

void
common_ready(OutboxPublisherState *state, const OutboxSocket *ready, int n)
{
	common_progress(state->private_data, ready, n);
}

void
common_cancel(OutboxPublisherState *state, int64 id)
{
	CommonState *common = state->private_data;

	if (!batch_cancel(common, id))
		http_client_cancel(common->client, id, message_done);
}

void
common_shutdown(OutboxPublisherState *state)
{
	CommonState *common = state->private_data;

	http_client_destroy(common->client);
	MemoryContextDelete(common->settings);
	MemoryContextDelete(common->scratch);
	pfree(common);
	state->private_data = NULL;
}

static int
compare_longer(const ListCell *a, const ListCell *b)
{
	Size		x = strlen(lfirst(a));
	Size		y = strlen(lfirst(b));

	return x < y ? 1 : x > y ? -1 : 0;
}

/* Never show this.  "secret" stays the caller's; it lasts as the settings do. */
void
common_hide(CommonState *common, char *secret)
{
	if (secret[0] != '\0')
	{
		common->secrets = lappend(common->secrets, secret);
		list_sort(common->secrets, compare_longer);
	}
}
