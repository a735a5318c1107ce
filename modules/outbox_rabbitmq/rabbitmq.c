/*-------------------------------------------------------------------------
 *
 * rabbitmq.c
 *		A publisher for RabbitMQ, by AMQP 0-9-1: the callbacks.
 *
 * Events go through one connection as a pipeline: the next ones do not wait
 * until RabbitMQ has confirmed the last ones.  When settings change, or a file that
 * they name (file_watch.c), the connection goes on with the ones it has until nobody
 * waits for it any more, and a new one is made for what comes next.
 *
 * settings.c	the settings
 * frame.c		AMQP on the wire
 * message.c	from an event to a message
 * link.c		a connection, with link_method.c and link_answer.c
 *
 * Nothing is declared: exchanges and queues are the broker's administrator's.
 *
 * Memory: everything is below state->context.  Errors: only want of memory is
 * thrown.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "fmgr.h"
#include "nodes/pg_list.h"

#include "lib/clock.h"
#include "link.h"
#include "settings.h"

PG_MODULE_MAGIC;

PGDLLEXPORT void _PG_init(void);

/* private_data */
typedef struct Rabbit
{
	RabbitSettings *settings;	/* for the next link; NULL: current has them */
	RabbitLink *current;		/* for what comes next; NULL: none yet */
	List	   *links;			/* this one, and those that have to finish */
	FileWatch	watch;			/* the files that settings name */
	OutboxSocket *sockets;
	int			maxsockets;
} Rabbit;

void
_PG_init(void)
{
	settings_define();
}

static void
rabbit_startup(OutboxPublisherState *state)
{
	state->private_data = palloc0(sizeof(Rabbit));
}

/* The link for what comes next. */
static RabbitLink *
current_link(OutboxPublisherState *state)
{
	Rabbit	   *rabbit = state->private_data;
	MemoryContext caller;

	if (rabbit->current)
		return rabbit->current;
	caller = MemoryContextSwitchTo(state->context);
	rabbit->current = link_create(state, rabbit->settings);
	rabbit->settings = NULL;
	rabbit->links = lappend(rabbit->links, rabbit->current);
	MemoryContextSwitchTo(caller);
	return rabbit->current;
}

/* End the links that have finished. */
static void
drop_old_links(Rabbit *rabbit)
{
	ListCell   *lc;

	foreach(lc, rabbit->links)
	{
		RabbitLink *link = lfirst(lc);

		if (link == rabbit->current || !link_is_idle(link))
			continue;
		rabbit->links = foreach_delete_current(rabbit->links, lc);
		link_destroy(link);
	}
}

/* Read the settings, for what comes next; false and the reason if that cannot be. */
static bool
read_settings(OutboxPublisherState *state, const char **reason)
{
	Rabbit	   *rabbit = state->private_data;
	RabbitSettings *settings = settings_read(state, &rabbit->watch, reason);

	if (settings == NULL)
		return false;
	state->max_messages = settings->max_messages;
	if (rabbit->current && link_replace_settings(rabbit->current, settings))
		return true;
	if (rabbit->current)
		link_retire(rabbit->current);
	rabbit->current = NULL;
	if (rabbit->settings)
		settings_free(rabbit->settings);
	rabbit->settings = settings;
	drop_old_links(rabbit);
	return true;
}

static bool
rabbit_check_configured(OutboxPublisherState *state, const char **reason)
{
	Rabbit	   *rabbit = state->private_data;
	bool		configured = read_settings(state, reason);

	file_watch_reset(&rabbit->watch, state);
	return configured;
}

static void
rabbit_submit(OutboxPublisherState *state,
			  const OutboxMessage *const *messages, int n)
{
	Rabbit	   *rabbit = state->private_data;
	RabbitLink *link;

	file_watch_follow(&rabbit->watch, state, read_settings);
	link = current_link(state);
	for (int i = 0; i < n; i++)
		link_submit(link, messages[i]);
	link_advance(link);
}

static int
rabbit_sockets(OutboxPublisherState *state, const OutboxSocket **sockets,
			   long *timeout_ms)
{
	Rabbit	   *rabbit = state->private_data;
	int64		deadline = PG_INT64_MAX;
	int			n = 0;
	ListCell   *lc;

	if (rabbit->maxsockets < list_length(rabbit->links))
	{
		if (rabbit->sockets)
			pfree(rabbit->sockets);
		rabbit->maxsockets = list_length(rabbit->links);
		rabbit->sockets = MemoryContextAlloc(state->context,
											 sizeof(OutboxSocket) *
											 rabbit->maxsockets);
	}
	foreach(lc, rabbit->links)
		n += link_wait_for(lfirst(lc), &rabbit->sockets[n], &deadline);
	*sockets = rabbit->sockets;
	if (deadline != PG_INT64_MAX)
		*timeout_ms = Min(Max(deadline - clock_ms(), 0), INT_MAX);
	return n;
}

static void
rabbit_ready(OutboxPublisherState *state, const OutboxSocket *ready, int n)
{
	Rabbit	   *rabbit = state->private_data;
	ListCell   *lc;

	/* there are few, and each finds out by itself what it can do */
	foreach(lc, rabbit->links)
		link_advance(lfirst(lc));
	drop_old_links(rabbit);
}

static void
rabbit_cancel(OutboxPublisherState *state, int64 id)
{
	Rabbit	   *rabbit = state->private_data;
	ListCell   *lc;

	foreach(lc, rabbit->links)
		link_forget(lfirst(lc), id);
}

static void
rabbit_probe(OutboxPublisherState *state)
{
	Rabbit	   *rabbit = state->private_data;
	RabbitLink *link;

	file_watch_follow(&rabbit->watch, state, read_settings);
	link = current_link(state);
	link_probe(link);
	link_advance(link);
}

static void
rabbit_shutdown(OutboxPublisherState *state)
{
	Rabbit	   *rabbit = state->private_data;
	ListCell   *lc;

	foreach(lc, rabbit->links)
		link_destroy(lfirst(lc));
	rabbit->links = NIL;
	rabbit->current = NULL;
}

static const OutboxPublisherCallbacks rabbit_callbacks = {
	OUTBOX_PUBLISHER_HEAD,
	.startup_cb = rabbit_startup,
	.check_configured_cb = rabbit_check_configured,
	.submit_cb = rabbit_submit,
	.sockets_cb = rabbit_sockets,
	.ready_cb = rabbit_ready,
	.cancel_cb = rabbit_cancel,
	.probe_cb = rabbit_probe,
	.shutdown_cb = rabbit_shutdown
};

const OutboxPublisherCallbacks *
_PG_outbox_publisher_module_init(void)
{
	return &rabbit_callbacks;
}
