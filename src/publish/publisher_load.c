/*-------------------------------------------------------------------------
 *
 * publisher_load.c
 *		From the name of a publisher to its callbacks.
 *
 * A name is that of a publisher in this library, or of another library, which
 * is loaded like an archive module.
 *
 * A table may be longer than the one that we know, or one day shorter: no
 * field behind its size is read, and those that it does not have are NULL.
 *
 * Errors: what can't be loaded, or was made for another version of the
 * interface, throws.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"

#include "publish/publisher_load.h"
#include "publish/publishers.h"

/* The table when the magic number got its present value: none is shorter. */
#define MIN_TABLE_SIZE \
	(offsetof(OutboxPublisherCallbacks, shutdown_cb) + sizeof(OutboxShutdownCB))

static const struct
{
	const char *name;
	const OutboxPublisherCallbacks *callbacks;
}			built_in[] = {
	{"dapr", &dapr_publisher},
	{"http", &http_publisher}
};

/* The table of this publisher; throws if there is none. */
static const OutboxPublisherCallbacks *
find_table(const char *name)
{
	OutboxPublisherModuleInit init;

	for (int i = 0; i < lengthof(built_in); i++)
	{
		if (strcmp(built_in[i].name, name) == 0)
			return built_in[i].callbacks;
	}
	init = (OutboxPublisherModuleInit)
		load_external_function(name, "_PG_outbox_publisher_module_init",
							   false, NULL);
	if (!init)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("library \"%s\" is not an outbox publisher", name),
				 errdetail("It has no function _PG_outbox_publisher_module_init.")));

	return init();
}

/* Throws unless the table is one that we can work with. */
static void
check_table(const char *name, const OutboxPublisherCallbacks *found)
{
	/* look at nothing behind the magic number before that is known */
	if (!found || found->magic != OUTBOX_PUBLISHER_MAGIC)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("publisher \"%s\" was built for another version of outbox",
						name),
				 errdetail("Its magic number is %08X, %08X is wanted.",
						   found ? found->magic : 0, OUTBOX_PUBLISHER_MAGIC)));
	if (found->size < MIN_TABLE_SIZE)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("publisher \"%s\" has a table of callbacks that is too short",
						name),
				 errdetail("It has %zu bytes, at least %zu are wanted.",
						   found->size, MIN_TABLE_SIZE),
				 errhint("A table begins with OUTBOX_PUBLISHER_HEAD.")));
	if (!found->submit_cb ||
		(found->sockets_cb && (!found->ready_cb || !found->cancel_cb)))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("publisher \"%s\" lacks a required callback", name)));
}

/* A copy of this publisher's callbacks; throws if it has none. */
void
publisher_load_callbacks(const char *name, OutboxPublisherCallbacks *callbacks)
{
	const OutboxPublisherCallbacks *found = find_table(name);

	check_table(name, found);
	memset(callbacks, 0, sizeof(*callbacks));
	memcpy(callbacks, found, Min(found->size, sizeof(*callbacks)));
}
