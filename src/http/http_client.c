/*-------------------------------------------------------------------------
 *
 * http_client.c
 *		A client for many small HTTP requests at a time, which never blocks.
 *
 * This file and http_request.c are the only ones that know libcurl.  One
 * multi handle runs every request by curl_multi_socket_action(); libcurl tells
 * us which sockets and which time it waits for, and the caller waits for them
 * among other things.
 *
 * Sockets.  libcurl takes back its interest in a connection after every
 * request and renews it with the next one.  Told so, the caller would rebuild
 * its wait set twice a request.  Hence a connection that libcurl has lost
 * interest in stays in the array, as "not wanted", until it is wanted again,
 * closed, or ready all the same.  The last is the peer closing it; libcurl
 * finds that out when it next wants to use the connection.  All this is safe
 * because we hear of every close of a connection from which libcurl has wanted
 * to read.  Other sockets (of a resolver, or still connecting) leave the array
 * at once: libcurl closes them without a word.
 *
 * Memory.  Everything of ours is below the client's context, a child of the
 * one in which it was created.  What libcurl holds is malloc'd; it is released
 * by a callback of that context.
 *
 * Errors.  The callbacks that libcurl calls neither throw nor block; the array
 * of sockets has its full size beforehand.  Should a socket not fit in, its
 * request ends by its timeout.  Our functions throw if libcurl refuses an
 * option or runs out of memory.  What goes wrong on the network is a result.
 *
 * Signals.  libcurl may start a thread to resolve a name.  Signals are blocked
 * meanwhile, so that the thread, which inherits that, never runs a handler.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "http/http_internal.h"
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "storage/latch.h"
#include "utils/memutils.h"

/* Set an option of a multi handle, or throw. */
#define CHECK_MULTI_SETOPT(multi, option, value) \
	do { \
		CURLMcode	mc_ = curl_multi_setopt((multi), (option), (value)); \
		if (mc_ != CURLM_OK) \
			ereport(ERROR, \
					(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION), \
					 errmsg("could not set libcurl option %s: %s", \
							#option, curl_multi_strerror(mc_)))); \
	} while (0)

static void
check_multi(CURLMcode code)
{
	if (code != CURLM_OK)
		ereport(ERROR,
				(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
				 errmsg("libcurl failed: %s", curl_multi_strerror(code))));
}

/* Milliseconds of a clock that nobody sets. */
static double
now_ms(void)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	return INSTR_TIME_GET_MILLISEC(now);
}

/* The socket's place in the array; -1: it is not there. */
static int
find_socket(HttpClient *client, pgsocket fd)
{
	for (int i = 0; i < client->nsockets; i++)
	{
		if (client->sockets[i].fd == fd)
			return i;
	}
	return -1;
}

/* Append a socket; -1 if there is no room. */
static int
add_socket(HttpClient *client, pgsocket fd)
{
	int			i = client->nsockets;

	if (i >= client->maxsockets)
		return -1;
	client->sockets[i].fd = fd;
	client->sockets[i].generation = ++client->generation;
	client->states[i].connection = false;
	client->nsockets++;
	return i;
}

static void
remove_socket(HttpClient *client, int i)
{
	int			last = --client->nsockets;

	client->sockets[i] = client->sockets[last];
	client->states[i] = client->states[last];
}

/*
 * libcurl opened a socket for a connection.  It should have keep-alive probes,
 * which also tell it from libcurl's other sockets.
 */
int
http_socket_opened(void *arg, curl_socket_t fd, curlsocktype purpose)
{
	int			on = 1;

	(void) setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	return CURL_SOCKOPT_OK;
}

static bool
is_connection(pgsocket fd)
{
	int			on = 0;
	socklen_t	len = sizeof(on);

	return getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, &len) == 0 && on;
}

/* Close a connection's socket for libcurl. */
int
http_socket_closed(void *arg, curl_socket_t fd)
{
	HttpClient *client = arg;
	int			i = find_socket(client, fd);

	if (i >= 0)
		remove_socket(client, i);
	return closesocket(fd);
}

/* libcurl changed what it waits for on a socket. */
static int
socket_changed(CURL *easy, curl_socket_t fd, int what, void *arg,
			   void *socketp)
{
	HttpClient *client = arg;
	int			i = find_socket(client, fd);
	uint32		events = 0;

	if (what == CURL_POLL_IN || what == CURL_POLL_INOUT)
		events |= WL_SOCKET_READABLE;
	if (what == CURL_POLL_OUT || what == CURL_POLL_INOUT)
		events |= WL_SOCKET_WRITEABLE;

	if (i < 0 && events != 0)
		i = add_socket(client, fd);
	if (i < 0)
		return 0;

	client->states[i].wanted = events != 0;
	if (events != 0)
	{
		client->sockets[i].events = events;
		if ((events & WL_SOCKET_READABLE) && !client->states[i].connection)
			client->states[i].connection = is_connection(fd);
	}
	else if (!client->states[i].connection)
		remove_socket(client, i);
	return 0;
}

/* libcurl changed when it wants to be called at the latest. */
static int
timer_changed(CURLM *multi, long timeout_ms, void *arg)
{
	HttpClient *client = arg;

	client->deadline = timeout_ms < 0 ? -1 : now_ms() + timeout_ms;
	return 0;
}

/*
 * Release what libcurl holds.  As a callback of the client's context, this
 * finds the contexts below gone; libcurl does not look at bodies and headers
 * of requests that are removed.
 */
static void
cleanup_libcurl(void *arg)
{
	HttpClient *client = arg;
	dlist_iter	iter;

	dlist_foreach(iter, &client->requests)
	{
		HttpRequest *request = dlist_container(HttpRequest, node, iter.cur);

		http_stop_request(request);
		curl_easy_cleanup(request->easy);
		curl_url_cleanup(request->parsed_url);
	}
	dlist_init(&client->requests);
	curl_multi_cleanup(client->multi);
	client->multi = NULL;
}

/*
 * A new client, in a child of the current memory context.  "arg" is passed to
 * every HttpDoneCB.  It needs http_configure() before it can be used.
 */
HttpClient *
http_create(void *arg)
{
	static bool initialized = false;
	MemoryContext context;
	HttpClient *client;

	Assert(IsUnderPostmaster);
	if (!initialized)
	{
		CURLcode	code = curl_global_init(CURL_GLOBAL_DEFAULT);

		if (code != CURLE_OK)
			ereport(ERROR,
					(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
					 errmsg("could not initialize libcurl: %s",
							curl_easy_strerror(code))));
		initialized = true;
	}

	context = AllocSetContextCreate(CurrentMemoryContext,
									"outbox HTTP client",
									ALLOCSET_DEFAULT_SIZES);
	client = MemoryContextAllocZero(context, sizeof(HttpClient));
	client->context = context;
	client->arg = arg;
	client->deadline = -1;
	dlist_init(&client->requests);

	client->multi = curl_multi_init();
	if (client->multi == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory"),
				 errdetail("Failed to create a libcurl multi handle.")));
	client->cleanup.func = cleanup_libcurl;
	client->cleanup.arg = client;
	MemoryContextRegisterResetCallback(context, &client->cleanup);

	CHECK_MULTI_SETOPT(client->multi, CURLMOPT_SOCKETFUNCTION, socket_changed);
	CHECK_MULTI_SETOPT(client->multi, CURLMOPT_SOCKETDATA, client);
	CHECK_MULTI_SETOPT(client->multi, CURLMOPT_TIMERFUNCTION, timer_changed);
	CHECK_MULTI_SETOPT(client->multi, CURLMOPT_TIMERDATA, client);
	return client;
}

/* Close every connection and free everything; no done callback is called. */
void
http_destroy(HttpClient *client)
{
	MemoryContextDelete(client->context);
}

/*
 * Make room for the sockets of so many requests.  Each of them has at most
 * two sockets that try to connect, a kept connection and a resolver's socket.
 */
static void
reserve_sockets(HttpClient *client, int nrequests)
{
	int			max = 4 * nrequests;

	if (max <= client->maxsockets)
		return;
	if (client->sockets == NULL)
	{
		client->sockets = MemoryContextAlloc(client->context,
											 max * sizeof(OutboxSocket));
		client->states = MemoryContextAlloc(client->context,
											max * sizeof(SocketState));
	}
	else
	{
		client->sockets = repalloc(client->sockets,
								   max * sizeof(OutboxSocket));
		client->states = repalloc(client->states, max * sizeof(SocketState));
	}
	client->maxsockets = max;
}

/*
 * Set the options of the requests to come; those in use keep theirs.  If
 * libcurl does not take them this throws, and so does http_new_request() until
 * better options are set.
 */
void
http_configure(HttpClient *client, const HttpOptions *options)
{
	HttpConfig *previous = client->config;

	reserve_sockets(client, options->max_connections);
	CHECK_MULTI_SETOPT(client->multi, CURLMOPT_MAX_TOTAL_CONNECTIONS,
					   (long) options->max_connections);
	CHECK_MULTI_SETOPT(client->multi, CURLMOPT_MAXCONNECTS,
					   (long) options->max_connections);

	client->config = http_make_config(client, options);
	if (previous != NULL)
		http_retire_config(previous);

	/* the first request is made now to see whether libcurl takes the options */
	http_make_request(client, client->config);
}

/* Let libcurl have a request, which makes progress in http_ready(). */
void
http_add_to_multi(HttpRequest *request)
{
	check_multi(curl_multi_add_handle(request->client->multi, request->easy));
	request->started = true;
}

/* What to wait for, as OutboxSocketsCB tells it. */
int
http_sockets(HttpClient *client, const OutboxSocket **sockets,
			 long *timeout_ms)
{
	*sockets = client->sockets;
	if (client->deadline < 0)
		*timeout_ms = -1;
	else
		*timeout_ms = (long) Max(0, ceil(client->deadline - now_ms()));
	return client->nsockets;
}

/* Finish the requests that libcurl has finished. */
static void
finish_requests(HttpClient *client)
{
	CURLMsg    *msg;
	int			left;

	while ((msg = curl_multi_info_read(client->multi, &left)) != NULL)
	{
		CURLcode	code = msg->data.result;
		char	   *request = NULL;

		Assert(msg->msg == CURLMSG_DONE);
		curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, &request);
		http_finish_request((HttpRequest *) request, code);
	}
}

/*
 * Hand one ready socket to libcurl.  It may have been closed since the caller
 * waited for it, and its number given to another one.
 */
static CURLMcode
socket_ready(HttpClient *client, const OutboxSocket *ready)
{
	int			i = find_socket(client, ready->fd);
	int			action = 0;
	int			running;

	if (i < 0 || client->sockets[i].generation != ready->generation)
		return CURLM_OK;
	if (!client->states[i].wanted)
	{
		remove_socket(client, i);
		return CURLM_OK;
	}
	if (ready->events & WL_SOCKET_READABLE)
		action |= CURL_CSELECT_IN;
	if (ready->events & WL_SOCKET_WRITEABLE)
		action |= CURL_CSELECT_OUT;
	return curl_multi_socket_action(client->multi, ready->fd, action,
									&running);
}

/*
 * Make progress, after a wait or after requests were started.  "ready" are the
 * sockets that are, with what they are ready for.  Calls done callbacks.
 */
void
http_ready(HttpClient *client, const OutboxSocket *ready, int n)
{
	CURLMcode	code = CURLM_OK;
	sigset_t	mask;
	int			running;

	sigprocmask(SIG_SETMASK, &BlockSig, &mask);
	for (int i = 0; i < n && code == CURLM_OK; i++)
		code = socket_ready(client, &ready[i]);
	if (code == CURLM_OK && client->deadline >= 0 &&
		client->deadline <= now_ms())
	{
		client->deadline = -1;
		code = curl_multi_socket_action(client->multi, CURL_SOCKET_TIMEOUT, 0,
										&running);
	}
	sigprocmask(SIG_SETMASK, &mask, NULL);
	check_multi(code);
	finish_requests(client);
}
