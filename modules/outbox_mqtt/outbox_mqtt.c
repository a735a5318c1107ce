/*-------------------------------------------------------------------------
 *
 * outbox_mqtt.c
 *		A publisher for MQTT 5: settings.
 *
 * An event becomes a message (mqtt_message.c) on a connection (mqtt_client.c), and
 * is delivered when the broker has acknowledged it (QoS 1).
 *
 * Settings are those that all have (broker_settings.c), and some more; the
 * callbacks are broker_publisher.c's.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "fmgr.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "common/broker_client.h"
#include "common/module.h"
#include "mqtt_settings.h"

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

BrokerVariables broker_variables;
static char *guc_client_id = NULL;
static char *guc_topic = NULL;
static int	guc_no_subscriber = NO_SUBSCRIBER_FAIL;

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

const BrokerKind broker_kind = {
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
	return broker_check_url(&broker_kind, *newval);
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
	broker_settings_define(&broker_kind, &broker_variables);
	broker_define_string(&broker_kind, "client_id",
						 "What the broker knows us by; empty means a name made of outbox.source.",
						 &guc_client_id, "", check_string);
	broker_define_string(&broker_kind, "topic",
						 "The topic of a message, made of {topic}, {key} and {type}.",
						 &guc_topic, "{topic}", module_check_template);
	DefineCustomEnumVariable("outbox_mqtt.no_subscriber",
							 "Whether an event that nobody has subscribed to fails, or is published.",
							 NULL, &guc_no_subscriber, NO_SUBSCRIBER_FAIL,
							 no_subscriber_choices, PGC_SUSET, 0, NULL, NULL, NULL);
	MarkGUCPrefixReserved("outbox_mqtt");
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

	settings->identity.user = broker->user;
	settings->identity.password = broker->password;
	settings->identity.client_id = guc_client_id[0] != '\0' ?
		pstrdup(guc_client_id) : make_client_id(state->source);
	settings->message.topic = pstrdup(guc_topic);
	settings->message.structured = broker->structured;
	settings->accept_unheard = guc_no_subscriber == NO_SUBSCRIBER_ACCEPT;
	if ((broker->user && strlen(broker->user) > MQTT_MAX_STRING) ||
		(broker->password && strlen(broker->password) > MQTT_MAX_STRING))
	{
		*reason = "the user or the password is too long for MQTT";
		return false;
	}
	return true;
}
