/*-------------------------------------------------------------------------
 *
 * outbox_test_resolver.c
 *		A name server that does not answer.
 *
 * In the processes that it is loaded into by LD_PRELOAD, names that end with
 * ".silent" are looked up until somebody ends the process.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <dlfcn.h>
#include <netdb.h>
#include <unistd.h>

#define SILENT ".silent"

int
getaddrinfo(const char *node, const char *service,
			const struct addrinfo *hints, struct addrinfo **res)
{
	int			(*next) (const char *, const char *, const struct addrinfo *,
						 struct addrinfo **);
	size_t		len = node ? strlen(node) : 0;

	/* what asks whether this is an address is not asking a server */
	if (!(hints && (hints->ai_flags & AI_NUMERICHOST)) &&
		len > strlen(SILENT) &&
		strcmp(node + len - strlen(SILENT), SILENT) == 0)
	{
		for (;;)
			pause();
	}
	next = dlsym(RTLD_NEXT, "getaddrinfo");
	return next(node, service, hints, res);
}
