/*-------------------------------------------------------------------------
 *
 * text.c
 *		Texts that go into one line, a header, or a URL.
 *
 * Whatever came from outside is made harmless here before it is shown: a line
 * of a log that a receiver's answer can break is a line that it can forge.
 *
 * No state, no locks.  What appends allocates in the buffer's context and
 * throws out of memory only; the rest allocates nothing and can't fail.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"

#include "lib/byte_word.h"
#include "lib/text.h"

/* Has the text a C0 control character or DEL? */
bool
text_has_control(const char *str, Size len)
{
	Size		i = 0;

	for (; len - i >= sizeof(uint64); i += sizeof(uint64))
	{
		uint64		v = byte_word_at(str + i);

		if (BYTE_WORD_HAS_LESS(v, ' ') | BYTE_WORD_HAS(v, 0x7f))
			return true;
	}
	for (; i < len; i++)
	{
		if (text_is_control(str[i]))
			return true;
	}
	return false;
}

/* Is this byte and the next one a C1 control character in UTF-8? */
static bool
is_c1(const char *p, const char *end)
{
	return (unsigned char) p[0] == 0xC2 && end - p > 1 &&
		(unsigned char) p[1] < 0xA0;
}

/*
 * Is this, in UTF-8, a character that says which way the text around it is read, so
 * that it can look like another one?  Or one that ends a line or a paragraph?
 */
static bool
is_bidi(const char *p, const char *end)
{
	const unsigned char *c = (const unsigned char *) p;

	/* U+061C */
	if (end - p > 1 && c[0] == 0xD8 && c[1] == 0x9C)
		return true;

	/* U+200E and 200F, U+2028 to 202E, U+2066 to 206F */
	return end - p > 2 && c[0] == 0xE2 &&
		((c[1] == 0x80 && (c[2] == 0x8E || c[2] == 0x8F ||
						   (c[2] >= 0xA8 && c[2] <= 0xAE))) ||
		 (c[1] == 0x81 && c[2] >= 0xA6 && c[2] <= 0xAF));
}

/* Has a text in UTF-8 a C1 control character? */
bool
text_has_c1(const char *utf8, Size len)
{
	for (const char *p = utf8; p < utf8 + len; p++)
	{
		if (is_c1(p, utf8 + len))
			return true;
	}
	return false;
}

/*
 * Has a text in UTF-8 a code point that is never a character: the last two of
 * each plane, and U+FDD0 to U+FDEF?
 */
bool
text_has_noncharacter(const char *utf8, Size len)
{
	const unsigned char *p = (const unsigned char *) utf8;

	for (Size i = 0; i + 2 < len; i++)
	{
		if (p[i] == 0xEF && p[i + 1] == 0xB7 &&
			p[i + 2] >= 0x90 && p[i + 2] <= 0xAF)
			return true;
		if (p[i] == 0xEF && p[i + 1] == 0xBF && p[i + 2] >= 0xBE)
			return true;
		if (p[i] >= 0xF0 && i + 3 < len && (p[i + 1] & 0x0F) == 0x0F &&
			p[i + 2] == 0xBF && p[i + 3] >= 0xBE)
			return true;
	}
	return false;
}

/* How many bytes at the beginning are a token of HTTP: RFC 9110's "tchar"? */
Size
text_token_length(const char *str)
{
	return strspn(str, "!#$%&'*+-.^_`|~0123456789"
				  "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz");
}

/*
 * The next line of a text, of which *rest is what was not read yet: *len bytes, without
 * blanks at its end.  NULL if there is none.
 */
const char *
text_next_line(const char **rest, Size *len)
{
	const char *line = *rest;

	if (*line == '\0')
		return NULL;
	*len = strcspn(line, "\n");
	*rest = line + *len + (line[*len] == '\n');
	while (*len > 0 && strchr(" \t\r", line[*len - 1]))
		(*len)--;
	return line;
}

/*
 * Append a text from outside to a line: at most "max" bytes of it, runs of
 * white space and control characters as one space.  Bytes that are no
 * character or turn a text around, and without "utf8" all that are not ASCII,
 * become question marks.
 */
void
text_append_line(StringInfo buf, const char *str, Size max, bool utf8)
{
	const char *end = str + strlen(str);
	int			limit = buf->len + max;
	bool		space = false;

	while (str < end)
	{
		int			len = 1;	/* of the character; less: it is none */

		/* put down when something follows: none is wanted at the end */
		if (*str == ' ' || text_is_control(*str))
		{
			space = buf->len > 0 && buf->data[buf->len - 1] != ' ';
			str++;
			continue;
		}
		if (IS_HIGHBIT_SET(*str))
			len = !utf8 || is_c1(str, end) || is_bidi(str, end) ? -1 :
				pg_encoding_verifymbchar(PG_UTF8, str, end - str);

		/* whole characters only */
		if (buf->len + space + Max(len, 1) > limit)
			break;
		if (space)
			appendStringInfoChar(buf, ' ');
		space = false;
		if (len > 0)
			appendBinaryStringInfo(buf, str, len);
		else
			appendStringInfoChar(buf, '?');
		str += Max(len, 1);
	}
}

/*
 * Copy a text from outside as one line of valid characters of the server's
 * encoding, cut at a character if "to", with "size" bytes, is too small.
 */
void
text_copy_line(char *to, Size size, const char *from)
{
	StringInfoData buf;

	/* as large as it will ever be, so that nothing is allocated */
	buf.data = to;
	buf.len = 0;
	buf.maxlen = size;
	buf.cursor = 0;
	to[0] = '\0';
	text_append_line(&buf, from, size - 1, GetDatabaseEncoding() == PG_UTF8);
}

/* Append a byte percent-encoded. */
void
text_append_percent(StringInfo buf, unsigned char c)
{
	static const char digits[] = "0123456789ABCDEF";

	appendStringInfoChar(buf, '%');
	appendStringInfoChar(buf, digits[c >> 4]);
	appendStringInfoChar(buf, digits[c & 0x0F]);
}

/* RFC 3986's unreserved characters, the only ones safe anywhere in a URL. */
static bool
is_unreserved(unsigned char c)
{
	return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
		(c >= '0' && c <= '9') ||
		c == '-' || c == '.' || c == '_' || c == '~';
}

/* Append a text percent-encoded, as a name or a value in a URL's query. */
void
text_append_uri(StringInfo buf, const char *str)
{
	const char *p = str;

	/* mostly there is nothing to encode */
	while (is_unreserved((unsigned char) *p))
		p++;
	appendBinaryStringInfo(buf, str, p - str);
	for (; *p != '\0'; p++)
	{
		if (is_unreserved((unsigned char) *p))
			appendStringInfoChar(buf, *p);
		else
			text_append_percent(buf, (unsigned char) *p);
	}
}

/*
 * Append a text percent-encoded, as one segment of a URL's path.  "." and ".."
 * alone would be taken for steps in the path.
 */
void
text_append_uri_segment(StringInfo buf, const char *str)
{
	if (strcmp(str, ".") == 0)
		appendStringInfoString(buf, "%2E");
	else if (strcmp(str, "..") == 0)
		appendStringInfoString(buf, "%2E%2E");
	else
		text_append_uri(buf, str);
}
