/*-------------------------------------------------------------------------
 *
 * publisher_host_internal.h
 *		What the files of the publisher's host share: publisher_host.c is
 *		built on publisher_call.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_PUBLISHER_HOST_INTERNAL_H
#define OUTBOX_PUBLISHER_HOST_INTERNAL_H

#include "lib/text.h"
#include "publish/answer_queue.h"
#include "publish/publisher_host.h"

/* What a publisher said of one of OutboxNotice */
typedef struct HeardNotice
{
	bool		is_new;			/* nobody has heard it yet */
	bool		known;
	char		problem[OUTBOX_ERROR_SIZE]; /* empty: all is well */
} HeardNotice;

struct PublisherHost
{
	OutboxPublisherState state; /* the publisher's view of us; comes first */
	MemoryContext context;
	MemoryContext settings;		/* of the strings in "state" */
	MemoryContext call_context; /* current in most callbacks */
	bool		calling;		/* a callback is under way */
	const char *database;

	const OutboxPublisherCallbacks *callbacks;	/* NULL: none is loaded */
	OutboxPublisherCallbacks table; /* where they are */
	char	   *loaded_name;	/* what outbox.publisher was then */

	AnswerQueue *answers;
	Destination destination;	/* what it said, and nobody has heard yet */
	char		problem[OUTBOX_ERROR_SIZE]; /* why the destination is down */
	HeardNotice notices[OUTBOX_NNOTICES];
	char		last_error[OUTBOX_ERROR_SIZE];
};

/* publisher_call.c */
extern void publisher_copy_reason(char *to, const char *reason);
extern void publisher_take_answer(OutboxPublisherState *state,
								  const OutboxAnswer *answer);
extern void publisher_take_probe_answer(OutboxPublisherState *state, bool ok,
										const char *error);
extern void publisher_take_notice(OutboxPublisherState *state,
								  OutboxNotice notice, const char *problem);
extern void publisher_forget_notices(PublisherHost *host);
extern bool publisher_call_in(PublisherHost *host, MemoryContext context,
							  void (*body) (PublisherHost *, void *arg),
							  void *arg);
extern bool publisher_call(PublisherHost *host,
						   void (*body) (PublisherHost *, void *arg),
						   void *arg);

#endif							/* OUTBOX_PUBLISHER_HOST_INTERNAL_H */
