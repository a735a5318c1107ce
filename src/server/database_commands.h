/*-------------------------------------------------------------------------
 *
 * database_commands.h
 *		Commands on whole databases.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_UTILITY_H
#define OUTBOX_UTILITY_H

extern void utility_init(void);

#endif							/* OUTBOX_UTILITY_H */
