/*-------------------------------------------------------------------------
 *
 * file_state.h
 *		Is a file another one than it was?
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_FILE_STATE_H
#define OUTBOX_FILE_STATE_H

#include <sys/stat.h>

/* What stat() says of a path; all zero: nothing. */
typedef struct FileState
{
	dev_t		dev;
	ino_t		ino;
	off_t		size;
	struct timespec mtime;
	struct timespec ctime;		/* who may read it has changed, perhaps */
} FileState;

extern void file_state_look(const char *path, FileState *state);
extern bool file_state_changed(const char *path, const FileState *state);

#endif							/* OUTBOX_FILE_STATE_H */
