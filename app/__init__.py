"""Stepstream: runs multi-step workflows, streams every step live, keeps a durable record of each run."""
