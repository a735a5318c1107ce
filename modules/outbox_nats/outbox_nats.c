/*-------------------------------------------------------------------------
 *
 * outbox_nats.c
 *		A publisher for NATS JetStream: settings and callbacks.
 *
 * An event becomes a message (nats_message.c) on a connection (nats_client.c),
 * and is delivered when JetStream says that a stream has stored it.  The stream
 * has to be there; nothing is created here.
 *
 * Settings are those that all have (broker_settings.c), and some more.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "common/broker_settings.h"
#include "common/module.h"
#include "lib/secret_file.h"
#include "nats_client.h"

PG_MODULE_MAGIC;

static const AddressScheme schemes[] = {
	{"nats://", false, "4222"},
	{"tls://", true, "4222"},
	{NULL}
};

static BrokerVariables gucs;
static char *guc_credentials_file = NULL;
static char *guc_subject = NULL;
static char *guc_expect_stream = NULL;

/* What was read of the settings */
typedef struct NatsSettings
{
	BrokerSettings broker;
	NatsOptions options;
	NatsCredentials credentials;
} NatsSettings;

/* The publisher's, in state->private_data */
typedef struct NatsPublisher
{
	NatsClient *client;
	NatsSettings *settings;		/* NULL until they could be read */
	OutboxSocket socket;		/* what is waited for */
} NatsPublisher;

PGDLLEXPORT void _PG_init(void);

/* Take the setting apart; the problem, or NULL. */
static const char *
url_problem(const char *url, Address *address, bool *has_user)
{
	const char *problem = address_parse(url, schemes, address, has_user);

	if (problem == NULL && address->path != NULL && address->path[0] != '\0')
		problem = "It must not have a path.";
	return problem;
}

static bool check_url(char **newval, void **extra, GucSource source);
static bool read_own_settings(const OutboxPublisherState *state, void *arg,
							  const char **reason);

static const BrokerKind kind = {
	.prefix = "outbox_nats",
	.url_description = "The server: nats://host:port, or tls://host:port.",
	.parse_url = url_problem,
	.check_url = check_url,
	.most_messages = 100000,
	.size = sizeof(NatsSettings),
	.read_own = read_own_settings
};

static bool
check_url(char **newval, void **extra, GucSource source)
{
	return broker_check_url(&kind, *newval);
}

/* A name of a stream goes into a header. */
static bool
check_expect_stream(char **newval, void **extra, GucSource source)
{
	for (const char *p = *newval; *p != '\0'; p++)
	{
		if (*p <= ' ' || *p > '~' || strchr(".*>/\\", *p))
			return module_accept_unless("No stream can have this name.");
	}
	return true;
}

void
_PG_init(void)
{
	broker_settings_define(&kind, &gucs);
	broker_define_string(&kind, "credentials_file",
						 "File with a user's JWT and seed, as NATS' tools write it, or only the seed.",
						 &guc_credentials_file, "", NULL);
	broker_define_string(&kind, "subject",
						 "The subject of a message, made of {topic}, {key} and {type}.",
						 &guc_subject, "{topic}", module_check_template);
	broker_define_string(&kind, "expect_stream",
						 "The stream that has to store the messages; empty means any.",
						 &guc_expect_stream, "", check_expect_stream);
	MarkGUCPrefixReserved("outbox_nats");
}

/* OutboxStartupCB */
static void
nats_startup(OutboxPublisherState *state)
{
	NatsPublisher *publisher = palloc0(sizeof(NatsPublisher));

	publisher->client = nats_client_create(state);
	state->private_data = publisher;
}

/* MemoryContextCallback: "arg" is credentials. */
static void
forget_seed(void *arg)
{
	NatsCredentials *credentials = arg;

	explicit_bzero(credentials->seed, sizeof(credentials->seed));
}

/* Read the file of credentials; false and the reason if that cannot be. */
static bool
read_credentials(NatsCredentials *credentials, const char **reason)
{
	MemoryContextCallback *callback = palloc0(sizeof(MemoryContextCallback));
	const char *problem;
	char	   *text;
	bool		ok;

	callback->func = forget_seed;
	callback->arg = credentials;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, callback);
	if (!secret_file_read(guc_credentials_file, &text, reason))
		return false;
	ok = nats_credentials_parse(text, credentials, &problem);
	explicit_bzero(text, strlen(text));
	pfree(text);
	if (!ok)
		*reason = psprintf("file \"%s\" is not one of credentials: %s",
						   guc_credentials_file, problem);
	return ok;
}

/* As BrokerKind has it. */
static bool
read_own_settings(const OutboxPublisherState *state, void *arg,
				  const char **reason)
{
	NatsSettings *settings = arg;
	const BrokerSettings *broker = &settings->broker;
	NatsOptions *options = &settings->options;

	options->server.address = broker->address;
	options->server.tls = broker->tls;
	options->server.identity.user = broker->user;
	options->server.identity.password = broker->password;
	options->message.subject = pstrdup(guc_subject);
	options->message.expect_stream = pstrdup(guc_expect_stream);
	options->message.structured = broker->structured;
	if (guc_credentials_file[0] == '\0')
		return true;
	options->server.identity.credentials = &settings->credentials;
	return read_credentials(&settings->credentials, reason);
}

/* OutboxCheckConfiguredCB.  What is in flight goes on; see nats_client.c. */
static bool
nats_check_configured(OutboxPublisherState *state, const char **reason)
{
	NatsPublisher *publisher = state->private_data;
	NatsSettings *settings = broker_settings_read(state, &kind, &gucs, reason);

	if (settings == NULL)
		return false;
	nats_client_configure(publisher->client, &settings->options);
	broker_settings_free((BrokerSettings *) publisher->settings);
	publisher->settings = settings;
	state->max_messages = gucs.max_messages;
	return true;
}

/* OutboxSubmitCB */
static void
nats_submit(OutboxPublisherState *state, const OutboxMessage *const *messages,
			int n)
{
	NatsPublisher *publisher = state->private_data;

	for (int i = 0; i < n; i++)
		nats_client_submit(publisher->client, messages[i]);
	nats_client_advance(publisher->client);
}

/* OutboxSocketsCB */
static int
nats_sockets(OutboxPublisherState *state, const OutboxSocket **sockets,
			 long *timeout_ms)
{
	NatsPublisher *publisher = state->private_data;

	*sockets = &publisher->socket;
	return nats_client_wait_for(publisher->client, &publisher->socket,
								timeout_ms);
}

/* OutboxReadyCB */
static void
nats_ready(OutboxPublisherState *state, const OutboxSocket *ready, int n)
{
	NatsPublisher *publisher = state->private_data;

	nats_client_advance(publisher->client);
}

/* OutboxCancelCB */
static void
nats_cancel(OutboxPublisherState *state, int64 id)
{
	NatsPublisher *publisher = state->private_data;

	nats_client_cancel(publisher->client, id);
}

/* OutboxProbeCB */
static void
nats_probe(OutboxPublisherState *state)
{
	NatsPublisher *publisher = state->private_data;

	nats_client_probe(publisher->client);
	nats_client_advance(publisher->client);
}

/* OutboxShutdownCB */
static void
nats_shutdown(OutboxPublisherState *state)
{
	NatsPublisher *publisher = state->private_data;

	nats_client_destroy(publisher->client);
	broker_settings_free((BrokerSettings *) publisher->settings);
}

static const OutboxPublisherCallbacks nats_callbacks = {
	OUTBOX_PUBLISHER_HEAD,
	.startup_cb = nats_startup,
	.check_configured_cb = nats_check_configured,
	.submit_cb = nats_submit,
	.sockets_cb = nats_sockets,
	.ready_cb = nats_ready,
	.cancel_cb = nats_cancel,
	.probe_cb = nats_probe,
	.shutdown_cb = nats_shutdown
};

const OutboxPublisherCallbacks *
_PG_outbox_publisher_module_init(void)
{
	return &nats_callbacks;
}
