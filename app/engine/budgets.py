"""What the budgets of the day still allow, as this process knows it.

The numbers are those of the last look into the database, plus what was recorded here since. So one process keeps a
budget exactly, but for what is under way when it is reached; several may together use more by what they do in the
seconds between two looks.
"""

import asyncio
from dataclasses import replace
from typing import TypeAlias

from app.domain.budgets import SharedBudget, Spent
from app.engine.ports import BudgetBook
from app.engine.service import Service

Key: TypeAlias = tuple[str, str | None]


class Budgets:
    """The budgets of the day by organisation and workflow; None in place of the workflow: all of the organisation."""

    def __init__(self, book: BudgetBook, interval: float) -> None:
        self._book = book
        self._known: dict[Key, SharedBudget] = {}
        self._turn = asyncio.Lock()
        self.service = Service("budgets", self.refresh, interval)

    async def refresh(self) -> None:
        """Look again; raises Unavailable."""
        async with self._turn:
            self._known = dict(await self._book.read())

    def of(self, org_id: str, workflow_id: str, unrecorded: Spent) -> tuple[SharedBudget, ...]:
        """The budgets that a run of this workflow keeps to; `unrecorded` is what it used itself and nobody knows."""
        if not self._known:
            return ()
        found = (self._known.get((org_id, workflow_id)), self._known.get((org_id, None)))
        return tuple(_more(budget, unrecorded) for budget in found if budget is not None)

    def spend(self, org_id: str, workflow_id: str, spent: Spent) -> None:
        """Something was used, and is recorded."""
        for key in ((org_id, workflow_id), (org_id, None)):
            if (budget := self._known.get(key)) is not None:
                self._known[key] = _more(budget, spent)


def _more(budget: SharedBudget, spent: Spent) -> SharedBudget:
    return replace(budget, used=budget.used.plus(*spent))
