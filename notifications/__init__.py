"""The log: topics, messages, receipts, tasks. `notify` sends a message from code of the same project."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from notifications.inside import notify as notify


def __getattr__(name: str) -> Any:
    """`notify` when it is first asked for: Django imports this package before models can be."""
    if name == "notify":
        from notifications.inside import notify

        return notify
    raise AttributeError(name)
