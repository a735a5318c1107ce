/*
 * latency.c
 *		How long an event takes from its commit to its arrival.
 *
 *		latency PORT CONNINFO
 *
 * Listens on 127.0.0.1:PORT, where it answers 204 to each POST and notes when
 * it was complete.  Reads commands from stdin:
 *
 *		publish COUNT PAUSE		publish one event, wait for it, pause (ms); again
 *		post COUNT PAUSE FILE	the same, but POST a captured request by libcurl
 *		publish-rate COUNT RATE	publish RATE events a second, several at a time
 *		post-rate COUNT RATE FILE	POST so many a second
 *
 * For each it prints the median, the 99th percentile and the maximum in
 * microseconds.  The clock starts when the client has the commit's answer, or
 * when it hands the request to libcurl, and stops when the receiver has read
 * the last byte.  An event that came before its commit was known took 0.
 */
#include <errno.h>
#include <libpq-fe.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "request.h"

#define MAX_CONNECTIONS	256
#define MAX_SAMPLES		1000000
#define PUBLISHERS		8
#define GIVE_UP_SECONDS	30

typedef struct Connection
{
	char		buf[65536];
	size_t		len;
} Connection;

static struct pollfd polled[MAX_CONNECTIONS];
static Connection *connections[MAX_CONNECTIONS];
static int	npolled;

/* When sample i began and when it arrived; 0: not yet. */
static _Atomic int64_t started[MAX_SAMPLES];
static _Atomic int64_t arrived[MAX_SAMPLES];

/* Signalled at every arrival. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t arrival = PTHREAD_COND_INITIALIZER;

/* What a post carries is not numbered: it is the sample that is under way. */
static _Atomic long current;

static const char *conninfo;
static char base_url[64];

static int64_t
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static void
sleep_until(int64_t when)
{
	struct timespec t = {when / 1000000000, when % 1000000000};

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
		;
}

/*
 * The receiver
 */

static void
answer(int fd, const char *response)
{
	if (send(fd, response, strlen(response), MSG_NOSIGNAL) < 0)
		die("receiver: %s", strerror(errno));
}

/* Note when the samples in a body arrived: several, if they share a request. */
static void
samples_arrived(const char *body)
{
	static const char mark[] = "\"sample\": ";
	const char *number = strstr(body, mark);
	int64_t		at = now();

	pthread_mutex_lock(&lock);
	if (number == NULL)
		arrived[current] = at;
	for (; number; number = strstr(number, mark))
	{
		number += sizeof(mark) - 1;
		arrived[atol(number)] = at;
	}
	pthread_cond_signal(&arrival);
	pthread_mutex_unlock(&lock);
}

/* Take one complete request from the buffer; 0: there is none. */
static int
take_request(int fd, Connection *c)
{
	char	   *end,
			   *length,
				next;
	size_t		total;

	c->buf[c->len] = '\0';
	if ((end = strstr(c->buf, "\r\n\r\n")) == NULL)
		return 0;
	length = strstr(c->buf, "Content-Length: ");
	total = end + 4 - c->buf + (length && length < end ? atol(length + 16) : 0);
	if (c->len < total)
		return 0;
	if (strncmp(c->buf, "POST", 4) == 0)
	{
		next = c->buf[total];
		c->buf[total] = '\0';
		samples_arrived(end);
		c->buf[total] = next;
	}
	answer(fd, "HTTP/1.1 204 No Content\r\n\r\n");
	c->len -= total;
	memmove(c->buf, c->buf + total, c->len);
	return 1;
}

static void
receive(int i)
{
	Connection *c = connections[i];
	ssize_t		n = recv(polled[i].fd, c->buf + c->len,
						 sizeof(c->buf) - 1 - c->len, 0);

	if (n <= 0)
	{
		close(polled[i].fd);
		free(c);
		npolled--;
		polled[i] = polled[npolled];
		connections[i] = connections[npolled];
		return;
	}
	c->len += n;
	while (take_request(polled[i].fd, c))
		;
}

static void
accept_connection(int listener)
{
	int			on = 1;
	int			fd = accept(listener, NULL, NULL);

	if (fd < 0 || npolled == MAX_CONNECTIONS)
		die("receiver: cannot take another connection");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	polled[npolled].fd = fd;
	polled[npolled].events = POLLIN;
	connections[npolled++] = calloc(1, sizeof(Connection));
}

static void *
receiver_main(void *arg)
{
	for (;;)
	{
		if (poll(polled, npolled, -1) < 0)
			die("receiver: %s", strerror(errno));
		for (int i = npolled - 1; i > 0; i--)
		{
			if (polled[i].revents)
				receive(i);
		}
		if (polled[0].revents)
			accept_connection(polled[0].fd);
	}
	return NULL;
}

static void
start_receiver(int port)
{
	struct sockaddr_in address = {.sin_family = AF_INET,
		.sin_port = htons(port),
	.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int			on = 1;
	int			fd = socket(AF_INET, SOCK_STREAM, 0);
	pthread_t	thread;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(fd, (struct sockaddr *) &address, sizeof(address)) < 0 ||
		listen(fd, MAX_CONNECTIONS) < 0)
		die("cannot listen on port %d: %s", port, strerror(errno));
	polled[0].fd = fd;
	polled[0].events = POLLIN;
	npolled = 1;
	pthread_create(&thread, NULL, receiver_main, NULL);
	snprintf(base_url, sizeof(base_url), "http://127.0.0.1:%d", port);
}

static void
await_arrival(long i)
{
	struct timespec deadline;

	clock_gettime(CLOCK_REALTIME, &deadline);
	deadline.tv_sec += GIVE_UP_SECONDS;
	pthread_mutex_lock(&lock);
	while (arrived[i] == 0)
	{
		if (pthread_cond_timedwait(&arrival, &lock, &deadline) != 0)
			die("event %ld did not arrive", i);
	}
	pthread_mutex_unlock(&lock);
}

/*
 * The senders
 */

static PGconn *
connect_database(void)
{
	PGconn	   *conn = PQconnectdb(conninfo);

	if (PQstatus(conn) != CONNECTION_OK)
		die("%s", PQerrorMessage(conn));
	return conn;
}

static void
publish(PGconn *conn, long i)
{
	char		sql[128];
	PGresult   *res;

	snprintf(sql, sizeof(sql),
			 "SELECT outbox_publish('bench', '{\"sample\": %ld}')", i);
	res = PQexec(conn, sql);
	started[i] = now();
	if (PQresultStatus(res) != PGRES_TUPLES_OK)
		die("%s", PQerrorMessage(conn));
	PQclear(res);
}

static void
post(CURL *easy, long i)
{
	current = i;
	started[i] = now();
	request_check(easy, curl_easy_perform(easy));
}

static CURL *
make_post(const char *file)
{
	static Request request;

	request_read(&request, file, base_url);
	return request_handle(&request, NULL);
}

/* One at a time; either by "conn" or by "easy". */
static void
one_by_one(long count, long pause_ms, PGconn *conn, CURL *easy)
{
	for (long i = 0; i < count; i++)
	{
		if (conn)
			publish(conn, i);
		else
			post(easy, i);
		await_arrival(i);
		sleep_until(now() + pause_ms * 1000000);
	}
}

typedef struct Share
{
	pthread_t	thread;
	long		first,
				count;
	double		interval;		/* ns from one event of all to the next */
	int64_t		start;
} Share;

static void *
publisher_main(void *arg)
{
	Share	   *share = arg;
	PGconn	   *conn = connect_database();

	for (long i = share->first; i < share->count; i += PUBLISHERS)
	{
		sleep_until(share->start + (int64_t) (i * share->interval));
		publish(conn, i);
	}
	PQfinish(conn);
	return NULL;
}

static void
publish_at_rate(long count, long rate)
{
	Share		shares[PUBLISHERS];
	int64_t		start = now() + 200000000;

	for (int i = 0; i < PUBLISHERS; i++)
	{
		shares[i].first = i;
		shares[i].count = count;
		shares[i].interval = 1e9 / rate;
		shares[i].start = start;
		pthread_create(&shares[i].thread, NULL, publisher_main, &shares[i]);
	}
	for (int i = 0; i < PUBLISHERS; i++)
		pthread_join(shares[i].thread, NULL);
}

static void
post_at_rate(long count, long rate, CURL *easy)
{
	int64_t		start = now();

	for (long i = 0; i < count; i++)
	{
		sleep_until(start + (int64_t) (i * (1e9 / rate)));
		post(easy, i);
	}
}

static int
compare(const void *a, const void *b)
{
	double		x = *(const double *) a,
				y = *(const double *) b;

	return (x > y) - (x < y);
}

static void
report(long count)
{
	double	   *us = malloc(sizeof(double) * count);

	for (long i = 0; i < count; i++)
	{
		await_arrival(i);
		us[i] = arrived[i] > started[i] ? (arrived[i] - started[i]) / 1000.0 : 0;
	}
	qsort(us, count, sizeof(double), compare);
	printf("%.1f %.1f %.1f\n", us[count / 2], us[count * 99 / 100],
		   us[count - 1]);
	fflush(stdout);
	free(us);
}

int
main(int argc, char **argv)
{
	char		line[4096],
				command[32],
				file[3072];
	long		count,
				number;

	if (argc != 3)
		die("usage: latency PORT CONNINFO");
	conninfo = argv[2];
	curl_global_init(CURL_GLOBAL_DEFAULT);
	start_receiver(atoi(argv[1]));
	while (fgets(line, sizeof(line), stdin))
	{
		PGconn	   *conn = NULL;
		CURL	   *easy = NULL;

		file[0] = '\0';
		if (sscanf(line, "%31s %ld %ld %3071s", command, &count, &number, file) < 3 ||
			count < 1 || count > MAX_SAMPLES)
			die("bad command: %s", line);
		for (long i = 0; i < count; i++)
			arrived[i] = started[i] = 0;
		if (file[0] != '\0')
		{
			easy = make_post(file);
			post(easy, 0);		/* connects */
			arrived[0] = 0;
		}
		if (strcmp(command, "publish") == 0)
			one_by_one(count, number, conn = connect_database(), NULL);
		else if (strcmp(command, "post") == 0)
			one_by_one(count, number, NULL, easy);
		else if (strcmp(command, "publish-rate") == 0)
			publish_at_rate(count, number);
		else
			post_at_rate(count, number, easy);
		report(count);
		if (conn)
			PQfinish(conn);
		curl_easy_cleanup(easy);
	}
	return 0;
}
