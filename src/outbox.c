/*-------------------------------------------------------------------------
 *
 * outbox.c
 *		Loads the extension: settings, shared memory, hooks, workers.
 *
 * The library is meant for shared_preload_libraries.  Loaded later, by the
 * first call of one of its functions, it only defines the settings: events
 * are stored then, with a warning, and wait for a relay.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"

#include "api/drop_notice.h"
#include "guc.h"
#include "server/server.h"
#include "server/shmem.h"

PG_MODULE_MAGIC;

PGDLLEXPORT void _PG_init(void);

void
_PG_init(void)
{
	guc_define();
	if (!process_shared_preload_libraries_in_progress)
		return;
	shmem_init();
	shmem_wake_init();
	database_commands_init();
	drop_notice_init();

	/* pg_upgrade wants every database for itself. */
	if (!IsBinaryUpgrade)
		launcher_register();
}
