/*-------------------------------------------------------------------------
 *
 * template.h
 *		Names made of what a message has: {topic}, {key}, {type}.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_TEMPLATE_H
#define OUTBOX_TEMPLATE_H

#include "outbox_publisher.h"

extern const char *template_problem(const char *pattern);
extern const char *template_expand(const char *pattern,
								   const OutboxMessage *message);

#endif							/* OUTBOX_TEMPLATE_H */
