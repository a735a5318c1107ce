/*-------------------------------------------------------------------------
 *
 * nats_login.h
 *		What a client says first: who it is, and where answers go.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NATS_LOGIN_H
#define NATS_LOGIN_H

#include "nats_credentials.h"
#include "nats_reply.h"

/* Who we are; what is NULL is not said. */
typedef struct NatsIdentity
{
	const char *user;
	const char *password;
	const NatsCredentials *credentials;
} NatsIdentity;

/* Where answers go, of one connection: a subject and the place for a number. */
#define NATS_INBOX_SIZE 64

extern bool nats_login_append(StringInfo out, const NatsIdentity *identity,
							  const NatsInfo *info, bool tls,
							  const char **reason);
extern bool nats_inbox_make(char *inbox);
extern const char *nats_inbox_subject(const char *inbox, uint64 number);
extern uint64 nats_inbox_number(const char *inbox, const NatsText *subject);

#endif							/* NATS_LOGIN_H */
