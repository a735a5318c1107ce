/*-------------------------------------------------------------------------
 *
 * publisher_over_http.c
 *		The callbacks of a publisher that speaks HTTP.
 *
 * A publisher is an HttpPublisherKind: how to read its settings, how to make a
 * request of a message, what to think of a response.  All else is the same for
 * all of them, and here or in http_batch.c and http_answer.c below.
 *
 * Memory.  The publisher's state lives as long as the publisher is loaded,
 * libcurl's client with it; when the process ends, all is left to the kernel.
 * Settings are in a context that is reset when they are read again; requests
 * in flight do not point there.
 *
 * Files.  Those that the settings name are looked at when something is sent, and
 * if one has changed, all is read again, as after a reload.
 *
 * Errors.  A wrong setting or an unreadable file is an answer, not an error.
 * Errors are thrown out of memory and when libcurl fails; the relay then
 * cancels what is in flight.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "storage/ipc.h"
#include "utils/memutils.h"

#include "guc.h"
#include "lib/clock.h"
#include "publish/client_certificate.h"
#include "publish/http_answer.h"
#include "publish/http_batch.h"
#include "publish/publisher_over_http.h"

/* The longest time that a change of a file is not seen while events are sent. */
#define LOOK_PAUSE_MS 1000

/* Allocate the publisher's state. */
void
over_http_startup(OutboxPublisherState *state, const HttpPublisherKind *kind)
{
	HttpPublisher *publisher = palloc0(kind->size);

	publisher->kind = kind;
	publisher->state = state;
	publisher->settings = AllocSetContextCreate(CurrentMemoryContext,
												"outbox publisher settings",
												ALLOCSET_SMALL_SIZES);
	publisher->scratch = AllocSetContextCreate(CurrentMemoryContext,
											   "outbox publisher answer",
											   ALLOCSET_DEFAULT_SIZES);
	publisher->client = http_client_create(publisher);
	publisher->files = watched_files_create(CurrentMemoryContext);
	dlist_init(&publisher->batches);
	dlist_init(&publisher->waiting);
	dlist_init(&publisher->again);
	state->private_data = publisher;
}

/* Read settings and files; false and a reason if they cannot be used. */
static bool
read_settings(HttpPublisher *publisher, const char **reason)
{
	OutboxPublisherState *state = publisher->state;
	HttpOptions options = {0};
	MemoryContext old;
	bool		configured;

	/* until the end, whichever way that comes, there are no settings */
	publisher->configured = false;
	MemoryContextReset(publisher->settings);
	publisher->secrets = NIL;
	publisher->generation++;

	old = MemoryContextSwitchTo(publisher->settings);
	watched_files_begin(publisher->files);
	configured = publisher->kind->configure(publisher, &options, reason) &&
		client_certificate_read(publisher, &options, reason);
	http_answer_set_secrets(publisher, &options);
	MemoryContextSwitchTo(old);
	outbox_notice(state, OUTBOX_NOTICE_FILES,
				  watched_files_problem(publisher->files));
	if (!configured)
		return false;
	watched_files_end(publisher->files);

	options.ca_file = state->tls_ca_file;
	options.connect_timeout = state->connect_timeout;
	options.request_timeout = state->request_timeout;

	/* a socket does not move */
	options.connection_age = options.unix_socket ? 0 : guc_http_connection_age;

	/* a probe, and a question of the publisher's own */
	options.max_connections = state->max_in_flight + 2;
	http_client_configure(publisher->client, &options);
	publisher->configured = true;
	return true;
}

bool
over_http_check_configured(OutboxPublisherState *state, const char **reason)
{
	HttpPublisher *publisher = state->private_data;

	/* it may be another server, with a clock of its own */
	publisher->clocks_known = false;
	return read_settings(publisher, reason);
}

/* Read the settings again, which is to change nothing but what was fetched. */
void
over_http_read_again(HttpPublisher *publisher)
{
	const char *reason = NULL;

	/* files of before stay in use, so that there is hardly a way to fail */
	if (!read_settings(publisher, &reason))
		ereport(ERROR,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("could not read the settings again: %s", reason)));
}

/*
 * Read the settings again if a file that they name has changed, or if that failed
 * the last time; a look a second is enough, unless the server has refused what we
 * had (http_answer.c).
 */
void
over_http_follow_files(HttpPublisher *publisher)
{
	if (publisher->configured && clock_ms() < publisher->look_at)
		return;
	publisher->look_at = clock_ms() + LOOK_PAUSE_MS;
	if (!publisher->configured || watched_files_changed(publisher->files))
		over_http_read_again(publisher);
}

void
over_http_submit(OutboxPublisherState *state,
				 const OutboxMessage *const *messages, int n)
{
	HttpPublisher *publisher = state->private_data;
	int			next;

	over_http_follow_files(publisher);
	for (int i = 0; i < n; i = next)
	{
		next = i + 1;
		while (next < n && messages[next]->batch == messages[i]->batch)
			next++;
		http_batch_send(publisher, messages + i, next - i);
	}
	over_http_ready(state, NULL, 0);
}

int
over_http_sockets(OutboxPublisherState *state, const OutboxSocket **sockets,
				  long *timeout_ms)
{
	HttpPublisher *publisher = state->private_data;

	return http_client_sockets(publisher->client, sockets, timeout_ms);
}

/* Let requests make progress, those included that come of others' answers. */
void
over_http_ready(OutboxPublisherState *state, const OutboxSocket *ready, int n)
{
	HttpPublisher *publisher = state->private_data;

	http_client_ready(publisher->client, ready, n);
	while (http_batch_send_again(publisher))
		http_client_ready(publisher->client, NULL, 0);
}

void
over_http_cancel(OutboxPublisherState *state, int64 id)
{
	http_batch_cancel(state->private_data, id);
}

void
over_http_shutdown(OutboxPublisherState *state)
{
	HttpPublisher *publisher = state->private_data;

	/* libcurl may wait for a thread that resolves a name; the kernel does not */
	if (proc_exit_inprogress)
		return;
	http_client_destroy(publisher->client);
	watched_files_destroy(publisher->files);
	MemoryContextDelete(publisher->settings);
	MemoryContextDelete(publisher->scratch);
	pfree(publisher);
	state->private_data = NULL;
}
