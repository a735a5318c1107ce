/*-------------------------------------------------------------------------
 *
 * file_state.c
 *		Is a file another one than it was?
 *
 * Secrets are rotated, by writing to a file, by renaming another one to its name,
 * or by a symbolic link on the way to it.  All that shows in what stat() says of the
 * path, which is cheap enough to be asked all the time.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/file_state.h"

/* What there is at this path now; an empty one stands for no file. */
void
file_state_look(const char *path, FileState *state)
{
	struct stat st;

	/* as a whole, for it is compared byte for byte */
	memset(state, 0, sizeof(*state));
	if (path[0] == '\0' || stat(path, &st) < 0)
		return;
	state->dev = st.st_dev;
	state->ino = st.st_ino;
	state->size = st.st_size;
	state->mtime = st.st_mtim;
	state->ctime = st.st_ctim;
}

/* Is that another file than the one which was looked at? */
bool
file_state_changed(const char *path, const FileState *state)
{
	FileState	now;

	file_state_look(path, &now);
	return memcmp(&now, state, sizeof(now)) != 0;
}
