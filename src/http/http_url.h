/*-------------------------------------------------------------------------
 *
 * http_url.h
 *		Which URLs and addresses requests can be sent to.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_HTTP_URL_H
#define OUTBOX_HTTP_URL_H

/* What an address on a Unix-domain socket starts with; its path follows. */
#define HTTP_UNIX_PREFIX "unix:"

/* In the pattern of a URL, this is where the topic goes. */
#define HTTP_URL_TOPIC "{topic}"

extern const char *http_url_part_problem(const char *str);
extern const char *http_url_problem(const char *url, bool *has_user);
extern const char *http_url_pattern_problem(const char *pattern,
											bool *has_user);
extern const char *http_url_secure_problem(const char *url, bool *has_user);
extern const char *http_url_proxy_problem(const char *url, bool *has_user);
extern const char *http_url_topic_problem(const char *pattern,
										  const char *topic, bool slashes);
extern const char *http_url_address_problem(const char *address,
											bool *has_user);
extern const char *http_uri_reference_problem(const char *str);

#endif							/* OUTBOX_HTTP_URL_H */
