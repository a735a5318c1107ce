/*-------------------------------------------------------------------------
 *
 * watched_file.c
 *		Files that are named by settings and read again when they change.
 *
 * Secrets are rotated, and file_state.c says when.
 *
 * Files that are good only together, a certificate and its key, are a group; mostly
 * it has one file.  What was read of a group last and could be used is kept.  It is
 * what its user gets as long as what has come in its place cannot be used: half a
 * file, or a key before its certificate, must not stop anything.  That is said once,
 * in the log, and by watched_files_problem() as long as it is so.
 *
 * A user reads all its files between watched_files_begin() and _end(): at first, when
 * the settings have changed, and when watched_files_changed() says so.  Groups that
 * were not read are forgotten.
 *
 * Memory.  Groups are in a context of their own; texts are overwritten before they
 * are freed.
 *
 * Errors.  What is wrong with a file is an answer.  Errors are thrown as in
 * secret_file.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/ilist.h"
#include "utils/memutils.h"

#include "lib/file_state.h"
#include "lib/log_limit.h"
#include "lib/secret_file.h"
#include "lib/watched_file.h"

typedef struct WatchedGroup
{
	dlist_node	node;
	MemoryContext context;		/* holds this and what it points to */
	const WatchedKind *kind;
	char	   *paths[WATCHED_MAX]; /* empty: there is no such file */
	FileState	states[WATCHED_MAX];	/* before they were read last */
	bool		wanted;			/* it was read since watched_files_begin() */
	bool		good;			/* texts are there */
	char	   *texts[WATCHED_MAX]; /* those that could be used last */
	char	   *problem;		/* with what was read last; NULL: none */
} WatchedGroup;

struct WatchedFiles
{
	MemoryContext context;
	dlist_head	groups;
};

/* No files yet; in a child of "parent". */
WatchedFiles *
watched_files_create(MemoryContext parent)
{
	MemoryContext context = AllocSetContextCreate(parent,
												  "outbox watched files",
												  ALLOCSET_SMALL_SIZES);
	WatchedFiles *files = MemoryContextAllocZero(context,
												 sizeof(WatchedFiles));

	files->context = context;
	dlist_init(&files->groups);
	return files;
}

static void
forget_text(char **text)
{
	if (*text == NULL)
		return;
	explicit_bzero(*text, strlen(*text));
	pfree(*text);
	*text = NULL;
}

static void
forget_group(WatchedGroup *group)
{
	dlist_delete(&group->node);
	for (int i = 0; i < WATCHED_MAX; i++)
		forget_text(&group->texts[i]);
	MemoryContextDelete(group->context);
}

static WatchedGroup *
find_group(WatchedFiles *files, const WatchedKind *kind,
		   const char *const *paths)
{
	dlist_iter	iter;

	dlist_foreach(iter, &files->groups)
	{
		WatchedGroup *group = dlist_container(WatchedGroup, node, iter.cur);
		bool		same = group->kind == kind;

		for (int i = 0; same && i < kind->nfiles; i++)
			same = strcmp(group->paths[i], paths[i]) == 0;
		if (same)
			return group;
	}
	return NULL;
}

static WatchedGroup *
add_group(WatchedFiles *files, const WatchedKind *kind,
		  const char *const *paths)
{
	MemoryContext context = AllocSetContextCreate(files->context,
												  "outbox watched file",
												  ALLOCSET_SMALL_SIZES);
	WatchedGroup *group = MemoryContextAllocZero(context,
												 sizeof(WatchedGroup));

	group->context = context;
	group->kind = kind;
	for (int i = 0; i < kind->nfiles; i++)
		group->paths[i] = MemoryContextStrdup(context, paths[i]);
	dlist_push_tail(&files->groups, &group->node);
	return group;
}

/*
 * What the files hold now, in the current memory context; "texts" are NULL before.
 * NULL, or why that cannot be used.
 */
static const char *
read_group(WatchedGroup *group, char **texts)
{
	const WatchedKind *kind = group->kind;
	const char *reason;

	/* first, and at all: what happens to them from here on is another change */
	for (int i = 0; i < kind->nfiles; i++)
		file_state_look(group->paths[i], &group->states[i]);
	for (int i = 0; i < kind->nfiles; i++)
	{
		const char *path = group->paths[i];

		if (path[0] != '\0' &&
			!(kind->is_public[i] ? public_file_read : secret_file_read)
			(path, &texts[i], &reason))
			return reason;
	}
	return kind->problem((const char *const *) texts,
						 (const char *const *) group->paths);
}

/* Note what is wrong, and say so if it was not said before; or NULL. */
static void
set_problem(WatchedGroup *group, const char *problem)
{
	bool		is_new = problem != NULL &&
	(group->problem == NULL || strcmp(group->problem, problem) != 0);

	/* without anything to go on with, it is an error of the settings */
	if (is_new && group->good && log_is_due("file unusable", problem))
		ereport(LOG,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("outbox: a file has changed and cannot be used"),
				 errdetail("%s", problem),
				 errhint("What was read before stays in use until it can.")));
	if (group->problem != NULL)
		pfree(group->problem);
	group->problem = NULL;
	if (problem != NULL)
		group->problem = MemoryContextStrdup(group->context, problem);
}

/* Keep copies of these texts, which can be used, in place of those of before. */
static void
keep_texts(WatchedGroup *group, char *const *texts)
{
	char	   *copies[WATCHED_MAX] = {NULL};

	/* what may throw comes first */
	for (int i = 0; i < group->kind->nfiles; i++)
	{
		if (texts[i] != NULL)
			copies[i] = MemoryContextStrdup(group->context, texts[i]);
	}
	for (int i = 0; i < group->kind->nfiles; i++)
	{
		forget_text(&group->texts[i]);
		group->texts[i] = copies[i];
	}
	group->good = true;
}

/* All files will be read. */
void
watched_files_begin(WatchedFiles *files)
{
	dlist_iter	iter;

	dlist_foreach(iter, &files->groups)
		dlist_container(WatchedGroup, node, iter.cur)->wanted = false;
}

/*
 * Read the files of these paths, of which the empty ones stand for none: texts[i] is
 * what paths[i] holds, or what it held when all of them could be used last, until
 * watched_files_read() is called again; NULL if there is no such file.  False and a
 * reason, until then as well, if they never could.
 */
bool
watched_files_read(WatchedFiles *files, const WatchedKind *kind,
				   const char *const *paths, const char **texts,
				   const char **reason)
{
	WatchedGroup *group = find_group(files, kind, paths);
	char	   *found[WATCHED_MAX] = {NULL};
	const char *problem;

	Assert(kind->nfiles <= WATCHED_MAX);
	if (group == NULL)
		group = add_group(files, kind, paths);
	group->wanted = true;
	problem = read_group(group, found);
	set_problem(group, problem);
	if (problem == NULL)
		keep_texts(group, found);
	for (int i = 0; i < kind->nfiles; i++)
	{
		forget_text(&found[i]);
		texts[i] = group->texts[i];
	}
	*reason = group->problem;
	return group->good;
}

/* All files that are needed were read: forget the others. */
void
watched_files_end(WatchedFiles *files)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &files->groups)
	{
		WatchedGroup *group = dlist_container(WatchedGroup, node, iter.cur);

		if (!group->wanted)
			forget_group(group);
	}
}

/* Is one of the files another one than when it was read? */
bool
watched_files_changed(WatchedFiles *files)
{
	dlist_iter	iter;

	dlist_foreach(iter, &files->groups)
	{
		const WatchedGroup *group = dlist_container(WatchedGroup, node, iter.cur);

		for (int i = 0; i < group->kind->nfiles; i++)
		{
			if (file_state_changed(group->paths[i], &group->states[i]))
				return true;
		}
	}
	return false;
}

/*
 * Why the first of the files that have changed cannot be used; NULL: all can, or
 * there is nothing that was read before.
 */
const char *
watched_files_problem(WatchedFiles *files)
{
	dlist_iter	iter;

	dlist_foreach(iter, &files->groups)
	{
		const WatchedGroup *group = dlist_container(WatchedGroup, node, iter.cur);

		if (group->good && group->problem != NULL)
			return group->problem;
	}
	return NULL;
}

/* Forget all that was read. */
void
watched_files_destroy(WatchedFiles *files)
{
	watched_files_begin(files);
	watched_files_end(files);
	MemoryContextDelete(files->context);
}
