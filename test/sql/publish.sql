-- Promise: an event is stored exactly as given, in the caller's transaction,
-- by every way in; bad input is refused with SQLSTATE, reason and remedy, and
-- nothing is stored then.
ALTER SYSTEM SET outbox.enabled = off;
SELECT pg_reload_conf();
CREATE EXTENSION outbox;

-- What becomes of a command: "accepted", or the error as a driver sees it.
CREATE FUNCTION attempt(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	sqlstate_ text;
	message text;
	detail text;
	hint text;
BEGIN
	EXECUTE command;
	RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS
		sqlstate_ = RETURNED_SQLSTATE,
		message = MESSAGE_TEXT,
		detail = PG_EXCEPTION_DETAIL,
		hint = PG_EXCEPTION_HINT;
	RETURN concat_ws(E'\n', sqlstate_ || ': ' || message,
					 'DETAIL:  ' || nullif(detail, ''),
					 'HINT:  ' || nullif(hint, ''));
END
$$;
\pset format unaligned
\pset tuples_only on

--
-- What is stored
--

-- the least: a topic and a payload
SELECT outbox_publish('orders', '{"total": 1.10}') AS id \gset
SELECT topic, payload, key, type, body, content_type, metadata, traceparent,
	deliver_after, expires_at
FROM outbox_event WHERE event_id = :'id';

-- everything
SELECT outbox_publish('orders', '[1, null]', 'customer 7', 'order.created',
	'00000000-0000-4000-8000-000000000001', '{"tenant": "a", "empty": ""}',
	'2999-01-01 00:00:00+00', '2999-01-02 00:00:00+00');
SELECT topic, payload, key, type, metadata, deliver_after = '2999-01-01 00:00:00+00',
	expires_at = '2999-01-02 00:00:00+00'
FROM outbox_event WHERE event_id = '00000000-0000-4000-8000-000000000001';

-- by name
SELECT outbox_publish(payload => 'null', topic => 'by name', key => 'k') AS id \gset
SELECT topic, payload, key FROM outbox_event WHERE event_id = :'id';

-- bytes, also none
SELECT outbox_publish_bytes('bytes', '\x00ff', 'application/x-bin', 'k', 't',
	'00000000-0000-4000-8000-000000000002', '{"a": "b"}', '2999-01-01 00:00:00+00', '2999-01-02 00:00:00+00');
SELECT topic, payload, body, content_type, key, type, metadata,
	deliver_after = '2999-01-01 00:00:00+00', expires_at = '2999-01-02 00:00:00+00'
FROM outbox_event WHERE event_id = '00000000-0000-4000-8000-000000000002';
SELECT outbox_publish_bytes('bytes', '', 'text/plain') AS id \gset
SELECT octet_length(body), content_type FROM outbox_event WHERE event_id = :'id';

-- parameters without types, as some drivers send them
PREPARE publish AS SELECT outbox_publish($1, $2) AS id;
EXECUTE publish('prepared', '{"a": 1}') \gset
SELECT topic, payload FROM outbox_event WHERE event_id = :'id';
PREPARE publish_bytes AS SELECT outbox_publish_bytes($1, $2, $3) AS id;
EXECUTE publish_bytes('prepared', '\x01', 'a/b') \gset
SELECT topic, body, content_type FROM outbox_event WHERE event_id = :'id';

-- the other ways in: INSERT and COPY
INSERT INTO outbox_event (topic, payload) VALUES ('inserted', '{"n": 1}'), ('inserted', '{"n": 2}');
INSERT INTO outbox_event (topic, body, content_type) VALUES ('inserted', '\x02', 'a/b');
COPY outbox_event (topic, payload, key) FROM stdin;
copied	{"n": 3}	k
copied	{"n": 4}	\N
\.
SELECT topic, payload, body, key, event_id IS NOT NULL, xid IS NOT NULL,
	created_at <= clock_timestamp()
FROM outbox_event WHERE topic IN ('inserted', 'copied') ORDER BY id;
TRUNCATE outbox_event;

--
-- Transactions
--

-- rolled back: gone; a savepoint and an exception block, too
BEGIN;
SELECT outbox_publish('gone', '1') IS NOT NULL;
ROLLBACK;
BEGIN;
SELECT outbox_publish('kept', '1') IS NOT NULL;
SAVEPOINT s;
SELECT outbox_publish('gone', '2') IS NOT NULL;
ROLLBACK TO s;
SELECT outbox_publish('kept', '3') IS NOT NULL;
COMMIT;
DO $$
BEGIN
	PERFORM outbox_publish('gone', '4');
	PERFORM 1 / 0;
EXCEPTION WHEN division_by_zero THEN
	PERFORM outbox_publish('kept', '5');
END
$$;
SELECT topic, payload FROM outbox_event ORDER BY id;

-- the xid is the top-level transaction's, also in a savepoint, where the
-- row's xmin is another, and whoever forges it
BEGIN;
SELECT outbox_publish('top', '1') IS NOT NULL;
SAVEPOINT s;
SELECT outbox_publish('sub', '1') IS NOT NULL;
INSERT INTO outbox_event (topic, payload, xid) VALUES ('forged', '1', '3');
SELECT topic, xid = pg_current_xact_id() AS top_level,
	e.xmin::text = pg_current_xact_id()::xid::text AS xmin_is_top_level
FROM outbox_event e WHERE topic IN ('top', 'sub', 'forged') ORDER BY id;
COMMIT;
TRUNCATE outbox_event;

-- read-only
BEGIN READ ONLY;
SELECT attempt($$SELECT outbox_publish('t', '1')$$);
SELECT attempt($$SELECT outbox_publish_bytes('t', '', 'a/b')$$);
SELECT attempt($$INSERT INTO outbox_event (topic, payload) VALUES ('t', '1')$$);
ROLLBACK;

-- in session_replication_role = replica, a client's new rows are a restore; what
-- is there already is left alone, and a position means nothing elsewhere
SET session_replication_role = replica;
SET client_min_messages = notice;
\set QUIET off
INSERT INTO outbox_event (topic, payload, id, xid) VALUES ('restored', '1', 101, '3'), ('restored', '2', 102, '3');
INSERT INTO outbox_event (topic, payload) VALUES ('restored', '3');
INSERT INTO outbox_delivery (id, topic, state) VALUES (101, 'restored', 'dead');
INSERT INTO outbox_request (action, event, requested_at) VALUES ('discard', 102, '2001-01-01');
INSERT INTO outbox_progress (lo, hi, last_id, clean) VALUES ('9:9:', '9:9:', 999, true);
UPDATE outbox_event SET payload = '4';
UPDATE outbox_delivery SET state = 'published';
UPDATE outbox_request SET action = 'retry';
UPDATE outbox_progress SET last_id = 999;
DELETE FROM outbox_event;
DELETE FROM outbox_delivery;
DELETE FROM outbox_request;
DELETE FROM outbox_progress;
\set QUIET on
RESET client_min_messages;
SELECT attempt($$SELECT outbox_publish('called', '4')$$);
SELECT attempt($$SELECT outbox_discard(event_id) FROM outbox_event WHERE topic = 'called'$$);
RESET session_replication_role;
SELECT payload, state FROM outbox_event JOIN outbox_events USING (event_id)
ORDER BY payload;

-- what a trigger of ours does is done, too
SET session_replication_role = replica;
TRUNCATE outbox_event;
RESET session_replication_role;
SELECT count(*) FROM outbox_delivery;
DELETE FROM outbox_request;

--
-- Ids
--

-- a given id is the caller's idempotency key: published once
SELECT outbox_publish('once', '{"a": 1.0, "b": 2}', event_id => '00000000-0000-4000-8000-000000000003');
SELECT outbox_publish('once', '{"b": 2, "a": 1.00}', event_id => '00000000-0000-4000-8000-000000000003');
SELECT outbox_publish('once', '{"b": 2, "a": 1}', event_id => '00000000-0000-4000-8000-000000000003',
	metadata => '{"c": "d", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}',
	deliver_after => '2999-01-01');
SELECT outbox_publish('all', '1', 'k', 't', '00000000-0000-4000-8000-000000000004');
SELECT outbox_publish('all', '1', 'k', 't', '00000000-0000-4000-8000-000000000004');
SELECT outbox_publish_bytes('bytes', '\x00ff', 'a/b', event_id => '00000000-0000-4000-8000-000000000005');
SELECT outbox_publish_bytes('bytes', '\x00ff', 'a/b', event_id => '00000000-0000-4000-8000-000000000005');
SELECT topic, payload, body, metadata, deliver_after FROM outbox_event ORDER BY id;
-- a default is what it stands for, in both directions
SELECT outbox_publish('standard', '1', event_id => '00000000-0000-4000-8000-000000000006');
SELECT outbox_publish('standard', '1', type => 'standard', event_id => '00000000-0000-4000-8000-000000000006');
INSERT INTO outbox_event (topic, payload, type, content_type, event_id)
	VALUES ('standard', '1', 'standard', 'application/json', '00000000-0000-4000-8000-000000000007');
SELECT outbox_publish('standard', '1', event_id => '00000000-0000-4000-8000-000000000007');
SELECT attempt($$SELECT outbox_publish('else', '1', event_id => '00000000-0000-4000-8000-000000000007')$$);
INSERT INTO outbox_event (topic, payload, content_type, event_id)
	VALUES ('standard', '1', 'application/x+json', '00000000-0000-4000-8000-000000000008');
SELECT attempt($$SELECT outbox_publish('standard', '1', event_id => '00000000-0000-4000-8000-000000000008')$$);
DELETE FROM outbox_event WHERE topic = 'standard';
-- unless it is another event's, whose contents are not shown
SELECT attempt($$SELECT outbox_publish('other', '1', 'k', 't', '00000000-0000-4000-8000-000000000004')$$);
SELECT attempt($$SELECT outbox_publish('all', '2', 'k', 't', '00000000-0000-4000-8000-000000000004')$$);
SELECT attempt($$SELECT outbox_publish('all', '1', 'l', 't', '00000000-0000-4000-8000-000000000004')$$);
SELECT attempt($$SELECT outbox_publish('all', '1', NULL, 't', '00000000-0000-4000-8000-000000000004')$$);
SELECT attempt($$SELECT outbox_publish('all', '1', 'k', NULL, '00000000-0000-4000-8000-000000000004')$$);
SELECT attempt($$SELECT outbox_publish('once', '{"a": 1, "b": 2}', 'k', event_id => '00000000-0000-4000-8000-000000000003')$$);
SELECT attempt($$SELECT outbox_publish('once', '"1"', event_id => '00000000-0000-4000-8000-000000000003')$$);
SELECT attempt($$SELECT outbox_publish_bytes('bytes', '\x00fe', 'a/b', event_id => '00000000-0000-4000-8000-000000000005')$$);
SELECT attempt($$SELECT outbox_publish_bytes('bytes', '\x00ff', 'a/c', event_id => '00000000-0000-4000-8000-000000000005')$$);
SELECT attempt($$SELECT outbox_publish('bytes', '1', event_id => '00000000-0000-4000-8000-000000000005')$$);
SELECT attempt($$SELECT outbox_publish_bytes('x', '', 'a/b', 'k', 't', '00000000-0000-4000-8000-000000000003')$$);
SELECT count(*) FROM outbox_event;
-- whatever operators the caller has
CREATE SCHEMA evil;
CREATE FUNCTION evil.always(text, text) RETURNS bool LANGUAGE sql RETURN true;
CREATE OPERATOR evil.= (FUNCTION = evil.always, LEFTARG = text, RIGHTARG = text);
SET search_path = evil, public, pg_catalog;
SELECT outbox_publish('other', '1', 'k', 't', '00000000-0000-4000-8000-000000000004');
RESET search_path;
DROP OPERATOR evil.= (text, text);
DROP FUNCTION evil.always(text, text);
DROP SCHEMA evil;
-- what keeps the row out of the table is no event that is there already
CREATE FUNCTION keep_out() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER a_keep_out BEFORE INSERT ON outbox_event FOR EACH ROW EXECUTE FUNCTION keep_out();
SELECT attempt($$SELECT outbox_publish('kept out', '1', event_id => '00000000-0000-4000-8000-000000000009')$$);
DROP TRIGGER a_keep_out ON outbox_event;
DROP FUNCTION keep_out();
-- bad input is refused even then
SELECT attempt($$SELECT outbox_publish('', '1', event_id => '00000000-0000-4000-8000-000000000003')$$);
-- INSERT says that it is there
SELECT attempt($$INSERT INTO outbox_event (topic, payload, event_id)
	VALUES ('once', '3', '00000000-0000-4000-8000-000000000003')$$);
TRUNCATE outbox_event;

-- ids made here are UUIDs of version 7 and the RFC's variant, with the time
-- of publishing in front, in order, and differ
SELECT count(outbox_publish('t', to_jsonb(i))) FROM generate_series(1, 1000) i;
WITH ids AS (
	SELECT id, replace(event_id::text, '-', '') AS hex, created_at FROM outbox_event)
SELECT count(DISTINCT hex) AS ids,
	bool_and(substr(hex, 13, 1) = '7') AS version_7,
	bool_and(substr(hex, 17, 1) IN ('8', '9', 'a', 'b')) AS variant,
	bool_and(to_timestamp(('x' || substr(hex, 1, 12))::bit(48)::bigint / 1000.0)
			 BETWEEN created_at - interval '1 min' AND created_at) AS time
FROM ids;
SELECT bool_and(earlier <= substr(event_id::text, 1, 18)) AS in_order
FROM (SELECT event_id, lag(substr(event_id::text, 1, 18), 1, '') OVER (ORDER BY id) AS earlier
	  FROM outbox_event) e;
-- also those of INSERT
INSERT INTO outbox_event (topic, payload) VALUES ('inserted', '1')
RETURNING substr(event_id::text, 15, 1);
TRUNCATE outbox_event;

--
-- Refused
--

-- NULL
SELECT attempt('SELECT outbox_publish(NULL, ''1'')');
SELECT attempt('SELECT outbox_publish(''t'', NULL)');
SELECT attempt('SELECT outbox_publish_bytes(NULL, '''', ''a/b'')');
SELECT attempt('SELECT outbox_publish_bytes(''t'', NULL, ''a/b'')');
SELECT attempt('SELECT outbox_publish_bytes(''t'', '''', NULL)');
SELECT attempt('INSERT INTO outbox_event (payload) VALUES (''1'')');
SELECT attempt('INSERT INTO outbox_event (topic) VALUES (''t'')');
SELECT attempt('INSERT INTO outbox_event (topic, payload, body, content_type) VALUES (''t'', ''1'', '''', ''a/b'')');
SELECT attempt('INSERT INTO outbox_event (topic, payload, content_type) VALUES (''t'', ''1'', ''text/xml'')');
SELECT attempt('INSERT INTO outbox_event (topic, payload, content_type) VALUES (''t'', ''1'', ''text/notjson'')');
SELECT attempt('INSERT INTO outbox_event (topic, body) VALUES (''t'', '''')');

-- not JSON
SELECT attempt($$SELECT outbox_publish('t', '{')$$);

-- lengths are in bytes: none, one too many, one too many of two bytes each
SELECT attempt($$SELECT outbox_publish('', '1')$$);
SELECT attempt($$SELECT outbox_publish('t', '1', '')$$);
SELECT attempt($$SELECT outbox_publish('t', '1', type => '')$$);
SELECT attempt($$SELECT outbox_publish_bytes('t', '', '')$$);
SELECT attempt($$SELECT outbox_publish('t', '1', metadata => '{"": "a"}')$$);
SELECT attempt($$SELECT outbox_publish(repeat('x', 256), '1')$$);
SELECT attempt($$SELECT outbox_publish(repeat('é', 128), '1')$$);
SELECT attempt($$SELECT outbox_publish('t', '1', repeat('x', 256))$$);
SELECT attempt($$SELECT outbox_publish('t', '1', type => repeat('x', 256))$$);
SELECT attempt($$SELECT outbox_publish_bytes('t', '', 'a/' || repeat('x', 254))$$);
SELECT attempt($$SELECT outbox_publish('t', '1', metadata => jsonb_build_object(repeat('x', 256), 'a'))$$);

-- control characters: C0, DEL and C1, in whatever goes into a header or a URL
SELECT c, attempt(format($$SELECT outbox_publish(%L, '1')$$, 'a' || chr(c) || 'b'))
FROM unnest('{1, 9, 10, 13, 31, 127, 128, 133, 159}'::int[]) c;
SELECT attempt($$SELECT outbox_publish('t', '1', E'a\nb')$$);
SELECT attempt($$SELECT outbox_publish('t', '1', type => E'a\rb')$$);
SELECT attempt($$SELECT outbox_publish_bytes('t', '', E'a/b\r\nx: y')$$);
SELECT attempt($$SELECT outbox_publish('t', '1', metadata => '{"a\u0007": "b"}')$$);
SELECT attempt($$SELECT outbox_publish('t', '1', metadata => '{"a": "b\r\nc"}')$$);
SELECT attempt($$SELECT outbox_publish('t', '1', metadata => '{"a": "\u0085"}')$$);

-- code points that are no characters
SELECT to_hex(c), attempt(format($$SELECT outbox_publish(%L, '1')$$, 'a' || chr(c) || 'b'))
FROM unnest('{64976, 65007, 65534, 65535, 131070, 1114111}'::int[]) c;
SELECT attempt($$SELECT outbox_publish('t', '1', chr(65534))$$);
SELECT attempt($$SELECT outbox_publish('t', '1', type => chr(65534))$$);
SELECT attempt($$SELECT outbox_publish('t', '1', metadata => '{"a\ufffe": "b"}')$$);
SELECT attempt($$SELECT outbox_publish('t', '1', metadata => '{"a": "\ufdd0"}')$$);

-- metadata is a flat object of strings
SELECT m, attempt(format($$SELECT outbox_publish('t', '1', metadata => %L)$$, m))
FROM unnest(ARRAY['null', '1', '"a"', '[]', '["a"]', '[{"a": "b"}]', '{"a": 1}', '{"a": null}',
	'{"a": true}', '{"a": ["b"]}', '{"a": {}}', '{"a": {"b": "c"}}', '{"a": "b", "c": 1}']) m;
SELECT attempt($$SELECT outbox_publish('t', '1', metadata => jsonb_build_object('a', repeat('x', 4080)))$$);

-- a trace context that is given as such; a long one is shown in part
INSERT INTO outbox_event (topic, payload, traceparent)
	VALUES ('t', '1', repeat('0', 63) || U&'\00FC');
SELECT t, attempt(format($$INSERT INTO outbox_event (topic, payload, traceparent) VALUES ('t', '1', %L)$$, t))
FROM unnest(ARRAY['', 'x',
	'00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0',
	'00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-',
	'00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01',
	'00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
	'00-00000000000000000000000000000000-b7ad6b7169203331-01',
	'00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01',
	'ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
	'cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01.more',
	'cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more of it']) t;

-- content types
SELECT c, attempt(format($$SELECT outbox_publish_bytes('t', '', %L)$$, c))
FROM unnest(ARRAY['text', 'text/', '/plain', '/', 'text plain', ' text/plain', 'a/b/c',
	'text/plain, a/b', 'text/plain text', '"a"/b', 'a/b; c="é"', 'text/plain ', 'te<xt/plain',
	'a/(b)', 'a/b; c', 'a/b; =c', 'a/b; c=', 'a/b; c="d', 'a/b; c="d"e', 'a/b; c=d e']) c;

-- not those of a CloudEvent, which the payload would be in place of the event
SELECT c, attempt(format($$SELECT outbox_publish_bytes('t', '', %L)$$, c))
FROM unnest(ARRAY['application/cloudevents+json', 'application/cloudevents-batch+json',
	'Application/CloudEvents; charset=utf-8', 'application/cloudevents+protobuf']) c;
SELECT attempt($$INSERT INTO outbox_event (topic, payload, content_type)
	VALUES ('t', '{"id": "forged"}', 'application/cloudevents+json')$$);

-- times
SELECT attempt($$SELECT outbox_publish('t', '1', deliver_after => 'infinity')$$);
SELECT attempt($$SELECT outbox_publish('t', '1', deliver_after => '-infinity')$$);
SELECT attempt($$SELECT outbox_publish_bytes('t', '', 'a/b', deliver_after => 'infinity')$$);
SELECT attempt($$INSERT INTO outbox_event (topic, payload, created_at) VALUES ('t', '1', 'infinity')$$);
SELECT attempt($$SELECT outbox_publish('t', '1', expires_at => 'infinity')$$);
SELECT attempt($$SELECT outbox_publish('t', '1', expires_at => '2001-01-01 00:00Z')$$);
SELECT attempt($$SELECT outbox_publish_bytes('t', '', 'a/b', expires_at => '2001-01-01 00:00Z')$$);
SELECT attempt($$SELECT outbox_publish('t', '1', expires_at => clock_timestamp() - interval '1 ms')$$) LIKE '22023: %';
SELECT attempt($$SELECT outbox_publish('t', '1', deliver_after => '2999-01-01 00:00Z', expires_at => '2999-01-01 00:00Z')$$);
SELECT attempt($$INSERT INTO outbox_event (topic, payload, expires_at) VALUES ('t', '1', '2001-01-01 00:00Z')$$);

-- ids that no position of the relay would find
SELECT attempt($$INSERT INTO outbox_event (id, topic, payload) VALUES (0, 't', '1')$$);
SELECT attempt($$INSERT INTO outbox_event (id, topic, payload) VALUES (-1, 't', '1')$$);

-- payloads: what counts is the text that is sent
SET outbox.max_payload_size = 100;
SELECT attempt($$SELECT outbox_publish('t', to_jsonb(repeat('x', 99)))$$);
SELECT attempt($$SELECT outbox_publish_bytes('t', convert_to(repeat('x', 101), 'UTF8'), 'a/b')$$);
SET outbox.max_payload_size = 100000;
SELECT attempt($$SELECT outbox_publish('t', '1e100000')$$);

-- every way in is refused alike
SELECT attempt($$INSERT INTO outbox_event (topic, payload) VALUES (E'a\nb', '1')$$);
COPY outbox_event (topic, payload) FROM stdin;
good	1
a\nb	2
\.

-- nothing of all this was stored
SELECT count(*) FROM outbox_event;

--
-- Just accepted
--

SELECT attempt(format('INSERT INTO outbox_event (topic, payload, content_type) VALUES (''t'', ''1'', %L)', t))
FROM unnest(ARRAY['application/json', 'Text/JSON; charset=utf-8', 'application/vnd.a+json']) t;
SELECT attempt($$SELECT outbox_publish('t', '1e99999')$$);
SET outbox.max_payload_size = 100;
SELECT attempt($$SELECT outbox_publish('t', to_jsonb(repeat('x', 98)))$$);
SELECT attempt($$SELECT outbox_publish_bytes('t', convert_to(repeat('x', 100), 'UTF8'), 'a/b')$$);
RESET outbox.max_payload_size;

-- a few bytes of jsonb may be a gigabyte of text, of which no more is made than
-- may be sent, and that can be cancelled
CREATE TEMP TABLE huge AS
SELECT ('[' || repeat('1e131000, ', 9000) || '1]')::jsonb AS payload;
SELECT attempt('SELECT outbox_publish(''t'', payload) FROM huge');
SET outbox.max_payload_size = '256MB';
SET statement_timeout = '50ms';
\set VERBOSITY sqlstate
SELECT outbox_publish('t', payload) FROM huge;
\set VERBOSITY default
RESET statement_timeout;
RESET outbox.max_payload_size;
DROP TABLE huge;
SELECT attempt($$SELECT outbox_publish('t', to_jsonb(repeat('x', 1024 * 1024 - 2)))$$);
SELECT attempt($$SELECT outbox_publish(repeat('x', 255), '1', repeat('y', 255), repeat('z', 255))$$);
SELECT attempt($$SELECT outbox_publish(repeat('é', 127) || 'x', '1')$$);
SELECT attempt($$SELECT outbox_publish_bytes('t', '', 'a/' || repeat('x', 253))$$);
SELECT attempt($$SELECT outbox_publish('t', '1', metadata => jsonb_build_object(repeat('x', 255), 'a'))$$);
SELECT attempt($$SELECT outbox_publish('t', '1', metadata => jsonb_build_object('a', repeat('x', 4079)))$$);
SELECT attempt($$SELECT outbox_publish('t', '1', metadata => '{}')$$);
SELECT attempt($$SELECT outbox_publish('a b/c?d=e#f%00 ' || chr(160) || '日本', '1')$$);
SELECT to_hex(c), attempt(format($$SELECT outbox_publish(%L, '1')$$, 'a' || chr(c) || 'b'))
FROM unnest('{64975, 65008, 65533, 131069, 1048573, 128512}'::int[]) c;
SELECT c, attempt(format($$SELECT outbox_publish_bytes('t', '', %L)$$, c))
FROM unnest(ARRAY['application/vnd.acme+xml', 'text/plain;charset=utf-8', 'text/plain ; charset="utf-8"',
	'a/b;', 'a/b; c=d ; e="f \" g"', 'application/masacloudevents+json', '!#$%&''*+-.^_`|~/1']) c;
SELECT attempt($$SELECT outbox_publish('t', '1', deliver_after => '1999-01-01')$$);
SELECT count(*) FROM outbox_event;

-- a trace context moves from the metadata to its column, which goes first
SELECT outbox_publish('traced', '1',
	metadata => '{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "a": "b"}') IS NOT NULL;
INSERT INTO outbox_event (topic, payload, metadata, traceparent) VALUES
	('traced', '2', '{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}',
	 '00-11111111111111111111111111111111-2222222222222222-00'),
	('traced', '3', NULL, '00-11111111111111111111111111111111-2222222222222222-00');
SELECT payload, metadata, traceparent FROM outbox_event WHERE topic = 'traced' ORDER BY id;

-- it is taken in a later version; and what is not valid is left out there
SELECT outbox_publish('caller', to_jsonb(t), metadata => jsonb_build_object('traceparent', t, 'a', 'b')) IS NOT NULL
FROM unnest(ARRAY['00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
	'01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
	'cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what-the-future-brings',
	'', 'x', E'line\nbreak',
	'00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more',
	'00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01',
	'00-00000000000000000000000000000000-b7ad6b7169203331-01',
	'00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01',
	'ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
	'cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-' || repeat('x', 200)]) t;
SELECT payload, metadata, traceparent FROM outbox_event WHERE topic = 'caller' ORDER BY id;

-- what is lost is told
DROP FUNCTION attempt(text);
DELETE FROM outbox_event;
SELECT count(outbox_publish('lost', '1')) FROM generate_series(1, 2);
DROP EXTENSION outbox;
