/*-------------------------------------------------------------------------
 *
 * tls.c
 *		Whom to trust, and who we are: contexts of OpenSSL from files.
 *
 * A server's certificate is always verified, and has to be for the name that
 * the settings have.  A private key is a secret file (secret_file.c) without a
 * passphrase: nobody is there to be asked for one.
 *
 * Memory: OpenSSL's; the caller frees contexts and sessions.  A session keeps
 * its context.  Errors: what is wrong with a file is an answer; nothing is
 * thrown but out of memory, while nothing of OpenSSL's is held.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include "common/tls.h"
#include "lib/secret_file.h"

/* What OpenSSL complained of last, in static memory; its queue is empty then. */
const char *
tls_last_error(void)
{
	unsigned long code = ERR_peek_last_error();
	const char *reason = code != 0 ? ERR_reason_error_string(code) : NULL;

#if OPENSSL_VERSION_NUMBER >= 0x30000000L
	if (code != 0 && ERR_SYSTEM_ERROR(code))
		reason = strerror(ERR_GET_REASON(code));
#endif
	ERR_clear_error();
	return reason ? reason : "no reason given";
}

/* Instead of OpenSSL's own, which would ask at the terminal. */
static int
give_no_passphrase(char *buf, int size, int rwflag, void *arg)
{
	return 0;
}

/* Have the context use the key in this PEM text, which is then forgotten. */
static bool
use_key(SSL_CTX *context, char *pem)
{
	BIO		   *bio = BIO_new_mem_buf(pem, -1);
	EVP_PKEY   *key = bio ? PEM_read_bio_PrivateKey(bio, NULL,
													give_no_passphrase, NULL) :
	NULL;
	bool		ok = key && SSL_CTX_use_PrivateKey(context, key) == 1;

	EVP_PKEY_free(key);
	BIO_free(bio);
	OPENSSL_cleanse(pem, strlen(pem));
	return ok;
}

/* Which file OpenSSL does not like; NULL: it has taken all of them. */
static const char *
load_files(SSL_CTX *context, const TlsFiles *files, char *key)
{
	if (files->ca_file && files->ca_file[0])
	{
		if (SSL_CTX_load_verify_locations(context, files->ca_file, NULL) != 1)
			return files->ca_file;
	}
	else if (SSL_CTX_set_default_verify_paths(context) != 1)
		return "the system's certificate authorities";
	if (files->cert_file && files->cert_file[0] &&
		SSL_CTX_use_certificate_chain_file(context, files->cert_file) != 1)
		return files->cert_file;
	if (key && (!use_key(context, key) ||
				SSL_CTX_check_private_key(context) != 1))
		return files->key_file;
	return NULL;
}

/*
 * A context with what these files hold, to be freed by SSL_CTX_free(); NULL,
 * and the reason, if one of them is of no use.
 */
SSL_CTX *
tls_context_create(const TlsFiles *files, const char **reason)
{
	SSL_CTX    *context;
	const char *refused;
	char	   *key = NULL;

	/* what may throw comes first */
	if (files->key_file && files->key_file[0] &&
		!secret_file_read(files->key_file, &key, reason))
		return NULL;
	ERR_clear_error();
	context = SSL_CTX_new(TLS_client_method());
	if (context == NULL)
	{
		*reason = tls_last_error();
		return NULL;
	}
	SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
	SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION);
	SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE |
					 SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
	refused = load_files(context, files, key);
	if (refused == NULL)
		return context;
	SSL_CTX_free(context);
	*reason = psprintf("could not use \"%s\" for TLS: %s", refused,
					   tls_last_error());
	return NULL;
}

/* Only a certificate for this host, a name or an address, will do. */
static bool
expect_host(SSL *session, const char *host)
{
	unsigned char binary[sizeof(struct in6_addr)];

	if (inet_pton(AF_INET, host, binary) == 1 ||
		inet_pton(AF_INET6, host, binary) == 1)
		return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(session), host) == 1;
	SSL_set_hostflags(session, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
	return SSL_set1_host(session, host) == 1 &&
		SSL_set_tlsext_host_name(session, host) == 1;
}

/*
 * A session with this host, to be freed by SSL_free(); NULL if there is no
 * memory for it.
 */
SSL *
tls_session_create(SSL_CTX *context, const char *host)
{
	SSL		   *session = SSL_new(context);

	if (session && !expect_host(session, host))
	{
		SSL_free(session);
		session = NULL;
	}
	return session;
}
