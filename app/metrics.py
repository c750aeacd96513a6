"""The Prometheus metrics of this process. Whoever knows a fact counts it here; `/metrics` shows them."""

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)

executions_started = Counter("stepstream_executions_started", "Executions accepted by this process")
executions_finished = Counter("stepstream_executions_finished", "Executions ended by this process", ["status"])
execution_duration = Histogram(
    "stepstream_execution_duration_seconds", "From start to end of an execution", buckets=_SECONDS
)
step_attempts = Counter("stepstream_step_attempts", "Ended attempts of steps", ["type", "result"])
tokens = Counter("stepstream_tokens", "Model tokens consumed")
cost_usd = Counter("stepstream_cost_usd", "Cost of model calls in US dollars")
leases_lost = Counter("stepstream_leases_lost", "Leases of this process that others took over")
queue_depth = Gauge("stepstream_queue_depth", "Executions that wait for an owner")
queue_oldest_age = Gauge("stepstream_queue_oldest_age_seconds", "Age of the oldest of them")
executions_running = Gauge("stepstream_executions_running", "Executions driven by this process now")
stream_subscribers = Gauge("stepstream_stream_subscribers", "Open streams of this process")
flush_batch_size = Histogram(
    "stepstream_flush_batch_size", "Transitions in one commit", buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500)
)
flush_seconds = Histogram(
    "stepstream_flush_seconds", "Duration of one commit", buckets=(0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2)
)


def observe_flush(size: int, seconds: float) -> None:
    """One group commit."""
    flush_batch_size.observe(size)
    flush_seconds.observe(seconds)
