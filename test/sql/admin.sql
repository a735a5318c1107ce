-- Promise: the views tell what became of every event, and an operator can
-- retry and discard events, exactly in the states that allow it.
--
-- Everything happens in one transaction that never commits, so that the relay,
-- which is disabled besides, has no part in it.  It writes its position when it
-- starts, and nothing afterwards.
ALTER SYSTEM SET outbox.enabled = off;
SELECT pg_reload_conf();
CREATE EXTENSION outbox;
-- nobody changes events but this test
ALTER TABLE outbox_event DISABLE TRIGGER outbox_event_update;
\pset format unaligned
SET timezone = 'UTC';
SET datestyle = 'ISO';

DO $$
BEGIN
	FOR i IN 1..6000 LOOP
		IF EXISTS (SELECT FROM outbox_relays
						  WHERE datname = current_database() AND state = 'disabled') THEN
			RETURN;
		END IF;
		PERFORM pg_sleep(0.01);
	END LOOP;
	RAISE 'gave up waiting for the relay';
END
$$;
BEGIN;

CREATE FUNCTION eid(n int) RETURNS uuid LANGUAGE sql
RETURN ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid;
CREATE FUNCTION num(event_id uuid) RETURNS int LANGUAGE sql
RETURN right(event_id::text, 12)::int;

-- What becomes of an event, written after a command that is undone then; or
-- the error as a driver sees it.
CREATE FUNCTION after(command text, n int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text;
	message text;
	detail text;
	hint text;
BEGIN
	EXECUTE command;
	SELECT format('%s, attempts %s, %s, %s, asked %s times', v.state, v.attempts,
				  CASE WHEN v.next_attempt_at IS NULL THEN 'not due' ELSE 'due later' END,
				  coalesce(v.last_error, 'no error'),
				  (SELECT count(*) FROM outbox_request))
	INTO STRICT result
	FROM outbox_events v WHERE v.event_id = eid(n);
	RAISE EXCEPTION USING ERRCODE = 'ZZUND', MESSAGE = result;
EXCEPTION WHEN SQLSTATE 'ZZUND' THEN
	RETURN SQLERRM;
WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS
		message = MESSAGE_TEXT,
		detail = PG_EXCEPTION_DETAIL,
		hint = PG_EXCEPTION_HINT;
	RETURN concat_ws(E'\n', SQLSTATE || ': ' || message,
					 'DETAIL:  ' || nullif(detail, ''),
					 'HINT:  ' || nullif(hint, ''));
END
$$;

-- events 1 to 15, all of the same size; created on different days.  The ninth
-- is behind the eighth.
DO $$
BEGIN
	FOR n IN 1..15 LOOP
		PERFORM outbox_publish(CASE WHEN n % 2 = 0 OR n = 9 THEN 'even' ELSE 'odd' END, to_jsonb(n),
							   'key ' || CASE n WHEN 9 THEN 8 ELSE n END,
							   'type', eid(n), deliver_after => CASE WHEN n = 6 THEN timestamptz '2999-01-01' END);
	END LOOP;
END
$$;
UPDATE outbox_event SET created_at = '2001-01-01'::timestamptz + num(event_id) * interval '1 day';

-- The position: settled is what 15:15: sees, and of what 12:25:12 sees, ids up
-- to that of event 3.
UPDATE outbox_event SET xid = CASE num(event_id)
	WHEN 1 THEN '10'	-- seen by lo
	WHEN 2 THEN '12'	-- running in hi: not settled although its id is small
	WHEN 3 THEN '20'	-- seen by hi
	WHEN 4 THEN '20'	-- seen by hi, but its turn has not come
	WHEN 5 THEN '30'	-- later than hi
	WHEN 6 THEN '30'	-- later than hi, and scheduled
	ELSE '10' END::xid8;
INSERT INTO outbox_progress (lo, hi, last_id, clean, at)
SELECT '11:11:', '12:25:12', id, false, '2001-02-01'
FROM outbox_event WHERE event_id = eid(3);
INSERT INTO outbox_progress (lo, hi, last_id, clean, at)
SELECT lo, hi, last_id, clean, '2001-02-02'
FROM outbox_progress ORDER BY id DESC LIMIT 1;

-- the exceptions: events 7 to 15
INSERT INTO outbox_delivery (id, topic, key, state, attempts, crashes, next_attempt_at, last_status, last_error, updated_at)
SELECT e.id, e.topic, e.key, d.state, d.attempts, d.crashes, d.next_attempt_at, d.last_status, d.last_error, '2001-03-01'
FROM (VALUES
	(7, 'scheduled', 0, 0, timestamptz '2999-01-02', NULL::int, NULL),
	(8, 'pending', 1, 1, '2999-01-03', NULL, NULL),
	(9, 'pending', 0, 0, NULL, NULL, NULL),
	(10, 'in_progress', 3, 2, NULL, NULL, 'could not connect'),
	(11, 'published', 2, 0, NULL, 503, 'unavailable'),
	(12, 'failed', 5, 1, '2999-01-04', 500, 'internal'),
	(13, 'dead', 11, 2, NULL, 400, 'bad request'),
	(14, 'discarded', 4, 0, NULL, NULL, 'discarded by somebody'),
	(15, 'expired', 2, 0, NULL, 503, 'not delivered by 2001-03-01')
) d(n, state, attempts, crashes, next_attempt_at, last_status, last_error)
JOIN outbox_event e ON e.event_id = eid(d.n);

--
-- The views
--
SELECT num(event_id) AS n, topic, key, type, state, attempts, last_error, last_status,
	next_attempt_at, created_at, published_at
FROM outbox_events ORDER BY n;

-- what is not under way expires when its time is over, not before
SAVEPOINT e;
UPDATE outbox_event SET expires_at = now();
SELECT num(event_id) AS n, state, next_attempt_at FROM outbox_events ORDER BY n;
UPDATE outbox_event SET expires_at = now() + interval '1 s';
SELECT count(*) FROM outbox_events WHERE state = 'expired';
ROLLBACK TO e;

-- the backlog is what is not settled; dead events are.  By topic it is the same.
SELECT backlog FROM outbox_stats;
SELECT * FROM outbox_topics ORDER BY topic;
CREATE FUNCTION is_oldest(n int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text;
BEGIN
	UPDATE outbox_event SET topic = 'oldest', created_at = '2000-01-01' WHERE event_id = eid(n);
	UPDATE outbox_delivery d SET topic = 'oldest' FROM outbox_event e
	WHERE e.id = d.id AND e.event_id = eid(n);
	SELECT (oldest_unsettled_at = '2000-01-01'
			AND oldest_unsettled_at + oldest_unsettled_age BETWEEN now() AND clock_timestamp())
		|| (SELECT coalesce(' ' || string_agg(pending::text, ' '), '') FROM outbox_topics t
			WHERE t.topic = 'oldest' AND t.oldest = '2000-01-01')
	INTO STRICT result FROM outbox_stats;
	RAISE EXCEPTION USING ERRCODE = 'ZZUND', MESSAGE = result;
EXCEPTION WHEN SQLSTATE 'ZZUND' THEN
	RETURN SQLERRM;
END
$$;
SELECT num(event_id) AS n, state, is_oldest(num(event_id)) AS in_backlog
FROM outbox_events ORDER BY n;

-- it stands still when one of these could be sent: not what waits for its time,
-- is with the relay, or is behind another one
CREATE FUNCTION moves(command text, VARIADIC alone int[]) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text;
BEGIN
	EXECUTE command;
	DELETE FROM outbox_delivery d USING outbox_event e
	WHERE e.id = d.id AND num(e.event_id) <> ALL (alone);
	DELETE FROM outbox_event WHERE num(event_id) <> ALL (alone);
	DELETE FROM outbox_request WHERE action = 'forget';
	SELECT ok INTO STRICT result FROM outbox_check() WHERE "check" = 'backlog moving';
	RAISE EXCEPTION USING ERRCODE = 'ZZUND', MESSAGE = result;
EXCEPTION WHEN SQLSTATE 'ZZUND' THEN
	RETURN SQLERRM;
END
$$;
SELECT num(event_id) AS n, state, moves('SELECT', num(event_id)) FROM outbox_events ORDER BY n;
SELECT moves('SELECT', 8, 9) AS first_can,
	moves($$UPDATE outbox_delivery SET state = 'dead' WHERE state = 'pending' AND attempts = 1$$, 8, 9) AS first_is_dead,
	moves($$UPDATE outbox_delivery SET key = NULL WHERE state = 'pending'$$, 9) AS without_key,
	moves($$UPDATE outbox_delivery SET topic = 'another', state = 'failed' WHERE state = 'pending' AND attempts = 1$$, 8, 9) AS other_topic,
	moves($$SET LOCAL outbox.key_scope = 'all'; UPDATE outbox_delivery SET topic = 'another', state = 'failed' WHERE state = 'pending' AND attempts = 1$$, 8, 9) AS any_topic,
	moves($$SET LOCAL outbox.key_scope = 'all'; UPDATE outbox_delivery SET topic = 'another', state = 'dead' WHERE state = 'pending' AND attempts = 1$$, 8, 9) AS any_dead,
	moves($$SELECT outbox_discard(eid(4))$$, 4) AS asked,
	moves($$SELECT outbox_discard(eid(4)); UPDATE outbox_request SET requested_at = '2001-01-01'$$, 4) AS not_served;
-- from the time on that it could be sent
SELECT moves($$UPDATE outbox_event SET deliver_after = now()$$, 5) AS due_now,
	moves($$UPDATE outbox_event SET deliver_after = '2001-04-01'$$, 5) AS due_for_long,
	moves($$UPDATE outbox_event SET deliver_after = now()$$, 8) AS row_due_now,
	moves($$UPDATE outbox_delivery SET updated_at = now()$$, 8) AS asked_for_now;

--
-- Retry
--
SELECT n, v.state, after(format('SELECT outbox_retry(%L)', eid(n)), n)
FROM generate_series(1, 15) n JOIN outbox_events v ON v.event_id = eid(n) ORDER BY n;
SELECT after('SELECT outbox_retry(NULL)', 1);
SELECT after(format('SELECT outbox_retry(%L)', eid(99)), 1);

SELECT after('SELECT outbox_retry_dead()', 13);
SELECT after('SELECT outbox_retry_dead(''odd'')', 13);
SELECT after('SELECT outbox_retry_dead(''even'')', 13);
SAVEPOINT s;
SELECT outbox_retry_dead('even') AS even, outbox_retry_dead('no such topic') AS none,
	outbox_retry_dead('odd') AS odd, outbox_retry_dead('odd') AS again;
-- what dies after that was not meant
UPDATE outbox_delivery SET state = 'dead', updated_at = clock_timestamp();
SELECT outbox_retry_dead() AS all_of_them;
SELECT state, count(*) FROM outbox_events GROUP BY state ORDER BY state;
ROLLBACK TO s;

--
-- Discard
--
SELECT n, v.state, replace(after(format('SELECT outbox_discard(%L)', eid(n)), n), session_user, 'SESSION_USER') AS after
FROM generate_series(1, 15) n JOIN outbox_events v ON v.event_id = eid(n) ORDER BY n;
SELECT after('SELECT outbox_discard(NULL)', 1);
SELECT after(format('SELECT outbox_discard(%L)', eid(99)), 1);

-- discarded is settled: not published, and can be retried.  The numbers of the
-- backlog are the relay's: they wait until it has served the requests.
SELECT outbox_discard(eid(4)), outbox_discard(eid(6)), outbox_discard(eid(9)), outbox_discard(eid(13));
SELECT num(event_id) AS n, key, state, attempts, next_attempt_at, published_at
FROM outbox_events WHERE num(event_id) IN (4, 6, 9, 13) ORDER BY n;
SELECT backlog FROM outbox_stats;
SELECT outbox_retry_dead();
SELECT outbox_retry(eid(9));
SELECT state, attempts FROM outbox_events WHERE event_id = eid(9);
SELECT backlog FROM outbox_stats;

--
-- Payloads
--
SELECT * FROM outbox_payload(eid(1));
SAVEPOINT p;
SELECT outbox_publish_bytes('bytes', '\x00ff', 'image/png', metadata => '{"a": "b"}') AS id \gset
SELECT * FROM outbox_payload(:'id');
ROLLBACK TO p;
SELECT outbox_payload(NULL) IS NULL AS no_id;
SELECT after(format('SELECT outbox_payload(%L)', eid(99)), 1);

--
-- outbox_check()
--
SELECT state, pid IS NOT NULL AS has_pid, since <= clock_timestamp() AS since, in_flight
FROM outbox_relays WHERE datname = current_database();
-- what the relay must wait for is shown with whose it is; here it is our own
SAVEPOINT l;
LOCK TABLE outbox_delivery IN SHARE MODE;
SELECT FROM outbox_event FOR UPDATE;
SELECT "check", ok, regexp_replace(detail, 'pid \d+ \(.*?\)(.* since )[^;,]*(.*\()\d+', 'pid ... (...)\1...\2...') AS detail
FROM outbox_check() WHERE "check" = 'tables free' OR "check" LIKE 'lock on %' ORDER BY "check";
ROLLBACK TO l;
-- (whether the endpoint answers depends on the machine)
SELECT "check", CASE WHEN "check" <> 'endpoint answers' THEN ok END AS ok,
	CASE "check"
		WHEN 'endpoint answers' THEN ''
		WHEN 'relay alive' THEN regexp_replace(detail, '^pid \d+, (\w+) since .*', 'pid ..., \1 since ...')
		WHEN 'relay slots' THEN regexp_replace(detail, '^\d+', '...')
		WHEN 'source of events' THEN regexp_replace(detail, '[0-9a-f]{8},', '...,')
		WHEN 'backlog moving' THEN regexp_replace(detail, 'oldest for .*', 'oldest for ...')
		WHEN 'events prunable' THEN regexp_replace(detail, 'about [^o]* of', 'about ... of')
		WHEN 'pruning works' THEN regexp_replace(detail, '\d{4}-[^;,]*', '...', 'g')
		ELSE detail END AS detail
FROM outbox_check();
-- waiting for the next try is no standstill
DELETE FROM outbox_event e USING outbox_events v
WHERE v.event_id = e.event_id AND v.state = 'pending';
SELECT ok, regexp_replace(detail, 'oldest for .*', 'oldest for ...') AS detail
FROM outbox_check() WHERE "check" = 'backlog moving';
TRUNCATE outbox_event, outbox_delivery;
SELECT ok, detail FROM outbox_check() WHERE "check" = 'backlog moving';
SELECT backlog, oldest_unsettled_at, oldest_unsettled_age FROM outbox_stats;

ROLLBACK;
RESET timezone;
RESET datestyle;
DROP EXTENSION outbox;
