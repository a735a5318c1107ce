/*-------------------------------------------------------------------------
 *
 * version.c
 *		Which SQL objects a library works with.
 *
 * A version is numbers with points between them, of which the first one is the
 * major version.  Within a major version a library knows all that came before
 * it: the SQL objects may be as old as they like, but not newer than it.  So the
 * library is replaced first, and ALTER EXTENSION UPDATE may follow whenever it
 * suits.
 *
 * No state, no memory, no errors.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/version.h"

/*
 * The next number of a version, behind which *version is then; -1 if there is
 * none.
 */
static long
next_number(const char **version)
{
	char	   *end;
	long		n;

	if (**version < '0' || **version > '9')
		return -1;
	n = strtol(*version, &end, 10);
	*version = *end == '.' ? end + 1 : end;
	return n;
}

/* Does a library of the one version work with SQL objects of the other? */
bool
version_serves(const char *library, const char *sql)
{
	long		ours = next_number(&library);
	long		theirs = next_number(&sql);

	if (ours < 0 || ours != theirs)
		return false;
	while (ours == theirs && ours >= 0)
	{
		ours = next_number(&library);
		theirs = next_number(&sql);
	}

	/* What is behind the numbers, "dev" for instance, has no order. */
	if (ours != theirs)
		return ours > theirs && (theirs >= 0 || *sql == '\0');
	return strcmp(library, sql) == 0;
}
