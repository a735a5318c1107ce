/*-------------------------------------------------------------------------
 *
 * outbox_publisher.h
 *		The interface between the relay and a publisher.
 *
 * A publisher takes messages to a destination: a sidecar, an HTTP endpoint,
 * a broker.  It is a const table of callbacks, in this library (dapr, http)
 * or in a library of its own, which outbox.publisher then names and which
 * exports _PG_outbox_publisher_module_init().  A publisher knows no SQL, no
 * retry policy and no order; the relay knows no network protocol.
 *
 * The relay is a single-threaded background worker.  It calls a callback,
 * goes on with other work and waits for the publisher's sockets, so that no
 * callback may block.  All of them run outside any transaction and may not
 * touch the database.
 *
 * Time.  A publisher ends by itself what takes longer than request_timeout,
 * and says why.  The relay only cancels what is not answered a second after
 * that.  What was cancelled may still reach the destination, as may what was
 * in flight when the process ended.
 *
 * Memory.  startup_cb and check_configured_cb are called in state->context,
 * which lives as long as the publisher is loaded.  All others are called in a
 * context that is emptied when they return: whatever has to outlive the call
 * is allocated in state->context or below it.
 *
 * Errors.  Any callback may ereport(ERROR): the relay traps it, cancels the
 * messages concerned and counts them as OUTBOX_UNAVAILABLE.  An error is a
 * longjmp, which no other library survives in the middle of its work: what
 * such a library calls back must not throw, nor call what may.
 * outbox_answer(), outbox_probe_answer() and outbox_notice() never throw.
 *
 * Threads.  The server has one thread and does not know of others.  Whoever
 * makes one blocks all signals while it is made, so that it inherits that.  A
 * thread calls nothing of the server (palloc, ereport) or of the relay
 * (outbox_answer), and wakes the relay by a descriptor that sockets_cb tells.
 *
 * Strings.  Those of a message, and the source, are UTF-8 without control
 * characters (payloads excepted) and end with a NUL.
 *
 * Versions.  The table of callbacks and an answer, which a publisher
 * allocates, say their size, and all structs but OutboxSocket grow at their
 * end only: a library runs with later versions of outbox, too.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_PUBLISHER_H
#define OUTBOX_PUBLISHER_H

#include "utils/palloc.h"

/*
 * Changes whenever the layout or the meaning of something below does, unless
 * it is only something more at the end of a struct.
 */
#define OUTBOX_PUBLISHER_MAGIC 0x4F423032	/* "OB02" */

/*
 * What became of one message.  All but OUTBOX_DELIVERED and OUTBOX_REJECTED
 * are followed by another try, until the attempts are used up.
 */
typedef enum OutboxOutcome
{
	OUTBOX_DELIVERED = 1,		/* the destination took it; 0 is none of these */
	OUTBOX_FAILED,				/* this message failed, and the destination is
								 * there: an attempt, and no failure for any
								 * circuit breaker */
	OUTBOX_RETRY,				/* it cannot be told whether the message, its
								 * topic or everything failed: a failure for
								 * the topic's circuit breaker, and an attempt
								 * while that is closed and others go through;
								 * but with retry_after_ms >= 0, the topic is
								 * held for so long, and that is all */
	OUTBOX_UNAVAILABLE,			/* nobody is there, whatever the message: a
								 * failure for the destination's circuit
								 * breaker, and while that is open not an
								 * attempt */
	OUTBOX_REJECTED				/* this message will never be taken; with a
								 * status, that is the destination's opinion,
								 * which counts as OUTBOX_RETRY when it has
								 * been the same for many in a row */
} OutboxOutcome;

/* One entry of a message's metadata. */
typedef struct OutboxMetadata
{
	const char *name;
	const char *value;
} OutboxMetadata;

/*
 * A message to publish.  It belongs to the relay and stays as it is until it
 * is answered or cancelled; every try of one event has the same contents but
 * for "attempt", "batch" and "ttl_seconds".
 */
typedef struct OutboxMessage
{
	int64		id;				/* names the message in answers */
	const char *event_id;		/* the event's UUID as text */
	const char *topic;
	const char *key;			/* order is kept among equals; or NULL */
	const char *type;			/* CloudEvents type; never NULL */
	const char *time;			/* when it was published: RFC 3339, UTC */
	const char *traceparent;	/* W3C trace context, or NULL */
	const char *content_type;	/* of the payload; never NULL */
	bool		is_json;		/* payload is the text of a JSON value */
	const char *payload;
	Size		payload_len;
	const OutboxMetadata *metadata;
	int			nmetadata;
	int			attempt;		/* 1 on the first try */
	int			batch;			/* messages next to each other with the same
								 * number may share a request */
	const char *expiry_time;	/* of no use after this: RFC 3339, UTC; or
								 * NULL */
	int			ttl_seconds;	/* left until then when this try began,
								 * rounded up, at least 1; 0: it does not
								 * expire */
} OutboxMessage;

/* The answer to one message. */
typedef struct OutboxAnswer
{
	Size		size;			/* of this struct; outbox_answer() sets it */
	int64		id;				/* the message's */
	OutboxOutcome outcome;

	/*
	 * It may have failed because of others that it shared a request or a
	 * connection with: it is sent again by itself, at once.  That means in a
	 * request of its own or, if the publisher has set max_messages, with
	 * nothing else unanswered.  This try was no attempt, nor a failure for
	 * the circuit breaker unless the outcome is OUTBOX_UNAVAILABLE.  An event
	 * is excused once; the next time, the outcome is all that counts.
	 */
	bool		alone;
	int			status;			/* status code of the protocol; 0: none */
	int64		retry_after_ms; /* wait that the destination asked for; -1:
								 * none */
	const char *error;			/* one line for the operator; NULL if
								 * delivered */
} OutboxAnswer;

/*
 * A descriptor that the relay shall wait on for the publisher: any that can be
 * polled (a socket, a pipe, an eventfd; no file), each once.  If it cannot be
 * polled, that is an error of sockets_cb.
 *
 * The number of a closed descriptor may come back at once as another one's;
 * "generation" then differs, so that a wait set is up to date if and only if
 * the arrays that it was made of and that sockets_cb returns are equal byte
 * for byte.
 */
typedef struct OutboxSocket
{
	pgsocket	fd;
	uint32		events;			/* WL_SOCKET_READABLE | WL_SOCKET_WRITEABLE,
								 * of storage/latch.h */
	uint32		generation;
} OutboxSocket;

typedef struct OutboxPublisherState OutboxPublisherState;

/*
 * What an operator should see to although nothing fails of it: each is a row of
 * outbox_check(), as long as it is so.
 */
typedef enum OutboxNotice
{
	OUTBOX_NOTICE_FILES,		/* a file has changed and cannot be used: the
								 * publisher goes on with what it read before */
	OUTBOX_NOTICE_CLOCK			/* the destination's clock differs from ours */
} OutboxNotice;

#define OUTBOX_NNOTICES (OUTBOX_NOTICE_CLOCK + 1)

/*
 * What the relay gives a publisher to work with.  The settings are current
 * whenever check_configured_cb is called, and do not change between its calls;
 * the old strings are there until it returns.
 */
struct OutboxPublisherState
{
	int			sversion;		/* the server's PG_VERSION_NUM */
	MemoryContext context;		/* lives as long as the publisher is loaded */
	const char *database;		/* the name, in the encoding of the server */
	const char *source;			/* CloudEvents source of this database */
	const char *tls_ca_file;	/* trust these; NULL: the system's */
	int			max_in_flight;	/* most requests unanswered at a time */
	Size		max_payload_size;	/* of what is published now, in bytes;
									 * older events may be larger */
	int			connect_timeout;	/* milliseconds */
	int			request_timeout;	/* milliseconds */
	void	   *private_data;	/* the publisher's own */

	/*
	 * Set by check_configured_cb if one request can take several messages of
	 * one topic: how many, and how many bytes of payload.  1 before the call.
	 * Other callbacks may change it when the destination turns out to differ.
	 */
	int			max_batch;
	Size		max_batch_bytes;

	/*
	 * Likewise, if messages go through a pipeline, where what counts is not
	 * how many requests but how many messages are unanswered: the most that
	 * shall be, which max_in_flight then does not limit.  0 before the call.
	 * The relay has no more than four times outbox.batch_size events.
	 */
	int			max_messages;

	/* The relay's side of the answers: see the two functions below. */
	void		(*answer) (OutboxPublisherState *state,
						   const OutboxAnswer *answer);
	void		(*probe_answer) (OutboxPublisherState *state, bool ok,
								 const char *error);

	/* The relay's side of outbox_notice() */
	void		(*notice) (OutboxPublisherState *state, OutboxNotice notice,
						   const char *problem);
};

/* Once, after loading.  Allocates private_data. */
typedef void (*OutboxStartupCB) (OutboxPublisherState *state);

/*
 * After startup_cb and after every reload of the settings: read them.  False
 * if nothing can be sent with them; *reason then says why, in one line.  It is
 * called again every few seconds then, since a file may be there by now.
 * Messages in flight go on with the settings that they started with.
 */
typedef bool (*OutboxCheckConfiguredCB) (OutboxPublisherState *state,
										 const char **reason);

/*
 * Start to publish "n" messages, no two of them with the same key.  Each is
 * answered once, by outbox_answer(): at once or from a later callback.
 */
typedef void (*OutboxSubmitCB) (OutboxPublisherState *state,
								const OutboxMessage *const *messages, int n);

/*
 * May this message share a request with others of its topic?  Only asked if
 * max_batch is more than 1, and once a message.  Without it, all may.
 */
typedef bool (*OutboxCanBatchCB) (OutboxPublisherState *state,
								  const OutboxMessage *message);

/*
 * What to wait on: sets *sockets to an array, which the relay copies at once,
 * returns how many there are, and sets *timeout_ms to the longest wait (-1: no
 * limit of its own).  The array should not change without need: the relay
 * rebuilds its wait set when it does.
 */
typedef int (*OutboxSocketsCB) (OutboxPublisherState *state,
								const OutboxSocket **sockets,
								long *timeout_ms);

/*
 * These sockets are ready ("n" of them): copies of the array's entries, with
 * "events" those that happened.  With n = 0, none is: the time may be up.
 */
typedef void (*OutboxReadyCB) (OutboxPublisherState *state,
							   const OutboxSocket *ready, int n);

/* Forget this message; no answer is wanted any more. */
typedef void (*OutboxCancelCB) (OutboxPublisherState *state, int64 id);

/* Start to ask whether the destination is there: outbox_probe_answer(). */
typedef void (*OutboxProbeCB) (OutboxPublisherState *state);

/*
 * Release everything; nothing is in flight.  Also called when the process
 * ends, in before_shmem_exit, unless that happens inside another callback:
 * proc_exit_inprogress (storage/ipc.h) is true then, messages may be in flight,
 * and nobody reads an answer any longer.  Must not wait, neither for the
 * destination nor for a thread.
 */
typedef void (*OutboxShutdownCB) (OutboxPublisherState *state);

typedef struct OutboxPublisherCallbacks
{
	uint32		magic;			/* OUTBOX_PUBLISHER_MAGIC */
	Size		size;			/* of this struct */

	OutboxStartupCB startup_cb; /* optional */
	OutboxCheckConfiguredCB check_configured_cb;	/* optional */
	OutboxSubmitCB submit_cb;	/* required */
	OutboxCanBatchCB can_batch_cb;	/* optional */
	OutboxSocketsCB sockets_cb; /* NULL if submit_cb answers every message */
	OutboxReadyCB ready_cb;		/* required with sockets_cb */
	OutboxCancelCB cancel_cb;	/* required with sockets_cb */
	OutboxProbeCB probe_cb;		/* optional: without it, one message is tried */
	OutboxShutdownCB shutdown_cb;	/* optional */
} OutboxPublisherCallbacks;

/* What every table begins with. */
#define OUTBOX_PUBLISHER_HEAD \
	.magic = OUTBOX_PUBLISHER_MAGIC, \
	.size = sizeof(OutboxPublisherCallbacks)

typedef const OutboxPublisherCallbacks *(*OutboxPublisherModuleInit) (void);

extern PGDLLEXPORT const OutboxPublisherCallbacks *_PG_outbox_publisher_module_init(void);

/*
 * The publisher's answer to one message.  The relay copies it, "error"
 * included, and acts on it after the callback has returned.  A second answer
 * to the same message is ignored.
 */
static inline void
outbox_answer(OutboxPublisherState *state, OutboxAnswer *answer)
{
	answer->size = sizeof(OutboxAnswer);
	state->answer(state, answer);
}

/*
 * The answer to probe_cb; or said from any callback, at any time, by a
 * publisher that hears of it.  If not ok, the relay sends nothing more, and
 * shows "error" (one line, copied).  If ok, it sends a message, and when that
 * goes through all others.  Meanwhile it probes as it does in any outage.
 */
static inline void
outbox_probe_answer(OutboxPublisherState *state, bool ok, const char *error)
{
	state->probe_answer(state, ok, error);
}

/*
 * Said from any callback: "problem" (one line, copied) is so from now on; NULL: all
 * is well.  When check_configured_cb is called, what was said before is forgotten.
 * This never throws.
 */
static inline void
outbox_notice(OutboxPublisherState *state, OutboxNotice notice,
			  const char *problem)
{
	state->notice(state, notice, problem);
}

#endif							/* OUTBOX_PUBLISHER_H */
