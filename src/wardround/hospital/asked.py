"""A request under a privacy plan and a policy, and all that follows from these three alone."""

from dataclasses import dataclass
from functools import cached_property

from wardround.accounting.events import Event
from wardround.federation.messages import Request
from wardround.hospital.policy import Policy, computed, place_of
from wardround.privacy.plans.plan import Plan
from wardround.privacy.plans.protects import charge_of, plan_protects


@dataclass(frozen=True)
class Asked:
    """A request to hospitals of one plan and one policy.

    Guarantee: every property is a function of request, plan and policy, which nothing changes, so that 10,000 hospitals
    that share the three objects (`is_of`) are judged by the rule that each of them would apply. Nothing here depends on
    a hospital's patients, account or notes; those are looked at hospital by hospital (`Agent.admit`).
    """

    request: Request
    plan: Plan
    policy: Policy

    def is_of(self, request: Request, plan: Plan, policy: Policy) -> bool:
        """Returns whether these are the three objects themselves; equal ones are found anew."""
        return self.request is request and self.plan is plan and self.policy is policy

    @cached_property
    def refusal(self) -> str:
        """Reason why such a hospital does not agree to what is asked; empty if it does."""
        if not self.policy.allows(self.request):
            return "its study does not ask it for this, or not so, or not in this round"
        if not plan_protects(self.plan, self.request.work):
            return "the plan does not protect the answer"
        return ""

    @cached_property
    def event(self) -> Event:
        """Cost of the answer to the patients of one hospital."""
        return charge_of(self.plan, self.request.work, self.request.round)

    @cached_property
    def release(self) -> str:
        """Name of the answer in a ledger, such as "3/gradient-sum/1"."""
        return f"{place_of(self.request)}/{self.request.attempt}"

    @cached_property
    def purpose(self) -> str:
        """Word for the reader of the ledger."""
        return computed(self.request.work).name

    @cached_property
    def planned(self) -> int:
        """Answers like this one that are still foreseen, this one included."""
        return self.policy.planned(self.request)
