/*-------------------------------------------------------------------------
 *
 * outbox_nats.c
 *		A publisher for NATS JetStream: settings.
 *
 * An event becomes a message (nats_message.c) on a connection (nats_client.c),
 * and is delivered when JetStream says that a stream has stored it.  The stream
 * has to be there; nothing is created here.
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
#include "lib/secret_file.h"
#include "nats_settings.h"

PG_MODULE_MAGIC;

static const AddressScheme schemes[] = {
	{"nats://", false, "4222"},
	{"tls://", true, "4222"},
	{NULL}
};

BrokerVariables broker_variables;
static char *guc_credentials_file = NULL;
static char *guc_subject = NULL;
static char *guc_expect_stream = NULL;

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
	.prefix = "outbox_nats",
	.own_file = &guc_credentials_file,
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
	return broker_check_url(&broker_kind, *newval);
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
	broker_settings_define(&broker_kind, &broker_variables);
	broker_define_string(&broker_kind, "credentials_file",
						 "File with a user's JWT and seed, as NATS' tools write it, or only the seed.",
						 &guc_credentials_file, "", NULL);
	broker_define_string(&broker_kind, "subject",
						 "The subject of a message, made of {topic}, {key} and {type}.",
						 &guc_subject, "{topic}", module_check_template);
	broker_define_string(&broker_kind, "expect_stream",
						 "The stream that has to store the messages; empty means any.",
						 &guc_expect_stream, "", check_expect_stream);
	MarkGUCPrefixReserved("outbox_nats");
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

	settings->server.address = broker->address;
	settings->server.tls = broker->tls;
	settings->server.identity.user = broker->user;
	settings->server.identity.password = broker->password;
	settings->message.subject = pstrdup(guc_subject);
	settings->message.expect_stream = pstrdup(guc_expect_stream);
	settings->message.structured = broker->structured;
	if (guc_credentials_file[0] == '\0')
		return true;
	settings->server.identity.credentials = &settings->credentials;
	return read_credentials(&settings->credentials, reason);
}
