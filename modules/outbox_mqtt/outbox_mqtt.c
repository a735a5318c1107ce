/*-------------------------------------------------------------------------
 *
 * outbox_mqtt.c
 *		A publisher for MQTT 5: settings and callbacks.
 *
 * An event becomes a message (mqtt_message.c) on a connection (mqtt_client.c), and
 * is delivered when the broker has acknowledged it (QoS 1).
 *
 * Settings are read when the relay says so, into a context that lives until they
 * are read again; so what is in use does not change in between.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "fmgr.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "common/module.h"
#include "mqtt_client.h"

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

typedef enum NoSubscriber
{
	NO_SUBSCRIBER_FAIL,
	NO_SUBSCRIBER_ACCEPT
} NoSubscriber;

static const struct config_enum_entry no_subscriber_choices[] = {
	{"fail", NO_SUBSCRIBER_FAIL, false},
	{"accept", NO_SUBSCRIBER_ACCEPT, false},
	{NULL, 0, false}
};

static const AddressScheme schemes[] = {
	{"mqtt://", false, "1883"},
	{"mqtts://", true, "8883"},
	{NULL}
};

static char *guc_url = NULL;
static char *guc_user = NULL;
static char *guc_password_file = NULL;
static char *guc_client_id = NULL;
static char *guc_topic = NULL;
static char *guc_tls_ca_file = NULL;
static char *guc_tls_cert_file = NULL;
static char *guc_tls_key_file = NULL;
static int	guc_no_subscriber = NO_SUBSCRIBER_FAIL;
static int	guc_content_mode = CONTENT_MODE_BINARY;
static int	guc_max_messages = 0;

/* What was read of the settings, in a context of its own */
typedef struct MqttSettings
{
	MemoryContext context;
	MqttOptions options;
} MqttSettings;

/* The publisher's, in state->private_data */
typedef struct MqttPublisher
{
	MqttClient *client;
	MqttSettings *settings;		/* NULL until they could be read */
	OutboxSocket socket;		/* what is waited for */
} MqttPublisher;

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
		GUC_check_errhint("Set outbox_mqtt.user and outbox_mqtt.password_file.");
	return ok;
}

/* Strings of MQTT have a limit. */
static bool
check_string(char **newval, void **extra, GucSource source)
{
	return module_accept_unless(strlen(*newval) > MQTT_MAX_STRING ?
								"It is too long for MQTT." : NULL);
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
	define_string("outbox_mqtt.url",
				  "The broker: mqtt://host:port, or mqtts://host:port with TLS.",
				  &guc_url, "", check_url);
	define_string("outbox_mqtt.user", "The user to log in as; empty means none.",
				  &guc_user, "", check_string);
	define_string("outbox_mqtt.password_file",
				  "File with the user's password; empty means none.",
				  &guc_password_file, "", NULL);
	define_string("outbox_mqtt.client_id",
				  "What the broker knows us by; empty means a name made of outbox.source.",
				  &guc_client_id, "", check_string);
	define_string("outbox_mqtt.topic",
				  "The topic of a message, made of {topic}, {key} and {type}.",
				  &guc_topic, "{topic}", module_check_template);
	define_string("outbox_mqtt.tls_ca_file",
				  "File with the certificate authorities to trust; empty means that of outbox.tls_ca_file.",
				  &guc_tls_ca_file, "", NULL);
	define_string("outbox_mqtt.tls_cert_file", "File with our certificate.",
				  &guc_tls_cert_file, "", NULL);
	define_string("outbox_mqtt.tls_key_file", "File with our certificate's key.",
				  &guc_tls_key_file, "", NULL);
	DefineCustomEnumVariable("outbox_mqtt.no_subscriber",
							 "Whether an event that nobody has subscribed to fails, or is published.",
							 NULL, &guc_no_subscriber, NO_SUBSCRIBER_FAIL,
							 no_subscriber_choices, PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomEnumVariable("outbox_mqtt.content_mode",
							 "Whether an event's attributes are user properties or in an envelope.",
							 NULL, &guc_content_mode, CONTENT_MODE_BINARY,
							 content_modes, PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("outbox_mqtt.max_messages",
							"How many messages may be unacknowledged at a time.",
							NULL, &guc_max_messages, 1000, 1, 65535, PGC_SUSET, 0,
							NULL, NULL, NULL);
	MarkGUCPrefixReserved("outbox_mqtt");
}

/* OutboxStartupCB */
static void
mqtt_startup(OutboxPublisherState *state)
{
	MqttPublisher *publisher = palloc0(sizeof(MqttPublisher));

	publisher->client = mqtt_client_create(state);
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

/*
 * Two clients of one name put each other out, so it is made of what no other
 * database has.  Brokers need not take more than 23 letters and digits.
 */
static char *
make_client_id(const char *source)
{
	uint64		hash = hash_bytes_extended((const unsigned char *) source,
										   strlen(source), 0);

	return psprintf("outbox%016llx", (unsigned long long) hash);
}

/* Read all settings, in the current memory context. */
static bool
read_settings(OutboxPublisherState *state, MqttSettings *settings,
			  const char **reason)
{
	MqttOptions *options = &settings->options;
	const char *problem;
	bool		has_user = false;

	if (guc_url[0] == '\0')
	{
		*reason = "outbox_mqtt.url is not set";
		return false;
	}
	problem = url_problem(guc_url, &options->address, &has_user);
	if (problem != NULL)
	{
		*reason = psprintf("outbox_mqtt.url is invalid: %s", problem);
		return false;
	}
	options->message.topic = pstrdup(guc_topic);
	options->message.structured = guc_content_mode == CONTENT_MODE_STRUCTURED;
	options->accept_unheard = guc_no_subscriber == NO_SUBSCRIBER_ACCEPT;
	options->max_messages = guc_max_messages;
	options->identity.client_id = guc_client_id[0] != '\0' ?
		pstrdup(guc_client_id) : make_client_id(state->source);
	if (guc_user[0] != '\0')
		options->identity.user = pstrdup(guc_user);
	if (guc_password_file[0] != '\0' &&
		!module_read_secret(guc_password_file, &options->identity.password,
							reason))
		return false;
	return !options->address.tls || read_tls(state, &options->tls, reason);
}

/* Forget settings that nobody uses any more; NULL is allowed. */
static void
free_settings(MqttSettings *settings)
{
	if (settings == NULL)
		return;
	SSL_CTX_free(settings->options.tls);
	MemoryContextDelete(settings->context);
}

/* OutboxCheckConfiguredCB.  What is in flight goes on; see mqtt_client.c. */
static bool
mqtt_check_configured(OutboxPublisherState *state, const char **reason)
{
	MqttPublisher *publisher = state->private_data;
	MemoryContext context = AllocSetContextCreate(state->context,
												  "outbox_mqtt settings",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	MqttSettings *settings = palloc0(sizeof(MqttSettings));
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
	mqtt_client_configure(publisher->client, &settings->options);
	free_settings(publisher->settings);
	publisher->settings = settings;
	state->max_messages = guc_max_messages;
	return true;
}

/* OutboxSubmitCB */
static void
mqtt_submit(OutboxPublisherState *state, const OutboxMessage *const *messages,
			int n)
{
	MqttPublisher *publisher = state->private_data;

	for (int i = 0; i < n; i++)
		mqtt_client_submit(publisher->client, messages[i]);
	mqtt_client_advance(publisher->client);
}

/* OutboxSocketsCB */
static int
mqtt_sockets(OutboxPublisherState *state, const OutboxSocket **sockets,
			 long *timeout_ms)
{
	MqttPublisher *publisher = state->private_data;

	*sockets = &publisher->socket;
	return mqtt_client_wait_for(publisher->client, &publisher->socket,
								timeout_ms);
}

/* OutboxReadyCB */
static void
mqtt_ready(OutboxPublisherState *state, const OutboxSocket *ready, int n)
{
	MqttPublisher *publisher = state->private_data;

	mqtt_client_advance(publisher->client);
}

/* OutboxCancelCB */
static void
mqtt_cancel(OutboxPublisherState *state, int64 id)
{
	MqttPublisher *publisher = state->private_data;

	mqtt_client_cancel(publisher->client, id);
}

/* OutboxProbeCB */
static void
mqtt_probe(OutboxPublisherState *state)
{
	MqttPublisher *publisher = state->private_data;

	mqtt_client_probe(publisher->client);
	mqtt_client_advance(publisher->client);
}

/* OutboxShutdownCB */
static void
mqtt_shutdown(OutboxPublisherState *state)
{
	MqttPublisher *publisher = state->private_data;

	mqtt_client_destroy(publisher->client);
	free_settings(publisher->settings);
}

static const OutboxPublisherCallbacks mqtt_callbacks = {
	OUTBOX_PUBLISHER_HEAD,
	.startup_cb = mqtt_startup,
	.check_configured_cb = mqtt_check_configured,
	.submit_cb = mqtt_submit,
	.sockets_cb = mqtt_sockets,
	.ready_cb = mqtt_ready,
	.cancel_cb = mqtt_cancel,
	.probe_cb = mqtt_probe,
	.shutdown_cb = mqtt_shutdown
};

const OutboxPublisherCallbacks *
_PG_outbox_publisher_module_init(void)
{
	return &mqtt_callbacks;
}
