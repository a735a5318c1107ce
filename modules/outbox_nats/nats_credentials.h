/*-------------------------------------------------------------------------
 *
 * nats_credentials.h
 *		Who we are: a credentials file of NATS, and what is signed with it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NATS_CREDENTIALS_H
#define NATS_CREDENTIALS_H

/* Raw bytes of a seed and of a public key of Ed25519. */
#define NATS_KEY_SIZE 32

typedef struct NatsCredentials
{
	char	   *jwt;			/* palloc'd; NULL if there is a key only */
	unsigned char seed[NATS_KEY_SIZE];
} NatsCredentials;

extern bool nats_credentials_parse(const char *text,
								   NatsCredentials *credentials,
								   const char **reason);
extern char *nats_credentials_sign(const NatsCredentials *credentials,
								   const char *nonce);
extern char *nats_credentials_public_key(const NatsCredentials *credentials);

#endif							/* NATS_CREDENTIALS_H */
