/*-------------------------------------------------------------------------
 *
 * event_check.h
 *		What makes an event valid.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_EVENT_CHECK_H
#define OUTBOX_EVENT_CHECK_H

extern void event_check_id(Datum id);
extern void event_check(Datum *values, bool *nulls);

#endif							/* OUTBOX_EVENT_CHECK_H */
