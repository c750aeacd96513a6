"""The limit: what this machine and this Postgres allow, by a program that does nothing but write the rows.

One process, group commits without a timer, one prepared statement a batch, every write fenced by owner, epoch and write
number. It has no planner, no expressions, no tenants, no limits and no streams.
"""
