"""The values of secrets, from where they are kept to the step that sends them, and to nobody else.

A value is looked up when an attempt begins, so that a secret replaced or deleted is so within CACHE_SECONDS. Before a
step sees a value, the scrubber of its execution knows it. So that this also holds for steps that get a value back
without having sent it, also in another process after a restart, a driver first makes known all secrets that its
workflow names; they are written in the definition, so none comes as a surprise. The value before the last replacement
is known as well.
"""

import asyncio
from collections.abc import Collection, Mapping
from typing import Any

import structlog

from app import clock
from app.domain.compiled import CompiledStep
from app.domain.errors import StepError, Unavailable
from app.domain.scrubbing import Scrubber
from app.domain.secrets import OpenedSecret, SecretUse, StoredSecret, place
from app.domain.steps import Done, Sleep
from app.domain.waits import Await
from app.engine.ports import SecretVault
from app.engine.step_types import Run, StepContext

CACHE_SECONDS = 2.0
AGAIN_SECONDS = 0.5
USED_SECONDS = 60.0
"""A use is noted at most this often."""

log = structlog.get_logger("engine")


class Secrets:
    """Opened secrets of all organisations, each for a moment."""

    def __init__(self, vault: SecretVault) -> None:
        self._vault = vault
        self._kept: dict[tuple[str, str], tuple[float, StoredSecret]] = {}
        self._noted: dict[tuple[str, str], float] = {}
        self._turn = asyncio.Lock()

    async def make_known(self, org_id: str, names: Collection[str], scrubber: Scrubber) -> None:
        """Let the scrubber know every value of these secrets; raises Unavailable."""
        found = await self._find(org_id, names)
        scrubber.learn(value for secret in found.values() for value in secret.values)

    async def run(
        self, step: CompiledStep, scrubber: Scrubber, run: Run, context: StepContext, config: Mapping[str, Any]
    ) -> Done | Sleep | Await:
        """Make the attempt with the values in their places. Waits for an unavailable database as long as the step may.

        Raises StepError: `secret_not_found`, `secret_unreadable`.
        """
        names = {use.reference.name for use in step.secrets}
        while True:
            try:
                found = await self._find(context.org_id, names)
                break
            except Unavailable as error:
                log.warning("secrets_wait", execution_id=context.execution_id, reason=error.detail)
                await asyncio.sleep(AGAIN_SECONDS)
        scrubber.learn(value for secret in found.values() for value in secret.values)
        for use in step.secrets:
            config = place(config, use.path, _opened(use, found))
        await self._note_use(context.org_id, names)
        return await run(context, config)

    async def _find(self, org_id: str, names: Collection[str]) -> Mapping[str, StoredSecret]:
        async with self._turn:
            now = clock.monotonic()
            self._kept = {key: kept for key, kept in self._kept.items() if kept[0] > now}
            found = {name: self._kept[org_id, name][1] for name in names if (org_id, name) in self._kept}
            if missing := set(names) - set(found):
                for secret in await self._vault.open(org_id, sorted(missing)):
                    found[secret.name] = secret
                    self._kept[org_id, secret.name] = (now + CACHE_SECONDS, secret)
            return found

    async def _note_use(self, org_id: str, names: Collection[str]) -> None:
        now = clock.monotonic()
        self._noted = {key: at for key, at in self._noted.items() if at > now - USED_SECONDS}
        due = sorted(name for name in names if (org_id, name) not in self._noted)
        if not due:
            return
        self._noted.update({(org_id, name): now for name in due})
        try:
            await self._vault.note_use(org_id, due)
        except Unavailable as error:
            log.warning("secret_use_not_noted", reason=error.detail)


def _opened(use: SecretUse, found: Mapping[str, StoredSecret]) -> OpenedSecret:
    name = use.reference.name
    secret = found.get(name)
    if secret is None:
        message = f"There is no secret '{name}' in this organisation; make it, and retry the execution"
        raise StepError(message, code="secret_not_found", retryable=False)
    if secret.value is None:
        message = f"The secret '{name}' was sealed with a key that this deployment does not have: set its value again"
        raise StepError(message, code="secret_unreadable", retryable=False)
    return OpenedSecret.model_validate(
        {
            "$secret": name,
            "format": use.reference.format,
            "value": secret.value,
            "allowed_hosts": secret.allowed_hosts,
        }
    )
