"""The engine: an async shell round the planner. No SQL, no HTTP framework; it meets the world through `ports`.

Main path, top to bottom: `orchestrator` claims executions, `driver` lives one of them, `attempt` makes one attempt of a
step. `leases` keeps this process the owner of what it claimed, `rescuer` hands back what a dead process owned.
"""
