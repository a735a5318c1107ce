-- Promise: outbox_capture() publishes each change of a table's rows in the
-- transaction that makes it, whole and as it is; what it calls of users runs with
-- the rights of who writes the table, who needs none of ours; and it is nothing
-- but the trigger that it is made for.
ALTER SYSTEM SET outbox.enabled = off;
SELECT pg_reload_conf();
CREATE SCHEMA safe;
CREATE EXTENSION outbox SCHEMA safe;
CREATE SCHEMA shop;

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

-- What was published since the last call, which is deleted.
CREATE FUNCTION captured(OUT topic text, OUT key text, OUT payload jsonb) RETURNS SETOF record
LANGUAGE sql AS $$
	WITH gone AS (DELETE FROM safe.outbox_event RETURNING *)
	SELECT g.topic, g.key, g.payload FROM gone g ORDER BY g.id
$$;
\pset format unaligned
\pset tuples_only on

--
-- An event a change
--
CREATE TABLE shop.orders (id int PRIMARY KEY, customer text, total numeric);
CREATE TRIGGER capture AFTER INSERT OR UPDATE OR DELETE ON shop.orders
	FOR EACH ROW EXECUTE FUNCTION safe.outbox_capture('orders', 'key=id');
CREATE TRIGGER capture_truncate AFTER TRUNCATE ON shop.orders
	FOR EACH STATEMENT EXECUTE FUNCTION safe.outbox_capture('orders', 'key=id');
INSERT INTO shop.orders VALUES (1, 'a "b"', 1.10), (2, NULL, 'NaN');
UPDATE shop.orders SET total = total + 1 WHERE id = 1;
UPDATE shop.orders SET id = 3 WHERE id = 2;
DELETE FROM shop.orders WHERE id = 3;
TRUNCATE shop.orders;
SELECT * FROM captured();
-- every way to write
COPY shop.orders FROM stdin;
4	copied	1
\.
INSERT INTO shop.orders VALUES (4, 'conflict', 2) ON CONFLICT (id) DO UPDATE SET total = 3;
SELECT * FROM captured();
-- with the transaction
BEGIN;
INSERT INTO shop.orders VALUES (5, 'kept', 1);
SAVEPOINT s;
INSERT INTO shop.orders VALUES (6, 'rolled back', 1);
ROLLBACK TO s;
COMMIT;
SELECT * FROM captured();
-- other attributes are those of any event
INSERT INTO shop.orders VALUES (7, 'x', 1);
SELECT type, body, content_type, metadata, traceparent, deliver_after, expires_at,
	published_by = session_user, event_id::text LIKE '________-____-7%'
FROM safe.outbox_event;
SELECT FROM captured();

-- as a constraint trigger, when it is checked
CREATE TABLE shop.later (id int);
CREATE CONSTRAINT TRIGGER capture AFTER INSERT ON shop.later DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW EXECUTE FUNCTION safe.outbox_capture('later');
BEGIN;
INSERT INTO shop.later VALUES (1);
SELECT count(*) FROM safe.outbox_event;
COMMIT;
SELECT * FROM captured();

--
-- Columns
--
CREATE TABLE shop.columns (gone int, "Id" int, a int, b text, double int GENERATED ALWAYS AS (a * 2) STORED);
ALTER TABLE shop.columns DROP COLUMN gone;
CREATE TRIGGER all_of_them AFTER INSERT OR UPDATE ON shop.columns
	FOR EACH ROW EXECUTE FUNCTION safe.outbox_capture('all', 'unchanged=skip');
CREATE TRIGGER two AFTER INSERT OR UPDATE ON shop.columns
	FOR EACH ROW EXECUTE FUNCTION safe.outbox_capture('two', 'columns= DOUBLE , "Id"', 'key="Id"', 'unchanged=skip');
INSERT INTO shop.columns VALUES (1, 2, 'b');
ALTER TABLE shop.columns ADD COLUMN added int DEFAULT 7;
SELECT * FROM captured();
-- what has not changed of them is skipped; all has its value, also that which
-- was there before the column
UPDATE shop.columns SET a = a, b = 'b';
SELECT * FROM captured();
UPDATE shop.columns SET b = NULL;
UPDATE shop.columns SET b = NULL;
UPDATE shop.columns SET added = 8;
UPDATE shop.columns SET a = 3;
SELECT * FROM captured();
-- a key that changes is a change, too
DROP TRIGGER two ON shop.columns;
DROP TRIGGER all_of_them ON shop.columns;
CREATE TRIGGER key AFTER UPDATE ON shop.columns
	FOR EACH ROW EXECUTE FUNCTION safe.outbox_capture('key', 'columns=b', 'key=a', 'unchanged=skip');
UPDATE shop.columns SET added = 9;
UPDATE shop.columns SET a = 4;
UPDATE shop.columns SET a = NULL;
SELECT * FROM captured();

-- a row has no value of a virtual one (18 has them): it is not there, and cannot
-- be asked for
SELECT current_setting('server_version_num')::int >= 180000 AS has_virtual \gset
CREATE FUNCTION make_virtual(has_virtual bool) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE 'CREATE TABLE shop.virtual (id int'
		|| CASE WHEN has_virtual THEN ', v int GENERATED ALWAYS AS (id + 1) VIRTUAL' ELSE '' END || ')';
END
$$;
SELECT make_virtual(:'has_virtual');
CREATE TRIGGER capture AFTER INSERT ON shop.virtual
	FOR EACH ROW EXECUTE FUNCTION safe.outbox_capture('virtual');
INSERT INTO shop.virtual VALUES (1);
SELECT * FROM captured();
CREATE TRIGGER named AFTER INSERT ON shop.virtual
	FOR EACH ROW EXECUTE FUNCTION safe.outbox_capture('virtual', 'columns=v');
SELECT left(attempt('INSERT INTO shop.virtual VALUES (1)'), 5)
	= CASE WHEN :'has_virtual'::bool THEN '0A000' ELSE '42703' END;

-- large values, which are not in the row itself, are whole
CREATE TABLE shop.large (id int, name text, large text, packed text);
ALTER TABLE shop.large ALTER large SET STORAGE EXTERNAL;
CREATE TRIGGER capture AFTER INSERT OR UPDATE OR DELETE ON shop.large
	FOR EACH ROW EXECUTE FUNCTION safe.outbox_capture('large', 'key=id', 'unchanged=skip');
INSERT INTO shop.large VALUES (1, 'a', repeat('x', 100000), repeat('yz', 50000));
UPDATE shop.large SET name = 'b';
UPDATE shop.large SET large = repeat('x', 100000);
UPDATE shop.large SET large = repeat('x', 99999) || 'y';
DELETE FROM shop.large;
SELECT payload->>'operation', payload->'new'->>'name',
	md5(payload->'new'->>'large') = md5(repeat('x', 100000)),
	md5(payload->'old'->>'large') = md5(repeat('x', 100000)),
	md5(payload->'new'->>'packed') = md5(repeat('yz', 50000)),
	md5(payload->'old'->>'packed') = md5(repeat('yz', 50000))
FROM captured();
-- what is too large fails the statement
SET outbox.max_payload_size = '10kB';
SELECT attempt($$INSERT INTO shop.large VALUES (2, 'a', repeat('x', 20000))$$);
RESET outbox.max_payload_size;
SELECT count(*) FROM shop.large;
SELECT attempt($$INSERT INTO shop.large SELECT 1, string_agg(n::text, ''), '' FROM generate_series(1, 500000) n$$) LIKE '54000:%';

--
-- Partitions
--
CREATE SCHEMA parts;
CREATE TABLE shop.parted (id int, region text, total int) PARTITION BY LIST (region);
CREATE TABLE parts.east PARTITION OF shop.parted FOR VALUES IN ('east') PARTITION BY LIST (id);
CREATE TABLE parts.east1 PARTITION OF parts.east FOR VALUES IN (1);
CREATE TRIGGER capture AFTER INSERT OR UPDATE OR DELETE ON shop.parted
	FOR EACH ROW EXECUTE FUNCTION safe.outbox_capture('parted', 'key=id', 'columns=total,region');
-- in another order, and with a column that is not there any more
CREATE TABLE parts.west (gone int, total int, also_gone text, region text, id int);
ALTER TABLE parts.west DROP COLUMN gone, DROP COLUMN also_gone;
ALTER TABLE shop.parted ATTACH PARTITION parts.west FOR VALUES IN ('west');
CREATE TRIGGER own AFTER INSERT ON parts.west
	FOR EACH ROW EXECUTE FUNCTION safe.outbox_capture('own');
INSERT INTO shop.parted VALUES (1, 'east', 10), (2, 'west', 20);
UPDATE shop.parted SET total = total + 1;
UPDATE shop.parted SET region = 'west' WHERE id = 1;
INSERT INTO parts.west (total, region, id) VALUES (30, 'west', 3);
SELECT * FROM captured();

--
-- Bad arguments
--
CREATE TABLE shop.wrong (id int, "A" int);
CREATE FUNCTION with_arguments(arguments text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text;
BEGIN
	EXECUTE 'CREATE TRIGGER wrong AFTER INSERT ON shop.wrong FOR EACH ROW EXECUTE FUNCTION safe.outbox_capture('
		|| arguments || ')';
	result := attempt('INSERT INTO shop.wrong VALUES (1, 2)');
	DROP TRIGGER wrong ON shop.wrong;
	RETURN result;
END
$$;
SELECT arguments, with_arguments(arguments) FROM unnest(ARRAY[
	$$$$, $$''$$, $$'t', 'nonsense'$$, $$'t', 'unchanged=keep'$$, $$'t', ''$$, $$'t', 'key='$$, $$'t', 'key=id,id'$$,
	$$'t', 'columns=id,,id'$$, $$'t', 'columns="id'$$, $$'t', 'keys=id'$$,
	$$'t', 'key=none'$$, $$'t', 'columns=id,none'$$, $$'t', 'columns=A'$$, $$'t', 'key=ctid'$$,
	$$'t', 'columns=id,id', 'key="A"'$$]) arguments;
SELECT * FROM captured();
-- a column that goes later
CREATE TRIGGER wrong AFTER DELETE OR TRUNCATE ON shop.wrong
	FOR EACH STATEMENT EXECUTE FUNCTION safe.outbox_capture('t', 'key=id');
SELECT attempt('DELETE FROM shop.wrong');
ALTER TABLE shop.wrong DROP COLUMN id;
SELECT attempt('TRUNCATE shop.wrong');
DROP TRIGGER wrong ON shop.wrong;

--
-- It is nothing else
--
SELECT attempt('SELECT safe.outbox_capture()');
CREATE FUNCTION as_trigger(events text, of text DEFAULT 'shop.wrong') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text;
BEGIN
	EXECUTE format('CREATE TRIGGER wrong %s ON %s EXECUTE FUNCTION safe.outbox_capture(%L)',
		split_part(events, ';', 1), of || ' ' || split_part(events, ';', 2), 't');
	result := attempt('INSERT INTO ' || of || ' VALUES (1)');
	EXECUTE 'DROP TRIGGER wrong ON ' || of;
	RETURN split_part(result, E'\n', 1);
END
$$;
CREATE VIEW shop.wrong_view AS SELECT * FROM shop.wrong;
SELECT events, as_trigger(events) FROM unnest(ARRAY['BEFORE INSERT;FOR EACH ROW', 'BEFORE INSERT;',
	'AFTER INSERT;', 'AFTER INSERT;FOR EACH ROW']) events;
SELECT as_trigger('INSTEAD OF INSERT;FOR EACH ROW', 'shop.wrong_view');
SELECT count(*) FROM captured();

--
-- Rights
--
CREATE ROLE regress_outbox_mallory;
CREATE ROLE regress_outbox_bob;
CREATE SCHEMA mallory AUTHORIZATION regress_outbox_mallory;
GRANT USAGE ON SCHEMA mallory TO regress_outbox_bob;
GRANT USAGE ON SCHEMA safe TO regress_outbox_mallory;
SET ROLE regress_outbox_mallory;
CREATE TYPE mallory.kind AS ENUM ('small');
CREATE FUNCTION mallory.to_json(mallory.kind) RETURNS json LANGUAGE plpgsql AS
$$BEGIN RETURN to_json('cast by ' || current_user); END$$;
CREATE CAST (mallory.kind AS json) WITH FUNCTION mallory.to_json(mallory.kind);
CREATE TABLE mallory.stock (id int, kind mallory.kind);
GRANT INSERT ON mallory.stock TO regress_outbox_bob;
-- who may use it, says EXECUTE
CREATE TRIGGER capture AFTER INSERT ON mallory.stock
	FOR EACH ROW EXECUTE FUNCTION safe.outbox_capture('stock', 'key=kind');
RESET ROLE;
GRANT EXECUTE ON FUNCTION safe.outbox_capture TO regress_outbox_mallory;
SET ROLE regress_outbox_mallory;
CREATE TRIGGER capture AFTER INSERT ON mallory.stock
	FOR EACH ROW EXECUTE FUNCTION safe.outbox_capture('stock', 'key=kind');
-- not on the table of somebody else
RESET ROLE;
GRANT USAGE ON SCHEMA shop TO regress_outbox_mallory;
SET ROLE regress_outbox_mallory;
CREATE TRIGGER capture2 AFTER INSERT ON shop.orders
	FOR EACH ROW EXECUTE FUNCTION safe.outbox_capture('stock');
-- who writes needs no right of ours, and what is called is called as him, whatever
-- is in the search_path
SET ROLE regress_outbox_bob;
CREATE TEMP TABLE outbox_event (topic text, payload jsonb);
CREATE FUNCTION pg_temp.to_jsonb(anyelement) RETURNS jsonb LANGUAGE sql AS $$SELECT '"theirs"'::jsonb$$;
SET search_path = pg_temp, mallory;
INSERT INTO mallory.stock VALUES (1, 'small');
SELECT current_user;
SELECT * FROM safe.outbox_event;
RESET search_path;
-- nor has he more rights after an error
RESET ROLE;
SET outbox.max_payload_size = '64';
SET ROLE regress_outbox_bob;
DO $$
BEGIN
	INSERT INTO mallory.stock VALUES (2, 'small');
EXCEPTION WHEN program_limit_exceeded THEN
	RAISE NOTICE '%, as %', SQLSTATE, current_user;
END
$$;
RESET ROLE;
RESET outbox.max_payload_size;
SELECT * FROM captured();

-- in a subscriber's trigger it is meant, as what outbox_publish() publishes is
ALTER TABLE shop.orders ENABLE ALWAYS TRIGGER capture;
SET session_replication_role = replica;
INSERT INTO shop.orders VALUES (8, 'replicated', 1);
RESET session_replication_role;
SELECT * FROM captured();

-- triggers hold the extension fast
DROP EXTENSION outbox;
SET client_min_messages = warning;
DROP OWNED BY regress_outbox_mallory, regress_outbox_bob CASCADE;
DROP SCHEMA shop, parts CASCADE;
DROP EXTENSION outbox;
DROP ROLE regress_outbox_mallory, regress_outbox_bob;
DROP FUNCTION attempt, captured, make_virtual, with_arguments, as_trigger;
DROP SCHEMA safe;
