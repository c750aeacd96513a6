"""The use cases, shared by API, CLI and whatever else drives the product. Wired once, by the root."""

from dataclasses import dataclass

from app.auth.authenticator import Authenticator
from app.auth.rates import Rates
from app.auth.tickets import StreamTickets
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
from app.services.secrets import Secrets
from app.services.starts import Starts
from app.services.streams import Streams
from app.services.workflows import Workflows


@dataclass(frozen=True, slots=True)
class Services:
    """Everything a request may ask for."""

    authenticator: Authenticator
    rates: Rates
    tickets: StreamTickets
    identity: Identity
    api_keys: ApiKeys
    secrets: Secrets
    audit: Audit
    workflows: Workflows
    executions: Executions
    starts: Starts
    control: Control
    lineages: Lineages
    budgets: DayBudgets
    bulk: Bulk
    approvals: Approvals
    insight: Insight
    streams: Streams
    health: Health
