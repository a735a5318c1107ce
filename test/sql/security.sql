-- Promise: a user's search_path, with objects that shadow those of pg_catalog
-- and of the extension, is never looked into by what runs with the rights of
-- the extension's owner; and what somebody put into the extension's schema
-- beforehand never becomes part of the extension.
ALTER SYSTEM SET outbox.enabled = off;
SELECT pg_reload_conf();
CREATE SCHEMA safe;
CREATE EXTENSION outbox SCHEMA safe;
\pset format unaligned
\pset tuples_only on

--
-- What a caller brings along runs with the caller's rights: here a cast
--
CREATE ROLE regress_outbox_mallory;
GRANT USAGE ON SCHEMA safe TO regress_outbox_mallory;
GRANT EXECUTE ON FUNCTION safe.outbox_publish(text, jsonb, text, text, uuid, jsonb, timestamptz, timestamptz)
TO regress_outbox_mallory;
CREATE SCHEMA mallory AUTHORIZATION regress_outbox_mallory;
SET ROLE regress_outbox_mallory;
CREATE TYPE mallory.topic AS ENUM ('orders');
CREATE FUNCTION mallory.to_text(mallory.topic) RETURNS text LANGUAGE plpgsql AS
$$BEGIN RETURN 'cast by ' || current_user; END$$;
CREATE CAST (mallory.topic AS text) WITH FUNCTION mallory.to_text(mallory.topic) AS IMPLICIT;
SELECT safe.outbox_publish('orders'::mallory.topic, '1') IS NOT NULL;

-- a function that fits literals better wins where the schema is not named
CREATE FUNCTION mallory.outbox_publish(text, text) RETURNS text LANGUAGE sql AS $$SELECT 'theirs'$$;
SET search_path = safe, mallory;
SELECT outbox_publish('literals', '1');
SELECT safe.outbox_publish('literals', '1') IS NOT NULL;
RESET search_path;
RESET ROLE;
SELECT topic FROM safe.outbox_event ORDER BY id;
TRUNCATE safe.outbox_event;
SET client_min_messages = warning;
DROP OWNED BY regress_outbox_mallory CASCADE;
RESET client_min_messages;
DROP ROLE regress_outbox_mallory;

--
-- Shadows: every operator and plain function of pg_catalog has a twin in
-- schema evil that throws; so do the relations and types
--
CREATE SCHEMA evil;
SET check_function_bodies = off;
DO $$
DECLARE
	o record;
BEGIN
	FOR o IN
		SELECT p.proname, oidvectortypes(p.proargtypes) AS args,
			CASE WHEN p.proretset THEN 'SETOF ' ELSE '' END || format_type(p.prorettype, NULL) AS result
		FROM pg_proc p
		WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind = 'f'
			AND NOT EXISTS (SELECT FROM unnest(p.proargtypes::oid[] || p.prorettype) u(oid)
							JOIN pg_type t USING (oid) WHERE t.typtype = 'p')
	LOOP
		EXECUTE format('CREATE FUNCTION evil.%I(%s) RETURNS %s LANGUAGE plpgsql AS %L',
					   o.proname, o.args, o.result,
					   format('BEGIN RAISE EXCEPTION %L; END', 'captured by function ' || o.proname));
	END LOOP;
	FOR o IN
		SELECT op.oid, op.oprname, nullif(op.oprleft, 0)::regtype AS l, op.oprright::regtype AS r,
			op.oprresult::regtype AS result
		FROM pg_operator op
		WHERE op.oprnamespace = 'pg_catalog'::regnamespace
			AND NOT EXISTS (SELECT FROM pg_type t
							WHERE t.oid IN (op.oprleft, op.oprright, op.oprresult) AND t.typtype = 'p')
	LOOP
		EXECUTE format('CREATE FUNCTION evil.op_%s(%s) RETURNS %s LANGUAGE plpgsql AS %L',
					   o.oid, concat_ws(', ', o.l, o.r), o.result,
					   format('BEGIN RAISE EXCEPTION ''%%'', %L; END', 'captured by operator ' || o.oprname));
		EXECUTE format('CREATE OPERATOR evil.%s (%s RIGHTARG = %s, FUNCTION = evil.op_%s)',
					   o.oprname, 'LEFTARG = ' || o.l || ',', o.r, o.oid);
	END LOOP;
END
$$;
RESET check_function_bodies;
-- operators that fit better than pg_catalog's
CREATE FUNCTION evil.join_text(bigint, text) RETURNS text LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'captured by operator ||'; END$$;
CREATE OPERATOR evil.|| (LEFTARG = bigint, RIGHTARG = text, FUNCTION = evil.join_text);
CREATE FUNCTION evil.join_name(text, name) RETURNS text LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'captured by operator ||'; END$$;
CREATE OPERATOR evil.|| (LEFTARG = text, RIGHTARG = name, FUNCTION = evil.join_name);
-- relations and types, here and in pg_temp, which is searched first by default
CREATE TABLE evil.outbox_event AS SELECT 'captured by table' AS evil;
CREATE TABLE evil.outbox_delivery AS TABLE evil.outbox_event;
CREATE TABLE evil.outbox_progress AS TABLE evil.outbox_event;
CREATE TABLE evil.outbox_events AS TABLE evil.outbox_event;
CREATE TABLE evil.outbox_stats AS TABLE evil.outbox_event;
CREATE TABLE evil.pg_extension AS TABLE evil.outbox_event;
CREATE TABLE evil.pg_database AS TABLE evil.outbox_event;
CREATE DOMAIN evil.uuid AS pg_catalog.text CHECK (VALUE = 'captured by domain');
CREATE DOMAIN evil.text AS pg_catalog.int4 CHECK (VALUE IS NULL);
CREATE DOMAIN evil.int4 AS pg_catalog.text CHECK (VALUE IS NULL);
CREATE TEMP TABLE outbox_event AS TABLE evil.outbox_event;
CREATE TEMP TABLE outbox_delivery AS TABLE evil.outbox_event;
CREATE TEMP TABLE outbox_progress AS TABLE evil.outbox_event;
CREATE TEMP TABLE outbox_events AS TABLE evil.outbox_event;
CREATE TEMP TABLE outbox_stats AS TABLE evil.outbox_event;
CREATE TEMP TABLE pg_extension AS TABLE evil.outbox_event;
CREATE TEMP TABLE pg_database AS TABLE evil.outbox_event;
CREATE DOMAIN pg_temp.uuid AS pg_catalog.text CHECK (VALUE = 'captured by domain');
CREATE DOMAIN pg_temp.text AS pg_catalog.int4 CHECK (VALUE IS NULL);

-- What a user may call is called, each with a plan made under the hostile
-- path and, the second time, with one made before it.
CREATE FUNCTION safe.use_everything(topic pg_catalog.text) RETURNS pg_catalog.text
LANGUAGE plpgsql AS $$
DECLARE
	id pg_catalog.uuid;
	dead pg_catalog.uuid;
BEGIN
	id := safe.outbox_publish(topic, '{"a": 1}', 'k', 't', NULL, '{"a": "b"}', '2999-01-01');
	id := safe.outbox_publish(topic, '{"a": 1}', 'k', 't', id);
	dead := safe.outbox_publish_bytes(topic, '\x00', 'a/b', 'k', 't', NULL, '{"a": "b"}');
	INSERT INTO safe.outbox_event (topic, payload, metadata)
	VALUES (topic, '1', '{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}');
	INSERT INTO safe.outbox_delivery (id, topic, state)
	SELECT e.id, e.topic, 'dead' FROM safe.outbox_event e WHERE e.event_id OPERATOR(pg_catalog.=) dead;
	PERFORM safe.outbox_retry_dead(topic);
	PERFORM safe.outbox_retry_dead();
	PERFORM safe.outbox_discard(dead);
	PERFORM safe.outbox_retry(dead);
	PERFORM safe.outbox_discard(id);
	PERFORM safe.outbox_library(), safe.outbox_relay_status(), safe.outbox_topic_status(), safe.outbox_start_relay();
	PERFORM FROM safe.outbox_check() c WHERE pg_catalog.length(c.detail) IS NULL;
	PERFORM FROM safe.outbox_relays r WHERE r.state IS NULL;
	PERFORM FROM safe.outbox_topics t WHERE t.pending IS NULL OR t.state IS NULL;
	PERFORM FROM safe.outbox_stats s WHERE s.backlog IS NULL;
	PERFORM FROM safe.outbox_failures f WHERE f.event_id IS NULL;
	PERFORM FROM safe.outbox_destinations d WHERE d.held_back IS NULL;
	PERFORM FROM safe.outbox_events v WHERE v.state IS NULL OR v.published_at IS NULL;
	RETURN 'not captured';
EXCEPTION WHEN OTHERS THEN
	RETURN SQLERRM;
END
$$;

-- the shadows work
\set VERBOSITY terse
SET search_path = evil, pg_catalog;
SELECT 1 = 1;
SELECT 'a' || 'b'::pg_catalog.text;
SELECT now();
SET search_path = pg_temp, evil, pg_catalog;
SELECT * FROM outbox_event;
SELECT * FROM pg_database;
SELECT 'x'::uuid;
\set VERBOSITY default

-- with nothing in the plan cache, then with what is there
\c -
CREATE TEMP TABLE outbox_event AS TABLE evil.outbox_event;
CREATE TEMP TABLE outbox_delivery AS TABLE evil.outbox_event;
CREATE TEMP TABLE outbox_events AS TABLE evil.outbox_event;
CREATE TEMP TABLE pg_extension AS TABLE evil.outbox_event;
CREATE DOMAIN pg_temp.uuid AS pg_catalog.text CHECK (VALUE = 'captured by domain');
CREATE DOMAIN pg_temp.text AS pg_catalog.int4 CHECK (VALUE IS NULL);
SET search_path = pg_temp, evil, pg_catalog;
SELECT safe.use_everything('a');
SET search_path = evil, pg_catalog;
SELECT safe.use_everything('b');
SET search_path = '';
SELECT safe.use_everything('c');
SET search_path = evil, pg_temp, pg_catalog;
SELECT safe.use_everything('d');
\c -
SELECT topic, count(*) FROM safe.outbox_event GROUP BY topic ORDER BY topic;

--
-- The extension made in a schema that is full of shadows
--
DROP FUNCTION safe.use_everything(text);
SET client_min_messages = warning;
DROP EXTENSION outbox;
RESET client_min_messages;
DROP TABLE evil.outbox_event, evil.outbox_delivery, evil.outbox_progress, evil.outbox_events,
	evil.outbox_stats;
SET search_path = evil, pg_catalog;
CREATE EXTENSION outbox SCHEMA evil;
RESET search_path;
SELECT evil.outbox_publish('t', '1', deliver_after => '2999-01-01') AS id \gset
SELECT topic, scheduled FROM evil.outbox_topics;
SELECT backlog FROM evil.outbox_stats;
SELECT evil.outbox_discard(:'id');
SELECT evil.outbox_retry(:'id');
SELECT evil.outbox_retry_dead('t');
SELECT state FROM evil.outbox_events;
SELECT count(*) FROM evil.outbox_relays WHERE datname = current_database();
SELECT "check" FROM evil.outbox_check();

--
-- Nothing that is there already is taken in: CREATE EXTENSION fails
--
CREATE TABLE member AS
SELECT pg_describe_object(d.classid, d.objid, 0) AS object,
	CASE WHEN p.oid IS NOT NULL
		THEN format('FUNCTION safe.%I(%s) RETURNS int LANGUAGE sql AS ''SELECT 1''',
					p.proname, oidvectortypes(p.proargtypes))
		WHEN c.relkind = 'S' THEN format('SEQUENCE safe.%I', c.relname)
		ELSE format('TABLE safe.%I ()', c.relname) END AS definition
FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'outbox'
LEFT JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid
LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
	AND (p.oid IS NOT NULL OR c.oid IS NOT NULL);

-- every object of the extension says what it is, and every column of a table
-- (from PostgreSQL 16 on, the types of its relations are objects of their own)
SELECT pg_describe_object(d.classid, d.objid, a.attnum) AS without_comment
FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'outbox'
LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid AND c.relkind = 'r'
CROSS JOIN LATERAL (
	SELECT 0 AS attnum
	UNION ALL
	SELECT attnum FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0) a
WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
	AND d.classid <> 'pg_type'::regclass
	AND NOT EXISTS (SELECT FROM pg_description s
					WHERE s.classoid = d.classid AND s.objoid = d.objid AND s.objsubid = a.attnum)
ORDER BY 1;
SELECT obj_description(oid, 'pg_extension') IS NOT NULL FROM pg_extension WHERE extname = 'outbox';
SET client_min_messages = warning;
DROP EXTENSION outbox;
RESET client_min_messages;
SET client_min_messages = warning;
DROP SCHEMA evil CASCADE;
RESET client_min_messages;

-- The error, or whether the object is part of what was made beside it.
CREATE FUNCTION create_beside(definition text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE 'CREATE ' || definition;
	CREATE EXTENSION outbox SCHEMA safe;
	RAISE EXCEPTION USING ERRCODE = 'ZZUND', MESSAGE = CASE
		WHEN pg_get_serial_sequence('safe.outbox_progress', 'id') = 'safe.outbox_progress_id_seq'
		THEN 'taken in' ELSE 'made with another name' END;
EXCEPTION WHEN SQLSTATE 'ZZUND' THEN
	RETURN SQLERRM;
WHEN OTHERS THEN
	RETURN SQLSTATE;
END
$$;
SELECT object, create_beside(definition) FROM member ORDER BY object COLLATE "C";
SELECT create_beside('TYPE safe.outbox_event AS ENUM ()');
SELECT create_beside('SEQUENCE safe.outbox_event_xid_id_idx');
SELECT count(*) FROM pg_extension WHERE extname = 'outbox';

DROP FUNCTION create_beside(text);
DROP TABLE member;
DROP SCHEMA safe;
