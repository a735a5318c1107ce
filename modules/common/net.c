/*-------------------------------------------------------------------------
 *
 * net.c
 *		A connection to a broker that never waits, with or without TLS.
 *
 * A connection goes from one state to the next whenever its descriptor is
 * ready or its time is up:
 *
 *	closed -> resolving -> connecting -> handshake -> open -> closed
 *
 * A host's addresses are tried one after the other, each for its share of the
 * time that is left.  A name that is being looked up when that time is over
 * goes on being looked up, for the next connection, so that there is never more
 * than one thread for it.
 *
 * Errors are answers, with the reason in the connection, and close it; only
 * net_create() throws, out of memory.  OpenSSL's queue of errors is empty
 * before each of its calls, as SSL_get_error() wants it.
 *
 * What is waited for is at most one descriptor, which is known to the server's
 * account of open files.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/x509_vfy.h>
#include <sys/socket.h>
#include <unistd.h>

#include "storage/fd.h"
#include "storage/latch.h"

#include "common/net.h"
#include "common/resolver.h"
#include "lib/clock.h"
#include "lib/text.h"

typedef enum NetState
{
	NET_CLOSED,
	NET_RESOLVING,
	NET_CONNECTING,
	NET_HANDSHAKE,
	NET_OPEN
} NetState;

struct NetConnection
{
	NetState	state;
	Resolver   *resolver;		/* of the host that was connected to last */
	const struct addrinfo *address; /* the one that is tried; the resolver's */
	int			fd;				/* -1: none */
	uint32		generation;		/* of its descriptor */
	int64		deadline;		/* until it has to be open, in clock_ms() */
	int64		address_deadline;	/* until this address has answered */
	SSL_CTX    *tls;			/* until there is a session, with a reference
								 * of ours; NULL: without */
	SSL		   *session;
	char		host[NI_MAXHOST];
	bool		open_already;	/* when net_connect() returned; net_advance()
								 * was not called since */
	bool		tls_wants_write;	/* OpenSSL cannot go on before it has
									 * written */
	char		error[OUTBOX_ERROR_SIZE];
};

/* Of the latest descriptor, whatever connection it is of. */
static uint32 last_generation = 0;

NetConnection *
net_create(MemoryContext context)
{
	NetConnection *net = MemoryContextAllocZero(context, sizeof(NetConnection));

	net->fd = -1;
	return net;
}

static void
close_socket(NetConnection *net)
{
	SSL_free(net->session);
	net->session = NULL;
	net->tls_wants_write = false;
	if (net->fd < 0)
		return;
	close(net->fd);
	ReleaseExternalFD();
	net->fd = -1;
}

/* Why it was closed: the last reason, one line. */
const char *
net_error(const NetConnection *net)
{
	return net->error;
}

/* End it, whatever it is doing. */
void
net_close(NetConnection *net)
{
	close_socket(net);
	SSL_CTX_free(net->tls);
	net->tls = NULL;
	net->state = NET_CLOSED;

	/* an answer counts once: the next one may be another */
	net->address = NULL;
	if (net->resolver && resolver_is_done(net->resolver))
	{
		resolver_free(net->resolver);
		net->resolver = NULL;
	}
}

/* The same, for good. */
void
net_destroy(NetConnection *net)
{
	net_close(net);
	if (net->resolver)
		resolver_free(net->resolver);
	net->resolver = NULL;
}

static bool net_fail(NetConnection *net, const char *format,...) pg_attribute_printf(2, 3);

/* Close it for this reason; false, for the caller to return. */
static bool
net_fail(NetConnection *net, const char *format,...)
{
	va_list		args;

	va_start(args, format);
	vsnprintf(net->error, sizeof(net->error), format, args);
	va_end(args);
	net_close(net);
	return false;
}

bool
net_is_open(const NetConnection *net)
{
	return net->state == NET_OPEN;
}

bool
net_is_closed(const NetConnection *net)
{
	return net->state == NET_CLOSED;
}

/* How many addresses there are from this one on. */
static int
count_addresses(const struct addrinfo *address)
{
	int			n = 0;

	for (; address; address = address->ai_next)
		n++;
	return n;
}

/* A socket that is connecting to net->address; -1, and errno. */
static int
open_socket(NetConnection *net)
{
	const struct addrinfo *address = net->address;
	int			one = 1;
	int			fd;

	if (!AcquireExternalFD())
		return -1;
	fd = socket(address->ai_family, address->ai_socktype,
				address->ai_protocol);
	if (fd >= 0 && fcntl(fd, F_SETFD, FD_CLOEXEC) == 0 && pg_set_noblock(fd) &&
		(address->ai_family == AF_UNIX ||
		 setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) == 0) &&
		(connect(fd, address->ai_addr, address->ai_addrlen) == 0 ||
		 errno == EINPROGRESS))
		return fd;
	if (fd >= 0)
	{
		int			save_errno = errno;

		close(fd);
		errno = save_errno;
	}
	ReleaseExternalFD();
	return -1;
}

/*
 * Connect to net->address or, as long as that fails at once, one behind it.
 * "error" is why the last one failed.
 */
static bool
connect_address(NetConnection *net, int error)
{
	for (; net->address; net->address = net->address->ai_next)
	{
		int64		now = clock_ms();

		net->fd = open_socket(net);
		if (net->fd >= 0)
		{
			net->generation = ++last_generation;
			net->address_deadline = now +
				Max(net->deadline - now, 0) / count_addresses(net->address);
			net->state = NET_CONNECTING;
			return true;
		}
		error = errno;
	}
	return net_fail(net, "could not connect to \"%s\": %s", net->host,
					strerror(error));
}

/* The address did not work: the next one, if there is one. */
static bool
connect_next_address(NetConnection *net, int error)
{
	close_socket(net);
	net->address = net->address->ai_next;
	return connect_address(net, error);
}

static bool
advance_resolving(NetConnection *net)
{
	const char *error = NULL;

	if (!resolver_is_done(net->resolver))
		return true;
	net->address = resolver_addresses(net->resolver, &error);
	if (net->address == NULL)
		return net_fail(net, "could not resolve \"%s\": %s", net->host, error);
	return connect_address(net, 0);
}

/* Begin TLS on a socket that is connected, with net->tls, which is used up. */
static bool
begin_tls(NetConnection *net)
{
	net->session = tls_session_create(net->tls, net->host);
	SSL_CTX_free(net->tls);
	net->tls = NULL;
	if (net->session == NULL || SSL_set_fd(net->session, net->fd) != 1)
		return net_fail(net, "could not begin TLS: %s", tls_last_error());
	net->state = NET_HANDSHAKE;
	return true;
}

/* Has the socket become one that is connected, or has its time passed? */
static bool
advance_connecting(NetConnection *net)
{
	struct sockaddr_storage peer;
	socklen_t	peer_len = sizeof(peer);
	int			error = 0;
	socklen_t	len = sizeof(error);

	if (getsockopt(net->fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
		error = errno;
	if (error != 0)
		return connect_next_address(net, error);
	if (getpeername(net->fd, (struct sockaddr *) &peer, &peer_len) < 0)
	{
		if (clock_ms() >= net->address_deadline)
			return connect_next_address(net, ETIMEDOUT);
		return true;
	}

	resolver_free(net->resolver);
	net->resolver = NULL;
	net->address = NULL;
	net->state = NET_OPEN;
	return net->tls ? begin_tls(net) : true;
}

/*
 * OpenSSL returned "rc".  True: it goes on when the socket is ready.  False: the
 * connection is closed.
 */
static bool
tls_goes_on(NetConnection *net, int rc, const char *what)
{
	int			error = SSL_get_error(net->session, rc);
	long		verified = SSL_get_verify_result(net->session);

	net->tls_wants_write = error == SSL_ERROR_WANT_WRITE;
	if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE)
		return true;
	if (net->state == NET_HANDSHAKE && verified != X509_V_OK)
		return net_fail(net, "%s with \"%s\" failed: %s", what, net->host,
						X509_verify_cert_error_string(verified));
	if (ERR_peek_last_error() != 0)
		return net_fail(net, "%s with \"%s\" failed: %s", what, net->host,
						tls_last_error());
	return net_fail(net, "\"%s\" closed the connection", net->host);
}

static bool
advance_handshake(NetConnection *net)
{
	int			rc;

	ERR_clear_error();
	rc = SSL_connect(net->session);
	if (rc != 1)
		return tls_goes_on(net, rc, "TLS handshake");
	net->tls_wants_write = false;
	net->state = NET_OPEN;
	return true;
}

/*
 * Begin to connect, which is over after "timeout_ms"; with TLS unless "tls" is
 * NULL.  False if that fails at once; net_error() tells why.
 */
bool
net_connect(NetConnection *net, const Address *address, SSL_CTX *tls,
			int timeout_ms)
{
	Assert(net_is_closed(net));
	strlcpy(net->host, address->host, sizeof(net->host));
	if (tls)
		SSL_CTX_up_ref(tls);
	net->tls = tls;
	net->deadline = clock_ms() + timeout_ms;

	/* one that an earlier connection has not waited for is as good */
	if (net->resolver &&
		!resolver_is_for(net->resolver, address->host, address->port))
	{
		resolver_free(net->resolver);
		net->resolver = NULL;
	}
	if (net->resolver == NULL)
		net->resolver = resolver_start(address->host, address->port);
	if (net->resolver == NULL)
		return net_fail(net, "could not resolve \"%s\": %s", net->host,
						strerror(errno));
	net->generation = ++last_generation;
	net->state = NET_RESOLVING;
	if (!net_advance(net))
		return false;
	net->open_already = net->state == NET_OPEN;
	return true;
}

/*
 * Go on with TLS, of one that is open without, where the broker speaks first: it
 * is open again after the handshake.  False if that fails at once; net_error()
 * tells why.
 */
bool
net_start_tls(NetConnection *net, SSL_CTX *tls)
{
	Assert(net_is_open(net) && net->session == NULL);
	SSL_CTX_up_ref(tls);
	net->tls = tls;
	return begin_tls(net) && net_advance(net);
}

/*
 * Go on as far as that is possible now: when the descriptor is ready, or the
 * time is up.  False if it is closed; net_error() tells why.
 */
bool
net_advance(NetConnection *net)
{
	net->open_already = false;
	if (net->state == NET_RESOLVING && !advance_resolving(net))
		return false;
	if (net->state == NET_CONNECTING && !advance_connecting(net))
		return false;
	if (net->state == NET_HANDSHAKE && !advance_handshake(net))
		return false;
	if (net->state == NET_CLOSED)
		return false;
	if (net->state != NET_OPEN && clock_ms() >= net->deadline)
		return net_fail(net, net->state == NET_RESOLVING ?
						"timed out resolving \"%s\"" :
						"timed out connecting to \"%s\"", net->host);
	return true;
}

/*
 * Read what is there, of one that is open: how many bytes; 0: nothing now; -1:
 * it is closed, and net_error() tells why.
 */
ssize_t
net_read(NetConnection *net, void *buf, Size size)
{
	ssize_t		len;

	if (net->session)
	{
		ERR_clear_error();
		len = SSL_read(net->session, buf, Min(size, INT_MAX));
		if (len > 0)
			return len;
		return tls_goes_on(net, (int) len, "TLS") ? 0 : -1;
	}
	len = recv(net->fd, buf, size, 0);
	if (len > 0)
		return len;
	if (len == 0)
		net_fail(net, "\"%s\" closed the connection", net->host);
	else if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)
		return 0;
	else
		net_fail(net, "could not receive from \"%s\": %s", net->host,
				 strerror(errno));
	return -1;
}

/* Write what there is room for, of one that is open: as net_read(). */
ssize_t
net_write(NetConnection *net, const void *buf, Size size)
{
	ssize_t		len;

	if (net->session)
	{
		ERR_clear_error();
		len = SSL_write(net->session, buf, Min(size, INT_MAX));
		if (len > 0)
			return len;
		return tls_goes_on(net, (int) len, "TLS") ? 0 : -1;
	}
	len = send(net->fd, buf, size, MSG_NOSIGNAL);
	if (len >= 0)
		return len;
	if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)
		return 0;
	net_fail(net, "could not send to \"%s\": %s", net->host, strerror(errno));
	return -1;
}

/*
 * What to wait for: fills *socket in and returns 1, or returns 0.  "to_write"
 * says whether somebody has something to write.  *deadline, in clock_ms(),
 * becomes earlier if net_advance() has to be called by then.
 */
int
net_wait_for(NetConnection *net, bool to_write, OutboxSocket *socket,
			 int64 *deadline)
{
	/* nothing in it may differ without a reason, not even padding */
	memset(socket, 0, sizeof(*socket));
	socket->fd = net->fd;
	socket->events = WL_SOCKET_READABLE;
	socket->generation = net->generation;
	switch (net->state)
	{
		case NET_CLOSED:
			return 0;
		case NET_RESOLVING:
			socket->fd = resolver_fd(net->resolver);
			*deadline = Min(*deadline, net->deadline);
			break;
		case NET_CONNECTING:
			socket->events = WL_SOCKET_WRITEABLE;
			*deadline = Min(*deadline, net->address_deadline);
			break;
		case NET_HANDSHAKE:
			if (net->tls_wants_write)
				socket->events = WL_SOCKET_WRITEABLE;
			*deadline = Min(*deadline, net->deadline);
			break;
		case NET_OPEN:
			if (to_write || net->tls_wants_write)
				socket->events |= WL_SOCKET_WRITEABLE;

			/* the broker may wait for us to speak first, as we would for it */
			if (net->open_already)
				*deadline = 0;

			/* no socket becomes ready for what OpenSSL has read already */
			if (net->session && SSL_pending(net->session) > 0)
				*deadline = 0;
			break;
	}
	return 1;
}
