/*-------------------------------------------------------------------------
 *
 * http_internal.h
 *		What the files of the HTTP client share: http_client.c is built on
 *		http_request.c, and that on http_options.c and http_socket.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_HTTP_INTERNAL_H
#define OUTBOX_HTTP_INTERNAL_H

#include <curl/curl.h>

#include "lib/ilist.h"
#include "lib/stringinfo.h"

#include "http/http.h"
#include "http/http_address.h"

#if LIBCURL_VERSION_NUM < 0x075000
#error "libcurl 7.80 or later is required"
#endif

/* What we know of the socket at the same place in HttpSockets.sockets. */
typedef struct HttpSocketState
{
	bool		connection;		/* libcurl tells us when it closes it */
	bool		wanted;			/* libcurl waits for it */
	CURL	   *easy;			/* the last request that it did so for */
} HttpSocketState;

/* What libcurl waits for, on behalf of one multi handle. */
typedef struct HttpSockets
{
	OutboxSocket *sockets;
	HttpSocketState *states;
	int			nsockets;
	int			maxsockets;
	uint32		generation;		/* of the latest entry in sockets */
	int64		deadline;		/* when libcurl wants to be called, in
								 * clock_us(); -1: never */
} HttpSockets;

/* Options, and the requests that were made with them. */
typedef struct HttpConfig
{
	MemoryContext context;		/* holds this and what it points to */
	HttpOptions options;
	struct curl_slist *headers;
	struct curl_slist *no_headers;	/* the end of these: none of the options */
	HttpNetwork *networks;		/* what of options may be connected to */
	int			nnetworks;		/* 0: anything */

	/* http_client.c's */
	slist_head	idle;			/* requests to use again */
	int			nbusy;			/* requests in use */
} HttpConfig;

struct HttpRequest
{
	MemoryContext owner;		/* holds this and "url" */
	HttpConfig *config;
	CURL	   *easy;
	CURLU	   *parsed_url;
	char	   *url;			/* what parsed_url was made of; or NULL */

	/* http_client.c's */
	dlist_node	node;			/* in the client's requests */
	slist_node	idle_node;		/* in its config's idle, unless it is busy */
	bool		busy;			/* in use */
	bool		started;		/* easy has been added to the multi handle */
	bool		preparing;		/* it is in the client's list of these ... */
	dlist_node	prepare_node;
	int64		id;
	HttpDoneCB	done;
	int64		deadline;		/* of one that is started, in clock_us() */

	/* The rest belongs to one use. */
	MemoryContext context;
	HttpPrepareCB prepare;		/* fills it in, after it was started; or NULL */
	void	   *prepare_arg;
	bool		encoded;		/* the body has an encoding */
	bool		omits_headers;	/* those of the options */
	int			sends;			/* how often it began to be sent */
	bool		repeated;		/* http_request_repeat() was true */
	StringInfoData headers;		/* lines, each behind a line end; or NULL */
	bool		refused_address;	/* one may not be connected to */
	bool		answered;		/* a line of a response was received */
	bool		has_status;		/* its first line was one */
	bool		headers_end;	/* the response's headers are complete */
	bool		has_date;		/* they have a Date ... */
	int64		clock_skew;		/* ... so many seconds ahead of our clock */
	Size		received;		/* bytes of the body, kept or not */
	char	   *body;			/* its beginning, "kept" bytes; or NULL */
	Size		kept;
	Size		body_size;		/* allocated, without a place for a NUL */
	char		error[CURL_ERROR_SIZE];
};

/* Set an option of an easy handle, or throw. */
#define CHECK_SETOPT(easy, option, value) \
	do { \
		CURLcode	ec_ = curl_easy_setopt((easy), (option), (value)); \
		if (ec_ != CURLE_OK) \
			ereport(ERROR, \
					(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION), \
					 errmsg("could not set libcurl option %s: %s", \
							#option, curl_easy_strerror(ec_)))); \
	} while (0)

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

/* http_socket.c */
extern void http_socket_watch_multi(HttpSockets *sockets, CURLM *multi);
extern void http_socket_watch_easy(HttpSockets *sockets, CURL *easy);
extern void http_socket_reserve(HttpSockets *sockets, MemoryContext context,
								int nrequests);
extern long http_socket_timeout_ms(const HttpSockets *sockets,
								   int64 deadline);
extern CURLMcode http_socket_ready(HttpSockets *sockets, CURLM *multi,
								   const OutboxSocket *ready, int n);
extern CURLMcode http_socket_take_in(HttpSockets *sockets, CURLM *multi,
									 const CURL *easy);

/* http_options.c */
extern void http_options_apply(CURL *easy, const HttpOptions *options);
extern struct curl_slist *http_options_prepend_header(struct curl_slist *next,
													  char *line);
extern HttpConfig *http_options_copy(MemoryContext parent,
									 const HttpOptions *options);

/* http_request.c */
extern HttpRequest *http_request_create(MemoryContext owner,
										HttpConfig *config,
										HttpSockets *sockets);
extern void http_request_clear(HttpRequest *request);
extern bool http_request_repeat(HttpRequest *request, CURLcode code);
extern void http_request_result(HttpRequest *request, CURLcode code,
								HttpResult *result);
extern void http_request_free_handles(HttpRequest *request);
extern void http_request_destroy(HttpRequest *request);

#endif							/* OUTBOX_HTTP_INTERNAL_H */
