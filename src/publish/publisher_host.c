/*-------------------------------------------------------------------------
 *
 * publisher_host.c
 *		The relay's side of the publisher interface: load, call, trap.
 *
 * A host has one publisher, the one that outbox.publisher names.  When the
 * setting changes, the old one is shut down and the new one started.
 *
 * A publisher is not trusted to be correct.  What it throws is trapped and
 * logged here and becomes a false result.  A message that is never answered is
 * cancelled by the relay when its time is up.
 *
 * Answers are kept in a queue (answer_queue.c) that the relay empties when the
 * callback has returned, so that no publisher ever runs inside the relay's
 * bookkeeping.
 *
 * Memory: the host and its queue are in a context of its own; the publisher
 * has another one below it, which is deleted when it is shut down.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "guc.h"
#include "lib/compat.h"
#include "lib/text.h"
#include "publish/answer_queue.h"
#include "publish/cloudevent.h"
#include "publish/publisher_host.h"
#include "publish/publisher_load.h"

struct PublisherHost
{
	OutboxPublisherState state; /* the publisher's view of us; comes first */
	MemoryContext context;
	const char *database;

	const OutboxPublisherCallbacks *callbacks;	/* NULL: none is loaded */
	OutboxPublisherCallbacks table; /* where they are */
	char	   *loaded_name;	/* what outbox.publisher was then */

	AnswerQueue *answers;
	ProbeResult probe_result;
	char		last_error[OUTBOX_ERROR_SIZE];
};

static PublisherHost *
host_of(OutboxPublisherState *state)
{
	return (PublisherHost *) state;
}

/* "database" is its name, not copied. */
PublisherHost *
publisher_create(MemoryContext parent, const char *database)
{
	MemoryContext context = AllocSetContextCreate(parent,
												  "outbox publisher host",
												  ALLOCSET_DEFAULT_SIZES);
	PublisherHost *host = MemoryContextAllocZero(context,
												 sizeof(PublisherHost));

	host->context = context;
	host->database = database;
	host->answers = answers_create(context);
	return host;
}

static void
note_reason(PublisherHost *host, const char *reason)
{
	text_copy_line(host->last_error, OUTBOX_ERROR_SIZE,
				   reason ? reason : "no reason given");
}

/* OutboxPublisherState.answer */
static void
take_answer(OutboxPublisherState *state, const OutboxAnswer *answer)
{
	answers_put(host_of(state)->answers, answer);
}

/* OutboxPublisherState.probe_answer */
static void
take_probe_answer(OutboxPublisherState *state, bool ok, const char *error)
{
	PublisherHost *host = host_of(state);

	host->probe_result = ok ? PROBE_OK : PROBE_FAILED;
	if (!ok)
		note_reason(host, error);
}

/* The next answer that came in, until the next call; NULL if there is none. */
const OutboxAnswer *
publisher_next_answer(PublisherHost *host)
{
	return answers_next(host->answers);
}

/*
 * Run "body", which calls the publisher.  False, and the reason in last_error,
 * if it threw; the error is logged.
 */
static bool
trap_publisher(PublisherHost *host, void (*body) (PublisherHost *, void *arg),
			   void *arg)
{
	MemoryContext caller = CurrentMemoryContext;
	volatile bool ok = true;

	PG_TRY();
	{
		MemoryContextSwitchTo(host->state.context);
		body(host, arg);
	}
	PG_CATCH();
	{
		ErrorData  *edata;

		/* no interrupt may replace the error before it is reported */
		HOLD_INTERRUPTS();
		MemoryContextSwitchTo(caller);
		edata = CopyErrorData();
		note_reason(host, edata->message);
		FreeErrorData(edata);
		EmitErrorReport();
		FlushErrorState();
		ok = false;
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();

	MemoryContextSwitchTo(caller);
	return ok;
}

static void
shutdown_body(PublisherHost *host, void *arg)
{
	if (host->callbacks->shutdown_cb)
		host->callbacks->shutdown_cb(&host->state);
}

static void
unload_publisher(PublisherHost *host)
{
	if (host->callbacks)
		trap_publisher(host, shutdown_body, NULL);
	host->callbacks = NULL;
	if (host->state.context)
		MemoryContextDelete(host->state.context);
	memset(&host->state, 0, sizeof(host->state));
	if (host->loaded_name)
		pfree(host->loaded_name);
	host->loaded_name = NULL;
}

static void
load_body(PublisherHost *host, void *arg)
{
	publisher_load_callbacks(guc_publisher, &host->table);
	if (host->table.startup_cb)
		host->table.startup_cb(&host->state);

	/* only now: what failed to start is not to be shut down */
	host->callbacks = &host->table;
}

/* CloudEvents source, palloc'd. */
static const char *
make_source(const char *database)
{
	const char *cluster = cluster_name && cluster_name[0] ? cluster_name :
	"postgresql";

	return guc_source[0] != '\0' ? pstrdup(guc_source) :
		cloudevent_make_source(cluster, database);
}

/* "arg" is a bool that becomes: can it send? */
static void
configure_body(PublisherHost *host, void *arg)
{
	OutboxPublisherState *state = &host->state;
	bool	   *configured = arg;
	const char *reason = NULL;

	state->source = make_source(host->database);
	state->max_in_flight = guc_max_in_flight;
	state->connect_timeout = guc_connect_timeout;
	state->request_timeout = guc_request_timeout;
	state->max_batch = 1;
	state->max_batch_bytes = 0;
	*configured = !host->callbacks->check_configured_cb ||
		host->callbacks->check_configured_cb(state, &reason);
	if (!*configured)
		note_reason(host, reason);
}

static bool
load_publisher(PublisherHost *host)
{
	host->state.sversion = server_version_num_compat();
	host->state.context = AllocSetContextCreate(host->context,
												"outbox publisher",
												ALLOCSET_DEFAULT_SIZES);
	host->state.answer = take_answer;
	host->state.probe_answer = take_probe_answer;
	if (!trap_publisher(host, load_body, NULL))
	{
		unload_publisher(host);
		return false;
	}
	host->loaded_name = MemoryContextStrdup(host->context, guc_publisher);
	return true;
}

/* Is the publisher that outbox.publisher names the one that is loaded? */
bool
publisher_is_current(const PublisherHost *host)
{
	return host->loaded_name && strcmp(host->loaded_name, guc_publisher) == 0;
}

/*
 * Load the publisher if need be and let it read the settings: at the start
 * and after every reload.  Nothing may be in flight when another one has to
 * be loaded.  False if it can't send; publisher_last_error() tells why.
 */
bool
publisher_configure(PublisherHost *host)
{
	bool		configured = false;
	const char *old_source = host->state.source;

	if (!publisher_is_current(host))
	{
		unload_publisher(host); /* and its source with it */
		old_source = NULL;
		if (!load_publisher(host))
			return false;
	}
	if (!trap_publisher(host, configure_body, &configured))
		return false;
	if (old_source && old_source != host->state.source)
		pfree(unconstify(char *, old_source));
	return configured;
}

/* "arg" is the message's id. */
static void
cancel_body(PublisherHost *host, void *arg)
{
	if (host->callbacks->cancel_cb)
		host->callbacks->cancel_cb(&host->state, *(int64 *) arg);
}

typedef struct SubmitArgs
{
	const OutboxMessage *const *messages;
	int			n;
} SubmitArgs;

static void
submit_body(PublisherHost *host, void *arg)
{
	SubmitArgs *args = arg;

	host->callbacks->submit_cb(&host->state, args->messages, args->n);
}

/* How many messages one request may take, and how many bytes of payload. */
int
publisher_max_batch(const PublisherHost *host, Size *max_bytes)
{
	*max_bytes = host->state.max_batch_bytes;
	return Max(host->state.max_batch, 1);
}

typedef struct CanBatchArgs
{
	const OutboxMessage *message;
	bool		can;
} CanBatchArgs;

static void
can_batch_body(PublisherHost *host, void *arg)
{
	CanBatchArgs *args = arg;

	args->can = host->callbacks->can_batch_cb(&host->state, args->message);
}

/* May this message share a request?  If the publisher throws, it may not. */
bool
publisher_can_batch(PublisherHost *host, const OutboxMessage *message)
{
	CanBatchArgs args = {message, false};

	if (!host->callbacks->can_batch_cb)
		return true;
	return trap_publisher(host, can_batch_body, &args) && args.can;
}

/*
 * Start to publish messages.  If this throws, the ones that were not answered
 * are cancelled and answered as unavailable.
 */
void
publisher_submit(PublisherHost *host, const OutboxMessage *const *messages,
				 int n)
{
	SubmitArgs	args = {messages, n};
	OutboxAnswer answer;
	char		reason[OUTBOX_ERROR_SIZE];

	answers_expect(host->answers, messages, n);
	if (trap_publisher(host, submit_body, &args))
		return;

	/* cancelling may throw again, and overwrite the reason that counts */
	strlcpy(reason, host->last_error, sizeof(reason));
	memset(&answer, 0, sizeof(answer));
	answer.outcome = OUTBOX_UNAVAILABLE;
	answer.retry_after_ms = -1;
	answer.error = reason;
	answer.size = sizeof(answer);
	for (int i = 0; i < n; i++)
	{
		answer.id = messages[i]->id;
		if (!answers_is_expected(host->answers, answer.id))
			continue;
		trap_publisher(host, cancel_body, &answer.id);
		answers_put(host->answers, &answer);
	}
}

typedef struct SocketsArgs
{
	const OutboxSocket **sockets;
	long	   *timeout_ms;
	int			n;
} SocketsArgs;

static void
sockets_body(PublisherHost *host, void *arg)
{
	SocketsArgs *args = arg;

	args->n = host->callbacks->sockets_cb(&host->state, args->sockets,
										  args->timeout_ms);
}

/*
 * The publisher's sockets and longest wait; -1 if it threw: then nothing that
 * is in flight will be answered.
 */
int
publisher_sockets(PublisherHost *host, const OutboxSocket **sockets,
				  long *timeout_ms)
{
	SocketsArgs args = {sockets, timeout_ms, 0};

	*timeout_ms = -1;
	if (!host->callbacks || !host->callbacks->sockets_cb)
		return 0;
	return trap_publisher(host, sockets_body, &args) ? args.n : -1;
}

typedef struct ReadyArgs
{
	const OutboxSocket *sockets;
	int			n;
} ReadyArgs;

static void
ready_body(PublisherHost *host, void *arg)
{
	ReadyArgs  *args = arg;

	host->callbacks->ready_cb(&host->state, args->sockets, args->n);
}

/*
 * Sockets are ready or, with n = 0, the time is up.  False if the publisher
 * threw: then nothing that is in flight will be answered.
 */
bool
publisher_ready(PublisherHost *host, const OutboxSocket *ready, int n)
{
	ReadyArgs	args = {ready, n};

	if (!host->callbacks || !host->callbacks->ready_cb)
		return true;
	return trap_publisher(host, ready_body, &args);
}

/* Give up waiting for this message's answer. */
void
publisher_cancel(PublisherHost *host, int64 id)
{
	answers_forget(host->answers, id);
	trap_publisher(host, cancel_body, &id);
}

bool
publisher_can_probe(const PublisherHost *host)
{
	return host->callbacks && host->callbacks->probe_cb;
}

static void
probe_body(PublisherHost *host, void *arg)
{
	host->callbacks->probe_cb(&host->state);
}

/* Start a probe; publisher_probe_result() has its answer in due time. */
void
publisher_probe(PublisherHost *host)
{
	host->probe_result = PROBE_NONE;
	if (!trap_publisher(host, probe_body, NULL))
		host->probe_result = PROBE_FAILED;
}

/* The answer to the probe, once. */
ProbeResult
publisher_probe_result(PublisherHost *host)
{
	ProbeResult result = host->probe_result;

	host->probe_result = PROBE_NONE;
	return result;
}

/* Why the last function failed: one line. */
const char *
publisher_last_error(const PublisherHost *host)
{
	return host->last_error;
}
