/*-------------------------------------------------------------------------
 *
 * http_socket.c
 *		The sockets and the time that libcurl waits for.
 *
 * libcurl does not wait by itself here: it tells us which sockets and which
 * time it waits for, whoever uses the client waits for them among other
 * things, and libcurl is told what has happened.
 *
 * libcurl takes back its interest in a connection after every request and
 * renews it with the next one.  Told so, the user of the client would rebuild
 * its wait set twice a request.  Hence a connection that libcurl has lost
 * interest in stays in the array, as "not wanted", until it is wanted again,
 * closed, or ready all the same.  The last is the peer closing it; libcurl
 * finds that out when it next wants to use the connection.  All this is safe
 * because we hear of every close of a connection from which libcurl has wanted
 * to read.  Other sockets (of a resolver, or still connecting) leave the array
 * at once: libcurl closes them without a word.
 *
 * Errors.  What libcurl calls neither throws nor blocks: the array has its
 * full size beforehand.  Should a socket not fit in, its request ends by its
 * timeout.  Functions that set options or make room throw.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "storage/latch.h"

#include "http/http_internal.h"
#include "lib/clock.h"

/* The socket's place in the array; -1: it is not there. */
static int
find_socket(const HttpSockets *sockets, pgsocket fd)
{
	for (int i = 0; i < sockets->nsockets; i++)
	{
		if (sockets->sockets[i].fd == fd)
			return i;
	}
	return -1;
}

/* Append a socket; -1 if there is no room. */
static int
add_socket(HttpSockets *sockets, pgsocket fd)
{
	int			i = sockets->nsockets;

	if (i >= sockets->maxsockets)
		return -1;
	sockets->sockets[i].fd = fd;
	sockets->sockets[i].generation = ++sockets->generation;
	sockets->states[i].connection = false;
	sockets->states[i].easy = NULL;
	sockets->nsockets++;
	return i;
}

static void
remove_socket(HttpSockets *sockets, int i)
{
	int			last = --sockets->nsockets;

	sockets->sockets[i] = sockets->sockets[last];
	sockets->states[i] = sockets->states[last];
}

/*
 * libcurl opened a socket for a connection.  It should have keep-alive probes,
 * which also tell it from libcurl's other sockets.
 */
static int
socket_opened(void *arg, curl_socket_t fd, curlsocktype purpose)
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
static int
socket_closed(void *arg, curl_socket_t fd)
{
	HttpSockets *sockets = arg;
	int			i = find_socket(sockets, fd);

	if (i >= 0)
		remove_socket(sockets, i);
	return closesocket(fd);
}

/* libcurl changed what it waits for on a socket. */
static int
socket_changed(CURL *easy, curl_socket_t fd, int what, void *arg,
			   void *socketp)
{
	HttpSockets *sockets = arg;
	int			i = find_socket(sockets, fd);
	uint32		events = 0;

	if (what == CURL_POLL_IN || what == CURL_POLL_INOUT)
		events |= WL_SOCKET_READABLE;
	if (what == CURL_POLL_OUT || what == CURL_POLL_INOUT)
		events |= WL_SOCKET_WRITEABLE;

	if (i < 0 && events != 0)
		i = add_socket(sockets, fd);
	if (i < 0)
		return 0;

	sockets->states[i].wanted = events != 0;
	if (events != 0)
	{
		sockets->states[i].easy = easy;
		sockets->sockets[i].events = events;

		/*
		 * One that is still connecting is only written to, and may be closed
		 * without a word if another one wins.  From the first reading on,
		 * libcurl closes it through socket_closed().
		 */
		if ((events & WL_SOCKET_READABLE) && !sockets->states[i].connection)
			sockets->states[i].connection = is_connection(fd);
	}
	else if (!sockets->states[i].connection)
		remove_socket(sockets, i);
	return 0;
}

/* libcurl changed when it wants to be called at the latest. */
static int
timer_changed(CURLM *multi, long timeout_ms, void *arg)
{
	HttpSockets *sockets = arg;

	sockets->deadline = timeout_ms < 0 ? -1 :
		clock_us() + timeout_ms * INT64CONST(1000);
	return 0;
}

/*
 * Learn what a multi handle waits for.  "sockets" is clear, and must stay
 * until the handle is gone.
 */
void
http_socket_watch_multi(HttpSockets *sockets, CURLM *multi)
{
	sockets->deadline = -1;
	CHECK_MULTI_SETOPT(multi, CURLMOPT_SOCKETFUNCTION, socket_changed);
	CHECK_MULTI_SETOPT(multi, CURLMOPT_SOCKETDATA, sockets);
	CHECK_MULTI_SETOPT(multi, CURLMOPT_TIMERFUNCTION, timer_changed);
	CHECK_MULTI_SETOPT(multi, CURLMOPT_TIMERDATA, sockets);
}

/* Learn when an easy handle opens and closes connections. */
void
http_socket_watch_easy(HttpSockets *sockets, CURL *easy)
{
	CHECK_SETOPT(easy, CURLOPT_SOCKOPTFUNCTION, socket_opened);
	CHECK_SETOPT(easy, CURLOPT_CLOSESOCKETFUNCTION, socket_closed);
	CHECK_SETOPT(easy, CURLOPT_CLOSESOCKETDATA, sockets);
}

/*
 * Make room, in "context", for the sockets of so many requests.  Each of them
 * has at most two sockets that try to connect, a kept connection and a
 * resolver's socket.
 */
void
http_socket_reserve(HttpSockets *sockets, MemoryContext context, int nrequests)
{
	int			max = 4 * nrequests;

	if (max <= sockets->maxsockets)
		return;
	if (sockets->sockets == NULL)
	{
		sockets->sockets = MemoryContextAlloc(context,
											  max * sizeof(OutboxSocket));
		sockets->states = MemoryContextAlloc(context,
											 max * sizeof(HttpSocketState));
	}
	else
	{
		sockets->sockets = repalloc(sockets->sockets,
									max * sizeof(OutboxSocket));
		sockets->states = repalloc(sockets->states,
								   max * sizeof(HttpSocketState));
	}
	sockets->maxsockets = max;
}

/*
 * Milliseconds, rounded up, until "deadline" (-1: there is none) or until
 * libcurl wants to be called; -1: never.
 */
long
http_socket_timeout_ms(const HttpSockets *sockets, int64 deadline)
{
	int64		left;

	if (deadline < 0 ||
		(sockets->deadline >= 0 && sockets->deadline < deadline))
		deadline = sockets->deadline;
	if (deadline < 0)
		return -1;
	left = deadline - clock_us();
	return left > 0 ? (long) ((left + 999) / 1000) : 0;
}

/*
 * Hand one ready socket to libcurl.  It may have been closed since the caller
 * waited for it, and its number given to another one.
 */
static CURLMcode
socket_ready(HttpSockets *sockets, CURLM *multi, const OutboxSocket *ready)
{
	int			i = find_socket(sockets, ready->fd);
	int			action = 0;
	int			running;

	if (i < 0 || sockets->sockets[i].generation != ready->generation)
		return CURLM_OK;

	/* a kept connection that its peer has closed would be ready for ever */
	if (!sockets->states[i].wanted)
	{
		remove_socket(sockets, i);
		return CURLM_OK;
	}
	if (ready->events & WL_SOCKET_READABLE)
		action |= CURL_CSELECT_IN;
	if (ready->events & WL_SOCKET_WRITEABLE)
		action |= CURL_CSELECT_OUT;
	return curl_multi_socket_action(multi, ready->fd, action, &running);
}

/*
 * Tell libcurl which sockets are ready, and that its time is up if it is.  It
 * then does all that it can do without waiting.
 */
CURLMcode
http_socket_ready(HttpSockets *sockets, CURLM *multi,
				  const OutboxSocket *ready, int n)
{
	CURLMcode	code = CURLM_OK;
	int			running;

	for (int i = 0; i < n && code == CURLM_OK; i++)
		code = socket_ready(sockets, multi, &ready[i]);
	if (code == CURLM_OK && sockets->deadline >= 0 &&
		sockets->deadline <= clock_us())
	{
		/* before the call, in which libcurl sets the next one */
		sockets->deadline = -1;
		code = curl_multi_socket_action(multi, CURL_SOCKET_TIMEOUT, 0,
										&running);
	}
	return code;
}

/*
 * Have libcurl take in what lies in the socket of an easy handle by now, without
 * anybody having waited for it.
 */
CURLMcode
http_socket_take_in(HttpSockets *sockets, CURLM *multi, const CURL *easy)
{
	for (int i = 0; i < sockets->nsockets; i++)
	{
		OutboxSocket ready = sockets->sockets[i];
		struct pollfd poll_fd = {.fd = ready.fd};

		if (!sockets->states[i].wanted || sockets->states[i].easy != easy)
			continue;
		poll_fd.events = POLLIN;
		if (!(ready.events & WL_SOCKET_READABLE) ||
			poll(&poll_fd, 1, 0) <= 0)
			return CURLM_OK;
		ready.events = WL_SOCKET_READABLE;
		return socket_ready(sockets, multi, &ready);
	}
	return CURLM_OK;
}
