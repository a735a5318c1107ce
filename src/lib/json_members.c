/*-------------------------------------------------------------------------
 *
 * json_members.c
 *		Read the strings in a JSON object as they come.
 *
 * For texts from outside, of which the few strings that matter are wanted even
 * if the text is cut off.  Hence PostgreSQL's lexer only, without its parser,
 * which would refuse such a text as a whole.
 *
 * Escapes are decoded here.  The lexer would make characters of the database's
 * encoding of them, among bytes in UTF-8, and give up at one that this encoding
 * does not have.  Here all strings are UTF-8, whatever the database's encoding.
 *
 * No state.  Everything is allocated in the current memory context and stays
 * there.
 *
 * Errors.  No text makes this throw; out of memory does, and the callback may.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/jsonapi.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"

#include "lib/compat.h"
#include "lib/json_members.h"

#define REPLACEMENT_CHARACTER 0xFFFD

/* The value of the four hexadecimal digits of \uXXXX, which are there. */
static pg_wchar
escaped_unit(const char *digits)
{
	pg_wchar	unit = 0;

	for (int i = 0; i < 4; i++)
	{
		char		c = pg_tolower((unsigned char) digits[i]);

		unit = unit * 16 + (c <= '9' ? c - '0' : c - 'a' + 10);
	}
	return unit;
}

/*
 * Append the character of an escape, in UTF-8; "p" is behind the backslash.
 * Returns what follows it.  What is no character, or would end a C string,
 * becomes U+FFFD, so that one of them does not hide the rest.
 */
static const char *
append_escaped(StringInfo buf, const char *p)
{
	static const char letters[] = "bfnrt";
	static const char controls[] = "\b\f\n\r\t";
	const char *letter = strchr(letters, *p);
	unsigned char utf8[5] = {0};
	pg_wchar	c;

	if (*p != 'u')
	{
		appendStringInfoChar(buf, letter ? controls[letter - letters] : *p);
		return p + 1;
	}
	c = escaped_unit(p + 1);
	p += 5;
	if (is_utf16_surrogate_first(c) && p[0] == '\\' && p[1] == 'u' &&
		is_utf16_surrogate_second(escaped_unit(p + 2)))
	{
		c = surrogate_pair_to_codepoint(c, escaped_unit(p + 2));
		p += 6;
	}
	if (c == 0 || is_utf16_surrogate_first(c) || is_utf16_surrogate_second(c))
		c = REPLACEMENT_CHARACTER;
	unicode_to_utf8(c, utf8);
	appendStringInfoString(buf, (char *) utf8);
	return p;
}

/* The string between "p" and "end", the quotes around it. */
static char *
decode_string(const char *p, const char *end)
{
	StringInfoData buf;

	initStringInfo(&buf);
	while (p < end)
	{
		const char *escape = memchr(p, '\\', end - p);
		const char *stop = escape ? escape : end;

		appendBinaryStringInfo(&buf, p, stop - p);
		p = escape ? append_escaped(&buf, escape + 1) : end;
	}
	return buf.data;
}

/* Read token after token.  False if the value does not end where it should. */
static bool
read_tokens(JsonLexContext *lex, JsonMemberCB member, void *arg)
{
	char	   *str = NULL;		/* the last one */
	char	   *name = NULL;	/* of the member whose value comes next */
	char	   *top = NULL;		/* of the outermost object's last one */
	StringInfoData open;		/* the brackets that are, the outermost first */

	initStringInfo(&open);
	while (json_lex(lex) == JSON_SUCCESS)
	{
		bool		in_array = open.len > 0 && open.data[open.len - 1] == '[';

		switch (lex->token_type)
		{
			case JSON_TOKEN_END:
				return open.len == 0;
			case JSON_TOKEN_OBJECT_END:
			case JSON_TOKEN_ARRAY_END:
				if (open.len == 0)
					return false;
				if (lex->token_type == JSON_TOKEN_OBJECT_END)
					member(arg, open.len, top, NULL, NULL);
				open.data[--open.len] = '\0';
				break;
			case JSON_TOKEN_COLON:
				/* only now is it known to have been a name */
				name = str;
				if (open.len == 1)
					top = name;
				break;
			case JSON_TOKEN_COMMA:
				name = NULL;
				break;
			case JSON_TOKEN_OBJECT_START:
				appendStringInfoChar(&open, '{');
				name = NULL;
				break;
			default:
				/* a string, another scalar, or the beginning of an array */
				if (lex->token_type == JSON_TOKEN_STRING)
					str = decode_string(lex->token_start + 1,
										lex->token_terminator - 1);
				if (in_array)
					member(arg, open.len, top, NULL, "");
				else if (name != NULL && lex->token_type == JSON_TOKEN_STRING)
					member(arg, open.len, top, name, str);
				if (lex->token_type == JSON_TOKEN_ARRAY_START)
					appendStringInfoChar(&open, '[');
				name = NULL;
				break;
		}
	}
	return false;
}

/*
 * Tell all strings that are members in a JSON object, a text in UTF-8.  False
 * if it is none, ends too early or cannot be read on; what was told before
 * that counts.
 */
bool
json_members_read(const char *json, Size len, JsonMemberCB member, void *arg)
{
	if (len == 0 || json[0] != '{')
		return false;
	return read_tokens(make_json_lex_compat(json, len), member, arg);
}
