/*-------------------------------------------------------------------------
 *
 * settings.c
 *		The settings of outbox_rabbitmq.
 *
 * They are as those of outbox: a bad value is refused with the reason, a reload
 * is enough, and a secret is a file.  What they are at a time is a struct of
 * its own, in a context of its own, by which a connection goes on as it has
 * begun while the next one has other settings.
 *
 * Errors: what is missing or wrong in a file is a reason not to be configured.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/guc.h"
#include "utils/memutils.h"

#include "common/module.h"
#include "common/tls.h"
#include "lib/text.h"
#include "settings.h"

/* Names in AMQP have at most so many bytes. */
#define NAME_MAX_BYTES 255

/* What stands for the exchange that has no name. */
#define DEFAULT_EXCHANGE "default"

/* Who every new broker lets in from its own machine, with this password. */
#define DEFAULT_USER "guest"

enum
{
	UNROUTABLE_FAIL,
	UNROUTABLE_REJECT
};

static int	guc_content_mode = MODULE_BINARY;
static char *guc_exchange = NULL;
static int	guc_heartbeat = 30;
static bool guc_mandatory = true;
static int	guc_max_message_size = 16 * 1024 * 1024;
static int	guc_max_messages = 1000;
static char *guc_password_file = NULL;
static bool guc_persistent = true;
static char *guc_routing_key = NULL;
static char *guc_tls_ca_file = NULL;
static char *guc_tls_cert_file = NULL;
static char *guc_tls_key_file = NULL;
static int	guc_unroutable = UNROUTABLE_FAIL;
static char *guc_url = NULL;
static char *guc_user = NULL;

static const struct config_enum_entry unroutables[] = {
	{"fail", UNROUTABLE_FAIL, false},
	{"reject", UNROUTABLE_REJECT, false},
	{NULL, 0, false}
};

static const AddressScheme schemes[] = {
	{"amqp://", false, "5672"},
	{"amqps://", true, "5671"},
	{NULL, false, NULL}
};

/* What a URL says, and the virtual host in it; returns the problem, or NULL. */
static const char *
parse_url(const char *url, Address *address, bool *has_user)
{
	const char *problem = address_parse(url, schemes, address, has_user);

	if (problem != NULL)
		return problem;

	/* amqp://host/ is meant like amqp://host by all who write it */
	if (address->path == NULL || address->path[0] == '\0')
		address->path = "/";
	if (strlen(address->path) > NAME_MAX_BYTES)
		return "The name of the virtual host is too long.";
	return NULL;
}

static bool
check_url(char **newval, void **extra, GucSource source)
{
	Address		address;
	bool		has_user = false;
	const char *problem = parse_url(*newval, &address, &has_user);

	if (has_user)
		GUC_check_errhint("Set outbox_rabbitmq.user, and put the password into the file that outbox_rabbitmq.password_file names.");
	return module_accept_unless(problem);
}

static bool
check_name(char **newval, void **extra, GucSource source)
{
	if (text_has_control(*newval, strlen(*newval)))
		return module_accept_unless("It must not contain control characters.");
	return module_accept_unless(strlen(*newval) > NAME_MAX_BYTES ?
								"It must not have more than 255 bytes." : NULL);
}

static const struct
{
	const char *name;
	const char *description;
	char	  **variable;
	const char *boot_value;
	GucStringCheckHook check;
}			string_settings[] = {

	{"outbox_rabbitmq.exchange",
		"Exchange to publish to; \"default\": the one that has no name.",
	&guc_exchange, "", check_name},
	{"outbox_rabbitmq.password_file",
		"File with the user's password.",
	&guc_password_file, "", NULL},
	{"outbox_rabbitmq.routing_key",
		"Routing key, in which {topic}, {key} and {type} stand for those of the event.",
	&guc_routing_key, "{topic}", module_check_template},
	{"outbox_rabbitmq.tls_ca_file",
		"File with the certificate authorities to trust; empty: outbox.tls_ca_file.",
	&guc_tls_ca_file, "", NULL},
	{"outbox_rabbitmq.tls_cert_file",
		"File with a certificate to show to the broker.",
	&guc_tls_cert_file, "", NULL},
	{"outbox_rabbitmq.tls_key_file",
		"File with the private key of that certificate.",
	&guc_tls_key_file, "", NULL},
	{"outbox_rabbitmq.url",
		"Where RabbitMQ is: amqp://host:port/vhost, or amqps:// with TLS.",
	&guc_url, "amqp://127.0.0.1:5672", check_url},
	{"outbox_rabbitmq.user",
		"User to log in as.",
	&guc_user, DEFAULT_USER, check_name}
};

static const struct
{
	const char *name;
	const char *description;
	int		   *variable;		/* has its default */
	int			min;
	int			max;
	int			flags;
}			int_settings[] = {

	{"outbox_rabbitmq.heartbeat",
		"How long nothing may be heard of a broker, twice that ends the connection; 0: for ever.",
	&guc_heartbeat, 0, 3600, GUC_UNIT_S},
	{"outbox_rabbitmq.max_message_size",
		"Largest message that the broker takes; what is larger is refused.",
	&guc_max_message_size, 1, 512 * 1024 * 1024, GUC_UNIT_BYTE},
	{"outbox_rabbitmq.max_messages",
		"Messages that may be unconfirmed at a time.",
	&guc_max_messages, 1, 10000, 0}
};

/* Define them all; from now on, an unknown one of that prefix is an error. */
void
settings_define(void)
{
	for (int i = 0; i < lengthof(string_settings); i++)
		DefineCustomStringVariable(string_settings[i].name,
								   string_settings[i].description, NULL,
								   string_settings[i].variable,
								   string_settings[i].boot_value, PGC_SUSET, 0,
								   string_settings[i].check, NULL, NULL);

	/* the default of a number is its variable's initial value: said once */
	for (int i = 0; i < lengthof(int_settings); i++)
		DefineCustomIntVariable(int_settings[i].name,
								int_settings[i].description, NULL,
								int_settings[i].variable,
								*int_settings[i].variable,
								int_settings[i].min, int_settings[i].max,
								PGC_SUSET, int_settings[i].flags,
								NULL, NULL, NULL);
	DefineCustomEnumVariable("outbox_rabbitmq.content_mode",
							 "CloudEvents content mode.", NULL,
							 &guc_content_mode, guc_content_mode, module_content_modes,
							 PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomEnumVariable("outbox_rabbitmq.unroutable",
							 "Whether an event that no queue wants is tried again or refused.",
							 NULL,
							 &guc_unroutable, guc_unroutable, unroutables,
							 PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("outbox_rabbitmq.mandatory",
							 "Whether an event that no queue wants fails, or is lost.",
							 NULL, &guc_mandatory, guc_mandatory,
							 PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("outbox_rabbitmq.persistent",
							 "Whether durable queues keep events on disk.",
							 NULL, &guc_persistent, guc_persistent,
							 PGC_SUSET, 0, NULL, NULL, NULL);
	MarkGUCPrefixReserved("outbox_rabbitmq");
}

/* The password; false, and the reason, if it cannot be told. */
static bool
read_password(RabbitSettings *settings, const char **reason)
{
	if (guc_password_file[0] != '\0')
		return module_read_secret(guc_password_file, &settings->password,
								  reason);
	settings->password = DEFAULT_USER;
	if (strcmp(guc_user, DEFAULT_USER) == 0)
		return true;
	*reason = "outbox_rabbitmq.password_file is not set";
	return false;
}

/* MemoryContextCallback: "arg" is a context of OpenSSL's. */
static void
free_tls(void *arg)
{
	SSL_CTX_free(arg);
}

/* What TLS needs, unless it is not wanted; false, and the reason. */
static bool
read_tls(RabbitSettings *settings, const char **reason)
{
	TlsFiles	files = {
		.ca_file = settings->tls_ca_file,
		.cert_file = settings->tls_cert_file,
		.key_file = settings->tls_key_file
	};
	MemoryContextCallback *callback = palloc0(sizeof(MemoryContextCallback));

	if (!settings->address.tls)
		return true;
	settings->tls = tls_context_create(&files, reason);
	if (settings->tls == NULL)
		return false;
	callback->func = free_tls;
	callback->arg = settings->tls;
	MemoryContextRegisterResetCallback(settings->context, callback);
	return true;
}

/* Note which files are about to be read. */
static void
watch_files(OutboxPublisherState *state, FileWatch *watch)
{
	const char *const paths[] = {
		guc_password_file,
		module_ca_file(guc_tls_ca_file, state),
		guc_tls_cert_file,
		guc_tls_key_file
	};

	file_watch_begin(watch, state, paths, lengthof(paths));
}

/* The same, in the context of the settings. */
static bool
read_all(RabbitSettings *settings, const OutboxPublisherState *state,
		 const char **reason)
{
	bool		has_user;

	if (guc_exchange[0] == '\0')
	{
		*reason = "outbox_rabbitmq.exchange is not set";
		return false;
	}
	settings->url = pstrdup(guc_url);
	*reason = parse_url(settings->url, &settings->address, &has_user);
	if (*reason != NULL)
		return false;
	settings->user = pstrdup(guc_user);
	settings->exchange = strcmp(guc_exchange, DEFAULT_EXCHANGE) == 0 ? "" :
		pstrdup(guc_exchange);
	settings->routing_key = pstrdup(guc_routing_key);
	settings->source = pstrdup(state->source);
	settings->structured = guc_content_mode == MODULE_STRUCTURED;
	settings->mandatory = guc_mandatory;
	settings->persistent = guc_persistent;
	settings->reject_unroutable = guc_unroutable == UNROUTABLE_REJECT;
	settings->heartbeat = guc_heartbeat;
	settings->max_message_size = guc_max_message_size;
	settings->max_messages = guc_max_messages;
	settings->tls_ca_file = pstrdup(module_ca_file(guc_tls_ca_file, state));
	settings->tls_cert_file = pstrdup(guc_tls_cert_file);
	settings->tls_key_file = pstrdup(guc_tls_key_file);
	return read_password(settings, reason) && read_tls(settings, reason);
}

/*
 * The settings as they are now, to be freed by settings_free(), and the files that
 * they name, which are watched from now on.  NULL, and the reason in the current memory
 * context, if nothing can be sent with them.
 */
RabbitSettings *
settings_read(OutboxPublisherState *state, FileWatch *watch, const char **reason)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext context = AllocSetContextCreate(state->context,
												  "outbox_rabbitmq settings",
												  ALLOCSET_SMALL_SIZES);
	RabbitSettings *settings = MemoryContextAllocZero(context,
													  sizeof(RabbitSettings));
	bool		ok;

	settings->context = context;
	MemoryContextSwitchTo(context);
	watch_files(state, watch);
	ok = read_all(settings, state, reason);
	MemoryContextSwitchTo(caller);
	if (ok)
		return settings;
	*reason = pstrdup(*reason);
	settings_free(settings);
	return NULL;
}

/*
 * May a connection that was made with one of them go on with the other?  What is
 * in files of TLS counts for the next connection only.
 */
bool
settings_equal(const RabbitSettings *a, const RabbitSettings *b)
{
	return strcmp(a->url, b->url) == 0 &&
		strcmp(a->user, b->user) == 0 &&
		strcmp(a->password, b->password) == 0 &&
		strcmp(a->exchange, b->exchange) == 0 &&
		strcmp(a->routing_key, b->routing_key) == 0 &&
		strcmp(a->source, b->source) == 0 &&
		a->structured == b->structured &&
		a->mandatory == b->mandatory &&
		a->persistent == b->persistent &&
		a->reject_unroutable == b->reject_unroutable &&
		a->heartbeat == b->heartbeat &&
		a->max_message_size == b->max_message_size &&
		strcmp(a->tls_ca_file, b->tls_ca_file) == 0 &&
		strcmp(a->tls_cert_file, b->tls_cert_file) == 0 &&
		strcmp(a->tls_key_file, b->tls_key_file) == 0;
}

void
settings_free(RabbitSettings *settings)
{
	MemoryContextDelete(settings->context);
}
