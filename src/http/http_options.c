/*-------------------------------------------------------------------------
 *
 * http_options.c
 *		What all requests of a configuration have alike.
 *
 * Options are copied once, for as long as there are requests that were made with
 * them, and an easy handle of libcurl is told them once, when it is made.
 *
 * Errors.  The functions throw if libcurl refuses an option or there is no
 * memory.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "http/http_internal.h"

#define HTTP_USER_AGENT "outbox/" OUTBOX_VERSION " (PostgreSQL)"

/* How long the addresses of a name are taken for true. */
#define NAME_CACHED_SECONDS 10L

/* Options about what may be talked to and how; the same for all requests. */
static void
set_policy(CURL *easy)
{
#if LIBCURL_VERSION_NUM >= 0x075500
	CHECK_SETOPT(easy, CURLOPT_PROTOCOLS_STR, "http,https");
#else
	CHECK_SETOPT(easy, CURLOPT_PROTOCOLS,
				 (long) (CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
#if LIBCURL_VERSION_NUM >= 0x075700
	/* do not wait for a thread that resolves a name */
	CHECK_SETOPT(easy, CURLOPT_QUICK_EXIT, 1L);
#endif
	CHECK_SETOPT(easy, CURLOPT_NOSIGNAL, 1L);

	/* events and secret headers go nowhere but to the server that was set */
	CHECK_SETOPT(easy, CURLOPT_FOLLOWLOCATION, 0L);
	CHECK_SETOPT(easy, CURLOPT_PATH_AS_IS, 1L);
	CHECK_SETOPT(easy, CURLOPT_HTTP_VERSION, (long) CURL_HTTP_VERSION_1_1);
	CHECK_SETOPT(easy, CURLOPT_SSL_VERIFYPEER, 1L);
	CHECK_SETOPT(easy, CURLOPT_SSL_VERIFYHOST, 2L);
	CHECK_SETOPT(easy, CURLOPT_SSLVERSION, (long) CURL_SSLVERSION_TLSv1_2);
	CHECK_SETOPT(easy, CURLOPT_USERAGENT, HTTP_USER_AGENT);
}

/*
 * Trust these authorities and no others; libcurl has a directory of the system's.
 * The file may be replaced.
 */
static void
set_authorities(CURL *easy, const char *ca_file)
{
	CHECK_SETOPT(easy, CURLOPT_CAINFO, ca_file);
	CHECK_SETOPT(easy, CURLOPT_CAPATH, NULL);
	CHECK_SETOPT(easy, CURLOPT_PROXY_CAINFO, ca_file);
	CHECK_SETOPT(easy, CURLOPT_PROXY_CAPATH, NULL);
#if LIBCURL_VERSION_NUM >= 0x075700
	CHECK_SETOPT(easy, CURLOPT_CA_CACHE_TIMEOUT, 0L);
#endif
}

/* Go through the proxy of the options or none, whatever the environment says. */
static void
set_proxy(CURL *easy, const HttpOptions *options)
{
	if (options->proxy == NULL)
	{
		CHECK_SETOPT(easy, CURLOPT_PROXY, "");
		CHECK_SETOPT(easy, CURLOPT_NOPROXY, "*");
		return;
	}
	CHECK_SETOPT(easy, CURLOPT_PROXY, options->proxy);
	CHECK_SETOPT(easy, CURLOPT_NOPROXY, "");

	/* what it says of a tunnel is no part of the server's answer */
	CHECK_SETOPT(easy, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
	if (options->proxy_user != NULL)
	{
		CHECK_SETOPT(easy, CURLOPT_PROXYAUTH, (long) CURLAUTH_BASIC);
		CHECK_SETOPT(easy, CURLOPT_PROXYUSERNAME, options->proxy_user);
		CHECK_SETOPT(easy, CURLOPT_PROXYPASSWORD, options->proxy_password);
	}
}

/* Give libcurl a text in place of a file; it is not copied. */
static void
set_blob(CURL *easy, CURLoption option, const char *text)
{
	struct curl_blob blob = {
		.data = unconstify(char *, text),
		.len = strlen(text),
		.flags = CURL_BLOB_NOCOPY
	};

	CHECK_SETOPT(easy, option, &blob);
}

/* Have an easy handle follow the options, which last as long as it does. */
void
http_options_apply(CURL *easy, const HttpOptions *options)
{
	set_policy(easy);

	/*
	 * libcurl divides it among a host's addresses, which is why it is left to
	 * libcurl.  The time of the whole request is not: libcurl would look at
	 * the clock before it reads an answer that is there.
	 */
	CHECK_SETOPT(easy, CURLOPT_CONNECTTIMEOUT_MS,
				 (long) options->connect_timeout);

	/* so a name that has moved is followed, also while somebody answers */
	CHECK_SETOPT(easy, CURLOPT_MAXLIFETIME_CONN, (long) options->connection_age);
	CHECK_SETOPT(easy, CURLOPT_DNS_CACHE_TIMEOUT, NAME_CACHED_SECONDS);
	if (options->unix_socket != NULL)
		CHECK_SETOPT(easy, CURLOPT_UNIX_SOCKET_PATH, options->unix_socket);
	if (options->ca_file != NULL)
		set_authorities(easy, options->ca_file);
	set_proxy(easy, options);
	if (options->tls_cert != NULL)
	{
		/* "options" outlive the handle */
		set_blob(easy, CURLOPT_SSLCERT_BLOB, options->tls_cert);
		set_blob(easy, CURLOPT_SSLKEY_BLOB, options->tls_key);
	}

	/* without one, OpenSSL would ask a terminal for it */
	CHECK_SETOPT(easy, CURLOPT_KEYPASSWD, options->tls_key_password ?
				 options->tls_key_password : "");
}

/* A list node in front of "next", in the current memory context. */
struct curl_slist *
http_options_prepend_header(struct curl_slist *next, char *line)
{
	struct curl_slist *header = palloc(sizeof(struct curl_slist));

	header->data = line;
	header->next = next;
	return header;
}

/* A copy of a text or of NULL, in the current memory context. */
static const char *
copy_text(const char *text)
{
	return text ? pstrdup(text) : NULL;
}

/* A copy of secrets, in the current memory context. */
static const char *const *
copy_secrets(const char *const *secrets, int n)
{
	const char **copies = palloc(sizeof(char *) * Max(n, 1));

	for (int i = 0; i < n; i++)
		copies[i] = pstrdup(secrets[i]);
	return copies;
}

/*
 * A copy of the options, in a context of its own below "parent", which whoever
 * frees it deletes.
 */
HttpConfig *
http_options_copy(MemoryContext parent, const HttpOptions *options)
{
	MemoryContext context = AllocSetContextCreate(parent,
												  "outbox HTTP options",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	HttpConfig *config = palloc0(sizeof(HttpConfig));

	config->context = context;
	config->options = *options;
	config->options.unix_socket = copy_text(options->unix_socket);
	config->options.ca_file = copy_text(options->ca_file);
	config->options.proxy = copy_text(options->proxy);
	config->options.proxy_user = copy_text(options->proxy_user);
	config->options.proxy_password = copy_text(options->proxy_password);
	config->options.tls_cert = copy_text(options->tls_cert);
	config->options.tls_key = copy_text(options->tls_key);
	config->options.tls_key_password = copy_text(options->tls_key_password);
	config->networks = http_address_read_list(options->allowed_addresses,
											  &config->nnetworks);
	config->options.allowed_addresses = NULL;	/* these are they */
	config->options.secrets = copy_secrets(options->secrets,
										   options->nsecrets);

	/* an empty Expect keeps libcurl from waiting for "100 Continue" */
	config->headers = http_options_prepend_header(NULL, pstrdup("Expect:"));
	config->no_headers = config->headers;
	for (int i = options->nheaders - 1; i >= 0; i--)
		config->headers = http_options_prepend_header(config->headers,
													  pstrdup(options->headers[i]));
	MemoryContextSwitchTo(old);
	return config;
}
