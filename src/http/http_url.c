/*-------------------------------------------------------------------------
 *
 * http_url.c
 *		Which URLs and addresses requests can be sent to.
 *
 * This is not a parser: libcurl has one, and what it makes of a URL that
 * passes here is what counts.  It is to say at once, to whoever sets it, what
 * would fail later or do something that nobody wants.
 *
 * No state, no memory, no errors: the problem is a constant sentence, fit for
 * the detail of an error; NULL means that there is none.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

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
	return NULL;
}

/*
 * The address of a server: a URL without a path, or HTTP_UNIX_PREFIX and an
 * absolute path.  "has_user" is as above.
 */
const char *
http_url_address_problem(const char *address, bool *has_user)
{
	const char *problem;
	const char *path;

	if (strncmp(address, HTTP_UNIX_PREFIX, strlen(HTTP_UNIX_PREFIX)) == 0)
	{
		if (address[strlen(HTTP_UNIX_PREFIX)] != '/')
			return "A socket is given as \"unix:\" and its absolute path.";
		return http_url_part_problem(address);
	}
	problem = http_url_problem(address, has_user);
	if (problem != NULL)
		return problem;

	/* a slash at the end is a habit that does no harm */
	path = strchr(strstr(address, "://") + 3, '/');
	if (strpbrk(address, "?#") != NULL || (path && path[1] != '\0'))
		return "It must be an address only, without a path.";
	return NULL;
}
