/*-------------------------------------------------------------------------
 *
 * text.h
 *		Texts that go into one line, a header, or a URL.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_TEXT_H
#define OUTBOX_TEXT_H

#include "lib/stringinfo.h"

/* Room for an error that people see, and its NUL. */
#define OUTBOX_ERROR_SIZE 256

/* C0 or DEL, in any encoding of a server. */
static inline bool
text_is_control(char c)
{
	return (unsigned char) c < ' ' || c == 0x7f;
}

extern bool text_has_control(const char *str, Size len);
extern bool text_has_c1(const char *utf8, Size len);
extern bool text_has_noncharacter(const char *utf8, Size len);
extern Size text_token_length(const char *str);
extern const char *text_next_line(const char **rest, Size *len);
extern void text_append_line(StringInfo buf, const char *str, Size max,
							 bool utf8);
extern void text_copy_line(char *to, Size size, const char *from);
extern void text_append_percent(StringInfo buf, unsigned char c);
extern void text_append_uri(StringInfo buf, const char *str);
extern void text_append_uri_segment(StringInfo buf, const char *str);

#endif							/* OUTBOX_TEXT_H */
