/*-------------------------------------------------------------------------
 *
 * kafka.c
 *		A publisher for Kafka: the callbacks.
 *
 * A message is handed to librdkafka at once and copied by it, and answered when
 * librdkafka reports it: by a broker's word, or when it has timed out.  There is
 * one producer at a time, made when the settings are read.  Other settings, a file
 * of theirs that has changed (file_watch.c), or a fatal error, take another one; the
 * old one stays until it has reported what it has, and is then ended.
 *
 * librdkafka cannot be made to forget a message.  What the relay cancels is
 * reported all the same, and keeps its place in the ring until then.
 *
 * The descriptor that the relay waits for is an eventfd, to which all producers
 * write.  It tells that a queue is not empty any longer, so that each is read
 * until it is; or else we write to it ourselves.
 *
 * Nobody asks for a probe: a message that is tried is one, which librdkafka
 * delivers as soon as it has a connection.  When it has none, and somebody waits
 * for it, the relay is told that the destination is down, and why, also when that
 * changes: librdkafka may know more after some tries.  It is told that the
 * destination is up again when a message has gone through.
 *
 * Memory: everything is in the publisher's context but what librdkafka has.
 * Errors: those of a message are answers; only what goes wrong here is thrown.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include "fmgr.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/latch.h"

#include "common/module.h"
#include "common/pending.h"
#include "lib/clock.h"
#include "lib/text.h"
#include "outcome.h"
#include "producer.h"
#include "record.h"
#include "settings.h"

PG_MODULE_MAGIC;

/* As many events and reports are taken at a time. */
#define MAX_REPORTS 1000

/* A producer that only has to report what it has. */
typedef struct OldProducer
{
	struct OldProducer *next;
	KafkaProducer *producer;
} OldProducer;

typedef struct KafkaPublisher
{
	KafkaSettings *settings;	/* NULL: nothing can be sent */
	FileWatch	watch;			/* the files that settings name */
	KafkaProducer *producer;	/* NULL: to be made */
	OldProducer *old;
	PendingRing *pending;		/* deadlines are librdkafka's */
	OutboxSocket wakeup;
	bool		told_down;		/* the relay believes that nobody is there, */
	char		told[OUTBOX_ERROR_SIZE];	/* for this reason */
} KafkaPublisher;

PGDLLEXPORT void _PG_init(void);

void
_PG_init(void)
{
	settings_define();
}

/* OutboxStartupCB */
static void
kafka_startup(OutboxPublisherState *state)
{
	static uint32 generation = 0;
	KafkaPublisher *self = palloc0(sizeof(KafkaPublisher));

	self->pending = pending_create(state->context);
	self->wakeup.events = WL_SOCKET_READABLE;
	self->wakeup.generation = ++generation;
	if (!AcquireExternalFD())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("out of file descriptors for a producer of Kafka")));
	self->wakeup.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (self->wakeup.fd < 0)
	{
		ReleaseExternalFD();
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create an eventfd: %m")));
	}
	state->private_data = self;
}

/*
 * Whatever is sent from now on takes another producer.  This one is ended, as
 * soon as it has reported what it has.
 */
static void
retire_producer(OutboxPublisherState *state)
{
	KafkaPublisher *self = state->private_data;

	if (self->producer == NULL)
		return;
	if (producer_nunreported(self->producer) > 0)
	{
		OldProducer *old = MemoryContextAlloc(state->context,
											  sizeof(OldProducer));

		old->producer = self->producer;
		old->next = self->old;
		self->old = old;
	}
	else
		producer_destroy(self->producer);
	self->producer = NULL;
}

/* Have the relay call kafka_ready() again. */
static void
wake_relay(KafkaPublisher *self)
{
	const uint64 one = 1;

	if (write(self->wakeup.fd, &one, sizeof(one)) < 0 && errno != EAGAIN)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not write to an eventfd: %m")));
}

/* Make a producer unless there is one; false, and the reason, if it cannot be. */
static bool
ensure_producer(OutboxPublisherState *state, const char **reason)
{
	KafkaPublisher *self = state->private_data;

	if (self->producer != NULL)
		return true;
	self->producer = producer_create(state->context, self->settings,
									 self->wakeup.fd, reason);
	if (self->producer == NULL)
		return false;

	/* what it had to say before it knew the descriptor has woken nobody */
	wake_relay(self);
	return true;
}

/* Have what is sent from now on be sent with these settings; NULL: nothing is. */
static void
take_settings(OutboxPublisherState *state, KafkaSettings *settings)
{
	KafkaPublisher *self = state->private_data;

	if (settings == NULL || self->settings == NULL ||
		!settings_make_same_producer(settings, self->settings))
	{
		retire_producer(state);

		/* whoever was not there for the old settings may be for the new */
		if (self->told_down)
			outbox_probe_answer(state, true, NULL);
		self->told_down = false;
	}
	if (self->settings != NULL)
		settings_free(self->settings);
	self->settings = settings;
	if (settings != NULL)
		state->max_messages = settings->max_messages;
}

/* OutboxCheckConfiguredCB */
static bool
kafka_check_configured(OutboxPublisherState *state, const char **reason)
{
	KafkaPublisher *self = state->private_data;

	file_watch_reset(&self->watch, state);
	take_settings(state, settings_read(state, &self->watch, reason));
	return self->settings != NULL && ensure_producer(state, reason);
}

/*
 * Read the settings again, as ReadSettings has it: they stay as they are if no producer
 * can be made with what the files hold now.
 */
static bool
read_again(OutboxPublisherState *state, const char **reason)
{
	KafkaPublisher *self = state->private_data;
	KafkaProducer *producer = NULL;
	KafkaSettings *settings = settings_read(state, &self->watch, reason);

	if (settings == NULL)
		return false;
	if (!settings_make_same_producer(settings, self->settings))
	{
		producer = producer_create(state->context, settings, self->wakeup.fd,
								   reason);
		if (producer == NULL)
		{
			settings_free(settings);
			return false;
		}
	}
	take_settings(state, settings);
	if (producer != NULL)
	{
		self->producer = producer;
		wake_relay(self);
	}
	return true;
}

static void
submit_message(OutboxPublisherState *state, const OutboxMessage *message)
{
	KafkaPublisher *self = state->private_data;
	Verdict		verdict = {0};
	KafkaRecord record;
	rd_kafka_resp_err_t error;
	uint64		number;

	verdict.error = record_make(&record, message, self->settings);
	if (verdict.error != NULL)
	{
		verdict.outcome = OUTBOX_REJECTED;
		module_answer(state, message->id, &verdict);
		return;
	}
	if (!ensure_producer(state, &verdict.error))
	{
		verdict.outcome = OUTBOX_UNAVAILABLE;
		module_answer(state, message->id, &verdict);
		return;
	}

	/* from here on nothing is thrown: what has a number will be reported */
	pending_put(self->pending, message,
				clock_ms() + self->settings->message_timeout);
	number = pending_mark_sent(self->pending);
	error = producer_send(self->producer, &record, number);
	if (error == RD_KAFKA_RESP_ERR_NO_ERROR)
		return;
	pending_answered(self->pending, pending_find(self->pending, number));
	outcome_of_refusal(&verdict, error);
	module_answer(state, message->id, &verdict);
}

/* OutboxSubmitCB */
static void
kafka_submit(OutboxPublisherState *state, const OutboxMessage *const *messages,
			 int n)
{
	KafkaPublisher *self = state->private_data;

	file_watch_follow(&self->watch, state, read_again);
	for (int i = 0; i < n; i++)
		submit_message(state, messages[i]);
}

/* OutboxSocketsCB */
static int
kafka_sockets(OutboxPublisherState *state, const OutboxSocket **sockets,
			  long *timeout_ms)
{
	KafkaPublisher *self = state->private_data;
	int64		until = self->producer ? producer_time(self->producer) : PG_INT64_MAX;

	*sockets = &self->wakeup;
	*timeout_ms = until == PG_INT64_MAX ? -1 : (long) Max(until - clock_ms(), 0);
	return 1;
}

/* Answer the message of a report, unless nobody waits for it any longer. */
static void
answer_report(OutboxPublisherState *state, const KafkaProducer *producer,
			  const KafkaReport *report)
{
	KafkaPublisher *self = state->private_data;
	Pending    *pending = pending_find(self->pending, report->number);
	Verdict		verdict;

	if (pending == NULL)
		return;
	if (pending->message != NULL)
	{
		outcome_of_report(&verdict, report->error, producer,
						  pending->deadline);
		module_answer(state, pending->message->id, &verdict);
	}
	pending_answered(self->pending, pending);
}

/* Take what there is of a producer.  False if there may be more. */
static bool
take_reports(OutboxPublisherState *state, KafkaProducer *producer)
{
	KafkaReport report;

	for (int i = 0; i < MAX_REPORTS; i++)
	{
		if (!producer_next_report(producer, &report))
			return true;
		if (report.number != 0)
			answer_report(state, producer, &report);
	}
	return false;
}

/* Old producers: take what they report, and end those that have nothing left. */
static bool
take_old_reports(OutboxPublisherState *state)
{
	KafkaPublisher *self = state->private_data;
	bool		all = true;

	for (OldProducer **link = &self->old; *link != NULL;)
	{
		OldProducer *old = *link;

		all &= take_reports(state, old->producer);
		if (producer_nunreported(old->producer) > 0)
		{
			link = &old->next;
			continue;
		}
		*link = old->next;
		producer_destroy(old->producer);
		pfree(old);
	}
	return all;
}

/* Tell the relay what is news of its destination. */
static void
tell_destination(OutboxPublisherState *state)
{
	KafkaPublisher *self = state->private_data;
	ProducerReach reach = producer_reach(self->producer);

	if (reach == PRODUCER_LOST)
	{
		const char *trouble = producer_trouble(self->producer, 0);

		if (self->told_down && strcmp(self->told, trouble) == 0)
			return;
		outbox_probe_answer(state, false, trouble);
		self->told_down = true;
		strlcpy(self->told, trouble, sizeof(self->told));
	}
	else if (reach == PRODUCER_REACHED && self->told_down)
	{
		outbox_probe_answer(state, true, NULL);
		self->told_down = false;
	}
}

/* OutboxReadyCB */
static void
kafka_ready(OutboxPublisherState *state, const OutboxSocket *ready, int n)
{
	KafkaPublisher *self = state->private_data;
	uint64		count;
	bool		all = true;

	/* first, so that whatever comes from now on wakes us again */
	if (read(self->wakeup.fd, &count, sizeof(count)) < 0 && errno != EAGAIN)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read from an eventfd: %m")));
	if (self->producer != NULL)
	{
		all = take_reports(state, self->producer);
		producer_check_time(self->producer);
		tell_destination(state);
		if (producer_is_broken(self->producer))
			retire_producer(state);
	}
	all &= take_old_reports(state);
	if (!all)
		wake_relay(self);
}

/* OutboxCancelCB */
static void
kafka_cancel(OutboxPublisherState *state, int64 id)
{
	KafkaPublisher *self = state->private_data;

	pending_forget(self->pending, id);
}

/* OutboxShutdownCB */
static void
kafka_shutdown(OutboxPublisherState *state)
{
	KafkaPublisher *self = state->private_data;

	/* the threads end with the process */
	if (proc_exit_inprogress)
		return;
	retire_producer(state);
	for (OldProducer *old = self->old; old != NULL; old = old->next)
		producer_destroy(old->producer);
	close(self->wakeup.fd);
	ReleaseExternalFD();
}

static const OutboxPublisherCallbacks kafka_callbacks = {
	OUTBOX_PUBLISHER_HEAD,
	.startup_cb = kafka_startup,
	.check_configured_cb = kafka_check_configured,
	.submit_cb = kafka_submit,
	.sockets_cb = kafka_sockets,
	.ready_cb = kafka_ready,
	.cancel_cb = kafka_cancel,
	.shutdown_cb = kafka_shutdown
};

const OutboxPublisherCallbacks *
_PG_outbox_publisher_module_init(void)
{
	return &kafka_callbacks;
}
