/*-------------------------------------------------------------------------
 *
 * file_watch.h
 *		The files that a module's settings name, read again when they change.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_FILE_WATCH_H
#define OUTBOX_FILE_WATCH_H

#include "lib/file_state.h"
#include "lib/text.h"
#include "outbox_publisher.h"

/* The settings of a module name so many files at most. */
#define FILE_WATCH_MAX 5

/* All zero: there are no files. */
typedef struct FileWatch
{
	char	   *paths[FILE_WATCH_MAX];
	FileState	states[FILE_WATCH_MAX];
	int			n;
	int64		look_at;		/* when to look again */
	char		problem[OUTBOX_ERROR_SIZE]; /* what was told; empty: none */
} FileWatch;

/* Read the settings and use them; false, and the reason, if those of before stay. */
typedef bool (*ReadSettings) (OutboxPublisherState *state, const char **reason);

extern void file_watch_begin(FileWatch *watch, OutboxPublisherState *state,
							 const char *const *paths, int n);
extern void file_watch_follow(FileWatch *watch, OutboxPublisherState *state,
							  ReadSettings read);
extern void file_watch_reset(FileWatch *watch, OutboxPublisherState *state);

#endif							/* OUTBOX_FILE_WATCH_H */
