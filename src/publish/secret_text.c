/*-------------------------------------------------------------------------
 *
 * secret_text.c
 *		Finding secrets in a text, however they are written.
 *
 * What a server was sent it may repeat as any program writes a text: in a string of
 * JSON, percent-encoded, in base64, in upper or lower case.  Base64 is made here once,
 * for each of the three places that a secret can have among groups of three bytes;
 * what is left of it is as much as is the same whatever surrounds it.  The rest is
 * seen when a text is searched, character by character.
 *
 * Errors.  None but out of memory, and none at all in a search.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "common/base64.h"
#include "mb/pg_wchar.h"

#include "publish/secret_text.h"

/* Bits of a character in base64 */
#define BASE64_BITS 6

/* Less of it may be in any text. */
#define BASE64_MIN 4

/* What a writer of a text may have done to a secret: these, or both. */
#define WRITTEN_AS_JSON		0x01
#define WRITTEN_AS_URI		0x02
#define WRITINGS			4

static bool
is_known(List *secrets, const char *secret)
{
	ListCell   *lc;

	foreach(lc, secrets)
	{
		if (strcmp(lfirst(lc), secret) == 0)
			return true;
	}
	return false;
}

/*
 * What base64 has of a secret behind so many other bytes, 0 to 2, in the current
 * memory context.
 */
static char *
base64_of(const char *secret, int nbefore)
{
	int			len = nbefore + strlen(secret);
	char	   *bytes = palloc0(len + 1);
	int			max = pg_b64_enc_len(len);
	char	   *base64 = palloc0(max + 1);

	/* characters of which other bytes have a share say nothing certain */
	int			skip = (nbefore * BITS_PER_BYTE + BASE64_BITS - 1) / BASE64_BITS;

	memcpy(bytes + nbefore, secret, len - nbefore);
	(void) pg_b64_encode((void *) bytes, len, base64, max);
	base64[len * BITS_PER_BYTE / BASE64_BITS] = '\0';
	return base64 + skip;
}

/*
 * Add a secret to a list of texts, and the ways in which it may be written that are
 * no matter of a single character.  It is copied into the current memory context.
 */
List *
secret_text_add(List *secrets, const char *secret)
{
	if (secret[0] == '\0' || is_known(secrets, secret))
		return secrets;
	secrets = lappend(secrets, pstrdup(secret));
	for (int nbefore = 0; nbefore < 3; nbefore++)
	{
		char	   *base64 = base64_of(secret, nbefore);

		if (strlen(base64) >= BASE64_MIN && !is_known(secrets, base64))
			secrets = lappend(secrets, base64);
	}
	return secrets;
}

/* The value of so many hexadecimal digits; -1: they are not there. */
static int
hex_value(const char *p, int ndigits)
{
	int			value = 0;

	for (int i = 0; i < ndigits; i++)
	{
		char		c = pg_tolower((unsigned char) p[i]);

		if (!isxdigit((unsigned char) c))
			return -1;
		value = value * 16 + (c <= '9' ? c - '0' : c - 'a' + 10);
	}
	return value;
}

/*
 * Are these the same character, upper or lower case, or as the two alphabets of
 * base64 have it?
 */
static bool
same_character(char a, char b)
{
	if (pg_ascii_tolower((unsigned char) a) == pg_ascii_tolower((unsigned char) b))
		return true;
	return (a == '-' && b == '+') || (a == '_' && b == '/');
}

/*
 * How many bytes at "p" stand for the first byte of "secret", or for the first
 * *n, one character: percent-encoded or as an escape in JSON, if that is the
 * writing, or as they are.  0: none do.
 */
static Size
match_character(const char *p, const char *secret, int writing, Size *n)
{
	unsigned char utf8[5] = {0};
	int			value;

	*n = 1;
	if ((writing & WRITTEN_AS_URI) && p[0] == '%' &&
		(value = hex_value(p + 1, 2)) > 0 &&
		same_character((char) value, secret[0]))
		return 3;
	if (!(writing & WRITTEN_AS_JSON))
		return same_character(p[0], secret[0]) ? 1 : 0;
	if (p[0] == '\\' && p[1] == secret[0] && strchr("\"\\/", p[1]) != NULL)
		return 2;
	if (p[0] == '\\' && p[1] == 'u' && (value = hex_value(p + 2, 4)) > 0)
	{
		Size		len;

		unicode_to_utf8(value, utf8);
		len = strlen((char *) utf8);
		if (strncmp(secret, (char *) utf8, len) == 0 ||
			(len == 1 && same_character((char) utf8[0], secret[0])))
		{
			*n = len;
			return 6;
		}
	}
	return same_character(p[0], secret[0]) ? 1 : 0;
}

/* How many bytes at "p" are the secret in this writing?  0: none. */
static Size
match_secret(const char *p, const char *secret, int writing)
{
	const char *start = p;
	Size		n;

	for (; *secret != '\0'; secret += n)
	{
		Size		len = match_character(p, secret, writing, &n);

		if (len == 0)
			return 0;
		p += len;
	}
	return p - start;
}

/* Overwrite one secret in one writing. */
static void
mask_secret(const char *secret, int writing, char *str)
{
	Size		len;

	for (char *p = str; *p != '\0'; p += Max(len, 1))
	{
		len = match_secret(p, secret, writing);
		memset(p, '*', len);
	}
}

/*
 * Overwrite secrets with stars.  "str" is somebody else's, and may hold a secret as
 * often as it likes.  The longest come first, for one may be a part of another.
 *
 * Each writing is looked for by itself: what looks encoded may be the secret as it
 * is, which may have a "%25" or two backslashes in it.
 */
void
secret_text_mask(const char *const *secrets, int nsecrets, char *str)
{
	for (int i = 0; i < nsecrets; i++)
	{
		for (int writing = 0; writing < WRITINGS; writing++)
			mask_secret(secrets[i], writing, str);
	}
}
