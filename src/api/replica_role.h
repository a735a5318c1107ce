/*-------------------------------------------------------------------------
 *
 * replica_role.h
 *		Rows that are written in session_replication_role = replica.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_REPLICA_ROLE_H
#define OUTBOX_REPLICA_ROLE_H

#include "commands/trigger.h"

extern bool replica_role_drops(const TriggerData *trigger);
extern void replica_role_tell_of_restore(void);

#endif							/* OUTBOX_REPLICA_ROLE_H */
