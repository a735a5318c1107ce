-- Promise: the extension works in any schema, whatever that is called; it can
-- be dropped and made again under a running session.  Its schema keeps its
-- name, by which pg_dump knows what to dump.
ALTER SYSTEM SET outbox.enabled = off;
SELECT pg_reload_conf();
CREATE SCHEMA "odd Name %s @s@";
CREATE EXTENSION outbox SCHEMA "odd Name %s @s@";
\pset format unaligned
\pset tuples_only on

-- nothing is found without the schema's name, everything with it; details of
-- the error differ between versions of PostgreSQL
\set VERBOSITY terse
SELECT outbox_publish('t', '1');
\set VERBOSITY default
SELECT "odd Name %s @s@".outbox_publish('odd', '1') AS id \gset
SELECT "odd Name %s @s@".outbox_publish_bytes('odd', '', 'a/b') IS NOT NULL;
INSERT INTO "odd Name %s @s@".outbox_event (topic, payload) VALUES ('odd', '2');
SELECT topic, pending FROM "odd Name %s @s@".outbox_topics;
SELECT backlog FROM "odd Name %s @s@".outbox_stats;
-- (what is asked counts when the relay has served it)
SELECT "odd Name %s @s@".outbox_discard(:'id');
SELECT "odd Name %s @s@".outbox_retry(:'id');
SELECT "odd Name %s @s@".outbox_retry_dead();
SELECT topic, state FROM "odd Name %s @s@".outbox_events ORDER BY created_at;
SELECT count(*) FROM "odd Name %s @s@".outbox_relays WHERE datname = current_database();
SELECT "check" FROM "odd Name %s @s@".outbox_check();

-- not relocatable
ALTER EXTENSION outbox SET SCHEMA public;

-- the schema can't be renamed, others can
ALTER SCHEMA "odd Name %s @s@" RENAME TO even;
CREATE SCHEMA even;
ALTER SCHEMA even RENAME TO uneven;
ALTER SCHEMA uneven RENAME TO even;
SELECT "odd Name %s @s@".outbox_publish('not renamed', '1') IS NOT NULL;

-- dropped and made again: plans of this session follow, although something
-- else of the same name is in the old place
SET client_min_messages = warning;
DROP EXTENSION outbox;
RESET client_min_messages;
CREATE TABLE "odd Name %s @s@".outbox_event (LIKE pg_class);
CREATE EXTENSION outbox SCHEMA even;
SELECT even.outbox_publish('moved', '1') AS id \gset
SELECT even.outbox_publish_bytes('moved', '', 'a/b') IS NOT NULL;
SELECT even.outbox_discard(:'id');
SELECT even.outbox_retry(:'id');
SELECT even.outbox_retry_dead();
SELECT topic, state FROM even.outbox_events ORDER BY created_at;
SELECT count(*) FROM "odd Name %s @s@".outbox_event;
SELECT count(*) FROM even.outbox_check();

-- dropped: gone; made again in the same schema: new and empty
SET client_min_messages = warning;
DROP EXTENSION outbox;
RESET client_min_messages;
\set VERBOSITY terse
SELECT even.outbox_publish('t', '1');
\set VERBOSITY default
SELECT relname FROM pg_class WHERE relnamespace = 'even'::regnamespace;
CREATE EXTENSION outbox SCHEMA even;
SELECT even.outbox_publish('again', '1') AS id \gset
SELECT even.outbox_publish_bytes('again', '', 'a/b') IS NOT NULL;
SELECT even.outbox_publish('again', '1', event_id => :'id') = :'id';
SELECT even.outbox_discard(:'id');
SELECT topic, state FROM even.outbox_events ORDER BY created_at;

-- made again in another schema
SET client_min_messages = warning;
DROP EXTENSION outbox;
RESET client_min_messages;
CREATE EXTENSION outbox SCHEMA public;
SELECT outbox_publish('public', '1') AS id \gset
SELECT outbox_publish_bytes('public', '', 'a/b') IS NOT NULL;
SELECT outbox_discard(:'id');
SELECT topic, state FROM outbox_events ORDER BY created_at;

-- no text that is indexed has a collation that may change under the index
SELECT a.attrelid::regclass, a.attname, c.collname
FROM pg_attribute a LEFT JOIN pg_collation c ON c.oid = a.attcollation
WHERE a.attrelid IN ('outbox_event'::regclass, 'outbox_delivery'::regclass)
AND a.attname IN ('topic', 'key', 'state') ORDER BY 1, 2;
SELECT i.indexrelid::regclass FROM pg_index i, unnest(i.indcollation) c(oid)
WHERE i.indrelid IN ('outbox_event'::regclass, 'outbox_delivery'::regclass,
	'outbox_progress'::regclass)
AND c.oid NOT IN (0, 'pg_catalog."C"'::regcollation);

-- made and dropped in a transaction that is rolled back
BEGIN;
SET client_min_messages = warning;
DROP EXTENSION outbox;
RESET client_min_messages;
CREATE EXTENSION outbox SCHEMA even;
SELECT even.outbox_publish('even', '1') IS NOT NULL;
ROLLBACK;
SELECT outbox_publish('public', '2') IS NOT NULL;
SELECT topic, payload FROM outbox_event ORDER BY id;

-- once a database
CREATE EXTENSION outbox SCHEMA even;
SET client_min_messages = warning;
DROP EXTENSION outbox;
RESET client_min_messages;

-- only a superuser makes it, since its library runs processes
CREATE ROLE regress_outbox_creator;
SELECT current_database() AS db \gset
GRANT CREATE ON DATABASE :"db" TO regress_outbox_creator;
GRANT CREATE ON SCHEMA even TO regress_outbox_creator;
SET ROLE regress_outbox_creator;
CREATE EXTENSION outbox SCHEMA even;
RESET ROLE;
DROP OWNED BY regress_outbox_creator;
DROP ROLE regress_outbox_creator;

DROP TABLE "odd Name %s @s@".outbox_event;
DROP SCHEMA even, "odd Name %s @s@";
