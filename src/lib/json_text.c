/*-------------------------------------------------------------------------
 *
 * json_text.c
 *		JSON as text.
 *
 * What is made here is what escape_json() and JsonbToCString() make, byte for
 * byte.  They append strings one character at a time (until 18), which took a
 * tenth of the relay's time with payloads of a kilobyte; here, what need not
 * be escaped is copied as a whole.
 *
 * A few bytes of jsonb may be a hundred kilobytes of text (1e100000).  So the
 * text of a value has a limit, and it can be cancelled.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/byte_word.h"
#include "lib/json_text.h"
#include "miscadmin.h"
#include "utils/builtins.h"

/* So much of a string is appended between two looks at limit and cancellation. */
#define STRING_PART		(64 * 1024)

/* Has the word a character that must be escaped? */
static bool
has_special(uint64 v)
{
	return (BYTE_WORD_HAS_LESS(v, ' ') | BYTE_WORD_HAS(v, '"') |
			BYTE_WORD_HAS(v, '\\')) != 0;
}

/* Where the first character is that must be escaped; "end" if there is none. */
static const char *
find_special(const char *p, const char *end)
{
	if (end - p >= sizeof(uint64))
	{
		const char *last = end - sizeof(uint64);

		/* by words, of which the last one may have bytes of the one before */
		while (!has_special(byte_word_at(p)))
		{
			if (p == last)
				return end;
			p = Min(p + sizeof(uint64), last);
		}
	}
	while (p < end && (unsigned char) *p >= ' ' && *p != '"' && *p != '\\')
		p++;
	return p;
}

/* Append a character that cannot stand for itself. */
static void
append_escaped(StringInfo buf, unsigned char c)
{
	static const char hex[] = "0123456789abcdef";
	char		escape[] = "\\u0000";

	switch (c)
	{
		case '"':
			appendStringInfoString(buf, "\\\"");
			break;
		case '\\':
			appendStringInfoString(buf, "\\\\");
			break;
		case '\b':
			appendStringInfoString(buf, "\\b");
			break;
		case '\f':
			appendStringInfoString(buf, "\\f");
			break;
		case '\n':
			appendStringInfoString(buf, "\\n");
			break;
		case '\r':
			appendStringInfoString(buf, "\\r");
			break;
		case '\t':
			appendStringInfoString(buf, "\\t");
			break;
		default:
			escape[4] = hex[c >> 4];
			escape[5] = hex[c & 0xF];
			appendBinaryStringInfo(buf, escape, 6);
			break;
	}
}

/* Append what is between the quotes of a JSON string, or a part of it. */
static void
append_text(StringInfo buf, const char *str, Size len)
{
	const char *end = str + len;

	for (;;)
	{
		const char *p = find_special(str, end);

		appendBinaryStringInfo(buf, str, p - str);
		if (p == end)
			break;
		append_escaped(buf, (unsigned char) *p);
		str = p + 1;
	}
}

/* Append a JSON string; "str" need not end with a NUL. */
void
json_append_string(StringInfo buf, const char *str, Size len)
{
	appendStringInfoChar(buf, '"');
	append_text(buf, str, len);
	appendStringInfoChar(buf, '"');
}

/* The same, but it may end when there are more than "end" bytes in "buf". */
static void
append_string_within(StringInfo buf, const char *str, Size len, Size end)
{
	appendStringInfoChar(buf, '"');
	while (len > 0 && buf->len <= end)
	{
		Size		part = Min(len, STRING_PART);

		CHECK_FOR_INTERRUPTS();
		append_text(buf, str, part);
		str += part;
		len -= part;
	}
	appendStringInfoChar(buf, '"');
}

/*
 * Append what is neither an array nor an object; it may end when there are more
 * than "end" bytes in "buf".
 */
static void
append_scalar(StringInfo buf, const JsonbValue *v, Size end)
{
	char	   *number;

	switch (v->type)
	{
		case jbvNull:
			appendStringInfoString(buf, "null");
			break;
		case jbvString:
			append_string_within(buf, v->val.string.val, v->val.string.len, end);
			break;
		case jbvNumeric:
			/* as text, so that no digit is lost; freed, as it may be long */
			number = DatumGetCString(DirectFunctionCall1(numeric_out,
														 NumericGetDatum(v->val.numeric)));
			appendStringInfoString(buf, number);
			pfree(number);
			break;
		case jbvBool:
			appendStringInfoString(buf, v->val.boolean ? "true" : "false");
			break;
		default:
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("unexpected type of a JSON value: %d",
							(int) v->type)));
	}
}

/*
 * Append a value as its cast to text does.  False if that has more than "max"
 * bytes; then a part of it is appended.
 */
bool
json_append_jsonb(StringInfo buf, Jsonb *jb, Size max)
{
	Size		end = buf->len + max;
	JsonbIterator *it = JsonbIteratorInit(&jb->root);
	JsonbIteratorToken token;
	JsonbValue	v;
	bool		scalar = JB_ROOT_IS_SCALAR(jb); /* in an array of its own */
	bool		comma = false;	/* before the next element */

	while ((token = JsonbIteratorNext(&it, &v, false)) != WJB_DONE)
	{
		CHECK_FOR_INTERRUPTS();
		if (buf->len > end)
			return false;

		/* a comma parts two elements or members, not a key from its value */
		if (comma && token != WJB_END_ARRAY && token != WJB_END_OBJECT)
			appendStringInfoString(buf, ", ");
		comma = token != WJB_BEGIN_ARRAY && token != WJB_BEGIN_OBJECT &&
			token != WJB_KEY;
		switch (token)
		{
			case WJB_BEGIN_ARRAY:
				if (!scalar)
					appendStringInfoChar(buf, '[');
				break;
			case WJB_END_ARRAY:
				if (!scalar)
					appendStringInfoChar(buf, ']');
				break;
			case WJB_BEGIN_OBJECT:
				appendStringInfoChar(buf, '{');
				break;
			case WJB_END_OBJECT:
				appendStringInfoChar(buf, '}');
				break;
			case WJB_KEY:
				append_scalar(buf, &v, end);
				appendStringInfoString(buf, ": ");
				break;
			default:
				append_scalar(buf, &v, end);
				break;
		}
	}
	return buf->len <= end;
}
