/*-------------------------------------------------------------------------
 *
 * nats_credentials.c
 *		Who we are: a credentials file of NATS, and what is signed with it.
 *
 * The file, which nsc and other tools of NATS write, has a user's JWT and the
 * seed of its key between lines of dashes; the JWT may be missing, then the
 * server knows the key itself.  The server sends a nonce, and we sign that, so
 * that neither seed nor signature is of use to who listens.
 *
 * A seed is base32: two bytes of prefix, the 32 bytes of an Ed25519 seed, and
 * a CRC-16.  A public key has a prefix of one byte.
 *
 * Errors are reasons, which say nothing of what the file holds.  libcrypto is
 * only asked for what needs no resource owner.
 *
 * Facts: https://docs.nats.io/reference/reference-protocols/nats-protocol and
 * https://github.com/nats-io/nkeys.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <openssl/evp.h>

#include "common/base64.h"

#include "nats_credentials.h"

#define PREFIX_SEED (18 << 3)	/* 'S' in base32 */
#define PREFIX_USER (20 << 3)	/* 'U' */

#define SEED_PREFIX_SIZE 2
#define CRC_SIZE 2
#define SEED_SIZE (SEED_PREFIX_SIZE + NATS_KEY_SIZE + CRC_SIZE)
#define PUBLIC_SIZE (1 + NATS_KEY_SIZE + CRC_SIZE)
#define SIGNATURE_SIZE 64

static const char base32_digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/* CRC-16 of XMODEM, which NATS has in its keys. */
static uint16
crc16(const unsigned char *data, Size len)
{
	uint16		crc = 0;

	for (Size i = 0; i < len; i++)
	{
		crc ^= data[i] << 8;
		for (int bit = 0; bit < 8; bit++)
			crc = (crc & 0x8000) ? (crc << 1) ^ 0x1021 : crc << 1;
	}
	return crc;
}

/* Decode base32 without padding; false unless it is exactly "size" bytes. */
static bool
base32_decode(const char *text, Size len, unsigned char *bytes, Size size)
{
	uint32		bits = 0;
	int			nbits = 0;
	Size		n = 0;

	for (Size i = 0; i < len; i++)
	{
		const char *digit = memchr(base32_digits, text[i], 32);

		if (digit == NULL)
			return false;
		bits = (bits << 5) | (uint32) (digit - base32_digits);
		nbits += 5;
		if (nbits >= 8)
		{
			if (n == size)
				return false;
			nbits -= 8;
			bytes[n++] = (bits >> nbits) & 0xFF;
		}
	}
	return n == size && nbits < 5;
}

/* Encode as base32 without padding; palloc'd. */
static char *
base32_encode(const unsigned char *bytes, Size size)
{
	char	   *encoded = palloc(size * 8 / 5 + 2);
	char	   *p = encoded;
	uint32		bits = 0;
	int			nbits = 0;

	for (Size i = 0; i < size; i++)
	{
		bits = (bits << 8) | bytes[i];
		for (nbits += 8; nbits >= 5; nbits -= 5)
			*p++ = base32_digits[(bits >> (nbits - 5)) & 0x1F];
	}
	if (nbits > 0)
		*p++ = base32_digits[(bits << (5 - nbits)) & 0x1F];
	*p = '\0';
	return encoded;
}

/*
 * The first line behind the one that begins a block of this name; empty if
 * there is none.
 */
static const char *
block_line(const char *text, const char *name, Size *len)
{
	char	   *begin = psprintf("BEGIN %s-----", name);
	const char *p = strstr(text, begin);

	pfree(begin);
	if (p != NULL)
		p = strchr(p, '\n');
	p = p == NULL ? "" : p + 1;
	*len = strcspn(p, "\r\n");
	return p;
}

/* Decode the seed of a user's key; false if it is none. */
static bool
decode_seed(const char *text, Size len, unsigned char *seed)
{
	unsigned char raw[SEED_SIZE];
	uint16		crc;
	bool		ok;

	ok = base32_decode(text, len, raw, SEED_SIZE);
	if (ok)
	{
		/* the second prefix begins in the last three bits of the first byte */
		int			kind = ((raw[0] & 0x07) << 5) | (raw[1] >> 3);

		crc = crc16(raw, SEED_SIZE - CRC_SIZE);
		ok = (raw[0] & 0xF8) == PREFIX_SEED && kind == PREFIX_USER &&
			raw[SEED_SIZE - 2] == (crc & 0xFF) && raw[SEED_SIZE - 1] == crc >> 8;
		memcpy(seed, raw + SEED_PREFIX_SIZE, NATS_KEY_SIZE);
	}
	explicit_bzero(raw, sizeof(raw));
	return ok;
}

/*
 * Read what is in a credentials file: false and a reason, a constant, if it is
 * none.  Allocates in the current memory context.
 */
bool
nats_credentials_parse(const char *text, NatsCredentials *credentials,
					   const char **reason)
{
	Size		len;
	const char *line = block_line(text, "USER NKEY SEED", &len);

	if (len == 0)
	{
		*reason = "it has no seed of a user's key";
		return false;
	}
	if (!decode_seed(line, len, credentials->seed))
	{
		*reason = "the seed in it is not one of a user's key";
		return false;
	}
	line = block_line(text, "NATS USER JWT", &len);
	credentials->jwt = len > 0 ? pnstrdup(line, len) : NULL;
	return true;
}

/* Our key, as libcrypto has it; NULL if memory is out. */
static EVP_PKEY *
private_key(const NatsCredentials *credentials)
{
	return EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL,
										credentials->seed, NATS_KEY_SIZE);
}

/* Sign "text": SIGNATURE_SIZE bytes; false if libcrypto does not. */
static bool
sign_bytes(EVP_PKEY *key, const char *text, unsigned char *signature)
{
	EVP_MD_CTX *context = EVP_MD_CTX_new();
	size_t		len = SIGNATURE_SIZE;
	bool		ok;

	ok = context != NULL &&
		EVP_DigestSignInit(context, NULL, NULL, NULL, key) == 1 &&
		EVP_DigestSign(context, signature, &len, (const unsigned char *) text,
					   strlen(text)) == 1 &&
		len == SIGNATURE_SIZE;
	EVP_MD_CTX_free(context);
	return ok;
}

/*
 * The signature of the server's nonce, as CONNECT has it: base64 for URLs,
 * without padding.  palloc'd; NULL if libcrypto fails.
 */
char *
nats_credentials_sign(const NatsCredentials *credentials, const char *nonce)
{
	unsigned char signature[SIGNATURE_SIZE];
	EVP_PKEY   *key = private_key(credentials);
	int			max = pg_b64_enc_len(SIGNATURE_SIZE);
	char	   *encoded;
	int			len;
	bool		ok = key != NULL && sign_bytes(key, nonce, signature);

	EVP_PKEY_free(key);
	if (!ok)
		return NULL;

	encoded = palloc(max + 1);
	len = pg_b64_encode((const void *) signature, SIGNATURE_SIZE, encoded, max);
	Assert(len > 0);
	while (encoded[len - 1] == '=')
		len--;
	encoded[len] = '\0';
	for (char *p = encoded; *p != '\0'; p++)
	{
		if (*p == '+')
			*p = '-';
		else if (*p == '/')
			*p = '_';
	}
	return encoded;
}

/* The public key, as NATS writes it ("U..."); palloc'd; NULL if libcrypto fails. */
char *
nats_credentials_public_key(const NatsCredentials *credentials)
{
	unsigned char raw[PUBLIC_SIZE];
	EVP_PKEY   *key = private_key(credentials);
	size_t		len = NATS_KEY_SIZE;
	uint16		crc;
	bool		ok;

	raw[0] = PREFIX_USER;
	ok = key != NULL && EVP_PKEY_get_raw_public_key(key, raw + 1, &len) == 1 &&
		len == NATS_KEY_SIZE;
	EVP_PKEY_free(key);
	if (!ok)
		return NULL;
	crc = crc16(raw, PUBLIC_SIZE - CRC_SIZE);
	raw[PUBLIC_SIZE - 2] = crc & 0xFF;
	raw[PUBLIC_SIZE - 1] = crc >> 8;
	return base32_encode(raw, PUBLIC_SIZE);
}
