/*-------------------------------------------------------------------------
 *
 * http_address.c
 *		Which addresses may be connected to.
 *
 * A host's name is somebody else's to resolve, now in one way and now in another.
 * So it is the address that counts, of each socket before it is connected.  A kept
 * connection is looked at once more before it is used, because the list may be
 * another one by then.
 *
 * Memory.  A list is read into the current memory context.
 *
 * Errors.  None is thrown but out of memory, and none from what libcurl calls.  The
 * problem of a list is a constant sentence, fit for the detail of an error.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "libpq/ifaddr.h"

#include "http/http_address.h"

#define SEPARATORS ", "

/* Room for the longest network, "/128" included, and a NUL. */
#define NETWORK_SIZE (INET6_ADDRSTRLEN + 4)

/* Fill in an address without a port of what is written; false: it is none. */
static bool
read_address(const char *str, struct sockaddr_storage *address)
{
	int			family = strchr(str, ':') ? AF_INET6 : AF_INET;

	memset(address, 0, sizeof(*address));
	address->ss_family = family;
	return inet_pton(family, str, family == AF_INET ?
					 (void *) &((struct sockaddr_in *) address)->sin_addr :
					 (void *) &((struct sockaddr_in6 *) address)->sin6_addr) == 1;
}

/* An IPv4 address that is written as one of IPv6 is connected to by IPv4. */
static bool
is_mapped(const struct sockaddr_storage *address)
{
	return address->ss_family == AF_INET6 &&
		IN6_IS_ADDR_V4MAPPED(&((const struct sockaddr_in6 *) address)->sin6_addr);
}

/* Read an address with or without a number of bits behind it. */
static bool
read_network(const char *str, Size len, HttpNetwork *network)
{
	char		copy[NETWORK_SIZE];
	char	   *bits;

	if (len >= sizeof(copy))
		return false;
	memcpy(copy, str, len);
	copy[len] = '\0';
	bits = strchr(copy, '/');
	if (bits != NULL)
		*bits++ = '\0';

	/* no address would be found in a network of mapped ones */
	return read_address(copy, &network->address) &&
		!is_mapped(&network->address) &&
		pg_sockaddr_cidr_mask(&network->mask, bits,
							  network->address.ss_family) == 0;
}

/* Why this is not a list of networks, by commas or spaces; NULL: it is one. */
const char *
http_address_list_problem(const char *list)
{
	HttpNetwork network;

	for (list += strspn(list, SEPARATORS); *list != '\0';
		 list += strspn(list, SEPARATORS))
	{
		Size		len = strcspn(list, SEPARATORS);

		if (!read_network(list, len, &network))
			return "It must be a list of IP addresses or networks like 192.0.2.0/24 or 2001:db8::/32, separated by commas.";
		list += len;
	}
	return NULL;
}

/* The networks of a list that has no problem; NULL: there are none, "n" is 0. */
HttpNetwork *
http_address_read_list(const char *list, int *n)
{
	HttpNetwork *networks;

	*n = 0;
	if (list == NULL || http_address_list_problem(list) != NULL)
		return NULL;

	/* none is shorter than "::" */
	networks = palloc0((strlen(list) / 2 + 1) * sizeof(HttpNetwork));
	for (list += strspn(list, SEPARATORS); *list != '\0';
		 list += strspn(list, SEPARATORS))
	{
		Size		len = strcspn(list, SEPARATORS);

		(void) read_network(list, len, &networks[(*n)++]);
		list += len;
	}
	return networks;
}

/* Is the address in one of these networks? */
bool
http_address_is_in(const HttpNetwork *networks, int n,
				   const struct sockaddr_storage *address)
{
	struct sockaddr_storage plain = *address;

	if (is_mapped(address))
	{
		struct sockaddr_in *in = (struct sockaddr_in *) &plain;

		memset(&plain, 0, sizeof(plain));
		in->sin_family = AF_INET;
		memcpy(&in->sin_addr,
			   &((const struct sockaddr_in6 *) address)->sin6_addr.s6_addr[12],
			   sizeof(in->sin_addr));
	}
	for (int i = 0; i < n; i++)
	{
		if (networks[i].address.ss_family == plain.ss_family &&
			pg_range_sockaddr(&plain, &networks[i].address, &networks[i].mask))
			return true;
	}
	return false;
}

/* The same for an address in text form, as libcurl tells it. */
bool
http_address_text_is_in(const HttpNetwork *networks, int n, const char *str)
{
	struct sockaddr_storage address;

	return read_address(str, &address) &&
		http_address_is_in(networks, n, &address);
}

/* Is it an address of this machine, in text form, with or without brackets? */
bool
http_address_is_loopback(const char *str)
{
	char		copy[NETWORK_SIZE];
	int			n;
	HttpNetwork *networks = http_address_read_list("127.0.0.0/8, ::1", &n);

	strlcpy(copy, str + (*str == '['), sizeof(copy));
	copy[strcspn(copy, "]")] = '\0';
	return http_address_text_is_in(networks, n, copy);
}
