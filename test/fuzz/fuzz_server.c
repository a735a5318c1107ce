/*-------------------------------------------------------------------------
 *
 * fuzz_server.c
 *		Publishers that speak HTTP, and the server at their end in one process.
 *
 * Requests go through libcurl and a socket to a server, which has each answered
 * as the fuzzer likes.  When nothing moves any more, it closes what it has, so
 * that nobody waits.
 *
 * What has to hold whatever is answered: every message is answered, once, with
 * an outcome; what is not delivered has an error that people can be shown; no
 * answer is for a message that was not submitted.
 *
 * Memory.  A publisher is in the context that it was started in.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "storage/latch.h"
#include "utils/guc.h"

#include "fuzz_server.h"
#include "guc.h"
#include "publish/http_answer.h"
#include "publish/publishers.h"

#define MAX_PEERS 16

/* Far more than any exchange takes. */
#define MAX_STEPS 10000

/* Nothing waits for so long. */
#define TIMEOUT_MS 60000

/* A connection of the server */
typedef struct Peer
{
	int			fd;				/* -1: none */
	StringInfoData request;		/* what came of it since the last answer */
} Peer;

static int	listener = -1;
static Peer peers[MAX_PEERS];

static void
make_listener(void)
{
	struct sockaddr_un address = {
		.sun_family = AF_UNIX,
		.sun_path = FUZZ_SERVER_SOCKET
	};

	unlink(FUZZ_SERVER_SOCKET);
	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (listener < 0 ||
		bind(listener, (struct sockaddr *) &address, sizeof(address)) != 0 ||
		listen(listener, MAX_PEERS) != 0)
		fuzz_fail("could not listen on \"%s\": %m", FUZZ_SERVER_SOCKET);
	for (int i = 0; i < MAX_PEERS; i++)
		peers[i].fd = -1;
}

static void
close_peer(Peer *peer)
{
	close(peer->fd);
	peer->fd = -1;
}

/* Close every connection.  False: there was none. */
static bool
close_peers(void)
{
	bool		any = false;

	for (int i = 0; i < MAX_PEERS; i++)
	{
		if (peers[i].fd < 0)
			continue;
		close_peer(&peers[i]);
		any = true;
	}
	return any;
}

/* Take a connection.  False: there is none to take, or no room for it. */
static bool
accept_peer(void)
{
	for (int i = 0; i < MAX_PEERS; i++)
	{
		if (peers[i].fd >= 0)
			continue;
		peers[i].fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
		if (peers[i].fd < 0)
			return false;
		initStringInfo(&peers[i].request);
		return true;
	}
	return false;
}

/* Is the request there, its body included? */
static bool
has_request(const Peer *peer)
{
	const char *end = strstr(peer->request.data, "\r\n\r\n");
	const char *length = strstr(peer->request.data, "Content-Length: ");

	if (end == NULL)
		return false;
	end += 4;
	return length == NULL || length > end ||
		peer->request.data + peer->request.len - end >= atol(length + 16);
}

/* Let the server do what it can.  False: there was nothing to do. */
static bool
serve(FuzzExchange *exchange)
{
	bool		any = accept_peer();
	char		buf[8192];

	for (int i = 0; i < MAX_PEERS; i++)
	{
		Peer	   *peer = &peers[i];
		ssize_t		n;

		if (peer->fd < 0 || (n = recv(peer->fd, buf, sizeof(buf), 0)) < 0)
			continue;
		any = true;
		appendBinaryStringInfo(&peer->request, buf, n);
		if (n == 0 ||
			(has_request(peer) &&
			 !exchange->answer(peer->fd, peer->request.data, peer->request.len)))
			close_peer(peer);
		else if (has_request(peer))
			resetStringInfo(&peer->request);
	}
	return any;
}

/* OutboxPublisherState.answer */
static void
take_answer(OutboxPublisherState *state, const OutboxAnswer *answer)
{
	FuzzExchange *exchange = (FuzzExchange *) state;
	int64		i = answer->id - 1;

	if (i < 0 || i >= exchange->nmessages)
		fuzz_fail("an answer for message " INT64_FORMAT, answer->id);
	if (exchange->outcomes[i] != 0)
		fuzz_fail("a second answer for message " INT64_FORMAT, answer->id);
	if (answer->outcome < OUTBOX_DELIVERED || answer->outcome > OUTBOX_REJECTED)
		fuzz_fail("outcome %d", (int) answer->outcome);
	if (answer->retry_after_ms < -1)
		fuzz_fail("a wait of " INT64_FORMAT, answer->retry_after_ms);
	if ((answer->outcome == OUTBOX_DELIVERED) != (answer->error == NULL))
		fuzz_fail("outcome %d, and the error is %s", (int) answer->outcome,
				  answer->error ? answer->error : "none");
	if (answer->error)
		fuzz_check_error(answer->error,
						 exchange->may_tell ? NULL : FUZZ_SECRET);
	exchange->outcomes[i] = answer->outcome;
	exchange->nunanswered--;
}

/* OutboxPublisherState.probe_answer */
static void
take_probe_answer(OutboxPublisherState *state, bool ok, const char *error)
{
	fuzz_fail("an answer to no probe");
}

/* OutboxPublisherState.notice */
static void
take_notice(OutboxPublisherState *state, OutboxNotice notice, const char *problem)
{
}

/* As SET does it: throws if the value is refused. */
void
fuzz_set_setting(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_SUSET, PGC_S_SESSION,
							 GUC_ACTION_SET, true, 0, false);
}

/* Start a publisher, which has no messages yet. */
void
fuzz_exchange_start(FuzzExchange *exchange,
					const OutboxPublisherCallbacks *callbacks,
					FuzzAnswerCB answer)
{
	OutboxPublisherState state = {
		.sversion = PG_VERSION_NUM,
		.context = CurrentMemoryContext,
		.database = "postgres",
		.source = "/fuzz",
		.max_in_flight = MAX_PEERS - 2,
		.max_payload_size = 1024 * 1024,
		.connect_timeout = TIMEOUT_MS,
		.request_timeout = TIMEOUT_MS,
		.answer = take_answer,
		.probe_answer = take_probe_answer,
		.notice = take_notice
	};

	if (listener < 0)
		make_listener();
	memset(exchange, 0, sizeof(*exchange));
	exchange->state = state;
	exchange->callbacks = callbacks;
	exchange->answer = answer;
	callbacks->startup_cb(&exchange->state);
}

/*
 * Read the settings; false if they cannot be used.  The http publisher has none
 * for a socket, so that one is put among its options here.
 */
bool
fuzz_exchange_configure(FuzzExchange *exchange)
{
	const char *reason = NULL;
	HttpPublisher *publisher = exchange->state.private_data;
	HttpOptions options = {0};
	MemoryContext old;

	exchange->state.max_batch = 1;
	if (!exchange->callbacks->check_configured_cb(&exchange->state, &reason))
	{
		fuzz_check_error(reason, exchange->may_tell ? NULL : FUZZ_SECRET);
		return false;
	}
	old = MemoryContextSwitchTo(publisher->settings);
	publisher->secrets = NIL;
	if (!publisher->kind->configure(publisher, &options, &reason))
		fuzz_fail("configured once only: %s", reason);
	http_answer_set_secrets(publisher, &options);
	MemoryContextSwitchTo(old);
	options.unix_socket = FUZZ_SERVER_SOCKET;
	options.connect_timeout = TIMEOUT_MS;
	options.request_timeout = TIMEOUT_MS;
	options.max_connections = MAX_PEERS;
	http_client_configure(publisher->client, &options);
	return true;
}

/* Submit the messages. */
void
fuzz_exchange_submit(FuzzExchange *exchange)
{
	const OutboxMessage *submitted[FUZZ_MAX_MESSAGES];

	for (int i = 0; i < exchange->nmessages; i++)
		submitted[i] = &exchange->messages[i];
	exchange->nunanswered = exchange->nmessages;
	exchange->callbacks->submit_cb(&exchange->state, submitted,
								   exchange->nmessages);
}

/* Cancel a message, if it is not answered yet, once its request is on its way. */
void
fuzz_exchange_cancel(FuzzExchange *exchange, int message)
{
	if (exchange->outcomes[message] != 0)
		return;
	(void) serve(exchange);
	exchange->callbacks->cancel_cb(&exchange->state,
								   exchange->messages[message].id);
	exchange->outcomes[message] = OUTBOX_FAILED;
	exchange->nunanswered--;
}

/* Tell the publisher which of its sockets are ready. */
static bool
step(FuzzExchange *exchange)
{
	const OutboxSocket *sockets;
	OutboxSocket ready[MAX_PEERS * 2];
	long		timeout_ms;
	int			n = exchange->callbacks->sockets_cb(&exchange->state, &sockets,
													&timeout_ms);
	int			nready = 0;

	for (int i = 0; i < n && nready < lengthof(ready); i++)
	{
		struct pollfd p = {.fd = sockets[i].fd};

		if (sockets[i].events & WL_SOCKET_READABLE)
			p.events |= POLLIN;
		if (sockets[i].events & WL_SOCKET_WRITEABLE)
			p.events |= POLLOUT;
		if (poll(&p, 1, 0) > 0)
			ready[nready++] = sockets[i];
	}
	exchange->callbacks->ready_cb(&exchange->state, ready, nready);
	return nready > 0;
}

/*
 * Let publisher and server go on until every message is answered, then shut the
 * publisher down.
 */
void
fuzz_exchange_finish(FuzzExchange *exchange)
{
	for (int n = 0; exchange->nunanswered > 0; n++)
	{
		bool		moved = serve(exchange);

		if (n > MAX_STEPS)
			fuzz_fail("no end of it");

		/* libcurl may have a moment to wait for, with no connection open */
		if (!step(exchange) && !moved && !close_peers())
			pg_usleep(100);
	}
	exchange->callbacks->shutdown_cb(&exchange->state);
	(void) close_peers();
}
