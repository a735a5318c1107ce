/*-------------------------------------------------------------------------
 *
 * outbox_redis.c
 *		A publisher for Redis Streams: settings and callbacks.
 *
 * An event becomes an entry (redis_entry.c) on a connection (redis_client.c), and
 * is delivered when Redis says that it has added it; with outbox_redis.wait, when
 * so many replicas have it, too.
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
#include "redis_client.h"

PG_MODULE_MAGIC;

/* Behind it is the path of a socket, from the root on. */
#define UNIX_SCHEME "unix://"

static const AddressScheme schemes[] = {
	{"redis://", false, "6379"},
	{"rediss://", true, "6379"},
	{NULL}
};

static BrokerVariables gucs;
static char *guc_stream = NULL;
static int	guc_maxlen = 0;
static int	guc_wait = 0;

/* What was read of the settings */
typedef struct RedisSettings
{
	BrokerSettings broker;
	RedisOptions options;
} RedisSettings;

/* The publisher's, in state->private_data */
typedef struct RedisPublisher
{
	RedisClient *client;
	RedisSettings *settings;	/* NULL until they could be read */
	OutboxSocket socket;		/* what is waited for */
} RedisPublisher;

PGDLLEXPORT void _PG_init(void);

/* Take the setting apart; the problem, or NULL. */
static const char *
url_problem(const char *url, Address *address, bool *has_user)
{
	const char *problem;

	if (strncmp(url, UNIX_SCHEME, strlen(UNIX_SCHEME)) == 0)
	{
		memset(address, 0, sizeof(*address));
		address->host = pstrdup(url + strlen(UNIX_SCHEME));
		address->port = "";
		return address->host[0] == '/' ? NULL :
			"The path of a socket must be absolute.";
	}
	problem = address_parse(url, schemes, address, has_user);
	if (problem == NULL && address->path != NULL && address->path[0] != '\0')
		problem = "It must not have a path: streams are in database 0.";
	return problem;
}

static bool check_url(char **newval, void **extra, GucSource source);
static bool read_own_settings(const OutboxPublisherState *state, void *arg,
							  const char **reason);

static const BrokerKind kind = {
	.prefix = "outbox_redis",
	.url_description = "The server: redis://host:port, rediss://host:port with TLS, or unix:///path.",
	.parse_url = url_problem,
	.check_url = check_url,
	.most_messages = 100000,
	.size = sizeof(RedisSettings),
	.read_own = read_own_settings
};

static bool
check_url(char **newval, void **extra, GucSource source)
{
	return broker_check_url(&kind, *newval);
}

void
_PG_init(void)
{
	broker_settings_define(&kind, &gucs);
	broker_define_string(&kind, "stream",
						 "The stream of an event, made of {topic}, {key} and {type}.",
						 &guc_stream, "{topic}", module_check_template);
	DefineCustomIntVariable("outbox_redis.maxlen",
							"About how many entries a stream keeps; 0 means all.",
							NULL, &guc_maxlen, 0, 0, INT_MAX, PGC_SUSET, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("outbox_redis.wait",
							"How many replicas must have an entry before its event is published.",
							NULL, &guc_wait, 0, 0, 100, PGC_SUSET, 0,
							NULL, NULL, NULL);
	MarkGUCPrefixReserved("outbox_redis");
}

/* OutboxStartupCB */
static void
redis_startup(OutboxPublisherState *state)
{
	RedisPublisher *publisher = palloc0(sizeof(RedisPublisher));

	publisher->client = redis_client_create(state);
	state->private_data = publisher;
}

/* As BrokerKind has it. */
static bool
read_own_settings(const OutboxPublisherState *state, void *arg,
				  const char **reason)
{
	RedisSettings *settings = arg;
	const BrokerSettings *broker = &settings->broker;
	RedisOptions *options = &settings->options;

	options->address = broker->address;
	options->tls = broker->tls;
	options->user = broker->user;
	options->password = broker->password;
	options->wait = guc_wait;
	options->entry.stream = pstrdup(guc_stream);
	options->entry.maxlen = guc_maxlen;
	options->entry.structured = broker->structured;
	return true;
}

/* OutboxCheckConfiguredCB.  What is in flight goes on; see redis_client.c. */
static bool
redis_check_configured(OutboxPublisherState *state, const char **reason)
{
	RedisPublisher *publisher = state->private_data;
	RedisSettings *settings = broker_settings_read(state, &kind, &gucs, reason);

	if (settings == NULL)
		return false;
	redis_client_configure(publisher->client, &settings->options);
	broker_settings_free((BrokerSettings *) publisher->settings);
	publisher->settings = settings;
	state->max_messages = gucs.max_messages;
	return true;
}

/* OutboxSubmitCB */
static void
redis_submit(OutboxPublisherState *state, const OutboxMessage *const *messages,
			 int n)
{
	RedisPublisher *publisher = state->private_data;

	for (int i = 0; i < n; i++)
		redis_client_submit(publisher->client, messages[i]);
	redis_client_advance(publisher->client);
}

/* OutboxSocketsCB */
static int
redis_sockets(OutboxPublisherState *state, const OutboxSocket **sockets,
			  long *timeout_ms)
{
	RedisPublisher *publisher = state->private_data;

	*sockets = &publisher->socket;
	return redis_client_wait_for(publisher->client, &publisher->socket,
								 timeout_ms);
}

/* OutboxReadyCB */
static void
redis_ready(OutboxPublisherState *state, const OutboxSocket *ready, int n)
{
	RedisPublisher *publisher = state->private_data;

	redis_client_advance(publisher->client);
}

/* OutboxCancelCB */
static void
redis_cancel(OutboxPublisherState *state, int64 id)
{
	RedisPublisher *publisher = state->private_data;

	redis_client_cancel(publisher->client, id);
}

/* OutboxProbeCB */
static void
redis_probe(OutboxPublisherState *state)
{
	RedisPublisher *publisher = state->private_data;

	redis_client_probe(publisher->client);
	redis_client_advance(publisher->client);
}

/* OutboxShutdownCB */
static void
redis_shutdown(OutboxPublisherState *state)
{
	RedisPublisher *publisher = state->private_data;

	redis_client_destroy(publisher->client);
	broker_settings_free((BrokerSettings *) publisher->settings);
}

static const OutboxPublisherCallbacks redis_callbacks = {
	OUTBOX_PUBLISHER_HEAD,
	.startup_cb = redis_startup,
	.check_configured_cb = redis_check_configured,
	.submit_cb = redis_submit,
	.sockets_cb = redis_sockets,
	.ready_cb = redis_ready,
	.cancel_cb = redis_cancel,
	.probe_cb = redis_probe,
	.shutdown_cb = redis_shutdown
};

const OutboxPublisherCallbacks *
_PG_outbox_publisher_module_init(void)
{
	return &redis_callbacks;
}
