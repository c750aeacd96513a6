"""The use cases, each given what it needs."""

from collections.abc import Callable

from app.auth.authenticator import Authenticator
from app.auth.passwords import Passwords
from app.auth.rates import Rate, Rates
from app.auth.sealing import MasterKeys
from app.auth.sessions import Sessions
from app.auth.throttle import SignInThrottle
from app.auth.tickets import StreamTickets
from app.auth.tokens import AccessTokens
from app.db.credentials import Credentials
from app.db.execution_reader import ExecutionReader
from app.engine.definitions import Definitions
from app.engine.orchestrator import Orchestrator
from app.services import Services
from app.services.api_keys import ApiKeys
from app.services.approvals import Approvals
from app.services.audit import Audit
from app.services.budgets import DayBudgets
from app.services.bulk import Bulk
from app.services.control import Control
from app.services.executions import Executions
from app.services.health import Health
from app.services.identity import Identity
from app.services.insight import Insight
from app.services.lineage import Lineages
from app.services.run_facts import Limits
from app.services.secrets import Secrets
from app.services.starts import Starts
from app.services.streams import Streams
from app.services.workflows import Workflows
from app.settings import Settings
from app.steps.registry import StepRegistry
from app.streaming.places import StreamPlaces
from app.wiring.storage import Storage

RATE_SECONDS = 10
"""The period that limits of requests are counted over."""


def make_services(
    settings: Settings,
    storage: Storage,
    orchestrator: Orchestrator,
    definitions: Definitions,
    steps: StepRegistry,
    storage_full: Callable[[], bool],
) -> Services:
    """The use cases, on the storage and the engine."""
    tenancy = storage.tenancy
    credentials, tokens = Credentials(storage.auth_pool), AccessTokens(settings.secret, settings.access_token_ttl)
    authenticator = Authenticator(credentials, tokens)
    audit, reader = Audit(tenancy), ExecutionReader(storage.reads)
    executions, streams = Executions(tenancy, reader, definitions), _streams(settings, storage, reader)
    secrets = Secrets(tenancy, MasterKeys(settings.master_secrets), audit)
    starts = Starts(
        secrets=secrets,
        executions=executions,
        workflows=storage.source,
        definitions=definitions,
        recorder=storage.recorder,
        quota=storage.quota,
        accept=orchestrator.accept,
    )
    lineages = Lineages(tenancy, starts, audit)
    return Services(
        authenticator=authenticator,
        rates=_rates(settings),
        tickets=StreamTickets(credentials, authenticator),
        identity=_identity(settings, storage, credentials, tokens),
        api_keys=ApiKeys(tenancy, audit),
        secrets=secrets,
        audit=audit,
        workflows=Workflows(tenancy, definitions, steps, secrets, audit),
        executions=executions,
        starts=starts,
        control=Control(tenancy, definitions, audit),
        lineages=lineages,
        budgets=DayBudgets(tenancy, audit, orchestrator.budgets.refresh),
        bulk=Bulk(tenancy, lineages, audit),
        approvals=Approvals(tenancy, audit),
        insight=_insight(settings, storage, definitions, steps),
        streams=streams,
        health=Health(
            storage.probe,
            storage.queue.depth,
            lambda: orchestrator.lease_trusted,
            streams.draining.is_set,
            storage_full,
        ),
    )


def _rates(settings: Settings) -> Rates:
    return Rates(
        callers=Rate("requests", settings.max_request_rate, RATE_SECONDS),
        strangers=Rate("refused", settings.max_refused_rate, RATE_SECONDS),
    )


def _identity(settings: Settings, storage: Storage, credentials: Credentials, tokens: AccessTokens) -> Identity:
    passwords = Passwords()
    sessions = Sessions(credentials, tokens, passwords, SignInThrottle(), refresh_ttl=settings.refresh_token_ttl)
    return Identity(sessions=sessions, passwords=passwords, credentials=credentials, tenancy=storage.tenancy)


def _streams(settings: Settings, storage: Storage, reader: ExecutionReader) -> Streams:
    places = StreamPlaces(settings.max_streams_per_user, settings.max_streams_per_org)
    return Streams(reader, storage.hub, storage.log, places)


def _insight(settings: Settings, storage: Storage, definitions: Definitions, steps: StepRegistry) -> Insight:
    limits = Limits(settings.max_running_per_user, settings.max_running_per_org, settings.cancel_grace)
    return Insight(
        storage.tenancy,
        definitions,
        limits,
        {spec.type: spec.result_keys for spec in steps.specs() if spec.result_keys},
    )
