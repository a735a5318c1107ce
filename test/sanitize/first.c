/*-------------------------------------------------------------------------
 *
 * first.c
 *		A library to preload beside the address sanitizer, so that this begins
 *		before any other library does.
 *
 * The sanitizer begins with the first malloc().  One of those that a server is
 * linked with (libp11-kit) has a constructor that makes a locale, whose malloc()
 * is in the middle of glibc's lock on locales; what the sanitizer does then takes
 * that lock again, and every process hangs.  This one is linked with
 * -z initfirst: its constructor comes before all others.
 *
 *-------------------------------------------------------------------------
 */
#include <stdlib.h>

static void begin_sanitizer(void) __attribute__((constructor));

static void
begin_sanitizer(void)
{
	/* volatile, or the compiler does without it */
	void	   *volatile memory = malloc(1);

	free(memory);
}
