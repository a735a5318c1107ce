/*-------------------------------------------------------------------------
 *
 * trace_context.c
 *		The trace context that an event is published in.
 *
 * W3C Trace Context wants a traceparent that is not valid to be ignored, and one
 * of a later version to be taken if it begins as that of the version known.
 *
 * No state, no memory, no errors: this only looks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "api/trace_context.h"

/* Version, trace id, parent id and flags of version 00, and its length. */
#define FORM "xx-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx-xxxxxxxxxxxxxxxx-xx"
#define FORM_LENGTH ((int) sizeof(FORM) - 1)
#define TRACE_ID 3
#define TRACE_ID_LENGTH 32
#define PARENT_ID 36
#define PARENT_ID_LENGTH 16

/* Longest one of a later version, which has more behind all that. */
#define MAX_LENGTH 255

/* An id that is all zeros is none. */
static bool
is_zero(const char *id, int len)
{
	return strspn(id, "0") >= len;
}

/* Is it a traceparent as W3C has it?  "str" need not end with a NUL. */
bool
trace_context_is_valid(const char *str, int len)
{
	if (len < FORM_LENGTH || len > MAX_LENGTH)
		return false;
	for (int i = 0; i < FORM_LENGTH; i++)
	{
		/* digits in upper case are for receivers to refuse */
		if (FORM[i] == '-' ? str[i] != '-' :
			!((str[i] >= '0' && str[i] <= '9') ||
			  (str[i] >= 'a' && str[i] <= 'f')))
			return false;
	}
	if (is_zero(str + TRACE_ID, TRACE_ID_LENGTH) ||
		is_zero(str + PARENT_ID, PARENT_ID_LENGTH) ||
		strncmp(str, "ff", 2) == 0)
		return false;
	if (len == FORM_LENGTH)
		return true;

	/* what a later version has behind this must fit into a header */
	if (strncmp(str, "00", 2) == 0 || str[FORM_LENGTH] != '-')
		return false;
	for (int i = FORM_LENGTH; i < len; i++)
	{
		if (str[i] <= ' ' || str[i] > '~')
			return false;
	}
	return true;
}
