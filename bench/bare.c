/*
 * bare.c
 *		The limit: a loop around libcurl's multi interface and nothing else.
 *
 *		bare REQUEST-FILE BASE-URL COUNT IN-FLIGHT [UNIX-SOCKET]
 *
 * Sends a captured request COUNT times, IN-FLIGHT at a time, each handle kept
 * and with a URL parsed once.  Waits by curl_multi_poll(), which was measured
 * to be faster than curl_multi_socket_action() with epoll.  Ends with an error
 * at the first answer that is no 2xx.  Prints the seconds that it took and
 * those of CPU time.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

#include "request.h"

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

/* Take the finished handles, and start them again while there is work. */
static long
finish(CURLM *multi, long *to_start)
{
	CURLMsg    *msg;
	int			left;
	long		done = 0;

	while ((msg = curl_multi_info_read(multi, &left)) != NULL)
	{
		CURL	   *easy = msg->easy_handle;

		request_check(easy, msg->data.result);
		curl_multi_remove_handle(multi, easy);
		done++;
		if (*to_start > 0)
		{
			curl_multi_add_handle(multi, easy);
			(*to_start)--;
		}
	}
	return done;
}

int
main(int argc, char **argv)
{
	Request		request;
	CURLM	   *multi;
	long		count,
				to_start,
				done = 0;
	int			in_flight,
				running;
	double		start,
				start_cpu;

	if (argc < 5)
		die("usage: bare REQUEST-FILE BASE-URL COUNT IN-FLIGHT [UNIX-SOCKET]");
	curl_global_init(CURL_GLOBAL_DEFAULT);
	request_read(&request, argv[1], argv[2]);
	count = to_start = atol(argv[3]);
	in_flight = atoi(argv[4]);
	multi = curl_multi_init();
	curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, (long) in_flight);

	start = now();
	start_cpu = cpu_time();
	for (int i = 0; i < in_flight && to_start > 0; i++, to_start--)
		curl_multi_add_handle(multi, request_handle(&request, argv[5]));
	while (done < count)
	{
		curl_multi_perform(multi, &running);
		done += finish(multi, &to_start);
		if (done < count)
			curl_multi_poll(multi, NULL, 0, 1000, NULL);
	}
	printf("%.6f %.6f\n", now() - start, cpu_time() - start_cpu);
	return 0;
}
