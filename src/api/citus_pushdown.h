/*-------------------------------------------------------------------------
 *
 * citus_pushdown.h
 *		Publishing in a query that Citus runs on another node.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_CITUS_PUSHDOWN_H
#define OUTBOX_CITUS_PUSHDOWN_H

extern void citus_pushdown_refuse(void);

#endif							/* OUTBOX_CITUS_PUSHDOWN_H */
