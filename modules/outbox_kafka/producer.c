/*-------------------------------------------------------------------------
 *
 * producer.c
 *		A producer of librdkafka: its life, and what it reports.
 *
 * librdkafka does all that waits in threads of its own.  They reach us only by
 * a queue of events, which we read without waiting, and by a descriptor that
 * they write to when there is something in it: no function of ours is ever
 * called by librdkafka.  It blocks all signals while it makes a thread.
 *
 * What it says of brokers comes as errors beside the reports, and is kept: when
 * messages have timed out, it is the only reason that anybody will see.
 *
 * To end a producer means to wait for its threads, one of which may be asking a
 * name server; so a thread does that.  When the process ends, nothing does, and
 * the threads go with it.
 *
 * Memory: what is librdkafka's is allocated by malloc; the rest is in the
 * context that a producer was made in.  Errors are answers; nothing is thrown
 * but out of memory, while nothing of librdkafka's is held.  No locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <pthread.h>
#include <signal.h>

#include "lib/clock.h"
#include "lib/text.h"
#include "producer.h"

/*
 * After so long without an answer, what librdkafka has said of brokers while there
 * was nothing to send is believed to be true still: it does not say that again.
 */
#define DOUBT_MS 1000

struct KafkaProducer
{
	rd_kafka_t *handle;
	rd_kafka_queue_t *queue;	/* of its events */
	rd_kafka_event_t *event;	/* reports that are being read; or NULL */
	int			nunreported;	/* records without a report */
	int			message_timeout;	/* milliseconds */

	/* What it has said of brokers. */
	ProducerReach reach;
	bool		failing;		/* PRODUCER_CLOSED, and it could not connect
								 * since */
	int64		waiting_since;	/* the first of what is unreported was sent
								 * then, in clock_ms() */
	bool		broken;			/* it will never send anything again */
	int64		trouble_at;		/* in clock_ms() */
	char		trouble[OUTBOX_ERROR_SIZE]; /* "": none */
};

/*
 * librdkafka's configuration, to be freed or used up; NULL, and the reason, if
 * it does not take an option.
 */
static rd_kafka_conf_t *
make_configuration(const KafkaSettings *settings, const char **reason)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	char		ignored[OUTBOX_ERROR_SIZE];

	for (int i = 0; i < settings->noptions; i++)
	{
		const KafkaOption *option = &settings->options[i];
		rd_kafka_conf_res_t result;

		/* its own text may show the value */
		result = rd_kafka_conf_set(conf, option->name, option->value, ignored,
								   sizeof(ignored));
		if (result == RD_KAFKA_CONF_OK)
			continue;
		rd_kafka_conf_destroy(conf);
		*reason = psprintf(result == RD_KAFKA_CONF_UNKNOWN ?
						   "librdkafka has no option \"%s\"" :
						   "librdkafka does not take the value of option \"%s\"",
						   option->name);
		return NULL;
	}
	rd_kafka_conf_set_events(conf, RD_KAFKA_EVENT_DR | RD_KAFKA_EVENT_ERROR |
							 RD_KAFKA_EVENT_LOG);
	return conf;
}

/*
 * A producer, to be ended by producer_destroy(), which writes to "wakeup", an
 * eventfd, when there is something to read.  NULL, and the reason, if there can
 * be none.
 */
KafkaProducer *
producer_create(MemoryContext context, const KafkaSettings *settings,
				int wakeup, const char **reason)
{
	const uint64 one = 1;
	KafkaProducer *producer = MemoryContextAllocZero(context,
													 sizeof(KafkaProducer));
	char		error[OUTBOX_ERROR_SIZE] = "";
	rd_kafka_conf_t *conf = make_configuration(settings, reason);

	if (conf == NULL)
	{
		pfree(producer);
		return NULL;
	}
	producer->handle = rd_kafka_new(RD_KAFKA_PRODUCER, conf, error,
									sizeof(error));
	if (producer->handle == NULL)
	{
		rd_kafka_conf_destroy(conf);
		pfree(producer);
		*reason = psprintf("librdkafka cannot work with its options: %s",
						   error);
		return NULL;
	}
	producer->message_timeout = settings->message_timeout;
	producer->queue = rd_kafka_queue_get_main(producer->handle);
	rd_kafka_set_log_queue(producer->handle, NULL);
	rd_kafka_queue_io_event_enable(producer->queue, wakeup, &one, sizeof(one));
	return producer;
}

/* The same headers as librdkafka has them; used up by a record that is sent. */
static rd_kafka_headers_t *
make_headers(const KafkaRecord *record)
{
	rd_kafka_headers_t *headers = rd_kafka_headers_new(record->nheaders);

	for (int i = 0; i < record->nheaders; i++)
		rd_kafka_header_add(headers, record->headers[i].name, -1,
							record->headers[i].value, -1);
	return headers;
}

/*
 * Start to send a copy of a record.  Unless this is an error, there will be one
 * report with this number.
 */
rd_kafka_resp_err_t
producer_send(KafkaProducer *producer, const KafkaRecord *record,
			  uint64 number)
{
	rd_kafka_headers_t *headers = make_headers(record);
	rd_kafka_resp_err_t error;

	error = rd_kafka_producev(producer->handle,
							  RD_KAFKA_V_TOPIC(record->topic),
							  RD_KAFKA_V_KEY(record->key,
											 record->key ? strlen(record->key) : 0),
							  RD_KAFKA_V_VALUE(unconstify(char *, record->value),
											   record->size),
							  RD_KAFKA_V_HEADERS(headers),
							  RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
							  RD_KAFKA_V_OPAQUE((void *) (uintptr_t) number),
							  RD_KAFKA_V_END);
	if (error != RD_KAFKA_RESP_ERR_NO_ERROR)
		rd_kafka_headers_destroy(headers);
	else if (producer->nunreported++ == 0)
		producer->waiting_since = clock_ms();
	return error;
}

static void
note_trouble(KafkaProducer *producer, const char *text)
{
	text_copy_line(producer->trouble, sizeof(producer->trouble), text);
	producer->trouble_at = clock_ms();
}

/* The producer is of no use any longer: what it has will not be sent. */
static void
note_fatal_error(KafkaProducer *producer)
{
	char text[	OUTBOX_ERROR_SIZE] = "";

	/* no right to be idempotent is no right for anybody's message */
	if (rd_kafka_fatal_error(producer->handle, text, sizeof(text)) ==
		RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED)
		producer->reach = PRODUCER_LOST;
	producer->broken = true;
	note_trouble(producer, text);
	rd_kafka_purge(producer->handle, RD_KAFKA_PURGE_F_QUEUE |
				   RD_KAFKA_PURGE_F_INFLIGHT | RD_KAFKA_PURGE_F_NON_BLOCKING);
}

/*
 * It has no connection any longer, or could make none.  That is no news of a
 * broker who was there while there is nothing to send.
 */
static void
note_loss(KafkaProducer *producer)
{
	if (producer->nunreported > 0 || producer->reach == PRODUCER_UNTRIED)
		producer->reach = PRODUCER_LOST;
	else if (producer->reach == PRODUCER_REACHED)
		producer->reach = PRODUCER_CLOSED;
}

static void
note_error(KafkaProducer *producer, rd_kafka_event_t *event)
{
	if (rd_kafka_event_error_is_fatal(event))
	{
		note_fatal_error(producer);
		return;
	}
	if (rd_kafka_event_error(event) == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN)
	{
		note_loss(producer);

		/* this only counts brokers: why was said of each before */
		if (producer->trouble[0] != '\0')
			return;
	}
	else if (producer->reach == PRODUCER_CLOSED)
	{
		producer->failing = true;
		note_loss(producer);
	}
	note_trouble(producer, rd_kafka_event_error_string(event));
}

/* For who wants to know what librdkafka does: its option "debug". */
static void
pass_log(rd_kafka_event_t *event)
{
	const char *facility;
	const char *text;
	int			level;

	if (rd_kafka_event_log(event, &facility, &text, &level) == 0)
		ereport(DEBUG1, (errmsg_internal("librdkafka: %s: %s", facility, text)));
}

/* Take an event that is no report, or the reports in it. */
static void
take_event(KafkaProducer *producer, rd_kafka_event_t *event)
{
	switch (rd_kafka_event_type(event))
	{
		case RD_KAFKA_EVENT_DR:
			producer->event = event;
			return;
		case RD_KAFKA_EVENT_ERROR:
			note_error(producer, event);
			break;
		case RD_KAFKA_EVENT_LOG:
			pass_log(event);
			break;
		default:
			break;
	}
	rd_kafka_event_destroy(event);
}

/*
 * Take one event or report, without waiting.  False if there is none; otherwise
 * it was a report if that has a number.
 */
bool
producer_next_report(KafkaProducer *producer, KafkaReport *report)
{
	const rd_kafka_message_t *message;

	report->number = 0;
	if (producer->event == NULL)
	{
		rd_kafka_event_t *event = rd_kafka_queue_poll(producer->queue, 0);

		if (event == NULL)
			return false;
		take_event(producer, event);
		return true;
	}
	message = rd_kafka_event_message_next(producer->event);
	if (message == NULL)
	{
		rd_kafka_event_destroy(producer->event);
		producer->event = NULL;
		return true;
	}
	report->number = (uintptr_t) message->_private;
	report->error = message->err;
	producer->nunreported--;
	if (report->error == RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		producer->reach = PRODUCER_REACHED;
		producer->failing = false;
	}
	return true;
}

/* How many records have no report yet? */
int
producer_nunreported(const KafkaProducer *producer)
{
	return producer->nunreported;
}

/* Will it never send anything again? */
bool
producer_is_broken(const KafkaProducer *producer)
{
	return producer->broken;
}

ProducerReach
producer_reach(const KafkaProducer *producer)
{
	return producer->reach;
}

/*
 * When a producer that could not connect is given up, in clock_ms(), unless it can
 * by then; PG_INT64_MAX: it is not.
 */
int64
producer_time(const KafkaProducer *producer)
{
	return producer->failing && producer->reach == PRODUCER_CLOSED &&
		producer->nunreported > 0 ? producer->waiting_since + DOUBT_MS :
		PG_INT64_MAX;
}

/* Give it up if that time has come. */
void
producer_check_time(KafkaProducer *producer)
{
	if (clock_ms() >= producer_time(producer))
		producer->reach = PRODUCER_LOST;
}

/*
 * What it has said of a broker last, if that was while a message with this
 * deadline waited, or if it has lost all of them; else NULL.
 */
const char *
producer_trouble(const KafkaProducer *producer, int64 deadline)
{
	if (producer->trouble[0] == '\0' ||
		(producer->reach != PRODUCER_LOST &&
		 producer->trouble_at < deadline - producer->message_timeout))
		return NULL;
	return producer->trouble;
}

/* A thread: wait for the end of all threads of a producer. */
static void *
end_threads(void *arg)
{
	rd_kafka_destroy(arg);
	return NULL;
}

/*
 * End a producer without waiting for that.  What it has not sent will not be;
 * nothing is reported any longer.
 */
void
producer_destroy(KafkaProducer *producer)
{
	rd_kafka_t *handle = producer->handle;
	sigset_t	all;
	sigset_t	before;
	pthread_t	thread;
	int			error;

	if (producer->event)
		rd_kafka_event_destroy(producer->event);

	/* from here on, it does not write to the descriptor */
	rd_kafka_queue_io_event_enable(producer->queue, -1, NULL, 0);
	rd_kafka_queue_destroy(producer->queue);
	pfree(producer);

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_create(&thread, NULL, end_threads, handle);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (error == 0)
		pthread_detach(thread);
	else
		ereport(WARNING,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("could not create a thread to end a producer of librdkafka: %s",
						strerror(error)),
				 errdetail("What it holds is lost until the relay ends.")));
}
