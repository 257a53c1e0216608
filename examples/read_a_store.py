"""What lies in a run's store? Its tables in DuckDB, joined as one likes; needs the package `duckdb`.

python examples/read_a_store.py RUN [--store store]
"""

import argparse

import duckdb

import prefprobe as pp


def main() -> None:
    """Utilities by topic, and the choices that went most against them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--store", default="store")
    options = parser.parse_args()

    run = pp.Run.open(options.store, options.run)
    tables = duckdb.connect()
    for name, node, file in (
        ("topics", "topics", "topics.parquet"),
        ("utilities", "measure.train", "utilities.parquet"),
        ("choices", "measure.train", "choices.parquet"),
    ):
        tables.register(name, run.table(node, file))  # an Arrow table, its bytes checked against their digest

    print(f"run {run.id}: mean utility by topic")
    by_topic = """
        SELECT topic, count(*) AS n, round(avg(mu), 3) AS mean_mu
        FROM utilities JOIN topics ON topics.id = utilities.task_id
        GROUP BY topic ORDER BY mean_mu DESC
    """
    print(tables.sql(by_topic))
    print("the least expected choices")
    unexpected = """
        SELECT task_a, task_b, round(p_a, 3) AS p_a, round(a.mu - b.mu, 3) AS mu_a_less_mu_b
        FROM choices
        JOIN utilities a ON a.task_id = task_a
        JOIN utilities b ON b.task_id = task_b
        WHERE p_a IS NOT NULL
        ORDER BY (p_a - 0.5) * (a.mu - b.mu) LIMIT 5
    """
    print(tables.sql(unexpected))


if __name__ == "__main__":
    main()
