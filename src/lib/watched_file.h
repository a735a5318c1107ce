/*-------------------------------------------------------------------------
 *
 * watched_file.h
 *		Files that are named by settings and read again when they change.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_WATCHED_FILE_H
#define OUTBOX_WATCHED_FILE_H

/* Files that are good only together: so many at most. */
#define WATCHED_MAX 3

/* What files of a kind are. */
typedef struct WatchedKind
{
	int			nfiles;
	bool		is_public[WATCHED_MAX]; /* anybody may read it */

	/*
	 * Why the texts cannot be used, in a sentence that shows nothing of them
	 * and says which file is meant; NULL: they can.  A text is NULL if there
	 * is no file.
	 */
	const char *(*problem) (const char *const *texts,
							const char *const *paths);
} WatchedKind;

typedef struct WatchedFiles WatchedFiles;

extern WatchedFiles *watched_files_create(MemoryContext parent);
extern void watched_files_begin(WatchedFiles *files);
extern bool watched_files_read(WatchedFiles *files, const WatchedKind *kind,
							   const char *const *paths, const char **texts,
							   const char **reason);
extern void watched_files_end(WatchedFiles *files);
extern bool watched_files_changed(WatchedFiles *files);
extern const char *watched_files_problem(WatchedFiles *files);
extern void watched_files_destroy(WatchedFiles *files);

#endif							/* OUTBOX_WATCHED_FILE_H */
