/*-------------------------------------------------------------------------
 *
 * publisher_host.c
 *		The relay's side of the publisher interface: choose, load, call, trap.
 *
 * There is one publisher in a relay, the one that outbox.publisher names:
 * built in, or a library that is loaded like an archive module.  When the
 * setting changes, the old one is shut down and the new one started.
 *
 * A publisher is not trusted to be correct.  What it throws is trapped and
 * logged here and becomes a false result.  An answer for a message that is
 * not in flight (answered twice, cancelled, made up) is dropped.  A message
 * that is never answered is cancelled by the relay when its time is up.
 *
 * Answers are kept in a queue that the relay empties when the callback has
 * returned, so that no publisher ever runs inside the relay's bookkeeping.
 * The queue has room for every message in flight before that is submitted;
 * answering therefore allocates nothing and can't fail.
 *
 * Memory: a context for each publisher, deleted when it is shut down; the
 * table of messages in flight and the queue live as long as the process.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "lib/compat.h"
#include "guc.h"
#include "publish/publisher_host.h"
#include "publish/publishers.h"
#include "lib/text.h"

/* An answer with its own copy of the error. */
typedef struct PublisherAnswer
{
	OutboxAnswer answer;
	char		error[OUTBOX_ERROR_SIZE];	/* answer.error, unless NULL */
} PublisherAnswer;

static const struct
{
	const char *name;
	const OutboxPublisherCallbacks *callbacks;
}			built_in[] = {
	{"dapr", &dapr_publisher},
	{"http", &http_publisher}
};

static const OutboxPublisherCallbacks *callbacks;	/* NULL: none is loaded */
static OutboxPublisherState state;
static char *loaded_name;		/* what outbox.publisher was then */

static HTAB *in_flight;			/* ids that an answer is due for */
static PublisherAnswer *answers;	/* queue: first..last */
static int	answers_first;
static int	answers_last;
static int	answers_size;

static ProbeResult probe_result;
static char last_error[OUTBOX_ERROR_SIZE];

/*
 * Copy a text that came from outside as one line of valid characters of the
 * server's encoding.
 */
static void
copy_line(char *to, const char *from)
{
	int			len = 0;
	int			limit = OUTBOX_ERROR_SIZE - 1;
	bool		utf8 = GetDatabaseEncoding() == PG_UTF8;

	while (*from && len < limit)
	{
		unsigned char c = (unsigned char) *from;
		int			n = 1;

		if (IS_HIGHBIT_SET(c) && utf8)
		{
			n = pg_utf_mblen((const unsigned char *) from);
			if (len + n > limit)
				break;
			if (strnlen(from, n) < n ||
				!pg_utf8_islegal((const unsigned char *) from, n))
				n = 0;
		}
		else if (IS_HIGHBIT_SET(c))
			n = 0;
		if (n == 0 || c < ' ' || c == 0x7f)
		{
			to[len++] = n == 0 ? '?' : ' ';
			from++;
			continue;
		}
		memcpy(to + len, from, n);
		len += n;
		from += n;
	}
	to[len] = '\0';
}

/* state.answer */
static void
take_answer(OutboxPublisherState *from, const OutboxAnswer *answer)
{
	PublisherAnswer *entry;
	bool		found;

	hash_search(in_flight, &answer->id, HASH_REMOVE, &found);
	if (!found)
		return;
	Assert(answers_last < answers_size);
	entry = &answers[answers_last++];
	entry->answer = *answer;
	if (answer->outcome != OUTBOX_DELIVERED)
	{
		copy_line(entry->error, answer->error ? answer->error : "no reason given");
		entry->answer.error = entry->error;
	}
	else
		entry->answer.error = NULL;
}

/* state.probe_answer */
static void
take_probe_answer(OutboxPublisherState *from, bool ok, const char *error)
{
	probe_result = ok ? PROBE_OK : PROBE_FAILED;
	if (!ok)
		copy_line(last_error, error ? error : "no reason given");
}

/* Room for the answers to "n" more messages; their ids are in flight now. */
static void
expect_answers(const OutboxMessage *const *messages, int n)
{
	int			needed = answers_last + hash_get_num_entries(in_flight) + n;

	if (needed > answers_size)
	{
		answers_size = Max(needed, 2 * answers_size);
		if (answers)
			answers = repalloc(answers, sizeof(PublisherAnswer) * answers_size);
		else
			answers = MemoryContextAlloc(TopMemoryContext,
										 sizeof(PublisherAnswer) * answers_size);
	}
	for (int i = 0; i < n; i++)
		hash_search(in_flight, &messages[i]->id, HASH_ENTER, NULL);
}

/* The next answer that came in, until the next call; NULL if there is none. */
const OutboxAnswer *
publisher_next_answer(void)
{
	PublisherAnswer *entry;

	if (answers_first == answers_last)
	{
		answers_first = answers_last = 0;
		return NULL;
	}
	entry = &answers[answers_first++];
	if (entry->answer.error)
		entry->answer.error = entry->error; /* the queue may have moved */
	return &entry->answer;
}

/*
 * Call into the publisher.  False, and the reason in last_error, if it threw;
 * the error is logged.
 */
static bool
call(void (*body) (void *arg), void *arg)
{
	MemoryContext caller = CurrentMemoryContext;
	volatile bool ok = true;

	PG_TRY();
	{
		MemoryContextSwitchTo(state.context);
		body(arg);
	}
	PG_CATCH();
	{
		ErrorData  *edata;

		HOLD_INTERRUPTS();
		MemoryContextSwitchTo(caller);
		edata = CopyErrorData();
		copy_line(last_error, edata->message);
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

/* The callbacks that outbox.publisher names; throws if there are none. */
static const OutboxPublisherCallbacks *
find_callbacks(const char *name)
{
	const OutboxPublisherCallbacks *found;
	OutboxPublisherModuleInit init;

	for (int i = 0; i < lengthof(built_in); i++)
	{
		if (strcmp(built_in[i].name, name) == 0)
			return built_in[i].callbacks;
	}
	init = (OutboxPublisherModuleInit)
		load_external_function(name, "_PG_outbox_publisher_module_init",
							   false, NULL);
	if (!init)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("library \"%s\" is not an outbox publisher", name),
				 errdetail("It has no function _PG_outbox_publisher_module_init.")));
	found = init();
	if (!found || found->magic != OUTBOX_PUBLISHER_MAGIC)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("publisher \"%s\" was built for another version of outbox",
						name),
				 errdetail("Its magic number is %08X, %08X is wanted.",
						   found ? found->magic : 0, OUTBOX_PUBLISHER_MAGIC)));
	if (!found->submit_cb ||
		(found->sockets_cb && (!found->ready_cb || !found->cancel_cb)))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("publisher \"%s\" lacks a required callback", name)));
	return found;
}

static void
shutdown_body(void *arg)
{
	if (callbacks->shutdown_cb)
		callbacks->shutdown_cb(&state);
}

static void
unload(void)
{
	if (callbacks)
		call(shutdown_body, NULL);
	callbacks = NULL;
	if (state.context)
		MemoryContextDelete(state.context);
	memset(&state, 0, sizeof(state));
	if (loaded_name)
		pfree(loaded_name);
	loaded_name = NULL;
}

static void
load_body(void *arg)
{
	const OutboxPublisherCallbacks *found = find_callbacks(guc_publisher);

	if (found->startup_cb)
		found->startup_cb(&state);
	callbacks = found;
}

/* Percent-encode what a URI reference can't have. */
static void
append_uri_part(StringInfo buf, const char *part)
{
	for (; *part; part++)
	{
		unsigned char c = (unsigned char) *part;

		if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') ||
			(c >= 'A' && c <= 'Z') || strchr("-._~", c))
			appendStringInfoChar(buf, c);
		else
			appendStringInfo(buf, "%%%02X", c);
	}
}

/* CloudEvents source: as set, or /cluster/database; palloc'd. */
static const char *
make_source(const char *database)
{
	StringInfoData buf;

	if (guc_source[0] != '\0')
		return pstrdup(guc_source);
	initStringInfo(&buf);
	appendStringInfoChar(&buf, '/');
	append_uri_part(&buf, cluster_name && cluster_name[0] ? cluster_name : "postgresql");
	appendStringInfoChar(&buf, '/');
	append_uri_part(&buf, database);
	return buf.data;
}

typedef struct ConfigureArgs
{
	const char *database;
	bool		ok;
} ConfigureArgs;

static void
configure_body(void *arg)
{
	ConfigureArgs *args = arg;
	const char *reason = NULL;

	state.source = make_source(args->database);
	state.max_in_flight = guc_max_in_flight;
	state.connect_timeout = guc_connect_timeout;
	state.request_timeout = guc_request_timeout;
	state.max_batch = 1;
	state.max_batch_bytes = 0;
	args->ok = !callbacks->check_configured_cb ||
		callbacks->check_configured_cb(&state, &reason);
	if (!args->ok)
		copy_line(last_error, reason ? reason : "no reason given");
}

static bool
load(void)
{
	HASHCTL		ctl;

	if (!in_flight)
	{
		memset(&ctl, 0, sizeof(ctl));
		ctl.keysize = sizeof(int64);
		ctl.entrysize = sizeof(int64);
		in_flight = hash_create("outbox messages in flight", 256, &ctl,
								HASH_ELEM | HASH_BLOBS);
	}
	state.sversion = server_version_num_compat();
	state.context = AllocSetContextCreate(TopMemoryContext,
										  "outbox publisher",
										  ALLOCSET_DEFAULT_SIZES);
	state.answer = take_answer;
	state.probe_answer = take_probe_answer;
	if (!call(load_body, NULL))
	{
		unload();
		return false;
	}
	loaded_name = MemoryContextStrdup(TopMemoryContext, guc_publisher);
	return true;
}

/* Is the publisher that outbox.publisher names the one that is loaded? */
bool
publisher_is_current(void)
{
	return loaded_name && strcmp(loaded_name, guc_publisher) == 0;
}

/*
 * Load the publisher if need be and let it read the settings: at the start
 * and after every reload.  Nothing may be in flight when another one has to
 * be loaded.  False if it can't send; publisher_last_error() tells why.
 */
bool
publisher_configure(const char *database)
{
	ConfigureArgs args = {database, false};
	const char *old_source = state.source;

	if (!publisher_is_current())
	{
		unload();
		old_source = NULL;
		if (!load())
			return false;
	}
	if (!call(configure_body, &args))
		return false;
	if (old_source && old_source != state.source)
		pfree(unconstify(char *, old_source));
	return args.ok;
}

static void
cancel_body(void *arg)
{
	if (callbacks->cancel_cb)
		callbacks->cancel_cb(&state, *(int64 *) arg);
}

typedef struct SubmitArgs
{
	const OutboxMessage *const *messages;
	int			n;
} SubmitArgs;

static void
submit_body(void *arg)
{
	SubmitArgs *args = arg;

	callbacks->submit_cb(&state, args->messages, args->n);
}

/* How many messages one request may take, and how many bytes of payload. */
int
publisher_max_batch(Size *max_bytes)
{
	*max_bytes = state.max_batch_bytes;
	return Max(state.max_batch, 1);
}

typedef struct CanBatchArgs
{
	const OutboxMessage *message;
	bool		can;
} CanBatchArgs;

static void
can_batch_body(void *arg)
{
	CanBatchArgs *args = arg;

	args->can = callbacks->can_batch_cb(&state, args->message);
}

/* May this message share a request? */
bool
publisher_can_batch(const OutboxMessage *message)
{
	CanBatchArgs args = {message, false};

	if (!callbacks->can_batch_cb)
		return true;
	return call(can_batch_body, &args) && args.can;
}

/*
 * Start to publish messages.  If this throws, the ones that were not answered
 * are cancelled and answered as unavailable.
 */
void
publisher_submit(const OutboxMessage *const *messages, int n)
{
	SubmitArgs	args = {messages, n};
	OutboxAnswer answer;
	char		reason[OUTBOX_ERROR_SIZE];

	expect_answers(messages, n);
	if (call(submit_body, &args))
		return;
	strlcpy(reason, last_error, sizeof(reason));
	memset(&answer, 0, sizeof(answer));
	answer.outcome = OUTBOX_UNAVAILABLE;
	answer.retry_after_ms = -1;
	answer.error = reason;
	for (int i = 0; i < n; i++)
	{
		answer.id = messages[i]->id;
		if (!hash_search(in_flight, &answer.id, HASH_FIND, NULL))
			continue;
		call(cancel_body, &answer.id);
		take_answer(&state, &answer);
	}
}

typedef struct SocketsArgs
{
	const OutboxSocket **sockets;
	long	   *timeout_ms;
	int			n;
} SocketsArgs;

static void
sockets_body(void *arg)
{
	SocketsArgs *args = arg;

	args->n = callbacks->sockets_cb(&state, args->sockets, args->timeout_ms);
}

/*
 * The publisher's sockets and longest wait; -1 if it threw: then nothing that
 * is in flight will be answered.
 */
int
publisher_sockets(const OutboxSocket **sockets, long *timeout_ms)
{
	SocketsArgs args = {sockets, timeout_ms, 0};

	*timeout_ms = -1;
	if (!callbacks || !callbacks->sockets_cb)
		return 0;
	return call(sockets_body, &args) ? args.n : -1;
}

typedef struct ReadyArgs
{
	const OutboxSocket *sockets;
	int			n;
} ReadyArgs;

static void
ready_body(void *arg)
{
	ReadyArgs  *args = arg;

	callbacks->ready_cb(&state, args->sockets, args->n);
}

/*
 * Sockets are ready or, with n = 0, the time is up.  False if the publisher
 * threw: then nothing that is in flight will be answered.
 */
bool
publisher_ready(const OutboxSocket *ready, int n)
{
	ReadyArgs	args = {ready, n};

	if (!callbacks || !callbacks->ready_cb)
		return true;
	return call(ready_body, &args);
}

/* Give up waiting for this message's answer. */
void
publisher_cancel(int64 id)
{
	hash_search(in_flight, &id, HASH_REMOVE, NULL);
	call(cancel_body, &id);
}

bool
publisher_can_probe(void)
{
	return callbacks && callbacks->probe_cb;
}

static void
probe_body(void *arg)
{
	callbacks->probe_cb(&state);
}

/* Start a probe; publisher_probe_result() has its answer in due time. */
void
publisher_probe(void)
{
	probe_result = PROBE_NONE;
	if (!call(probe_body, NULL))
		probe_result = PROBE_FAILED;
}

/* The answer to the probe, once. */
ProbeResult
publisher_probe_result(void)
{
	ProbeResult result = probe_result;

	probe_result = PROBE_NONE;
	return result;
}

/* Why the last function failed: one line. */
const char *
publisher_last_error(void)
{
	return last_error;
}
