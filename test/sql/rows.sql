-- Promise: what is done to the rows of outbox_event by hand is refused, or
-- harms nothing.
ALTER SYSTEM SET outbox.enabled = off;
SELECT pg_reload_conf();
CREATE EXTENSION outbox;
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

DROP EXTENSION outbox;
