"""Customer-level DP-SGD at the bank: all rows of one customer are one unit (user-level sampling of 2407.07737).

Like ``dp_sgd`` with customers in the place of rows. In every local step each customer of the bank is drawn with
probability q, and all of its rows with it, at most ``max_rows_per_customer`` drawn anew; the mean of their gradients
is clipped to C; noise is added to the sum over customers, and the sum is divided by the expected number of customers.
Protected are all rows of one customer of one bank, however many there are; the number of customers is public.
Neighbours are two data sets of one bank that differ by one customer added or removed. The data source's ``unit`` names
the column.

A customer of several banks is protected at each of them, and what these charge adds up: the run's epsilon is that of
the worst customer, and its cap is obeyed by every customer.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from fedsim.privacy.base import BankPlan
from fedsim.privacy.dp_sgd import DPSGD
from fedsim.privacy.gaussian import GaussianTerms


class DPSGDCustomer(DPSGD):
    per_unit = True
    bounds_rows = False
    promise = "Protected: all rows of any one customer of a bank, against everybody outside that bank."

    class Config(DPSGD.Config):
        max_rows_per_customer: int = Field(8, ge=1, description="rows that a drawn customer brings to a step at most")

    config: Config

    @property
    def rows_per_unit(self) -> int:
        return self.config.max_rows_per_customer

    @property
    def divisor(self) -> float:
        return self.plan.sample_rate * (self.plan.num_units or 0)

    @classmethod
    def problems(cls, config: GaussianTerms, plans: Sequence[BankPlan]) -> list[str]:
        if any(plan.num_units is None for plan in plans):
            return ["rows do not say whose they are; name the customers' column in data, e.g. unit: client_id"]
        if any(plan.sampling == "fixed" for plan in plans):
            return ["customers are drawn by Poisson sampling only; set train.sampling: poisson"]
        return super().problems(config, plans)
