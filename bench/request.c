/*
 * request.c
 *		A captured HTTP request, to be sent again by libcurl byte for byte.
 *
 * The file has the request as it came over the wire: request line, headers,
 * an empty line, body.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "request.h"

#define CHECK(call) \
	do { \
		CURLcode	code_ = (call); \
		if (code_ != CURLE_OK) \
			die("%s: %s", #call, curl_easy_strerror(code_)); \
	} while (0)

/* Headers that libcurl makes for the relay as well. */
static const char *const made_by_libcurl[] = {
	"Host:", "Accept:", "Content-Length:", "User-Agent:", NULL
};

void
die(const char *format,...)
{
	va_list		args;

	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	exit(1);
}

/* The whole file and a NUL; *len without that. */
static char *
read_file(const char *path, size_t *len)
{
	FILE	   *file = fopen(path, "rb");
	char	   *data = NULL;
	size_t		size = 0;

	if (file == NULL)
		die("could not open \"%s\"", path);
	*len = 0;
	do
	{
		size += 65536;
		data = realloc(data, size + 1);
		*len += fread(data + *len, 1, size - *len, file);
	} while (*len == size);
	data[*len] = '\0';
	fclose(file);
	return data;
}

/* Cut the next line off; NULL at the empty one. */
static char *
next_line(char **rest)
{
	char	   *line = *rest;
	char	   *end = strstr(line, "\r\n");

	if (end == NULL)
		die("the request has no end of its headers");
	*end = '\0';
	*rest = end + 2;
	return end == line ? NULL : line;
}

static int
is_made_by_libcurl(const char *header)
{
	for (const char *const *name = made_by_libcurl; *name; name++)
	{
		if (strncasecmp(header, *name, strlen(*name)) == 0)
			return 1;
	}
	return 0;
}

/* "base" is what is before the path: http://host:port */
void
request_read(Request *request, const char *path, const char *base)
{
	size_t		len;
	char	   *data = read_file(path, &len);
	char	   *rest = data;
	char	   *line = next_line(&rest);
	char		target[4096];
	char		url[8192];

	if (line == NULL || sscanf(line, "POST %4095s HTTP/1.1", target) != 1)
		die("\"%s\" has no POST request", path);
	snprintf(url, sizeof(url), "%s%s", base, target);
	request->url = curl_url();
	if (curl_url_set(request->url, CURLUPART_URL, url,
					 CURLU_PATH_AS_IS) != CURLUE_OK)
		die("bad URL \"%s\"", url);

	request->headers = curl_slist_append(NULL, "Expect:");
	request->user_agent = NULL;
	while ((line = next_line(&rest)) != NULL)
	{
		if (strncasecmp(line, "User-Agent: ", 12) == 0)
			request->user_agent = line + 12;
		if (!is_made_by_libcurl(line))
			request->headers = curl_slist_append(request->headers, line);
	}
	request->body = rest;
	request->body_len = len - (rest - data);
}

static size_t
drop_body(char *data, size_t size, size_t nmemb, void *arg)
{
	return size * nmemb;
}

/* A handle that sends the request whenever it is run. */
CURL *
request_handle(const Request *request, const char *socket)
{
	CURL	   *easy = curl_easy_init();

	CHECK(curl_easy_setopt(easy, CURLOPT_CURLU, request->url));
	CHECK(curl_easy_setopt(easy, CURLOPT_HTTPHEADER, request->headers));
	CHECK(curl_easy_setopt(easy, CURLOPT_USERAGENT, request->user_agent));
	CHECK(curl_easy_setopt(easy, CURLOPT_POSTFIELDS, request->body));
	CHECK(curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE,
						   (curl_off_t) request->body_len));
	CHECK(curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, drop_body));
	CHECK(curl_easy_setopt(easy, CURLOPT_PROXY, ""));
	CHECK(curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L));
	CHECK(curl_easy_setopt(easy, CURLOPT_HTTP_VERSION,
						   (long) CURL_HTTP_VERSION_1_1));
	if (socket != NULL)
		CHECK(curl_easy_setopt(easy, CURLOPT_UNIX_SOCKET_PATH, socket));
	return easy;
}

/* The program ends unless the finished transfer was answered by a 2xx. */
void
request_check(CURL *easy, CURLcode code)
{
	long		status = 0;

	CHECK(code);
	CHECK(curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status));
	if (status < 200 || status > 299)
		die("status %ld", status);
}
