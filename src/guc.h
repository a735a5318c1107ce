/*-------------------------------------------------------------------------
 *
 * guc.h
 *		Every setting of the extension; guc.c tells what each of them means.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_GUC_H
#define OUTBOX_GUC_H

typedef enum DeadKeyPolicy
{
	DEAD_KEY_BLOCK,
	DEAD_KEY_SKIP
}			DeadKeyPolicy;

typedef enum KeyScope
{
	KEY_SCOPE_TOPIC,
	KEY_SCOPE_ALL
} KeyScope;

typedef enum DaprBulk
{
	DAPR_BULK_OFF,
	DAPR_BULK_AUTO,
	DAPR_BULK_ON
} DaprBulk;

typedef enum HttpContentMode
{
	HTTP_MODE_BINARY,
	HTTP_MODE_STRUCTURED
} HttpContentMode;

typedef enum HttpCompression
{
	HTTP_COMPRESSION_OFF,
	HTTP_COMPRESSION_GZIP
} HttpCompression;

typedef enum OAuthAuth
{
	OAUTH_AUTH_BASIC,
	OAUTH_AUTH_POST
} OAuthAuth;

/* Times are in milliseconds unless their comment says otherwise. */
extern int	guc_abandon_after;	/* seconds */
extern int	guc_batch_size;
extern int	guc_breaker_probe_interval;
extern int	guc_breaker_threshold;
extern int	guc_cleaning_expire_interval;
extern int	guc_cleaning_local_queue_expire_interval;
extern int	guc_connect_timeout;
extern char *guc_dapr_api_token_file;
extern int	guc_dapr_bulk;
extern char *guc_dapr_endpoint;
extern char *guc_dapr_pubsub_name;
extern int	guc_dead_key_policy;
extern int	guc_delete_batch_count;
extern bool guc_enabled;
extern int	guc_failed_retry_interval;
extern char *guc_http_allowed_addresses;
extern int	guc_http_batch_size;
extern int	guc_http_compression;
extern int	guc_http_compression_min;	/* bytes */
extern int	guc_http_connection_age;	/* seconds */
extern int	guc_http_content_mode;
extern char *guc_http_headers;	/* one a line */
extern char *guc_http_headers_file;
extern bool guc_http_idempotency_key;
extern char *guc_http_metadata_headers; /* names, commas between */
extern char *guc_http_oauth_audience;
extern int	guc_http_oauth_auth;
extern char *guc_http_oauth_client_id;
extern char *guc_http_oauth_client_secret_file;
extern char *guc_http_oauth_scope;
extern char *guc_http_oauth_token_url;
extern char *guc_http_permanent_statuses;
extern char *guc_http_proxy;
extern char *guc_http_proxy_credentials_file;
extern char *guc_http_signature_secret_file;
extern bool guc_http_topic_slashes;
extern char *guc_http_url;
extern char *guc_http_url_file;
extern int	guc_key_scope;
extern int	guc_local_failed_retry_interval;
extern int	guc_local_retry_times;
extern bool guc_log_responses;
extern int	guc_max_in_flight;
extern int	guc_max_payload_size;	/* bytes */
extern int	guc_max_relays;
extern int	guc_max_retry_interval;
extern int	guc_max_retry_times;
extern int	guc_minimum_retry_interval;
extern int	guc_poll_interval;
extern int	guc_published_expire_time;	/* seconds */
extern char *guc_publisher;
extern int	guc_relay_memory;	/* kilobytes */
extern int	guc_request_timeout;
extern double guc_retry_backoff;
extern int	guc_retry_batch_size;
extern char *guc_source;
extern char *guc_tls_ca_file;
extern char *guc_tls_cert_file;
extern char *guc_tls_key_file;
extern char *guc_tls_key_password_file;

extern void guc_define(void);

#endif							/* OUTBOX_GUC_H */
