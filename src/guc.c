/*-------------------------------------------------------------------------
 *
 * guc.c
 *		Every setting of the extension, by type and name.
 *
 * All of them but max_relays can be set in postgresql.conf and follow a
 * reload; a superuser can also set them for one database with ALTER DATABASE
 * ... SET, which its relay sees when it starts.  A check hook refuses a bad
 * value with the reason; the old value then stays.  What is wrong with a URL or
 * a header is for src/http to say.  Secrets are files, named by settings that end
 * with _file; a value that somebody might yet put one into is shown to those only
 * who may read all settings.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "miscadmin.h"
#include "utils/guc.h"

#include "guc.h"
#include "http/http_address.h"
#include "http/http_header.h"
#include "http/http_status.h"
#include "http/http_url.h"
#include "lib/compat.h"

int			guc_abandon_after = 0;
int			guc_batch_size = 1000;
int			guc_breaker_probe_interval = 5000;
int			guc_breaker_threshold = 10;
int			guc_cleaning_expire_interval = 300000;
int			guc_cleaning_local_queue_expire_interval = 60000;
int			guc_connect_timeout = 3000;
char	   *guc_dapr_api_token_file = NULL;
int			guc_dapr_bulk = DAPR_BULK_AUTO;
char	   *guc_dapr_endpoint = NULL;
char	   *guc_dapr_pubsub_name = NULL;
int			guc_dead_key_policy = DEAD_KEY_BLOCK;
int			guc_delete_batch_count = 1000;
bool		guc_enabled = true;
int			guc_failed_retry_interval = 60000;
char	   *guc_http_allowed_addresses = NULL;
int			guc_http_batch_size = 1;
int			guc_http_compression = HTTP_COMPRESSION_OFF;
int			guc_http_compression_min = 1024;
int			guc_http_connection_age = 60;
int			guc_http_content_mode = HTTP_MODE_BINARY;
char	   *guc_http_headers = NULL;
char	   *guc_http_headers_file = NULL;
bool		guc_http_idempotency_key = false;
char	   *guc_http_metadata_headers = NULL;
char	   *guc_http_oauth_audience = NULL;
int			guc_http_oauth_auth = OAUTH_AUTH_BASIC;
char	   *guc_http_oauth_client_id = NULL;
char	   *guc_http_oauth_client_secret_file = NULL;
char	   *guc_http_oauth_scope = NULL;
char	   *guc_http_oauth_token_url = NULL;
char	   *guc_http_permanent_statuses = NULL;
char	   *guc_http_proxy = NULL;
char	   *guc_http_proxy_credentials_file = NULL;
char	   *guc_http_signature_secret_file = NULL;
bool		guc_http_topic_slashes = false;
char	   *guc_http_url = NULL;
char	   *guc_http_url_file = NULL;
int			guc_key_scope = KEY_SCOPE_TOPIC;
int			guc_local_failed_retry_interval = 3000;
int			guc_local_retry_times = 3;
bool		guc_log_responses = true;
int			guc_max_in_flight = 64;
int			guc_max_payload_size = 1024 * 1024;
int			guc_max_relays = 100;
int			guc_max_retry_interval = 3600000;
int			guc_max_retry_times = 10;
int			guc_minimum_retry_interval = 60000;
int			guc_poll_interval = 1000;
int			guc_published_expire_time = 86400;
char	   *guc_publisher = NULL;
int			guc_relay_memory = 16384;
int			guc_request_timeout = 15000;
double		guc_retry_backoff = 2.0;
int			guc_retry_batch_size = 100;
char	   *guc_source = NULL;
char	   *guc_tls_ca_file = NULL;
char	   *guc_tls_cert_file = NULL;
char	   *guc_tls_key_file = NULL;
char	   *guc_tls_key_password_file = NULL;

static const struct config_enum_entry dapr_bulks[] = {
	{"off", DAPR_BULK_OFF, false},
	{"auto", DAPR_BULK_AUTO, false},
	{"on", DAPR_BULK_ON, false},
	{NULL, 0, false}
};

static const struct config_enum_entry dead_key_policies[] = {
	{"block", DEAD_KEY_BLOCK, false},
	{"skip", DEAD_KEY_SKIP, false},
	{NULL, 0, false}
};

static const struct config_enum_entry http_compressions[] = {
	{"off", HTTP_COMPRESSION_OFF, false},
	{"gzip", HTTP_COMPRESSION_GZIP, false},
	{NULL, 0, false}
};

static const struct config_enum_entry http_content_modes[] = {
	{"binary", HTTP_MODE_BINARY, false},
	{"structured", HTTP_MODE_STRUCTURED, false},
	{NULL, 0, false}
};

static const struct config_enum_entry oauth_auths[] = {
	{"basic", OAUTH_AUTH_BASIC, false},
	{"post", OAUTH_AUTH_POST, false},
	{NULL, 0, false}
};

static const struct config_enum_entry key_scopes[] = {
	{"topic", KEY_SCOPE_TOPIC, false},
	{"all", KEY_SCOPE_ALL, false},
	{NULL, 0, false}
};

/* Accept a value unless there is a problem with it, which is then told. */
static bool
accept_unless(const char *problem)
{
	if (problem != NULL)
		GUC_check_errdetail("%s", problem);
	return problem == NULL;
}

static bool
check_dapr_endpoint(char **newval, void **extra, GucSource source)
{
	bool		has_user = false;
	const char *problem = http_url_address_problem(*newval, &has_user);

	if (has_user)
		GUC_check_errhint("Put the token into the file that outbox.dapr_api_token_file names.");
	return accept_unless(problem);
}

static bool
check_http_addresses(char **newval, void **extra, GucSource source)
{
	return accept_unless(http_address_list_problem(*newval));
}

static bool
check_http_headers(char **newval, void **extra, GucSource source)
{
	return accept_unless(http_header_list_problem(*newval));
}

static bool
check_http_metadata_headers(char **newval, void **extra, GucSource source)
{
	return accept_unless(http_header_names_problem(*newval));
}

/* Empty means that there is none. */
static bool
check_http_proxy(char **newval, void **extra, GucSource source)
{
	bool		has_user = false;
	const char *problem = NULL;

	if (**newval != '\0')
		problem = http_url_proxy_problem(*newval, &has_user);
	if (has_user)
		GUC_check_errhint("Put them into the file that outbox.http_proxy_credentials_file names.");
	return accept_unless(problem);
}

/* Empty means that there is none. */
static bool
check_http_token_url(char **newval, void **extra, GucSource source)
{
	bool		has_user = false;
	const char *problem = NULL;

	if (**newval != '\0')
		problem = http_url_secure_problem(*newval, &has_user);
	if (has_user)
		GUC_check_errhint("Set outbox.http_oauth_client_id and outbox.http_oauth_client_secret_file.");
	return accept_unless(problem);
}

static bool
check_http_statuses(char **newval, void **extra, GucSource source)
{
	return accept_unless(http_status_list_problem(*newval));
}

/* Empty means that there is none yet. */
static bool
check_http_url(char **newval, void **extra, GucSource source)
{
	bool		has_user = false;
	const char *problem = NULL;

	if (**newval != '\0')
		problem = http_url_pattern_problem(*newval, &has_user);
	if (has_user)
		GUC_check_errhint("Put an Authorization header into the file that outbox.http_headers_file names.");
	return accept_unless(problem);
}

static bool
check_name(char **newval, void **extra, GucSource source)
{
	if (**newval == '\0')
		return accept_unless("It must not be empty.");
	return accept_unless(http_url_part_problem(*newval));
}

static bool
check_source(char **newval, void **extra, GucSource source)
{
	return accept_unless(http_uri_reference_problem(*newval));
}

static const struct
{
	const char *name;
	const char *description;
	int		   *variable;		/* has its default */
	int			min;
	int			max;
	int			flags;
}			int_settings[] = {

	{"outbox.abandon_after",
		"Age from which on what is not delivered is given up; 0: never.",
	&guc_abandon_after, 0, INT_MAX, GUC_UNIT_S},
	{"outbox.batch_size",
		"Events that the relay reads at once.",
	&guc_batch_size, 1, 100000, 0},
	{"outbox.breaker_probe_interval",
		"Wait between two probes of a destination that is down.",
	&guc_breaker_probe_interval, 10, INT_MAX, GUC_UNIT_MS},
	{"outbox.breaker_threshold",
		"Failures in a row after which the destination counts as down; 0: never.",
	&guc_breaker_threshold, 0, INT_MAX, 0},
	{"outbox.cleaning_expire_interval",
		"Wait between two prunes.",
	&guc_cleaning_expire_interval, 100, INT_MAX, GUC_UNIT_MS},
	{"outbox.cleaning_local_queue_expire_interval",
		"Wait between two sweeps of the events in the relay's memory.",
	&guc_cleaning_local_queue_expire_interval, 100, INT_MAX, GUC_UNIT_MS},
	{"outbox.connect_timeout",
		"Longest wait for a connection to the destination.",
	&guc_connect_timeout, 1, INT_MAX, GUC_UNIT_MS},
	{"outbox.delete_batch_count",
		"Rows that one statement of a prune deletes.",
	&guc_delete_batch_count, 1, 1000000, 0},
	{"outbox.failed_retry_interval",
		"First wait of the persistent retry tier.",
	&guc_failed_retry_interval, 1, INT_MAX, GUC_UNIT_MS},
	{"outbox.http_batch_size",
		"Events that share a request of the http publisher; more than 1: CloudEvents' batch mode.",
	&guc_http_batch_size, 1, 10000, 0},
	{"outbox.http_compression_min",
		"Size from which on the http publisher compresses the body of a request.",
	&guc_http_compression_min, 0, INT_MAX, GUC_UNIT_BYTE},
	{"outbox.http_connection_age",
		"How long the http and dapr publishers use a connection; 0: as long as it lasts.",
	&guc_http_connection_age, 0, INT_MAX, GUC_UNIT_S},
	{"outbox.local_failed_retry_interval",
		"Wait between two tries of the local retry tier.",
	&guc_local_failed_retry_interval, 1, INT_MAX, GUC_UNIT_MS},
	{"outbox.local_retry_times",
		"Retries from the relay's memory, before the persistent tier.",
	&guc_local_retry_times, 0, INT_MAX, 0},
	{"outbox.max_in_flight",
		"Requests without an answer that a relay has at most.",
	&guc_max_in_flight, 1, 10000, 0},
	{"outbox.max_payload_size",
		"Largest payload of an event.",
	&guc_max_payload_size, 1, 256 * 1024 * 1024, GUC_UNIT_BYTE},
	{"outbox.max_retry_interval",
		"Longest wait between two retries.",
	&guc_max_retry_interval, 1, INT_MAX, GUC_UNIT_MS},
	{"outbox.max_retry_times",
		"Retries in all before an event is dead.",
	&guc_max_retry_times, 0, INT_MAX - 1, 0},
	{"outbox.minimum_retry_interval",
		"An event found failed or in progress in the table is not retried sooner after its last change.",
	&guc_minimum_retry_interval, 0, INT_MAX, GUC_UNIT_MS},
	{"outbox.poll_interval",
		"Longest wait of an idle relay before it looks for events.",
	&guc_poll_interval, 1, 3600000, GUC_UNIT_MS},
	{"outbox.published_expire_time",
		"How long a published event is kept.",
	&guc_published_expire_time, 0, INT_MAX, GUC_UNIT_S},
	{"outbox.relay_memory",
		"Memory for events that a relay has read and not settled.",
	&guc_relay_memory, 64, 8 * 1024 * 1024, GUC_UNIT_KB},
	{"outbox.request_timeout",
		"Longest wait for the answer to a request.",
	&guc_request_timeout, 1, INT_MAX / 2, GUC_UNIT_MS},
	{"outbox.retry_batch_size",
		"Events that the persistent retry tier reads at once.",
	&guc_retry_batch_size, 1, 10000, 0}
};

static const struct
{
	const char *name;
	const char *description;
	char	  **variable;
	const char *boot_value;
	GucStringCheckHook check;
	int			flags;
}			string_settings[] = {

	{"outbox.dapr_api_token_file",
		"File with the token that Dapr asks for.",
	&guc_dapr_api_token_file, "", NULL, 0},
	{"outbox.dapr_endpoint",
		"Address of Dapr's HTTP API: a URL, or unix:/path.",
	&guc_dapr_endpoint, "http://127.0.0.1:3500", check_dapr_endpoint, 0},
	{"outbox.dapr_pubsub_name",
		"Name of Dapr's pubsub component.",
	&guc_dapr_pubsub_name, "pubsub", check_name, 0},
	{"outbox.http_allowed_addresses",
		"Networks to which the http publisher may connect; empty: any.",
	&guc_http_allowed_addresses, "", check_http_addresses, 0},
	{"outbox.http_headers",
		"Headers that the http publisher adds, one a line.",
	&guc_http_headers, "", check_http_headers, GUC_SUPERUSER_ONLY},
	{"outbox.http_headers_file",
		"File with further such headers, secret ones for instance.",
	&guc_http_headers_file, "", NULL, 0},
	{"outbox.http_metadata_headers",
		"Names of metadata that the http publisher sends as headers of the same names.",
	&guc_http_metadata_headers, "", check_http_metadata_headers, 0},
	{"outbox.http_oauth_audience",
		"Audience for which an access token is asked; empty: none is named.",
	&guc_http_oauth_audience, "", NULL, 0},
	{"outbox.http_oauth_client_id",
		"Client for which an access token is asked.",
	&guc_http_oauth_client_id, "", NULL, 0},
	{"outbox.http_oauth_client_secret_file",
		"File with that client's secret.",
	&guc_http_oauth_client_secret_file, "", NULL, 0},
	{"outbox.http_oauth_scope",
		"Scope for which an access token is asked; empty: none is named.",
	&guc_http_oauth_scope, "", NULL, 0},
	{"outbox.http_oauth_token_url",
		"Where the http publisher gets an access token (OAuth 2.0, client credentials); empty: it needs none.",
	&guc_http_oauth_token_url, "", check_http_token_url, 0},
	{"outbox.http_permanent_statuses",
		"Statuses by which an endpoint says that it will never take an event.",
	&guc_http_permanent_statuses, "400, 413, 415, 422", check_http_statuses, 0},
	{"outbox.http_proxy",
		"URL of the proxy through which the http publisher sends; empty: none.",
	&guc_http_proxy, "", check_http_proxy, 0},
	{"outbox.http_proxy_credentials_file",
		"File with name:password for that proxy.",
	&guc_http_proxy_credentials_file, "", NULL, 0},
	{"outbox.http_signature_secret_file",
		"File with the secrets that the http publisher signs requests with, one a line.",
	&guc_http_signature_secret_file, "", NULL, 0},
	{"outbox.http_url",
		"Where the http publisher posts events; {topic} stands for the topic.",
	&guc_http_url, "", check_http_url, GUC_SUPERUSER_ONLY},
	{"outbox.http_url_file",
		"File with such a URL that is a secret.",
	&guc_http_url_file, "", NULL, 0},
	{"outbox.publisher",
		"Who takes events to their destination: dapr, http, or a library.",
	&guc_publisher, "dapr", check_name, 0},
	{"outbox.source",
		"CloudEvents source; empty: the one that CREATE EXTENSION has made for the database.",
	&guc_source, "", check_source, 0},
	{"outbox.tls_ca_file",
		"File with the certificate authorities to trust; empty: the system's.",
	&guc_tls_ca_file, "", NULL, 0},
	{"outbox.tls_cert_file",
		"File with the certificate, and its chain, to show to a server that asks for one.",
	&guc_tls_cert_file, "", NULL, 0},
	{"outbox.tls_key_file",
		"File with the private key of this certificate.",
	&guc_tls_key_file, "", NULL, 0},
	{"outbox.tls_key_password_file",
		"File with the password of this key, if it has one.",
	&guc_tls_key_password_file, "", NULL, 0}
};

static const struct
{
	const char *name;
	const char *description;
	bool	   *variable;		/* has its default */
}			bool_settings[] = {

	{"outbox.enabled",
		"Whether relays send events.",
	&guc_enabled},
	{"outbox.http_idempotency_key",
		"Whether the http publisher adds the header Idempotency-Key.",
	&guc_http_idempotency_key},
	{"outbox.http_topic_slashes",
		"Whether a topic in the path of outbox.http_url may have slashes.",
	&guc_http_topic_slashes},
	{"outbox.log_responses",
		"Whether errors show what an HTTP server or Dapr has answered beyond its status.",
	&guc_log_responses}
};

static const struct
{
	const char *name;
	const char *description;
	int		   *variable;		/* has its default */
	const struct config_enum_entry *options;
}			enum_settings[] = {

	{"outbox.dapr_bulk",
		"Whether events share a request to Dapr; auto: those whose numbers Dapr's bulk API leaves as they are.",
	&guc_dapr_bulk, dapr_bulks},
	{"outbox.dead_key_policy",
		"Whether the events behind a dead one of their key wait for an operator or pass.",
	&guc_dead_key_policy, dead_key_policies},
	{"outbox.http_compression",
		"Whether the http publisher compresses the bodies of its requests.",
	&guc_http_compression, http_compressions},
	{"outbox.http_content_mode",
		"CloudEvents content mode of the http publisher.",
	&guc_http_content_mode, http_content_modes},
	{"outbox.http_oauth_auth",
		"Whether a client's secret goes into a header or into the body of the request for a token.",
	&guc_http_oauth_auth, oauth_auths},
	{"outbox.key_scope",
		"Whether events of a key are delivered in order within a topic or across all topics.",
	&guc_key_scope, key_scopes}
};

/* Settings that follow a reload. */
static void
define_tables(void)
{
	/* the default of a number is its variable's initial value: said once */
	for (int i = 0; i < lengthof(int_settings); i++)
		DefineCustomIntVariable(int_settings[i].name,
								int_settings[i].description, NULL,
								int_settings[i].variable,
								*int_settings[i].variable,
								int_settings[i].min, int_settings[i].max,
								PGC_SUSET, int_settings[i].flags,
								NULL, NULL, NULL);
	for (int i = 0; i < lengthof(string_settings); i++)
		DefineCustomStringVariable(string_settings[i].name,
								   string_settings[i].description, NULL,
								   string_settings[i].variable,
								   string_settings[i].boot_value,
								   PGC_SUSET, string_settings[i].flags,
								   string_settings[i].check, NULL, NULL);
	for (int i = 0; i < lengthof(bool_settings); i++)
		DefineCustomBoolVariable(bool_settings[i].name,
								 bool_settings[i].description, NULL,
								 bool_settings[i].variable,
								 *bool_settings[i].variable,
								 PGC_SUSET, 0, NULL, NULL, NULL);
	for (int i = 0; i < lengthof(enum_settings); i++)
		DefineCustomEnumVariable(enum_settings[i].name,
								 enum_settings[i].description, NULL,
								 enum_settings[i].variable,
								 *enum_settings[i].variable,
								 enum_settings[i].options,
								 PGC_SUSET, 0, NULL, NULL, NULL);
}

void
guc_define(void)
{
	define_tables();
	DefineCustomRealVariable("outbox.retry_backoff",
							 "Factor from one wait of the persistent tier to the next.",
							 NULL, &guc_retry_backoff, 2.0, 1.0, 100.0,
							 PGC_SUSET, 0, NULL, NULL, NULL);

	/* the size of shared memory; a library that is loaded later has none */
	if (process_shared_preload_libraries_in_progress)
		DefineCustomIntVariable("outbox.max_relays",
								"Relays that the server can have: one for each destination of each database.",
								NULL, &guc_max_relays, 100, 1, 100000,
								PGC_POSTMASTER, 0, NULL, NULL, NULL);
	MarkGUCPrefixReserved("outbox");
}
