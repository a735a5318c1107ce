/*-------------------------------------------------------------------------
 *
 * webhook_signature.c
 *		Signatures of requests, as Standard Webhooks has them.
 *
 * A request has the headers webhook-id, webhook-timestamp and webhook-signature.
 * The last is "v1," and the HMAC-SHA256 of "id.timestamp.body" in base64, one for
 * each secret, so that a secret can be rotated while receivers know only one of the
 * two.  The id is the event's, the same at each try; the time is that of the try.
 *
 * Memory.  HMAC is libcrypto's: pg_hmac_create() wants a resource owner, which the
 * callbacks of a publisher lack.  A secret's context is keyed once and duplicated
 * for each signature.  Such contexts are malloc'd; they go with the memory
 * context in which webhook_keys_read() was called, by a callback.
 *
 * Errors.  What is wrong with a file of secrets is an answer, which shows
 * nothing of it.  Errors are thrown out of memory, and if libcrypto fails.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <time.h>

#include "common/base64.h"

#include "lib/text.h"
#include "publish/http_answer.h"
#include "publish/webhook_signature.h"

#define SECRET_PREFIX	"whsec_"

/* Bytes of a secret, as the specification has them. */
#define SECRET_MIN		24
#define SECRET_MAX		64

#define HMAC_SIZE		32

/* Of a signature in base64 */
#define SIGNATURE_SIZE	44

struct WebhookKeys
{
	List	   *macs;			/* EVP_MAC_CTX *, keyed, in the file's order */
	time_t		time;			/* when something was signed last ... */
	char		timestamp[24];	/* ... as a text; empty: not yet */
	MemoryContextCallback cleanup;
};

/* Called for each secret. */
typedef void (*SecretCB) (void *arg, const uint8 *secret, int len);

/*
 * Decode a secret: "str" has "len" bytes.  How many bytes it has, -1 if it has
 * none that can be used; *problem then says why.
 */
static int
decode_secret(const char *str, Size len, uint8 *secret, const char **problem)
{
	const Size	prefix = strlen(SECRET_PREFIX);
	int			n;

	if (len < prefix || strncmp(str, SECRET_PREFIX, prefix) != 0)
	{
		*problem = "it does not begin with \"" SECRET_PREFIX "\"";
		return -1;
	}

	/*
	 * for want of room, pg_b64_decode() would say the same as of what is no
	 * base64
	 */
	n = len > 2 * SECRET_MAX ? SECRET_MAX + 1 :
		pg_b64_decode(str + prefix, len - prefix, (void *) secret, 2 * SECRET_MAX);
	if (n < 0)
		*problem = "what follows \"" SECRET_PREFIX "\" is not base64";
	else if (n < SECRET_MIN || n > SECRET_MAX)
	{
		*problem = "the secret does not have 24 to 64 bytes";
		n = -1;
	}
	return n;
}

/*
 * Have "found", unless NULL, called for each secret of a text, one a line.  Empty
 * lines are skipped.  NULL, or what is wrong: with the number of the line, in the
 * current memory context.
 */
static const char *
read_secrets(const char *text, const char *path, SecretCB found, void *arg)
{
	uint8		secret[2 * SECRET_MAX];
	const char *problem = NULL;
	const char *line;
	Size		len;
	int			nfound = 0;

	for (int number = 1; problem == NULL &&
		 (line = text_next_line(&text, &len)) != NULL; number++)
	{
		int			n;

		if (len == 0)
			continue;
		n = decode_secret(line, len, secret, &problem);
		if (n < 0)
			problem = psprintf("line %d of file \"%s\": %s", number, path, problem);
		else if (found != NULL)
			found(arg, secret, n);
		nfound++;
	}
	OPENSSL_cleanse(secret, sizeof(secret));
	if (nfound == 0)
		problem = psprintf("file \"%s\" contains no secret", path);
	return problem;
}

/* WatchedKind.problem */
static const char *
secrets_problem(const char *const *texts, const char *const *paths)
{
	return read_secrets(texts[0], paths[0], NULL, NULL);
}

static const WatchedKind secrets_kind = {
	.nfiles = 1,
	.problem = secrets_problem
};

static void
throw_libcrypto(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
			 errmsg("could not sign a request: libcrypto failed")));
}

/* MemoryContextCallbackFunction */
static void
free_macs(void *arg)
{
	WebhookKeys *keys = arg;
	ListCell   *lc;

	foreach(lc, keys->macs)
		EVP_MAC_CTX_free(lfirst(lc));
	keys->macs = NIL;
}

/* SecretCB: make a keyed context. */
static void
add_mac(void *arg, const uint8 *secret, int len)
{
	WebhookKeys *keys = arg;
	char		digest[] = "SHA256";
	OSSL_PARAM	params[] = {
		OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
		OSSL_PARAM_construct_end()
	};
	EVP_MAC    *hmac;
	EVP_MAC_CTX *mac;

	/* what may throw comes first */
	keys->macs = lappend(keys->macs, NULL);
	hmac = EVP_MAC_fetch(NULL, "HMAC", NULL);
	mac = hmac ? EVP_MAC_CTX_new(hmac) : NULL;
	EVP_MAC_free(hmac);			/* the context has it, too */
	llast(keys->macs) = mac;
	if (mac == NULL || EVP_MAC_init(mac, secret, len, params) != 1)
		throw_libcrypto();
}

/* A receiver has the same secrets, and may show them. */
static void
hide_secrets(HttpPublisher *publisher, const char *text)
{
	const char *line;
	Size		len;

	while ((line = text_next_line(&text, &len)) != NULL)
	{
		/* what fills it up may be left out */
		while (len > 0 && line[len - 1] == '=')
			len--;
		if (len > strlen(SECRET_PREFIX))
			http_answer_hide(publisher, pnstrdup(line + strlen(SECRET_PREFIX),
												 len - strlen(SECRET_PREFIX)));
	}
}

/*
 * The keys that a secret file holds, in the current memory context, with which what
 * libcrypto has of them goes.  False and a reason if the file cannot be used.  To be
 * called while the settings are read.
 */
bool
webhook_keys_read(HttpPublisher *publisher, const char *path,
				  WebhookKeys **keys, const char **reason)
{
	const char *text;

	if (!watched_files_read(publisher->files, &secrets_kind, &path, &text, reason))
		return false;
	hide_secrets(publisher, text);
	*keys = palloc0(sizeof(WebhookKeys));
	(*keys)->cleanup.func = free_macs;
	(*keys)->cleanup.arg = *keys;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &(*keys)->cleanup);
	(void) read_secrets(text, path, add_mac, *keys);
	return true;
}

/*
 * An id for a request with several messages: a UUID (version 8) made of theirs in
 * their order.  The same events have the same one at each try, and others another
 * one: receivers drop an id that they know.
 */
const char *
webhook_batch_id(const OutboxMessage *const *messages, int n)
{
	StringInfoData ids;
	uint8		hash[EVP_MAX_MD_SIZE];

	initStringInfo(&ids);
	for (int i = 0; i < n; i++)
		appendStringInfo(&ids, "%s\n", messages[i]->event_id);
	if (EVP_Digest(ids.data, ids.len, hash, NULL, EVP_sha256(), NULL) != 1)
		throw_libcrypto();
	hash[6] = (hash[6] & 0x0F) | 0x80;
	hash[8] = (hash[8] & 0x3F) | 0x80;
	return psprintf("%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
					hash[0], hash[1], hash[2], hash[3], hash[4], hash[5],
					hash[6], hash[7], hash[8], hash[9], hash[10], hash[11],
					hash[12], hash[13], hash[14], hash[15]);
}

/* The time as a text, which mostly is that of the last request. */
static const char *
timestamp_of(WebhookKeys *keys, time_t now)
{
	if (now != keys->time || keys->timestamp[0] == '\0')
		snprintf(keys->timestamp, sizeof(keys->timestamp), INT64_FORMAT,
				 (int64) now);
	keys->time = now;
	return keys->timestamp;
}

static bool
add_text(EVP_MAC_CTX *mac, const char *str)
{
	return EVP_MAC_update(mac, (const uint8 *) str, strlen(str)) == 1;
}

/* The HMAC of "id.timestamp.body"; false if libcrypto failed. */
static bool
compute_hmac(const EVP_MAC_CTX *keyed, const char *id, const char *timestamp,
			 const char *body, Size len, uint8 *hmac)
{
	EVP_MAC_CTX *mac = EVP_MAC_CTX_dup(keyed);
	size_t		size = 0;
	bool		ok;

	ok = mac != NULL &&
		add_text(mac, id) && add_text(mac, ".") &&
		add_text(mac, timestamp) && add_text(mac, ".") &&
		EVP_MAC_update(mac, (const uint8 *) body, len) == 1 &&
		EVP_MAC_final(mac, hmac, &size, HMAC_SIZE) == 1 && size == HMAC_SIZE;
	EVP_MAC_CTX_free(mac);
	return ok;
}

/*
 * Add the headers that sign a request, which is not started yet: for the bytes of
 * its body as they are sent, at this time.
 */
void
webhook_sign(WebhookKeys *keys, HttpRequest *request, const char *id,
			 const char *body, Size len)
{
	const char *timestamp = timestamp_of(keys, time(NULL));
	StringInfoData signatures;
	ListCell   *lc;

	initStringInfo(&signatures);
	foreach(lc, keys->macs)
	{
		uint8		hmac[HMAC_SIZE];
		char		base64[SIGNATURE_SIZE];
		int			n;

		if (!compute_hmac(lfirst(lc), id, timestamp, body, len, hmac))
			throw_libcrypto();
		n = pg_b64_encode((void *) hmac, HMAC_SIZE, base64, SIGNATURE_SIZE);
		Assert(n == SIGNATURE_SIZE);
		if (signatures.len > 0)
			appendStringInfoChar(&signatures, ' ');
		appendStringInfoString(&signatures, "v1,");
		appendBinaryStringInfo(&signatures, base64, n);
	}
	http_request_add_header(request, "webhook-id", id);
	http_request_add_header(request, "webhook-timestamp", timestamp);
	http_request_add_header(request, "webhook-signature", signatures.data);
}
