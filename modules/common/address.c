/*-------------------------------------------------------------------------
 *
 * address.c
 *		Where a broker is: a URL taken apart.
 *
 * scheme://host[:port][/path], with a host that is a name, an IPv4 address or
 * an IPv6 address in brackets.  A user and a password are refused: a setting is
 * shown, and a password has a file of its own.
 *
 * No state.  What is returned is in the current memory context.  A problem is a
 * constant sentence, fit for the detail of an error.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "common/address.h"

/* Take percent-encoding out, in place.  False: there is a bad one, or a NUL. */
static bool
decode_percent(char *str)
{
	char	   *to = str;

	for (const char *p = str; *p != '\0'; p++)
	{
		if (*p == '%')
		{
			char		digits[] = {p[1], p[1] ? p[2] : '\0', '\0'};

			if (!isxdigit((unsigned char) digits[0]) ||
				!isxdigit((unsigned char) digits[1]) ||
				strcmp(digits, "00") == 0)
				return false;
			*to++ = (char) strtol(digits, NULL, 16);
			p += 2;
		}
		else
			*to++ = *p;
	}
	*to = '\0';
	return true;
}

/* Take "host", "host:port" or "[address]:port" apart, in place. */
static const char *
parse_host(char *authority, const char *default_port, Address *address)
{
	char	   *rest;

	address->host = authority;
	if (authority[0] == '[')
	{
		address->host = authority + 1;
		rest = strchr(authority, ']');
		if (rest == NULL)
			return "An IPv6 address must end with a bracket.";
		*rest++ = '\0';
	}
	else
		rest = authority + strcspn(authority, ":");
	if (*rest != '\0' && *rest != ':')
		return "Only a port can follow the host.";

	address->port = *rest == ':' ? rest + 1 : default_port;
	*rest = '\0';
	if (address->host[0] == '\0')
		return "The URL has no host.";
	if (strspn(address->port, "0123456789") != strlen(address->port) ||
		strlen(address->port) > 5 || atoi(address->port) < 1 ||
		atoi(address->port) > 65535)
		return "The port must be a number from 1 to 65535.";
	return NULL;
}

/*
 * Take a URL apart; returns the problem, or NULL.  If the problem is that it
 * has a user or a password, *has_user is set.
 */
const char *
address_parse(const char *url, const AddressScheme *schemes, Address *address,
			  bool *has_user)
{
	const AddressScheme *scheme = schemes;
	char	   *authority;
	char	   *path;
	const char *problem;

	for (const char *p = url; *p != '\0'; p++)
	{
		if ((unsigned char) *p <= ' ' || (unsigned char) *p >= 0x7f)
			return "It must not contain spaces, control characters or anything but ASCII.";
	}
	while (scheme->name &&
		   pg_strncasecmp(url, scheme->name, strlen(scheme->name)) != 0)
		scheme++;
	if (scheme->name == NULL)
		return "Its scheme is not known here.";

	authority = pstrdup(url + strlen(scheme->name));
	if (strpbrk(authority, "?#") != NULL)
		return "It must not have a query or a fragment.";
	path = strchr(authority, '/');
	if (path != NULL)
		*path++ = '\0';
	if (strchr(authority, '@') != NULL)
	{
		*has_user = true;
		return "The URL must not contain a user name or a password.";
	}
	problem = parse_host(authority, scheme->default_port, address);
	if (problem != NULL)
		return problem;
	if (path != NULL && !decode_percent(path))
		return "A percent sign must have two hexadecimal digits behind it, other than 00.";
	address->path = path;
	address->tls = scheme->tls;
	return NULL;
}
