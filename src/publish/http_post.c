/*-------------------------------------------------------------------------
 *
 * http_post.c
 *		The last steps to a request: compress, name, sign.
 *
 * A signature covers the bytes that are sent, so that it comes last.  What is too
 * large to be compressed at once is compressed a piece at a time after the request
 * was started (HttpPrepareCB), so that the relay gets to other work in between.
 *
 * Memory.  Everything is in the request's context.
 *
 * Errors.  Thrown out of memory, by the client, and if libcrypto fails.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/gzip.h"
#include "publish/http_post.h"

/* Bytes that are compressed at once: in less than 50 ms on any machine. */
#define PIECE	(512 * 1024)

/* A request whose body is being compressed. */
typedef struct PostWork
{
	HttpPublisher *publisher;
	const HttpPostOptions *options;
	const char *id;
	const char *url;
	const char *content_type;
	GzipWork   *gzip;
} PostWork;

/* Name it, sign it, and make it a POST of "body", which is sent as it is. */
static void
name_and_sign(const HttpPostOptions *options, HttpRequest *request,
			  const char *id, const char *url, const char *content_type,
			  const char *body, Size len)
{
	if (options->idempotency_key)
		http_request_add_header(request, "Idempotency-Key", id);
	if (options->keys != NULL)
		webhook_sign(options->keys, request, id, body, len);
	http_request_post(request, url, content_type, body, len);
}

/* Compress the next piece, and do the rest behind the last one: HttpPrepareCB. */
static HttpPrepared
compress_piece(HttpRequest *request, void *arg)
{
	PostWork   *work = arg;
	const char *body;
	Size		len;

	if (!gzip_step(work->gzip, PIECE))
		return HTTP_PREPARE_MORE;

	/* the settings that we began with may be gone, and others not good */
	if (!work->publisher->configured)
		return HTTP_PREPARE_FAILED;
	body = gzip_result(work->gzip, &len);
	http_request_set_encoding(request, "gzip");
	name_and_sign(work->options, request, work->id, work->url,
				  work->content_type, body, len);
	return HTTP_PREPARED;
}

/*
 * Make it a POST of "body".  "id" names the event, or the set of them, at each try;
 * it and the other texts but the URL last as long as the request is in use.
 * "options" last as long as the publisher, which may change them.
 */
void
http_post(HttpPublisher *publisher, const HttpPostOptions *options,
		  HttpRequest *request, const char *id, const char *url,
		  const char *content_type, const char *body, Size len)
{
	PostWork   *work;

	if (!options->compress || len < options->compress_min)
	{
		name_and_sign(options, request, id, url, content_type, body, len);
		return;
	}
	work = palloc(sizeof(PostWork));
	work->publisher = publisher;
	work->options = options;
	work->id = id;
	work->url = pstrdup(url);
	work->content_type = content_type;
	work->gzip = gzip_begin(body, len);
	if (len > PIECE)
		http_request_prepare_by(request, compress_piece, work);
	else
		(void) compress_piece(request, work);
}
