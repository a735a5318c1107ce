/*-------------------------------------------------------------------------
 *
 * publisher_host.c
 *		The relay's side of the publisher interface: load, configure, end.
 *
 * A host has one publisher, the one that outbox.publisher names.  When the
 * setting changes, the old one is shut down and the new one started.
 *
 * When the process ends, the publisher is shut down as well, before anything
 * of the server is; but not if a callback is still under way, from which it
 * ends by a FATAL error.  What a publisher throws then ends the process no
 * sooner and no later.
 *
 * Memory: the host and its queue are in a context of its own, and below it one
 * for the strings of the settings, one that is emptied after each callback,
 * and the publisher's, which is deleted when it is shut down.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "guc.h"
#include "lib/compat.h"
#include "publish/cloudevent.h"
#include "publish/publisher_host_internal.h"
#include "publish/publisher_load.h"

static void
shutdown_body(PublisherHost *host, void *arg)
{
	if (host->callbacks->shutdown_cb)
		host->callbacks->shutdown_cb(&host->state);
}

/* The process ends, for whatever reason: before_shmem_exit. */
static void
shutdown_at_exit(int code, Datum arg)
{
	PublisherHost *host = (PublisherHost *) DatumGetPointer(arg);

	if (host->callbacks && !host->calling)
		publisher_call(host, shutdown_body, NULL);
}

/* "database" is its name, not copied.  The host lives as long as the process. */
PublisherHost *
publisher_create(MemoryContext parent, const char *database)
{
	MemoryContext context = AllocSetContextCreate(parent,
												  "outbox publisher host",
												  ALLOCSET_DEFAULT_SIZES);
	PublisherHost *host = MemoryContextAllocZero(context,
												 sizeof(PublisherHost));

	host->context = context;
	host->call_context = AllocSetContextCreate(context,
											   "outbox publisher callback",
											   ALLOCSET_DEFAULT_SIZES);
	host->database = database;
	host->answers = answers_create(context);
	before_shmem_exit(shutdown_at_exit, PointerGetDatum(host));
	return host;
}

static void
unload_publisher(PublisherHost *host)
{
	if (host->callbacks)
		publisher_call(host, shutdown_body, NULL);
	host->callbacks = NULL;
	host->destination = DESTINATION_UNKNOWN;
	if (host->state.context)
		MemoryContextDelete(host->state.context);
	memset(&host->state, 0, sizeof(host->state));
	if (host->loaded_name)
		pfree(host->loaded_name);
	host->loaded_name = NULL;
}

static void
load_body(PublisherHost *host, void *arg)
{
	publisher_load_callbacks(guc_publisher, &host->table);
	if (host->table.startup_cb)
		host->table.startup_cb(&host->state);

	/* only now: what failed to start is not to be shut down */
	host->callbacks = &host->table;
}

/*
 * The settings as they are now, with strings in a context of their own.  "source" is
 * the database's, unless a setting says otherwise.
 */
static void
fill_in_settings(PublisherHost *host, const char *source)
{
	OutboxPublisherState *state = &host->state;
	MemoryContext caller;

	host->settings = AllocSetContextCreate(host->context,
										   "outbox publisher settings",
										   ALLOCSET_SMALL_SIZES);
	caller = MemoryContextSwitchTo(host->settings);
	state->database = host->database;
	state->source = pstrdup(guc_source[0] ? guc_source : source);
	state->tls_ca_file = guc_tls_ca_file[0] ? pstrdup(guc_tls_ca_file) : NULL;
	MemoryContextSwitchTo(caller);

	state->max_in_flight = guc_max_in_flight;
	state->max_payload_size = guc_max_payload_size;
	state->connect_timeout = guc_connect_timeout;
	state->request_timeout = guc_request_timeout;
	state->max_batch = 1;
	state->max_batch_bytes = 0;
	state->max_messages = 0;
}

/* "arg" is a bool that becomes: can it send? */
static void
configure_body(PublisherHost *host, void *arg)
{
	bool	   *configured = arg;
	const char *reason = NULL;

	*configured = !host->callbacks->check_configured_cb ||
		host->callbacks->check_configured_cb(&host->state, &reason);
	if (!*configured)
		publisher_copy_reason(host->last_error, reason);
}

static bool
load_publisher(PublisherHost *host)
{
	host->state.sversion = server_version_num_compat();
	host->state.context = AllocSetContextCreate(host->context,
												"outbox publisher",
												ALLOCSET_DEFAULT_SIZES);
	host->state.answer = publisher_take_answer;
	host->state.probe_answer = publisher_take_probe_answer;
	host->state.notice = publisher_take_notice;
	if (!publisher_call_in(host, host->state.context, load_body, NULL))
	{
		unload_publisher(host);
		return false;
	}
	host->loaded_name = MemoryContextStrdup(host->context, guc_publisher);
	return true;
}

/* Is the publisher that outbox.publisher names the one that is loaded? */
bool
publisher_is_current(const PublisherHost *host)
{
	return host->loaded_name && strcmp(host->loaded_name, guc_publisher) == 0;
}

/*
 * Load the publisher if need be and let it read the settings: at the start
 * and after every reload.  Nothing may be in flight when another one has to
 * be loaded.  False if it can't send; publisher_last_error() tells why.
 * "source" is what events have that no setting gives another one; it is copied.
 */
bool
publisher_configure(PublisherHost *host, const char *source)
{
	bool		configured = false;
	bool		ok;
	MemoryContext old_settings;

	if (!publisher_is_current(host))
	{
		unload_publisher(host);
		if (!load_publisher(host))
			return false;
	}

	/* until it has read the new ones, it may use the old */
	old_settings = host->settings;
	fill_in_settings(host, source);
	publisher_forget_notices(host);
	ok = publisher_call_in(host, host->state.context, configure_body,
						   &configured);
	if (old_settings)
		MemoryContextDelete(old_settings);
	return ok && configured;
}
