/*-------------------------------------------------------------------------
 *
 * http.h
 *		A client for many small HTTP requests at a time, which never blocks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_HTTP_H
#define OUTBOX_HTTP_H

#include "outbox_publisher.h"

/* Bytes of a response's body that are kept, and after which it is cut off. */
#define HTTP_BODY_KEPT		(128 * 1024)
#define HTTP_BODY_LIMIT		(256 * 1024)

typedef struct HttpClient HttpClient;
typedef struct HttpRequest HttpRequest;

/* Settings of requests; copied. */
typedef struct HttpOptions
{
	const char *unix_socket;	/* connect to this one; NULL: TCP */
	const char *ca_file;		/* trust these; NULL: the system's */
	const char *tls_cert;		/* ours and its chain, PEM; NULL: none */
	const char *tls_key;		/* its private key, PEM */
	const char *tls_key_password;	/* that of the key; NULL: none */
	const char *proxy;			/* the URL of a forward proxy; NULL: none */
	const char *proxy_user;		/* who we are to it; NULL: nobody */
	const char *proxy_password;
	const char *allowed_addresses;	/* a list of networks; NULL or empty: any */
	int			connect_timeout;	/* milliseconds */
	int			request_timeout;	/* milliseconds, connecting included */
	int			connection_age; /* seconds that one is used for; 0: no limit */
	int			max_connections;
	const char *const *headers; /* "Name: value" lines of every request */
	int			nheaders;

	/*
	 * What of headers and URLs must not be shown, should the server repeat
	 * it; the longest first, for one may be a part of another.
	 */
	const char *const *secrets;
	int			nsecrets;
} HttpOptions;

/*
 * What became of a request.  Whoever sees a status should decide by it: it is
 * there when the headers were complete.  An error beside it says that the body
 * broke off or was cut off.
 */
typedef struct HttpResult
{
	int			status;			/* 200 or more; 0: no response */
	bool		sent;			/* the server may have seen the request */
	bool		encoded;		/* the request's body had an encoding */
	const char *error;			/* of the transport; NULL: none */
	int64		retry_after_ms; /* the Retry-After header; -1: none */
	bool		has_date;		/* it had a Date header ... */
	int64		clock_skew;		/* ... so many seconds ahead of our clock */
	const char *body;			/* its first bytes, and a NUL; never NULL */
	Size		body_len;
	const HttpOptions *options; /* those of the request; secrets are there */
} HttpResult;

/*
 * Called once for a request that was started and not cancelled, outside
 * libcurl.  It may throw; the request must then be cancelled.  "result" is
 * gone when it returns.  It must not call back into the client.
 */
typedef void (*HttpDoneCB) (void *arg, int64 id, const HttpResult *result);

/* What has become of the work on a request. */
typedef enum HttpPrepared
{
	HTTP_PREPARE_MORE,			/* it has to be gone on with */
	HTTP_PREPARED,				/* it can be sent */
	HTTP_PREPARE_FAILED			/* it is not to be sent */
} HttpPrepared;

/*
 * Go on with filling in a request that takes long, for some milliseconds, in the
 * request's memory context.  As for HttpDoneCB otherwise.
 */
typedef HttpPrepared (*HttpPrepareCB) (HttpRequest *request, void *arg);

/* http_client.c */
extern HttpClient *http_client_create(void *arg);
extern void http_client_configure(HttpClient *client,
								  const HttpOptions *options);
extern void http_client_destroy(HttpClient *client);
extern HttpRequest *http_client_new_request(HttpClient *client, int64 id,
											HttpDoneCB done);
extern void http_client_start(HttpClient *client, HttpRequest *request);
extern void http_client_cancel(HttpClient *client, int64 id, HttpDoneCB done);
extern int	http_client_sockets(HttpClient *client,
								const OutboxSocket **sockets,
								long *timeout_ms);
extern void http_client_ready(HttpClient *client, const OutboxSocket *ready,
							  int n);

/* http_request.c: to fill in a new request, before it is started */
extern MemoryContext http_request_context(HttpRequest *request);
extern void http_request_prepare_by(HttpRequest *request,
									HttpPrepareCB prepare, void *arg);
extern void http_request_set_encoding(HttpRequest *request,
									  const char *encoding);
extern void http_request_omit_headers(HttpRequest *request);
extern void http_request_add_header(HttpRequest *request, const char *name,
									const char *value);
extern void http_request_get(HttpRequest *request, const char *url);
extern void http_request_post(HttpRequest *request, const char *url,
							  const char *content_type, const char *body,
							  Size len);

#endif							/* OUTBOX_HTTP_H */
