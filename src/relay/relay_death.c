/*-------------------------------------------------------------------------
 *
 * relay_death.c
 *		Has the relay before this one died by itself?
 *
 * When a relay is found to have ended without its last checkpoint, one of its
 * events may have been the reason: a crash in a publisher, or so much memory
 * that the system killed it.  But mostly it was not: whenever any process of the
 * server crashes, the postmaster has all others quit; and the machine may have
 * failed.  No event shall be set aside for that.
 *
 * Shared memory does not outlive a crash, so a relay keeps a file.  In it stands
 * that it runs, until it is told to end, by SIGQUIT for instance: then the
 * signal handler writes that down.  A relay that finds a file of its
 * predecessor, of the same postmaster and without this mark, knows that it died
 * by itself.  It says so in its own file until it has acted on it.  A relay that
 * ends in order removes its file.
 *
 * A death that takes the postmaster along, because restart_after_crash is off or
 * everything in a container is killed at once, cannot be told from one of the
 * machine, and does not count.
 *
 * The file is in the directory of temporary statistics, which backups leave out.
 * It need not survive a crash of the system, and is never flushed.
 *
 * Locks: none; the slot of shared memory makes sure that there is one relay.
 * Errors: without the file nothing counts as a death, which the log says.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/fd.h"
#include "utils/timestamp.h"

#include "relay/relay.h"

/* What is in the file. */
typedef struct DeathFile
{
	TimestampTz postmaster;		/* when it started */
	char		told_to_end;	/* 1: yes */
	char		died;			/* 1: so did the relay before this one */
} DeathFile;

static char death_path[MAXPGPATH];
static int	death_file = -1;	/* its descriptor; -1: there is none */
static bool death_pending = false;	/* the one before died, and nobody has
									 * acted on that */

/* Write the mark; safe in a signal handler. */
static void
write_told_to_end(void)
{
	static const char yes = 1;

	if (death_file >= 0 &&
		pwrite(death_file, &yes, 1, offsetof(DeathFile, told_to_end)) < 0)
		return;					/* then it counts as a death */
}

/* SIGQUIT: another process has crashed, or this is an immediate shutdown. */
static void
handle_sigquit(SIGNAL_ARGS)
{
	write_told_to_end();
	_exit(2);
}

static void
report_no_file(void)
{
	ereport(LOG,
			(errcode_for_file_access(),
			 errmsg("outbox: could not use file \"%s\": %m", death_path),
			 errdetail("If an event makes the relay crash, nobody will know.")));
}

/* Look into the file of the relay before this one, and begin this one's. */
void
relay_death_begin(Oid dboid, int destination)
{
	DeathFile	file;

	snprintf(death_path, MAXPGPATH, PG_STAT_TMP_DIR "/outbox.%u.%d", dboid,
			 destination);
	death_file = BasicOpenFile(death_path, O_RDWR | O_CREAT | PG_BINARY);
	if (death_file < 0)
	{
		report_no_file();
		return;
	}
	death_pending = pread(death_file, &file, sizeof(file), 0) == sizeof(file) &&
		file.postmaster == PgStartTime &&
		(file.died == 1 || file.told_to_end != 1);

	/* from here on it is known whether this one was told */
	pqsignal(SIGQUIT, handle_sigquit);
	memset(&file, 0, sizeof(file));
	file.postmaster = PgStartTime;
	file.died = death_pending;
	if (pwrite(death_file, &file, sizeof(file), 0) != sizeof(file))
	{
		report_no_file();
		close(death_file);
		death_file = -1;
	}
}

/* Has a relay before this one died by itself, and nobody acted on it yet? */
bool
relay_death_pending(void)
{
	return death_pending;
}

/* What follows from the death of the relay before this one is written down. */
void
relay_death_done(void)
{
	static const char no = 0;

	death_pending = false;
	if (death_file >= 0 &&
		pwrite(death_file, &no, 1, offsetof(DeathFile, died)) < 0)
		return;					/* then it counts once more */
}

/* This relay ends in order: there is nothing to remember. */
void
relay_death_none(void)
{
	if (death_pending)
		write_told_to_end();
	else
		(void) unlink(death_path);
}
