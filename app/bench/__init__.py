"""How fast this is, measured beside the limit of the same machine in the same run: `stepstream bench`.

The limit is a bare program that writes the same rows in as few durable group commits (`app.bench.limit`). What is
measured and what limits it take turns, round by round, on one Postgres with its usual durability; after each turn the
rows are counted. Ratios hold from machine to machine, figures do not.
"""
