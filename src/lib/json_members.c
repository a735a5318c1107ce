/*-------------------------------------------------------------------------
 *
 * json_members.c
 *		Read what is in a JSON object as it comes.
 *
 * For texts from outside, of which the few members that matter are wanted even
 * if the text is cut off.  Hence PostgreSQL's lexer only, without its parser,
 * which would refuse such a text as a whole, and throws where brackets are deep.
 * The grammar is checked here as far as the text goes: what is left out of a text
 * that only looks like JSON might be what matters.
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

/* Where in the grammar a text is: what may come next. */
typedef enum JsonPlace
{
	AT_VALUE,
	AT_FIRST_ELEMENT,			/* or the end of the array */
	AT_NAME,
	AT_FIRST_NAME,				/* or the end of the object */
	AT_COLON,
	BEHIND_VALUE
} JsonPlace;

/* Go behind a value, or into it. */
static bool
pass_value(JsonPlace *place, JsonTokenType token)
{
	*place = token == JSON_TOKEN_OBJECT_START ? AT_FIRST_NAME :
		token == JSON_TOKEN_ARRAY_START ? AT_FIRST_ELEMENT : BEHIND_VALUE;
	switch (token)
	{
		case JSON_TOKEN_STRING:
		case JSON_TOKEN_NUMBER:
		case JSON_TOKEN_OBJECT_START:
		case JSON_TOKEN_ARRAY_START:
		case JSON_TOKEN_TRUE:
		case JSON_TOKEN_FALSE:
		case JSON_TOKEN_NULL:
			return true;
		default:
			return false;
	}
}

/*
 * Go on by a token.  "bracket" is the innermost one that is open; NUL: none.
 * False if the token cannot be here.
 */
static bool
pass_token(JsonPlace *place, JsonTokenType token, char bracket)
{
	JsonPlace	at = *place;

	switch (at)
	{
		case AT_NAME:
		case AT_FIRST_NAME:
			*place = AT_COLON;
			if (token == JSON_TOKEN_STRING)
				return true;
			*place = BEHIND_VALUE;
			return at == AT_FIRST_NAME && token == JSON_TOKEN_OBJECT_END;
		case AT_COLON:
			*place = AT_VALUE;
			return token == JSON_TOKEN_COLON;
		case AT_VALUE:
		case AT_FIRST_ELEMENT:
			return pass_value(place, token) ||
				(at == AT_FIRST_ELEMENT && token == JSON_TOKEN_ARRAY_END);
		case BEHIND_VALUE:
			break;
	}
	if (token == JSON_TOKEN_COMMA)
		*place = bracket == '{' ? AT_NAME : AT_VALUE;
	return bracket == '\0' ? token == JSON_TOKEN_END :
		token == JSON_TOKEN_COMMA ||
		token == (bracket == '{' ? JSON_TOKEN_OBJECT_END : JSON_TOKEN_ARRAY_END);
}

/* Is the token a value that means something as it is written? */
static bool
is_plain(JsonTokenType token)
{
	return token == JSON_TOKEN_NUMBER || token == JSON_TOKEN_TRUE ||
		token == JSON_TOKEN_FALSE;
}

/* Read token after token.  False if one is not where it may be. */
static bool
read_tokens(JsonLexContext *lex, bool plain, JsonMemberCB member, void *arg)
{
	JsonPlace	place = AT_VALUE;
	char	   *str = NULL;		/* the last one */
	char	   *name = NULL;	/* of the member whose value comes next */
	char	   *top = NULL;		/* of the outermost object's last one */
	StringInfoData open;		/* the brackets that are, the outermost first */

	initStringInfo(&open);
	while (json_lex(lex) == JSON_SUCCESS)
	{
		char		bracket = open.len > 0 ? open.data[open.len - 1] : '\0';

		if (!pass_token(&place, lex->token_type, bracket))
			return false;
		switch (lex->token_type)
		{
			case JSON_TOKEN_END:
				return true;
			case JSON_TOKEN_OBJECT_END:
			case JSON_TOKEN_ARRAY_END:
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
			default:
				/* a string, another scalar, or a bracket that opens */
				if (lex->token_type == JSON_TOKEN_STRING)
					str = decode_string(lex->token_start + 1,
										lex->token_terminator - 1);
				if (bracket == '[' && lex->token_type != JSON_TOKEN_OBJECT_START)
					member(arg, open.len, top, NULL, "");
				else if (name != NULL && lex->token_type == JSON_TOKEN_STRING)
					member(arg, open.len, top, name, str);
				else if (name != NULL && plain && is_plain(lex->token_type))
					member(arg, open.len, top, name,
						   pnstrdup(lex->token_start,
									lex->token_terminator - lex->token_start));
				if (lex->token_type == JSON_TOKEN_OBJECT_START ||
					lex->token_type == JSON_TOKEN_ARRAY_START)
					appendStringInfoChar(&open, *lex->token_start);
				name = NULL;
				break;
		}
	}
	return false;
}

/* json_members_read(), or with "plain" json_members_read_plain(). */
static bool
read_object(const char *json, Size len, bool plain, JsonMemberCB member,
			void *arg)
{
	/* the lexer takes a NUL for something that may be behind a backslash */
	Size		end = strnlen(json, len);

	if (end == 0 || json[0] != '{')
		return false;
	return read_tokens(make_json_lex_compat(json, end), plain, member, arg) &&
		end == len;
}

/*
 * Tell all strings that are members in a JSON object, a text in UTF-8.  False
 * if it is none, ends too early or goes on as JSON does not; what was told
 * before that counts.
 */
bool
json_members_read(const char *json, Size len, JsonMemberCB member, void *arg)
{
	return read_object(json, len, false, member, arg);
}

/* The same; numbers, true and false are told too, as they are written. */
bool
json_members_read_plain(const char *json, Size len, JsonMemberCB member,
						void *arg)
{
	return read_object(json, len, true, member, arg);
}
