/*-------------------------------------------------------------------------
 *
 * launcher.h
 *		The process that keeps a relay running for every database.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_LAUNCHER_H
#define OUTBOX_LAUNCHER_H

extern void launcher_register(void);
extern PGDLLEXPORT void outbox_launcher_main(Datum arg);

#endif							/* OUTBOX_LAUNCHER_H */
