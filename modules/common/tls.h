/*-------------------------------------------------------------------------
 *
 * tls.h
 *		Whom to trust, and who we are: contexts of OpenSSL from files.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_TLS_H
#define OUTBOX_TLS_H

#include <openssl/ssl.h>

/* Names of files; NULL or empty: none. */
typedef struct TlsFiles
{
	const char *ca_file;		/* none: the system's authorities */
	const char *cert_file;
	const char *key_file;
} TlsFiles;

extern SSL_CTX *tls_context_create(const TlsFiles *files, const char **reason);
extern SSL *tls_session_create(SSL_CTX *context, const char *host);
extern const char *tls_last_error(void);

#endif							/* OUTBOX_TLS_H */
