/*-------------------------------------------------------------------------
 *
 * http_answer.c
 *		What messages are answered, before and after their request.
 *
 * A message that must not be sent is rejected here.  What a response means is
 * the publisher's to say (HttpPublisherKind.judge); the line that tells it to
 * the operator is made here, the same for all of them.
 *
 * Secrets (the contents of files that settings name) go into headers and URLs
 * only.  A server may repeat what it was sent, so that its texts are searched for
 * them before they are shown (secret_text.c).  With outbox.log_responses off, nothing
 * of what a server says is shown but the status.
 *
 * Memory.  The text of an error is made in a context that is reset for the
 * next one; answering copies it.
 *
 * Errors.  A message that cannot be sent and a request that failed are
 * answers.  Nothing is thrown but out of memory.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "guc.h"
#include "lib/text.h"
#include "publish/cloudevent.h"
#include "publish/http_answer.h"
#include "publish/secret_text.h"

/*
 * The most that a message may put into a request's URL and headers, before
 * they are encoded.  No server takes more, and libcurl stops at a megabyte.
 */
#define ATTRIBUTES_MAX (64 * 1024)

/* Seconds that clocks may differ: what receivers of signatures allow. */
#define CLOCK_SKEW_MAX 300

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

	/* these would fail at every try, and not by a fault of the destination */
	if (total > ATTRIBUTES_MAX)
		return "the attributes and the metadata of the event are too large";
	if (message->payload_len > CLOUDEVENT_MAX_PAYLOAD)
		return "the payload of the event is too large";
	return NULL;
}

/* Can the message be sent?  If not, it is answered. */
bool
http_answer_check(HttpPublisher *publisher, const OutboxMessage *message)
{
	OutboxAnswer answer = {0};

	answer.error = message_problem(message);
	if (answer.error == NULL && publisher->kind->message_problem != NULL)
		answer.error = publisher->kind->message_problem(publisher, message);
	if (answer.error == NULL)
		return true;
	answer.id = message->id;
	answer.outcome = OUTBOX_REJECTED;
	answer.retry_after_ms = -1;
	outbox_answer(publisher->state, &answer);
	return false;
}

/*
 * How many bytes of a text can be seen, or are needed to find a secret that begins
 * among these: an error is a short line, and what is answered may be long.
 */
static Size
visible_length(const HttpOptions *options, const char *str)
{
	Size		left = OUTBOX_ERROR_SIZE;
	Size		more;
	const char *p = str;

	/* of white space, any number of bytes may become one */
	for (; *p != '\0' && left > 0; p++)
		left -= *p != ' ' && !text_is_control(*p);

	/* the longest comes first, and a byte is written as "\u0000" at most */
	more = options->nsecrets > 0 ? 6 * strlen(options->secrets[0]) : 0;
	return p - str + strnlen(p, more);
}

/*
 * The line that tells an operator why there was no 2xx: "HTTP 500 CODE: what
 * the server said", or what libcurl says if the server said nothing.  In the
 * current memory context.
 */
const char *
http_answer_error_line(const HttpResult *result, const HttpVerdict *verdict)
{
	const char *code = guc_log_responses ? verdict->code : NULL;
	const char *str = !guc_log_responses ? "" :
	verdict->message ? verdict->message : result->body;
	StringInfoData foreign;
	StringInfoData line;

	/* what shows nothing says nothing */
	while (*str == ' ' || (*str != '\0' && text_is_control(*str)))
		str++;
	if (str[0] == '\0' && result->error != NULL)
		str = result->error;
	else if (str[0] == '\0' && result->status >= 300 && result->status < 400)
		str = "redirects are not followed";

	initStringInfo(&foreign);
	if (code != NULL)
		appendStringInfo(&foreign, " %s", code);
	if (str[0] != '\0' && result->status != 0)
		appendStringInfoString(&foreign, ": ");
	appendBinaryStringInfo(&foreign, str, visible_length(result->options, str));

	/*
	 * Before the text is made one line and cut, which might leave the half of
	 * a secret that would not be found any more.  What the server was told is
	 * what the request had: the settings may be others by now.
	 */
	secret_text_mask(result->options->secrets, result->options->nsecrets,
					 foreign.data);

	initStringInfo(&line);
	if (result->status != 0)
		appendStringInfo(&line, "HTTP %d", result->status);
	text_append_line(&line, foreign.data, OUTBOX_ERROR_SIZE - 1 - line.len,
					 true);
	return line.data;
}

/*
 * Tell the relay of a server whose clock is wrong, or ours: it would not believe the
 * time in a signature or a token.  Only what is new is said.
 */
static void
compare_clocks(HttpPublisher *publisher, const HttpResult *result)
{
	bool		differ = result->clock_skew > CLOCK_SKEW_MAX ||
	result->clock_skew < -CLOCK_SKEW_MAX;
	int64		minutes = Max(result->clock_skew, -result->clock_skew) / 60;

	if (!result->has_date ||
		(publisher->clocks_known && publisher->clocks_differ == differ))
		return;
	publisher->clocks_known = true;
	publisher->clocks_differ = differ;
	outbox_notice(publisher->state, OUTBOX_NOTICE_CLOCK, !differ ? NULL :
				  psprintf("to the receiver it is " INT64_FORMAT " minutes %s than here",
						   minutes, result->clock_skew > 0 ? "later" : "earlier"));
}

/*
 * What a result means for a message.  NULL if it is delivered, else the reason
 * in one line; that and the verdict last until the next call.  The status
 * decides, even if the response broke off in its body.
 */
const char *
http_answer_judge(HttpPublisher *publisher, const HttpResult *result,
				  HttpVerdict *verdict)
{
	MemoryContext old;
	const char *error;

	MemoryContextReset(publisher->scratch);
	verdict->outcome = OUTBOX_DELIVERED;
	verdict->code = NULL;
	verdict->message = NULL;
	compare_clocks(publisher, result);

	/* a file may have what the server wants by now: look before the next try */
	if (result->status == 401)
		publisher->look_at = 0;
	if (result->status >= 200 && result->status < 300)
		return NULL;

	/*
	 * Who took the request and said nothing may do so to these messages only;
	 * without a connection, nobody is there.
	 */
	verdict->outcome = result->status == 0 && result->sent ?
		OUTBOX_RETRY : OUTBOX_UNAVAILABLE;
	old = MemoryContextSwitchTo(publisher->scratch);
	if (result->status != 0)
		publisher->kind->judge(publisher, result, verdict);
	error = http_answer_error_line(result, verdict);
	MemoryContextSwitchTo(old);
	return error;
}

/*
 * How long the server wants to be left alone, in milliseconds; -1: it does not
 * say.  Whoever limits the rate (Too Many Requests) wants a pause in any case.
 * Where nothing is any more (Gone), it is asked as seldom as possible.
 */
static int64
asked_pause(const HttpResult *result, OutboxOutcome outcome)
{
	if (result->status == 410 && outcome == OUTBOX_RETRY)
		return guc_max_retry_interval;
	if (result->status == 429 && result->retry_after_ms < 0)
		return guc_breaker_probe_interval;
	return result->retry_after_ms;
}

/* Fill in an answer; "error" is NULL if the message is delivered. */
void
http_answer_fill(OutboxAnswer *answer, int64 id, const HttpResult *result,
				 OutboxOutcome outcome, const char *error)
{
	memset(answer, 0, sizeof(*answer));
	answer->id = id;
	answer->outcome = outcome;
	answer->status = result->status;
	answer->retry_after_ms = error ? asked_pause(result, outcome) : -1;
	answer->error = error;
}

static int
compare_longer(const ListCell *a, const ListCell *b)
{
	Size		x = strlen(lfirst(a));
	Size		y = strlen(lfirst(b));

	return x < y ? 1 : x > y ? -1 : 0;
}

/*
 * Never show this.  To be called while the settings are read, in whose memory
 * context it is copied.
 */
void
http_answer_hide(HttpPublisher *publisher, const char *secret)
{
	publisher->secrets = secret_text_add(publisher->secrets, secret);
}

/* Fill in the secrets that were told since the settings began to be read. */
void
http_answer_set_secrets(HttpPublisher *publisher, HttpOptions *options)
{
	const char **secrets;
	ListCell   *lc;

	list_sort(publisher->secrets, compare_longer);
	secrets = palloc(sizeof(char *) * (list_length(publisher->secrets) + 1));
	foreach(lc, publisher->secrets)
		secrets[options->nsecrets++] = lfirst(lc);
	options->secrets = secrets;
}
