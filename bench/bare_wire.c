/*
 * bare_wire.c
 *		The limit of outbox_nats, outbox_redis and outbox_mqtt, which speak for
 *		themselves: a loop around a socket and nothing else.
 *
 *		bare_wire PORT PROTOCOL LOGIN MESSAGE EVENT_ID COUNT WINDOW
 *
 * Sends what is in the file LOGIN and then COUNT times what is in the file MESSAGE,
 * WINDOW of them unacknowledged at a time: the bytes that the relay was seen to send,
 * but for an id of its own in each.  Prints the seconds that it took and those of CPU
 * time.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CHUNK	(64 * 1024)
#define MAX_IDS	8

/* The digits of an id that are counted on */
#define ID_DIGITS 12

typedef struct Message
{
	char	   *bytes;
	size_t		len;
	size_t		ids[MAX_IDS];	/* where these digits are */
	int			nids;
	size_t		packet_id;		/* where two bytes of a number are; 0: none */
} Message;

/* How many bytes the first answer in "buf" has, and if it counts; 0: not whole. */
typedef size_t (*Scanner) (const char *buf, size_t len, int *acknowledges);

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
	fprintf(stderr, "bare_wire: could not %s\n", what);
	exit(1);
}

/* A line at a time: NATS has an acknowledgement's JSON on one of its own. */
static size_t
scan_nats(const char *buf, size_t len, int *acknowledges)
{
	const char *end = memchr(buf, '\n', len);

	*acknowledges = len > 10 && memcmp(buf, "{\"stream\":", 10) == 0;
	check(end == NULL || buf[0] != '-', "please the server");
	return end ? end + 1 - buf : 0;
}

/* A line at a time: "$" and a length are in front of an entry's id. */
static size_t
scan_redis(const char *buf, size_t len, int *acknowledges)
{
	const char *end = memchr(buf, '\n', len);

	*acknowledges = buf[0] == '$';
	check(end == NULL || buf[0] != '-', "please the server");
	return end ? end + 1 - buf : 0;
}

/* A packet at a time, all of which are short. */
static size_t
scan_mqtt(const char *buf, size_t len, int *acknowledges)
{
	size_t		size = len < 2 ? 0 : 2 + (unsigned char) buf[1];

	*acknowledges = buf[0] == 0x40;
	if (size == 0 || size > len)
		return 0;
	check(buf[0] == 0x40 || buf[0] == 0x20, "please the broker");
	check(!*acknowledges || size <= 4 || (unsigned char) buf[4] < 0x80,
		  "have a message taken");
	return size;
}

static char *
read_file(const char *path, size_t *len)
{
	FILE	   *file = fopen(path, "rb");
	char	   *bytes = malloc(CHUNK);

	check(file != NULL && bytes != NULL, "open a file");
	*len = fread(bytes, 1, CHUNK, file);
	check(*len > 0 && *len < CHUNK, "read a file");
	fclose(file);
	return bytes;
}

static void
read_message(Message *message, const char *path, const char *event_id, int mqtt)
{
	size_t		id_len = strlen(event_id);
	char	   *p;

	message->bytes = read_file(path, &message->len);
	for (p = message->bytes; (p = memmem(p, message->bytes + message->len - p,
										 event_id, id_len)) != NULL; p += id_len)
	{
		check(message->nids < MAX_IDS, "count that far");
		message->ids[message->nids++] = p - message->bytes + id_len - ID_DIGITS;
	}
	check(message->nids > 0, "find the event's id");
	if (mqtt)
	{
		/* behind the length, of a byte or more, and the topic */
		size_t		topic = 1;

		while (message->bytes[topic++] & 0x80)
			;
		message->packet_id = topic + 2 + (unsigned char) message->bytes[topic] * 256 +
			(unsigned char) message->bytes[topic + 1];
	}
}

/* Put the message's copy of this number behind "out"; how many bytes it has. */
static size_t
put_message(char *out, const Message *message, long number)
{
	char		digits[ID_DIGITS + 1];

	memcpy(out, message->bytes, message->len);
	snprintf(digits, sizeof(digits), "%0*lx", ID_DIGITS, number);
	for (int i = 0; i < message->nids; i++)
		memcpy(out + message->ids[i], digits, ID_DIGITS);
	if (message->packet_id > 0)
	{
		out[message->packet_id] = (char) ((number % 65535 + 1) >> 8);
		out[message->packet_id + 1] = (char) (number % 65535 + 1);
	}
	return message->len;
}

static void
send_bytes(int fd, const char *bytes, size_t len)
{
	while (len > 0)
	{
		ssize_t		n = write(fd, bytes, len);

		check(n > 0, "write");
		bytes += n;
		len -= n;
	}
}

/* How many messages have been acknowledged by what comes next. */
static long
read_answers(int fd, Scanner scan)
{
	static char buf[CHUNK];
	static size_t len = 0;
	size_t		done = 0;
	size_t		size;
	long		n = 0;
	int			acknowledges;
	ssize_t		got = read(fd, buf + len, sizeof(buf) - len);

	check(got > 0, "read an answer");
	len += got;
	while (done < len && (size = scan(buf + done, len - done, &acknowledges)) > 0)
	{
		n += acknowledges;
		done += size;
	}
	len -= done;
	memmove(buf, buf + done, len);
	return n;
}

static void
send_all(int fd, Scanner scan, const Message *message, long first, long count,
		 long window)
{
	static char out[2 * CHUNK];
	long		sent = 0;
	long		done = 0;

	while (done < count)
	{
		size_t		len = 0;

		while (sent < count && sent - done < window && len < CHUNK)
			len += put_message(out + len, message, first + sent++);
		send_bytes(fd, out, len);
		if (len == 0 || sent - done == window)
			done += read_answers(fd, scan);
	}
}

static int
connect_to(int port)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET,
		.sin_port = htons(port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK)
	};
	int			fd = socket(AF_INET, SOCK_STREAM, 0);

	check(fd >= 0 && connect(fd, (struct sockaddr *) &address,
							 sizeof(address)) == 0, "connect");
	return fd;
}

int
main(int argc, char **argv)
{
	Message		message = {0};
	Scanner		scan;
	char	   *login;
	size_t		len;
	long		base = (long) (now() * 1000) << 20; /* other ids in each run */
	double		start;
	double		cpu;
	int			fd;

	check(argc == 8, "understand its arguments");
	scan = strcmp(argv[2], "nats") == 0 ? scan_nats :
		strcmp(argv[2], "redis") == 0 ? scan_redis : scan_mqtt;
	login = read_file(argv[3], &len);
	read_message(&message, argv[4], argv[5], scan == scan_mqtt);
	fd = connect_to(atoi(argv[1]));
	send_bytes(fd, login, len);

	/* the relay has its connection when the clock begins to run */
	send_all(fd, scan, &message, base, 1, 1);
	start = now();
	cpu = cpu_time();
	send_all(fd, scan, &message, base + 1, atol(argv[6]), atol(argv[7]));
	printf("%.6f %.6f\n", now() - start, cpu_time() - cpu);
	return 0;
}
