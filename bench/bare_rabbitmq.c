/*
 * bare_rabbitmq.c
 *		The limit of outbox_rabbitmq: a loop around librabbitmq and nothing else.
 *
 *		bare_rabbitmq PORT USER PASSWORD EXCHANGE QUEUE COUNT WINDOW
 *
 * Takes a message from the queue, has the queue emptied, and publishes the same
 * message COUNT times, WINDOW of them unconfirmed at a time.  Prints the seconds
 * that it took and those of CPU time.  With a COUNT of 0, only empties the queue.
 */
#include <amqp.h>
#include <amqp_framing.h>
#include <amqp_tcp_socket.h>
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
	fprintf(stderr, "bare_rabbitmq: could not %s\n", what);
	exit(1);
}

static amqp_connection_state_t
log_in(int port, const char *user, const char *password)
{
	amqp_connection_state_t connection = amqp_new_connection();
	amqp_socket_t *socket = amqp_tcp_socket_new(connection);

	check(amqp_socket_open(socket, "127.0.0.1", port) == 0, "connect");
	check(amqp_login(connection, "/", 0, 131072, 0, AMQP_SASL_METHOD_PLAIN,
					 user, password).reply_type == AMQP_RESPONSE_NORMAL, "log in");
	check(amqp_channel_open(connection, 1) != NULL, "open a channel");
	check(amqp_confirm_select(connection, 1) != NULL, "ask for confirms");
	return connection;
}

/* How many messages the next confirm is for. */
static long
await_confirm(amqp_connection_state_t connection, uint64_t *confirmed)
{
	amqp_frame_t frame;
	amqp_basic_ack_t *ack;
	long		n = 1;

	amqp_maybe_release_buffers(connection);
	check(amqp_simple_wait_frame(connection, &frame) == AMQP_STATUS_OK &&
		  frame.frame_type == AMQP_FRAME_METHOD &&
		  frame.payload.method.id == AMQP_BASIC_ACK_METHOD, "get a confirm");
	ack = frame.payload.method.decoded;
	if (ack->multiple)
		n = ack->delivery_tag - *confirmed;
	*confirmed += n;
	return n;
}

static void
publish(amqp_connection_state_t connection, const char *exchange,
		const amqp_bytes_t *routing_key, const amqp_message_t *message,
		long count, long window)
{
	uint64_t	confirmed = 0;
	long		sent = 0;
	long		done = 0;

	while (done < count)
	{
		if (sent < count && sent - done < window)
		{
			check(amqp_basic_publish(connection, 1, amqp_cstring_bytes(exchange),
									 *routing_key, 1, 0, &message->properties,
									 message->body) == AMQP_STATUS_OK, "publish");
			sent++;
		}
		else
			done += await_confirm(connection, &confirmed);
	}
}

int
main(int argc, char **argv)
{
	amqp_connection_state_t connection;
	amqp_bytes_t queue;
	amqp_bytes_t routing_key;
	amqp_message_t message;
	amqp_rpc_reply_t reply;
	long		count;
	double		start;
	double		cpu;

	check(argc == 8, "understand its arguments");
	connection = log_in(atoi(argv[1]), argv[2], argv[3]);
	queue = amqp_cstring_bytes(argv[5]);
	count = atol(argv[6]);
	if (count > 0)
	{
		reply = amqp_basic_get(connection, 1, queue, 1);
		check(reply.reply_type == AMQP_RESPONSE_NORMAL &&
			  reply.reply.id == AMQP_BASIC_GET_OK_METHOD, "get a message");
		routing_key = amqp_bytes_malloc_dup(
			((amqp_basic_get_ok_t *) reply.reply.decoded)->routing_key);
		check(amqp_read_message(connection, 1, &message, 0).reply_type ==
			  AMQP_RESPONSE_NORMAL, "read a message");
	}
	check(amqp_queue_purge(connection, 1, queue) != NULL, "empty the queue");
	start = now();
	cpu = cpu_time();
	if (count > 0)
		publish(connection, argv[4], &routing_key, &message, count, atol(argv[7]));
	printf("%.6f %.6f\n", now() - start, cpu_time() - cpu);
	return 0;
}
