/*-------------------------------------------------------------------------
 *
 * secret_text.h
 *		Finding secrets in a text, however they are written.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_SECRET_TEXT_H
#define OUTBOX_SECRET_TEXT_H

#include "nodes/pg_list.h"

extern List *secret_text_add(List *secrets, const char *secret);
extern void secret_text_mask(const char *const *secrets, int nsecrets,
							 char *str);

#endif							/* OUTBOX_SECRET_TEXT_H */
