/*-------------------------------------------------------------------------
 *
 * json_text.h
 *		JSON as text.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_JSON_TEXT_H
#define OUTBOX_JSON_TEXT_H

#include "lib/stringinfo.h"
#include "utils/jsonb.h"

extern void json_append_string(StringInfo buf, const char *str, Size len);
extern bool json_append_jsonb(StringInfo buf, Jsonb *jb, Size max);

#endif							/* OUTBOX_JSON_TEXT_H */
