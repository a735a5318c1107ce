/*-------------------------------------------------------------------------
 *
 * resolver.c
 *		From a host's name to its addresses, without waiting.
 *
 * getaddrinfo() waits for name servers, for as long as the system's settings
 * say, and cannot be ended.  So it runs in a thread, which is detached and
 * wakes the relay by a pipe.  Whoever is the last to need the struct, the
 * thread or the relay, frees it.  An address needs no thread.
 *
 * The thread has all signals blocked, calls nothing of the server, and touches
 * nothing but its struct, under the lock in it.  The struct and what it points
 * to are malloc()ed.
 *
 * Errors: a resolver that cannot be made is NULL, with errno; nothing throws.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/resolver.h"

struct Resolver
{
	char	   *host;
	char	   *port;
	int			pipe[2];		/* readable when done */

	pthread_mutex_t lock;		/* for what follows */
	bool		done;			/* getaddrinfo() has returned */
	bool		unwanted;		/* the relay does not wait any more */
	int			error;			/* of getaddrinfo() */
	struct addrinfo *addresses;
	struct sockaddr_un path;	/* where "addresses" is path_address */
	struct addrinfo path_address;
};

static void
destroy_resolver(Resolver *resolver)
{
	if (resolver->addresses && resolver->addresses != &resolver->path_address)
		freeaddrinfo(resolver->addresses);
	if (resolver->pipe[0] >= 0)
		close(resolver->pipe[0]);
	if (resolver->pipe[1] >= 0)
		close(resolver->pipe[1]);
	pthread_mutex_destroy(&resolver->lock);
	free(resolver->host);
	free(resolver->port);
	free(resolver);
}

/* getaddrinfo() for a stream, with these flags. */
static int
look_up(Resolver *resolver, int flags, struct addrinfo **addresses)
{
	struct addrinfo hints = {
		.ai_family = AF_UNSPEC,
		.ai_socktype = SOCK_STREAM,
		.ai_flags = AI_NUMERICSERV | flags
	};

	return getaddrinfo(resolver->host, resolver->port, &hints, addresses);
}

/* The address of a Unix-domain socket; false if its path is too long. */
static bool
look_up_path(Resolver *resolver)
{
	if (strlen(resolver->host) >= sizeof(resolver->path.sun_path))
		return false;
	resolver->path.sun_family = AF_UNIX;
	strcpy(resolver->path.sun_path, resolver->host);
	resolver->path_address.ai_family = AF_UNIX;
	resolver->path_address.ai_socktype = SOCK_STREAM;
	resolver->path_address.ai_addr = (struct sockaddr *) &resolver->path;
	resolver->path_address.ai_addrlen = sizeof(resolver->path);
	resolver->addresses = &resolver->path_address;
	return true;
}

/* The thread. */
static void *
look_up_in_thread(void *arg)
{
	Resolver   *resolver = arg;
	struct addrinfo *addresses = NULL;
	int			error = look_up(resolver, 0, &addresses);
	bool		unwanted;
	ssize_t		written pg_attribute_unused();

	pthread_mutex_lock(&resolver->lock);
	resolver->error = error;
	resolver->addresses = addresses;
	resolver->done = true;
	unwanted = resolver->unwanted;
	if (!unwanted)
		written = write(resolver->pipe[1], "", 1);
	pthread_mutex_unlock(&resolver->lock);

	/* from now on it belongs to the relay, unless that has left it to us */
	if (unwanted)
		destroy_resolver(resolver);
	return NULL;
}

/* Returns 0, or an error code. */
static int
start_thread(Resolver *resolver)
{
	pthread_t	thread;
	pthread_attr_t attributes;
	sigset_t	all;
	sigset_t	before;
	int			rc;

	rc = pthread_attr_init(&attributes);
	if (rc != 0)
		return rc;
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);

	/* the server's handlers are for the server's thread: this one inherits */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = pthread_create(&thread, &attributes, look_up_in_thread, resolver);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attributes);
	return rc;
}

/*
 * Begin to look up a host and a port; a host that begins with a slash is the
 * path of a Unix-domain socket, and its port says nothing.  NULL, and errno,
 * if there is not enough of something.
 */
Resolver *
resolver_start(const char *host, const char *port)
{
	Resolver   *resolver = calloc(1, sizeof(Resolver));
	int			rc;

	if (resolver == NULL)
		return NULL;
	resolver->pipe[0] = resolver->pipe[1] = -1;
	pthread_mutex_init(&resolver->lock, NULL);
	resolver->host = strdup(host);
	resolver->port = strdup(port);
	if (resolver->host == NULL || resolver->port == NULL)
		rc = ENOMEM;
	else if (host[0] == '/' && !look_up_path(resolver))
		rc = ENAMETOOLONG;
	else if (host[0] == '/' ||
			 look_up(resolver, AI_NUMERICHOST, &resolver->addresses) == 0)
	{
		resolver->done = true;
		return resolver;
	}
	else if (pipe(resolver->pipe) < 0)
		rc = errno;
	else
	{
		fcntl(resolver->pipe[0], F_SETFD, FD_CLOEXEC);
		fcntl(resolver->pipe[1], F_SETFD, FD_CLOEXEC);
		rc = start_thread(resolver);
		if (rc == 0)
			return resolver;
	}
	destroy_resolver(resolver);
	errno = rc;
	return NULL;
}

/* Was it started for this host and port? */
bool
resolver_is_for(const Resolver *resolver, const char *host, const char *port)
{
	return strcmp(resolver->host, host) == 0 &&
		strcmp(resolver->port, port) == 0;
}

/* Readable when it is done; -1 if there is nothing to wait for. */
int
resolver_fd(const Resolver *resolver)
{
	return resolver->pipe[0];
}

bool
resolver_is_done(Resolver *resolver)
{
	bool		done;

	pthread_mutex_lock(&resolver->lock);
	done = resolver->done;
	pthread_mutex_unlock(&resolver->lock);
	return done;
}

/*
 * The addresses of one that is done, which last as long as it does; NULL, and
 * the reason, if there are none.
 */
const struct addrinfo *
resolver_addresses(const Resolver *resolver, const char **error)
{
	if (resolver->error != 0)
		*error = gai_strerror(resolver->error);
	return resolver->error == 0 ? resolver->addresses : NULL;
}

/* Nobody waits for it any longer. */
void
resolver_free(Resolver *resolver)
{
	bool		done;

	pthread_mutex_lock(&resolver->lock);
	done = resolver->done;
	resolver->unwanted = true;
	pthread_mutex_unlock(&resolver->lock);
	if (done)
		destroy_resolver(resolver);
}
