/*-------------------------------------------------------------------------
 *
 * http_publisher.h
 *		What a publisher that speaks HTTP is: the state that all of them have,
 *		and what makes one differ from another.
 *
 * publisher_over_http.c has the callbacks that the relay calls; it is built on
 * http_batch.c (requests), and that on http_answer.c (answers).
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_HTTP_PUBLISHER_H
#define OUTBOX_HTTP_PUBLISHER_H

#include "lib/ilist.h"
#include "nodes/pg_list.h"

#include "http/http.h"
#include "lib/watched_file.h"

/* Most bytes of payload in a request that messages share. */
#define HTTP_BATCH_BYTES_MAX (1024 * 1024)

typedef struct HttpPublisher HttpPublisher;

/* What a publisher makes of a response that is not 2xx. */
typedef struct HttpVerdict
{
	OutboxOutcome outcome;
	const char *code;			/* the response's name for the error, or NULL */
	const char *message;		/* its message; NULL: the start of its body */
} HttpVerdict;

/* The messages of a request; made and freed in http_batch.c. */
typedef struct HttpBatch
{
	dlist_node	node;			/* in one of the lists in HttpPublisher */
	int			route;			/* the publisher's note of how it was sent */
	int			tried;			/* its note of all the ways until now */
	int			generation;		/* HttpPublisher.generation when it was sent */
	int			credentials;	/* HttpPublisher.credentials then */
	bool		alone;			/* one message; the request is of its own form */
	bool		detour;			/* one message that could not be sent so */
	int			nmessages;		/* that are not answered or cancelled */
	const OutboxMessage *messages[FLEXIBLE_ARRAY_MEMBER];
} HttpBatch;

/* What to do when a request has failed. */
typedef enum HttpBatchFate
{
	HTTP_BATCH_ANSWER,			/* give the answers */
	HTTP_BATCH_AGAIN,			/* send it once more, there is another way; a
								 * message alone: by make_batch_request() */
	HTTP_BATCH_REPEAT,			/* send it once more as it is */
	HTTP_BATCH_WAIT,			/* the same, after http_batch_release() */
	HTTP_BATCH_ALONE			/* have the relay send each message alone */
} HttpBatchFate;

/* What makes one publisher differ from another. */
typedef struct HttpPublisherKind
{
	/* of the publisher's state, which starts with an HttpPublisher */
	Size		size;

	/*
	 * Read the settings: fill in unix_socket and headers of "options", which
	 * are clear.  As OutboxCheckConfiguredCB otherwise, but also called when
	 * one of the files that it has read has changed.  What it allocates lasts
	 * until it is called again.
	 */
	bool		(*configure) (HttpPublisher *publisher, HttpOptions *options,
							  const char **reason);

	/*
	 * Optional: why can this message never be sent?  NULL: it can.  Asked
	 * before each request.
	 */
	const char *(*message_problem) (HttpPublisher *publisher,
									const OutboxMessage *message);

	/* Fill in the request of a message, in the request's memory context. */
	void		(*make_request) (HttpPublisher *publisher,
								 HttpRequest *request,
								 const OutboxMessage *message);

	/*
	 * Give a verdict on a response that is not 2xx, other than "unavailable",
	 * which it is set to.  The current memory context lasts long enough.
	 */
	void		(*judge) (HttpPublisher *publisher, const HttpResult *result,
						  HttpVerdict *verdict);

	/*
	 * Fill in the request of several messages, as make_request() does; may
	 * set "route" and "tried".  Only used if configure() has set max_batch,
	 * or judge_batch() wants it.
	 */
	void		(*make_batch_request) (HttpPublisher *publisher,
									   HttpRequest *request,
									   HttpBatch *batch);

	/*
	 * Optional: look into a response that is not 2xx and, if its request was
	 * shared, that judge() did not reject.  "answers" has an entry for each
	 * message, with judge()'s verdict, to be changed where the response tells
	 * more.
	 */
	HttpBatchFate (*judge_batch) (HttpPublisher *publisher,
								  const HttpBatch *batch,
								  const HttpResult *result,
								  const HttpVerdict *verdict,
								  OutboxAnswer *answers);
} HttpPublisherKind;

struct HttpPublisher
{
	const HttpPublisherKind *kind;
	OutboxPublisherState *state;
	HttpClient *client;

	/* publisher_over_http.c's: what it has of the settings */
	MemoryContext settings;		/* what configure() allocates */
	bool		configured;		/* they can be used */
	int			generation;		/* counts how often they were read */
	WatchedFiles *files;		/* that they name */
	int64		look_at;		/* when to see whether one has changed, in
								 * clock_ms() */

	/* http_answer.c's */
	MemoryContext scratch;		/* work on one answer */
	bool		clocks_known;	/* the relay was told of the server's clock */
	bool		clocks_differ;	/* it was told that it is wrong */
	List	   *secrets;		/* char *, in "settings": not to be shown of
								 * requests with these */

	/* the publisher's, if requests need what has to be fetched first */
	char	   *missing;		/* why nothing can be sent; NULL: it can */
	int			credentials;	/* counts what requests are sent with */

	/* http_batch.c's */
	dlist_head	batches;		/* HttpBatch: requests under way */
	dlist_head	waiting;		/* HttpBatch: until http_batch_release() */
	dlist_head	again;			/* HttpBatch: to be sent once more */
};

#endif							/* OUTBOX_HTTP_PUBLISHER_H */
