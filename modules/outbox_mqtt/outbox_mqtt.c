/*-------------------------------------------------------------------------
 *
 * outbox_mqtt.c
 *		A publisher for MQTT 5: settings and callbacks.
 *
 * An event becomes a message (mqtt_message.c) on a connection (mqtt_client.c), and
 * is delivered when the broker has acknowledged it (QoS 1).
 *
 * Settings are those that all have (broker_settings.c), and some more.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "fmgr.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "common/broker_settings.h"
#include "common/module.h"
#include "mqtt_client.h"

PG_MODULE_MAGIC;

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

static BrokerVariables gucs;
static char *guc_client_id = NULL;
static char *guc_topic = NULL;
static int	guc_no_subscriber = NO_SUBSCRIBER_FAIL;

/* What was read of the settings */
typedef struct MqttSettings
{
	BrokerSettings broker;
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

static bool check_url(char **newval, void **extra, GucSource source);
static bool read_own_settings(const OutboxPublisherState *state, void *arg,
							  const char **reason);

static const BrokerKind kind = {
	.prefix = "outbox_mqtt",
	.url_description = "The broker: mqtt://host:port, or mqtts://host:port with TLS.",
	.parse_url = url_problem,
	.check_url = check_url,
	.most_messages = 65535,
	.size = sizeof(MqttSettings),
	.read_own = read_own_settings
};

static bool
check_url(char **newval, void **extra, GucSource source)
{
	return broker_check_url(&kind, *newval);
}

/* Strings of MQTT have a limit. */
static bool
check_string(char **newval, void **extra, GucSource source)
{
	return module_accept_unless(strlen(*newval) > MQTT_MAX_STRING ?
								"It is too long for MQTT." : NULL);
}

void
_PG_init(void)
{
	broker_settings_define(&kind, &gucs);
	broker_define_string(&kind, "client_id",
						 "What the broker knows us by; empty means a name made of outbox.source.",
						 &guc_client_id, "", check_string);
	broker_define_string(&kind, "topic",
						 "The topic of a message, made of {topic}, {key} and {type}.",
						 &guc_topic, "{topic}", module_check_template);
	DefineCustomEnumVariable("outbox_mqtt.no_subscriber",
							 "Whether an event that nobody has subscribed to fails, or is published.",
							 NULL, &guc_no_subscriber, NO_SUBSCRIBER_FAIL,
							 no_subscriber_choices, PGC_SUSET, 0, NULL, NULL, NULL);
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

/* As BrokerKind has it. */
static bool
read_own_settings(const OutboxPublisherState *state, void *arg,
				  const char **reason)
{
	MqttSettings *settings = arg;
	const BrokerSettings *broker = &settings->broker;
	MqttOptions *options = &settings->options;

	options->address = broker->address;
	options->tls = broker->tls;
	options->identity.user = broker->user;
	options->identity.password = broker->password;
	options->identity.client_id = guc_client_id[0] != '\0' ?
		pstrdup(guc_client_id) : make_client_id(state->source);
	options->message.topic = pstrdup(guc_topic);
	options->message.structured = broker->structured;
	options->accept_unheard = guc_no_subscriber == NO_SUBSCRIBER_ACCEPT;
	options->max_messages = gucs.max_messages;
	if ((broker->user && strlen(broker->user) > MQTT_MAX_STRING) ||
		(broker->password && strlen(broker->password) > MQTT_MAX_STRING))
	{
		*reason = "the user or the password is too long for MQTT";
		return false;
	}
	return true;
}

/* OutboxCheckConfiguredCB.  What is in flight goes on; see mqtt_client.c. */
static bool
mqtt_check_configured(OutboxPublisherState *state, const char **reason)
{
	MqttPublisher *publisher = state->private_data;
	MqttSettings *settings = broker_settings_read(state, &kind, &gucs, reason);

	if (settings == NULL)
		return false;
	mqtt_client_configure(publisher->client, &settings->options);
	broker_settings_free((BrokerSettings *) publisher->settings);
	publisher->settings = settings;
	state->max_messages = gucs.max_messages;
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
	broker_settings_free((BrokerSettings *) publisher->settings);
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
