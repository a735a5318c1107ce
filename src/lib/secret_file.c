/*-------------------------------------------------------------------------
 *
 * secret_file.c
 *		Files that hold what must not be the value of a setting.
 *
 * A setting is shown to monitoring, and the log tells its changes, so that
 * secrets are files and settings name them.  The server's user reads the file; a
 * superuser has set its name.  Who may read it besides follows the server's rule
 * for ssl_key_file.  What belongs to a secret and is none itself, a certificate, is
 * read in the same way, whoever else may.
 *
 * Errors.  A file that cannot be read is an answer.  Errors are thrown out of
 * memory, and if there is no room for one more open file.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "storage/fd.h"

#include "lib/secret_file.h"

/* The largest file that is read. */
#define FILE_MAX (64 * 1024)

/*
 * Why not to trust a file with a secret; NULL: there is no reason.  A secret is the
 * server's user's alone, or root's, who may let the user's group read it.
 */
static const char *
secret_problem(const struct stat *st, const char *path)
{
	mode_t		others;

	if (st->st_uid != geteuid() && st->st_uid != 0)
		return psprintf("file \"%s\" must be owned by the server's user or root, not by user ID %u",
						path, (unsigned) st->st_uid);
	others = st->st_uid == 0 ? S_IWGRP | S_IXGRP | S_IRWXO : S_IRWXG | S_IRWXO;
	if (st->st_mode & others)
		return psprintf("file \"%s\" has permissions 0%03o, it must have %s", path,
						(unsigned) (st->st_mode & ~S_IFMT),
						st->st_uid == 0 ? "0640 or less, as it is owned by root" :
						"0600 or less");
	return NULL;
}

/* Why not to read an open file; NULL: there is no reason. */
static const char *
open_file_problem(int fd, const char *path, bool secret)
{
	struct stat st;
	const char *problem;

	if (fstat(fd, &st) < 0)
		return psprintf("could not stat file \"%s\": %m", path);
	if (!S_ISREG(st.st_mode))
		return psprintf("\"%s\" is not a regular file", path);
	problem = secret ? secret_problem(&st, path) : NULL;
	if (problem == NULL && st.st_size > FILE_MAX)
		problem = psprintf("file \"%s\" is too large", path);
	return problem;
}

/*
 * Read a small regular file, which nobody else can if it is a secret one: *str is
 * its contents, and a NUL.  False and a reason, which shows nothing of the
 * contents, if that is not possible.  A NUL inside is not possible, either: what
 * is behind it would be lost without a word.  Both texts are in the current memory
 * context.
 */
static bool
read_small_file(const char *path, bool secret, char **str,
				const char **reason)
{
	/* O_NONBLOCK: a pipe must not make us wait for somebody to write to it */
	int			fd = OpenTransientFile(path, O_RDONLY | O_NONBLOCK);
	ssize_t		len;

	if (fd < 0)
	{
		*reason = psprintf("could not open file \"%s\": %m", path);
		return false;
	}
	*str = palloc0(FILE_MAX + 1);
	*reason = open_file_problem(fd, path, secret);
	if (*reason == NULL)
	{
		if ((len = read(fd, *str, FILE_MAX)) < 0)
			*reason = psprintf("could not read file \"%s\": %m", path);
		else if (strlen(*str) != len)
			*reason = psprintf("file \"%s\" contains a NUL character", path);
	}
	CloseTransientFile(fd);
	return *reason == NULL;
}

/* Read a file with a secret, as above. */
bool
secret_file_read(const char *path, char **str, const char **reason)
{
	return read_small_file(path, true, str, reason);
}

/* Read a file that anybody may read, as above. */
bool
public_file_read(const char *path, char **str, const char **reason)
{
	return read_small_file(path, false, str, reason);
}
