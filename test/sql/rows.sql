-- Promise: what is done to the tables and rows of outbox by hand is refused,
-- harms nothing, or is shown by outbox_check().
ALTER SYSTEM SET outbox.enabled = off;
SELECT pg_reload_conf();
CREATE EXTENSION outbox;
SET client_min_messages = warning;
\pset format unaligned
\pset tuples_only on

--
-- An event is never changed
--
SELECT outbox_publish('orders', '1', event_id => '00000000-0000-4000-8000-000000000001');
UPDATE outbox_event SET payload = NULL;
\set VERBOSITY sqlstate
UPDATE outbox_event SET id = id;
INSERT INTO outbox_event (topic, payload, event_id)
VALUES ('orders', '2', '00000000-0000-4000-8000-000000000001')
ON CONFLICT (event_id) DO UPDATE SET payload = excluded.payload;
-- replication's changes are dropped, as ever
SET session_replication_role = replica;
UPDATE outbox_event SET payload = '3';
RESET session_replication_role;
SELECT topic, payload FROM outbox_event;

-- deleting it is erasing it
DELETE FROM outbox_event;
SELECT count(*) FROM outbox_event;

--
-- Ids and times are made here, and chosen by the owner only
--
CREATE ROLE regress_outbox_writer;
GRANT INSERT, SELECT ON outbox_event TO regress_outbox_writer;
SET ROLE regress_outbox_writer;
\set VERBOSITY default
INSERT INTO outbox_event (topic, payload, id) VALUES ('chosen', '1', 7);
\set VERBOSITY sqlstate
INSERT INTO outbox_event (topic, payload, created_at) VALUES ('chosen', '1', '0043-01-01 BC');
INSERT INTO outbox_event (topic, payload, xid) VALUES ('chosen', '1', '3');
INSERT INTO outbox_event (topic, payload, published_by) VALUES ('chosen', '1', 'somebody else');
COPY outbox_event (id, topic, payload) FROM stdin;
7	chosen	1
\.
INSERT INTO outbox_event (topic, payload, event_id, id, xid, created_at)
VALUES ('given', '1', '00000000-0000-4000-8000-000000000002', NULL, DEFAULT, DEFAULT);
COPY outbox_event (topic, payload) FROM stdin;
given	2
\.
RESET ROLE;
SELECT topic, payload, id > 0, created_at BETWEEN now() - interval '1 min' AND clock_timestamp()
FROM outbox_event ORDER BY id;
INSERT INTO outbox_event (topic, payload, id, xid, created_at)
VALUES ('restored', '1', 1000000, '3', '2001-01-01');
SELECT id, xid = '3', created_at = '2001-01-01' FROM outbox_event WHERE topic = 'restored';

--
-- Who published is the session's user, whatever role and function it is done in
--
GRANT EXECUTE ON FUNCTION outbox_publish(text, jsonb, text, text, uuid, jsonb, timestamptz, timestamptz)
TO regress_outbox_writer;
SELECT published_by = session_user FROM outbox_events WHERE topic = 'given';
CREATE ROLE regress_outbox_login SUPERUSER;
SET SESSION AUTHORIZATION regress_outbox_login;
SET ROLE regress_outbox_writer;
INSERT INTO outbox_event (topic, payload) VALUES ('by insert', '1');
SELECT outbox_publish('by function', '1') IS NOT NULL;
COPY outbox_event (topic, payload) FROM stdin;
by copy	1
\.
RESET SESSION AUTHORIZATION;
INSERT INTO outbox_event (topic, payload, published_by) VALUES ('by the owner', '1', 'an owner''s choice');
INSERT INTO outbox_event (topic, payload, xid, published_by) VALUES ('by restore', '1', '3', 'who published');
INSERT INTO outbox_event (topic, payload, xid) VALUES ('by restore, not known', '1', '3');
SELECT topic, published_by FROM outbox_events WHERE topic LIKE 'by %' ORDER BY topic COLLATE "C";

--
-- A transaction notes how many events it restores, and nothing of what it rolls back
--
CREATE FUNCTION restore(n int) RETURNS void LANGUAGE sql AS
$$ INSERT INTO outbox_event (topic, payload, xid) SELECT 'counted', '1', '3' FROM generate_series(1, n) $$;
TRUNCATE outbox_restore;
SELECT ok, detail FROM outbox_check() WHERE "check" = 'events restored';
BEGIN;
SELECT restore(1);
SAVEPOINT a;
SELECT restore(10);
SAVEPOINT b;
SELECT restore(100);
RELEASE b;
ROLLBACK TO a;
SAVEPOINT c;
SELECT restore(1000);
RELEASE c;
RELEASE a;
INSERT INTO outbox_event (topic, payload) VALUES ('not restored', '1');
SELECT restore(3);
SET LOCAL ROLE regress_outbox_writer;
COMMIT;
SELECT events FROM outbox_restore;
SELECT ok, regexp_replace(detail, '(at|from|to) [^;]*', '\1 ...') FROM outbox_check()
WHERE "check" = 'events restored';
BEGIN;
SELECT restore(1);
ROLLBACK;
INSERT INTO outbox_event (topic, payload) VALUES ('not restored', '1');
SELECT restore(2);
SELECT ok, regexp_replace(detail, '(at|from|to) [^;]*', '\1 ...') FROM outbox_check()
WHERE "check" = 'events restored';
BEGIN;
SELECT restore(1);
SET LOCAL client_min_messages = error;
DROP EXTENSION outbox;
COMMIT;
CREATE EXTENSION outbox;
DROP FUNCTION restore;
DROP ROLE regress_outbox_login;
REVOKE ALL ON FUNCTION outbox_publish(text, jsonb, text, text, uuid, jsonb, timestamptz, timestamptz)
FROM regress_outbox_writer;
REVOKE ALL ON outbox_event FROM regress_outbox_writer;
DROP ROLE regress_outbox_writer;

DROP EXTENSION outbox;

--
-- The tables are heaps, whatever the default is
--
CREATE ACCESS METHOD regress_outbox_am TYPE TABLE HANDLER heap_tableam_handler;
SET default_table_access_method = regress_outbox_am;
CREATE EXTENSION outbox;
RESET default_table_access_method;
SELECT ok, detail FROM outbox_check() WHERE "check" = 'tables are heaps';
ALTER TABLE outbox_delivery SET ACCESS METHOD regress_outbox_am;
SELECT ok, detail FROM outbox_check() WHERE "check" = 'tables are heaps';

DROP EXTENSION outbox;
DROP ACCESS METHOD regress_outbox_am;
