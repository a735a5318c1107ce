/*-------------------------------------------------------------------------
 *
 * secret_file.c
 *		Files that hold what must not be the value of a setting.
 *
 * Anybody may be shown a setting, so that secrets are files and settings name
 * them.  The server's user reads the file; a superuser has set its name.
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
 * Read a small regular file: *str is its contents, and a NUL.  False and a
 * reason, which shows nothing of the contents, if that is not possible.  A NUL
 * inside is not possible, either: what is behind it would be lost without a
 * word.  Both texts are in the current memory context.
 */
bool
secret_file_read(const char *path, char **str, const char **reason)
{
	/* O_NONBLOCK: a pipe must not make us wait for somebody to write to it */
	int			fd = OpenTransientFile(path, O_RDONLY | O_NONBLOCK);
	struct stat st;
	ssize_t		len;
	bool		ok = false;

	if (fd < 0)
	{
		*reason = psprintf("could not open file \"%s\": %m", path);
		return false;
	}
	*str = palloc0(FILE_MAX + 1);
	if (fstat(fd, &st) < 0)
		*reason = psprintf("could not stat file \"%s\": %m", path);
	else if (!S_ISREG(st.st_mode))
		*reason = psprintf("\"%s\" is not a regular file", path);
	else if (st.st_size > FILE_MAX)
		*reason = psprintf("file \"%s\" is too large", path);
	else if ((len = read(fd, *str, FILE_MAX)) < 0)
		*reason = psprintf("could not read file \"%s\": %m", path);
	else if (strlen(*str) != len)
		*reason = psprintf("file \"%s\" contains a NUL character", path);
	else
		ok = true;
	CloseTransientFile(fd);
	return ok;
}
