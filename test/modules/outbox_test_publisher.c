/*-------------------------------------------------------------------------
 *
 * outbox_test_publisher.c
 *		A synchronous publisher that writes to a file, and every way to get
 *		it wrong.
 *
 * outbox_test.mode, which is read when the library is loaded as a publisher
 * and at every reload, chooses what it does; see modes below.  The good part
 * is write_message() and good_submit(): that is all a publisher needs.
 *
 * It is also where tests find hold_lock(), which has nothing to do with that.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/guc.h"

#include "outbox_publisher.h"

PG_MODULE_MAGIC;

typedef enum TestMode
{
	GOOD,						/* writes each message to the file */
	WRONG_MAGIC,				/* built for another version */
	NO_SUBMIT,					/* a required callback is missing */
	NO_READY,					/* another one is */
	NO_TABLE,					/* init returns NULL */
	LONG_TABLE,					/* of a later version, with longer answers */
	SHORT_TABLE,				/* shorter than any version's */
	THROW_IN_STARTUP,
	THROW_IN_CHECK,
	THROW_IN_SUBMIT,			/* for topic "bad", after the others */
	THROW_IN_SOCKETS,			/* while a message of topic "bad" is there */
	THROW_IN_READY,				/* likewise */
	NOT_CONFIGURED,
	TELL_USERS,					/* is not configured, and says who asked */
	SILENT,						/* never answers topic "bad" */
	ANSWER_TWICE,				/* the second time: rejected */
	ANSWER_UNKNOWN,				/* also rejects ids that it was never given */
	SHORT_ANSWER,				/* to topic "bad": shorter than any version's */
	NO_OUTCOME,					/* in the first answer to topic "bad" */
	ABORT,						/* aborts at topic "bad" */
	FATAL_ERROR,				/* throws FATAL at topic "bad" */
	THROW_IN_SHUTDOWN
} TestMode;

static const struct config_enum_entry modes[] = {
	{"good", GOOD, false},
	{"wrong_magic", WRONG_MAGIC, false},
	{"no_submit", NO_SUBMIT, false},
	{"no_ready", NO_READY, false},
	{"no_table", NO_TABLE, false},
	{"long_table", LONG_TABLE, false},
	{"short_table", SHORT_TABLE, false},
	{"throw_in_startup", THROW_IN_STARTUP, false},
	{"throw_in_check", THROW_IN_CHECK, false},
	{"throw_in_submit", THROW_IN_SUBMIT, false},
	{"throw_in_sockets", THROW_IN_SOCKETS, false},
	{"throw_in_ready", THROW_IN_READY, false},
	{"not_configured", NOT_CONFIGURED, false},
	{"tell_users", TELL_USERS, false},
	{"silent", SILENT, false},
	{"answer_twice", ANSWER_TWICE, false},
	{"answer_unknown", ANSWER_UNKNOWN, false},
	{"short_answer", SHORT_ANSWER, false},
	{"no_outcome", NO_OUTCOME, false},
	{"abort", ABORT, false},
	{"fatal", FATAL_ERROR, false},
	{"throw_in_shutdown", THROW_IN_SHUTDOWN, false},
	{NULL, 0, false}
};

static int	mode = GOOD;
static char *file = NULL;
static bool bad_is_there = false;

PG_FUNCTION_INFO_V1(hold_lock);

PGDLLEXPORT void _PG_init(void);

void
_PG_init(void)
{
	DefineCustomEnumVariable("outbox_test.mode", "What the publisher does.",
							 NULL, &mode, GOOD, modes, PGC_SIGHUP, 0,
							 NULL, NULL, NULL);
	DefineCustomStringVariable("outbox_test.file", "Where messages go.",
							   NULL, &file, "", PGC_SIGHUP, 0,
							   NULL, NULL, NULL);
}

/*
 * hold_lock(classid, objid, objsubid): an advisory lock of any class for the
 * rest of the session, as pg_locks shows it.
 */
Datum
hold_lock(PG_FUNCTION_ARGS)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, PG_GETARG_OID(0),
						 PG_GETARG_OID(1), PG_GETARG_INT16(2));
	(void) LockAcquire(&tag, ExclusiveLock, true, false);
	PG_RETURN_VOID();
}

/* One line a message. */
static void
write_message(const OutboxMessage *msg)
{
	StringInfoData line;
	int			fd = open(file, O_WRONLY | O_APPEND | O_CREAT, 0600);

	if (fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", file)));
	initStringInfo(&line);
	appendStringInfo(&line, "%s|%s|%s|%.*s|%d\n", msg->event_id, msg->topic,
					 msg->key ? msg->key : "", (int) msg->payload_len,
					 msg->payload, msg->attempt);
	if (write(fd, line.data, line.len) != line.len)
	{
		close(fd);
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not write to file \"%s\": %m", file)));
	}
	close(fd);
	pfree(line.data);
}

static void
answer(OutboxPublisherState *state, int64 id, OutboxOutcome outcome,
	   const char *error)
{
	OutboxAnswer a = {
		.id = id,
		.outcome = outcome,
		.retry_after_ms = -1,
		.error = error
	};

	outbox_answer(state, &a);
}

static void
good_submit(OutboxPublisherState *state,
			const OutboxMessage *const *messages, int n)
{
	for (int i = 0; i < n; i++)
	{
		write_message(messages[i]);
		answer(state, messages[i]->id, OUTBOX_DELIVERED, NULL);
	}
}

/* What is wrong with a message of topic "bad"; true if it is done with. */
static bool
misbehave(OutboxPublisherState *state, const OutboxMessage *msg)
{
	OutboxAnswer delivered = {
		.id = msg->id,
		.outcome = OUTBOX_DELIVERED
	};

	switch (mode)
	{
		case THROW_IN_SUBMIT:
			ereport(ERROR, (errmsg("thrown in submit")));
			break;
		case ABORT:
			abort();
			break;
		case FATAL_ERROR:
			ereport(FATAL, (errmsg("thrown as FATAL")));
			break;
		case SILENT:
			return true;
		case SHORT_ANSWER:
			delivered.size = offsetof(OutboxAnswer, error);
			state->answer(state, &delivered);
			return true;
		case NO_OUTCOME:
			if (msg->attempt > 1)
				return false;
			answer(state, msg->id, 0, NULL);
			return true;
		case THROW_IN_SOCKETS:
		case THROW_IN_READY:
			bad_is_there = true;
			return true;
		default:
			break;
	}
	return false;
}

static void
bad_submit(OutboxPublisherState *state,
		   const OutboxMessage *const *messages, int n)
{
	for (int i = 0; i < n; i++)
	{
		const OutboxMessage *msg = messages[i];

		if (strcmp(msg->topic, "bad") == 0 && misbehave(state, msg))
			continue;
		good_submit(state, &msg, 1);
		if (mode == ANSWER_TWICE)
			answer(state, msg->id, OUTBOX_REJECTED, "answered twice");
		if (mode == ANSWER_UNKNOWN)
		{
			answer(state, msg->id + 1000000, OUTBOX_REJECTED, "made up");
			answer(state, -1, OUTBOX_DELIVERED, NULL);
		}
	}
}

/* The structs of a later version, as we know it */
typedef struct LongAnswer
{
	OutboxAnswer known;
	void	   *more[4];
} LongAnswer;

typedef struct LongTable
{
	OutboxPublisherCallbacks known;
	void	   *more[4];
} LongTable;

static void
long_submit(OutboxPublisherState *state,
			const OutboxMessage *const *messages, int n)
{
	for (int i = 0; i < n; i++)
	{
		LongAnswer	a;

		write_message(messages[i]);
		memset(&a, 0x7f, sizeof(a));
		memset(&a.known, 0, sizeof(a.known));
		a.known.size = sizeof(a);
		a.known.id = messages[i]->id;
		a.known.outcome = OUTBOX_DELIVERED;
		state->answer(state, &a.known);
	}
}

static void
bad_startup(OutboxPublisherState *state)
{
	bad_is_there = false;
	if (mode == THROW_IN_STARTUP)
		ereport(ERROR, (errmsg("thrown in startup")));
}

static bool
bad_check_configured(OutboxPublisherState *state, const char **reason)
{
	if (mode == THROW_IN_CHECK)
		ereport(ERROR, (errmsg("thrown in check")));
	*reason = "outbox_test.mode says so\nin two lines";
	if (mode == TELL_USERS)
		*reason = psprintf("session user %u, current user %u",
						   GetSessionUserId(), GetUserId());
	return mode != NOT_CONFIGURED && mode != TELL_USERS;
}

static int
bad_sockets(OutboxPublisherState *state, const OutboxSocket **sockets,
			long *timeout_ms)
{
	if (mode == THROW_IN_SOCKETS && bad_is_there)
	{
		bad_is_there = false;
		ereport(ERROR, (errmsg("thrown in sockets")));
	}
	*timeout_ms = bad_is_there ? 0 : -1;
	return 0;
}

static void
bad_ready(OutboxPublisherState *state, const OutboxSocket *ready, int n)
{
	if (mode == THROW_IN_READY && bad_is_there)
	{
		bad_is_there = false;
		ereport(ERROR, (errmsg("thrown in ready")));
	}
}

static void
bad_cancel(OutboxPublisherState *state, int64 id)
{
}

static void
bad_shutdown(OutboxPublisherState *state)
{
	if (mode == THROW_IN_SHUTDOWN)
		ereport(ERROR, (errmsg("thrown in shutdown")));
}

static const OutboxPublisherCallbacks good = {
	OUTBOX_PUBLISHER_HEAD,
	.submit_cb = good_submit
};

static const OutboxPublisherCallbacks bad = {
	OUTBOX_PUBLISHER_HEAD,
	.startup_cb = bad_startup,
	.check_configured_cb = bad_check_configured,
	.submit_cb = bad_submit,
	.sockets_cb = bad_sockets,
	.ready_cb = bad_ready,
	.cancel_cb = bad_cancel,
	.shutdown_cb = bad_shutdown
};

static const OutboxPublisherCallbacks wrong_magic = {
	.magic = OUTBOX_PUBLISHER_MAGIC + 1,
	.size = sizeof(OutboxPublisherCallbacks),
	.submit_cb = good_submit
};

static const LongTable long_table = {
	.known = {
		.magic = OUTBOX_PUBLISHER_MAGIC,
		.size = sizeof(LongTable),
		.submit_cb = long_submit
	},
	.more = {bad_startup, bad_startup, bad_startup, bad_startup}
};

static const OutboxPublisherCallbacks short_table = {
	.magic = OUTBOX_PUBLISHER_MAGIC,
	.size = offsetof(OutboxPublisherCallbacks, shutdown_cb),
	.submit_cb = good_submit
};

static const OutboxPublisherCallbacks no_submit = {
	OUTBOX_PUBLISHER_HEAD
};

static const OutboxPublisherCallbacks no_ready = {
	OUTBOX_PUBLISHER_HEAD,
	.submit_cb = good_submit,
	.sockets_cb = bad_sockets,
	.cancel_cb = bad_cancel
};

const OutboxPublisherCallbacks *
_PG_outbox_publisher_module_init(void)
{
	switch (mode)
	{
		case GOOD:
			return &good;
		case WRONG_MAGIC:
			return &wrong_magic;
		case NO_SUBMIT:
			return &no_submit;
		case NO_READY:
			return &no_ready;
		case LONG_TABLE:
			return &long_table.known;
		case SHORT_TABLE:
			return &short_table;
		case NO_TABLE:
			return NULL;
		default:
			return &bad;
	}
}
