/*-------------------------------------------------------------------------
 *
 * trace_context.h
 *		The trace context that an event is published in.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_TRACE_CONTEXT_H
#define OUTBOX_TRACE_CONTEXT_H

extern bool trace_context_is_valid(const char *str, int len);

#endif							/* OUTBOX_TRACE_CONTEXT_H */
