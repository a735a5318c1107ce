-- Promise: every setting has the documented name, default, unit and range; a
-- bad value is refused with its reason, and the old one stays.
CREATE EXTENSION outbox;

-- What becomes of a command: "accepted", or the error as a driver sees it.
CREATE FUNCTION attempt(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	message text;
	detail text;
	hint text;
BEGIN
	EXECUTE command;
	RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS
		message = MESSAGE_TEXT,
		detail = PG_EXCEPTION_DETAIL,
		hint = PG_EXCEPTION_HINT;
	RETURN concat_ws(E'\n', SQLSTATE || ': ' || message,
					 'DETAIL:  ' || nullif(detail, ''),
					 'HINT:  ' || nullif(hint, ''));
END
$$;
\pset format unaligned

SELECT name, vartype AS type, boot_val AS "default", unit, min_val AS min, max_val AS max,
	enumvals AS "values", context, short_desc <> '' AS described
FROM pg_settings WHERE name LIKE 'outbox.%' ORDER BY name COLLATE "C";
\pset tuples_only on

-- units
SET outbox.connect_timeout = '2min';
SHOW outbox.connect_timeout;
SELECT setting, unit FROM pg_settings WHERE name = 'outbox.connect_timeout';
SET outbox.published_expire_time = '2d';
SHOW outbox.published_expire_time;
SET outbox.max_payload_size = '16MB';
SHOW outbox.max_payload_size;
RESET ALL;

-- refused
SELECT name, value, attempt(format('SET outbox.%s = %L', name, value))
FROM (VALUES
	('batch_size', '0'),
	('batch_size', 'x'),
	('connect_timeout', '3 apples'),
	('max_in_flight', '0'),
	('retry_backoff', '0.9'),
	('retry_backoff', 'NaN'),
	('enabled', 'perhaps'),
	('dead_key_policy', 'x'),
	('http_content_mode', 'batch'),
	('max_relays', '5'),
	('dapr_endpoint', ''),
	('dapr_endpoint', '127.0.0.1:3500'),
	('dapr_endpoint', 'http://127.0.0.1:3500/v1.0'),
	('dapr_endpoint', 'http://127.0.0.1:3500?a=b'),
	('dapr_endpoint', 'http://127.0.0.1:3500#a'),
	('dapr_endpoint', 'http://user:secret@127.0.0.1:3500'),
	('dapr_endpoint', 'http://127.0.0.1:99999'),
	('dapr_endpoint', 'unix:dapr.sock'),
	('dapr_endpoint', 'unix:/run/a b'),
	('dapr_pubsub_name', ''),
	('dapr_pubsub_name', 'a b'),
	('http_url', 'ftp://x'),
	('http_url', 'file:///etc/passwd'),
	('http_url', 'x'),
	('http_url', 'http://'),
	('http_url', 'https:///path'),
	('http_url', 'http://?x'),
	('http_url', 'http://user:secret@host/'),
	('http_url', 'http://host/a b'),
	('http_url', E'http://host/\r\nX: y'),
	('http_url', 'http://host/é'),
	('http_url', 'http://host:65536/'),
	('http_url', 'http://host:port/'),
	('http_url', 'http://[::1/'),
	('http_url', 'http://ho^st/'),
	('http_url', 'http://{topic}/'),
	('http_url', 'http://{topic}.example/events'),
	('http_url', 'http://host:{topic}/'),
	('http_url', '{topic}://host/'),
	('http_url', 'http://host{topic}?a=b'),
	('http_permanent_statuses', '200'),
	('http_permanent_statuses', '400,'),
	('http_permanent_statuses', '400 404'),
	('http_permanent_statuses', '4000'),
	('http_permanent_statuses', ' '),
	('http_oauth_auth', 'none'),
	('http_oauth_token_url', 'http://example.com/token'),
	('http_oauth_token_url', 'http://localhost.example.com/token'),
	('http_oauth_token_url', 'http://[2001:db8::1]/token'),
	('http_oauth_token_url', 'https://id:secret@example.com/token'),
	('http_proxy', 'proxy:3128'),
	('http_proxy', 'socks5://proxy'),
	('http_proxy', 'http://user:secret@proxy:3128'),
	('http_proxy', 'http://proxy:3128/path'),
	('http_allowed_addresses', 'localhost'),
	('http_allowed_addresses', '10.0.0.0/33'),
	('http_allowed_addresses', '10.0.0.0/8/8'),
	('http_allowed_addresses', '10.0.0/8'),
	('http_allowed_addresses', '::1/129'),
	('http_allowed_addresses', '::ffff:10.0.0.0/104'),
	('http_allowed_addresses', '10.0.0.1; ::1'),
	('http_headers', 'x'),
	('http_headers', ': x'),
	('http_headers', 'a b: c'),
	('http_headers', E'a: b\r\nc: d'),
	('http_headers', E'a: b\nc'),
	('http_headers', 'Content-Type: a/b'),
	('http_headers', 'content-length: 1'),
	('http_headers', 'HOST: x'),
	('http_headers', 'Traceparent: x'),
	('http_headers', 'Transfer-Encoding: chunked'),
	('http_headers', 'ce-id: 1'),
	('http_headers', E'a: b\nCE-Type: 1'),
	('publisher', ''),
	('publisher', 'a b'),
	('source', 'a b'),
	('source', E'a\nb'),
	('source', 'a<b'),
	('source', '{a}'),
	('source', '/a%zz'),
	('source', '/a%2'),
	('source', 'a#b#c'),
	('source', '/a[1]'),
	('source', ':a'),
	('source', '1a:b'),
	('source', 'a b:c')) bad(name, value);

-- the old values stayed
SELECT name, setting FROM pg_settings
WHERE name LIKE 'outbox.%' AND setting <> boot_val AND source = 'session';

-- by whatever way a value comes
SELECT current_database() AS db \gset
\set VERBOSITY terse
ALTER DATABASE :"db" SET outbox.http_url = 'ftp://x';
ALTER SYSTEM SET outbox.http_url = 'ftp://x';
\set VERBOSITY default

-- accepted
SELECT name, value, attempt(format('SET outbox.%s = %L', name, value))
FROM (VALUES
	('dapr_endpoint', 'http://127.0.0.1:3500/'),
	('dapr_endpoint', 'https://dapr.example'),
	('dapr_endpoint', 'HTTP://[::1]:3500'),
	('dapr_endpoint', 'unix:/run/dapr.sock'),
	('http_url', ''),
	('http_url', 'https://host:8443/events/{topic}?a=b@c'),
	('http_url', 'http://[::1]:80?a={topic}'),
	('http_url', 'http://host/{topic}/{topic}#a'),
	('http_permanent_statuses', ''),
	('http_permanent_statuses', ' 404 ,410,503 '),
	('http_oauth_token_url', 'https://example.com/token?a=b'),
	('http_oauth_token_url', 'http://LocalHost:8080/token'),
	('http_oauth_token_url', 'http://127.0.0.9/token'),
	('http_oauth_token_url', 'HTTP://[::1]:8080'),
	('http_proxy', ''),
	('http_proxy', 'http://proxy:3128/'),
	('http_proxy', 'https://[::1]:3128'),
	('http_allowed_addresses', '10.0.0.0/8, 192.0.2.1 ,2001:db8::/32,::1'),
	('http_headers', ''),
	('http_headers', E'X-A: b\n\nAuthorization: x\nX-C:'),
	('publisher', 'http'),
	('publisher', 'some_library'),
	('source', ''),
	('source', '//shop/orders'),
	('source', 'https://[2001:db8::1]:8080/a%20b?c=d:e#f'),
	('source', 'urn:uuid:6e8bc430-9c3a-11d9-9669-0800200c9a66'),
	('source', 'mailto:cncf-wg-serverless@lists.cncf.io'),
	('source', './a:b'),
	('source', 'tag:example.com,2026:(shop)!$&''*+;=~'),
	('dead_key_policy', 'skip'),
	('http_content_mode', 'structured'),
	('retry_backoff', '1.5')) good(name, value);
RESET ALL;

-- the prefix is reserved (from PostgreSQL 15 on)
SELECT attempt('SET outbox.no_such_setting = 1') LIKE '42602: %'
	OR current_setting('server_version_num')::int < 150000;

DROP FUNCTION attempt(text);
DROP EXTENSION outbox;
