/*-------------------------------------------------------------------------
 *
 * outbox_test_broker.c
 *		A publisher with a pipeline, and the broker at its end in one.
 *
 * Messages stay unanswered for a moment, as those of a real broker do.  What
 * becomes of them depends on their topic:
 *
 *	held		unanswered until the broker is blocked; then delivered
 *	failed		OUTBOX_FAILED
 *	mixed		if the payload is "poison": it takes all along that it shares a
 *				request with or, with a window, all that is unanswered.  For
 *				all of them, the poison included: OUTBOX_RETRY, and it may have
 *				failed because of others.  For the poison by itself:
 *				OUTBOX_FAILED, and that again
 *	pipe		delivered when a pipe is found to be ready, in which it was put
 *	fatal		FATAL, in submit_cb
 *	closed, regular, twice
 *				until it is cancelled, there is something beside that pipe that
 *				can't be polled: a closed descriptor, a file, the pipe again
 *	broken		likewise, cancelled or not, until the settings are read
 *
 * and everything else is delivered.  While a file named like outbox_broker.file
 * with ".blocked" behind it is there, the broker is blocked: it says so, and
 * answers nothing but "held".
 *
 * What happens is written to outbox_broker.file, a line each: see log_line().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>

#include "fmgr.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "outbox_publisher.h"

PG_MODULE_MAGIC;

#define TICK_MS 10

/* Unanswered messages are enough when no other has come for so long. */
#define QUIET_MS 300

#define MAX_UNANSWERED 10000

/* Nothing in this process has so many. */
#define CLOSED_DESCRIPTOR 987

/* What each callback allocates, and leaves there: little, or much. */
#define LITTLE 4096
#define MUCH (1024 * 1024)

/* A message that is not answered. */
typedef struct Kept
{
	const OutboxMessage *message;
	int			batch;			/* numbered through all submissions */
} Kept;

/* Settings, as they are in the file */
static char *guc_file = NULL;
static int	guc_window = 0;
static int	guc_batch = 1;
static int	guc_hold = 0;
static bool guc_waste = false;

/* The publisher's; in state->context, as is what it points to */
typedef struct Broker
{
	const char *file;
	const char *blocked_file;
	bool		blocked;
	int			in_callback;
	int			nbatches;
	Kept	   *kept;
	int			nkept;
	TimestampTz submitted_at;
	OutboxSocket sockets[2];	/* what can't be polled, and the pipe */
	int			nsockets;		/* the last ones of them */
	bool		broken;
	int			regular;		/* descriptor of a file */
	int			pipe[2];
	bool		pipe_was_ready;
} Broker;

PGDLLEXPORT void _PG_init(void);

void
_PG_init(void)
{
	DefineCustomStringVariable("outbox_broker.file", "What happens.", NULL,
							   &guc_file, "", PGC_SIGHUP, 0,
							   NULL, NULL, NULL);
	DefineCustomIntVariable("outbox_broker.window", "max_messages.", NULL,
							&guc_window, 0, 0, MAX_UNANSWERED, PGC_SIGHUP, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("outbox_broker.batch", "max_batch.", NULL,
							&guc_batch, 1, 1, 1000, PGC_SIGHUP, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("outbox_broker.hold",
							"Answer when so many are unanswered.", NULL,
							&guc_hold, 0, 0, MAX_UNANSWERED, PGC_SIGHUP, 0,
							NULL, NULL, NULL);
	DefineCustomBoolVariable("outbox_broker.waste",
							 "Callbacks leave memory behind.", NULL,
							 &guc_waste, false, PGC_SIGHUP, 0,
							 NULL, NULL, NULL);
}

static void log_line(Broker *broker, const char *format,...) pg_attribute_printf(2, 3);

/*
 * Append a line to the file:
 *
 *	configured|database|tls_ca_file|max_payload_size
 *	submit|event|topic|attempt|unanswered, this one included|in its request
 *	blocked
 *	unblocked
 *	shutdown|the process ends|callbacks under way
 */
static void
log_line(Broker *broker, const char *format,...)
{
	char		line[1024];
	int			fd = open(broker->file, O_WRONLY | O_APPEND | O_CREAT, 0600);
	int			len;
	va_list		args;

	va_start(args, format);
	len = vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	if (fd < 0 || write(fd, line, len) != len)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not write to \"%s\": %m", broker->file)));
	close(fd);
}

/* Leave memory behind, in whatever context this is called. */
static void
waste_memory(void)
{
	Size		size = guc_waste ? MUCH : LITTLE;

	memset(palloc(size), 1, size);
}

static bool
is_topic(const OutboxMessage *message, const char *topic)
{
	return strcmp(message->topic, topic) == 0;
}

static void
broker_startup(OutboxPublisherState *state)
{
	Broker	   *broker = palloc0(sizeof(Broker));

	broker->kept = palloc(MAX_UNANSWERED * sizeof(Kept));
	broker->regular = open(guc_file, O_RDONLY | O_CREAT, 0600);
	if (broker->regular < 0 || pipe(broker->pipe) < 0)
		ereport(ERROR, (errmsg("could not open what is to be polled: %m")));
	broker->sockets[1].fd = broker->pipe[0];
	broker->sockets[1].events = WL_SOCKET_READABLE;
	broker->nsockets = 1;
	state->private_data = broker;
}

static bool
broker_check_configured(OutboxPublisherState *state, const char **reason)
{
	Broker	   *broker = state->private_data;

	broker->file = pstrdup(guc_file);
	broker->blocked_file = psprintf("%s.blocked", guc_file);
	broker->broken = false;
	broker->nsockets = 1;
	state->max_messages = guc_window;
	state->max_batch = guc_batch;
	state->max_batch_bytes = MUCH;
	log_line(broker, "configured|%s|%s|%zu\n", state->database,
			 state->tls_ca_file ? state->tls_ca_file : "none",
			 state->max_payload_size);
	return true;
}

/* From now on, sockets_cb has something that can't be polled. */
static void
break_sockets(Broker *broker, const OutboxMessage *message)
{
	OutboxSocket *extra = &broker->sockets[0];

	extra->fd = CLOSED_DESCRIPTOR;
	if (is_topic(message, "regular"))
		extra->fd = broker->regular;
	else if (is_topic(message, "twice"))
		extra->fd = broker->pipe[0];
	extra->events = WL_SOCKET_READABLE;
	extra->generation++;
	broker->nsockets = 2;
	broker->broken = is_topic(message, "broken");
}

/* What has to be done for this one when it is submitted? */
static void
take_message(Broker *broker, const OutboxMessage *message)
{
	if (is_topic(message, "fatal"))
		ereport(FATAL, (errmsg("thrown as FATAL")));
	if (is_topic(message, "closed") || is_topic(message, "regular") ||
		is_topic(message, "twice") || is_topic(message, "broken"))
		break_sockets(broker, message);
	if (is_topic(message, "pipe") && write(broker->pipe[1], "", 1) != 1)
		ereport(ERROR, (errmsg("could not write to a pipe: %m")));
}

static void
broker_submit(OutboxPublisherState *state,
			  const OutboxMessage *const *messages, int n)
{
	Broker	   *broker = state->private_data;
	int			shared;

	waste_memory();
	broker->in_callback++;
	for (int i = 0; i < n; i++)
	{
		const OutboxMessage *message = messages[i];

		shared = 0;
		for (int j = 0; j < n; j++)
			shared += messages[j]->batch == message->batch;
		if (i == 0 || messages[i - 1]->batch != message->batch)
			broker->nbatches++;
		broker->kept[broker->nkept].message = message;
		broker->kept[broker->nkept++].batch = broker->nbatches;
		log_line(broker, "submit|%s|%s|%d|%d|%d\n", message->event_id,
				 message->topic, message->attempt, broker->nkept, shared);
		take_message(broker, message);
	}
	broker->submitted_at = GetCurrentTimestamp();
	broker->in_callback--;
}

static bool
broker_can_batch(OutboxPublisherState *state, const OutboxMessage *message)
{
	waste_memory();
	return true;
}

static int
broker_sockets(OutboxPublisherState *state, const OutboxSocket **sockets,
			   long *timeout_ms)
{
	Broker	   *broker = state->private_data;

	waste_memory();
	*timeout_ms = TICK_MS;
	*sockets = broker->sockets + lengthof(broker->sockets) - broker->nsockets;
	return broker->nsockets;
}

/* Has the broker been blocked or unblocked since it was looked at last? */
static bool
has_changed(OutboxPublisherState *state)
{
	Broker	   *broker = state->private_data;
	bool		blocked = access(broker->blocked_file, F_OK) == 0;

	if (blocked == broker->blocked)
		return false;
	broker->blocked = blocked;
	log_line(broker, blocked ? "blocked\n" : "unblocked\n");
	outbox_probe_answer(state, !blocked, blocked ? "blocked: disk alarm" : NULL);
	return true;
}

static bool
is_poison(const OutboxMessage *message)
{
	return is_topic(message, "mixed") &&
		strcmp(message->payload, "\"poison\"") == 0;
}

/* If there is a poison that takes this one along: how many are there? */
static int
count_poisoned(Broker *broker, const Kept *kept)
{
	bool		poisoned = false;
	int			n = 0;

	for (int i = 0; i < broker->nkept; i++)
	{
		if (guc_window == 0 && broker->kept[i].batch != kept->batch)
			continue;
		poisoned |= is_poison(broker->kept[i].message);
		n++;
	}
	return poisoned ? n : 0;
}

/* What the broker says of a message.  False: nothing, for now. */
static bool
answer_message(OutboxPublisherState *state, const Kept *kept)
{
	Broker	   *broker = state->private_data;
	OutboxAnswer answer = {
		.id = kept->message->id,
		.outcome = OUTBOX_DELIVERED,
		.retry_after_ms = -1
	};
	int			npoisoned = count_poisoned(broker, kept);

	if (is_topic(kept->message, "held") != broker->blocked)
		return false;
	if (is_topic(kept->message, "pipe") && !broker->pipe_was_ready)
		return false;
	if (is_topic(kept->message, "failed"))
	{
		answer.outcome = OUTBOX_FAILED;
		answer.error = "this one failed";
	}
	else if (npoisoned > 0)
	{
		answer.outcome = npoisoned > 1 ? OUTBOX_RETRY : OUTBOX_FAILED;
		answer.alone = true;
		answer.error = "somebody closed the channel";
	}
	outbox_answer(state, &answer);
	return true;
}

static void
broker_ready(OutboxPublisherState *state, const OutboxSocket *ready, int n)
{
	Broker	   *broker = state->private_data;
	Kept	   *left;
	int			nleft = 0;
	char		byte;

	waste_memory();
	broker->pipe_was_ready = n > 0 && read(ready[0].fd, &byte, 1) == 1;

	/* one thing at a time: answers come later than what it says of itself */
	if (has_changed(state))
		return;
	if (broker->nkept < guc_hold &&
		!TimestampDifferenceExceeds(broker->submitted_at, GetCurrentTimestamp(),
									QUIET_MS))
		return;

	/* all are there until each is judged */
	left = palloc(sizeof(Kept) * (broker->nkept + 1));
	for (int i = 0; i < broker->nkept; i++)
	{
		if (!answer_message(state, &broker->kept[i]))
			left[nleft++] = broker->kept[i];
	}
	memcpy(broker->kept, left, sizeof(Kept) * nleft);
	broker->nkept = nleft;
}

static void
broker_cancel(OutboxPublisherState *state, int64 id)
{
	Broker	   *broker = state->private_data;
	int			nleft = 0;

	waste_memory();
	for (int i = 0; i < broker->nkept; i++)
	{
		if (broker->kept[i].message->id != id)
			broker->kept[nleft++] = broker->kept[i];
	}
	broker->nkept = nleft;
	if (!broker->broken)
		broker->nsockets = 1;
}

static void
broker_shutdown(OutboxPublisherState *state)
{
	Broker	   *broker = state->private_data;

	log_line(broker, "shutdown|%d|%d\n", proc_exit_inprogress,
			 broker->in_callback);
	close(broker->regular);
	close(broker->pipe[0]);
	close(broker->pipe[1]);
}

static const OutboxPublisherCallbacks broker_callbacks = {
	OUTBOX_PUBLISHER_HEAD,
	.startup_cb = broker_startup,
	.check_configured_cb = broker_check_configured,
	.submit_cb = broker_submit,
	.can_batch_cb = broker_can_batch,
	.sockets_cb = broker_sockets,
	.ready_cb = broker_ready,
	.cancel_cb = broker_cancel,
	.shutdown_cb = broker_shutdown
};

const OutboxPublisherCallbacks *
_PG_outbox_publisher_module_init(void)
{
	return &broker_callbacks;
}
