/*-------------------------------------------------------------------------
 *
 * fuzz_server.h
 *		Publishers that speak HTTP, and the server at their end in one process.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_FUZZ_SERVER_H
#define OUTBOX_FUZZ_SERVER_H

#include "outbox_publisher.h"

#include "fuzz.h"

#define FUZZ_SERVER_SOCKET "fuzz.sock"

#define FUZZ_MAX_MESSAGES 4

/* What comes in as a secret, and must not come out. */
#define FUZZ_SECRET "wHISPERED-0f-Old"

/*
 * Answer a request: send bytes to "fd".  "request" is the whole of it, and a NUL.
 * False: close the connection.
 */
typedef bool (*FuzzAnswerCB) (int fd, const char *request, Size len);

/* A publisher, its messages, and what became of them. */
typedef struct FuzzExchange
{
	OutboxPublisherState state; /* the first, for its callbacks */
	const OutboxPublisherCallbacks *callbacks;
	FuzzAnswerCB answer;
	OutboxMessage messages[FUZZ_MAX_MESSAGES];	/* ids from 1 on */
	OutboxOutcome outcomes[FUZZ_MAX_MESSAGES];	/* 0: none yet */
	int			nmessages;
	int			nunanswered;
	bool		may_tell;		/* an error may have the secret */
} FuzzExchange;

extern void fuzz_set_setting(const char *name, const char *value);
extern void fuzz_exchange_start(FuzzExchange *exchange,
								const OutboxPublisherCallbacks *callbacks,
								FuzzAnswerCB answer);
extern bool fuzz_exchange_configure(FuzzExchange *exchange);
extern void fuzz_exchange_submit(FuzzExchange *exchange);
extern void fuzz_exchange_cancel(FuzzExchange *exchange, int message);
extern void fuzz_exchange_finish(FuzzExchange *exchange);

#endif							/* OUTBOX_FUZZ_SERVER_H */
