/*-------------------------------------------------------------------------
 *
 * http_request.c
 *		Single requests of the client in http_client.c, and their settings.
 *
 * An HttpRequest with its easy handle is made once and used again and again;
 * what belongs to one use is in its memory context, which is reset after it.
 * An easy handle keeps the options that it was made with.  New options
 * therefore mean new requests: those in use end with their old options, an
 * HttpConfig, which goes when the last of them has.
 *
 * libcurl looks at every header that it is given for longer than it takes to
 * send it.  It passes strings on verbatim, control characters included (see
 * CURLOPT_HTTPHEADER), so that the headers of one request are given to it as
 * one string of several lines.  Content-Type is the first: libcurl makes one of
 * its own if it sees none, and only looks at the beginning of a string.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "http/http_internal.h"
#include "utils/memutils.h"

#define HTTP_USER_AGENT "outbox/1.0"

/*
 * What is kept of a request's memory from one use to the next: enough for the
 * headers and a small body, so that most uses allocate nothing.
 */
#define REQUEST_MEMORY	0, 8 * 1024, ALLOCSET_DEFAULT_MAXSIZE

/* A list node in front of "next", in the current memory context. */
static struct curl_slist *
prepend_header(struct curl_slist *next, char *line)
{
	struct curl_slist *header = palloc(sizeof(struct curl_slist));

	header->data = line;
	header->next = next;
	return header;
}

/* Make room for so many bytes of a body.  False if there is no memory. */
static bool
reserve_body(HttpRequest *request, Size needed)
{
	Size		size = Max(needed, 2 * request->body_size);
	char	   *body;

	if (needed <= request->body_size)
		return true;
	size = Min(size, HTTP_BODY_KEPT);
	body = MemoryContextAllocExtended(request->context, size + 1,
									  MCXT_ALLOC_NO_OOM);
	if (body == NULL)
		return false;
	if (request->body != NULL)
	{
		memcpy(body, request->body, request->kept);
		pfree(request->body);
	}
	request->body = body;
	request->body_size = size;
	return true;
}

/*
 * Take a piece of a response's body: keep the beginning, drop the rest, and
 * end the transfer if there is no end to it.
 */
static size_t
body_received(char *data, size_t size, size_t nmemb, void *arg)
{
	HttpRequest *request = arg;
	Size		len = size * nmemb;

	Size		wanted = Min(len, HTTP_BODY_KEPT - request->kept);

	/* nothing is kept behind a gap */
	if (request->kept == request->received && wanted > 0 &&
		reserve_body(request, request->kept + wanted))
	{
		memcpy(request->body + request->kept, data, wanted);
		request->kept += wanted;
	}
	request->received += len;
	return request->received > HTTP_BODY_LIMIT ? 0 : len;
}

/*
 * Take a line of a response's headers: an empty one is the last.  There may be
 * several responses, of which all but the last are provisional (1xx).
 */
static size_t
header_received(char *data, size_t size, size_t nmemb, void *arg)
{
	HttpRequest *request = arg;
	Size		len = size * nmemb;

	if (len > 0 && (data[0] == '\r' || data[0] == '\n'))
		request->headers_end = true;
	else if (len >= 5 && memcmp(data, "HTTP/", 5) == 0)
		request->headers_end = false;
	return len;
}

/* Options about what may be talked to and how; the same for all requests. */
static void
set_policy(CURL *easy)
{
#if LIBCURL_VERSION_NUM >= 0x075500
	CHECK_SETOPT(easy, CURLOPT_PROTOCOLS_STR, "http,https");
#else
	CHECK_SETOPT(easy, CURLOPT_PROTOCOLS,
				 (long) (CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
#if LIBCURL_VERSION_NUM >= 0x075700
	/* do not wait for a thread that resolves a name */
	CHECK_SETOPT(easy, CURLOPT_QUICK_EXIT, 1L);
#endif
	CHECK_SETOPT(easy, CURLOPT_NOSIGNAL, 1L);
	CHECK_SETOPT(easy, CURLOPT_PROXY, "");
	CHECK_SETOPT(easy, CURLOPT_NOPROXY, "*");
	CHECK_SETOPT(easy, CURLOPT_FOLLOWLOCATION, 0L);
	CHECK_SETOPT(easy, CURLOPT_PATH_AS_IS, 1L);
	CHECK_SETOPT(easy, CURLOPT_HTTP_VERSION, (long) CURL_HTTP_VERSION_1_1);
	CHECK_SETOPT(easy, CURLOPT_SSL_VERIFYPEER, 1L);
	CHECK_SETOPT(easy, CURLOPT_SSL_VERIFYHOST, 2L);
	CHECK_SETOPT(easy, CURLOPT_SSLVERSION, (long) CURL_SSLVERSION_TLSv1_2);
	CHECK_SETOPT(easy, CURLOPT_USERAGENT, HTTP_USER_AGENT);
}

/* Set what an easy handle keeps from one use to the next. */
static void
set_options(HttpRequest *request)
{
	CURL	   *easy = request->easy;
	HttpClient *client = request->client;
	const HttpOptions *options = &request->config->options;

	set_policy(easy);
	CHECK_SETOPT(easy, CURLOPT_CONNECTTIMEOUT_MS,
				 (long) options->connect_timeout);
	CHECK_SETOPT(easy, CURLOPT_TIMEOUT_MS, (long) options->request_timeout);
	if (options->unix_socket != NULL)
		CHECK_SETOPT(easy, CURLOPT_UNIX_SOCKET_PATH, options->unix_socket);
	if (options->ca_file != NULL)
	{
		/* these and no others: libcurl has a directory of the system's */
		CHECK_SETOPT(easy, CURLOPT_CAINFO, options->ca_file);
		CHECK_SETOPT(easy, CURLOPT_CAPATH, NULL);
#if LIBCURL_VERSION_NUM >= 0x075700
		/* the file may be replaced */
		CHECK_SETOPT(easy, CURLOPT_CA_CACHE_TIMEOUT, 0L);
#endif
	}
	CHECK_SETOPT(easy, CURLOPT_PRIVATE, request);
	CHECK_SETOPT(easy, CURLOPT_ERRORBUFFER, request->error);
	CHECK_SETOPT(easy, CURLOPT_HEADERFUNCTION, header_received);
	CHECK_SETOPT(easy, CURLOPT_HEADERDATA, request);
	CHECK_SETOPT(easy, CURLOPT_WRITEFUNCTION, body_received);
	CHECK_SETOPT(easy, CURLOPT_WRITEDATA, request);
	CHECK_SETOPT(easy, CURLOPT_SOCKOPTFUNCTION, http_socket_opened);
	CHECK_SETOPT(easy, CURLOPT_CLOSESOCKETFUNCTION, http_socket_closed);
	CHECK_SETOPT(easy, CURLOPT_CLOSESOCKETDATA, client);
}

static void
destroy_request(HttpRequest *request)
{
	dlist_delete(&request->node);
	curl_easy_cleanup(request->easy);
	curl_url_cleanup(request->parsed_url);
	if (request->url)
		pfree(request->url);
	MemoryContextDelete(request->context);
	pfree(request);
}

/* Make a request and put it on its config's idle list. */
void
http_make_request(HttpClient *client, HttpConfig *config)
{
	HttpRequest *request = MemoryContextAllocZero(client->context,
												  sizeof(HttpRequest));

	request->client = client;
	request->config = config;
	request->context = AllocSetContextCreate(client->context,
											 "outbox HTTP request",
											 REQUEST_MEMORY);
	dlist_push_tail(&client->requests, &request->node);
	PG_TRY();
	{
		request->easy = curl_easy_init();
		request->parsed_url = curl_url();
		if (request->easy == NULL || request->parsed_url == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_OUT_OF_MEMORY),
					 errmsg("out of memory"),
					 errdetail("Failed to create a libcurl handle.")));
		set_options(request);
	}
	PG_CATCH();
	{
		destroy_request(request);
		PG_RE_THROW();
	}
	PG_END_TRY();
	slist_push_head(&config->idle, &request->idle_node);
}

/* Free a config that is not current any more, or what of it is not in use. */
void
http_retire_config(HttpConfig *config)
{
	while (!slist_is_empty(&config->idle))
		destroy_request(slist_container(HttpRequest, idle_node,
										slist_pop_head_node(&config->idle)));
	if (config->nbusy == 0)
		MemoryContextDelete(config->context);
}

/* Take a request back from libcurl, which drops its connection if need be. */
void
http_stop_request(HttpRequest *request)
{
	if (request->started)
		curl_multi_remove_handle(request->client->multi, request->easy);
	request->started = false;
}

/* A request is over: keep it for another use, unless its config is retired. */
static void
release_request(HttpRequest *request)
{
	HttpConfig *config = request->config;

	MemoryContextReset(request->context);
	request->busy = false;
	config->nbusy--;
	slist_push_head(&config->idle, &request->idle_node);
	if (config != request->client->config)
		http_retire_config(config);
}

/* A copy of the options, in a context of its own. */
HttpConfig *
http_make_config(HttpClient *client, const HttpOptions *options)
{
	MemoryContext context = AllocSetContextCreate(client->context,
												  "outbox HTTP options",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	HttpConfig *config = palloc0(sizeof(HttpConfig));

	config->context = context;
	config->options = *options;
	if (options->unix_socket != NULL)
		config->options.unix_socket = pstrdup(options->unix_socket);
	if (options->ca_file != NULL)
		config->options.ca_file = pstrdup(options->ca_file);

	/* an empty Expect keeps libcurl from waiting for "100 Continue" */
	config->headers = prepend_header(NULL, pstrdup("Expect:"));
	for (int i = options->nheaders - 1; i >= 0; i--)
		config->headers = prepend_header(config->headers,
										 pstrdup(options->headers[i]));
	MemoryContextSwitchTo(old);
	return config;
}

/*
 * A request to fill in and to start.  "id" and "done" together name it.  It
 * is in use until "done" has been called for it or it is cancelled.
 */
HttpRequest *
http_new_request(HttpClient *client, int64 id, HttpDoneCB done)
{
	HttpConfig *config = client->config;
	HttpRequest *request;

	if (slist_is_empty(&config->idle))
		http_make_request(client, config);
	request = slist_container(HttpRequest, idle_node,
							  slist_pop_head_node(&config->idle));
	config->nbusy++;
	request->busy = true;
	request->id = id;
	request->done = done;
	request->headers.data = NULL;
	request->headers_end = false;
	request->received = 0;
	request->body = NULL;
	request->kept = 0;
	request->body_size = 0;
	request->error[0] = '\0';
	return request;
}

/* Memory for what goes into a request: lasts as long as it is in use. */
MemoryContext
http_request_context(HttpRequest *request)
{
	return request->context;
}

/* Add a header.  The strings are copied; the caller has checked them. */
void
http_add_header(HttpRequest *request, const char *name, const char *value)
{
	MemoryContext old = MemoryContextSwitchTo(request->context);

	if (request->headers.data == NULL)
		initStringInfo(&request->headers);
	appendStringInfoString(&request->headers, "\r\n");
	appendStringInfoString(&request->headers, name);
	appendStringInfoString(&request->headers, ": ");
	appendStringInfoString(&request->headers, value);
	MemoryContextSwitchTo(old);
}

/*
 * Set the URL, which mostly is the one of the last time: parsing it takes
 * libcurl longer than anything else that it does before it sends.
 */
static void
set_url(HttpRequest *request, const char *url)
{
	if (request->url && strcmp(request->url, url) == 0)
		return;
	if (request->url)
		pfree(request->url);
	request->url = NULL;
	if (curl_url_set(request->parsed_url, CURLUPART_URL, url,
					 CURLU_PATH_AS_IS) == CURLUE_OK)
	{
		CHECK_SETOPT(request->easy, CURLOPT_CURLU, request->parsed_url);
		request->url = MemoryContextStrdup(request->client->context, url);
	}
	else
	{
		/* the transfer will tell what is wrong with it */
		CHECK_SETOPT(request->easy, CURLOPT_CURLU, NULL);
		CHECK_SETOPT(request->easy, CURLOPT_URL, url);
	}
}

static void
start_request(HttpRequest *request, const char *url,
			  struct curl_slist *headers)
{
	Assert(request->busy && !request->started);
	set_url(request, url);
	CHECK_SETOPT(request->easy, CURLOPT_HTTPHEADER, headers);
	http_add_to_multi(request);
}

void
http_get(HttpRequest *request, const char *url)
{
	Assert(request->headers.data == NULL);
	CHECK_SETOPT(request->easy, CURLOPT_HTTPGET, 1L);
	start_request(request, url, request->config->headers);
}

/* "body" is not copied: it must last as long as the request is in use. */
void
http_post(HttpRequest *request, const char *url, const char *content_type,
		  const char *body, Size len)
{
	MemoryContext old = MemoryContextSwitchTo(request->context);
	StringInfoData headers;

	CHECK_SETOPT(request->easy, CURLOPT_POST, 1L);
	CHECK_SETOPT(request->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t) len);
	CHECK_SETOPT(request->easy, CURLOPT_POSTFIELDS, len > 0 ? body : "");
	initStringInfo(&headers);
	appendStringInfoString(&headers, "Content-Type: ");
	appendStringInfoString(&headers, content_type);
	if (request->headers.data != NULL)
		appendBinaryStringInfo(&headers, request->headers.data,
							   request->headers.len);
	start_request(request, url,
				  prepend_header(request->config->headers, headers.data));
	MemoryContextSwitchTo(old);
}

/* Forget a request; nothing happens if it is not in use. */
void
http_cancel(HttpClient *client, int64 id, HttpDoneCB done)
{
	dlist_iter	iter;

	dlist_foreach(iter, &client->requests)
	{
		HttpRequest *request = dlist_container(HttpRequest, node, iter.cur);

		if (request->busy && request->id == id && request->done == done)
		{
			http_stop_request(request);
			release_request(request);
			return;
		}
	}
}

/* Tell how a finished request went, and take it back. */
void
http_finish_request(HttpRequest *request, CURLcode code)
{
	HttpResult	result;
	long		status = 0;
	curl_off_t	retry_after = 0;

	curl_easy_getinfo(request->easy, CURLINFO_RESPONSE_CODE, &status);
	if (status < 200 || status >= 300)
		curl_easy_getinfo(request->easy, CURLINFO_RETRY_AFTER, &retry_after);
	http_stop_request(request);

	result.status = 0;
	result.error = NULL;
	if (code != CURLE_OK)
		result.error = request->error[0] != '\0' ? request->error :
			curl_easy_strerror(code);
	if (request->headers_end && status >= 200)
		result.status = (int) status;
	else if (result.error == NULL)
		result.error = "the response broke off in its headers";
	result.retry_after_ms = -1;
	if (retry_after > 0)
		result.retry_after_ms = Min(retry_after, INT_MAX) * INT64CONST(1000);
	result.body = "";
	result.body_len = 0;
	if (request->body != NULL)
	{
		result.body_len = request->kept;
		request->body[result.body_len] = '\0';
		result.body = request->body;
	}

	request->done(request->client->arg, request->id, &result);
	release_request(request);
}
