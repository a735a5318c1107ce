/*-------------------------------------------------------------------------
 *
 * uuidv7.h
 *		Ids for events.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_UUIDV7_H
#define OUTBOX_UUIDV7_H

#include "utils/uuid.h"

extern void uuidv7_generate(pg_uuid_t *uuid);

#endif							/* OUTBOX_UUIDV7_H */
