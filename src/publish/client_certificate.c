/*-------------------------------------------------------------------------
 *
 * client_certificate.c
 *		Who we are, for servers that ask for a certificate.
 *
 * Certificate, key and the key's password are read together, and used only if they
 * belong together: while they are being replaced, one after the other, requests go
 * on with those of before (watched_file.c).  libcurl is given their texts, so that it
 * reads no file by itself, in which there might be something else by then.
 *
 * Memory.  What is made here is in the current memory context, which is to last
 * as long as the settings.
 *
 * Errors.  What is wrong with a file is an answer, which shows nothing of it.  Errors
 * are thrown as in secret_file.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include "guc.h"
#include "publish/client_certificate.h"

/* The files, in the order of their group */
enum
{
	CERT,
	KEY,
	PASSWORD,
	NFILES
};

static const char *
last_openssl_error(void)
{
	const char *reason = ERR_reason_error_string(ERR_get_error());

	return reason ? reason : "it is not in the PEM format";
}

/* The key's password: the only line of its file, or nothing. */
static char *
make_password(const char *text)
{
	return text ? pnstrdup(text, strcspn(text, "\r\n")) : pstrdup("");
}

/*
 * Why certificate and key cannot be used, without a word for what is NULL because it
 * was refused.
 */
static const char *
match_problem(X509 *cert, EVP_PKEY *key, const char *const *paths)
{
	if (cert == NULL)
		return psprintf("could not read a certificate from file \"%s\": %s",
						paths[CERT], last_openssl_error());
	if (key == NULL)
		return psprintf("could not read a private key from file \"%s\", %s: %s",
						paths[KEY], paths[PASSWORD][0] != '\0' ?
						psprintf("with the password in file \"%s\"", paths[PASSWORD]) :
						"without a password",
						last_openssl_error());
	if (X509_check_private_key(cert, key) != 1)
		return psprintf("the private key in file \"%s\" does not belong to the certificate in file \"%s\"",
						paths[KEY], paths[CERT]);
	return NULL;
}

/* WatchedKind.problem */
static const char *
certificate_problem(const char *const *texts, const char *const *paths)
{
	char	   *password = make_password(texts[PASSWORD]);
	const char *rest = texts[PASSWORD] ? texts[PASSWORD] + strlen(password) : "";
	const char *problem = NULL;
	BIO		   *cert_bio;
	BIO		   *key_bio;
	X509	   *cert;
	EVP_PKEY   *key;

	if (rest[strspn(rest, "\r\n")] != '\0')
		return psprintf("file \"%s\" has more than one line", paths[PASSWORD]);

	/*
	 * a password is always given, if only an empty one, or a terminal is
	 * asked
	 */
	ERR_clear_error();
	cert_bio = BIO_new_mem_buf(texts[CERT], -1);
	cert = cert_bio ? PEM_read_bio_X509(cert_bio, NULL, NULL, password) : NULL;
	key_bio = cert ? BIO_new_mem_buf(texts[KEY], -1) : NULL;
	key = key_bio ? PEM_read_bio_PrivateKey(key_bio, NULL, NULL, password) : NULL;

	/* nothing of OpenSSL's is left behind if there is no memory for the words */
	PG_TRY();
	{
		problem = match_problem(cert, key, paths);
	}
	PG_FINALLY();
	{
		EVP_PKEY_free(key);
		X509_free(cert);
		BIO_free(key_bio);
		BIO_free(cert_bio);
		ERR_clear_error();
		explicit_bzero(password, strlen(password));
	}
	PG_END_TRY();
	return problem;
}

static const WatchedKind certificate_kind = {
	.nfiles = NFILES,
	.is_public = {[CERT] = true},
	.problem = certificate_problem
};

/*
 * Fill in certificate, key and password of "options", if the settings name them.
 * False and a reason if they cannot be used.  To be called while the settings are
 * read.
 */
bool
client_certificate_read(HttpPublisher *publisher, HttpOptions *options,
						const char **reason)
{
	const char *const paths[] = {guc_tls_cert_file, guc_tls_key_file,
	guc_tls_key_password_file};
	const char *texts[WATCHED_MAX];

	if (paths[CERT][0] == '\0' && paths[KEY][0] == '\0')
		return true;
	if (paths[CERT][0] == '\0' || paths[KEY][0] == '\0')
	{
		*reason = "of outbox.tls_cert_file and outbox.tls_key_file only one is set";
		return false;
	}
	if (!watched_files_read(publisher->files, &certificate_kind, paths, texts,
							reason))
		return false;
	options->tls_cert = pstrdup(texts[CERT]);
	options->tls_key = pstrdup(texts[KEY]);
	options->tls_key_password = make_password(texts[PASSWORD]);
	return true;
}
