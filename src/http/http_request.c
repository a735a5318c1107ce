/*-------------------------------------------------------------------------
 *
 * http_request.c
 *		One request to a server and its result.
 *
 * A request, an easy handle of libcurl, is made once and used again; what belongs
 * to one use is in its memory context, which is reset after it.  It keeps the
 * options that it was made with.  The rest is http_client.c's business.
 *
 * libcurl looks at every header that it is given for longer than it takes to
 * send it.  It passes strings on verbatim, control characters included (see
 * CURLOPT_HTTPHEADER), so that the headers of one request are given to it as
 * one string of several lines.  Content-Type is the first: libcurl makes one of
 * its own if it sees none, and only looks at the beginning of a string.
 *
 * Errors.  What libcurl calls neither throws nor blocks.  The other functions
 * throw if libcurl refuses an option or there is no memory.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>
#include <time.h>

#include "utils/memutils.h"

#include "http/http_header.h"
#include "http/http_internal.h"

/*
 * What is kept of a request's memory from one use to the next: enough for the
 * headers and a small body, so that most uses allocate nothing.
 */
#define REQUEST_MEMORY	0, 8 * 1024, ALLOCSET_DEFAULT_MAXSIZE

/* Make room for so many bytes of a body.  False if there is no memory. */
static bool
reserve_body(HttpRequest *request, Size needed)
{
	Size		size = Max(needed, 2 * request->body_size);
	char	   *body;

	if (needed <= request->body_size)
		return true;
	size = Min(size, HTTP_BODY_KEPT);

	/* nothing may be thrown through libcurl */
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

/* What time is it to the server?  "value" does not end with a NUL. */
static void
take_date(HttpRequest *request, const char *value, Size len)
{
	char		str[64];
	time_t		date;

	len = Min(len, sizeof(str) - 1);
	memcpy(str, value, len);
	str[len] = '\0';
	date = curl_getdate(str, NULL);
	request->has_date = date != -1;
	request->clock_skew = (int64) date - (int64) time(NULL);
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

	request->answered = true;
	if (len >= 5 && pg_strncasecmp(data, "Date:", 5) == 0)
		take_date(request, data + 5, len - 5);
	else if (len > 0 && (data[0] == '\r' || data[0] == '\n'))
		request->headers_end = true;
	else if (len >= 5 && memcmp(data, "HTTP/", 5) == 0)
	{
		request->headers_end = false;
		request->has_date = false;
		request->has_status = http_header_is_status(data, len);
	}
	return len;
}

/*
 * libcurl wants a socket to connect to this address.  If none may be, it goes on
 * to the next address of the host.
 */
static curl_socket_t
open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
	HttpRequest *request = arg;
	const HttpConfig *config = request->config;
	struct sockaddr_storage storage = {0};

	memcpy(&storage, &address->addr, Min(address->addrlen, sizeof(storage)));
	if (!http_address_is_in(config->networks, config->nnetworks, &storage))
	{
		request->refused_address = true;
		return CURL_SOCKET_BAD;
	}
	return socket(address->family, address->socktype, address->protocol);
}

/*
 * A request is about to be sent.  If this is libcurl's remedy for a connection
 * that died under it, there is no use in trying it on one more kept connection,
 * and then the next; and there may be one to an address to which none is allowed
 * any more.  Then http_request_repeat() has a fresh one made.
 */
static int
about_to_send(void *arg, char *remote_ip, char *local_ip, int remote_port,
			  int local_port)
{
	HttpRequest *request = arg;
	const HttpConfig *config = request->config;
	bool		again = request->sends++ > 0;
	long		connects = 0;

	curl_easy_getinfo(request->easy, CURLINFO_NUM_CONNECTS, &connects);
	if (connects > 0)
		return CURL_PREREQFUNC_OK;
	if (again ||
		(config->nnetworks > 0 &&
		 !http_address_text_is_in(config->networks, config->nnetworks,
								  remote_ip)))
		return CURL_PREREQFUNC_ABORT;
	return CURL_PREREQFUNC_OK;
}

/* Set what an easy handle keeps from one use to the next. */
static void
set_options(HttpRequest *request)
{
	CURL	   *easy = request->easy;

	http_options_apply(easy, &request->config->options);
	CHECK_SETOPT(easy, CURLOPT_PRIVATE, request);
	CHECK_SETOPT(easy, CURLOPT_ERRORBUFFER, request->error);
	if (request->config->nnetworks > 0)
	{
		CHECK_SETOPT(easy, CURLOPT_OPENSOCKETFUNCTION, open_socket);
		CHECK_SETOPT(easy, CURLOPT_OPENSOCKETDATA, request);
	}
	CHECK_SETOPT(easy, CURLOPT_PREREQFUNCTION, about_to_send);
	CHECK_SETOPT(easy, CURLOPT_PREREQDATA, request);
	CHECK_SETOPT(easy, CURLOPT_HEADERFUNCTION, header_received);
	CHECK_SETOPT(easy, CURLOPT_HEADERDATA, request);
	CHECK_SETOPT(easy, CURLOPT_WRITEFUNCTION, body_received);
	CHECK_SETOPT(easy, CURLOPT_WRITEDATA, request);
}

/*
 * A new request in "owner", for as many uses as one likes.  "config" and
 * "sockets" must last longer than it.  If libcurl does not take the options,
 * this throws and leaves nothing behind.
 */
HttpRequest *
http_request_create(MemoryContext owner, HttpConfig *config,
					HttpSockets *sockets)
{
	HttpRequest *request = MemoryContextAllocZero(owner, sizeof(HttpRequest));

	request->owner = owner;
	request->config = config;
	request->context = AllocSetContextCreate(owner, "outbox HTTP request",
											 REQUEST_MEMORY);

	/* no memory context would free libcurl's handles */
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
		http_socket_watch_easy(sockets, request->easy);
	}
	PG_CATCH();
	{
		http_request_destroy(request);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return request;
}

/* Forget the last use of a request, and whatever it allocated. */
void
http_request_clear(HttpRequest *request)
{
	MemoryContextReset(request->context);
	if (request->repeated)
		CHECK_SETOPT(request->easy, CURLOPT_FRESH_CONNECT, 0L);
	request->repeated = false;
	request->prepare = NULL;
	request->encoded = false;
	request->omits_headers = false;
	request->sends = 0;
	request->refused_address = false;
	request->headers.data = NULL;
	request->answered = false;
	request->has_status = false;
	request->headers_end = false;
	request->has_date = false;
	request->received = 0;
	request->body = NULL;
	request->kept = 0;
	request->body_size = 0;
	request->error[0] = '\0';
}

/* Release what libcurl holds of a request that it is not working on. */
void
http_request_free_handles(HttpRequest *request)
{
	curl_easy_cleanup(request->easy);
	curl_url_cleanup(request->parsed_url);
}

/* Free a request that libcurl is not working on. */
void
http_request_destroy(HttpRequest *request)
{
	http_request_free_handles(request);
	if (request->url)
		pfree(request->url);
	MemoryContextDelete(request->context);
	pfree(request);
}

/* Memory for what goes into a request: lasts as long as it is in use. */
MemoryContext
http_request_context(HttpRequest *request)
{
	return request->context;
}

/*
 * Have the request filled in by "prepare" after it was started: what has to be
 * done before it can be sent takes longer than anybody should have to wait.
 */
void
http_request_prepare_by(HttpRequest *request, HttpPrepareCB prepare, void *arg)
{
	request->prepare = prepare;
	request->prepare_arg = arg;
}

/* Say that the body is not as its media type has it, but encoded so. */
void
http_request_set_encoding(HttpRequest *request, const char *encoding)
{
	http_request_add_header(request, "Content-Encoding", encoding);
	request->encoded = true;
}

/* Leave out the headers of the options: they are for somebody else. */
void
http_request_omit_headers(HttpRequest *request)
{
	request->omits_headers = true;
}

/* Add a header.  The strings are copied; the caller has checked them. */
void
http_request_add_header(HttpRequest *request, const char *name,
						const char *value)
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
		request->url = MemoryContextStrdup(request->owner, url);
	}
	else
	{
		/* the transfer will tell what is wrong with it */
		CHECK_SETOPT(request->easy, CURLOPT_CURLU, NULL);
		CHECK_SETOPT(request->easy, CURLOPT_URL, url);
	}
}

/* Make it a GET of "url", which is copied. */
void
http_request_get(HttpRequest *request, const char *url)
{
	Assert(request->headers.data == NULL);
	set_url(request, url);
	CHECK_SETOPT(request->easy, CURLOPT_HTTPGET, 1L);
	CHECK_SETOPT(request->easy, CURLOPT_HTTPHEADER, request->config->headers);
}

/*
 * Make it a POST to "url", with the headers that were added before.  All is
 * copied but "body", which must last as long as the request is in use.
 */
void
http_request_post(HttpRequest *request, const char *url,
				  const char *content_type, const char *body, Size len)
{
	MemoryContext old = MemoryContextSwitchTo(request->context);
	StringInfoData headers;

	initStringInfo(&headers);
	appendStringInfoString(&headers, "Content-Type: ");
	appendStringInfoString(&headers, content_type);
	if (request->headers.data != NULL)
		appendBinaryStringInfo(&headers, request->headers.data,
							   request->headers.len);

	set_url(request, url);
	CHECK_SETOPT(request->easy, CURLOPT_POST, 1L);
	CHECK_SETOPT(request->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t) len);

	/* with NULL, libcurl would ask a callback for the body */
	CHECK_SETOPT(request->easy, CURLOPT_POSTFIELDS, len > 0 ? body : "");
	CHECK_SETOPT(request->easy, CURLOPT_HTTPHEADER,
				 http_options_prepend_header(request->omits_headers ?
											 request->config->no_headers :
											 request->config->headers,
											 headers.data));
	MemoryContextSwitchTo(old);
}

/*
 * Shall a request that libcurl has finished with "code" be sent once more?  If
 * so, it will have a fresh connection.
 *
 * A server may close a kept connection whenever it likes, and a request that
 * meets this is told nothing: no fault of its own.  libcurl has a remedy, but
 * only five times in an easy handle's life, and each time with any connection
 * that is kept, which about_to_send() does not let it use.  So a request is sent at
 * most twice.  The server may have taken it all the same, as with any answer that
 * is lost.
 */
bool
http_request_repeat(HttpRequest *request, CURLcode code)
{
	long		connects = 0;

	if (request->repeated || request->answered)
		return false;

	/* only about_to_send() aborts */
	if (code != CURLE_GOT_NOTHING && code != CURLE_RECV_ERROR &&
		code != CURLE_SEND_ERROR && code != CURLE_ABORTED_BY_CALLBACK)
		return false;
	curl_easy_getinfo(request->easy, CURLINFO_NUM_CONNECTS, &connects);
	if (connects > 0)
		return false;
	CHECK_SETOPT(request->easy, CURLOPT_FRESH_CONNECT, 1L);
	request->repeated = true;
	request->sends = 0;
	request->error[0] = '\0';
	return true;
}

/*
 * Tell how a request went that libcurl has finished with "code".  The texts in
 * the result last until the request is cleared.
 */
void
http_request_result(HttpRequest *request, CURLcode code,
					HttpResult *result)
{
	long		status = 0;
	curl_off_t	retry_after = 0;

	curl_easy_getinfo(request->easy, CURLINFO_RESPONSE_CODE, &status);
	if (status < 200 || status >= 300)
		curl_easy_getinfo(request->easy, CURLINFO_RETRY_AFTER, &retry_after);

	/* not before a connection, tunnel and TLS included, is there */
	result->sent = request->sends > 0;

	result->encoded = request->encoded;
	result->options = &request->config->options;
	result->status = 0;
	result->error = NULL;
	if (code == CURLE_OPERATION_TIMEDOUT && request->error[0] == '\0')
		snprintf(request->error, sizeof(request->error),
				 "timed out: no complete answer in %d ms",
				 request->config->options.request_timeout);
	if (code == CURLE_COULDNT_CONNECT && request->refused_address)
		strlcpy(request->error, "the host has no address that may be connected to and answers",
				sizeof(request->error));
	if (code != CURLE_OK)
		result->error = request->error[0] != '\0' ? request->error :
			curl_easy_strerror(code);

	/*
	 * libcurl knows the status from the first line on, and may count headers
	 * that broke off as a response.  Only complete ones are an answer.
	 */
	if (request->headers_end && request->has_status && status >= 200)
		result->status = (int) status;
	else if (result->error == NULL)
		result->error = request->headers_end && !request->has_status ?
			"the response has no status" : "the response broke off in its headers";

	result->has_date = request->has_date;
	result->clock_skew = request->clock_skew;

	/* in seconds, as many as the server likes */
	result->retry_after_ms = -1;
	if (retry_after > 0)
		result->retry_after_ms = Min(retry_after, INT_MAX) * INT64CONST(1000);

	result->body = "";
	result->body_len = 0;
	if (request->body != NULL)
	{
		result->body_len = request->kept;
		request->body[result->body_len] = '\0';
		result->body = request->body;
	}
}
