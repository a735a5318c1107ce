/*-------------------------------------------------------------------------
 *
 * relay_main.h
 *		The relay's process.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_WORKER_H
#define OUTBOX_WORKER_H

extern PGDLLEXPORT void outbox_relay_main(Datum arg);

#endif							/* OUTBOX_WORKER_H */
