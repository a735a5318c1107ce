-- Promise: what the extension has for Citus does its part without it: a query that
-- Citus runs on another node is refused to publish, whatever Citus has a node write
-- is not; the private tables have what Citus refuses; the rows of outbox_check() come
-- as one value.  test/citus shows it with Citus.
ALTER SYSTEM SET outbox.enabled = off;
SELECT pg_reload_conf();
CREATE EXTENSION outbox;
\pset format unaligned
\pset tuples_only on

CREATE TABLE item (id int PRIMARY KEY, note text);
INSERT INTO item SELECT i FROM generate_series(1, 3) i;
CREATE FUNCTION publish_it(id int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM outbox_publish('wrapped', to_jsonb(id));
END
$$;
-- publishes for each row, by a cursor and by a query
CREATE FUNCTION publish_all() RETURNS SETOF int LANGUAGE plpgsql AS $$
DECLARE
	r record;
BEGIN
	FOR r IN SELECT id, outbox_publish('fetched', to_jsonb(id)) FROM item LOOP
		RETURN NEXT r.id;
	END LOOP;
	PERFORM outbox_publish('performed', to_jsonb(id)) FROM item;
END
$$;
CREATE FUNCTION publish_new() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM outbox_publish('new', to_jsonb(NEW.id));
	RETURN NULL;
END
$$;
CREATE TRIGGER publish AFTER INSERT ON item FOR EACH ROW EXECUTE FUNCTION publish_new();
CREATE PROCEDURE publish_proc() LANGUAGE plpgsql AS $$
BEGIN
	PERFORM outbox_publish('procedure', to_jsonb(id)) FROM item;
	COMMIT;
	PERFORM outbox_publish('procedure', to_jsonb(id)) FROM item;
END
$$;

-- the name of Citus' connections to other nodes
SET application_name = 'citus_internal gpid=10000000123';

-- what it has a node read
SELECT outbox_publish('refused', to_jsonb(id)) FROM item;
\echo :LAST_ERROR_SQLSTATE
\set VERBOSITY terse
SELECT outbox_publish('refused', '1') WHERE EXISTS (SELECT FROM item);
SELECT outbox_publish_bytes('refused', '\x01', 'a/b') FROM item WHERE id = 1;
SELECT publish_it(id) FROM item;
WITH i AS MATERIALIZED (SELECT id FROM item) SELECT publish_it(id) FROM i;
SELECT publish_it(i) FROM generate_series(1, 3) i;	-- rows from elsewhere: pg_catalog.read_intermediate_result()
SELECT count(*) FROM (SELECT publish_it(i) FROM unnest(ARRAY[1, 2]) i OFFSET 0) x;
SELECT publish_all() FROM item LIMIT 1;
BEGIN;
SELECT publish_it(id) FROM item;
ROLLBACK;

-- what it has a node write, and what it delegates
SELECT outbox_publish('called', '1') IS NOT NULL;
SELECT publish_it(1);
SELECT * FROM publish_all();
CALL publish_proc();
DO 'BEGIN PERFORM publish_it(id) FROM item; END';
INSERT INTO item SELECT id + 10 FROM item;
WITH i AS (INSERT INTO item VALUES (20) RETURNING id) SELECT id FROM i;
COPY item (id) FROM PROGRAM 'echo 30';
UPDATE item SET note = outbox_publish('updated', to_jsonb(id)) WHERE id < 3;
INSERT INTO outbox_event (topic, payload) SELECT 'inserted', to_jsonb(id) FROM item WHERE id < 3;

-- other connections of Citus, and those that only look alike
SET application_name = 'citus_run_command gpid=10000000123';
SELECT publish_it(id) FROM item WHERE id < 3;
SET application_name = 'citus_internal';
SELECT publish_it(id) FROM item WHERE id < 3;
RESET application_name;
SELECT topic, count(*) FROM outbox_event GROUP BY topic ORDER BY topic;

-- Citus takes no table with a trigger that depends on an extension
SELECT c.oid::regclass, count(t.oid) > 0 AS refused
FROM pg_extension x
JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = x.oid
	AND d.classid = 'pg_class'::regclass AND d.deptype = 'e'
JOIN pg_class c ON c.oid = d.objid AND c.relkind = 'r'
LEFT JOIN (pg_trigger t JOIN pg_depend u ON u.classid = 'pg_trigger'::regclass AND u.objid = t.oid
		   AND u.deptype = 'x') ON t.tgrelid = c.oid AND u.refobjid = x.oid
WHERE x.extname = 'outbox'
GROUP BY 1 ORDER BY 1;

-- as one value
SELECT json_array_length(outbox_check_json()) = (SELECT count(*) FROM outbox_check());
SELECT string_agg(k, ' ') FROM json_object_keys(outbox_check_json() -> 0) k;
SELECT c ->> 'check', c -> 'ok' FROM json_array_elements(outbox_check_json()) c
WHERE c ->> 'check' IN ('library preloaded', 'tables are heaps');

-- without Citus
\set VERBOSITY default
SELECT outbox_citus_setup();
SELECT outbox_citus_undo();

DROP TABLE item;
DROP FUNCTION publish_it, publish_all, publish_new;
DROP PROCEDURE publish_proc;
DROP EXTENSION outbox;
ALTER SYSTEM RESET outbox.enabled;
SELECT pg_reload_conf();
