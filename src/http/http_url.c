/*-------------------------------------------------------------------------
 *
 * http_url.c
 *		Which URLs and addresses requests can be sent to.
 *
 * This is to say at once, to whoever sets it, what would fail later or do
 * something that nobody wants.  The parser is libcurl's, whose opinion of a URL
 * is the one that counts.
 *
 * No state, and no memory but what libcurl frees again.  No errors: the problem
 * is a constant sentence, fit for the detail of an error; NULL means that there
 * is none.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>
#include <curl/curl.h>

#include "http/http_address.h"
#include "http/http_url.h"

/*
 * What goes into a URL or a header as it is must be printable ASCII without
 * spaces.
 */
const char *
http_url_part_problem(const char *str)
{
	for (const char *p = str; *p != '\0'; p++)
	{
		unsigned char c = (unsigned char) *p;

		if (c <= ' ' || c >= 0x7f)
			return "It must not contain spaces, control characters or anything but ASCII.";
	}
	return NULL;
}

/* Does libcurl understand this URL? */
static const char *
parse_problem(const char *url)
{
	CURLU	   *parsed = curl_url();
	CURLUcode	code = CURLUE_OUT_OF_MEMORY;

	if (parsed != NULL)
		code = curl_url_set(parsed, CURLUPART_URL, url, CURLU_PATH_AS_IS);
	curl_url_cleanup(parsed);
	if (code == CURLUE_OUT_OF_MEMORY)
		return "There is no memory to look at it.";
	return code == CURLUE_OK ? NULL : "Its host or its port is not valid.";
}

/*
 * An http or https URL with a host.  User information is refused, because a
 * password in a setting would be shown by SHOW: *has_user then becomes true,
 * so that the caller can say where to put it.
 */
const char *
http_url_problem(const char *url, bool *has_user)
{
	const char *problem = http_url_part_problem(url);
	const char *host;
	Size		authority;

	if (problem != NULL)
		return problem;
	if (pg_strncasecmp(url, "http://", 7) == 0)
		host = url + 7;
	else if (pg_strncasecmp(url, "https://", 8) == 0)
		host = url + 8;
	else
		return "It must start with \"http://\" or \"https://\".";

	/* an "@" further on is nobody's name */
	authority = strcspn(host, "/?#");
	if (authority == 0)
		return "The URL has no host.";
	if (memchr(host, '@', authority) != NULL)
	{
		*has_user = true;
		return "The URL must not contain a user name or a password.";
	}
	return parse_problem(url);
}

/*
 * A URL in which HTTP_URL_TOPIC stands for the topic.  Topics are the choice of
 * whoever publishes, who must not choose the server.  "has_user" is as above.
 */
const char *
http_url_pattern_problem(const char *pattern, bool *has_user)
{
	const char *topic = strstr(pattern, HTTP_URL_TOPIC);
	const char *host = strstr(pattern, "://");

	if (topic != NULL &&
		(host == NULL || topic < host + 3 + strcspn(host + 3, "/?#")))
		return "The topic must not be part of anything before the path.";
	return http_url_problem(pattern, has_user);
}

/*
 * Can this topic be used in a URL of this pattern?  In the query it can, whatever
 * it is.  In the path it must stay one segment for servers that decode "%2F" and
 * resolve ".." before they look where a request belongs, or who publishes could
 * choose another path.  With "slashes" it may be several segments.
 *
 * As an error for whoever reads why an event is dead; NULL: it can.
 */
const char *
http_url_topic_problem(const char *pattern, const char *topic, bool slashes)
{
	const char *place = strstr(pattern, HTTP_URL_TOPIC);

	if (place == NULL || place > pattern + strcspn(pattern, "?#"))
		return NULL;
	if (strchr(topic, '\\') != NULL)
		return "the topic has a backslash, which some servers take for a slash in the path of a URL";
	if (strchr(topic, '/') != NULL && !slashes)
		return "the topic has a slash, and is a part of the path of a URL: see outbox.http_topic_slashes";
	for (const char *segment = topic;; segment++)
	{
		Size		len = strcspn(segment, "/");

		if ((len == 1 || len == 2) && strspn(segment, ".") == len)
			return "the topic has a segment \".\" or \"..\", which is a step in the path of a URL";
		segment += len;
		if (*segment == '\0')
			return NULL;
	}
}

/*
 * A URL for secrets: https, or a server on this machine.  "has_user" is as above.
 */
const char *
http_url_secure_problem(const char *url, bool *has_user)
{
	const char *problem = http_url_problem(url, has_user);
	const char *host = strstr(url, "://");
	char		name[sizeof("localhost")];
	Size		len;

	if (problem != NULL || pg_strncasecmp(url, "https:", 6) == 0)
		return problem;
	host += 3;
	len = *host == '[' ? strcspn(host, "]") : strcspn(host, ":/?#");
	strlcpy(name, host, Min(len + 1, sizeof(name)));
	if (pg_strcasecmp(name, "localhost") == 0 && len == strlen(name))
		return NULL;
	return http_address_is_loopback(pnstrdup(host, len)) ? NULL :
		"It must start with \"https://\", unless it is on this machine.";
}

/* The URL of a proxy, which has no path.  "has_user" is as above. */
const char *
http_url_proxy_problem(const char *url, bool *has_user)
{
	const char *problem = http_url_problem(url, has_user);
	const char *path;

	if (problem != NULL)
		return problem;

	/* a slash at the end is a habit that does no harm */
	path = strchr(strstr(url, "://") + 3, '/');
	if (strpbrk(url, "?#") != NULL || (path && path[1] != '\0'))
		return "It must be an address only, without a path.";
	return NULL;
}

/*
 * The address of a server: a URL without a path, or HTTP_UNIX_PREFIX and an
 * absolute path.  "has_user" is as above.
 */
const char *
http_url_address_problem(const char *address, bool *has_user)
{
	if (strncmp(address, HTTP_UNIX_PREFIX, strlen(HTTP_UNIX_PREFIX)) == 0)
	{
		if (address[strlen(HTTP_UNIX_PREFIX)] != '/')
			return "A socket is given as \"unix:\" and its absolute path.";
		return http_url_part_problem(address);
	}
	return http_url_proxy_problem(address, has_user);
}

/* Where the authority of a URI reference begins; NULL: it has none. */
static const char *
find_authority(const char *str)
{
	const char *p = str + strcspn(str, ":/?#");

	p = *p == ':' ? p + 1 : str;
	return strncmp(p, "//", 2) == 0 ? p + 2 : NULL;
}

/* A colon before the first slash ends a scheme: a letter, then a few others. */
static bool
has_bad_scheme(const char *str)
{
	Size		len = strcspn(str, ":/?#");

	if (str[len] != ':')
		return false;
	return !isalpha((unsigned char) str[0]) ||
		strspn(str, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
			   "0123456789+-.") != len;
}

/*
 * A URI reference by RFC 3986, which CloudEvents wants a source to be.  What is
 * inside the brackets of an IPv6 address is not looked at.
 */
const char *
http_uri_reference_problem(const char *str)
{
	const char *problem = http_url_part_problem(str);
	const char *authority = find_authority(str);
	const char *path = authority ? authority + strcspn(authority, "/?#") : str;
	const char *fragment = strchr(str, '#');

	if (problem != NULL)
		return problem;
	if (strpbrk(str, "\"<>\\^`{|}") != NULL || strpbrk(path, "[]") != NULL ||
		(fragment != NULL && strchr(fragment + 1, '#') != NULL))
		return "It must be a URI reference, in which some characters have to be percent-encoded.";
	for (const char *p = str; (p = strchr(p, '%')) != NULL; p++)
	{
		if (!isxdigit((unsigned char) p[1]) || !isxdigit((unsigned char) p[2]))
			return "It must be a URI reference, in which a percent sign has two hexadecimal digits behind it.";
	}
	if (has_bad_scheme(str))
		return "It must be a URI reference, in which only a scheme has a colon behind it at the beginning.";
	return NULL;
}
