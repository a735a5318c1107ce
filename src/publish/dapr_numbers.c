/*-------------------------------------------------------------------------
 *
 * dapr_numbers.c
 *		What becomes of the numbers in a JSON payload behind daprd.
 *
 * Everything in Dapr that decodes an event into Go's values has numbers as
 * doubles: the daprd of a subscriber, and ours when it gets a bulk request,
 * which it writes anew.  The first cannot decode what is beyond a double, and
 * then nobody ever gets the event, though a single one is taken and is in the
 * broker; the second changes what a double does not hold.
 *
 * The text is that of a jsonb: it is valid, and has a NUL behind it.
 *
 * No state, no errors but out of memory.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <float.h>
#include <math.h>

#include "publish/dapr_numbers.h"

/* Smaller fractions are written with an exponent: zeros behind the point. */
#define MAX_FRACTION_ZEROS 5

/*
 * Is the number certain to be written by daprd as it is here?  Its digits must
 * fit into a double, and its notation be the one that Go would choose.
 */
static bool
is_exact(const char *number, Size len)
{
	const char *end = number + len;
	const char *point = memchr(number, '.', len);
	const char *first;			/* digit that is not 0 */
	int			ndigits;		/* from there on */

	if (memchr(number, 'e', len) != NULL || memchr(number, 'E', len) != NULL)
		return false;

	/* zeros in front are no digits of the double */
	first = number + strspn(number, "-0.");
	ndigits = end - first;
	if (point == NULL)
		return ndigits > 0 ? ndigits <= DBL_DIG : number[0] != '-';

	/* the point is no digit; a zero at the end would not be written */
	if (first < point)
		ndigits--;
	return end[-1] != '0' && ndigits <= DBL_DIG &&
		(first < point || first - point - 1 <= MAX_FRACTION_ZEROS);
}

/* Behind the string that begins here. */
static const char *
skip_string(const char *str, const char *end)
{
	const char *quote = str;
	const char *p;

	/* one behind an odd number of backslashes does not end it */
	do
	{
		quote = memchr(quote + 1, '"', end - quote - 1);
		if (quote == NULL)
			return end;
		for (p = quote; p[-1] == '\\'; p--)
			;
	} while ((quote - p) % 2 != 0);
	return quote + 1;
}

/*
 * The next number from "p" on, and its length; NULL: there is none before the
 * end.
 */
static const char *
next_number(const char *p, const char *end, Size *len)
{
	while (p < end)
	{
		if (*p == '"')
			p = skip_string(p, end);
		else if (*p == '-' || (*p >= '0' && *p <= '9'))
		{
			*len = strspn(p, "-+.eE0123456789");
			return p;
		}
		else
			p++;
	}
	return NULL;
}

/* Is the number one that a double can be, if not exactly? */
static bool
is_finite(const char *number, Size len)
{
	char	   *copy;
	bool		finite;

	/* so few digits are none too many, unless there is an exponent */
	if (len <= DBL_MAX_10_EXP && memchr(number, 'e', len) == NULL &&
		memchr(number, 'E', len) == NULL)
		return true;
	copy = pnstrdup(number, len);
	finite = isfinite(strtod(copy, NULL));
	pfree(copy);
	return finite;
}

/* Are all numbers in a JSON value such as any daprd can decode? */
bool
dapr_numbers_are_finite(const char *json, Size len)
{
	const char *end = json + len;
	const char *p = json;
	Size		number_len;

	while ((p = next_number(p, end, &number_len)) != NULL)
	{
		if (!is_finite(p, number_len))
			return false;
		p += number_len;
	}
	return true;
}

/* Are all numbers in a JSON value such as our daprd writes as they are? */
bool
dapr_numbers_are_exact(const char *json, Size len)
{
	const char *end = json + len;
	const char *p = json;
	Size		number_len;

	while ((p = next_number(p, end, &number_len)) != NULL)
	{
		if (!is_exact(p, number_len))
			return false;
		p += number_len;
	}
	return true;
}
