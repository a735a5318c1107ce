/*-------------------------------------------------------------------------
 *
 * dapr_version.c
 *		daprd's version: what it says of its bulk API.
 *
 * What is palloc'd is in the current memory context.  No locks.  Errors: none but
 * those of memory.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/json_members.h"
#include "publish/publisher_dapr_bulk.h"

/* The stable route came with this version. */
#define STABLE_MAJOR 1
#define STABLE_MINOR 17

/* JsonMemberCB: daprd's version, if there is one. */
static void
version_member(void *arg, int depth, const char *top, const char *name,
			   const char *value)
{
	const char **version = arg;

	if (depth == 1 && name != NULL && strcmp(name, "runtimeVersion") == 0)
		*version = pstrdup(value);
}

/* Has this version the stable route?  "edge" is a build between releases. */
static bool
version_has_stable(const char *version)
{
	int			major;
	int			minor;

	return strcmp(version, "edge") == 0 ||
		(sscanf(version, "%d.%d", &major, &minor) == 2 &&
		 (major > STABLE_MAJOR ||
		  (major == STABLE_MAJOR && minor >= STABLE_MINOR)));
}

/* daprd's version in what it tells of itself, palloc'd; NULL: it is not there. */
const char *
dapr_version_in(const char *metadata, size_t len)
{
	const char *version = NULL;

	(void) json_members_read(metadata, len, version_member, &version);
	return version;
}

/* This is daprd's version.  Another one than before may have other routes. */
void
dapr_version_found(DaprBulkState *bulk, const char *version)
{
	bool		known = bulk->version[0] != '\0';

	if (strncmp(bulk->version, version, sizeof(bulk->version) - 1) == 0)
		return;
	strlcpy(bulk->version, version, sizeof(bulk->version));
	bulk->has_stable = version_has_stable(version);
	if (known)
		memset(bulk->missing, false, sizeof(bulk->missing));
}
