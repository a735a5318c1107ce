-- Promise: nothing of the extension is open to PUBLIC; a role does what it was
-- granted by name, without any right on the tables, and no more.
ALTER SYSTEM SET outbox.enabled = off;
SELECT pg_reload_conf();
CREATE EXTENSION outbox;
CREATE ROLE regress_outbox_nobody;
CREATE ROLE regress_outbox_publisher;
CREATE ROLE regress_outbox_inserter;
CREATE ROLE regress_outbox_operator;
CREATE ROLE regress_outbox_monitor IN ROLE pg_monitor;

-- What becomes of a command: "accepted", or the error.
CREATE FUNCTION attempt(command text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE command;
	RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE || ': ' || SQLERRM;
END
$$;

\pset format unaligned
\pset tuples_only on

-- Every function and relation of the extension, and commands that use it.
CREATE TABLE member AS
SELECT d.classid, d.objid
FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'outbox'
WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
	AND d.classid IN ('pg_proc'::regclass, 'pg_class'::regclass);
CREATE TABLE used AS
SELECT format('SELECT %s(%s)', p.proname,
			  (SELECT string_agg('NULL::' || format_type(a.type, NULL), ', ')
			   FROM unnest(p.proargtypes) a(type))) AS command
FROM member JOIN pg_proc p ON classid = 'pg_proc'::regclass AND p.oid = objid
UNION ALL
SELECT format(k.command, c.relname,
	(SELECT attname FROM pg_attribute WHERE attrelid = c.oid AND attnum = 1))
FROM member JOIN pg_class c ON classid = 'pg_class'::regclass AND c.oid = objid
JOIN (VALUES
	('v', 'SELECT FROM %s'),
	('S', 'SELECT FROM %s'),
	('S', 'SELECT nextval(%L)'),
	('S', 'SELECT setval(%L, 1)'),
	('r', 'SELECT FROM %s'),
	('r', 'INSERT INTO %s DEFAULT VALUES'),
	('r', 'UPDATE %s SET %I = DEFAULT'),
	('r', 'DELETE FROM %s'),
	('r', 'TRUNCATE %s'),
	('r', 'LOCK %s'),
	('r', 'CREATE TRIGGER t BEFORE INSERT ON %s EXECUTE FUNCTION suppress_redundant_updates_trigger()'),
	('r', 'CREATE RULE r AS ON INSERT TO %s DO INSTEAD NOTHING')) k(kind, command)
	ON k.kind = c.relkind;
GRANT SELECT ON used TO PUBLIC;

-- the lists of privileges do not name PUBLIC
SELECT objid::regprocedure, a.privilege_type
FROM member JOIN pg_proc p ON classid = 'pg_proc'::regclass AND p.oid = objid,
	aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
WHERE a.grantee = 0;
SELECT objid::regclass, a.privilege_type
FROM member JOIN pg_class c ON classid = 'pg_class'::regclass AND c.oid = objid,
	aclexplode(c.relacl) a
WHERE a.grantee = 0;

-- a role without grants can do nothing
SET ROLE regress_outbox_nobody;
SELECT command, attempt(command) FROM used ORDER BY command COLLATE "C";
RESET ROLE;

--
-- Publishing
--
GRANT EXECUTE ON FUNCTION
	outbox_publish(text, jsonb, text, text, uuid, jsonb, timestamptz, timestamptz),
	outbox_publish_bytes(text, bytea, text, text, text, uuid, jsonb, timestamptz, timestamptz)
TO regress_outbox_publisher;
SET ROLE regress_outbox_publisher;
SELECT attempt($$SELECT outbox_publish('granted', '1', 'k', 't', '00000000-0000-4000-8000-000000000001', '{"a": "b"}', '2999-01-01')$$);
SELECT attempt($$SELECT outbox_publish('granted', '1', 'k', 't', '00000000-0000-4000-8000-000000000001')$$);
SELECT attempt($$SELECT outbox_publish_bytes('granted', '', 'a/b')$$);
SELECT command, attempt(command) FROM used
WHERE command NOT LIKE 'SELECT outbox_publish%' AND attempt(command) NOT LIKE '42501: %';
RESET ROLE;

-- INSERT alone suffices for INSERT and COPY, without a right on the sequence
GRANT INSERT ON outbox_event TO regress_outbox_inserter;
SET ROLE regress_outbox_inserter;
INSERT INTO outbox_event (topic, payload) VALUES ('inserted', '1');
COPY outbox_event (topic, payload) FROM stdin;
copied	1
\.
SELECT attempt($$INSERT INTO outbox_event (topic, payload) VALUES ('inserted', '1') RETURNING id$$);
SELECT command, attempt(command) FROM used
WHERE command <> 'INSERT INTO outbox_event DEFAULT VALUES' AND attempt(command) NOT LIKE '42501: %';
RESET ROLE;
SELECT topic, count(*) FROM outbox_event GROUP BY topic ORDER BY topic COLLATE "C";

--
-- Administration
--
GRANT EXECUTE ON FUNCTION outbox_retry, outbox_retry_dead, outbox_discard, outbox_payload
TO regress_outbox_operator;
SET ROLE regress_outbox_operator;
BEGIN;
SELECT outbox_discard('00000000-0000-4000-8000-000000000001');
SELECT outbox_retry('00000000-0000-4000-8000-000000000001');
SELECT outbox_retry_dead();
SELECT payload FROM outbox_payload('00000000-0000-4000-8000-000000000001');
ROLLBACK;
SELECT command, attempt(command) FROM used
WHERE command !~ 'outbox_(retry|discard|payload)' AND attempt(command) NOT LIKE '42501: %';
RESET ROLE;

--
-- Monitoring
--
SET ROLE regress_outbox_monitor;
SELECT command, attempt(command) FROM used
WHERE attempt(command) NOT LIKE '42501: %' ORDER BY command COLLATE "C";
SELECT count(*) FROM outbox_events;
SELECT topic, pending FROM outbox_topics ORDER BY topic;
SELECT backlog FROM outbox_stats;
SELECT count(*) FROM outbox_relays WHERE datname = current_database();
SELECT count(*) FROM outbox_check();
RESET ROLE;

-- the views show no payload, body or metadata
SELECT table_name, column_name FROM information_schema.columns
WHERE table_name IN ('outbox_events', 'outbox_topics', 'outbox_stats', 'outbox_relays')
	AND column_name IN ('payload', 'body', 'metadata');

--
-- Settings
--
SET ROLE regress_outbox_nobody;
SELECT count(*) > 30 AS tried FROM pg_settings WHERE name LIKE 'outbox.%';
SELECT name, attempt(format('SET %s = %L', name, setting)) FROM pg_settings
WHERE name LIKE 'outbox.%' AND attempt(format('SET %s = %L', name, setting)) NOT LIKE '42501: %';
SELECT attempt('ALTER ROLE regress_outbox_nobody SET outbox.enabled = off');
SELECT attempt('RESET outbox.enabled');

-- what may hold a secret is shown to monitoring, and to nobody else
SELECT name, CASE WHEN attempt('SHOW ' || name) LIKE '42501: %' THEN 'hidden' ELSE 'shown' END FROM (VALUES
	('outbox.dapr_api_token_file'), ('outbox.http_headers'), ('outbox.http_headers_file'),
	('outbox.http_url'), ('outbox.publisher')) v(name);
SELECT count(*) FROM pg_settings WHERE name IN ('outbox.http_headers', 'outbox.http_url');
SET ROLE regress_outbox_monitor;
SELECT attempt('SHOW outbox.http_headers'), attempt('SHOW outbox.http_url');
RESET ROLE;

DROP OWNED BY regress_outbox_publisher, regress_outbox_inserter, regress_outbox_operator;
DROP ROLE regress_outbox_nobody, regress_outbox_publisher, regress_outbox_inserter,
	regress_outbox_operator, regress_outbox_monitor;
DROP TABLE used, member;
DROP FUNCTION attempt(text);
SET client_min_messages = warning;
DROP EXTENSION outbox;
RESET client_min_messages;
