/*-------------------------------------------------------------------------
 *
 * broker_publisher.c
 *		The callbacks of a module with one connection.
 *
 * Settings are read when the relay says so, or a file that they name has changed
 * (file_watch.c), and freed when the client has others.
 * All else is the client's (broker_client.h).  Errors: out of memory only; the
 * client is as it was then, or closed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/broker_client.h"

/* In state->private_data */
typedef struct BrokerPublisher
{
	BrokerClient *client;
	BrokerSettings *settings;	/* NULL until they could be read */
	FileWatch	watch;			/* the files that settings name */
	OutboxSocket socket;		/* what is waited for */
} BrokerPublisher;

/* OutboxStartupCB */
static void
broker_startup(OutboxPublisherState *state)
{
	BrokerPublisher *publisher = palloc0(sizeof(BrokerPublisher));

	publisher->client = broker_client_create(state);
	state->private_data = publisher;
}

/* Read the settings and have the client use them; false and the reason if not. */
static bool
read_settings(OutboxPublisherState *state, const char **reason)
{
	BrokerPublisher *publisher = state->private_data;
	BrokerSettings *settings = broker_settings_read(state, &broker_kind,
													&broker_variables,
													&publisher->watch, reason);

	if (settings == NULL)
		return false;
	broker_client_configure(publisher->client, settings);
	broker_settings_free(publisher->settings);
	publisher->settings = settings;
	state->max_messages = settings->max_messages;
	return true;
}

/* OutboxCheckConfiguredCB */
static bool
broker_check_configured(OutboxPublisherState *state, const char **reason)
{
	BrokerPublisher *publisher = state->private_data;
	bool		configured = read_settings(state, reason);

	file_watch_reset(&publisher->watch, state);
	return configured;
}

/* OutboxSubmitCB */
static void
broker_submit(OutboxPublisherState *state,
			  const OutboxMessage *const *messages, int n)
{
	BrokerPublisher *publisher = state->private_data;

	file_watch_follow(&publisher->watch, state, read_settings);
	for (int i = 0; i < n; i++)
		broker_client_submit(publisher->client, messages[i]);
	broker_client_advance(publisher->client);
}

/* OutboxSocketsCB */
static int
broker_sockets(OutboxPublisherState *state, const OutboxSocket **sockets,
			   long *timeout_ms)
{
	BrokerPublisher *publisher = state->private_data;

	*sockets = &publisher->socket;
	return broker_client_wait_for(publisher->client, &publisher->socket,
								  timeout_ms);
}

/* OutboxReadyCB */
static void
broker_ready(OutboxPublisherState *state, const OutboxSocket *ready, int n)
{
	BrokerPublisher *publisher = state->private_data;

	broker_client_advance(publisher->client);
}

/* OutboxCancelCB */
static void
broker_cancel(OutboxPublisherState *state, int64 id)
{
	BrokerPublisher *publisher = state->private_data;

	broker_client_cancel(publisher->client, id);
}

/* OutboxProbeCB */
static void
broker_probe(OutboxPublisherState *state)
{
	BrokerPublisher *publisher = state->private_data;

	file_watch_follow(&publisher->watch, state, read_settings);
	broker_client_probe(publisher->client);
	broker_client_advance(publisher->client);
}

/* OutboxShutdownCB */
static void
broker_shutdown(OutboxPublisherState *state)
{
	BrokerPublisher *publisher = state->private_data;

	broker_client_destroy(publisher->client);
	broker_settings_free(publisher->settings);
}

static const OutboxPublisherCallbacks broker_callbacks = {
	OUTBOX_PUBLISHER_HEAD,
	.startup_cb = broker_startup,
	.check_configured_cb = broker_check_configured,
	.submit_cb = broker_submit,
	.sockets_cb = broker_sockets,
	.ready_cb = broker_ready,
	.cancel_cb = broker_cancel,
	.probe_cb = broker_probe,
	.shutdown_cb = broker_shutdown
};

const OutboxPublisherCallbacks *
_PG_outbox_publisher_module_init(void)
{
	return &broker_callbacks;
}
