/*-------------------------------------------------------------------------
 *
 * outbox_test_json.c
 *		A function that reads JSON as publishers do, and throws meanwhile.
 *
 * json_members_read() is called by no SQL of outbox and exported by no library,
 * so its source is a part of this one.
 *
 *-------------------------------------------------------------------------
 */
#include "lib/json_members.c"

#include "fmgr.h"
#include "utils/builtins.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(outbox_test_json);

/* JsonMemberCB: throws an error with this SQLSTATE, unless it is empty. */
static void
throw_error(void *arg, int depth, const char *top, const char *name,
			const char *value)
{
	const char *state = arg;

	if (state[0] != '\0')
		ereport(ERROR,
				(errcode(MAKE_SQLSTATE(state[0], state[1], state[2], state[3],
									   state[4])),
				 errmsg("thrown with SQLSTATE %s", state)));
}

/*
 * outbox_test_json(json text, sqlstate text) returns bool: what
 * json_members_read() returns if each member throws such an error.
 */
Datum
outbox_test_json(PG_FUNCTION_ARGS)
{
	const char *json = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *state = text_to_cstring(PG_GETARG_TEXT_PP(1));

	PG_RETURN_BOOL(json_members_read(json, strlen(json), throw_error, state));
}
