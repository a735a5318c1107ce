/*-------------------------------------------------------------------------
 *
 * settings.c
 *		The settings of outbox_kafka, and what librdkafka is told of them.
 *
 * They are as those of outbox: a bad value is refused with the reason, and a
 * reload is enough.  What librdkafka can be set to besides, passwords included,
 * is in a secret file with its own names; what our promises stand on, or has a
 * setting, is refused there.  What they are at a time is a struct of its own, in
 * a context of its own: a producer goes on as it has begun while the next one
 * has other settings.
 *
 * Errors: what is missing or wrong in a file is a reason not to be configured,
 * which shows no value: that may be a secret in the wrong place.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/stat.h>

#include "utils/guc.h"
#include "utils/memutils.h"

#include "common/module.h"
#include "lib/secret_file.h"
#include "lib/stringinfo.h"
#include "lib/text.h"
#include "settings.h"

/* librdkafka looks so often for what has timed out. */
#define TIMEOUT_SCAN_MS 1000

/* What its socket.timeout.ms and its socket.connection.setup.timeout.ms take. */
#define MIN_SOCKET_TIMEOUT 10
#define MAX_SOCKET_TIMEOUT 300000
#define MIN_SETUP_TIMEOUT 1000

static char *guc_bootstrap_servers = NULL;
static int	guc_content_mode = MODULE_BINARY;
static int	guc_max_messages = 1000;
static char *guc_options_file = NULL;
static char *guc_tls_ca_file = NULL;
static char *guc_tls_cert_file = NULL;
static char *guc_tls_key_file = NULL;
static char *guc_topic = NULL;

/*
 * What librdkafka is told unless the file says otherwise.  It is to notice soon
 * that a broker is back, or a topic not there.  Messages may be as large as a
 * topic takes by default, and go to the partition that the client in Java would
 * choose.
 */
static const KafkaOption defaults[] = {
	{"client.id", "outbox"},
	{"linger.ms", "1"},
	{"message.max.bytes", "1048588"},
	{"partitioner", "murmur2_random"},
	{"reconnect.backoff.max.ms", "500"},
	{"ssl.endpoint.identification.algorithm", "https"},
	{"topic.metadata.propagation.max.ms", "1000"}
};

/*
 * What it is always told.  Idempotence keeps what is sent again in order, and
 * from being there twice, as long as a producer lives.
 */
static const KafkaOption fixed[] = {
	{"acks", "all"},
	{"enable.idempotence", "true"},
	{"log.queue", "true"}
};

/* What a file must not set: because we do, or a setting does. */
static const struct
{
	const char *name;
	const char *setting;		/* NULL: none */
}			refused[] = {
	{"acks", NULL},
	{"bootstrap.servers", "outbox_kafka.bootstrap_servers"},
	{"delivery.report.only.error", NULL},
	{"delivery.timeout.ms", "outbox.request_timeout"},
	{"enable.gapless.guarantee", NULL},
	{"enable.idempotence", NULL},
	{"enabled_events", NULL},
	{"internal.termination.signal", NULL},
	{"log.queue", NULL},
	{"message.timeout.ms", "outbox.request_timeout"},
	{"metadata.broker.list", "outbox_kafka.bootstrap_servers"},
	{"plugin.library.paths", NULL},
	{"request.required.acks", NULL},
	{"ssl.ca.location", "outbox_kafka.tls_ca_file"},
	{"ssl.ca.pem", "outbox_kafka.tls_ca_file"},
	{"ssl.certificate.location", "outbox_kafka.tls_cert_file"},
	{"ssl.certificate.pem", "outbox_kafka.tls_cert_file"},
	{"ssl.key.location", "outbox_kafka.tls_key_file"},
	{"ssl.key.pem", "outbox_kafka.tls_key_file"},
	{"transactional.id", NULL}
};

/* Room for ours, beside those of a file. */
#define MAX_OPTIONS_OF_OURS \
	(lengthof(defaults) + lengthof(fixed) + 7)

static bool
check_text(char **newval, void **extra, GucSource source)
{
	return module_accept_unless(text_has_control(*newval, strlen(*newval)) ?
								"It must not contain control characters." : NULL);
}

static const struct
{
	const char *name;
	const char *description;
	char	  **variable;
	const char *boot_value;
	GucStringCheckHook check;
}			string_settings[] = {

	{"outbox_kafka.bootstrap_servers",
		"Brokers to begin with: host:port, with commas between them.",
	&guc_bootstrap_servers, "", check_text},
	{"outbox_kafka.options_file",
		"File with options of librdkafka, passwords among them, one a line.",
	&guc_options_file, "", NULL},
	{"outbox_kafka.tls_ca_file",
		"File with the certificate authorities to trust; empty: outbox.tls_ca_file.",
	&guc_tls_ca_file, "", NULL},
	{"outbox_kafka.tls_cert_file",
		"File with a certificate to show to the brokers.",
	&guc_tls_cert_file, "", NULL},
	{"outbox_kafka.tls_key_file",
		"File with the private key of that certificate.",
	&guc_tls_key_file, "", NULL},
	{"outbox_kafka.topic",
		"Topic of Kafka, in which {topic}, {key} and {type} stand for those of the event.",
	&guc_topic, "{topic}", module_check_template}
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
	DefineCustomEnumVariable("outbox_kafka.content_mode",
							 "CloudEvents content mode.", NULL,
							 &guc_content_mode, guc_content_mode, module_content_modes,
							 PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("outbox_kafka.max_messages",
							"Messages that may be unacknowledged at a time.",
							NULL,
							&guc_max_messages, guc_max_messages, 1, 10000,
							PGC_SUSET, 0, NULL, NULL, NULL);
	MarkGUCPrefixReserved("outbox_kafka");
}

static void
add_option(KafkaSettings *settings, const char *name, const char *value)
{
	settings->options[settings->noptions].name = name;
	settings->options[settings->noptions++].value = value;
}

static void
add_options(KafkaSettings *settings, const KafkaOption *options, int n)
{
	for (int i = 0; i < n; i++)
		add_option(settings, options[i].name, options[i].value);
}

/* The value of an option so far; NULL: it has none. */
static const char *
option_value(const KafkaSettings *settings, const char *name)
{
	for (int i = settings->noptions - 1; i >= 0; i--)
	{
		if (strcmp(settings->options[i].name, name) == 0)
			return settings->options[i].value;
	}
	return NULL;
}

/* Why the file must not set this; NULL: it may. */
static const char *
find_refusal(const char *name)
{
	for (int i = 0; i < lengthof(refused); i++)
	{
		if (strcmp(refused[i].name, name) != 0)
			continue;
		return refused[i].setting == NULL ?
			psprintf("file \"%s\" must not set \"%s\"", guc_options_file,
					 name) :
			psprintf("file \"%s\" must not set \"%s\", which is for %s",
					 guc_options_file, name, refused[i].setting);
	}
	return NULL;
}

/* Without the white space around it; changes "str". */
static char *
trim(char *str)
{
	Size		len;

	str += strspn(str, " \t\r");
	len = strlen(str);
	while (len > 0 && strchr(" \t\r", str[len - 1]) != NULL)
		str[--len] = '\0';
	return str;
}

/*
 * Add the options in the text of the file, which is changed and has to stay.
 * False, and the reason, if one of them cannot be.
 */
static bool
parse_options(KafkaSettings *settings, char *text, const char **reason)
{
	int			number = 0;

	for (char *line; (line = strsep(&text, "\n")) != NULL;)
	{
		char	   *value;

		number++;
		line = trim(line);
		if (line[0] == '\0' || line[0] == '#')
			continue;
		value = strchr(line, '=');
		if (value == NULL)
		{
			*reason = psprintf("line %d of file \"%s\" is not name = value",
							   number, guc_options_file);
			return false;
		}
		*value++ = '\0';
		line = trim(line);
		*reason = find_refusal(line);
		if (*reason != NULL)
			return false;
		add_option(settings, line, trim(value));
	}
	return true;
}

static int
count_lines(const char *text)
{
	int			n = 1;

	while ((text = strchr(text, '\n')) !=NULL)
	{
		text	  ++;

		n++;
	}
	return n;
}

/* All that the file can change: our defaults, and what is in it. */
static bool
read_options(KafkaSettings *settings, const OutboxPublisherState *state,
			 const char **reason)
{
	char	   *text = "";
	int			socket_timeout = Min(Max(state->request_timeout,
										 MIN_SOCKET_TIMEOUT),
									 MAX_SOCKET_TIMEOUT);

	if (guc_options_file[0] != '\0' &&
		!secret_file_read(guc_options_file, &text, reason))
		return false;
	settings->options = palloc(sizeof(KafkaOption) *
							   (MAX_OPTIONS_OF_OURS + count_lines(text)));
	add_options(settings, defaults, lengthof(defaults));
	add_option(settings, "socket.timeout.ms", psprintf("%d", socket_timeout));
	add_option(settings, "socket.connection.setup.timeout.ms",
			   psprintf("%d", Max(state->connect_timeout, MIN_SETUP_TIMEOUT)));
	return parse_options(settings, text, reason);
}

/* Add to "buf" what tells this file from another one that has its name. */
static void
append_identity(StringInfo buf, const char *path)
{
	struct stat st;

	if (path[0] != '\0' && stat(path, &st) == 0)
		appendStringInfo(buf, "%s %llu %lld %lld.%09ld\n", path,
						 (unsigned long long) st.st_ino,
						 (long long) st.st_size,
						 (long long) st.st_mtim.tv_sec,
						 (long) st.st_mtim.tv_nsec);
}

/* Note which files are about to be read. */
static void
watch_files(OutboxPublisherState *state, FileWatch *watch)
{
	const char *const paths[] = {
		guc_options_file,
		module_ca_file(guc_tls_ca_file, state),
		guc_tls_cert_file,
		guc_tls_key_file
	};

	file_watch_begin(watch, state, paths, lengthof(paths));
}

/*
 * What TLS needs.  librdkafka reads the certificates from their files, and is
 * given the key, which has to be in a secret file.
 */
static bool
read_tls(KafkaSettings *settings, const OutboxPublisherState *state,
		 const char **reason)
{
	const char *protocol = option_value(settings, "security.protocol");
	const char *ca_file = module_ca_file(guc_tls_ca_file, state);
	StringInfoData files;
	char	   *key;

	if (protocol == NULL || (pg_strcasecmp(protocol, "ssl") != 0 &&
							 pg_strcasecmp(protocol, "sasl_ssl") != 0))
	{
		/* who names an authority believes that somebody is asked for it */
		if (guc_tls_ca_file[0] || guc_tls_cert_file[0] || guc_tls_key_file[0])
			*reason = "TLS has settings, but security.protocol in outbox_kafka.options_file is not ssl or sasl_ssl";
		return *reason == NULL;
	}
	initStringInfo(&files);
	append_identity(&files, ca_file);
	append_identity(&files, guc_tls_cert_file);
	settings->files = files.data;
	if (ca_file[0] != '\0')
		add_option(settings, "ssl.ca.location", pstrdup(ca_file));
	if (guc_tls_cert_file[0] != '\0')
		add_option(settings, "ssl.certificate.location",
				   pstrdup(guc_tls_cert_file));
	if (guc_tls_key_file[0] == '\0')
		return true;
	if (!secret_file_read(guc_tls_key_file, &key, reason))
		return false;
	add_option(settings, "ssl.key.pem", key);
	return true;
}

/* The same, in the context of the settings. */
static bool
read_all(KafkaSettings *settings, const OutboxPublisherState *state,
		 const char **reason)
{
	*reason = NULL;
	if (guc_bootstrap_servers[0] == '\0')
	{
		*reason = "outbox_kafka.bootstrap_servers is not set";
		return false;
	}
	settings->topic = pstrdup(guc_topic);
	settings->source = pstrdup(state->source);
	settings->structured = guc_content_mode == MODULE_STRUCTURED;
	settings->max_messages = guc_max_messages;
	settings->files = "";

	/*
	 * By the time the relay gives up waiting for a message, librdkafka has
	 * said why it did.
	 */
	settings->message_timeout =
		state->request_timeout >= 2 * TIMEOUT_SCAN_MS ?
		state->request_timeout - TIMEOUT_SCAN_MS :
		Max(state->request_timeout / 2, 1);
	if (!read_options(settings, state, reason) ||
		!read_tls(settings, state, reason))
		return false;
	add_options(settings, fixed, lengthof(fixed));
	add_option(settings, "bootstrap.servers", pstrdup(guc_bootstrap_servers));
	add_option(settings, "message.timeout.ms",
			   psprintf("%d", settings->message_timeout));
	return true;
}

/*
 * The settings as they are now, to be freed by settings_free(), and the files that
 * they name, which are watched from now on.  NULL, and the reason in the current memory
 * context, if nothing can be sent with them.
 */
KafkaSettings *
settings_read(OutboxPublisherState *state, FileWatch *watch, const char **reason)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext context = AllocSetContextCreate(state->context,
												  "outbox_kafka settings",
												  ALLOCSET_SMALL_SIZES);
	KafkaSettings *settings = MemoryContextAllocZero(context,
													 sizeof(KafkaSettings));
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

/* May a producer that was made with one of them go on with the other? */
bool
settings_make_same_producer(const KafkaSettings *a, const KafkaSettings *b)
{
	if (a->noptions != b->noptions || strcmp(a->files, b->files) != 0)
		return false;
	for (int i = 0; i < a->noptions; i++)
	{
		if (strcmp(a->options[i].name, b->options[i].name) != 0 ||
			strcmp(a->options[i].value, b->options[i].value) != 0)
			return false;
	}
	return true;
}

void
settings_free(KafkaSettings *settings)
{
	MemoryContextDelete(settings->context);
}
