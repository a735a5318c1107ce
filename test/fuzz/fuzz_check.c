/*-------------------------------------------------------------------------
 *
 * fuzz_check.c
 *		What holds of every error that people see, whoever made it.
 *
 * No state.  Allocates in the current memory context; whatever is wrong is a
 * finding.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "mb/pg_wchar.h"

#include "fuzz.h"
#include "lib/text.h"

/* The text without percent-encoding. */
static char *
percent_decoded(const char *str)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (; *str != '\0'; str++)
	{
		if (*str == '%' && isxdigit((unsigned char) str[1]) &&
			isxdigit((unsigned char) str[2]))
		{
			char		digits[] = {str[1], str[2], '\0'};

			appendStringInfoChar(&buf, (char) strtol(digits, NULL, 16));
			str += 2;
		}
		else
			appendStringInfoChar(&buf, *str);
	}
	return buf.data;
}

/*
 * An error is a line of bounded length in UTF-8, and does not tell the secret,
 * which is ASCII; NULL: there is none.
 */
void
fuzz_check_error(const char *error, const char *secret)
{
	Size		len = strlen(error);

	if (len == 0 || len >= OUTBOX_ERROR_SIZE)
		fuzz_fail("an error has %zu bytes", len);
	if (text_has_control(error, len) || text_has_c1(error, len))
		fuzz_fail("an error has control characters: %s", error);
	if (!pg_verify_mbstr(PG_UTF8, error, len, true))
		fuzz_fail("an error is not UTF-8: %s", error);
	if (secret != NULL &&
		(strstr(error, secret) || strstr(percent_decoded(error), secret)))
		fuzz_fail("an error tells a secret: %s", error);
}
