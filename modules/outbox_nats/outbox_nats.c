/*-------------------------------------------------------------------------
 *
 * outbox_nats.c
 *		A publisher for NATS JetStream: settings and callbacks.
 *
 * An event becomes a message (nats_message.c) on a connection (nats_client.c),
 * and is delivered when JetStream says that a stream has stored it.  The stream
 * has to be there; nothing is created here.
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
#include "lib/secret_file.h"
#include "nats_client.h"

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

static const AddressScheme schemes[] = {
	{"nats://", false, "4222"},
	{"tls://", true, "4222"},
	{NULL}
};

static char *guc_url = NULL;
static char *guc_user = NULL;
static char *guc_password_file = NULL;
static char *guc_credentials_file = NULL;
static char *guc_subject = NULL;
static char *guc_expect_stream = NULL;
static char *guc_tls_ca_file = NULL;
static char *guc_tls_cert_file = NULL;
static char *guc_tls_key_file = NULL;
static int	guc_content_mode = CONTENT_MODE_BINARY;
static int	guc_max_messages = 0;

/* What was read of the settings, in a context of its own */
typedef struct NatsSettings
{
	MemoryContext context;
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

static bool
check_url(char **newval, void **extra, GucSource source)
{
	Address		address;
	bool		has_user = false;
	bool		ok = **newval == '\0' ||
	module_accept_unless(url_problem(*newval, &address, &has_user));

	if (has_user)
		GUC_check_errhint("Set outbox_nats.user and outbox_nats.password_file.");
	return ok;
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
	define_string("outbox_nats.url",
				  "The server: nats://host:port, or tls://host:port.",
				  &guc_url, "", check_url);
	define_string("outbox_nats.user", "The user to log in as.",
				  &guc_user, "", NULL);
	define_string("outbox_nats.password_file", "File with the user's password.",
				  &guc_password_file, "", NULL);
	define_string("outbox_nats.credentials_file",
				  "File with a user's JWT and seed, as NATS' tools write it, or only the seed.",
				  &guc_credentials_file, "", NULL);
	define_string("outbox_nats.subject",
				  "The subject of a message, made of {topic}, {key} and {type}.",
				  &guc_subject, "{topic}", module_check_template);
	define_string("outbox_nats.expect_stream",
				  "The stream that has to store the messages; empty means any.",
				  &guc_expect_stream, "", check_expect_stream);
	define_string("outbox_nats.tls_ca_file",
				  "File with the certificate authorities to trust; empty means that of outbox.tls_ca_file.",
				  &guc_tls_ca_file, "", NULL);
	define_string("outbox_nats.tls_cert_file", "File with our certificate.",
				  &guc_tls_cert_file, "", NULL);
	define_string("outbox_nats.tls_key_file", "File with our certificate's key.",
				  &guc_tls_key_file, "", NULL);
	DefineCustomEnumVariable("outbox_nats.content_mode",
							 "Whether an event's attributes are headers or in an envelope.",
							 NULL, &guc_content_mode, CONTENT_MODE_BINARY,
							 content_modes, PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("outbox_nats.max_messages",
							"How many messages may be unacknowledged at a time.",
							NULL, &guc_max_messages, 1000, 1, 100000, PGC_SUSET, 0,
							NULL, NULL, NULL);
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

/* Read who we are; false and the reason if that cannot be told. */
static bool
read_identity(NatsCredentials *credentials, NatsIdentity *identity,
			  const char **reason)
{
	if (guc_user[0] != '\0')
		identity->user = pstrdup(guc_user);
	if (guc_password_file[0] != '\0' &&
		!module_read_secret(guc_password_file, &identity->password, reason))
		return false;
	if (guc_credentials_file[0] != '\0')
	{
		char	   *text;
		const char *problem;

		if (!secret_file_read(guc_credentials_file, &text, reason))
			return false;
		if (!nats_credentials_parse(text, credentials, &problem))
		{
			*reason = psprintf("file \"%s\" is not one of credentials: %s",
							   guc_credentials_file, problem);
			return false;
		}
		identity->credentials = credentials;
	}
	return true;
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
read_settings(OutboxPublisherState *state, NatsSettings *settings,
			  const char **reason)
{
	NatsOptions *options = &settings->options;
	const char *problem;
	bool		has_user = false;

	if (guc_url[0] == '\0')
	{
		*reason = "outbox_nats.url is not set";
		return false;
	}
	problem = url_problem(guc_url, &options->server.address, &has_user);
	if (problem != NULL)
	{
		*reason = psprintf("outbox_nats.url is invalid: %s", problem);
		return false;
	}
	options->message.subject = pstrdup(guc_subject);
	options->message.expect_stream = pstrdup(guc_expect_stream);
	options->message.structured = guc_content_mode == CONTENT_MODE_STRUCTURED;
	return read_identity(&settings->credentials, &options->server.identity,
						 reason) &&
		(!options->server.address.tls ||
		 read_tls(state, &options->server.tls, reason));
}

/* Forget settings that nobody uses any more; NULL is allowed. */
static void
free_settings(NatsSettings *settings)
{
	if (settings == NULL)
		return;
	SSL_CTX_free(settings->options.server.tls);
	explicit_bzero(settings->credentials.seed,
				   sizeof(settings->credentials.seed));
	MemoryContextDelete(settings->context);
}

/* OutboxCheckConfiguredCB.  What is in flight goes on; see nats_client.c. */
static bool
nats_check_configured(OutboxPublisherState *state, const char **reason)
{
	NatsPublisher *publisher = state->private_data;
	MemoryContext context = AllocSetContextCreate(state->context,
												  "outbox_nats settings",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	NatsSettings *settings = palloc0(sizeof(NatsSettings));
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
	nats_client_configure(publisher->client, &settings->options);
	free_settings(publisher->settings);
	publisher->settings = settings;
	state->max_messages = guc_max_messages;
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
	free_settings(publisher->settings);
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
