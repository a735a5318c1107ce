/*-------------------------------------------------------------------------
 *
 * http_internal.h
 *		What http_client.c and http_request.c share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_HTTP_INTERNAL_H
#define OUTBOX_HTTP_INTERNAL_H

#include <curl/curl.h>

#include "http/http.h"
#include "lib/ilist.h"
#include "lib/stringinfo.h"

#if LIBCURL_VERSION_NUM < 0x074800
#error "libcurl 7.72 or later is required"
#endif

/* Options, and the requests that were made with them. */
typedef struct HttpConfig
{
	MemoryContext context;		/* holds this and what it points to */
	HttpOptions options;
	struct curl_slist *headers;
	slist_head	idle;			/* requests to use again */
	int			nbusy;			/* requests in use */
} HttpConfig;

struct HttpRequest
{
	dlist_node	node;			/* in its client's requests */
	slist_node	idle_node;		/* in its config's idle, unless it is busy */
	HttpClient *client;
	HttpConfig *config;
	CURL	   *easy;
	CURLU	   *parsed_url;
	char	   *url;			/* what parsed_url was made of; NULL: nothing */
	bool		busy;			/* in use */
	bool		started;		/* easy has been added to the multi handle */

	/* The rest belongs to one use. */
	MemoryContext context;
	int64		id;
	HttpDoneCB	done;
	StringInfoData headers;		/* lines, each behind a line end; or NULL */
	bool		headers_end;	/* the response's headers are complete */
	Size		received;		/* bytes of the body, kept or not */
	char	   *body;			/* its beginning, "kept" bytes; or NULL */
	Size		kept;
	Size		body_size;		/* allocated, without a place for a NUL */
	char		error[CURL_ERROR_SIZE];
};

/* What we know of the socket at the same place in HttpClient.sockets. */
typedef struct SocketState
{
	bool		connection;		/* its close goes by http_socket_closed() */
	bool		wanted;			/* libcurl waits for it */
} SocketState;

struct HttpClient
{
	MemoryContext context;
	MemoryContextCallback cleanup;
	void	   *arg;			/* for HttpDoneCB */
	CURLM	   *multi;
	HttpConfig *config;			/* of new requests */
	dlist_head	requests;		/* all of them, of any config */
	double		deadline;		/* when libcurl wants to be called; -1: never */
	OutboxSocket *sockets;
	SocketState *states;
	int			nsockets;
	int			maxsockets;
	uint32		generation;		/* of the latest entry in sockets */
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

/* http_client.c */
extern int	http_socket_opened(void *arg, curl_socket_t fd,
							   curlsocktype purpose);
extern int	http_socket_closed(void *arg, curl_socket_t fd);
extern void http_add_to_multi(HttpRequest *request);

/* http_request.c */
extern HttpConfig *http_make_config(HttpClient *client,
									const HttpOptions *options);
extern void http_retire_config(HttpConfig *config);
extern void http_make_request(HttpClient *client, HttpConfig *config);
extern void http_stop_request(HttpRequest *request);
extern void http_finish_request(HttpRequest *request, CURLcode code);

#endif							/* OUTBOX_HTTP_INTERNAL_H */
