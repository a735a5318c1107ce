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

/* JsonMemberCB: append a line that tells what was read. */
static void
append_member(void *arg, int depth, const char *top, const char *name,
			  const char *value)
{
	StringInfo	lines = arg;

	appendStringInfo(lines, "%d %s: ", depth, top ? top : "-");
	if (name != NULL)
		appendStringInfo(lines, "%s = %s\n", name, value);
	else
		appendStringInfoString(lines, value ? "element\n" : "end\n");
}

/*
 * outbox_test_json(json bytea) returns bytea: the members that
 * json_members_read() tells of a text in UTF-8, and what it returns, t or f.
 */
Datum
outbox_test_json(PG_FUNCTION_ARGS)
{
	bytea	   *json = PG_GETARG_BYTEA_PP(0);
	StringInfoData lines;
	bool		whole;

	initStringInfo(&lines);

	/* the lexer may look at the byte behind the end */
	whole = json_members_read(text_to_cstring(json), VARSIZE_ANY_EXHDR(json),
							  append_member, &lines);
	appendStringInfoChar(&lines, whole ? 't' : 'f');
	PG_RETURN_BYTEA_P(cstring_to_text_with_len(lines.data, lines.len));
}
