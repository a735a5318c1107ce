/*-------------------------------------------------------------------------
 *
 * nats_login.c
 *		What a client says first: who it is, and where answers go.
 *
 * CONNECT is one line of JSON.  Answers of JetStream go to a subject that each
 * message names; all of ours begin with the inbox of the connection, which has
 * enough random digits that nobody else can guess it, and end with the number
 * of the message.
 *
 * No state.  Allocates in the current memory context; errors are reasons.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/json_text.h"
#include "nats_login.h"

#define INBOX_PREFIX "_INBOX."
#define INBOX_RANDOM_BYTES 16

/* A member of the object, unless it has no value. */
static void
append_member(StringInfo out, const char *name, const char *value)
{
	if (value == NULL)
		return;
	appendStringInfo(out, ",\"%s\":", name);
	json_append_string(out, value, strlen(value));
}

/* Sign the server's nonce; false and a reason if that is not possible. */
static bool
append_signature(StringInfo out, const NatsCredentials *credentials,
				 const NatsInfo *info, const char **reason)
{
	const char *signature;

	if (info->nonce[0] == '\0')
	{
		*reason = "the server does not ask for a signature, which is all that a credentials file is for";
		return false;
	}
	signature = nats_credentials_sign(credentials, info->nonce);
	if (signature == NULL)
	{
		*reason = "could not sign with the key of the credentials file";
		return false;
	}
	append_member(out, "sig", signature);
	append_member(out, "jwt", credentials->jwt);
	if (credentials->jwt == NULL)
		append_member(out, "nkey", nats_credentials_public_key(credentials));
	return true;
}

/* Append CONNECT; false and a reason if we cannot say who we are. */
bool
nats_login_append(StringInfo out, const NatsIdentity *identity,
				  const NatsInfo *info, bool tls, const char **reason)
{
	appendStringInfo(out, "CONNECT {\"verbose\":false,\"pedantic\":false,"
					 "\"tls_required\":%s,\"headers\":true,"
					 "\"no_responders\":true,\"protocol\":1,\"lang\":\"c\","
					 "\"name\":\"outbox\",\"version\":\"1.0\"",
					 tls ? "true" : "false");
	append_member(out, "user", identity->user);
	append_member(out, "pass", identity->password);
	if (identity->credentials != NULL &&
		!append_signature(out, identity->credentials, info, reason))
		return false;
	appendStringInfoString(out, "}\r\n");
	return true;
}

/* Make an inbox in NATS_INBOX_SIZE bytes; false if there is nothing random. */
bool
nats_inbox_make(char *inbox)
{
	unsigned char bytes[INBOX_RANDOM_BYTES];
	char	   *p = inbox + strlen(INBOX_PREFIX);

	if (!pg_strong_random(bytes, sizeof(bytes)))
		return false;
	strcpy(inbox, INBOX_PREFIX);
	for (int i = 0; i < INBOX_RANDOM_BYTES; i++, p += 2)
		sprintf(p, "%02x", bytes[i]);
	strcpy(p, ".");
	return true;
}

/* The subject for the answer to a message of this number. */
const char *
nats_inbox_subject(const char *inbox, uint64 number)
{
	return psprintf("%s" UINT64_FORMAT, inbox, number);
}

/* The number of the message that is answered; 0: this is no subject of ours. */
uint64
nats_inbox_number(const char *inbox, const NatsText *subject)
{
	Size		len = strlen(inbox);
	uint64		number = 0;

	if (subject->len <= len || memcmp(subject->data, inbox, len) != 0)
		return 0;
	for (Size i = len; i < subject->len; i++)
	{
		char		c = subject->data[i];

		if (c < '0' || c > '9' || number > PG_UINT64_MAX / 100)
			return 0;
		number = number * 10 + (c - '0');
	}
	return number;
}
