/*-------------------------------------------------------------------------
 *
 * publisher_common.h
 *		What the publishers that speak HTTP have in common.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_PUBLISHER_COMMON_H
#define OUTBOX_PUBLISHER_COMMON_H

#include "http.h"
#include "lib/stringinfo.h"
#include "nodes/pg_list.h"

/* Longest text of an error, in bytes. */
#define ERROR_TEXT_MAX 300

/* What a publisher makes of a response that is not 2xx. */
typedef struct Verdict
{
	OutboxOutcome outcome;
	const char *code;			/* the response's name for the error, or NULL */
	const char *message;		/* its message; NULL: the start of its body */
} Verdict;

typedef struct CommonState CommonState;

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

	/* Start the request of a message, in the request's memory context. */
	void		(*send) (CommonState *common, HttpRequest *request,
						 const OutboxMessage *message);

	/*
	 * Give a verdict on a response that is not 2xx, other than "unavailable",
	 * which it is set to.  The current memory context lasts long enough.
	 */
	void		(*judge) (const HttpResult *result, Verdict *verdict);
} PublisherKind;

struct CommonState
{
	const PublisherKind *kind;
	OutboxPublisherState *state;
	HttpClient *client;
	MemoryContext settings;		/* what configure() allocates */
	MemoryContext scratch;		/* work on one answer */
	List	   *secrets;		/* char *: not to be shown */
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

/* Help for them. */
extern const char *common_judge(CommonState *common, const HttpResult *result,
								OutboxOutcome *outcome);
extern void common_hide(CommonState *common, char *secret);
extern bool common_read_file(const char *path, char **text,
							 const char **reason);
extern void common_append_line(StringInfo buf, const char *text, Size max);

#endif							/* OUTBOX_PUBLISHER_COMMON_H */
