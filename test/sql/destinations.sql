-- Promise: destinations are checked when they are defined: names, patterns of topics,
-- settings by their own checks, and the rights of who defines them.
SET client_min_messages = warning;
CREATE EXTENSION outbox;
RESET client_min_messages;
\pset format unaligned
\pset tuples_only on
\set VERBOSITY sqlstate

-- patterns
SELECT format('%-14s %-14s %s', p, t, outbox_topic_matches(t, ARRAY[p]))
FROM unnest('{#,*,a,a.*,a.#,#.b,a.#.c,*.*,#.#,a.*.#,a..b,a.#.#.d}'::text[]) p,
	unnest('{a,a.b,a.b.c,b,a..b,a.c,a.x.y.c,a.c.d}'::text[]) t
WHERE outbox_topic_matches(t, ARRAY[p])
ORDER BY p COLLATE "C", t COLLATE "C";
SELECT outbox_topic_matches('a.b', '{#,!a.#}'), outbox_topic_matches('b', '{#,!a.#}'),
	outbox_topic_matches('b', '{!a.#,#}'), outbox_topic_matches('b', '{!a}'), outbox_topic_matches('b', '{}');

-- names and patterns that are none
SELECT outbox_add_destination('');
SELECT outbox_add_destination('Big');
SELECT outbox_add_destination(repeat('x', 64));
SELECT outbox_add_destination(NULL);
SELECT outbox_add_destination('default');
SELECT outbox_add_destination('x', '{a,NULL}');
SELECT outbox_add_destination('x', '{""}');
SELECT outbox_add_destination('x', '{!}');
SELECT outbox_add_destination('x', '{a.b*}');
SELECT outbox_add_destination('x', ARRAY[repeat('a', 256)]);
SELECT outbox_add_destination('x', NULL);

-- settings
SELECT outbox_add_destination('x', settings => '[]');
SELECT outbox_add_destination('x', settings => '{"nothing": 1}');
SELECT outbox_add_destination('x', settings => '{"outbox.http_url": "http://h/"}');
SELECT outbox_add_destination('x', settings => '{"work_mem": "1MB"}');
SELECT outbox_add_destination('x', settings => '{"http_url": "ftp://h/"}');
SELECT outbox_add_destination('x', settings => '{"http_url": {}}');
SELECT outbox_add_destination('x', settings => '{"max_in_flight": 0}');
SELECT outbox_add_destination('x', settings => '{"max_relays": 5}');
SELECT outbox_add_destination('x', settings => '{"enabled": false}');
SELECT outbox_add_destination('x', settings => '{"published_expire_time": 1}');
SELECT outbox_alter_destination('default', settings => '{"max_in_flight": 1}');

-- what is well
SELECT outbox_add_destination('x', '{a.#}', '{"http_url": "http://h/", "max_in_flight": 3, "key_scope": "all"}');
SELECT outbox_add_destination('x');
SELECT outbox_alter_destination('x', '{b}', '{"max_in_flight": null, "batch_size": 5}');
SELECT outbox_alter_destination('x', settings => '{"batch_size": "many"}');
SELECT name, topics, settings FROM outbox_destinations ORDER BY name;
SELECT outbox_alter_destination('y');
SELECT outbox_drop_destination('y');
SELECT outbox_drop_destination('default');
SELECT outbox_pause('y');
SELECT outbox_resume('y');
SELECT outbox_replay('y');
SELECT outbox_replay('x', 'a*');

-- rights: EXECUTE is not enough to define one, but to run one
CREATE ROLE regress_outbox_destination;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO regress_outbox_destination;
SET ROLE regress_outbox_destination;
SELECT outbox_add_destination('mine');
SELECT outbox_alter_destination('x', '{#}');
SELECT outbox_drop_destination('x');
SELECT outbox_pause('x');
SELECT outbox_resume('x');
SELECT outbox_replay('x');
RESET ROLE;
SELECT outbox_drop_destination('x');
SELECT name FROM outbox_destinations;
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA public FROM regress_outbox_destination;
DROP ROLE regress_outbox_destination;
SET client_min_messages = warning;
DROP EXTENSION outbox;
