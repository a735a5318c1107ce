/*
 * bare_kafka.c
 *		The limit of outbox_kafka: a loop around librdkafka and nothing else.
 *
 *		bare_kafka SERVERS TOPIC COUNT WINDOW
 *
 * Takes the last message of the topic and sends the same one COUNT times, WINDOW
 * of them unacknowledged at a time, with the options that outbox_kafka has.
 * Prints the seconds that it took and those of CPU time.
 */
#include <librdkafka/rdkafka.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

static double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static double
cpu_time(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return u.ru_utime.tv_sec + u.ru_utime.tv_usec / 1e6 +
		u.ru_stime.tv_sec + u.ru_stime.tv_usec / 1e6;
}

static void
check(int ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "bare_kafka: could not %s\n", what);
	exit(1);
}

static void
set(rd_kafka_conf_t *conf, const char *name, const char *value)
{
	char		error[512];

	check(rd_kafka_conf_set(conf, name, value, error, sizeof(error)) ==
		  RD_KAFKA_CONF_OK, name);
}

static rd_kafka_t *
make_client(rd_kafka_type_t type, const char *servers)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_t *client;
	char		error[512];

	set(conf, "bootstrap.servers", servers);
	if (type == RD_KAFKA_PRODUCER)
	{
		set(conf, "enable.idempotence", "true");
		set(conf, "linger.ms", "1");
		set(conf, "partitioner", "murmur2_random");
		rd_kafka_conf_set_events(conf, RD_KAFKA_EVENT_DR);
	}
	else
		set(conf, "group.id", "bench");
	client = rd_kafka_new(type, conf, error, sizeof(error));
	check(client != NULL, "make a client");
	return client;
}

/* The last message of a topic, in this client's memory. */
static rd_kafka_message_t *
read_message(rd_kafka_t *consumer, const char *topic)
{
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
	rd_kafka_message_t *message;

	rd_kafka_topic_partition_list_add(list, topic, 0)->offset =
		RD_KAFKA_OFFSET_TAIL(1);
	check(rd_kafka_assign(consumer, list) == 0, "assign the topic");
	message = rd_kafka_consumer_poll(consumer, 30000);
	check(message != NULL && message->err == 0, "read a message");
	rd_kafka_topic_partition_list_destroy(list);
	return message;
}

static void
send_one(rd_kafka_t *producer, const char *topic,
		 const rd_kafka_message_t *message)
{
	rd_kafka_headers_t *headers;
	rd_kafka_headers_t *copy;

	check(rd_kafka_message_headers(message, &headers) == 0, "find headers");
	copy = rd_kafka_headers_copy(headers);
	check(rd_kafka_producev(producer, RD_KAFKA_V_TOPIC(topic),
							RD_KAFKA_V_KEY(message->key, message->key_len),
							RD_KAFKA_V_VALUE(message->payload, message->len),
							RD_KAFKA_V_HEADERS(copy),
							RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
							RD_KAFKA_V_END) == 0, "send");
}

/* How many messages have been acknowledged since. */
static long
await_reports(rd_kafka_queue_t *queue)
{
	rd_kafka_event_t *event = rd_kafka_queue_poll(queue, 30000);
	const rd_kafka_message_t *message;
	long		n = 0;

	check(event != NULL, "get a report");
	while ((message = rd_kafka_event_message_next(event)) != NULL)
	{
		check(message->err == 0, "have a message acknowledged");
		n++;
	}
	rd_kafka_event_destroy(event);
	return n;
}

static void
send_all(rd_kafka_t *producer, const char *topic,
		 const rd_kafka_message_t *message, long count, long window)
{
	rd_kafka_queue_t *queue = rd_kafka_queue_get_main(producer);
	long		sent = 0;
	long		done = 0;

	while (done < count)
	{
		while (sent < count && sent - done < window)
		{
			send_one(producer, topic, message);
			sent++;
		}
		done += await_reports(queue);
	}
	rd_kafka_queue_destroy(queue);
}

int
main(int argc, char **argv)
{
	rd_kafka_t *consumer;
	rd_kafka_t *producer;
	rd_kafka_message_t *message;
	double		start;
	double		cpu;

	check(argc == 5, "understand its arguments");
	consumer = make_client(RD_KAFKA_CONSUMER, argv[1]);
	message = read_message(consumer, argv[2]);
	check(rd_kafka_assign(consumer, NULL) == 0, "end reading");
	producer = make_client(RD_KAFKA_PRODUCER, argv[1]);

	/* the relay has its connections when the clock begins to run */
	send_all(producer, argv[2], message, 1, 1);
	start = now();
	cpu = cpu_time();
	send_all(producer, argv[2], message, atol(argv[3]), atol(argv[4]));
	printf("%.6f %.6f\n", now() - start, cpu_time() - cpu);
	return 0;
}
