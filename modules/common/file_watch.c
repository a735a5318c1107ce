/*-------------------------------------------------------------------------
 *
 * file_watch.c
 *		The files that a module's settings name, read again when they change.
 *
 * A module reads all its settings at once, files included, and has those of before
 * until that has gone well.  So when one of the files has changed, it reads them
 * again, and goes on with what it has if they cannot be used: half a file, or a key
 * before its certificate, must not stop anything.  That is said once, in the log, and
 * in outbox_check() as long as it is so.
 *
 * What has changed shows at most a second later, when something is sent.
 *
 * Memory: paths are in state->context, until there are others.  Errors: only out of
 * memory is thrown.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "common/file_watch.h"
#include "lib/clock.h"
#include "lib/log_limit.h"

/* A look at the files takes no time to speak of, so many a second do. */
#define LOOK_PAUSE_MS 1000

/* These files, of which empty paths stand for none, are about to be read. */
void
file_watch_begin(FileWatch *watch, OutboxPublisherState *state,
				 const char *const *paths, int n)
{
	char	   *copies[FILE_WATCH_MAX];

	/* what may throw comes first */
	Assert(n <= FILE_WATCH_MAX);
	for (int i = 0; i < n; i++)
		copies[i] = MemoryContextStrdup(state->context, paths[i] ? paths[i] : "");
	for (int i = 0; i < watch->n; i++)
		pfree(watch->paths[i]);
	for (int i = 0; i < n; i++)
	{
		watch->paths[i] = copies[i];
		file_state_look(copies[i], &watch->states[i]);
	}
	watch->n = n;
	watch->look_at = clock_ms() + LOOK_PAUSE_MS;
}

/* Is one of them another one than when it was read?  Not looked at too often. */
static bool
have_changed(FileWatch *watch)
{
	if (watch->n == 0 || clock_ms() < watch->look_at)
		return false;
	watch->look_at = clock_ms() + LOOK_PAUSE_MS;
	for (int i = 0; i < watch->n; i++)
	{
		if (file_state_changed(watch->paths[i], &watch->states[i]))
			return true;
	}
	return false;
}

/* Have the settings read again if one of the files has changed. */
void
file_watch_follow(FileWatch *watch, OutboxPublisherState *state, ReadSettings read)
{
	const char *problem = NULL;

	if (!have_changed(watch))
		return;
	if (read(state, &problem))
		problem = NULL;
	if (problem != NULL &&
		strncmp(watch->problem, problem, OUTBOX_ERROR_SIZE - 1) != 0 &&
		log_is_due("file unusable", problem))
		ereport(LOG,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("outbox: a file has changed and cannot be used"),
				 errdetail("%s", problem),
				 errhint("What was read before stays in use until it can.")));
	strlcpy(watch->problem, problem ? problem : "", OUTBOX_ERROR_SIZE);
	outbox_notice(state, OUTBOX_NOTICE_FILES, problem);
}

/* The relay has had the settings read: what was wrong with a file is its matter. */
void
file_watch_reset(FileWatch *watch, OutboxPublisherState *state)
{
	watch->problem[0] = '\0';
	outbox_notice(state, OUTBOX_NOTICE_FILES, NULL);
}
