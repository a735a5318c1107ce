/*-------------------------------------------------------------------------
 *
 * fuzz_settings.c
 *		A setting, or the file that it names, and the request that comes of it.
 *
 * An input is the setting's place in "settings", a topic with a NUL behind it,
 * and the value or the contents of the file, in which SECRET_PLACE stands for a
 * secret.  A value goes the way of SET, through the check of the setting.
 *
 * The server of fuzz_server.c sends every request back as the body of an error.
 *
 * What has to hold: a value that is accepted can be used; the request is one
 * request, whose lines are headers, of which those that matter are there once,
 * and goes to the host of the URL whatever the topic is; and the secret in a file
 * is in no error.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <curl/curl.h>
#include <sys/socket.h>

#include "mb/pg_wchar.h"
#include "utils/builtins.h"

#include "fuzz_server.h"
#include "guc.h"
#include "lib/text.h"
#include "publish/publishers.h"

#define SECRET_PLACE '\x01'
#define FILE_NAME "fuzz.setting"

typedef struct Setting
{
	const char *name;
	bool		is_file;		/* the input is its contents */
	const OutboxPublisherCallbacks *publisher;
} Setting;

static const Setting settings[] = {
	{"outbox.dapr_endpoint", false, &dapr_publisher},
	{"outbox.dapr_pubsub_name", false, &dapr_publisher},
	{"outbox.dapr_api_token_file", true, &dapr_publisher},
	{"outbox.http_url", false, &http_publisher},
	{"outbox.http_headers", false, &http_publisher},
	{"outbox.source", false, &http_publisher},
	{"outbox.http_url_file", true, &http_publisher},
	{"outbox.http_headers_file", true, &http_publisher},
	{"outbox.request_timeout", false, &dapr_publisher},
	{"outbox.http_batch_size", false, &http_publisher},
	{"outbox.http_metadata_headers", false, &http_publisher},
	{"outbox.http_permanent_statuses", false, &http_publisher},
	{"outbox.http_allowed_addresses", false, &http_publisher},
	{"outbox.http_signature_secret_file", true, &http_publisher}
};

/* What requests have to be, for send_back() */
static const char *host;		/* as the header Host has it; NULL: unknown */
static bool host_is_secret;
static int	nrequests;

/* How many lines of a request begin with this name of a header? */
static int
count_header(const char *request, const char *name)
{
	int			n = 0;

	for (const char *p = strstr(request, "\r\n"); p != NULL;
		 p = strstr(p + 2, "\r\n"))
		n += pg_strncasecmp(p + 2, name, strlen(name)) == 0;
	return n;
}

/* Is it one request, and nothing but what it should be? */
static void
check_request(char *head)
{
	char	   *line = head;
	char	   *url = strchr(head, ' ');

	if (count_header(head, "Host:") != 1 || count_header(head, "Expect:") != 0 ||
		count_header(head, "Transfer-Encoding:") != 0 ||
		count_header(head, "Content-Length:") > 1 ||
		count_header(head, "Content-Type:") > 1)
		fuzz_fail("a header too many or too few: %s", head);
	if (host != NULL && strstr(head, psprintf("\r\nHost: %s\r\n", host)) == NULL)
		fuzz_fail("not to host \"%s\": %s", host, head);
	if (strncmp(url + 1 + strcspn(url + 1, " "), " HTTP/1.1\r\n", 11) != 0)
		fuzz_fail("not one URL: %s", head);
	while (*line != '\0')
	{
		char	   *end = strstr(line, "\r\n");

		for (char *p = line; p < end; p++)
		{
			if (text_is_control(*p) && *p != '\t')
				fuzz_fail("a control character in \"%s\"", line);
		}
		if (line != head && text_token_length(line) != strcspn(line, ":"))
			fuzz_fail("not a header: \"%s\"", line);
		line = end + 2;
	}
}

/* FuzzAnswerCB */
static bool
send_back(int fd, const char *request, Size len)
{
	const char *answer = "HTTP/1.1 500 No\r\n\r\n";
	char	   *head = pnstrdup(request, strstr(request, "\r\n\r\n") + 2 - request);

	nrequests++;
	check_request(head);
	(void) send(fd, answer, strlen(answer), MSG_NOSIGNAL);
	(void) send(fd, request, len, MSG_NOSIGNAL);
	return false;
}

/* The value, with the secret in its places. */
static char *
make_value(FuzzInput *input, bool *has_secret, Size *len)
{
	StringInfoData value;

	*has_secret = false;
	initStringInfo(&value);
	while (input->len > 0)
	{
		uint8		c = fuzz_byte(input);

		if (c == SECRET_PLACE)
			appendStringInfoString(&value, FUZZ_SECRET);
		else
			appendStringInfoChar(&value, (char) c);
		*has_secret |= c == SECRET_PLACE;
	}
	*len = value.len;
	return value.data;
}

static void
set_one(void *arg)
{
	char	  **setting = arg;

	fuzz_set_setting(setting[0], setting[1]);
}

/*
 * The part of a URL that names the server, as a request says it; NULL: none that
 * is certain to be said so.
 */
static const char *
url_host(const char *url)
{
	CURLU	   *parsed = curl_url();
	char	   *name = NULL;
	char	   *port = NULL;
	char	   *result = NULL;

	if (curl_url_set(parsed, CURLUPART_URL, url, 0) == CURLUE_OK &&
		curl_url_get(parsed, CURLUPART_HOST, &name, 0) == CURLUE_OK)
	{
		(void) curl_url_get(parsed, CURLUPART_PORT, &port, CURLU_NO_DEFAULT_PORT);
		if (strchr(name, '%') == NULL)
			result = port ? psprintf("%s:%s", name, port) : pstrdup(name);
	}
	curl_free(name);
	curl_free(port);
	curl_url_cleanup(parsed);
	return result;
}

/* Is the secret in what is before the path of a URL? */
static bool
has_secret_host(const char *url)
{
	const char *begin = strstr(url, "://");

	begin = begin ? begin + 3 : url;
	return strcasestr(pnstrdup(begin, strcspn(begin, "/?#")), FUZZ_SECRET) != NULL;
}

/* Back to what each input begins with. */
static void
reset_settings(void)
{
	fuzz_set_setting("outbox.dapr_endpoint", "http://127.0.0.1:3500");
	fuzz_set_setting("outbox.dapr_pubsub_name", "pubsub");
	fuzz_set_setting("outbox.dapr_api_token_file", "");
	fuzz_set_setting("outbox.http_url", "http://localhost/{topic}");
	fuzz_set_setting("outbox.http_headers", "");
	fuzz_set_setting("outbox.http_headers_file", "");
	fuzz_set_setting("outbox.http_url_file", "");
	fuzz_set_setting("outbox.source", "");
	fuzz_set_setting("outbox.request_timeout", "1min");
	fuzz_set_setting("outbox.http_batch_size", "1");
	fuzz_set_setting("outbox.http_metadata_headers", "");
	fuzz_set_setting("outbox.http_permanent_statuses", "400");
	fuzz_set_setting("outbox.http_allowed_addresses", "");
	fuzz_set_setting("outbox.http_signature_secret_file", "");
}

/* A topic that can be published to. */
static const char *
usable_topic(const char *topic)
{
	Size		len = strlen(topic);

	if (len == 0 || len > 255 || text_has_control(topic, len) ||
		!pg_verify_mbstr(PG_UTF8, topic, len, true))
		return "t";
	return topic;
}

/* Use the settings: send a message. */
static void
send_message(const Setting *setting, const char *topic, bool has_secret)
{
	static const OutboxMetadata metadata[] = {{"tenant", "a b"}, {"X-Request-Id", "7"}};
	FuzzExchange exchange;
	OutboxMessage message = {
		.id = 1,
		.event_id = "0198a000-0000-7000-8000-00000000000a",
		.topic = topic,
		.type = "t",
		.time = "2026-01-01T00:00:00.000000Z",
		.content_type = "application/json",
		.is_json = true,
		.payload = "1",
		.payload_len = 1,
		.metadata = metadata,
		.nmetadata = lengthof(metadata),
		.attempt = 1
	};

	fuzz_exchange_start(&exchange, setting->publisher, send_back);
	if (guc_source[0] != '\0')
		exchange.state.source = guc_source;

	/* settings can be seen; of a URL, its host is what errors are about */
	exchange.may_tell = !setting->is_file || !has_secret || host_is_secret;
	exchange.messages[exchange.nmessages++] = message;
	if (fuzz_exchange_configure(&exchange))
	{
		fuzz_exchange_submit(&exchange);
		fuzz_exchange_finish(&exchange);
		if (exchange.outcomes[0] == OUTBOX_DELIVERED)
			fuzz_fail("delivered by an error");
	}
	else if (!setting->is_file)
		fuzz_fail("accepted, but cannot be used");
	else
		setting->publisher->shutdown_cb(&exchange.state);
}

/* FuzzTarget */
void
fuzz_settings(FuzzInput *input)
{
	const Setting *setting = &settings[fuzz_byte(input) % lengthof(settings)];
	const char *topic = usable_topic(fuzz_string(input));
	const char *url = setting->publisher == &dapr_publisher ?
	"http://127.0.0.1:3500" : "http://localhost";
	bool		has_secret;
	Size		len;
	char	   *value = make_value(input, &has_secret, &len);
	const char *assignment[] = {setting->name, value};

	reset_settings();
	if (setting->is_file)
	{
		fuzz_write_file(FILE_NAME, value, len);
		assignment[1] = FILE_NAME;
		if (strcmp(setting->name, "outbox.http_url_file") == 0)
		{
			fuzz_set_setting("outbox.http_url", "");
			url = value;
		}
	}
	else if (!pg_verifymbstr(value, strlen(value), true))
		return;
	if (fuzz_try(set_one, assignment) != 0)
		return;
	if (strcmp(setting->name, "outbox.http_url") == 0)
		url = guc_http_url;
	if (strcmp(setting->name, "outbox.dapr_endpoint") == 0)
		url = guc_dapr_endpoint;
	if (url[0] == '\0')
		return;

	/* behind TLS, nothing can be seen of the request */
	if (pg_strncasecmp(url, "https:", 6) == 0)
		return;
	host = strncmp(url, "unix:", 5) == 0 ? "localhost" :
		url_host(pnstrdup(url, strcspn(url, "\n")));
	host_is_secret = has_secret_host(url);
	nrequests = 0;
	send_message(setting, topic, has_secret);
}
