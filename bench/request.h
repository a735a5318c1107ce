/*
 * request.h
 *		A captured HTTP request, to be sent again by libcurl byte for byte.
 */
#ifndef BENCH_REQUEST_H
#define BENCH_REQUEST_H

#include <curl/curl.h>

typedef struct Request
{
	CURLU	   *url;			/* parsed once */
	struct curl_slist *headers; /* but for those that libcurl makes itself */
	const char *user_agent;
	const char *body;
	size_t		body_len;
} Request;

extern void die(const char *format,...)
			__attribute__((format(printf, 1, 2), noreturn));
extern void request_read(Request *request, const char *path, const char *base);
extern CURL *request_handle(const Request *request, const char *socket);
extern void request_check(CURL *easy, CURLcode code);

#endif
