/*-------------------------------------------------------------------------
 *
 * outbox_redis.c
 *		A publisher for Redis Streams: settings.
 *
 * An event becomes an entry (redis_entry.c) on a connection (redis_client.c), and
 * is delivered when Redis says that it has added it; with outbox_redis.wait, when
 * so many replicas have it, too, and with outbox_redis.waitaof, when it is on disk.
 *
 * Settings are those that all have (broker_settings.c), and some more; the
 * callbacks are broker_publisher.c's.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "common/broker_client.h"
#include "common/module.h"
#include "redis_settings.h"

PG_MODULE_MAGIC;

/* Behind it is the path of a socket, from the root on. */
#define UNIX_SCHEME "unix://"

static const AddressScheme schemes[] = {
	{"redis://", false, "6379"},
	{"rediss://", true, "6379"},
	{NULL}
};

BrokerVariables broker_variables;
static char *guc_stream = NULL;
static int	guc_maxlen = 0;
static int	guc_wait = 0;
static bool guc_waitaof = false;
static bool guc_idmp = false;

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

const BrokerKind broker_kind = {
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
	return broker_check_url(&broker_kind, *newval);
}

void
_PG_init(void)
{
	broker_settings_define(&broker_kind, &broker_variables);
	broker_define_string(&broker_kind, "stream",
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
	DefineCustomBoolVariable("outbox_redis.waitaof",
							 "Whether it must be on disk there, and at the server, as well.",
							 NULL, &guc_waitaof, false, PGC_SUSET, 0,
							 NULL, NULL, NULL);
	DefineCustomBoolVariable("outbox_redis.idmp",
							 "Whether the server is asked to drop what it has already.",
							 NULL, &guc_idmp, false, PGC_SUSET, 0,
							 NULL, NULL, NULL);
	MarkGUCPrefixReserved("outbox_redis");
}

/* As BrokerKind has it. */
static bool
read_own_settings(const OutboxPublisherState *state, void *arg,
				  const char **reason)
{
	RedisSettings *settings = arg;
	const BrokerSettings *broker = &settings->broker;

	settings->wait.replicas = guc_wait;
	settings->wait.on_disk = guc_waitaof;
	settings->entry.stream = pstrdup(guc_stream);
	settings->entry.maxlen = guc_maxlen;
	settings->entry.idmp = guc_idmp;
	settings->entry.structured = broker->structured;
	return true;
}
