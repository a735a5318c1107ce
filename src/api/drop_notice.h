/*-------------------------------------------------------------------------
 *
 * drop_notice.h
 *		DROP EXTENSION says how many events it takes away undelivered.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_DROP_NOTICE_H
#define OUTBOX_DROP_NOTICE_H

extern void drop_notice_init(void);

#endif							/* OUTBOX_DROP_NOTICE_H */
