/*-------------------------------------------------------------------------
 *
 * publisher_over_http.h
 *		What the publishers that speak HTTP have in common.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_PUBLISHER_COMMON_H
#define OUTBOX_PUBLISHER_COMMON_H

#include "http/http.h"
#include "lib/ilist.h"
#include "lib/stringinfo.h"
#include "nodes/pg_list.h"

/* Longest text of an error, in bytes. */
#define ERROR_TEXT_MAX 300

/* Most bytes of payload in a request that messages share. */
#define BATCH_BYTES_MAX (1024 * 1024)

/* What a publisher makes of a response that is not 2xx. */
typedef struct Verdict
{
	OutboxOutcome outcome;
	const char *code;			/* the response's name for the error, or NULL */
	const char *message;		/* its message; NULL: the start of its body */
} Verdict;

typedef struct CommonState CommonState;

/* Messages that share a request; made and freed in http_batch.c. */
typedef struct MessageBatch
{
	dlist_node	node;			/* in one of the lists in CommonState */
	int			route;			/* the publisher's note of how it was sent */
	int			generation;		/* CommonState.generation when it was sent */
	bool		singly;			/* to be sent again: each message alone */
	int			nmessages;		/* that are not answered or cancelled */
	const OutboxMessage *messages[FLEXIBLE_ARRAY_MEMBER];
} MessageBatch;

/* What to do when a shared request has failed. */
typedef enum BatchFate
{
	BATCH_ANSWER,				/* give the answers */
	BATCH_AGAIN					/* send it once more, there is another way */
} BatchFate;

/* What makes one publisher differ from another. */
typedef struct PublisherKind
{
	/* of the publisher's state, which starts with a CommonState */
	Size		size;

	/*
	 * Read the settings: fill in unix_socket and headers of "options", which
	 * are clear.  As OutboxCheckConfiguredCB otherwise.  What it allocates
	 * lasts until it is called again.
	 */
	bool		(*configure) (CommonState *common, HttpOptions *options,
							  const char **reason);

	/* Fill in the request of a message, in the request's memory context. */
	void		(*send) (CommonState *common, HttpRequest *request,
						 const OutboxMessage *message);

	/*
	 * Give a verdict on a response that is not 2xx, other than "unavailable",
	 * which it is set to.  The current memory context lasts long enough.
	 */
	void		(*judge) (const HttpResult *result, Verdict *verdict);

	/*
	 * Fill in the request of several messages, as send() does; may set
	 * "route". Only used if configure() has set max_batch.
	 */
	void		(*send_batch) (CommonState *common, HttpRequest *request,
							   MessageBatch *batch);

	/*
	 * Optional: look into a response to a shared request that is not 2xx and
	 * that judge() did not reject.  "answers" has an entry for each message,
	 * with judge()'s verdict, to be changed where the response tells more.
	 */
	BatchFate	(*judge_batch) (CommonState *common, const MessageBatch *batch,
								const HttpResult *result,
								const Verdict *verdict, OutboxAnswer *answers);
} PublisherKind;

struct CommonState
{
	const PublisherKind *kind;
	OutboxPublisherState *state;
	HttpClient *client;
	MemoryContext settings;		/* what configure() allocates */
	MemoryContext scratch;		/* work on one answer */
	List	   *secrets;		/* char *: not to be shown */
	bool		configured;		/* the settings can be used */
	int			generation;		/* of the settings */
	dlist_head	batches;		/* MessageBatch: requests under way */
	dlist_head	again;			/* MessageBatch: to be sent once more */
};

/* Callbacks of OutboxPublisherCallbacks, and startup_cb's work. */
extern void common_startup(OutboxPublisherState *state,
						   const PublisherKind *kind);
extern bool common_check_configured(OutboxPublisherState *state,
									const char **reason);
extern void common_submit(OutboxPublisherState *state,
						  const OutboxMessage *const *messages, int n);
extern int	common_sockets(OutboxPublisherState *state,
						   const OutboxSocket **sockets, long *timeout_ms);
extern void common_ready(OutboxPublisherState *state,
						 const OutboxSocket *ready, int n);
extern void common_cancel(OutboxPublisherState *state, int64 id);
extern void common_shutdown(OutboxPublisherState *state);

/* Help for them and for http_batch.c. */
extern void common_progress(CommonState *common, const OutboxSocket *ready,
							int n);
extern bool common_check_message(CommonState *common,
								 const OutboxMessage *message);
extern void common_send(CommonState *common, const OutboxMessage *message);
extern const char *common_judge(CommonState *common, const HttpResult *result,
								Verdict *verdict);
extern const char *common_error_line(CommonState *common,
									 const HttpResult *result,
									 const Verdict *verdict);
extern void common_hide(CommonState *common, char *secret);

#endif							/* OUTBOX_PUBLISHER_COMMON_H */
