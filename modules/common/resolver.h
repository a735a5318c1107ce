/*-------------------------------------------------------------------------
 *
 * resolver.h
 *		From a host's name to its addresses, without waiting.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_RESOLVER_H
#define OUTBOX_RESOLVER_H

#include <netdb.h>

typedef struct Resolver Resolver;

extern Resolver *resolver_start(const char *host, const char *port);
extern bool resolver_is_for(const Resolver *resolver, const char *host,
							const char *port);
extern int	resolver_fd(const Resolver *resolver);
extern bool resolver_is_done(Resolver *resolver);
extern const struct addrinfo *resolver_addresses(const Resolver *resolver,
												 const char **error);
extern void resolver_free(Resolver *resolver);

#endif							/* OUTBOX_RESOLVER_H */
