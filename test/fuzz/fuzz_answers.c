/*-------------------------------------------------------------------------
 *
 * fuzz_answers.c
 *		A publisher's requests, answered by an input.
 *
 * An input is a byte of options, see below, and answers as they are sent, with
 * ANSWER_END behind each; behind the last one there are empty ones.
 *
 * What has to hold: what fuzz_server.c says; and one message by itself is
 * delivered only if there was an answer that may be taken for a 2xx.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/socket.h>

#include "fuzz_server.h"
#include "guc.h"
#include "publish/publishers.h"

/* The byte of options */
#define OPTION_ENDPOINT	0x01	/* the publisher is http, else dapr */
#define OPTION_KEEP		0x02	/* connections are kept open */
#define OPTION_BATCH	0x04	/* messages share a request */
#define OPTION_METADATA	0x08	/* messages have metadata */
#define OPTION_MESSAGES	0x30	/* so many and one more */
#define OPTION_CANCEL	0x40	/* one is cancelled on the way */
#define OPTION_RELOAD	0x80	/* settings are read again on the way */

#define ANSWER_END '\x1e'

#define TOKEN_FILE "fuzz.token"
#define HEADERS_FILE "fuzz.headers"
#define HEADER "X-Key: " FUZZ_SECRET

static FuzzInput *answers;
static bool keep;
static bool any_2xx;

/* FuzzAnswerCB */
static bool
send_answer(int fd, const char *request, Size request_len)
{
	Size		len;
	const char *answer = fuzz_part(answers, ANSWER_END, &len);

	for (Size i = 0; i + 1 < len; i++)
		any_2xx |= answer[i] == ' ' && answer[i + 1] == '2';
	return send(fd, answer, len, MSG_NOSIGNAL) >= 0 && keep;
}

static void
make_messages(FuzzExchange *exchange, uint8 options)
{
	static const OutboxMetadata metadata = {"rawKey", "a b"};
	static const char *const ids[FUZZ_MAX_MESSAGES] = {
		"0198a000-0000-7000-8000-00000000000a",
		"0198a000-0000-7000-8000-00000000000b",
		"0198a000-0000-7000-8000-00000000000c",
		"0198a000-0000-7000-8000-00000000000d"
	};

	exchange->nmessages = ((options & OPTION_MESSAGES) >> 4) + 1;
	for (int i = 0; i < exchange->nmessages; i++)
	{
		OutboxMessage message = {
			.id = i + 1,
			.event_id = ids[i],
			.topic = "t",
			.key = i > 0 ? "k" : NULL,
			.type = "t",
			.time = "2026-01-01T00:00:00.000000Z",
			.content_type = "application/json",
			.is_json = true,
			.payload = "{\"n\": 1.5}",
			.payload_len = 10,
			.metadata = &metadata,
			.nmetadata = options & OPTION_METADATA ? 1 : 0,
			.attempt = 1,
			.batch = options & OPTION_BATCH ? 0 : i
		};

		exchange->messages[i] = message;
	}
}

/* FuzzTarget */
void
fuzz_answers(FuzzInput *input)
{
	uint8		options = fuzz_byte(input);
	FuzzExchange exchange;

	answers = input;
	keep = (options & OPTION_KEEP) != 0;
	any_2xx = false;
	if (guc_http_headers_file[0] == '\0')
	{
		fuzz_write_file(TOKEN_FILE, FUZZ_SECRET, strlen(FUZZ_SECRET));
		fuzz_write_file(HEADERS_FILE, HEADER, strlen(HEADER));
		fuzz_set_setting("outbox.dapr_api_token_file", TOKEN_FILE);
		fuzz_set_setting("outbox.http_headers_file", HEADERS_FILE);
		fuzz_set_setting("outbox.http_url", "http://localhost/{topic}");
		fuzz_set_setting("outbox.dapr_bulk", "auto");
	}
	fuzz_set_setting("outbox.http_batch_size",
					 options & OPTION_BATCH ? "10" : "1");

	fuzz_exchange_start(&exchange,
						options & OPTION_ENDPOINT ? &http_publisher : &dapr_publisher,
						send_answer);
	if (!fuzz_exchange_configure(&exchange))
		fuzz_fail("not configured");
	make_messages(&exchange, options);
	fuzz_exchange_submit(&exchange);
	if (options & OPTION_CANCEL)
		fuzz_exchange_cancel(&exchange, 0);
	if (options & OPTION_RELOAD)
		(void) fuzz_exchange_configure(&exchange);
	fuzz_exchange_finish(&exchange);

	/* what a list of failures does to several is for fuzz_bodies.c */
	if (exchange.nmessages == 1 && exchange.outcomes[0] == OUTBOX_DELIVERED &&
		!any_2xx)
		fuzz_fail("delivered without a 2xx");
}
