/*-------------------------------------------------------------------------
 *
 * http_client.c
 *		A client for many small HTTP requests at a time, which never blocks.
 *
 * One multi handle of libcurl runs every request by
 * curl_multi_socket_action(); http_socket.c knows what it waits for.
 *
 * Requests are used again and again, but an easy handle keeps the options that
 * it was made with.  New options therefore mean new requests: those in use end
 * with their old options, an HttpConfig, which goes when the last of them has.
 *
 * Deadlines of requests are ours.  When the time of one is up, libcurl first
 * takes in what lies in its socket: if the process was stopped for a while (a
 * virtual machine that was paused), the answer may have been there in time.
 *
 * Memory.  Everything of ours is below the client's context, a child of the
 * one in which it was created.  What libcurl holds is malloc'd; it is released
 * by a callback of that context.
 *
 * Errors.  What libcurl calls neither throws nor blocks; "done" callbacks are
 * called when libcurl has been left.  Our functions throw if libcurl refuses
 * an option or there is no memory.  What goes wrong on the network is a
 * result.
 *
 * Signals.  libcurl may start a thread to resolve a name.  Signals are blocked
 * meanwhile, so that the thread, which inherits that, never runs a handler.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "utils/memutils.h"

#include "http/http_internal.h"
#include "lib/clock.h"

struct HttpClient
{
	MemoryContext context;
	MemoryContextCallback cleanup;
	void	   *arg;			/* for HttpDoneCB */
	CURLM	   *multi;
	HttpSockets sockets;
	int64		deadline;		/* no request's is earlier, in clock_us(); -1:
								 * none is started */
	HttpConfig *config;			/* of new requests */
	dlist_head	requests;		/* all of them, of any config */
	dlist_head	preparing;		/* those that are not filled in yet */
};

static void
check_multi(CURLMcode code)
{
	if (code != CURLM_OK)
		ereport(ERROR,
				(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
				 errmsg("libcurl failed: %s", curl_multi_strerror(code))));
}

/* Take a request back from libcurl, which drops its connection if need be. */
static void
stop_request(HttpClient *client, HttpRequest *request)
{
	if (request->started)
		curl_multi_remove_handle(client->multi, request->easy);
	if (request->preparing)
		dlist_delete(&request->prepare_node);
	request->started = request->preparing = false;
}

/* Make a request and put it on its config's idle list. */
static void
add_idle_request(HttpClient *client, HttpConfig *config)
{
	HttpRequest *request = http_request_create(client->context, config,
											   &client->sockets);

	dlist_push_tail(&client->requests, &request->node);
	slist_push_head(&config->idle, &request->idle_node);
}

/* Take a request from a config's idle list, which has one. */
static HttpRequest *
pop_idle_request(HttpConfig *config)
{
	slist_node *node = slist_pop_head_node(&config->idle);

	return slist_container(HttpRequest, idle_node, node);
}

/* Free a config that is not current any more, or what of it is not in use. */
static void
retire_config(HttpConfig *config)
{
	while (!slist_is_empty(&config->idle))
	{
		HttpRequest *request = pop_idle_request(config);

		dlist_delete(&request->node);
		http_request_destroy(request);
	}
	if (config->nbusy == 0)
		MemoryContextDelete(config->context);
}

/* A request is over: keep it for another use, unless its config is retired. */
static void
release_request(HttpClient *client, HttpRequest *request)
{
	HttpConfig *config = request->config;

	http_request_clear(request);
	request->busy = false;
	config->nbusy--;
	slist_push_head(&config->idle, &request->idle_node);
	if (config != client->config)
		retire_config(config);
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

		stop_request(client, request);
		http_request_free_handles(request);
	}
	dlist_init(&client->requests);
	curl_multi_cleanup(client->multi);
	client->multi = NULL;
}

static void
initialize_libcurl(void)
{
	static bool initialized = false;
	CURLcode	code;

	if (initialized)
		return;
	code = curl_global_init(CURL_GLOBAL_DEFAULT);
	if (code != CURLE_OK)
		ereport(ERROR,
				(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
				 errmsg("could not initialize libcurl: %s",
						curl_easy_strerror(code))));
	initialized = true;
}

/*
 * A new client, in a child of the current memory context.  "arg" is passed to
 * every HttpDoneCB.  It needs http_client_configure() before it can be used.
 */
HttpClient *
http_client_create(void *arg)
{
	MemoryContext context;
	HttpClient *client;

	/* never in the postmaster: its children would share what libcurl opens */
	Assert(IsUnderPostmaster);
	initialize_libcurl();

	context = AllocSetContextCreate(CurrentMemoryContext,
									"outbox HTTP client",
									ALLOCSET_DEFAULT_SIZES);
	client = MemoryContextAllocZero(context, sizeof(HttpClient));
	client->context = context;
	client->arg = arg;
	client->deadline = -1;
	dlist_init(&client->requests);
	dlist_init(&client->preparing);

	client->multi = curl_multi_init();
	if (client->multi == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory"),
				 errdetail("Failed to create a libcurl multi handle.")));

	/* from here on, whatever fails, the handle goes with the context */
	client->cleanup.func = cleanup_libcurl;
	client->cleanup.arg = client;
	MemoryContextRegisterResetCallback(context, &client->cleanup);

	http_socket_watch_multi(&client->sockets, client->multi);
	return client;
}

/* Close every connection and free everything; no done callback is called. */
void
http_client_destroy(HttpClient *client)
{
	MemoryContextDelete(client->context);
}

/*
 * Set the options of the requests to come; those in use keep theirs.  If
 * libcurl does not take them this throws, and so does
 * http_client_new_request() until better options are set.
 */
void
http_client_configure(HttpClient *client, const HttpOptions *options)
{
	HttpConfig *previous = client->config;

	http_socket_reserve(&client->sockets, client->context,
						options->max_connections);
	CHECK_MULTI_SETOPT(client->multi, CURLMOPT_MAX_TOTAL_CONNECTIONS,
					   (long) options->max_connections);
	CHECK_MULTI_SETOPT(client->multi, CURLMOPT_MAXCONNECTS,
					   (long) options->max_connections);

	client->config = http_options_copy(client->context, options);
	if (previous != NULL)
		retire_config(previous);

	/* made now, to see whether libcurl takes the options */
	add_idle_request(client, client->config);
}

/*
 * A request to fill in and to start.  "id" and "done" together name it.  It
 * is in use until "done" has been called for it or it is cancelled.
 */
HttpRequest *
http_client_new_request(HttpClient *client, int64 id, HttpDoneCB done)
{
	HttpConfig *config = client->config;
	HttpRequest *request;

	if (slist_is_empty(&config->idle))
		add_idle_request(client, config);
	request = pop_idle_request(config);
	config->nbusy++;
	request->busy = true;
	request->id = id;
	request->done = done;
	return request;
}

/* Let libcurl have a request. */
static void
start_request(HttpClient *client, HttpRequest *request)
{
	check_multi(curl_multi_add_handle(client->multi, request->easy));
	request->started = true;
}

/*
 * Start a request, which makes progress in http_client_ready(), and whose time
 * runs from now on.
 */
void
http_client_start(HttpClient *client, HttpRequest *request)
{
	Assert(request->busy && !request->started && !request->preparing);
	request->deadline = clock_us() +
		request->config->options.request_timeout * INT64CONST(1000);
	if (client->deadline < 0 || request->deadline < client->deadline)
		client->deadline = request->deadline;
	if (request->prepare == NULL)
	{
		start_request(client, request);
		return;
	}
	dlist_push_tail(&client->preparing, &request->prepare_node);
	request->preparing = true;
}

/* Forget a request; nothing happens if it is not in use. */
void
http_client_cancel(HttpClient *client, int64 id, HttpDoneCB done)
{
	dlist_iter	iter;

	dlist_foreach(iter, &client->requests)
	{
		HttpRequest *request = dlist_container(HttpRequest, node, iter.cur);

		if (request->busy && request->id == id && request->done == done)
		{
			stop_request(client, request);
			release_request(client, request);
			return;
		}
	}
}

/* What to wait for, as OutboxSocketsCB tells it. */
int
http_client_sockets(HttpClient *client, const OutboxSocket **sockets,
					long *timeout_ms)
{
	*sockets = client->sockets.sockets;
	*timeout_ms = !dlist_is_empty(&client->preparing) ? 0 :
		http_socket_timeout_ms(&client->sockets, client->deadline);
	return client->sockets.nsockets;
}

/* Tell how a finished request went, and take it back; or send it once more. */
static void
finish_request(HttpClient *client, HttpRequest *request, CURLcode code)
{
	HttpResult	result;

	http_request_result(request, code, &result);

	/* before "done", which may throw and leave the rest to a cancellation */
	stop_request(client, request);
	if (http_request_repeat(request, code))
	{
		start_request(client, request);
		return;
	}
	request->done(client->arg, request->id, &result);
	release_request(client, request);
}

/* Finish the requests that libcurl has finished. */
static void
finish_requests(HttpClient *client)
{
	CURLMsg    *msg;
	int			left;

	while ((msg = curl_multi_info_read(client->multi, &left)) != NULL)
	{
		/* "msg" goes when its handle is taken from libcurl */
		CURLcode	code = msg->data.result;
		char	   *request = NULL;

		Assert(msg->msg == CURLMSG_DONE);
		curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, &request);
		finish_request(client, (HttpRequest *) request, code);
	}
}

/*
 * The started requests whose time is up, in the current memory context.  Sets
 * the deadline to that of the others.
 */
static List *
find_overdue(HttpClient *client)
{
	int64		now = clock_us();
	List	   *overdue = NIL;
	dlist_iter	iter;

	client->deadline = -1;
	dlist_foreach(iter, &client->requests)
	{
		HttpRequest *request = dlist_container(HttpRequest, node, iter.cur);

		if (!request->started && !request->preparing)
			continue;
		if (request->deadline <= now)
			overdue = lappend(overdue, request);
		else if (client->deadline < 0 || request->deadline < client->deadline)
			client->deadline = request->deadline;
	}
	return overdue;
}

/* End the requests whose time is up, after one more look at their sockets. */
static void
end_overdue(HttpClient *client)
{
	List	   *overdue = find_overdue(client);
	ListCell   *lc;

	foreach(lc, overdue)
	{
		HttpRequest *request = lfirst(lc);
		CURLMcode	code;
		sigset_t	mask;

		sigprocmask(SIG_SETMASK, &BlockSig, &mask);
		code = http_socket_take_in(&client->sockets, client->multi,
								   request->easy);
		sigprocmask(SIG_SETMASK, &mask, NULL);
		check_multi(code);
	}
	finish_requests(client);

	/* anew: what has finished may have been freed with its config */
	overdue = find_overdue(client);
	foreach(lc, overdue)
		finish_request(client, lfirst(lc), CURLE_OPERATION_TIMEDOUT);
}

/* Go on for a while with a request that is not filled in yet, if there is one. */
static void
prepare_next(HttpClient *client)
{
	HttpRequest *request;
	HttpPrepared prepared;
	MemoryContext old;

	if (dlist_is_empty(&client->preparing))
		return;
	request = dlist_head_element(HttpRequest, prepare_node,
								 &client->preparing);
	old = MemoryContextSwitchTo(request->context);
	prepared = request->prepare(request, request->prepare_arg);
	MemoryContextSwitchTo(old);

	/* they are gone on with in turn */
	dlist_delete(&request->prepare_node);
	if (prepared == HTTP_PREPARE_MORE)
	{
		dlist_push_tail(&client->preparing, &request->prepare_node);
		return;
	}
	request->preparing = false;
	if (prepared == HTTP_PREPARED)
		start_request(client, request);
	else
	{
		strlcpy(request->error, "the settings cannot be used any more",
				sizeof(request->error));
		finish_request(client, request, CURLE_FAILED_INIT);
	}
}

/*
 * Make progress, after a wait or after requests were started.  "ready" are the
 * sockets that are, with what they are ready for.  Calls done callbacks.
 */
void
http_client_ready(HttpClient *client, const OutboxSocket *ready, int n)
{
	CURLMcode	code;
	sigset_t	mask;

	sigprocmask(SIG_SETMASK, &BlockSig, &mask);
	code = http_socket_ready(&client->sockets, client->multi, ready, n);
	sigprocmask(SIG_SETMASK, &mask, NULL);
	check_multi(code);
	finish_requests(client);
	prepare_next(client);
	if (client->deadline >= 0 && client->deadline <= clock_us())
		end_overdue(client);
}
