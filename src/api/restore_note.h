/*-------------------------------------------------------------------------
 *
 * restore_note.h
 *		How many events a transaction restores, for outbox_check().
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_RESTORE_NOTE_H
#define OUTBOX_RESTORE_NOTE_H

#include "utils/relcache.h"

extern void restore_note_count(Relation table);

#endif							/* OUTBOX_RESTORE_NOTE_H */
