"""Shows on a coordinator and three workers of Citus what docs/citus.md says.  Run by tools/check-citus.

Each promise is a function; together they are one story, in their order, on one cluster.
"""

import argparse
import itertools
import json
import sys
import traceback

import kills
from cluster import Cluster

WORKERS = 3
ROWS = 20
REFUSED = ('0A000', 'cannot publish in a query that Citus runs on another node')
fresh_ids = itertools.count(10 ** 6)


class Broken(Exception):
    pass


def expect(found, wanted, what):
    if found != wanted:
        raise Broken(f'{what}: {found!r} in place of {wanted!r}')


def stored(cluster, topic):
    """How many events of the topic each node has."""
    return [node.execute('SELECT count(*) FROM outbox.outbox_event WHERE topic = %s', topic)[0][0]
            for node in cluster.nodes]


def extension_on_all_nodes(cluster):
    """CREATE EXTENSION on the coordinator makes it on all nodes, and on those that come later; each has a relay"""
    for worker in cluster.workers[:-1]:
        cluster.add_worker(worker)
    cluster.coordinator.execute('CREATE SCHEMA outbox')
    cluster.coordinator.execute('CREATE EXTENSION outbox SCHEMA outbox')
    cluster.add_worker(cluster.workers[-1])
    cluster.await_relays()


def check_of_all_nodes(cluster):
    """outbox_check_json() tells of all nodes"""
    rows = cluster.coordinator.execute(
        "SELECT success, result FROM run_command_on_all_nodes('SELECT outbox.outbox_check_json()')")
    expect(len(rows), len(cluster.nodes), 'nodes')
    for success, result in rows:
        expect(success, True, result)
        expect([row['ok'] for row in json.loads(result) if row['check'] == 'relay alive'], [True], 'relays')


def private_tables(cluster):
    """the private tables refuse to be Citus' tables, whatever is set"""
    tables = cluster.coordinator.execute(
        "SELECT c.oid::regclass::text, a.attname FROM pg_depend d"
        " JOIN pg_class c ON c.oid = d.objid AND c.relkind = 'r'"
        " JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = 1"
        " JOIN pg_extension x ON x.oid = d.refobjid AND x.extname = 'outbox'"
        " WHERE d.refclassid = 'pg_extension'::regclass AND d.classid = 'pg_class'::regclass")
    for value in ('off', 'on'):
        sets = [f'SET citus.{name} = {value}' for name in (
            'enable_unsafe_triggers', 'use_citus_managed_tables', 'enable_schema_based_sharding')]
        for table, column in tables:
            for how in (f"create_distributed_table('{table}', '{column}')",
                        f"create_distributed_table('{table}', NULL)",
                        f"create_distributed_table_concurrently('{table}', '{column}')",
                        f"create_reference_table('{table}')",
                        f"citus_add_local_table_to_metadata('{table}')"):
                error = cluster.coordinator.error(*sets, f'SELECT {how}')
                if error is None or 'trigger' not in error[1]:
                    raise Broken(f'{how}, with {value}: {error}')
        if cluster.coordinator.error(*sets, "SELECT citus_schema_distribute('outbox')") is None:
            raise Broken(f'citus_schema_distribute() was accepted, with {value}')
    expect(cluster.coordinator.execute(
        "SELECT logicalrelid::text FROM pg_dist_partition WHERE logicalrelid::text LIKE '%%outbox%%'"), [], 'tables')


def pushed_down_is_refused(cluster):
    """publishing in a query that is pushed down is refused, and nothing is published; a command on nodes may"""
    query = cluster.coordinator.execute
    query('CREATE TABLE orders (id bigint PRIMARY KEY, note text)')
    query("SELECT create_distributed_table('orders', 'id')")
    query('INSERT INTO orders SELECT i FROM generate_series(1, %s) i', ROWS)
    query("CREATE FUNCTION wrapped(id bigint) RETURNS uuid LANGUAGE plpgsql AS"
          " $$ BEGIN RETURN outbox.outbox_publish('refused', to_jsonb(id)); END $$")
    publish = "outbox.outbox_publish('refused', to_jsonb(id))"
    robin = "SET citus.task_assignment_policy = 'round-robin'"
    for statements in (
            [f'SELECT {publish} FROM orders'],
            [f'SELECT {publish} FROM orders WHERE id = 1'],
            ['BEGIN', f'SELECT {publish} FROM orders'],
            ['SELECT wrapped(id) FROM orders'],
            [f'SELECT count(*) FROM (SELECT {publish} FROM orders OFFSET 0) x'],
            [f'COPY (SELECT {publish} FROM orders) TO PROGRAM $$cat >/dev/null$$'],
            [f'EXPLAIN ANALYZE SELECT {publish} FROM orders'],
            [f'INSERT INTO orders SELECT id + 1000, {publish}::text FROM orders'],
            [robin, f'WITH x AS MATERIALIZED (SELECT id FROM orders) SELECT {publish} FROM x']):
        expect(cluster.coordinator.error(*statements), REFUSED, statements[-1])
    expect(stored(cluster, 'refused'), [0] * len(cluster.nodes), 'events of refused queries')

    # what somebody has other nodes do by a command of theirs is meant
    query('SELECT run_command_on_workers($$%s$$)' % "SELECT outbox.outbox_publish('asked', '1') FROM pg_class LIMIT 1")
    expect(stored(cluster, 'asked'), [0, 1, 1, 1], 'events of run_command_on_workers()')
    query("SELECT run_command_on_shards('orders',"
          " $$SELECT count(outbox.outbox_publish('shards', to_jsonb(id))) FROM %s$$)")
    expect(sum(stored(cluster, 'shards')), ROWS, 'events of run_command_on_shards()')


def coordinator_publishes(cluster):
    """what the hint of the refusal says is published on the coordinator"""
    query = cluster.coordinator.execute
    query("WITH x AS MATERIALIZED (SELECT id FROM orders)"
          " SELECT outbox.outbox_publish('here', to_jsonb(id)) FROM x")
    query("WITH x AS (INSERT INTO orders SELECT id + 100 FROM orders RETURNING id)"
          " SELECT outbox.outbox_publish('here', to_jsonb(id)) FROM x")
    query("INSERT INTO outbox.outbox_event (topic, payload) SELECT 'here', to_jsonb(id) FROM orders")
    expect(stored(cluster, 'here'), [4 * ROWS, 0, 0, 0], 'events on nodes')


def workers_publish(cluster):
    """delegated functions and procedures, and triggers, publish where the row is, with that node's source"""
    query = cluster.coordinator.execute
    query("CREATE FUNCTION place(new_id bigint) RETURNS SETOF uuid LANGUAGE plpgsql AS $$ BEGIN"
          " INSERT INTO orders VALUES (new_id);"
          " RETURN NEXT outbox.outbox_publish('there', to_jsonb(o.id)) FROM orders o WHERE o.id = new_id; END $$")
    query("CREATE PROCEDURE place_proc(new_id bigint) LANGUAGE plpgsql AS $$ BEGIN"
          " PERFORM place(new_id); END $$")
    for function in ('place(bigint)', 'place_proc(bigint)'):
        query(f"SELECT create_distributed_function('{function}', 'new_id', 'orders')")
    for n in range(ROWS):
        query(f'SELECT place({1000 + n})')
        query(f'SELECT * FROM place({2000 + n})')
        query(f'CALL place_proc({3000 + n})')

    query("CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS"
          " $$ BEGIN PERFORM outbox.outbox_publish('there', to_jsonb(NEW.id)); RETURN NULL; END $$")
    cluster.coordinator.run('SET citus.enable_unsafe_triggers = on',
                            'CREATE TRIGGER tell AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION tell()')
    query('INSERT INTO orders SELECT i FROM generate_series(4001, 4000 + %s) i', ROWS)
    query('INSERT INTO orders SELECT id + 1000, note FROM orders WHERE id BETWEEN 4001 AND 4999')
    query('WITH x AS (INSERT INTO orders VALUES (6000) RETURNING id) SELECT id FROM x')
    query('COPY orders (id) FROM PROGRAM $$seq 6001 %s$$', 6000 + ROWS)

    on_nodes = stored(cluster, 'there')
    expect(sum(on_nodes), 6 * ROWS + 1, 'events')
    expect([n > 0 for n in on_nodes], [False, True, True, True], f'nodes of {on_nodes} with events')
    cluster.settle()
    sources = [source for _, source in cluster.taken('there').values()]
    expect([sources.count(f'/{node.name}') for node in cluster.nodes], on_nodes, 'events taken from nodes')


def grant_is_not_propagated(cluster):
    """GRANT on a function is for one node; run_command_on_workers() is for the others"""
    grant = 'GRANT EXECUTE ON FUNCTION outbox.outbox_publish TO app'
    can = "SELECT has_function_privilege('app', oid, 'EXECUTE') FROM pg_proc WHERE proname = 'outbox_publish'"
    cluster.coordinator.execute('CREATE ROLE app')
    cluster.coordinator.execute(grant)
    expect([node.execute(can)[0][0] for node in cluster.nodes], [True, False, False, False], 'may publish')
    cluster.coordinator.execute('SELECT run_command_on_workers(%s)', grant)
    expect([node.execute(can)[0][0] for node in cluster.nodes], [True] * 4, 'may publish')


def commits_in_two_phases(cluster):
    """Does Citus, when one shard is written and an event is published on the coordinator?"""
    said = cluster.coordinator.run(
        'BEGIN', "SELECT outbox.outbox_publish('setup', '1')",
        f'INSERT INTO orders VALUES ({next(fresh_ids)})',
        'SET LOCAL citus.log_remote_commands = on', 'COMMIT')
    return any('PREPARE TRANSACTION' in notice for notice in said)


def setup(cluster):
    """outbox_citus_setup() has one shard and an event committed in two phases; it can be repeated and undone"""
    coordinator = cluster.coordinator
    expect(cluster.workers[0].error('SELECT outbox.outbox_citus_setup()'),
           ('55000', 'outbox_citus_setup() is for the coordinator, and this is a worker'), 'on a worker')
    for function, wanted in (('setup', True), ('undo', False), ('setup', True)):
        for _ in range(2):
            coordinator.execute(f'SELECT outbox.outbox_citus_{function}()')
        expect(commits_in_two_phases(cluster), wanted, f'two phases after outbox_citus_{function}()')

    # what a restored dump of the coordinator has
    coordinator.execute('SELECT outbox.outbox_citus_undo()')
    coordinator.execute('CREATE TABLE outbox.outbox_citus_touch (nothing bool)')
    coordinator.execute('SELECT outbox.outbox_citus_setup()')
    expect(commits_in_two_phases(cluster), True, 'two phases with a table that was there')


def setup_is_ours(cluster):
    """nobody else has a right on what outbox_citus_setup() makes, and a table of somebody else is not taken for it"""
    coordinator = cluster.coordinator
    coordinator.execute('SELECT outbox.outbox_citus_undo()')
    coordinator.execute('GRANT CREATE, USAGE ON SCHEMA outbox TO app')
    coordinator.run('SET ROLE app', 'CREATE TABLE outbox.outbox_citus_touch ()')
    expect(coordinator.error('SELECT outbox.outbox_citus_setup()'),
           ('42P07', 'relation "outbox.outbox_citus_touch" belongs to somebody else'), 'a table of another user')
    coordinator.execute('SELECT outbox.outbox_citus_undo()')
    coordinator.execute('DROP TABLE outbox.outbox_citus_touch')

    coordinator.execute('ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO app, PUBLIC')
    coordinator.execute('SELECT outbox.outbox_citus_setup()')
    coordinator.execute('ALTER DEFAULT PRIVILEGES REVOKE ALL ON TABLES FROM app, PUBLIC')
    for node in cluster.nodes:
        with node.session() as cursor:
            cursor.execute('SET citus.override_table_visibility = off')
            cursor.execute("SELECT c.relname FROM pg_class c, aclexplode(c.relacl) a"
                           " WHERE c.relname LIKE 'outbox_citus_touch%' AND a.grantee <> c.relowner")
            expect(cursor.fetchall(), [], f'rights of others on {node.name}')


def made_again(cluster):
    """the extension can be dropped and made again, and be set up with the table that it left behind"""
    coordinator = cluster.coordinator
    coordinator.execute('DROP EXTENSION outbox')
    coordinator.execute('CREATE EXTENSION outbox SCHEMA outbox')
    cluster.await_relays()
    expect(commits_in_two_phases(cluster), False, 'two phases before')
    coordinator.execute('SELECT outbox.outbox_citus_setup()')
    expect(commits_in_two_phases(cluster), True, 'two phases after')


def killed(cluster):
    """one row and one event a transaction while shards move and nodes are killed: none is lost or without its row"""
    found = kills.run(cluster)
    for way, (rows, *wrong) in found.items():
        print(f'#   {way}: {rows} rows; events lost, without a row, twice: {wrong}', flush=True)
    expect([wrong for _, *wrong in found.values()], [[0, 0, 0]] * len(found), 'wrong')


PROMISES = (extension_on_all_nodes, check_of_all_nodes, private_tables, pushed_down_is_refused, coordinator_publishes,
            workers_publish, grant_is_not_propagated, setup, setup_is_ours, killed, made_again)


def run(options, directory):
    """0 if every promise was kept.  What follows a broken one may be broken by it, and is not tried."""
    cluster = Cluster(options, directory, WORKERS)
    try:
        cluster.start()
        version, = cluster.coordinator.execute('SELECT citus_version() || $$, PostgreSQL $$'
                                               " || current_setting('server_version')")[0]
        print(f'# {version}', flush=True)
        for number, promise in enumerate(PROMISES, 1):
            try:
                promise(cluster)
            except Exception as error:
                print(f'not ok {number} - {promise.__doc__}\n#   {error}', flush=True)
                if not isinstance(error, Broken):
                    traceback.print_exc()
                return 1
            print(f'ok {number} - {promise.__doc__}', flush=True)
        return 0
    finally:
        cluster.remove()


def main():
    parser = argparse.ArgumentParser(description='See that outbox does on Citus what docs/citus.md says.')
    parser.add_argument('--bindir', required=True, help="PostgreSQL's programs")
    parser.add_argument('--temp-config', required=True, help='settings by which a server finds outbox and Citus')
    parser.add_argument('--directory', required=True, help='where to work')
    options = parser.parse_args()
    print(f'1..{len(PROMISES)}', flush=True)
    return run(options, options.directory)


if __name__ == '__main__':
    sys.exit(main())
