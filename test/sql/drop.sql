-- Promise: DROP EXTENSION says how many events it takes away undelivered, when
-- it has.  To count them it runs nothing with more rights than the extension's
-- owner has, and an error or a cancel in that leaves the session as any other.
CREATE SCHEMA dropped;
CREATE FUNCTION publish_later(n int) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
	RETURN count(dropped.outbox_publish('later', '1', deliver_after => '2999-01-01'))
	FROM generate_series(1, n);
END
$$;

--
-- What is told, and when
--
CREATE EXTENSION outbox SCHEMA dropped;
DROP EXTENSION outbox;
CREATE EXTENSION outbox SCHEMA dropped;
SELECT publish_later(1);
CREATE VIEW depends AS SELECT topic FROM dropped.outbox_event;
\set VERBOSITY terse
DROP EXTENSION outbox;
\set VERBOSITY default
DROP VIEW depends;
BEGIN;
DROP EXTENSION outbox;
ROLLBACK;
SELECT publish_later(9999);
BEGIN;
DROP EXTENSION outbox;
ROLLBACK;
SELECT publish_later(1);
DROP EXTENSION outbox;

--
-- The owner need not be a superuser
--
CREATE ROLE regress_outbox_maker SUPERUSER;
CREATE ROLE regress_outbox_owner;
GRANT CREATE, USAGE ON SCHEMA dropped TO regress_outbox_owner;
SET ROLE regress_outbox_maker;
CREATE EXTENSION outbox SCHEMA dropped;
RESET ROLE;
SELECT publish_later(1);
REASSIGN OWNED BY regress_outbox_maker TO regress_outbox_owner;
SET ROLE regress_outbox_owner;
CREATE FUNCTION dropped.tell_who() RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
	RAISE NOTICE '%, as superuser: %, search_path: %', current_user,
		(SELECT rolsuper FROM pg_roles WHERE rolname = current_user), current_setting('search_path');
	BEGIN
		RESET ROLE;
	EXCEPTION WHEN insufficient_privilege THEN
		RAISE NOTICE 'RESET ROLE is refused';
	END;
	RETURN 1;
END
$$;
CREATE OR REPLACE VIEW dropped.outbox_ahead AS
	SELECT id, topic, created_at, deliver_after, 0 AS destination FROM dropped.outbox_event
	WHERE dropped.tell_who() = 1;
RESET ROLE;
BEGIN;
SET LOCAL search_path = dropped, public;
DROP EXTENSION outbox;
SHOW search_path;
SELECT current_user = session_user AS "as before";
ROLLBACK;

--
-- What cannot be counted can be dropped; a cancel is the command's
--
CREATE OR REPLACE VIEW dropped.outbox_ahead AS
	SELECT id, topic, created_at, deliver_after, 0 AS destination FROM dropped.outbox_event
	WHERE 1 / (id - id) = 1;
BEGIN;
DROP EXTENSION outbox;
SELECT count(*) FROM pg_extension WHERE extname = 'outbox';
ROLLBACK;

CREATE OR REPLACE VIEW dropped.outbox_ahead AS
	SELECT id, topic, created_at, deliver_after, 0 AS destination FROM dropped.outbox_event
	WHERE pg_sleep(60) IS NOT NULL;
\set VERBOSITY terse
SET statement_timeout = '200ms';
DROP EXTENSION outbox;
RESET statement_timeout;
SELECT count(*) FROM pg_extension WHERE extname = 'outbox';
BEGIN;
SAVEPOINT before;
SET LOCAL statement_timeout = '200ms';
DROP EXTENSION outbox;
ROLLBACK TO before;
SELECT count(*) FROM pg_extension WHERE extname = 'outbox';
COMMIT;
\set VERBOSITY default

CREATE OR REPLACE VIEW dropped.outbox_ahead AS
	SELECT id, topic, created_at, deliver_after, 0 AS destination FROM dropped.outbox_event;
DROP EXTENSION outbox;
DROP FUNCTION publish_later(int), dropped.tell_who();
DROP SCHEMA dropped;
DROP ROLE regress_outbox_maker, regress_outbox_owner;
