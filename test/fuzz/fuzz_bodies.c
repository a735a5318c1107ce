/*-------------------------------------------------------------------------
 *
 * fuzz_bodies.c
 *		What Dapr's answer to a bulk request means, an input being its body.
 *
 * This is fuzz_answers.c without libcurl, for more inputs a second and a closer
 * look.
 *
 * An input is a byte of options, see below, and the body.
 *
 * What has to hold: if the answer is an error, an event is delivered only if the
 * body is JSON by the server's own parser, with a list "failedEntries" that is
 * not empty, in which each entry is of an event in the request, and none is this
 * event's.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"

#include "fuzz_server.h"
#include "guc.h"
#include "publish/http_answer.h"
#include "publish/publisher_dapr_bulk.h"
#include "publish/publishers.h"

/* The byte of options */
#define OPTION_STATUS	0x07	/* which one of the statuses */
#define OPTION_MESSAGES	0x18	/* so many and one more */
#define OPTION_ALONE	0x20	/* a request of its own */
#define OPTION_DETOUR	0x40	/* a batch of one that could not be sent so */
#define OPTION_BROKEN	0x80	/* the body broke off */


static const int statuses[] = {500, 400, 403, 404, 413, 431, 503, 207};

static const OutboxMessage messages[FUZZ_MAX_MESSAGES] = {
	{.id = 1,.event_id = "0198a000-0000-7000-8000-00000000000a",.topic = "t",
	.key = "k"},
	{.id = 2,.event_id = "0198a000-0000-7000-8000-00000000000b",.topic = "t"},
	{.id = 3,.event_id = "0198a000-0000-7000-8000-00000000000c",.topic = "t"},
	{.id = 4,.event_id = "0198a000-0000-7000-8000-00000000000d",.topic = "t"}
};

/* The member of an object, if it is there and not a scalar. */
static JsonbContainer *
get_container(Jsonb *object, const char *name)
{
	JsonbValue	value;

	if (!JB_ROOT_IS_OBJECT(object) ||
		getKeyJsonValueFromContainer(&object->root, name, strlen(name), &value) == NULL ||
		value.type != jbvBinary)
		return NULL;
	return value.val.binary.data;
}

/* Of which event is an element of failedEntries?  -1: of none. */
static int
entry_message(JsonbValue *entry, int nmessages)
{
	JsonbValue	value;

	if (entry->type != jbvBinary || !JsonContainerIsObject(entry->val.binary.data) ||
		getKeyJsonValueFromContainer(entry->val.binary.data, "entryId", 7, &value) == NULL ||
		value.type != jbvString)
		return -1;
	for (int i = 0; i < nmessages; i++)
	{
		if (value.val.string.len == strlen(messages[i].event_id) &&
			memcmp(value.val.string.val, messages[i].event_id,
				   value.val.string.len) == 0)
			return i;
	}
	return -1;
}

/* May the answer be one by which this message is delivered? */
static void
check_delivered(int message, int nmessages, const HttpResult *result)
{
	Jsonb	   *jsonb;
	JsonbContainer *failed;

	if (result->status != 500 || !fuzz_is_json(result->body) ||
		strlen(result->body) != result->body_len)
		fuzz_fail("delivered by something else than a list");

	/* what is no jsonb for another reason than its grammar has been looked at */
	jsonb = fuzz_jsonb(result->body);
	if (jsonb == NULL)
		return;
	failed = get_container(jsonb, "failedEntries");
	if (failed == NULL || !JsonContainerIsArray(failed) ||
		JsonContainerSize(failed) == 0)
		fuzz_fail("delivered by an empty list");
	for (int i = 0; i < JsonContainerSize(failed); i++)
	{
		int			n = entry_message(getIthJsonbValueFromContainer(failed, i),
									  nmessages);

		if (n < 0 || n == message)
			fuzz_fail("delivered in spite of an entry");
	}
}

/* OutboxPublisherState.answer and probe_answer: judging answers nothing. */
static void
take_answer(OutboxPublisherState *state, const OutboxAnswer *answer)
{
	fuzz_fail("an answer");
}

static void
take_probe_answer(OutboxPublisherState *state, bool ok, const char *error)
{
	fuzz_fail("an answer to a probe");
}

/* OutboxPublisherState.notice */
static void
take_notice(OutboxPublisherState *state, OutboxNotice notice, const char *problem)
{
}

/* FuzzTarget */
void
fuzz_bodies(FuzzInput *input)
{
	static const char *const secrets[] = {FUZZ_SECRET};
	uint8		options = fuzz_byte(input);
	int			nmessages = options & (OPTION_ALONE | OPTION_DETOUR) ? 1 :
	((options & OPTION_MESSAGES) >> 3) + 1;
	HttpOptions http_options = {.secrets = secrets,.nsecrets = 1};
	HttpResult	result = {
		.status = statuses[options & OPTION_STATUS],
		.sent = true,
		.error = options & OPTION_BROKEN ? "broke off" : NULL,
		.retry_after_ms = -1,
		.body_len = input->len,
		.options = &http_options
	};
	OutboxPublisherState state = {
		.context = CurrentMemoryContext,
		.answer = take_answer,
		.probe_answer = take_probe_answer,
		.notice = take_notice
	};
	HttpPublisher *publisher;
	HttpVerdict verdict;
	HttpBatch  *batch;
	OutboxAnswer answers[FUZZ_MAX_MESSAGES];
	const char *error;
	char	   *body = palloc(input->len + 1);

	memcpy(body, input->data, input->len);
	body[input->len] = '\0';
	result.body = body;
	dapr_publisher.startup_cb(&state);
	publisher = state.private_data;
	dapr_bulk_configure((DaprPublisher *) publisher);

	batch = palloc0(offsetof(HttpBatch, messages) +
					FUZZ_MAX_MESSAGES * sizeof(OutboxMessage *));
	batch->alone = (options & OPTION_ALONE) != 0;
	batch->detour = !batch->alone && (options & OPTION_DETOUR);
	batch->nmessages = nmessages;
	for (int i = 0; i < nmessages; i++)
		batch->messages[i] = &messages[i];

	error = http_answer_judge(publisher, &result, &verdict);
	if (error != NULL)
	{
		fuzz_check_error(error, FUZZ_SECRET);
		for (int i = 0; i < nmessages; i++)
			http_answer_fill(&answers[i], batch->messages[i]->id, &result,
							 verdict.outcome, error);
		if (verdict.outcome != OUTBOX_REJECTED &&
			dapr_bulk_judge(publisher, batch, &result, &verdict,
							answers) == HTTP_BATCH_ANSWER)
		{
			for (int i = 0; i < nmessages; i++)
			{
				if (answers[i].outcome == OUTBOX_DELIVERED)
					check_delivered(i, nmessages, &result);
				else
					fuzz_check_error(answers[i].error, FUZZ_SECRET);
			}
		}
	}
	dapr_publisher.shutdown_cb(&state);
}
