"""DuckDB in memory: group-by, join, window and order over generated tables."""

from __future__ import annotations

import duckdb

ROWS = 6_000_000

QUERIES = (
    "SELECT count(*), sum(amount), count(DISTINCT client) FROM orders",
    "SELECT client % 1000 AS team, count(*), sum(amount), max(note) FROM orders GROUP BY team ORDER BY team LIMIT 5",
    """SELECT sum(hash(client, total, place) % 1000003) FROM (
        SELECT client, total, row_number() OVER (PARTITION BY client % 5000 ORDER BY total DESC, client) AS place
        FROM (SELECT client, sum(amount) AS total FROM orders GROUP BY client))""",
    """SELECT o.id, o.note, c.name FROM orders o JOIN clients c USING (client)
        ORDER BY o.note, o.id LIMIT 5 OFFSET 3000000""",
)


def main() -> None:
    database = duckdb.connect(":memory:", config={"threads": 2, "memory_limit": "4GB", "temp_directory": ""})
    database.execute(f"""CREATE TABLE orders AS SELECT
        i AS id, hash(i) % 800000 AS client, hash(i * 7) % 10000 AS amount,
        'note ' || (hash(i * 13) % 100000) || ' of ' || i AS note FROM range({ROWS}) t(i)""")
    database.execute("CREATE TABLE clients AS SELECT i AS client, 'client ' || i AS name FROM range(800000) t(i)")
    for query in QUERIES:
        for row in database.execute(query).fetchall():
            print(row)


if __name__ == "__main__":
    main()
