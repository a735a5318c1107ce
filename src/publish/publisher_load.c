/*-------------------------------------------------------------------------
 *
 * publisher_load.c
 *		From the name of a publisher to its callbacks.
 *
 * A name is that of a publisher in this library, or of another library, which
 * is loaded like an archive module.
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

static const struct
{
	const char *name;
	const OutboxPublisherCallbacks *callbacks;
}			built_in[] = {
	{"dapr", &dapr_publisher},
	{"http", &http_publisher}
};

/* The callbacks of this publisher; throws if there are none. */
const OutboxPublisherCallbacks *
publisher_find_callbacks(const char *name)
{
	const OutboxPublisherCallbacks *found;
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

	/* look at nothing behind the magic number before that is known */
	found = init();
	if (!found || found->magic != OUTBOX_PUBLISHER_MAGIC)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("publisher \"%s\" was built for another version of outbox",
						name),
				 errdetail("Its magic number is %08X, %08X is wanted.",
						   found ? found->magic : 0, OUTBOX_PUBLISHER_MAGIC)));
	if (!found->submit_cb ||
		(found->sockets_cb && (!found->ready_cb || !found->cancel_cb)))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("publisher \"%s\" lacks a required callback", name)));
	return found;
}
