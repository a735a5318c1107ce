/*-------------------------------------------------------------------------
 *
 * outbox_redis.c
 *		A publisher for Redis Streams: settings and callbacks.
 *
 * An event becomes an entry (redis_entry.c) on a connection (redis_client.c), and
 * is delivered when Redis says that it has added it; with outbox_redis.wait, when
 * so many replicas have it, too.
 *
 * Settings are read when the relay says so, into a context that lives until they
 * are read again; so what is in use does not change in between.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "common/module.h"
#include "redis_client.h"

PG_MODULE_MAGIC;

typedef enum ContentMode
{
	CONTENT_MODE_BINARY,
	CONTENT_MODE_STRUCTURED
} ContentMode;

static const struct config_enum_entry content_modes[] = {
	{"binary", CONTENT_MODE_BINARY, false},
	{"structured", CONTENT_MODE_STRUCTURED, false},
	{NULL, 0, false}
};

/* Behind it is the path of a socket, from the root on. */
#define UNIX_SCHEME "unix://"

static const AddressScheme schemes[] = {
	{"redis://", false, "6379"},
	{"rediss://", true, "6379"},
	{NULL}
};

static char *guc_url = NULL;
static char *guc_user = NULL;
static char *guc_password_file = NULL;
static char *guc_stream = NULL;
static char *guc_tls_ca_file = NULL;
static char *guc_tls_cert_file = NULL;
static char *guc_tls_key_file = NULL;
static int	guc_maxlen = 0;
static int	guc_wait = 0;
static int	guc_content_mode = CONTENT_MODE_BINARY;
static int	guc_max_messages = 0;

/* What was read of the settings, in a context of its own */
typedef struct RedisSettings
{
	MemoryContext context;
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

static bool
check_url(char **newval, void **extra, GucSource source)
{
	Address		address;
	bool		has_user = false;
	bool		ok = **newval == '\0' ||
	module_accept_unless(url_problem(*newval, &address, &has_user));

	if (has_user)
		GUC_check_errhint("Set outbox_redis.user and outbox_redis.password_file.");
	return ok;
}

static void
define_string(const char *name, const char *description, char **variable,
			  const char *value, GucStringCheckHook check)
{
	DefineCustomStringVariable(name, description, NULL, variable, value,
							   PGC_SUSET, 0, check, NULL, NULL);
}

void
_PG_init(void)
{
	define_string("outbox_redis.url",
				  "The server: redis://host:port, rediss://host:port with TLS, or unix:///path.",
				  &guc_url, "", check_url);
	define_string("outbox_redis.user",
				  "The user to log in as; empty means the default one.",
				  &guc_user, "", NULL);
	define_string("outbox_redis.password_file",
				  "File with the user's password; empty means no login.",
				  &guc_password_file, "", NULL);
	define_string("outbox_redis.stream",
				  "The stream of an event, made of {topic}, {key} and {type}.",
				  &guc_stream, "{topic}", module_check_template);
	define_string("outbox_redis.tls_ca_file",
				  "File with the certificate authorities to trust; empty means that of outbox.tls_ca_file.",
				  &guc_tls_ca_file, "", NULL);
	define_string("outbox_redis.tls_cert_file", "File with our certificate.",
				  &guc_tls_cert_file, "", NULL);
	define_string("outbox_redis.tls_key_file", "File with our certificate's key.",
				  &guc_tls_key_file, "", NULL);
	DefineCustomIntVariable("outbox_redis.maxlen",
							"About how many entries a stream keeps; 0 means all.",
							NULL, &guc_maxlen, 0, 0, INT_MAX, PGC_SUSET, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("outbox_redis.wait",
							"How many replicas must have an entry before its event is published.",
							NULL, &guc_wait, 0, 0, 100, PGC_SUSET, 0,
							NULL, NULL, NULL);
	DefineCustomEnumVariable("outbox_redis.content_mode",
							 "Whether an event's attributes are fields or in an envelope.",
							 NULL, &guc_content_mode, CONTENT_MODE_BINARY,
							 content_modes, PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("outbox_redis.max_messages",
							"How many entries may be unanswered at a time.",
							NULL, &guc_max_messages, 1000, 1, 100000, PGC_SUSET, 0,
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

/* Read whom to trust; false and the reason if that cannot be told. */
static bool
read_tls(OutboxPublisherState *state, SSL_CTX **tls, const char **reason)
{
	TlsFiles	files = {
		.ca_file = guc_tls_ca_file[0] != '\0' ? guc_tls_ca_file :
		state->tls_ca_file,
		.cert_file = guc_tls_cert_file,
		.key_file = guc_tls_key_file
	};

	*tls = tls_context_create(&files, reason);
	return *tls != NULL;
}

/* Read all settings, in the current memory context. */
static bool
read_settings(OutboxPublisherState *state, RedisSettings *settings,
			  const char **reason)
{
	RedisOptions *options = &settings->options;
	const char *problem;
	bool		has_user = false;

	if (guc_url[0] == '\0')
	{
		*reason = "outbox_redis.url is not set";
		return false;
	}
	problem = url_problem(guc_url, &options->address, &has_user);
	if (problem != NULL)
	{
		*reason = psprintf("outbox_redis.url is invalid: %s", problem);
		return false;
	}
	options->entry.stream = pstrdup(guc_stream);
	options->entry.maxlen = guc_maxlen;
	options->entry.structured = guc_content_mode == CONTENT_MODE_STRUCTURED;
	options->wait = guc_wait;
	if (guc_user[0] != '\0')
		options->user = pstrdup(guc_user);
	if (guc_password_file[0] != '\0' &&
		!module_read_secret(guc_password_file, &options->password, reason))
		return false;
	return !options->address.tls || read_tls(state, &options->tls, reason);
}

/* Forget settings that nobody uses any more; NULL is allowed. */
static void
free_settings(RedisSettings *settings)
{
	if (settings == NULL)
		return;
	SSL_CTX_free(settings->options.tls);
	MemoryContextDelete(settings->context);
}

/* OutboxCheckConfiguredCB.  What is in flight goes on; see redis_client.c. */
static bool
redis_check_configured(OutboxPublisherState *state, const char **reason)
{
	RedisPublisher *publisher = state->private_data;
	MemoryContext context = AllocSetContextCreate(state->context,
												  "outbox_redis settings",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	RedisSettings *settings = palloc0(sizeof(RedisSettings));
	bool		ok;

	settings->context = context;
	ok = read_settings(state, settings, reason);
	MemoryContextSwitchTo(old);
	if (!ok)
	{
		*reason = pstrdup(*reason);
		free_settings(settings);
		return false;
	}
	redis_client_configure(publisher->client, &settings->options);
	free_settings(publisher->settings);
	publisher->settings = settings;
	state->max_messages = guc_max_messages;
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
	free_settings(publisher->settings);
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
