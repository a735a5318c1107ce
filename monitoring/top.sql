-- What outbox does, anew each second: a line for each destination of this database, and
-- below it one for each of its topics with the most trouble, ten of them at most.
--
--	psql -Xqf top.sql shop
--
-- rate/s is over the last minute, oldest for how long an event has been due; ~ is an
-- estimate.
\pset null ''
\pset border 0
\pset footer off
SELECT rpad(name, 20) AS "destination, topic", state, rate AS "rate/s",
       in_flight AS flight, lpad(backlog, 8) AS " backlog",
       make_interval(secs => trunc(extract(epoch FROM age))) AS oldest, dead,
       left(regexp_replace(error, '\s+', ' ', 'g'), 24) AS "last error"
FROM (
    SELECT s.destination, 0 AS n, s.destination AS name,
           COALESCE(r.state, 'no relay') AS state, round(s.rate::numeric, 1) AS rate,
           r.in_flight, CASE WHEN s.backlog_exact THEN '' ELSE '~' END || s.backlog AS backlog,
           s.oldest_unsettled_age AS age, s.dead, r.last_error AS error
    FROM outbox.outbox_stats s
    LEFT JOIN outbox.outbox_relays r
        ON r.destination = s.destination AND r.datname = current_database()
    UNION ALL
    SELECT t.destination, t.n, '  ' || t.topic, t.state, NULL,
           t.in_flight, CASE WHEN t.exact THEN '' ELSE '~' END || t.pending,
           clock_timestamp() - t.oldest, t.dead, t.last_error
    FROM (SELECT *, row_number() OVER (PARTITION BY destination
              ORDER BY state = 'down' DESC NULLS LAST, dead DESC, pending DESC, topic) AS n
          FROM outbox.outbox_topics) t
    WHERE t.n <= 10
) line
ORDER BY destination = 'default' DESC, destination, n
\watch 1
