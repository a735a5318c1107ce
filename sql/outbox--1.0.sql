/*
 * outbox 1.0
 *
 * Tables (private), functions to publish and to administer, views to
 * look at.  An event row is written once, by the publishing transaction, and
 * never updated; src/README.md tells how the tables work together.
 *
 * Everything is created bare (no OR REPLACE, no IF NOT EXISTS), so that an
 * object that somebody put in the schema beforehand makes this script fail
 * instead of becoming part of the extension.
 */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION outbox" to load this file. \quit

--
-- Tables
-- They are heaps, whatever the default is: the relay reads some by their indexes,
-- and finds events by the transactions that wrote them.
--
-- What an event has to be is checked by the trigger that every way in passes,
-- and again when it is read.  CHECK constraints would say it once more, and be
-- compiled by every INSERT: that takes longer than the rest of outbox_publish().
--
-- Text that is compared or indexed has the collation "C": the order of any other
-- may change under an index with the libraries of the operating system.
--

-- Of no column: TRUNCATE ... RESTART IDENTITY leaves it alone, so that no id is
-- used twice.  What is NULL when the trigger sees it was not given; hence no
-- defaults.
CREATE SEQUENCE @extschema@.outbox_event_id_seq;
CREATE TABLE @extschema@.outbox_event (
	id bigint
		CONSTRAINT outbox_event_pkey PRIMARY KEY,
	xid pg_catalog.xid8 NOT NULL,
	event_id pg_catalog.uuid NOT NULL
		CONSTRAINT outbox_event_event_id_key UNIQUE,
	topic pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	key pg_catalog.text COLLATE pg_catalog."C",
	type pg_catalog.text,
	payload pg_catalog.jsonb,
	body pg_catalog.bytea,
	content_type pg_catalog.text,
	metadata pg_catalog.jsonb,
	traceparent pg_catalog.text,
	deliver_after pg_catalog.timestamptz,
	expires_at pg_catalog.timestamptz,
	created_at pg_catalog.timestamptz NOT NULL,
	published_by pg_catalog.text
) USING heap WITH (
	autovacuum_vacuum_scale_factor = 0.02,
	autovacuum_vacuum_insert_scale_factor = 0.05,
	vacuum_truncate = off,
	toast.vacuum_truncate = off
);
CREATE INDEX outbox_event_xid_id_idx ON @extschema@.outbox_event (xid, id);

COMMENT ON TABLE @extschema@.outbox_event IS
'Every event, written once by the publishing transaction. Private: publish with outbox_publish() or INSERT (topic, payload), read outbox_events.';
COMMENT ON SEQUENCE @extschema@.outbox_event_id_seq IS 'ids of events; a dump carries it';
COMMENT ON COLUMN @extschema@.outbox_event.id IS 'order of publishing within a key; made by a trigger';
COMMENT ON COLUMN @extschema@.outbox_event.xid IS 'top-level transaction that published it; stamped by a trigger';
COMMENT ON COLUMN @extschema@.outbox_event.event_id IS 'the event''s id everywhere outside; made here (UUIDv7) unless given';
COMMENT ON COLUMN @extschema@.outbox_event.topic IS 'where to publish it: 1 to 255 bytes';
COMMENT ON COLUMN @extschema@.outbox_event.key IS 'events of one topic and key (outbox.key_scope: of one key) are delivered in order, one at a time; NULL: no order';
COMMENT ON COLUMN @extschema@.outbox_event.type IS 'CloudEvents type; NULL: the topic';
COMMENT ON COLUMN @extschema@.outbox_event.payload IS 'the event as JSON; either this or body is set';
COMMENT ON COLUMN @extschema@.outbox_event.body IS 'the event as bytes; either this or payload is set';
COMMENT ON COLUMN @extschema@.outbox_event.content_type IS 'media type of body, or of a JSON payload: NULL there means application/json';
COMMENT ON COLUMN @extschema@.outbox_event.metadata IS 'flat object of strings, handed to the publisher';
COMMENT ON COLUMN @extschema@.outbox_event.traceparent IS 'W3C trace context; taken from metadata unless given';
COMMENT ON COLUMN @extschema@.outbox_event.deliver_after IS 'not delivered before this time; NULL: at once';
COMMENT ON COLUMN @extschema@.outbox_event.expires_at IS 'no try begins after this time; NULL: it does not expire';
COMMENT ON COLUMN @extschema@.outbox_event.created_at IS 'when it was published; stamped by a trigger';
COMMENT ON COLUMN @extschema@.outbox_event.published_by IS 'user of the session that published it; stamped by a trigger, never sent; NULL: not known, of an event that was restored';

CREATE TABLE @extschema@.outbox_delivery (
	destination pg_catalog.int4 NOT NULL DEFAULT 0,
	id bigint NOT NULL,
	topic pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
	key pg_catalog.text COLLATE pg_catalog."C",
	state pg_catalog.text COLLATE pg_catalog."C" NOT NULL
		CONSTRAINT outbox_delivery_state_check CHECK (state IN
			('scheduled', 'pending', 'in_progress',
			 'published', 'failed', 'dead', 'discarded', 'expired')),
	attempts pg_catalog.int4 NOT NULL DEFAULT 0,
	crashes pg_catalog.int4 NOT NULL DEFAULT 0,
	next_attempt_at pg_catalog.timestamptz,
	last_attempt_at pg_catalog.timestamptz,
	last_status pg_catalog.int4,
	last_error pg_catalog.text,
	updated_at pg_catalog.timestamptz NOT NULL
		DEFAULT pg_catalog.clock_timestamp(),
	renewed_at pg_catalog.timestamptz,
	CONSTRAINT outbox_delivery_pkey PRIMARY KEY (destination, id)
) USING heap WITH (
	fillfactor = 70,
	autovacuum_vacuum_scale_factor = 0.02,
	vacuum_truncate = off,
	toast.vacuum_truncate = off
);
-- The relay reads these by itself, without a plan: src/store/row_scan.c.
CREATE INDEX outbox_delivery_due_idx
	ON @extschema@.outbox_delivery (destination, next_attempt_at, id)
	WHERE next_attempt_at IS NOT NULL;
CREATE INDEX outbox_delivery_key_idx
	ON @extschema@.outbox_delivery (destination, topic, key, id)
	WHERE key IS NOT NULL AND state IN ('pending', 'in_progress', 'failed');
CREATE INDEX outbox_delivery_all_key_idx	-- outbox.key_scope = all
	ON @extschema@.outbox_delivery (destination, key, id)
	WHERE key IS NOT NULL AND state IN ('pending', 'in_progress', 'failed');
CREATE INDEX outbox_delivery_topic_idx
	ON @extschema@.outbox_delivery (destination, topic, id)
	WHERE state = 'pending';
CREATE INDEX outbox_delivery_dead_idx
	ON @extschema@.outbox_delivery (destination, topic, key, id)
	WHERE state = 'dead';
CREATE INDEX outbox_delivery_all_dead_idx
	ON @extschema@.outbox_delivery (destination, key, id)
	WHERE key IS NOT NULL AND state = 'dead';
CREATE INDEX outbox_delivery_state_idx
	ON @extschema@.outbox_delivery (destination, state, updated_at, id)
	WHERE state <> 'pending';

COMMENT ON TABLE @extschema@.outbox_delivery IS
'Only the events that did not go through at the first try, are scheduled, wait behind a failed event of their key, or are dead. Private: read outbox_events.';
COMMENT ON COLUMN @extschema@.outbox_delivery.destination IS 'id of the destination that it says this of';
COMMENT ON COLUMN @extschema@.outbox_delivery.id IS 'id of the event';
COMMENT ON COLUMN @extschema@.outbox_delivery.topic IS 'topic of the event';
COMMENT ON COLUMN @extschema@.outbox_delivery.key IS 'key of the event';
COMMENT ON COLUMN @extschema@.outbox_delivery.state IS 'scheduled, pending (to be sent when it is its turn), in_progress (the relay has it), published, failed (to be retried), dead, discarded, expired (not delivered by expires_at, or within outbox.abandon_after)';
COMMENT ON COLUMN @extschema@.outbox_delivery.attempts IS 'tries that count against outbox.max_retry_times';
COMMENT ON COLUMN @extschema@.outbox_delivery.crashes IS 'how often the relay crashed with this event in flight';
COMMENT ON COLUMN @extschema@.outbox_delivery.next_attempt_at IS 'when it is due, to be tried or to expire; NULL unless scheduled or failed, or handed back by a relay that stopped';
COMMENT ON COLUMN @extschema@.outbox_delivery.last_attempt_at IS 'when the last try began; NULL: there was none';
COMMENT ON COLUMN @extschema@.outbox_delivery.last_status IS 'status code of the last answer; NULL: there was none';
COMMENT ON COLUMN @extschema@.outbox_delivery.last_error IS 'why the last try failed, or why it is dead or expired';
COMMENT ON COLUMN @extschema@.outbox_delivery.updated_at IS 'when the state changed last';
COMMENT ON COLUMN @extschema@.outbox_delivery.renewed_at IS 'when somebody had it sent again: outbox.abandon_after counts from then; NULL: nobody had';

CREATE TABLE @extschema@.outbox_request (
	destination pg_catalog.int4 NOT NULL DEFAULT 0,
	id bigint GENERATED BY DEFAULT AS IDENTITY
		CONSTRAINT outbox_request_pkey PRIMARY KEY,
	action pg_catalog.text NOT NULL
		CONSTRAINT outbox_request_action_check CHECK (action IN
			('retry', 'discard', 'retry_dead', 'forget', 'replay')),
	event bigint,
	newest bigint,
	topic pg_catalog.text COLLATE pg_catalog."C",
	since pg_catalog.timestamptz,
	requested_by pg_catalog.text NOT NULL DEFAULT session_user,
	requested_at pg_catalog.timestamptz NOT NULL
		DEFAULT pg_catalog.clock_timestamp()
) USING heap WITH (
	autovacuum_vacuum_scale_factor = 0.05,
	vacuum_truncate = off
);
CREATE INDEX outbox_request_event_idx ON @extschema@.outbox_request (event, id);
CREATE INDEX outbox_request_replay_idx
	ON @extschema@.outbox_request (destination)
	WHERE action = 'replay';

COMMENT ON TABLE @extschema@.outbox_request IS
'What people ask of the relay: it serves the rows in their order and deletes them. Nobody''s transaction locks a row of the relay''s. Private: use outbox_retry(), outbox_discard(), outbox_retry_dead().';
COMMENT ON SEQUENCE @extschema@.outbox_request_id_seq IS 'order of the requests; a dump carries it';
COMMENT ON COLUMN @extschema@.outbox_request.destination IS 'id of the destination whose relay is asked';
COMMENT ON COLUMN @extschema@.outbox_request.id IS 'order of the requests';
COMMENT ON COLUMN @extschema@.outbox_request.action IS 'retry or discard an event, retry_dead: retry every dead event of a topic, forget: the event was deleted, replay: send again what is settled';
COMMENT ON COLUMN @extschema@.outbox_request.event IS 'id of the event; of replay, up to where that is done; NULL for retry_dead';
COMMENT ON COLUMN @extschema@.outbox_request.newest IS 'of replay: id of the last event that is meant';
COMMENT ON COLUMN @extschema@.outbox_request.topic IS 'topic of retry_dead, pattern of topics of replay; NULL: every topic';
COMMENT ON COLUMN @extschema@.outbox_request.since IS 'of replay: events created since; NULL: all';
COMMENT ON COLUMN @extschema@.outbox_request.requested_by IS 'the session''s user';
COMMENT ON COLUMN @extschema@.outbox_request.requested_at IS 'when; what dies later is not meant';

CREATE TABLE @extschema@.outbox_progress (
	destination pg_catalog.int4 NOT NULL DEFAULT 0,
	id bigint GENERATED BY DEFAULT AS IDENTITY,
	lo pg_catalog.pg_snapshot NOT NULL,
	hi pg_catalog.pg_snapshot NOT NULL,
	last_id bigint NOT NULL,
	largest_read bigint NOT NULL DEFAULT 0,
	clean pg_catalog.bool NOT NULL,
	at pg_catalog.timestamptz NOT NULL
		DEFAULT pg_catalog.clock_timestamp(),
	open pg_catalog.int8[],
	published bigint NOT NULL DEFAULT 0,
	failed_attempts bigint NOT NULL DEFAULT 0,
	died bigint NOT NULL DEFAULT 0,
	expired bigint NOT NULL DEFAULT 0,
	duplicates_suppressed bigint NOT NULL DEFAULT 0,
	pruned bigint NOT NULL DEFAULT 0,
	latency_us bigint NOT NULL DEFAULT 0,
	latency pg_catalog.int8[],
	CONSTRAINT outbox_progress_pkey PRIMARY KEY (destination, id)
) USING heap WITH (
	autovacuum_vacuum_scale_factor = 0.05,
	vacuum_truncate = off
);
CREATE INDEX outbox_progress_at_idx ON @extschema@.outbox_progress (destination, at);

COMMENT ON TABLE @extschema@.outbox_progress IS
'How far a relay has come: one row a checkpoint, the newest of a destination counts. Settled is every event visible in lo, and every event visible in hi with an id up to last_id, but for those that are open. Private.';
COMMENT ON SEQUENCE @extschema@.outbox_progress_id_seq IS 'order of the checkpoints';
COMMENT ON COLUMN @extschema@.outbox_progress.destination IS 'id of the destination whose relay has come so far';
COMMENT ON COLUMN @extschema@.outbox_progress.id IS 'order of the checkpoints';
COMMENT ON COLUMN @extschema@.outbox_progress.lo IS 'snapshot in which every visible event is settled, unless it is open';
COMMENT ON COLUMN @extschema@.outbox_progress.hi IS 'snapshot that bounds the window in work';
COMMENT ON COLUMN @extschema@.outbox_progress.last_id IS 'events of the window up to this id are settled, unless they are open';
COMMENT ON COLUMN @extschema@.outbox_progress.largest_read IS 'the largest id that was ever read: on a server of another history, what is above is new';
COMMENT ON COLUMN @extschema@.outbox_progress.clean IS 'written when the relay stopped in order, with nothing in flight that is not noted';
COMMENT ON COLUMN @extschema@.outbox_progress.at IS 'when; -infinity: where the destination begins';
COMMENT ON COLUMN @extschema@.outbox_progress.open IS 'ids of the events that take longer than what is behind them; NULL: none';
COMMENT ON COLUMN @extschema@.outbox_progress.published IS 'events that the destination has taken since it was made, as all that follows';
COMMENT ON COLUMN @extschema@.outbox_progress.failed_attempts IS 'tries that failed';
COMMENT ON COLUMN @extschema@.outbox_progress.died IS 'events that became dead';
COMMENT ON COLUMN @extschema@.outbox_progress.expired IS 'events that expired or were given up';
COMMENT ON COLUMN @extschema@.outbox_progress.duplicates_suppressed IS 'publishes of events that were there already; counted for default';
COMMENT ON COLUMN @extschema@.outbox_progress.pruned IS 'events that were deleted since nobody needs them; counted for whichever relay does it';
COMMENT ON COLUMN @extschema@.outbox_progress.latency_us IS 'sum of the latencies of what was published, in microseconds';
COMMENT ON COLUMN @extschema@.outbox_progress.latency IS 'how many of these were within each of outbox_latency_bounds(), and not within the one before; NULL: none';

-- There is always a newest row; at first nothing is settled.  The sequence is
-- left alone: with wal_level = minimal, a crash would undo its first values.
INSERT INTO @extschema@.outbox_progress (id, lo, hi, last_id, largest_read, clean, at)
VALUES (0, '1:1:', '1:1:', 0, 0, true, '-infinity');

-- "default" has the id 0, and no row as long as nobody has changed it.
CREATE SEQUENCE @extschema@.outbox_destination_id_seq AS pg_catalog.int4;
CREATE TABLE @extschema@.outbox_destination (
	id pg_catalog.int4
		CONSTRAINT outbox_destination_pkey PRIMARY KEY,
	name pg_catalog.text COLLATE pg_catalog."C"
		CONSTRAINT outbox_destination_name_key UNIQUE,
	settings pg_catalog.jsonb NOT NULL DEFAULT '{}',
	paused pg_catalog.bool NOT NULL DEFAULT false
) USING heap;
COMMENT ON TABLE @extschema@.outbox_destination IS
'Where events go, each with a relay of its own. Private: use outbox_add_destination() and the like, read outbox_destinations.';
COMMENT ON SEQUENCE @extschema@.outbox_destination_id_seq IS 'ids of destinations, none of which is used twice; a dump carries it';
COMMENT ON COLUMN @extschema@.outbox_destination.id IS 'its id in other tables; 0: default';
COMMENT ON COLUMN @extschema@.outbox_destination.name IS 'its name; NULL: it has been dropped, and its rows are still to be deleted';
COMMENT ON COLUMN @extschema@.outbox_destination.settings IS 'settings that are others for it than in postgresql.conf: values by name';
COMMENT ON COLUMN @extschema@.outbox_destination.paused IS 'nothing is sent to it';

CREATE TABLE @extschema@.outbox_filter (
	destination pg_catalog.int4 NOT NULL,
	version pg_catalog.int4 NOT NULL,
	topics pg_catalog.text[] NOT NULL,
	since pg_catalog.pg_snapshot,
	CONSTRAINT outbox_filter_pkey PRIMARY KEY (destination, version)
) USING heap;
COMMENT ON TABLE @extschema@.outbox_filter IS
'Which topics a destination takes: the newest version whose snapshot does not see the event counts. Without any, default takes all. Private: use outbox_alter_destination().';
COMMENT ON COLUMN @extschema@.outbox_filter.destination IS 'id of the destination';
COMMENT ON COLUMN @extschema@.outbox_filter.version IS 'order of the versions';
COMMENT ON COLUMN @extschema@.outbox_filter.topics IS 'patterns of topics';
COMMENT ON COLUMN @extschema@.outbox_filter.since IS 'what is visible in this snapshot belongs to earlier versions; NULL: the relay is to begin with this one';

-- Without an index, since rows are written past the executor.
CREATE TABLE @extschema@.outbox_restore (
	at pg_catalog.timestamptz NOT NULL,
	events bigint NOT NULL
) USING heap WITH (
	vacuum_truncate = off
);
-- or no row could be deleted where a publication has all tables
ALTER TABLE @extschema@.outbox_restore REPLICA IDENTITY FULL;
COMMENT ON TABLE @extschema@.outbox_restore IS
'Transactions that restored events, written by them when they commit: for outbox_check(). Private.';
COMMENT ON COLUMN @extschema@.outbox_restore.at IS 'when';
COMMENT ON COLUMN @extschema@.outbox_restore.events IS 'how many';

-- What is inserted takes the place of what is there: a dump's row that of CREATE
-- EXTENSION.  NULL becomes a new source.
CREATE TABLE @extschema@.outbox_source (
	source pg_catalog.text NOT NULL
) USING heap;
CREATE UNIQUE INDEX outbox_source_one_idx ON @extschema@.outbox_source ((true));
ALTER TABLE @extschema@.outbox_source REPLICA IDENTITY FULL;
COMMENT ON TABLE @extschema@.outbox_source IS
'The CloudEvents source of this database''s events, unless outbox.source is set: one row, made by CREATE EXTENSION and kept by dumps and copies. INSERT ... DEFAULT VALUES makes another one. Private.';
COMMENT ON COLUMN @extschema@.outbox_source.source IS '/postgresql/, the database''s name as it was then, and 8 random digits';

-- A dump carries what is not delivered, dead events included.  (pg_dump lets no view
-- be used here.)
SELECT pg_catalog.pg_extension_config_dump('@extschema@.outbox_event', $$
WHERE EXISTS (SELECT 1 FROM @extschema@.outbox_destination_rows() n
			  LEFT JOIN LATERAL (SELECT c.lo, c.hi, c.last_id, c.open
								 FROM @extschema@.outbox_progress c
								 WHERE c.destination = n.id
								 ORDER BY c.id DESC LIMIT 1) p ON true
			  LEFT JOIN @extschema@.outbox_delivery d
				  ON d.destination = n.id AND d.id = outbox_event.id
			  WHERE CASE WHEN d.id IS NOT NULL
					THEN d.state NOT IN ('published', 'discarded', 'expired')
					ELSE ((pg_catalog.pg_visible_in_snapshot(outbox_event.xid, p.lo)
						   OR (outbox_event.id <= p.last_id
							   AND pg_catalog.pg_visible_in_snapshot(outbox_event.xid, p.hi)))
						  AND (outbox_event.id = ANY (p.open)) IS NOT TRUE) IS NOT TRUE
						 AND @extschema@.outbox_takes(n.id, outbox_event.xid, outbox_event.topic)
					END)
$$);
SELECT pg_catalog.pg_extension_config_dump('@extschema@.outbox_event_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.outbox_delivery',
	$$WHERE state NOT IN ('published', 'discarded', 'expired')$$);
SELECT pg_catalog.pg_extension_config_dump('@extschema@.outbox_destination',
	'WHERE name IS NOT NULL');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.outbox_destination_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.outbox_filter', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.outbox_request', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.outbox_request_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.outbox_source', '');

--
-- Publishing
--

CREATE FUNCTION @extschema@.outbox_event_insert() RETURNS pg_catalog.trigger
AS 'MODULE_PATHNAME' LANGUAGE C;
COMMENT ON FUNCTION @extschema@.outbox_event_insert() IS
'Checks a new event, stamps its transaction, makes its ids, and wakes the relay at commit. A row that replication applies is dropped.';

CREATE TRIGGER outbox_event_insert BEFORE INSERT ON @extschema@.outbox_event
	FOR EACH ROW EXECUTE FUNCTION @extschema@.outbox_event_insert();
ALTER TABLE @extschema@.outbox_event ENABLE ALWAYS TRIGGER outbox_event_insert;
COMMENT ON TRIGGER outbox_event_insert ON @extschema@.outbox_event IS
'every way in passes here: outbox_publish(), INSERT, COPY, a restored dump';

CREATE FUNCTION @extschema@.outbox_event_update() RETURNS pg_catalog.trigger
AS 'MODULE_PATHNAME' LANGUAGE C;
COMMENT ON FUNCTION @extschema@.outbox_event_update() IS
'Events cannot be changed, but by the scripts of this extension.';

CREATE TRIGGER outbox_event_update BEFORE UPDATE ON @extschema@.outbox_event
	FOR EACH ROW EXECUTE FUNCTION @extschema@.outbox_event_update();
ALTER TABLE @extschema@.outbox_event ENABLE ALWAYS TRIGGER outbox_event_update;
COMMENT ON TRIGGER outbox_event_update ON @extschema@.outbox_event IS
'the relay may have the event in memory, or have sent it, as it was';

CREATE FUNCTION @extschema@.outbox_event_delete() RETURNS pg_catalog.trigger
AS 'MODULE_PATHNAME' LANGUAGE C SECURITY DEFINER;
COMMENT ON FUNCTION @extschema@.outbox_event_delete() IS
'An event that is deleted by hand takes along what outbox_delivery says of it, and the relay forgets it.';

CREATE TRIGGER outbox_event_delete AFTER DELETE ON @extschema@.outbox_event
	FOR EACH ROW EXECUTE FUNCTION @extschema@.outbox_event_delete();
CREATE TRIGGER outbox_event_truncate AFTER TRUNCATE ON @extschema@.outbox_event
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.outbox_event_delete();
ALTER TABLE @extschema@.outbox_event ENABLE ALWAYS TRIGGER outbox_event_delete;
ALTER TABLE @extschema@.outbox_event ENABLE ALWAYS TRIGGER outbox_event_truncate;
COMMENT ON TRIGGER outbox_event_delete ON @extschema@.outbox_event IS
'a row of outbox_delivery without an event would block its key for ever';
COMMENT ON TRIGGER outbox_event_truncate ON @extschema@.outbox_event IS
'a row of outbox_delivery without an event would block its key for ever';

CREATE FUNCTION @extschema@.outbox_drop_replicated() RETURNS pg_catalog.trigger
AS 'MODULE_PATHNAME' LANGUAGE C;
COMMENT ON FUNCTION @extschema@.outbox_drop_replicated() IS
'Drops what replication applies (session_replication_role = replica): what another database''s relay has done says nothing about this one''s events. New rows of a restore are taken.';

CREATE TRIGGER outbox_drop_replicated
	BEFORE UPDATE OR DELETE ON @extschema@.outbox_event
	FOR EACH ROW EXECUTE FUNCTION @extschema@.outbox_drop_replicated();
ALTER TABLE @extschema@.outbox_event ENABLE ALWAYS TRIGGER outbox_drop_replicated;
CREATE TRIGGER outbox_drop_replicated
	BEFORE INSERT OR UPDATE OR DELETE ON @extschema@.outbox_delivery
	FOR EACH ROW EXECUTE FUNCTION @extschema@.outbox_drop_replicated();
ALTER TABLE @extschema@.outbox_delivery ENABLE ALWAYS TRIGGER outbox_drop_replicated;
CREATE TRIGGER outbox_drop_replicated
	BEFORE INSERT OR UPDATE OR DELETE ON @extschema@.outbox_request
	FOR EACH ROW EXECUTE FUNCTION @extschema@.outbox_drop_replicated();
ALTER TABLE @extschema@.outbox_request ENABLE ALWAYS TRIGGER outbox_drop_replicated;
CREATE TRIGGER outbox_drop_replicated
	BEFORE INSERT OR UPDATE OR DELETE ON @extschema@.outbox_progress
	FOR EACH ROW EXECUTE FUNCTION @extschema@.outbox_drop_replicated();
ALTER TABLE @extschema@.outbox_progress ENABLE ALWAYS TRIGGER outbox_drop_replicated;
CREATE TRIGGER outbox_drop_replicated
	BEFORE INSERT OR UPDATE OR DELETE ON @extschema@.outbox_restore
	FOR EACH ROW EXECUTE FUNCTION @extschema@.outbox_drop_replicated();
ALTER TABLE @extschema@.outbox_restore ENABLE ALWAYS TRIGGER outbox_drop_replicated;
CREATE TRIGGER outbox_drop_replicated
	BEFORE INSERT OR UPDATE OR DELETE ON @extschema@.outbox_destination
	FOR EACH ROW EXECUTE FUNCTION @extschema@.outbox_drop_replicated();
ALTER TABLE @extschema@.outbox_destination ENABLE ALWAYS TRIGGER outbox_drop_replicated;
CREATE TRIGGER outbox_drop_replicated
	BEFORE INSERT OR UPDATE OR DELETE ON @extschema@.outbox_filter
	FOR EACH ROW EXECUTE FUNCTION @extschema@.outbox_drop_replicated();
ALTER TABLE @extschema@.outbox_filter ENABLE ALWAYS TRIGGER outbox_drop_replicated;
CREATE TRIGGER outbox_drop_replicated
	BEFORE INSERT OR UPDATE OR DELETE ON @extschema@.outbox_source
	FOR EACH ROW EXECUTE FUNCTION @extschema@.outbox_drop_replicated();
ALTER TABLE @extschema@.outbox_source ENABLE ALWAYS TRIGGER outbox_drop_replicated;
COMMENT ON TRIGGER outbox_drop_replicated ON @extschema@.outbox_event IS
'logical replication must not delete this database''s events';
COMMENT ON TRIGGER outbox_drop_replicated ON @extschema@.outbox_delivery IS
'logical replication must not change the state of this database''s events';
COMMENT ON TRIGGER outbox_drop_replicated ON @extschema@.outbox_request IS
'what was asked of another database''s relay is not asked of this one';
COMMENT ON TRIGGER outbox_drop_replicated ON @extschema@.outbox_destination IS
'another database sends to its own destinations';
COMMENT ON TRIGGER outbox_drop_replicated ON @extschema@.outbox_filter IS
'another database sends to its own destinations';
COMMENT ON TRIGGER outbox_drop_replicated ON @extschema@.outbox_restore IS
'what was restored into another database is not here';
COMMENT ON TRIGGER outbox_drop_replicated ON @extschema@.outbox_progress IS
'logical replication must not move this database''s position';
COMMENT ON TRIGGER outbox_drop_replicated ON @extschema@.outbox_source IS
'another database''s events have another source';

CREATE FUNCTION @extschema@.outbox_source_insert() RETURNS pg_catalog.trigger
AS 'MODULE_PATHNAME' LANGUAGE C SECURITY DEFINER;
COMMENT ON FUNCTION @extschema@.outbox_source_insert() IS
'Puts a new row of outbox_source in the place of the one that is there, makes a source if none is given, and tells the relays.';

CREATE TRIGGER outbox_source_insert BEFORE INSERT ON @extschema@.outbox_source
	FOR EACH ROW EXECUTE FUNCTION @extschema@.outbox_source_insert();
ALTER TABLE @extschema@.outbox_source ENABLE ALWAYS TRIGGER outbox_source_insert;
COMMENT ON TRIGGER outbox_source_insert ON @extschema@.outbox_source IS
'a restored dump replaces what CREATE EXTENSION has made';
INSERT INTO @extschema@.outbox_source DEFAULT VALUES;

CREATE FUNCTION @extschema@.outbox_publish(topic pg_catalog.text,
	payload pg_catalog.jsonb,
	key pg_catalog.text DEFAULT NULL,
	type pg_catalog.text DEFAULT NULL,
	event_id pg_catalog.uuid DEFAULT NULL,
	metadata pg_catalog.jsonb DEFAULT NULL,
	deliver_after pg_catalog.timestamptz DEFAULT NULL,
	expires_at pg_catalog.timestamptz DEFAULT NULL)
RETURNS pg_catalog.uuid
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE SECURITY DEFINER;
COMMENT ON FUNCTION @extschema@.outbox_publish(pg_catalog.text, pg_catalog.jsonb, pg_catalog.text, pg_catalog.text, pg_catalog.uuid, pg_catalog.jsonb, pg_catalog.timestamptz, pg_catalog.timestamptz) IS
'Publishes a JSON event in the current transaction and returns its id. An event_id that is there already is not published again. Errors: 22023 bad argument, 22004 NULL argument, 23505 event_id of another event, 54000 payload above outbox.max_payload_size, 25006 on a standby, 55000 a trigger keeps the row out of the table.';

CREATE FUNCTION @extschema@.outbox_publish_bytes(topic pg_catalog.text,
	payload pg_catalog.bytea,
	content_type pg_catalog.text,
	key pg_catalog.text DEFAULT NULL,
	type pg_catalog.text DEFAULT NULL,
	event_id pg_catalog.uuid DEFAULT NULL,
	metadata pg_catalog.jsonb DEFAULT NULL,
	deliver_after pg_catalog.timestamptz DEFAULT NULL,
	expires_at pg_catalog.timestamptz DEFAULT NULL)
RETURNS pg_catalog.uuid
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE SECURITY DEFINER;
COMMENT ON FUNCTION @extschema@.outbox_publish_bytes(pg_catalog.text, pg_catalog.bytea, pg_catalog.text, pg_catalog.text, pg_catalog.text, pg_catalog.uuid, pg_catalog.jsonb, pg_catalog.timestamptz, pg_catalog.timestamptz) IS
'Publishes bytes of the given content type in the current transaction and returns the event''s id. Otherwise as outbox_publish().';

CREATE FUNCTION @extschema@.outbox_capture() RETURNS pg_catalog.trigger
AS 'MODULE_PATHNAME' LANGUAGE C;
COMMENT ON FUNCTION @extschema@.outbox_capture() IS
'Publishes what becomes of a table''s rows: an AFTER trigger for INSERT, UPDATE and DELETE of each row, and for TRUNCATE, with the arguments topic and, as wanted, ''key=column'', ''columns=column, ...'' and ''unchanged=skip''. Errors: 39P01 another kind of trigger, 22023 bad argument, 42703 no such column, 54000 payload above outbox.max_payload_size.';

--
-- Administration
--

CREATE FUNCTION @extschema@.outbox_retry(event_id pg_catalog.uuid,
	destination pg_catalog.text DEFAULT NULL)
RETURNS pg_catalog.void
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.outbox_retry(pg_catalog.uuid, pg_catalog.text) IS
'Sends a failed, dead, discarded or scheduled event again, now, with fresh attempts: to this destination, or (NULL) wherever it is one of these. Errors: P0002 no such event, 42704 no such destination, 55000 an event in another state.';

CREATE FUNCTION @extschema@.outbox_retry_dead(topic pg_catalog.text DEFAULT NULL,
	destination pg_catalog.text DEFAULT NULL)
RETURNS pg_catalog.int8
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.outbox_retry_dead(pg_catalog.text, pg_catalog.text) IS
'Sends every dead event of a topic (NULL: of all topics) again, now, with fresh attempts, to this destination (NULL: to all); returns how many. Errors: 42704 no such destination.';

CREATE FUNCTION @extschema@.outbox_discard(event_id pg_catalog.uuid,
	destination pg_catalog.text DEFAULT NULL)
RETURNS pg_catalog.void
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.outbox_discard(pg_catalog.uuid, pg_catalog.text) IS
'Gives up an event that is not yet published, for this destination, or (NULL) wherever it is not: state discarded; the events of its key behind it go on. A request that is under way may still arrive. Errors: P0002 no such event, 42704 no such destination, 55000 already published, discarded or expired.';

CREATE FUNCTION @extschema@.outbox_payload(event_id pg_catalog.uuid,
	OUT payload pg_catalog.jsonb, OUT body pg_catalog.bytea,
	OUT content_type pg_catalog.text, OUT metadata pg_catalog.jsonb)
RETURNS pg_catalog.record
LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	SELECT e.payload, e.body, e.content_type, e.metadata
	INTO payload, body, content_type, metadata
	FROM @extschema@.outbox_event e WHERE e.event_id = $1;
	IF NOT FOUND THEN
		RAISE 'event "%" does not exist', $1 USING
			ERRCODE = 'no_data_found',
			HINT = 'It may have been pruned; the view outbox_events has the events that are kept.';
	END IF;
END
$$;
COMMENT ON FUNCTION @extschema@.outbox_payload(pg_catalog.uuid) IS
'What is in an event: payload (JSON) or body (bytes), the media type that it was published with, and metadata. For who administers, to judge a dead event: granted to nobody. Errors: P0002 no such event.';

CREATE FUNCTION @extschema@.outbox_start_relay()
RETURNS pg_catalog.void
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.outbox_start_relay() IS
'Asks the launcher, when this transaction commits, to start this database''s relay now. CREATE EXTENSION does so by itself.';

SELECT @extschema@.outbox_start_relay();

--
-- Destinations.  To add, alter or drop one takes the rights of the extension's owner.
--

CREATE FUNCTION @extschema@.outbox_add_destination(name pg_catalog.text,
	topics pg_catalog.text[] DEFAULT '{#}',
	settings pg_catalog.jsonb DEFAULT '{}',
	from_start pg_catalog.bool DEFAULT false)
RETURNS pg_catalog.void
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.outbox_add_destination(pg_catalog.text, pg_catalog.text[], pg_catalog.jsonb, pg_catalog.bool) IS
'Sends events of topics that the patterns match to another destination, too, with settings of its own (by their names without "outbox."): those of this transaction and later ones, or with from_start all that are kept. Takes effect at commit. Errors: 42501 without the rights of the extension''s owner, 42710 a name that is there, 42602 bad name, 22023 bad pattern or value, 42704 no such setting.';

CREATE FUNCTION @extschema@.outbox_alter_destination(name pg_catalog.text,
	topics pg_catalog.text[] DEFAULT NULL,
	settings pg_catalog.jsonb DEFAULT NULL)
RETURNS pg_catalog.void
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.outbox_alter_destination(pg_catalog.text, pg_catalog.text[], pg_catalog.jsonb) IS
'Gives a destination other topics, for what its relay reads from then on, or other settings: those that are given, null takes one away. NULL: as they are. Takes effect at commit. Errors: as outbox_add_destination(); 42704 no such destination, 0A000 settings of default.';

CREATE FUNCTION @extschema@.outbox_drop_destination(name pg_catalog.text)
RETURNS pg_catalog.void
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.outbox_drop_destination(pg_catalog.text) IS
'Takes a destination away: what was not delivered to it no longer is. Takes effect at commit. Errors: 42501 without the rights of the extension''s owner, 42704 no such destination, 0A000 default.';

CREATE FUNCTION @extschema@.outbox_pause(destination pg_catalog.text)
RETURNS pg_catalog.void
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.outbox_pause(pg_catalog.text) IS
'Sends nothing to a destination, and reads nothing for it, from the commit on until outbox_resume(); what is in flight is answered. Errors: 42704 no such destination.';

CREATE FUNCTION @extschema@.outbox_resume(destination pg_catalog.text)
RETURNS pg_catalog.void
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.outbox_resume(pg_catalog.text) IS
'Ends what outbox_pause() began. Errors: 42704 no such destination.';

CREATE FUNCTION @extschema@.outbox_replay(destination pg_catalog.text,
	topic pg_catalog.text DEFAULT NULL,
	since pg_catalog.timestamptz DEFAULT NULL)
RETURNS pg_catalog.int8
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.outbox_replay(pg_catalog.text, pg_catalog.text, pg_catalog.timestamptz) IS
'Sends what is kept and settled for a destination to it again, with the same ids and fresh attempts: events that it takes now, of topics that the pattern matches (NULL: of all), published since then (NULL: all that are kept). Returns how many. Later events of their keys wait behind them. Errors: 42704 no such destination, 22023 bad pattern.';

--
-- Monitoring
--

CREATE FUNCTION @extschema@.outbox_library(OUT preloaded pg_catalog.bool,
	OUT version pg_catalog.text, OUT serves pg_catalog.bool)
AS 'MODULE_PATHNAME' LANGUAGE C STABLE PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.outbox_library() IS
'The loaded library: is it in shared_preload_libraries, its version, and does it work with the version of the extension in this database.';

CREATE FUNCTION @extschema@.outbox_relay_status(OUT datid pg_catalog.oid,
	OUT pid pg_catalog.int4, OUT state pg_catalog.text,
	OUT since pg_catalog.timestamptz, OUT in_flight pg_catalog.int4,
	OUT topics_down pg_catalog.int4, OUT topics_held pg_catalog.int4,
	OUT last_error pg_catalog.text, OUT last_error_at pg_catalog.timestamptz,
	OUT configured pg_catalog.text, OUT endpoint pg_catalog.text,
	OUT started_at pg_catalog.timestamptz, OUT pruning pg_catalog.text,
	OUT next_prune pg_catalog.timestamptz,
	OUT files pg_catalog.text, OUT clock pg_catalog.text,
	OUT destination_id pg_catalog.int4, OUT destination pg_catalog.text,
	OUT publisher pg_catalog.text, OUT source pg_catalog.text)
RETURNS SETOF pg_catalog.record
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION @extschema@.outbox_relay_status() IS
'What the relays of this cluster report; the views outbox_relays, outbox_stats and outbox_topics show it.';

CREATE FUNCTION @extschema@.outbox_latency_bounds() RETURNS pg_catalog.float8[]
AS 'MODULE_PATHNAME' LANGUAGE C STABLE PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.outbox_latency_bounds() IS
'Upper bounds in seconds of the classes that latencies are counted by, the last one Infinity. Private: part of outbox_latency.';

CREATE FUNCTION @extschema@.outbox_topic_status(OUT topic pg_catalog.text,
	OUT state pg_catalog.text, OUT since pg_catalog.timestamptz,
	OUT in_flight pg_catalog.int4, OUT last_error pg_catalog.text,
	OUT last_status pg_catalog.int4, OUT next_try pg_catalog.timestamptz,
	OUT published pg_catalog.int8, OUT destination_id pg_catalog.int4)
RETURNS SETOF pg_catalog.record
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 64;
COMMENT ON FUNCTION @extschema@.outbox_topic_status() IS
'What the relays of this database report of topics that are down or held, each of at most 64 of them; the view outbox_topics shows it.';

CREATE VIEW @extschema@.outbox_relays AS
	SELECT s.datid, d.datname, s.pid, s.state, s.since, s.in_flight,
		   s.topics_down, s.topics_held, s.last_error, s.last_error_at,
		   s.destination
	FROM @extschema@.outbox_relay_status() s
	JOIN pg_catalog.pg_database d ON d.oid OPERATOR(pg_catalog.=) s.datid;
COMMENT ON VIEW @extschema@.outbox_relays IS
'One row for each destination of each database of this cluster that has the extension: its relay, what it does (starting, idle, relaying, endpoint down, pausing, paused, stopped, disabled), how many topics are down or held, and its last error.';

CREATE FUNCTION @extschema@.outbox_topic_matches(topic pg_catalog.text, patterns pg_catalog.text[])
RETURNS pg_catalog.bool
AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.outbox_topic_matches(pg_catalog.text, pg_catalog.text[]) IS
'Does one of the patterns match the topic, and none of those with ! in front? Words are separated by dots; * is any one word, # any number of words.';

-- A function, so that the planner knows that there are few.
CREATE FUNCTION @extschema@.outbox_destination_rows(OUT id pg_catalog.int4,
	OUT name pg_catalog.text, OUT settings pg_catalog.jsonb, OUT paused pg_catalog.bool)
RETURNS SETOF pg_catalog.record
LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER ROWS 2 COST 10
AS $$
SELECT d.id, d.name, d.settings, d.paused
FROM @extschema@.outbox_destination d
WHERE d.name IS NOT NULL
UNION ALL
SELECT 0, 'default', '{}', false
WHERE NOT EXISTS (SELECT 1 FROM @extschema@.outbox_destination d
				  WHERE d.id OPERATOR(pg_catalog.=) 0)
$$;
COMMENT ON FUNCTION @extschema@.outbox_destination_rows() IS
'The destinations that there are, "default" in any case. Private: part of the views.';

CREATE VIEW @extschema@.outbox_position AS
	SELECT n.id AS destination, n.name, n.settings, n.paused,
		   COALESCE(p.lo, '1:1:') AS lo, COALESCE(p.hi, '1:1:') AS hi,
		   COALESCE(p.last_id, 0) AS last_id, p.open, p.at,
		   p.published, p.failed_attempts, p.died, p.expired, p.duplicates_suppressed,
		   p.pruned, p.latency_us, p.latency,
		   COALESCE(n.settings OPERATOR(pg_catalog.->>) 'key_scope',
					pg_catalog.current_setting('outbox.key_scope', true),
					'topic') AS key_scope,
		   COALESCE(n.settings OPERATOR(pg_catalog.->>) 'dead_key_policy',
					pg_catalog.current_setting('outbox.dead_key_policy', true),
					'block') AS dead_key_policy
	FROM @extschema@.outbox_destination_rows() n
	LEFT JOIN LATERAL (SELECT c.*
					   FROM @extschema@.outbox_progress c
					   WHERE c.destination OPERATOR(pg_catalog.=) n.id
					   ORDER BY c.id DESC LIMIT 1) p ON true;
COMMENT ON VIEW @extschema@.outbox_position IS
'Each destination, and how far its relay has come. Private: part of the other views.';

CREATE FUNCTION @extschema@.outbox_takes(destination pg_catalog.int4,
	xid pg_catalog.xid8, topic pg_catalog.text)
RETURNS pg_catalog.bool
LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER COST 10
AS $$
SELECT COALESCE((
	SELECT @extschema@.outbox_topic_matches($3, f.topics)
	FROM @extschema@.outbox_filter f
	WHERE f.destination OPERATOR(pg_catalog.=) $1
	AND NOT pg_catalog.pg_visible_in_snapshot($2, f.since)
	ORDER BY f.version DESC LIMIT 1), $1 OPERATOR(pg_catalog.=) 0)
$$;
COMMENT ON FUNCTION @extschema@.outbox_takes(pg_catalog.int4, pg_catalog.xid8, pg_catalog.text) IS
'Does an event of this transaction and topic go to this destination? Private: part of the views, and of the conditions by which pg_dump chooses events.';

CREATE VIEW @extschema@.outbox_events AS
	SELECT s.event_id, s.topic, s.key, s.type,
		   -- what is not under way when its time is over counts as expired
		   CASE WHEN s.over AND s.state IN ('scheduled', 'pending', 'failed')
				THEN 'expired'
				WHEN s.state OPERATOR(pg_catalog.=) 'pending' AND s.key IS NOT NULL AND s.has_delivery
					 -- each EXISTS is served by an index of its own
					 AND CASE WHEN s.key_scope OPERATOR(pg_catalog.=) 'all'
						 THEN EXISTS (SELECT 1 FROM @extschema@.outbox_delivery b
									  WHERE b.destination OPERATOR(pg_catalog.=) s.destination_id
									  AND b.key OPERATOR(pg_catalog.=) s.key
									  AND b.id OPERATOR(pg_catalog.<) s.id
									  AND b.state IN ('pending', 'in_progress', 'failed'))
							  OR (s.dead_key_policy OPERATOR(pg_catalog.<>) 'skip'
								  AND EXISTS (SELECT 1 FROM @extschema@.outbox_delivery b
											  WHERE b.destination OPERATOR(pg_catalog.=) s.destination_id
											  AND b.key OPERATOR(pg_catalog.=) s.key
											  AND b.id OPERATOR(pg_catalog.<) s.id
											  AND b.state OPERATOR(pg_catalog.=) 'dead'))
						 ELSE EXISTS (SELECT 1 FROM @extschema@.outbox_delivery b
									  WHERE b.destination OPERATOR(pg_catalog.=) s.destination_id
									  AND b.topic OPERATOR(pg_catalog.=) s.topic
									  AND b.key OPERATOR(pg_catalog.=) s.key
									  AND b.id OPERATOR(pg_catalog.<) s.id
									  AND b.state IN ('pending', 'in_progress', 'failed'))
							  OR (s.dead_key_policy OPERATOR(pg_catalog.<>) 'skip'
								  AND EXISTS (SELECT 1 FROM @extschema@.outbox_delivery b
											  WHERE b.destination OPERATOR(pg_catalog.=) s.destination_id
											  AND b.topic OPERATOR(pg_catalog.=) s.topic
											  AND b.key OPERATOR(pg_catalog.=) s.key
											  AND b.id OPERATOR(pg_catalog.<) s.id
											  AND b.state OPERATOR(pg_catalog.=) 'dead'))
						 END
				THEN 'blocked'
				ELSE s.state
		   END AS state,
		   CASE WHEN s.anew THEN 0
				WHEN s.has_delivery THEN s.attempts
				WHEN s.state OPERATOR(pg_catalog.=) 'published' THEN 1
				ELSE 0
		   END AS attempts,
		   CASE WHEN s.asked OPERATOR(pg_catalog.=) 'discard'
					 AND s.state OPERATOR(pg_catalog.=) 'discarded'
				THEN 'discarded by ' OPERATOR(pg_catalog.||) s.asked_by
				ELSE s.last_error
		   END AS last_error,
		   s.last_status,
		   s.last_attempt_at,
		   CASE WHEN NOT s.anew AND NOT s.over
					 AND s.state NOT IN ('discarded', 'unrouted')
				THEN s.next_attempt_at
		   END AS next_attempt_at,
		   s.created_at,
		   CASE WHEN s.state OPERATOR(pg_catalog.<>) 'published' THEN NULL
				WHEN s.has_delivery THEN s.updated_at
				-- the first checkpoint that covers the event
				ELSE COALESCE((
					SELECT c.at
					FROM @extschema@.outbox_progress c
					WHERE c.destination OPERATOR(pg_catalog.=) s.destination_id
					AND c.at OPERATOR(pg_catalog.>=) s.created_at
					AND (pg_catalog.pg_visible_in_snapshot(s.xid, c.lo)
						 OR (s.id OPERATOR(pg_catalog.<=) c.last_id
							 AND pg_catalog.pg_visible_in_snapshot(s.xid, c.hi)))
					AND (s.id OPERATOR(pg_catalog.=) ANY (c.open)) IS NOT TRUE
					ORDER BY c.at LIMIT 1), s.created_at)
		   END AS published_at,
		   s.published_by, s.destination
	FROM (
		-- what was asked of the relay counts as done
		SELECT t.*,
			   CASE WHEN t.asked OPERATOR(pg_catalog.=) 'discard'
						 AND t.written NOT IN ('published', 'expired', 'unrouted')
					THEN 'discarded'
					WHEN t.asked OPERATOR(pg_catalog.=) 'retry'
						 AND t.written IN ('failed', 'dead', 'discarded', 'scheduled')
					THEN 'pending'
					ELSE t.written
			   END AS state,
			   COALESCE(t.asked OPERATOR(pg_catalog.=) 'retry'
						AND t.written IN ('failed', 'dead', 'discarded', 'scheduled'), false)
			   AS anew
		FROM (
			SELECT e.id, e.xid, e.event_id, e.topic, e.key, e.type, e.created_at,
				   e.published_by,
				   r.destination_id, r.destination, r.key_scope, r.dead_key_policy,
				   r.has_delivery, r.attempts, r.updated_at, r.last_error, r.last_status,
				   r.last_attempt_at,
				   COALESCE(e.expires_at OPERATOR(pg_catalog.<=) pg_catalog.now(), false)
				   AS over,
				   CASE WHEN r.has_delivery THEN r.state
						WHEN r.destination_id IS NULL THEN 'unrouted'
						WHEN r.covered THEN 'published'
						WHEN e.deliver_after OPERATOR(pg_catalog.>) pg_catalog.now()
						THEN 'scheduled'
						ELSE 'pending'
				   END AS written,
				   CASE WHEN r.has_delivery THEN r.next_attempt_at
						ELSE e.deliver_after
				   END AS next_attempt_at,
				   a.asked_by, k.asked
			FROM @extschema@.outbox_event e
			LEFT JOIN LATERAL (
				-- where the event goes: all that take it, or have said something of it
				SELECT p.destination AS destination_id, p.name AS destination,
					   p.key_scope, p.dead_key_policy,
					   d.id IS NOT NULL AS has_delivery, d.state, d.attempts,
					   d.updated_at, d.last_error, d.last_status, d.next_attempt_at,
					   d.last_attempt_at,
					   (pg_catalog.pg_visible_in_snapshot(e.xid, p.lo)
						OR (e.id OPERATOR(pg_catalog.<=) p.last_id
							AND pg_catalog.pg_visible_in_snapshot(e.xid, p.hi)))
					   AND (e.id OPERATOR(pg_catalog.=) ANY (p.open)) IS NOT TRUE AS covered
				FROM @extschema@.outbox_position p
				LEFT JOIN @extschema@.outbox_delivery d
					ON d.destination OPERATOR(pg_catalog.=) p.destination
					AND d.id OPERATOR(pg_catalog.=) e.id
				WHERE d.id IS NOT NULL
				OR NOT EXISTS (SELECT 1 FROM @extschema@.outbox_filter)
				OR @extschema@.outbox_takes(p.destination, e.xid, e.topic)
			) r ON true
			LEFT JOIN LATERAL (SELECT q.action, q.requested_by AS asked_by
							   FROM @extschema@.outbox_request q
							   WHERE q.event OPERATOR(pg_catalog.=) e.id
							   AND q.destination OPERATOR(pg_catalog.=) r.destination_id
							   AND q.action OPERATOR(pg_catalog.<>) 'replay'
							   ORDER BY q.id DESC LIMIT 1) a ON true
			CROSS JOIN LATERAL (
				-- OFFSET 0: looked for once, however often it is named above
				SELECT COALESCE(a.action,
								CASE WHEN r.state OPERATOR(pg_catalog.=) 'dead'
										  AND EXISTS (SELECT 1 FROM @extschema@.outbox_request q
													  WHERE q.destination OPERATOR(pg_catalog.=) r.destination_id
													  AND q.action OPERATOR(pg_catalog.=) 'retry_dead'
													  AND (q.topic IS NULL
														   OR q.topic OPERATOR(pg_catalog.=) e.topic)
													  AND q.requested_at OPERATOR(pg_catalog.>=) r.updated_at)
									 THEN 'retry'
								END) AS asked
				OFFSET 0) k
		) t
	) s;
COMMENT ON VIEW @extschema@.outbox_events IS
'Every event that is still kept, once for each destination that it goes to, with its state there: scheduled, pending, blocked (behind an unsettled event of its key, in its topic or with outbox.key_scope = all in any), in_progress, published, failed, dead, discarded, expired; or unrouted, with destination NULL, if none takes it. What was asked by outbox_retry() and the like counts as done. last_attempt_at is when the last try began, NULL for what went through at the first. published_at is the time of the first checkpoint that says so, which is within a second of the answer. Payloads are not shown: monitoring has no need of them.';

-- The first columns of outbox_delivery_state_idx and its condition have to be constants.
CREATE VIEW @extschema@.outbox_failures AS
	SELECT (SELECT e.event_id FROM @extschema@.outbox_event e
			WHERE e.id OPERATOR(pg_catalog.=) f.id) AS event_id,
		   f.topic, f.key, f.state, f.attempts, f.last_error, f.last_status,
		   f.last_attempt_at, f.next_attempt_at, f.updated_at AS since,
		   n.name AS destination
	FROM @extschema@.outbox_destination_rows() n
	CROSS JOIN LATERAL (
		(SELECT d.* FROM @extschema@.outbox_delivery d
		 WHERE d.destination OPERATOR(pg_catalog.=) n.id
		 AND d.state OPERATOR(pg_catalog.=) 'dead'
		 ORDER BY d.updated_at DESC, d.id DESC LIMIT 1000)
		UNION ALL
		(SELECT d.* FROM @extschema@.outbox_delivery d
		 WHERE d.destination OPERATOR(pg_catalog.=) n.id
		 AND d.state OPERATOR(pg_catalog.=) 'failed'
		 ORDER BY d.updated_at DESC, d.id DESC LIMIT 1000)) f;
COMMENT ON VIEW @extschema@.outbox_failures IS
'The last 1000 events of each destination that are dead, and the last 1000 that have failed and wait for another try: why, when they were tried last, and since when they are so. What was asked by outbox_retry() and the like is shown when it is done. Looks at no other events, however many are kept: for all states, see outbox_events.';

-- A function, so that nothing but indexes can be read, whatever the planner knows of the
-- tables: however much is kept of what has been published, also since the beginning of
-- a transaction that is still open.  Each branch is a range of the index on (xid, id),
-- which passes no event that the position covers.
CREATE FUNCTION @extschema@.outbox_unsettled(destination pg_catalog.int4,
	lo pg_catalog.pg_snapshot, hi pg_catalog.pg_snapshot,
	last_id pg_catalog.int8, open pg_catalog.int8[], most pg_catalog.int8,
	OUT id pg_catalog.int8, OUT xid pg_catalog.xid8, OUT topic pg_catalog.text,
	OUT created_at pg_catalog.timestamptz, OUT deliver_after pg_catalog.timestamptz,
	OUT stands_for pg_catalog.float8)
RETURNS SETOF pg_catalog.record
LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY DEFINER ROWS 100
SET enable_seqscan = off
SET jit = off
AS $$
WITH seen AS MATERIALIZED (
	SELECT n.* FROM (
		SELECT e.id, e.xid, e.topic, e.created_at, e.deliver_after
		FROM @extschema@.outbox_event e
		WHERE e.id OPERATOR(pg_catalog.=) ANY ($5)
		UNION ALL
		SELECT e.id, e.xid, e.topic, e.created_at, e.deliver_after
		FROM pg_catalog.pg_snapshot_xip($2) x(xid)
		-- compared as rows, which no index by id alone can serve
		CROSS JOIN LATERAL (
			SELECT * FROM @extschema@.outbox_event l
			WHERE (l.xid, l.id) OPERATOR(pg_catalog.>) (x.xid, $4)
			AND l.xid OPERATOR(pg_catalog.<=) x.xid OFFSET 0) e
		WHERE pg_catalog.pg_visible_in_snapshot(x.xid, $3)
		UNION ALL
		SELECT e.id, e.xid, e.topic, e.created_at, e.deliver_after
		FROM @extschema@.outbox_event e
		WHERE e.xid OPERATOR(pg_catalog.>=) pg_catalog.pg_snapshot_xmax($2)
		AND e.xid OPERATOR(pg_catalog.<) pg_catalog.pg_snapshot_xmax($3)
		AND e.id OPERATOR(pg_catalog.>) $4
		AND pg_catalog.pg_visible_in_snapshot(e.xid, $3)
		UNION ALL
		SELECT e.id, e.xid, e.topic, e.created_at, e.deliver_after
		FROM @extschema@.outbox_event e
		WHERE e.xid OPERATOR(pg_catalog.=) ANY (ARRAY(
			SELECT x.xid FROM pg_catalog.pg_snapshot_xip($3) x(xid)))
		UNION ALL
		SELECT e.id, e.xid, e.topic, e.created_at, e.deliver_after
		FROM @extschema@.outbox_event e
		WHERE e.xid OPERATOR(pg_catalog.>=) pg_catalog.pg_snapshot_xmax($3)) n
	LIMIT $6),
-- The median, since a transaction may have taken its ids long before or after others.
rest AS (
	SELECT GREATEST(q.last_value OPERATOR(pg_catalog.-) m.last, 0) AS n, m.last
	FROM (SELECT pg_catalog.count(*) AS n,
				 pg_catalog.percentile_disc(0.5) WITHIN GROUP (ORDER BY s.id)
				 OPERATOR(pg_catalog.+) ($6 OPERATOR(pg_catalog./) 2) AS last
		  FROM seen s) m
	CROSS JOIN @extschema@.outbox_event_id_seq q
	WHERE m.n OPERATOR(pg_catalog.=) $6),
sample AS MATERIALIZED (
	SELECT e.*, r.n FROM rest r
	CROSS JOIN pg_catalog.generate_series(0, 99) i(part)
	CROSS JOIN LATERAL (
		SELECT e.id, e.xid, e.topic, e.created_at, e.deliver_after
		FROM @extschema@.outbox_event e
		WHERE e.id OPERATOR(pg_catalog.>)
			  (r.last OPERATOR(pg_catalog.+) (r.n OPERATOR(pg_catalog.*) i.part OPERATOR(pg_catalog./) 100))
		ORDER BY e.id LIMIT 10) e)
SELECT t.id, t.xid, t.topic, t.created_at, t.deliver_after,
	   -- Mostly there is not a single exception.  OFFSET 0: one probe of the index, never
	   -- a hash table of all there are.
	   CASE WHEN ($6 IS NULL
				  OR EXISTS (SELECT 1 FROM @extschema@.outbox_delivery d
							 WHERE d.destination OPERATOR(pg_catalog.=) $1
							 AND d.id OPERATOR(pg_catalog.>=) (SELECT pg_catalog.min(s.id) FROM seen s)))
				 AND EXISTS (SELECT 1 FROM @extschema@.outbox_delivery d
							 WHERE d.destination OPERATOR(pg_catalog.=) $1
							 AND d.id OPERATOR(pg_catalog.=) t.id OFFSET 0) THEN 0
			ELSE t.weight END
FROM (SELECT s.*, 1::pg_catalog.float8 AS weight FROM seen s
	  UNION ALL
	  SELECT a.id, a.xid, a.topic, a.created_at, a.deliver_after,
			 a.n::pg_catalog.float8 OPERATOR(pg_catalog./) (SELECT pg_catalog.count(*) FROM sample)
	  FROM sample a
	  WHERE NOT pg_catalog.pg_visible_in_snapshot(a.xid, $2)
	  AND NOT (a.id OPERATOR(pg_catalog.<=) $4
			   AND pg_catalog.pg_visible_in_snapshot(a.xid, $3))) t
$$;
COMMENT ON FUNCTION @extschema@.outbox_unsettled(pg_catalog.int4, pg_catalog.pg_snapshot, pg_catalog.pg_snapshot, pg_catalog.int8, pg_catalog.int8[], pg_catalog.int8) IS
'Events that a position with these columns has not passed, or has left open (NULL: none), for whichever destination; and what each stands for: 0 if outbox_delivery says something of it for this destination, else 1. There are at most so many (NULL: any number); of the rest, a sample follows, each of which stands for its share of them. Private: part of outbox_count_new() and outbox_ahead.';

-- The function is in the list of columns, not in FROM: one event after the other comes
-- from it, and none is fetched that nobody asks for.
CREATE VIEW @extschema@.outbox_ahead AS
	SELECT (p.e).id, (p.e).topic COLLATE pg_catalog."C" AS topic,
		   (p.e).created_at, (p.e).deliver_after, p.destination
	FROM (SELECT c.destination,
				 @extschema@.outbox_unsettled(c.destination, c.lo, c.hi, c.last_id, c.open, NULL) AS e
		  FROM @extschema@.outbox_position c
		  OFFSET 0) p
	WHERE (p.e).stands_for OPERATOR(pg_catalog.>) 0
	AND CASE WHEN (SELECT pg_catalog.bool_or(true) FROM @extschema@.outbox_filter)
			 THEN @extschema@.outbox_takes(p.destination, (p.e).xid, (p.e).topic)
			 ELSE true END;
COMMENT ON VIEW @extschema@.outbox_ahead IS
'Events that are not settled by the position of a destination that takes them, and outbox_delivery says nothing of: to be read, or in its relay''s memory. Private: for who needs the first few.';

-- What is looked at is bounded, for each destination: 10000 events of a kind, in the order
-- of an index.  Where there are more, a sample tells how many: then there is a row without a
-- topic, since perhaps none is known of others, or those of some topic are not exact.

CREATE FUNCTION @extschema@.outbox_count_new(OUT destination pg_catalog.int4,
	OUT topic pg_catalog.text, OUT due pg_catalog.bool, OUT n pg_catalog.float8,
	OUT oldest pg_catalog.timestamptz)
RETURNS SETOF pg_catalog.record
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SECURITY DEFINER ROWS 20
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off
AS $$
#variable_conflict use_column
DECLARE
	most CONSTANT int8 := 10001;	-- rows looked at; so many are too many
BEGIN
	RETURN QUERY
	WITH p AS MATERIALIZED (
		-- with the version of its patterns that counts for all that is new
		SELECT c.*, f.version, f.since
		FROM @extschema@.outbox_position c
		LEFT JOIN LATERAL (
			SELECT x.version, pg_snapshot_xmax(x.since) AS since
			FROM @extschema@.outbox_filter x
			WHERE x.destination = c.destination AND x.since IS NOT NULL
			ORDER BY x.version DESC LIMIT 1) f ON true),
	ahead AS MATERIALIZED (
		SELECT p.destination, u.topic, u.stands_for,
			greatest(u.created_at, u.deliver_after) AS due_at,
			coalesce(u.deliver_after <= now(), true) AS due,
			CASE WHEN p.version IS NULL THEN NULL
				WHEN u.xid >= p.since THEN p.version
				ELSE (SELECT max(f.version) FROM @extschema@.outbox_filter f
					  WHERE f.destination = p.destination
					  AND NOT pg_visible_in_snapshot(u.xid, f.since)) END AS version
		FROM p CROSS JOIN LATERAL @extschema@.outbox_unsettled(p.destination,
			p.lo, p.hi, p.last_id, p.open, most) u)
	SELECT a.destination, a.topic, a.due, sum(a.stands_for),
		min(a.due_at) FILTER (WHERE a.stands_for > 0)
	FROM ahead a
	GROUP BY a.destination, a.topic, a.due, a.version
	-- for a topic at a time, not for an event
	HAVING coalesce((SELECT @extschema@.outbox_topic_matches(a.topic, f.topics)
					 FROM @extschema@.outbox_filter f
					 WHERE f.destination = a.destination AND f.version = a.version),
					a.destination = 0)
	AND sum(a.stands_for) > 0
	UNION ALL
	SELECT a.destination, NULL, true, 0, NULL
	FROM ahead a GROUP BY a.destination HAVING count(*) >= most;
END
$$;
COMMENT ON FUNCTION @extschema@.outbox_count_new() IS
'Events of this database that no position covers and outbox_delivery says nothing of, by destination and topic. A row without a topic: of this destination, these are estimates. Private: part of outbox_counts.';

CREATE FUNCTION @extschema@.outbox_count_rows(OUT destination pg_catalog.int4,
	OUT topic pg_catalog.text, OUT state pg_catalog.text, OUT due pg_catalog.bool,
	OUT n pg_catalog.float8, OUT blocked pg_catalog.float8,
	OUT oldest pg_catalog.timestamptz, OUT counted pg_catalog.bool,
	OUT exact pg_catalog.bool)
RETURNS SETOF pg_catalog.record
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SECURITY DEFINER ROWS 20
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off
SET jit = off SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
	most CONSTANT int8 := 10001;	-- rows looked at; so many are too many
	few CONSTANT int8 := 101;		-- of each topic behind them
	topics CONSTANT int4 := 100;	-- so many of which are looked for
	-- of the pages of outbox_delivery, about 500 are a sample
	part CONSTANT float8 := least(1, 500 * current_setting('block_size')::float8
		/ greatest(pg_relation_size('@extschema@.outbox_delivery'), 1));
BEGIN
	RETURN QUERY
	WITH RECURSIVE p AS MATERIALIZED (SELECT * FROM @extschema@.outbox_position),
	looked AS MATERIALIZED (
		SELECT p.destination, p.key_scope, p.dead_key_policy, d.*
		FROM p CROSS JOIN LATERAL (
			(SELECT 'pending' AS kind, x.state, x.topic, x.key, x.id
			 FROM @extschema@.outbox_delivery x
			 WHERE x.destination = p.destination AND x.state = 'pending'
			 ORDER BY x.topic, x.id LIMIT most)
			UNION ALL
			(SELECT 'dead', x.state, x.topic, x.key, x.id
			 FROM @extschema@.outbox_delivery x
			 WHERE x.destination = p.destination AND x.state = 'dead'
			 ORDER BY x.topic, x.key, x.id LIMIT most)
			UNION ALL
			(SELECT 'in_progress', x.state, x.topic, x.key, x.id
			 FROM @extschema@.outbox_delivery x
			 WHERE x.destination = p.destination AND x.state = 'in_progress'
			 ORDER BY x.updated_at, x.id LIMIT most)
			UNION ALL
			(SELECT 'failed', x.state, x.topic, x.key, x.id
			 FROM @extschema@.outbox_delivery x
			 WHERE x.destination = p.destination AND x.state = 'failed'
			 ORDER BY x.updated_at, x.id LIMIT most)
			UNION ALL
			-- scheduled, among others with a time
			(SELECT 'over', x.state, x.topic, x.key, x.id
			 FROM @extschema@.outbox_delivery x
			 WHERE x.destination = p.destination AND x.next_attempt_at <= now()
			 ORDER BY x.next_attempt_at, x.id LIMIT most)
			UNION ALL
			(SELECT 'later', x.state, x.topic, x.key, x.id
			 FROM @extschema@.outbox_delivery x
			 WHERE x.destination = p.destination AND x.next_attempt_at > now()
			 ORDER BY x.next_attempt_at, x.id LIMIT most)) d),
	-- of what there is more, and up to which topic that is known
	more AS MATERIALIZED (
		SELECT l.destination, l.kind,
			CASE WHEN l.kind IN ('pending', 'dead') THEN max(l.topic) END AS topic
		FROM looked l GROUP BY l.destination, l.kind HAVING count(*) = most),
	behind AS (
		SELECT m.destination, m.kind, m.topic, 0 AS n FROM more m
		WHERE m.kind IN ('pending', 'dead')
		UNION ALL
		SELECT b.destination, b.kind,
			CASE b.kind WHEN 'pending'
			THEN (SELECT x.topic FROM @extschema@.outbox_delivery x
				  WHERE x.destination = b.destination AND x.state = 'pending'
				  AND x.topic > b.topic ORDER BY x.topic, x.id LIMIT 1)
			ELSE (SELECT x.topic FROM @extschema@.outbox_delivery x
				  WHERE x.destination = b.destination AND x.state = 'dead'
				  AND x.topic > b.topic ORDER BY x.topic, x.key, x.id LIMIT 1) END,
			b.n + 1
		FROM behind b WHERE b.topic IS NOT NULL AND b.n < topics),
	-- what the others of its key wait for, as in outbox_events
	first AS (
		SELECT l.destination, l.key, CASE l.key_scope WHEN 'all' THEN '' ELSE l.topic END AS topic,
			min(l.id) AS id
		FROM looked l
		WHERE l.key IS NOT NULL
		AND (l.state IN ('pending', 'in_progress', 'failed')
			 OR (l.state = 'dead' AND l.dead_key_policy <> 'skip'))
		GROUP BY 1, 2, 3),
	counted AS (
		SELECT l.destination, l.topic, l.kind, l.state, count(*) AS n, min(l.id) AS oldest,
			count(*) FILTER (WHERE l.state = 'pending' AND f.id < l.id) AS blocked,
			bool_and(m.kind IS NULL) AS exact
		FROM looked l
		LEFT JOIN first f ON f.destination = l.destination AND f.key = l.key
			AND f.topic = CASE l.key_scope WHEN 'all' THEN '' ELSE l.topic END
		LEFT JOIN more m ON m.destination = l.destination AND m.kind = l.kind
			AND coalesce(m.topic = l.topic, true)
		WHERE l.state = CASE WHEN l.kind IN ('over', 'later') THEN 'scheduled' ELSE l.kind END
		GROUP BY 1, 2, 3, 4
		UNION ALL
		SELECT b.destination, b.topic, b.kind, b.kind, d.n, d.oldest, NULL, d.n < few
		FROM behind b CROSS JOIN LATERAL (
			SELECT count(*) AS n, min(y.id) AS oldest FROM (
				(SELECT x.id FROM @extschema@.outbox_delivery x
				 WHERE b.kind = 'pending' AND x.destination = b.destination
				 AND x.state = 'pending' AND x.topic = b.topic
				 ORDER BY x.topic, x.id LIMIT few)
				UNION ALL
				(SELECT x.id FROM @extschema@.outbox_delivery x
				 WHERE b.kind = 'dead' AND x.destination = b.destination
				 AND x.state = 'dead' AND x.topic = b.topic
				 ORDER BY x.topic, x.key, x.id LIMIT few)) y) d
		WHERE b.n > 0 AND b.topic IS NOT NULL),
	sample AS (
		SELECT x.destination, x.topic,
			CASE WHEN x.state <> 'scheduled' THEN x.state
				WHEN x.next_attempt_at <= now() THEN 'over' ELSE 'later' END AS kind,
			x.state, count(*) / part AS n
		FROM @extschema@.outbox_delivery x TABLESAMPLE SYSTEM (100 * part) REPEATABLE (0)
		WHERE x.state IN ('scheduled', 'pending', 'in_progress', 'failed', 'dead')
		AND EXISTS (SELECT FROM more)
		GROUP BY 1, 2, 3, 4),
	told AS (
		SELECT c.destination, c.topic, c.kind, c.state,
			coalesce(max(c.n) FILTER (WHERE c.exact), max(c.n)) AS n,
			-- as many of all as of those that were looked at
			max(c.blocked) * max(c.n) / max(c.n) FILTER (WHERE c.blocked IS NOT NULL) AS blocked,
			min(c.oldest) AS oldest, bool_or(c.exact) AS exact
		FROM (SELECT * FROM counted
			  UNION ALL
			  SELECT s.destination, s.topic, s.kind, s.state, s.n, NULL, NULL, false
			  FROM sample s JOIN more m ON m.destination = s.destination AND m.kind = s.kind) c
		GROUP BY 1, 2, 3, 4)
	SELECT t.destination, t.topic, t.state,
		t.state <> 'dead' AND (t.state <> 'scheduled' OR t.kind = 'over'), t.n, t.blocked,
		(SELECT greatest(e.created_at, e.deliver_after)
		 FROM @extschema@.outbox_event e WHERE e.id = t.oldest),
		t.exact,
		-- what keys wait for is known up to there
		t.exact AND NOT EXISTS (SELECT FROM more m WHERE m.destination = t.destination
								AND m.topic <= t.topic)
	FROM told t
	UNION ALL
	SELECT m.destination, NULL, m.kind, m.kind <> 'later', 0, 0, NULL, false, false
	FROM more m WHERE m.topic IS NULL;
END
$$;
COMMENT ON FUNCTION @extschema@.outbox_count_rows() IS
'Rows of outbox_delivery whose events are not settled, or dead, by destination, topic and state: how many, whether that is counted, how many of them are blocked, and whether both are exact. A row without a topic: of this destination, what is of that state is an estimate. Private: part of outbox_counts.';

CREATE VIEW @extschema@.outbox_counts AS
	SELECT c.destination, c.topic,
		   COALESCE(pg_catalog.sum(c.n) FILTER (WHERE c.due), 0)::pg_catalog.int8 AS pending,
		   pg_catalog.min(c.oldest) FILTER (WHERE c.due) AS oldest,
		   COALESCE(pg_catalog.sum(c.n) FILTER (WHERE c.state OPERATOR(pg_catalog.=) 'scheduled' AND NOT c.due), 0)::pg_catalog.int8
		   AS scheduled,
		   COALESCE(pg_catalog.sum(c.n) FILTER (WHERE c.state OPERATOR(pg_catalog.=) 'failed'), 0)::pg_catalog.int8
		   AS failed,
		   COALESCE(pg_catalog.sum(c.blocked), 0)::pg_catalog.int8 AS blocked,
		   COALESCE(pg_catalog.sum(c.n) FILTER (WHERE c.state OPERATOR(pg_catalog.=) 'dead'), 0)::pg_catalog.int8
		   AS dead,
		   pg_catalog.bool_and(c.exact)
		   AND NOT pg_catalog.bool_or(pg_catalog.bool_or(c.topic IS NULL)) OVER (PARTITION BY c.destination)
		   AS exact,
		   COALESCE(pg_catalog.bool_and(c.counted) FILTER (WHERE c.due), true) AS pending_exact
	FROM (SELECT w.destination, w.topic, CASE WHEN w.due THEN 'pending' ELSE 'scheduled' END AS state,
				 w.due, w.n, 0 AS blocked, w.oldest, w.topic IS NOT NULL AS counted,
				 w.topic IS NOT NULL AS exact
		  FROM @extschema@.outbox_count_new() w
		  UNION ALL
		  SELECT r.destination, r.topic, r.state, r.due, r.n, r.blocked, r.oldest, r.counted, r.exact
		  FROM @extschema@.outbox_count_rows() r) c
	GROUP BY c.destination, c.topic;
COMMENT ON VIEW @extschema@.outbox_counts IS
'Events of this database that are not settled, or dead, by destination and topic: how many, whether all these numbers are exact, and whether the pending ones are. A row without a topic tells that of a destination''s others. Private: part of outbox_topics and outbox_stats.';

CREATE VIEW @extschema@.outbox_topics AS
	SELECT COALESCE(s.topic, u.topic) AS topic,
		   CASE WHEN s.topic IS NOT NULL THEN s.state
				WHEN r.tells_all THEN 'open'
		   END AS state,
		   COALESCE(u.pending, 0) AS pending, u.oldest,
		   COALESCE(u.scheduled, 0) AS scheduled, COALESCE(u.failed, 0) AS failed,
		   COALESCE(u.dead, 0) AS dead,
		   s.in_flight, s.last_error, s.last_status, s.next_try, s.published,
		   p.name AS destination,
		   COALESCE(u.blocked, 0) AS blocked, COALESCE(u.exact, true) AS exact
	FROM (SELECT * FROM @extschema@.outbox_counts c WHERE c.topic IS NOT NULL) u
	FULL JOIN @extschema@.outbox_topic_status() s
		ON s.topic OPERATOR(pg_catalog.=) u.topic
		AND s.destination_id OPERATOR(pg_catalog.=) u.destination
	JOIN @extschema@.outbox_position p
		ON p.destination OPERATOR(pg_catalog.=) COALESCE(u.destination, s.destination_id)
	LEFT JOIN (
		-- no row: there is no relay
		SELECT t.destination_id,
			   t.topics_down OPERATOR(pg_catalog.+) t.topics_held
			   OPERATOR(pg_catalog.<=)
			   (SELECT pg_catalog.count(*)
				FROM @extschema@.outbox_topic_status() o
				WHERE o.destination_id OPERATOR(pg_catalog.=) t.destination_id) AS tells_all
		FROM @extschema@.outbox_relay_status() t
		WHERE t.pid IS NOT NULL
		AND t.datid OPERATOR(pg_catalog.=)
			(SELECT o.oid FROM pg_catalog.pg_database o
			 WHERE o.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())
	) r ON r.destination_id OPERATOR(pg_catalog.=) p.destination;
COMMENT ON VIEW @extschema@.outbox_topics IS
'Every topic of each destination with events that are not settled there or dead, and those that are down or held: state (open; down: it fails; held: the destination asked to wait), events that are due (pending) and since when the first of them is, those that are scheduled, among the pending those that wait for another try (failed) or behind others of their key (blocked), and the dead; of the 64 topics of a destination that have been down or held for longest also requests in flight, the last error, when one is tried next, and how many were published since the relay has known the topic. state is NULL if it is not known: no relay runs, or more are down than it tells of. exact is false where a number is an estimate: of each kind, 10000 events of a destination are counted. Topics of few events may be missing then.';

CREATE VIEW @extschema@.outbox_minute AS
	SELECT p.destination,
		   p.published OPERATOR(pg_catalog.-) m.published AS published,
		   p.latency_us OPERATOR(pg_catalog.-) m.latency_us AS latency_us,
		   m.latency AS latency_before,
		   EXTRACT(epoch FROM pg_catalog.now() OPERATOR(pg_catalog.-)
				   GREATEST(m.at, pg_catalog.now() OPERATOR(pg_catalog.-) '1 minute'::pg_catalog.interval))
		   ::pg_catalog.float8 AS seconds
	FROM @extschema@.outbox_position p
	CROSS JOIN LATERAL (
		SELECT o.published, o.latency_us, o.latency, o.at
		FROM ((SELECT c.* FROM @extschema@.outbox_progress c
			   WHERE c.destination OPERATOR(pg_catalog.=) p.destination
			   AND c.at OPERATOR(pg_catalog.<=) (pg_catalog.now() OPERATOR(pg_catalog.-) '1 minute'::pg_catalog.interval)
			   ORDER BY c.at DESC LIMIT 1)
			  UNION ALL
			  (SELECT c.* FROM @extschema@.outbox_progress c
			   WHERE c.destination OPERATOR(pg_catalog.=) p.destination
			   ORDER BY c.at LIMIT 1)) o
		ORDER BY o.at DESC LIMIT 1) m;
COMMENT ON VIEW @extschema@.outbox_minute IS
'What was counted in the last minute, or in as many seconds as checkpoints are kept of. Private: part of outbox_stats and outbox_latency.';

CREATE VIEW @extschema@.outbox_latency AS
	SELECT p.name AS destination, b.le,
		   COALESCE(pg_catalog.sum(p.latency[b.n]) OVER w, 0)::pg_catalog.int8 AS events,
		   COALESCE(pg_catalog.sum(p.latency[b.n] OPERATOR(pg_catalog.-)
								   COALESCE(m.latency_before[b.n], 0)) OVER w, 0)::pg_catalog.int8
		   AS last_minute
	FROM @extschema@.outbox_position p
	JOIN @extschema@.outbox_minute m ON m.destination OPERATOR(pg_catalog.=) p.destination
	CROSS JOIN pg_catalog.unnest(@extschema@.outbox_latency_bounds()) WITH ORDINALITY b(le, n)
	WINDOW w AS (PARTITION BY p.destination ORDER BY b.n);
COMMENT ON VIEW @extschema@.outbox_latency IS
'How long delivery takes: for each destination and each upper bound in seconds, how many of the events that it has ever taken, and of those of the last minute, took no longer. Counted from created_at (from the commit, where track_commit_timestamp is on), or from deliver_after or the time of a retry if that is later, to the answer.';

-- Without volatile functions, or who asks for counters only would have events counted.
CREATE VIEW @extschema@.outbox_stats AS
	SELECT s.started_at, p.published, p.failed_attempts, p.died, p.expired,
		   p.duplicates_suppressed, p.pruned,
		   p.latency_us OPERATOR(pg_catalog./) 1e6::pg_catalog.float8 AS latency_seconds,
		   m.published OPERATOR(pg_catalog./) NULLIF(m.seconds, 0) AS rate,
		   pg_catalog.make_interval(secs => m.latency_us OPERATOR(pg_catalog./) 1e6::pg_catalog.float8
									OPERATOR(pg_catalog./) NULLIF(m.published, 0)) AS latency,
		   COALESCE(b.backlog, 0) AS backlog,
		   b.oldest AS oldest_unsettled_at,
		   CASE WHEN b.oldest IS NOT NULL
				THEN GREATEST(pg_catalog.statement_timestamp() OPERATOR(pg_catalog.-) b.oldest, '0')
		   END AS oldest_unsettled_age,
		   p.name AS destination,
		   COALESCE(b.exact, true) AS backlog_exact,
		   COALESCE(b.scheduled, 0) AS scheduled, COALESCE(b.failed, 0) AS failed,
		   COALESCE(b.blocked, 0) AS blocked, COALESCE(b.dead, 0) AS dead
	FROM @extschema@.outbox_position p
	LEFT JOIN (
		SELECT c.destination, pg_catalog.sum(c.pending)::pg_catalog.int8 AS backlog,
			   pg_catalog.bool_and(c.pending_exact) AS exact,
			   pg_catalog.min(c.oldest) AS oldest,
			   pg_catalog.sum(c.scheduled)::pg_catalog.int8 AS scheduled,
			   pg_catalog.sum(c.failed)::pg_catalog.int8 AS failed,
			   pg_catalog.sum(c.blocked)::pg_catalog.int8 AS blocked,
			   pg_catalog.sum(c.dead)::pg_catalog.int8 AS dead
		FROM @extschema@.outbox_counts c
		GROUP BY c.destination
	) b ON b.destination OPERATOR(pg_catalog.=) p.destination
	LEFT JOIN @extschema@.outbox_minute m ON m.destination OPERATOR(pg_catalog.=) p.destination
	LEFT JOIN @extschema@.outbox_relay_status() s
		ON s.destination_id OPERATOR(pg_catalog.=) p.destination
		AND s.datid OPERATOR(pg_catalog.=)
		   (SELECT o.oid FROM pg_catalog.pg_database o
			WHERE o.datname OPERATOR(pg_catalog.=) pg_catalog.current_database());
COMMENT ON VIEW @extschema@.outbox_stats IS
'One row for each destination: counters since it was made, as of the last checkpoint (what was published again is counted for default, what was pruned for whichever relay does it), the sum of the latencies of what was published; the events that it took a second and their mean latency, over the last minute; events that are due and not settled (backlog; dead ones are settled), whether that number is exact, since when the oldest of them is, and how many are scheduled, failed, blocked or dead, as in outbox_topics. started_at is NULL if there is no relay.';

CREATE VIEW @extschema@.outbox_destinations AS
	SELECT p.name,
		   COALESCE((SELECT f.topics FROM @extschema@.outbox_filter f
					 WHERE f.destination OPERATOR(pg_catalog.=) p.destination
					 ORDER BY f.version DESC LIMIT 1), '{#}') AS topics,
		   p.settings,
		   CASE WHEN r.state IN ('pausing', 'stopped', 'disabled') THEN r.state
				WHEN p.paused THEN 'paused'
				ELSE r.state
		   END AS state,
		   s.backlog, s.oldest_unsettled_at AS oldest, s.published,
		   h.held_back
	FROM @extschema@.outbox_position p
	JOIN @extschema@.outbox_stats s ON s.destination OPERATOR(pg_catalog.=) p.name
	LEFT JOIN @extschema@.outbox_relay_status() r
		ON r.destination_id OPERATOR(pg_catalog.=) p.destination
		AND r.datid OPERATOR(pg_catalog.=)
		   (SELECT o.oid FROM pg_catalog.pg_database o
			WHERE o.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())
	CROSS JOIN LATERAL (
		-- what is older than published events are kept: of the size that events have
		SELECT CASE WHEN s.oldest_unsettled_age OPERATOR(pg_catalog.>)
						 pg_catalog.current_setting('outbox.published_expire_time', true)::pg_catalog.interval
				THEN (pg_catalog.pg_total_relation_size(c.oid) OPERATOR(pg_catalog.*) s.backlog
					  OPERATOR(pg_catalog./) GREATEST(c.reltuples, s.backlog))::pg_catalog.int8
				ELSE 0 END AS held_back
		FROM pg_catalog.pg_class c
		WHERE c.oid OPERATOR(pg_catalog.=) '@extschema@.outbox_event'::pg_catalog.regclass
	) h;
COMMENT ON VIEW @extschema@.outbox_destinations IS
'Where events go: patterns of topics, settings of its own, state (that of its relay; paused), events that are due and not settled there and since when the oldest of them is, how many it has taken, and an estimate of the bytes that cannot be pruned because of it.';

CREATE FUNCTION @extschema@.outbox_check(OUT "check" pg_catalog.text,
	OUT ok pg_catalog.bool, OUT detail pg_catalog.text,
	OUT destination pg_catalog.text)
RETURNS SETOF pg_catalog.record
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
-- a look at a table that somebody has locked shall not wait for the end of that
SET lock_timeout = '20ms'
-- to compile what is run once takes longer than to run it
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
	destinations @extschema@.outbox_destinations[];
	unknown text;	-- why they are not known
BEGIN
	RETURN QUERY
	WITH lib AS (SELECT * FROM @extschema@.outbox_library()),
	ext AS (SELECT extversion FROM pg_extension WHERE extname = 'outbox'),
	relay AS (
		SELECT s.* FROM @extschema@.outbox_relay_status() s
		JOIN pg_database d ON d.oid = s.datid
		WHERE d.datname = current_database()),
	one AS (
		SELECT p.name, p.destination AS id, relay.*
		FROM @extschema@.outbox_position p
		LEFT JOIN relay ON relay.destination_id = p.destination
		ORDER BY p.destination)
	SELECT 'library preloaded', preloaded,
		CASE WHEN preloaded THEN 'outbox ' || version
			ELSE 'add outbox to shared_preload_libraries and restart the server' END,
		NULL
	FROM lib
	UNION ALL
	SELECT 'relay alive',
		CASE WHEN NOT pg_is_in_recovery() THEN pid IS NOT NULL AND state <> 'stopped' END,
		CASE WHEN pg_is_in_recovery()
			THEN 'a standby has no relay: that of its primary sends, or one here once it is promoted'
			WHEN state IS NULL AND id > 0
			THEN 'no relay process; see the server log, max_worker_processes and outbox.max_relays'
			WHEN pid IS NULL THEN coalesce('not running: ' || last_error,
			'no relay process; see the server log and max_worker_processes')
			ELSE 'pid ' || pid || ', ' || state || ' since ' || since END,
		name
	FROM one
	UNION ALL
	SELECT 'relay slots',
		CASE WHEN preloaded AND NOT pg_is_in_recovery() THEN refused IS NULL AND failed IS NULL END,
		CASE WHEN NOT preloaded THEN 'not known: the library is not preloaded'
			WHEN pg_is_in_recovery() THEN 'a standby has no relays'
			WHEN refused IS NOT NULL
			THEN 'all ' || most || ' are taken, and ' || refused || ' of this database got none: raise outbox.max_relays and restart the server'
			WHEN failed IS NOT NULL
			THEN 'no worker process is left for ' || failed || ': raise max_worker_processes and restart the server'
			ELSE taken || ' of ' || most || ' (outbox.max_relays) are taken' END,
		NULL
	FROM lib CROSS JOIN (
		SELECT taken, most,
			-- what has just been added has asked for none yet
			string_agg(quote_ident(name), ', ' ORDER BY id) FILTER (WHERE state IS NULL AND taken >= most) AS refused,
			string_agg(quote_ident(name), ', ' ORDER BY id)
				FILTER (WHERE pid IS NULL AND starts_with(last_error, 'no free worker process')) AS failed
		FROM one
		CROSS JOIN (SELECT count(*) AS taken, coalesce(current_setting('outbox.max_relays', true), '0')::int AS most
					FROM @extschema@.outbox_relay_status()) n
		GROUP BY taken, most) s
	UNION ALL
	-- what the relay has read counts, not what this session is set to
	SELECT 'delivery enabled', state NOT IN ('disabled', 'pausing', 'paused'),
		CASE WHEN pid IS NULL THEN 'not known: no relay is running'
			WHEN state = 'disabled' THEN 'outbox.enabled is off: events are kept, and sent once it is on'
			WHEN state IN ('pausing', 'paused')
			THEN 'it is paused: events are kept, and sent after SELECT outbox_resume(' || quote_literal(name) || ')'
			ELSE 'events are sent as they come' END,
		name
	FROM one
	UNION ALL
	SELECT 'settings alike', CASE WHEN count(*) = 0 THEN true END,
		CASE WHEN count(*) = 0 THEN 'all are those of the server and its destinations'
			ELSE 'not known: ' || string_agg(DISTINCT quote_ident(split_part(c.setting, '=', 1)), ', ')
				|| ' are set by ALTER DATABASE or ALTER ROLE, which a relay reads when it starts: after a change, SELECT pg_terminate_backend(pid) FROM outbox_relays' END,
		NULL
	FROM pg_db_role_setting s
	CROSS JOIN unnest(s.setconfig) c(setting)
	WHERE starts_with(c.setting, 'outbox')
	-- relays log in as the user that initdb has made
	AND s.setrole IN (0, 10)
	AND (s.setdatabase = 0 OR s.setdatabase = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()))
	UNION ALL
	SELECT 'versions match', serves,
		'library ' || version || ', SQL ' || extversion
		|| CASE WHEN starts_with(version || '.', extversion || '.') THEN ''
			WHEN serves THEN '; they work together; run ALTER EXTENSION outbox UPDATE for what is new'
			ELSE '; run ALTER EXTENSION outbox UPDATE or restart the server with the matching library' END,
		NULL
	FROM lib, ext
	UNION ALL
	SELECT 'publisher configured', configured = '',
		CASE WHEN configured IS NULL THEN 'not known: the relay has not tried yet'
			WHEN configured = '' THEN 'outbox.publisher = ' || publisher
			ELSE configured END,
		name
	FROM one
	UNION ALL
	-- NULL if the extension's owner may not see what is preloaded
	SELECT 'publisher preloaded', preloaded,
		CASE WHEN preloaded THEN 'its settings are checked and shown like all others'
			WHEN NOT preloaded THEN 'add ' || library || ' to shared_preload_libraries and restart the server: until then its settings are not checked, everybody may see them, and pg_settings shows them to nobody' END,
		name
	FROM (SELECT name, library,
			(SELECT library = ANY (regexp_split_to_array(regexp_replace(setting, '[^,]*/|\.so\M|["\s]', '', 'g'), ','))
			 FROM pg_settings WHERE name = 'shared_preload_libraries') AS preloaded
		FROM (SELECT name, regexp_replace(publisher, '.*/|\.so$', '', 'g') AS library
			  FROM one WHERE publisher IS NOT NULL) p
		WHERE library NOT IN ('dapr', 'http')) q
	UNION ALL
	-- what the relay uses, not what this session is set to
	SELECT 'source of events', CASE WHEN source IS NOT NULL THEN true END,
		CASE WHEN source = made THEN source || ', made for this database; a copy of it has the same'
			ELSE coalesce(source || ', by outbox.source', 'not known: no relay has read its settings yet; '
				|| made || ' unless outbox.source is set') END,
		name
	FROM one CROSS JOIN (SELECT s.source AS made FROM @extschema@.outbox_source s) m
	UNION ALL
	SELECT 'endpoint answers', endpoint = '',
		CASE WHEN endpoint IS NULL THEN 'not known: nothing was sent since the settings were read'
			WHEN endpoint = '' THEN 'the last answer was good'
			ELSE endpoint END,
		name
	FROM one
	UNION ALL
	SELECT 'files usable', files = '',
		CASE WHEN files IS NULL THEN 'not known: the publisher does not say'
			WHEN files = '' THEN 'those that settings name are in use as they are'
			ELSE files || '; what was read before stays in use until that is mended' END,
		name
	FROM one
	UNION ALL
	SELECT 'clocks agree', clock = '',
		CASE WHEN clock IS NULL THEN 'not known: no answer has told the time since the settings were read'
			WHEN clock = '' THEN 'the last answer was less than five minutes off'
			ELSE clock || ': receivers refuse signatures of another time; see to the clocks of both' END,
		name
	FROM one
	UNION ALL
	-- by whichever relay does it
	SELECT 'pruning works', bool_and(pruning = ''),
		CASE WHEN count(pruning) = 0 THEN 'not known: nothing was pruned since the relay started'
			WHEN bool_and(pruning = '') THEN 'what was due is deleted'
			ELSE string_agg(nullif(pruning, ''), '; ') END
		|| coalesce('; next at ' || min(next_prune) || ', what was published before '
			|| min(next_prune) - current_setting('outbox.published_expire_time', true)::interval, ''),
		NULL
	FROM one;

	BEGIN
		RETURN QUERY
		SELECT 'position of this server', p.known,
			CASE WHEN p.known THEN 'this server knows its transactions'
				ELSE 'the counter of transactions was set back, and no relay has started since: until one does, events are shown as published that are not' END,
			NULL::text
		FROM (SELECT bool_and(pg_snapshot_xmax(hi) <= pg_snapshot_xmax(pg_current_snapshot())) AS known
			  FROM @extschema@.outbox_position) p;
	EXCEPTION WHEN lock_not_available THEN
		RETURN QUERY SELECT 'position of this server', NULL::bool,
			'not known: a table is locked, see below', NULL::text;
	END;

	-- once, since it takes the most of all
	BEGIN
		SELECT array_agg(d) INTO destinations FROM @extschema@.outbox_destinations d;
	EXCEPTION WHEN lock_not_available OR data_corrupted THEN
		unknown := CASE SQLSTATE WHEN '55P03' THEN 'a table is locked, see below' ELSE SQLERRM END;
		destinations := ARRAY[NULL::@extschema@.outbox_destinations];
	END;

	-- What could be sent for a minute: events that were not read, and of 100 topics the
	-- first 100 rows, unless they wait for others of their key, something was asked of them,
	-- or their topics have rows of their own below.
	BEGIN
		RETURN QUERY
		WITH RECURSIVE old AS (SELECT now() - interval '1 minute' AS at),
		stopped AS (SELECT destination_id AS destination, topic FROM @extschema@.outbox_topic_status()),
		asked AS (SELECT destination, event FROM @extschema@.outbox_request
				  WHERE event IS NOT NULL AND action <> 'replay'),
		p AS (SELECT * FROM @extschema@.outbox_position),
		waiting AS (
			SELECT destination, '' COLLATE "C" AS topic, 0 AS n FROM p
			UNION ALL
			SELECT w.destination,
				(SELECT d.topic FROM @extschema@.outbox_delivery d
				 WHERE d.destination = w.destination AND d.state = 'pending' AND d.topic > w.topic
				 ORDER BY d.topic, d.id LIMIT 1), w.n + 1
			FROM waiting w WHERE w.topic IS NOT NULL AND w.n < 100)
		SELECT 'backlog moving',
			coalesce(s.oldest > old.at, true)
			OR NOT (EXISTS (SELECT FROM @extschema@.outbox_request r
							WHERE r.destination = p.destination AND r.requested_at < old.at
							AND r.action <> 'replay')
					OR EXISTS (SELECT FROM @extschema@.outbox_unsettled(p.destination,
								   p.lo, p.hi, p.last_id, p.open, 1000) a
							   WHERE a.stands_for > 0
							   AND greatest(a.created_at, a.deliver_after) < old.at
							   AND a.id NOT IN (SELECT k.event FROM asked k WHERE k.destination = p.destination)
							   AND a.topic NOT IN (SELECT t.topic FROM stopped t WHERE t.destination = p.destination)
							   AND @extschema@.outbox_takes(p.destination, a.xid, a.topic))
					OR EXISTS (SELECT FROM waiting w
							   CROSS JOIN LATERAL (
									SELECT * FROM @extschema@.outbox_delivery x
									WHERE x.destination = w.destination AND x.topic = w.topic
									AND x.state = 'pending' ORDER BY x.topic, x.id LIMIT 100) d
							   WHERE w.destination = p.destination AND d.updated_at < old.at
							   AND w.topic NOT IN (SELECT t.topic FROM stopped t WHERE t.destination = p.destination)
							   AND (SELECT greatest(e.created_at, e.deliver_after)
									FROM @extschema@.outbox_event e WHERE e.id = d.id) < old.at
							   AND d.id NOT IN (SELECT k.event FROM asked k WHERE k.destination = p.destination)
							   AND NOT EXISTS (SELECT FROM @extschema@.outbox_delivery b
											   WHERE b.destination = p.destination
											   AND b.key = d.key AND b.id < d.id
											   AND b.state IN ('pending', 'in_progress', 'failed')
											   AND (b.topic = d.topic OR p.key_scope = 'all') OFFSET 0)
							   AND (p.dead_key_policy = 'skip'
									OR NOT EXISTS (SELECT FROM @extschema@.outbox_delivery b
												   WHERE b.destination = p.destination
												   AND b.key = d.key AND b.id < d.id AND b.state = 'dead'
												   AND (b.topic = d.topic OR p.key_scope = 'all') OFFSET 0)))),
			CASE WHEN s.backlog > 10000 THEN 'about ' ELSE '' END || s.backlog || ' events are not settled'
			|| coalesce(', the oldest for ' || (clock_timestamp() - s.oldest), ''),
			p.name
		FROM old CROSS JOIN p JOIN unnest(destinations) s ON s.name = p.name
		ORDER BY p.destination;
	EXCEPTION WHEN lock_not_available OR data_corrupted THEN
		unknown := CASE SQLSTATE WHEN '55P03' THEN 'a table is locked, see below' ELSE SQLERRM END;
	END;
	IF unknown IS NOT NULL THEN
		RETURN QUERY SELECT 'backlog moving', NULL::bool, 'not known: ' || unknown, NULL::text;
	END IF;

	-- a pause that the destination asks for is trouble if it does not end
	RETURN QUERY
	WITH topics AS (
		SELECT *, state = 'held' AND since > clock_timestamp() - interval '1 minute' AS well
		FROM @extschema@.outbox_topic_status()),
	relay AS (
		SELECT s.destination_id, s.topics_down, s.topics_held FROM @extschema@.outbox_relay_status() s
		JOIN pg_database d ON d.oid = s.datid
		WHERE d.datname = current_database() AND s.pid IS NOT NULL),
	one AS (
		SELECT p.name, p.destination AS id, relay.*
		FROM @extschema@.outbox_position p
		LEFT JOIN relay ON relay.destination_id = p.destination
		ORDER BY p.destination)
	SELECT 'topics open',
		topics_down = 0 AND NOT EXISTS (SELECT FROM topics t WHERE t.destination_id = one.id AND NOT t.well),
		CASE WHEN topics_down IS NULL THEN 'not known: no relay is running'
			WHEN topics_down + topics_held = 0 THEN 'no topic is down or held'
			ELSE topics_down || ' down, ' || topics_held || ' held'
				|| CASE WHEN topics_down + topics_held > (SELECT count(*) FROM topics t WHERE t.destination_id = one.id)
					THEN '; those that have been so for longest follow' ELSE '' END END,
		name
	FROM one
	UNION ALL
	SELECT 'topic "' || topic || '"', well,
		state || ' since ' || since || coalesce(', next try ' || next_try, '')
		|| coalesce(': ' || last_error, '')
		|| CASE state WHEN 'held' THEN '; the destination asked for this pause'
			ELSE '; see to its route, its rights or its consumer: it goes on by itself, and others do meanwhile' END,
		(SELECT name FROM one WHERE one.id = topics.destination_id)
	FROM topics;

	BEGIN
		RETURN QUERY
		SELECT 'events prunable', held_back = 0,
			CASE WHEN name IS NULL THEN 'not known: ' || unknown
				WHEN held_back = 0 THEN 'nothing is kept for longer than outbox.published_expire_time because of it'
				ELSE 'about ' || pg_size_pretty(held_back) || ' of events cannot be pruned before it has settled them'
					|| CASE state WHEN 'paused' THEN '; it is paused: outbox_resume()'
						ELSE '; outbox_topics has the oldest by topic, and outbox.abandon_after gives up what is too old' END END,
			name
		FROM unnest(destinations);
		RETURN QUERY
		SELECT 'topics routed', true,
			CASE WHEN bool_or('#' = ANY (topics) AND NOT EXISTS (SELECT FROM unnest(topics) t WHERE t LIKE '!%'))
				THEN 'a destination takes every topic'
				ELSE 'no destination takes every topic: events that none takes are unrouted, and pruned like published ones' END,
			NULL::text
		FROM (SELECT coalesce((SELECT f.topics FROM @extschema@.outbox_filter f
							   WHERE f.destination = n.id ORDER BY f.version DESC LIMIT 1), '{#}') AS topics
			  FROM @extschema@.outbox_destination_rows() n) d;
	EXCEPTION WHEN lock_not_available THEN
		RETURN QUERY SELECT 'topics routed', NULL::bool,
			'not known: a table is locked, see below', NULL::text;
	END;

	-- a few of them, and of a thousand what waits behind them
	BEGIN
		RETURN QUERY
		SELECT 'events alive', d.n = 0,
			CASE WHEN d.n = 0 THEN 'none is dead'
				ELSE CASE WHEN d.n > 10000 THEN 'more than 10000' ELSE d.n::text END
					|| ' are dead, the last since ' || d.last
					|| '; see to their last_error in outbox_events, then outbox_retry_dead(), or outbox_discard() each' END,
			p.name
		FROM @extschema@.outbox_position p
		CROSS JOIN LATERAL (
			SELECT count(*) AS n, max(x.updated_at) AS last
			FROM (SELECT b.updated_at FROM @extschema@.outbox_delivery b
				  WHERE b.destination = p.destination AND b.state = 'dead'
				  ORDER BY b.updated_at DESC LIMIT 10001) x) d
		ORDER BY p.destination;
		RETURN QUERY
		SELECT 'keys free', k.n = 0,
			CASE WHEN k.n = 0 THEN 'no key waits behind a dead event'
				ELSE CASE WHEN k.full THEN 'at least ' ELSE '' END || k.n
					|| ' wait behind a dead event, as outbox.dead_key_policy has it' END,
			p.name
		FROM @extschema@.outbox_position p
		CROSS JOIN LATERAL (
			SELECT count(DISTINCT (CASE WHEN p.key_scope = 'all' THEN '' ELSE x.topic END, x.key))
				FILTER (WHERE EXISTS (
					SELECT FROM @extschema@.outbox_delivery d
					WHERE d.destination = p.destination AND d.topic = x.topic AND d.key = x.key
					AND d.id > x.id AND d.state IN ('pending', 'in_progress', 'failed'))
					OR (p.key_scope = 'all' AND EXISTS (
					SELECT FROM @extschema@.outbox_delivery d
					WHERE d.destination = p.destination AND d.key = x.key
					AND d.id > x.id AND d.state IN ('pending', 'in_progress', 'failed')))) AS n,
				count(*) = 1000 AS full
			FROM (SELECT b.topic, b.key, b.id FROM @extschema@.outbox_delivery b
				  WHERE b.destination = p.destination AND b.state = 'dead' AND b.key IS NOT NULL
				  AND p.dead_key_policy <> 'skip' LIMIT 1000) x) k
		ORDER BY p.destination;
	EXCEPTION WHEN lock_not_available THEN
		RETURN QUERY SELECT 'events alive', NULL::bool,
			'not known: a table is locked, see below', NULL::text;
	END;

	-- the relay reads and writes (RowExclusiveLock), and prunes rows of outbox_event
	RETURN QUERY
	WITH locks AS (
		SELECT c.relname, l.mode, l.granted, l.pid, a.usename, a.xact_start,
			l.mode = 'RowShareLock' AS rows_only
		FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
		LEFT JOIN pg_stat_activity a ON a.pid = l.pid
		WHERE l.locktype = 'relation'
		AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
		AND l.relation IN ('@extschema@.outbox_event'::regclass, '@extschema@.outbox_delivery'::regclass,
						   '@extschema@.outbox_request'::regclass, '@extschema@.outbox_progress'::regclass,
						   '@extschema@.outbox_destination'::regclass, '@extschema@.outbox_filter'::regclass,
						   '@extschema@.outbox_restore'::regclass, '@extschema@.outbox_source'::regclass)
		AND (l.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
			 OR (l.mode = 'RowShareLock' AND l.relation = '@extschema@.outbox_event'::regclass))
		AND a.backend_type IS DISTINCT FROM 'outbox relay')
	SELECT 'tables free', count(*) = 0,
		CASE count(*) WHEN 0 THEN 'nobody has locked them'
			ELSE count(*) || ' locks are in the way' END,
		NULL::text
	FROM locks
	UNION ALL
	(SELECT 'lock on ' || relname, false,
		CASE WHEN pid IS NULL THEN 'a prepared transaction'
			ELSE 'pid ' || pid || coalesce(' (' || usename || ')', '') END
		|| CASE WHEN rows_only THEN ' has locked rows' WHEN granted THEN ' has ' || mode
			ELSE ' waits for ' || mode END
		|| coalesce(', in a transaction since ' || xact_start, '')
		|| CASE WHEN NOT granted
				THEN ', behind ' || array_to_string(array_replace(pg_blocking_pids(pid)::text[],
					'0', 'a prepared transaction'), ', ')
			ELSE '' END
		|| CASE WHEN rows_only THEN '; they are not pruned before that ends: '
			ELSE '; the relay waits for the end of that: ' END
		|| coalesce('SELECT pg_terminate_backend(' || pid || ')', 'see pg_prepared_xacts'),
		NULL
	FROM locks ORDER BY xact_start LIMIT 64);

	-- the lock of store_lock.c that pruning waits for
	RETURN QUERY
	WITH keepers AS (
		SELECT l.pid, a.usename, a.xact_start
		FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
		WHERE l.locktype = 'advisory' AND l.granted AND l.mode = 'ShareLock'
		AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
		AND l.classid = x'6f757462'::int AND l.objid = 2 AND l.objsubid = 4
		AND a.backend_type IS DISTINCT FROM 'outbox relay')
	SELECT 'pruning free', count(*) = 0,
		CASE count(*) WHEN 0 THEN 'nobody keeps it waiting'
			ELSE 'nothing is deleted before these transactions end, which have added or altered a destination, or replay: '
				|| string_agg(CASE WHEN pid IS NULL THEN 'a prepared one, see pg_prepared_xacts'
						ELSE 'pid ' || pid || coalesce(' (' || usename || ')', '') || coalesce(' since ' || xact_start, '')
							|| ', SELECT pg_terminate_backend(' || pid || ')' END, '; ' ORDER BY xact_start) END,
		NULL::text
	FROM keepers;

	RETURN QUERY
	SELECT 'triggers enabled', count(t.tgname) = 0,
		CASE WHEN count(t.tgname) = 0 THEN 'all of them are'
			ELSE string_agg('ALTER TABLE ' || t.tgrelid::regclass || ' ENABLE ALWAYS TRIGGER ' || quote_ident(t.tgname), '; '
							ORDER BY t.tgrelid, t.tgname) END,
		NULL::text
	FROM pg_extension x
	JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = x.oid
		AND d.classid = 'pg_class'::regclass AND d.deptype = 'e'
	LEFT JOIN pg_trigger t ON t.tgrelid = d.objid AND t.tgenabled <> 'A'
		AND EXISTS (SELECT FROM pg_depend f
					WHERE f.refclassid = 'pg_extension'::regclass AND f.refobjid = x.oid
					AND f.classid = 'pg_proc'::regclass AND f.objid = t.tgfoid AND f.deptype = 'e')
	WHERE x.extname = 'outbox';

	RETURN QUERY
	SELECT 'tables are heaps', bool_and(a.amname = 'heap'),
		CASE WHEN bool_and(a.amname = 'heap') THEN 'each has an access method that the relay can read'
			ELSE string_agg(c.oid::regclass || ' has ' || a.amname, ', ')
					FILTER (WHERE a.amname <> 'heap')
				|| '; ALTER TABLE ... SET ACCESS METHOD heap' END,
		NULL::text
	FROM pg_extension x
	JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = x.oid
		AND d.classid = 'pg_class'::regclass AND d.deptype = 'e'
	JOIN pg_class c ON c.oid = d.objid AND c.relkind = 'r'
	JOIN pg_am a ON a.oid = c.relam
	WHERE x.extname = 'outbox';

	BEGIN
		RETURN QUERY
		SELECT 'events readable', count(*) = 0,
			CASE WHEN count(*) = 0 THEN 'none is dead because it cannot be read'
				ELSE count(*) || ' cannot be read, and are dead: '
					|| (array_agg(DISTINCT last_error))[1] END,
			NULL::text
		FROM @extschema@.outbox_destination_rows() n
		CROSS JOIN LATERAL (
			SELECT b.last_error FROM @extschema@.outbox_delivery b
			WHERE b.destination = n.id AND b.state = 'dead'
			ORDER BY b.updated_at DESC LIMIT 10000) d
		WHERE starts_with(last_error, 'cannot be read: ');
	EXCEPTION WHEN lock_not_available THEN
		RETURN QUERY SELECT 'events readable', NULL::bool,
			'not known: a table is locked, see above', NULL::text;
	END;

	BEGIN
		RETURN QUERY
		SELECT 'events restored', true,
			CASE count(*) WHEN 0 THEN 'none lately'
				ELSE sum(events) || ' undelivered events were restored'
					|| CASE count(*) WHEN 1 THEN ' at ' || max(at)
						ELSE ' by ' || count(*) || ' transactions, from ' || min(at)
							|| ' to ' || max(at) END
					|| '; this database delivers them' END,
			NULL::text
		FROM @extschema@.outbox_restore;
	EXCEPTION WHEN lock_not_available THEN
		RETURN QUERY SELECT 'events restored', NULL::bool,
			'not known: a table is locked, see above', NULL::text;
	END;
END
$$;
COMMENT ON FUNCTION @extschema@.outbox_check() IS
'What is wrong, if anything: one row a check, with what to do; ok is NULL for what is not known yet. The first thing to run when events do not arrive.';

CREATE FUNCTION @extschema@.outbox_check_json() RETURNS pg_catalog.json
LANGUAGE sql VOLATILE
AS $$
SELECT pg_catalog.json_agg(c) FROM @extschema@.outbox_check() c
$$;
COMMENT ON FUNCTION @extschema@.outbox_check_json() IS
'The rows of outbox_check() as one value: an array of objects. For what takes one column, as run_command_on_all_nodes() of Citus.';

--
-- Citus: docs/citus.md
--

-- It takes no table with a trigger that depends on an extension, whatever is set:
-- so ours stay what they are, of each node its own.
ALTER TRIGGER outbox_drop_replicated ON @extschema@.outbox_event DEPENDS ON EXTENSION outbox;
ALTER TRIGGER outbox_drop_replicated ON @extschema@.outbox_delivery DEPENDS ON EXTENSION outbox;
ALTER TRIGGER outbox_drop_replicated ON @extschema@.outbox_request DEPENDS ON EXTENSION outbox;
ALTER TRIGGER outbox_drop_replicated ON @extschema@.outbox_progress DEPENDS ON EXTENSION outbox;
ALTER TRIGGER outbox_drop_replicated ON @extschema@.outbox_destination DEPENDS ON EXTENSION outbox;
ALTER TRIGGER outbox_drop_replicated ON @extschema@.outbox_filter DEPENDS ON EXTENSION outbox;
ALTER TRIGGER outbox_drop_replicated ON @extschema@.outbox_restore DEPENDS ON EXTENSION outbox;
ALTER TRIGGER outbox_drop_replicated ON @extschema@.outbox_source DEPENDS ON EXTENSION outbox;

-- The table is made by outbox_citus_setup().
CREATE FUNCTION @extschema@.outbox_citus_touch() RETURNS pg_catalog.trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	DELETE FROM @extschema@.outbox_citus_touch;
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION @extschema@.outbox_citus_touch() IS
'Writes nothing to a table that Citus knows, so that it commits this transaction by two-phase commit.';

CREATE FUNCTION @extschema@.outbox_citus_setup() RETURNS pg_catalog.void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	touch CONSTANT text := '@extschema@.outbox_citus_touch';
	holder oid;
BEGIN
	IF NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'citus') THEN
		RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
			MESSAGE = 'extension "citus" is not in this database';
	END IF;
	IF (SELECT groupid <> 0 FROM pg_dist_local_group) THEN
		RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
			MESSAGE = 'outbox_citus_setup() is for the coordinator, and this is a worker',
			HINT = 'On a worker, publish where the row is: in a distributed function or a trigger.';
	END IF;

	IF to_regclass(touch) IS NULL THEN
		CREATE TABLE @extschema@.outbox_citus_touch (nothing bool) USING heap;
		COMMENT ON TABLE @extschema@.outbox_citus_touch IS
			'Empty. A write to it has Citus commit by two-phase commit; made by outbox_citus_setup(). Private.';
	ELSIF (SELECT pg_get_userbyid(relowner) <> current_user FROM pg_class WHERE oid = to_regclass(touch)) THEN
		-- whose triggers would run as us
		RAISE EXCEPTION USING ERRCODE = 'duplicate_table',
			MESSAGE = format('relation "%s" belongs to somebody else', touch);
	END IF;
	PERFORM citus_add_local_table_to_metadata(to_regclass(touch));

	-- what ALTER DEFAULT PRIVILEGES has given, as for the tables of the extension
	FOR holder IN
		SELECT DISTINCT a.grantee FROM pg_class c, aclexplode(c.relacl) a
		WHERE c.oid = to_regclass(touch) AND a.grantee <> c.relowner
	LOOP
		EXECUTE format('REVOKE ALL ON %s FROM %s CASCADE', touch,
			CASE holder WHEN 0 THEN 'PUBLIC' ELSE holder::regrole::text END);
	END LOOP;

	IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgname = 'outbox_citus_touch'
				   AND tgrelid = '@extschema@.outbox_event'::regclass) THEN
		CREATE TRIGGER outbox_citus_touch BEFORE INSERT ON @extschema@.outbox_event
			FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.outbox_citus_touch();
		ALTER TABLE @extschema@.outbox_event ENABLE ALWAYS TRIGGER outbox_citus_touch;
	END IF;
END
$$;
COMMENT ON FUNCTION @extschema@.outbox_citus_setup() IS
'On a coordinator of Citus: has it commit each transaction that publishes here and writes on another node by two-phase commit, so that none of the two is lost. Does what is missing of it. Undone by outbox_citus_undo().';

CREATE FUNCTION @extschema@.outbox_citus_undo() RETURNS pg_catalog.void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	DROP TRIGGER IF EXISTS outbox_citus_touch ON @extschema@.outbox_event;
	IF (SELECT pg_get_userbyid(relowner) = current_user FROM pg_class
		WHERE oid = to_regclass('@extschema@.outbox_citus_touch')) THEN
		DROP TABLE @extschema@.outbox_citus_touch;
	END IF;
END
$$;
COMMENT ON FUNCTION @extschema@.outbox_citus_undo() IS
'Takes away what outbox_citus_setup() has made.';

--
-- Privileges: nothing for PUBLIC; publishing is granted by name
--

REVOKE ALL ON FUNCTION
	@extschema@.outbox_publish(pg_catalog.text, pg_catalog.jsonb, pg_catalog.text, pg_catalog.text, pg_catalog.uuid, pg_catalog.jsonb, pg_catalog.timestamptz, pg_catalog.timestamptz),
	@extschema@.outbox_publish_bytes(pg_catalog.text, pg_catalog.bytea, pg_catalog.text, pg_catalog.text, pg_catalog.text, pg_catalog.uuid, pg_catalog.jsonb, pg_catalog.timestamptz, pg_catalog.timestamptz),
	@extschema@.outbox_capture(),
	@extschema@.outbox_retry(pg_catalog.uuid, pg_catalog.text),
	@extschema@.outbox_retry_dead(pg_catalog.text, pg_catalog.text),
	@extschema@.outbox_discard(pg_catalog.uuid, pg_catalog.text),
	@extschema@.outbox_payload(pg_catalog.uuid),
	@extschema@.outbox_add_destination(pg_catalog.text, pg_catalog.text[], pg_catalog.jsonb, pg_catalog.bool),
	@extschema@.outbox_alter_destination(pg_catalog.text, pg_catalog.text[], pg_catalog.jsonb),
	@extschema@.outbox_drop_destination(pg_catalog.text),
	@extschema@.outbox_pause(pg_catalog.text),
	@extschema@.outbox_resume(pg_catalog.text),
	@extschema@.outbox_replay(pg_catalog.text, pg_catalog.text, pg_catalog.timestamptz),
	@extschema@.outbox_start_relay(),
	@extschema@.outbox_library(),
	@extschema@.outbox_relay_status(),
	@extschema@.outbox_latency_bounds(),
	@extschema@.outbox_topic_status(),
	@extschema@.outbox_topic_matches(pg_catalog.text, pg_catalog.text[]),
	@extschema@.outbox_takes(pg_catalog.int4, pg_catalog.xid8, pg_catalog.text),
	@extschema@.outbox_destination_rows(),
	@extschema@.outbox_unsettled(pg_catalog.int4, pg_catalog.pg_snapshot, pg_catalog.pg_snapshot, pg_catalog.int8, pg_catalog.int8[], pg_catalog.int8),
	@extschema@.outbox_count_new(),
	@extschema@.outbox_count_rows(),
	@extschema@.outbox_check(),
	@extschema@.outbox_check_json(),
	@extschema@.outbox_citus_touch(),
	@extschema@.outbox_citus_setup(),
	@extschema@.outbox_citus_undo(),
	@extschema@.outbox_event_insert(),
	@extschema@.outbox_event_update(),
	@extschema@.outbox_event_delete(),
	@extschema@.outbox_drop_replicated(),
	@extschema@.outbox_source_insert()
FROM PUBLIC;
-- ALTER DEFAULT PRIVILEGES may have given more than that to others: whoever
-- has TRIGGER on a table of ours runs code as its owner.
DO $$
DECLARE
	command pg_catalog.text;
BEGIN
	FOR command IN
		SELECT pg_catalog.format('REVOKE ALL ON %s FROM %s CASCADE', o.object,
								 a.grantee::pg_catalog.regrole)
		FROM (
			SELECT CASE WHEN c.relkind OPERATOR(pg_catalog.=) 'S'
						THEN 'SEQUENCE ' ELSE 'TABLE ' END
				   OPERATOR(pg_catalog.||) c.oid::pg_catalog.regclass::pg_catalog.text
				   AS object, d.refobjid, c.relowner AS owner, c.relacl AS acl
			FROM pg_catalog.pg_depend d
			JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) d.objid
			WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid
			AND d.deptype OPERATOR(pg_catalog.=) 'e'
			AND c.relkind OPERATOR(pg_catalog.=) ANY ('{r,v,S}'::pg_catalog."char"[])
			UNION ALL
			SELECT 'FUNCTION ' OPERATOR(pg_catalog.||) p.oid::pg_catalog.regprocedure::pg_catalog.text,
				   d.refobjid, p.proowner, p.proacl
			FROM pg_catalog.pg_depend d
			JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) d.objid
			WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass::pg_catalog.oid
			AND d.deptype OPERATOR(pg_catalog.=) 'e'
		) o, pg_catalog.aclexplode(o.acl) a
		WHERE o.refobjid OPERATOR(pg_catalog.=)
			  (SELECT x.oid FROM pg_catalog.pg_extension x
			   WHERE x.extname OPERATOR(pg_catalog.=) 'outbox')
		AND a.grantee OPERATOR(pg_catalog.<>) 0::pg_catalog.oid
		AND a.grantee OPERATOR(pg_catalog.<>) o.owner
		GROUP BY 1
	LOOP
		EXECUTE command;
	END LOOP;
END
$$;
GRANT EXECUTE ON FUNCTION
	@extschema@.outbox_library(),
	@extschema@.outbox_relay_status(),
	@extschema@.outbox_latency_bounds(),
	@extschema@.outbox_topic_status(),
	@extschema@.outbox_topic_matches(pg_catalog.text, pg_catalog.text[]),
	@extschema@.outbox_takes(pg_catalog.int4, pg_catalog.xid8, pg_catalog.text),
	@extschema@.outbox_destination_rows(),
	@extschema@.outbox_unsettled(pg_catalog.int4, pg_catalog.pg_snapshot, pg_catalog.pg_snapshot, pg_catalog.int8, pg_catalog.int8[], pg_catalog.int8),
	@extschema@.outbox_count_new(),
	@extschema@.outbox_count_rows(),
	@extschema@.outbox_check(),
	@extschema@.outbox_check_json()
TO pg_monitor;
-- whoever dumps chooses events by these
GRANT EXECUTE ON FUNCTION
	@extschema@.outbox_topic_matches(pg_catalog.text, pg_catalog.text[]),
	@extschema@.outbox_takes(pg_catalog.int4, pg_catalog.xid8, pg_catalog.text),
	@extschema@.outbox_destination_rows()
TO pg_read_all_data;
REVOKE ALL ON @extschema@.outbox_event, @extschema@.outbox_delivery,
	@extschema@.outbox_request, @extschema@.outbox_progress,
	@extschema@.outbox_destination, @extschema@.outbox_filter,
	@extschema@.outbox_restore, @extschema@.outbox_source FROM PUBLIC;
GRANT SELECT ON @extschema@.outbox_events, @extschema@.outbox_failures,
	@extschema@.outbox_relays,
	@extschema@.outbox_topics, @extschema@.outbox_stats, @extschema@.outbox_latency,
	@extschema@.outbox_destinations TO pg_monitor;
