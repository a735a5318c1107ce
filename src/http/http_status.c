/*-------------------------------------------------------------------------
 *
 * http_status.c
 *		Lists of the status codes of responses, as a setting has them.
 *
 * A list is read anew whenever it is asked: it is short, and that is seldom.
 *
 * No state, no memory, no errors: the problem is a constant sentence, fit for
 * the detail of an error.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "http/http_status.h"

/*
 * Read the first status of a list and go behind it, or behind the comma if there
 * is one.  -1: what is there is no status of an answer that may fail.
 */
static int
next_status(const char **list)
{
	const char *p = *list + strspn(*list, " ");
	int			status = 0;
	int			ndigits;

	for (ndigits = 0; ndigits < 4 && isdigit((unsigned char) *p); ndigits++)
		status = status * 10 + *p++ - '0';
	p += strspn(p, " ");
	if (ndigits != 3 || status < 300 || status > 599 ||
		(*p != ',' && *p != '\0') || (p[0] == ',' && p[1] == '\0'))
		return -1;
	*list = *p == ',' ? p + 1 : p;
	return status;
}

/* Why this is not a list of statuses that an answer may fail with; NULL: it is. */
const char *
http_status_list_problem(const char *list)
{
	while (*list != '\0')
	{
		if (next_status(&list) < 0)
			return "It must be a list of status codes from 300 to 599, separated by commas.";
	}
	return NULL;
}

/* Is the status in the list, which has no problem? */
bool
http_status_list_has(const char *list, int status)
{
	while (*list != '\0')
	{
		if (next_status(&list) == status)
			return true;
	}
	return false;
}
