/*-------------------------------------------------------------------------
 *
 * json_members.c
 *		Read the strings in a JSON object as they come.
 *
 * For texts from outside, of which the few strings that matter are wanted even
 * if the text is cut off.  Hence PostgreSQL's lexer only, without its parser,
 * which would refuse such a text as a whole.
 *
 * No state.  Everything is allocated in the current memory context and stays
 * there.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/jsonapi.h"

#include "lib/compat.h"
#include "lib/json_members.h"

/* Read token after token.  False if the value does not end where it should. */
static bool
read_tokens(JsonLexContext *lex, JsonMemberCB member, void *arg)
{
	char	   *str = NULL;		/* the last one */
	char	   *name = NULL;	/* of the member whose value comes next */
	char	   *top = NULL;		/* of the outermost object's last one */
	int			depth = 0;

	while (json_lex(lex) == JSON_SUCCESS)
	{
		switch (lex->token_type)
		{
			case JSON_TOKEN_END:
				return depth == 0;
			case JSON_TOKEN_OBJECT_END:
				member(arg, depth, top, NULL, NULL);
				depth--;
				break;
			case JSON_TOKEN_ARRAY_END:
				depth--;
				break;
			case JSON_TOKEN_STRING:
				/* the lexer uses its buffer for the next one */
				str = pstrdup(lex->strval->data);
				if (name != NULL)
					member(arg, depth, top, name, str);
				name = NULL;
				break;
			case JSON_TOKEN_COLON:
				/* only now is it known to have been a name */
				name = str;
				if (depth == 1)
					top = name;
				break;
			case JSON_TOKEN_OBJECT_START:
			case JSON_TOKEN_ARRAY_START:
				depth++;
				name = NULL;
				break;
			default:
				name = NULL;
				break;
		}
	}
	return false;
}

/*
 * Tell all strings that are members in a JSON object, a text in UTF-8.  False
 * if it is none, ends too early or cannot be read on; what was told before
 * that counts.  Throws what is no fault of the text, out of memory for instance.
 */
bool
json_members_read(const char *json, Size len, JsonMemberCB member, void *arg)
{
	MemoryContext old = CurrentMemoryContext;
	volatile bool whole = false;

	if (len == 0 || json[0] != '{')
		return false;

	/*
	 * The lexer returns its errors but for one: an escape for a character
	 * that this database's encoding does not have is thrown.
	 */
	PG_TRY();
	{
		whole = read_tokens(make_json_lex_compat(json, len), member, arg);
	}
	PG_CATCH();
	{
		if (ERRCODE_TO_CATEGORY(geterrcode()) != ERRCODE_DATA_EXCEPTION)
			PG_RE_THROW();
		MemoryContextSwitchTo(old);
		FlushErrorState();
	}
	PG_END_TRY();
	return whole;
}
