"""`failed replay`: queue failed operations again."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli import output
from worker.cli.exit_codes import Exit, Stop
from worker.cli.find_by_name import look_up
from worker.cli.open_ledger import existing_ledger
from worker.cli.operation_view import note_unknown_kind
from worker.cli.options import WHICH, By, ByKind, ByLane, ByReason, Json, Since, Why, per_second
from worker.operation import State

if TYPE_CHECKING:
    from worker.ledger import Ledger
    from worker.operation import Operation

_CANCELLED = "its import was cancelled after a restore: name its KEY if it is still wanted"
_PAGE = 500  # operations read, or replayed without --rate, in one transaction


def replay(
    why: Why,
    by: By,
    keys: Annotated[
        list[str] | None, typer.Argument(metavar="KEY", help="Keys of operations. Or choose them by the filters below.")
    ] = None,
    reason: ByReason = None,
    kind: ByKind = None,
    lane: ByLane = None,
    since: Since = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All failed operations there are.", rich_help_panel=WHICH)
    ] = False,
    rate: Annotated[
        float | None,
        typer.Option(parser=per_second, metavar="N/second", help="No faster than this.", show_default="all at once"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be replayed, change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Needed if any of them moves money.")] = False,
    not_done: Annotated[
        bool,
        typer.Option(
            "--it-was-not-done",
            help="You have looked at B2COPY, and the call was not made. It is sent without asking B2COPY again.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Queue failed operations again, with fresh attempts and a fresh deadline. Who and why are stored as evidence.

    It leaves unchanged what cannot be replayed: messages that could not be used, and operations whose outcome is
    unknown and which must not be repeated, unless you name their KEYs and say --it-was-not-done.
    """
    from tasks.registry import ALL_KINDS
    from worker.ledger.batches import cancelled_unsent_among
    from worker.ledger.replay_proposals import propose_replays
    from worker.report.format_values import count
    from worker.report.replayable import moves_money, why_not_replayable
    from worker.settings import CrmSettings, load

    is_filtered = any((reason, kind, lane, since is not None))
    if bool(keys) + (is_filtered or everything) != 1:
        raise typer.BadParameter("name KEYs, or choose by filters, or say --all", param_hint="KEY")
    if not_done and not keys:
        raise typer.BadParameter("name the KEYs you have looked at", param_hint="--it-was-not-done")
    with existing_ledger(load(CrmSettings)) as ledger:
        if keys:
            chosen = [look_up(ledger, key) for key in dict.fromkeys(keys)]
        else:
            chosen = list(_all_failed(ledger, failure_reason=reason, kind=kind, lane=lane, since=since))
        left_alone = {one.key: why_not for one in chosen if (why_not := why_not_replayable(one, not_done))}
        if not keys:  # a replay would do what was cancelled
            cancelled = cancelled_unsent_among(ledger, chosen)
            left_alone |= {one.key: _CANCELLED for one in chosen if one.key in cancelled}
        wanted = [one for one in chosen if one.key not in left_alone]
        to_propose = [one for one in wanted if ledger.needs_approval(one.kind, one.lane)]
        money = sum(moves_money(one.kind, one.lane, ALL_KINDS) for one in wanted)
        if money and not (yes or dry_run):
            chosen_are = f"{count(len(wanted))} chosen, {money} of which move money"
            raise Stop(Exit.USAGE, f"{chosen_are}: look with --dry-run, then --yes")
        proposed: dict[str, str] = {}
        replayed: list[str] = []
        if not dry_run:
            alone = [one for one in wanted if not ledger.needs_approval(one.kind, one.lane)]
            try:
                for one in to_propose:
                    made, refused = propose_replays(ledger, [one], by, why, not_done)
                    proposed |= made
                    left_alone |= refused
                _queue_again(ledger, alone, by, why, not_done, rate, replayed)
            except KeyboardInterrupt:
                so_far = _so_far(replayed, len(alone), proposed, len(to_propose))
                raise Stop(Exit.FAILED, f"interrupted: {so_far}") from None
            except Exception:
                output.note(f"not finished: {_so_far(replayed, len(alone), proposed, len(to_propose))}")
                raise
            left_alone |= {one.key: "it has changed meanwhile" for one in alone if one.key not in set(replayed)}
    if as_json:
        names = [one.key for one in wanted]
        output.document(
            {
                "dry_run": dry_run,
                "chosen": names,
                "replayed": replayed,
                "proposed": proposed,
                "left_alone": left_alone,
            }
        )
    elif dry_run:
        output.table(
            ("Would replay", "Lane", "Failed for"), [(one.key, one.lane, one.failure_reason or "") for one in wanted]
        )
        output.line(f"{count(len(wanted))} would be replayed, {money} of which move money; nothing was changed")
        if to_propose:
            output.line(f"{count(len(to_propose))} of these would be proposed: a second person must approve them")
    else:
        output.line(f"{count(len(replayed))} replayed")
        if proposed:
            named = _span(proposed)
            output.line(
                f"{count(len(proposed))} proposed as {named}: another person runs `b2copy-sync approvals list` and"
                f" `b2copy-sync approvals approve {'NUMBER' if len(proposed) > 1 else named}`"
            )
    if not as_json:
        for key, why_not in left_alone.items():
            output.note(f"left alone: {key}: {why_not}")
        if not chosen:
            note_unknown_kind(kind)
    if keys and left_alone:
        raise typer.Exit(Exit.FAILED)


def _queue_again(
    ledger: "Ledger",
    wanted: "list[Operation]",
    by: str,
    why: str,
    not_done: bool,
    rate: float | None,
    replayed: list[str],
) -> None:
    """Replay in batches, at the rate given. Adds the keys replayed to `replayed`, as far as it comes."""
    from worker.ledger import replay as replay_batch
    from worker.messages.wake_up import wake

    lanes = {one.lane for one in wanted}
    seen = {one.key: one.change_mark for one in wanted}
    # The first requested first, because each goes to the end of its entity's line.
    for batch in _paced([one.key for one in sorted(wanted, key=lambda one: one.id)], rate):
        # An operation that has changed since it was chosen is left alone: it may have been done meanwhile.
        replayed += replay_batch(ledger, batch, by, why, not_done, {key: seen[key] for key in batch})
        for lane in lanes:
            wake(lane)
        if len(replayed) < len(wanted) and output.err().is_terminal:
            output.note(f"{len(replayed)} of {len(wanted)} replayed")


def _so_far(replayed: list[str], wanted: int, proposed: dict[str, str], to_propose: int) -> str:
    """Say how far a replay came that did not end. The last transaction may have been committed and is not counted."""
    counts = []
    if to_propose:
        names = f" as {_span(proposed)}" if proposed else ""
        counts.append(f"at least {len(proposed):,} of {to_propose:,} proposed{names}")
    if wanted:
        counts.append(f"at least {len(replayed):,} of {wanted:,} replayed")
    return f"{', '.join(counts)}; look at `b2copy-sync failed list` before you repeat it"


def _span(proposed: dict[str, str]) -> str:
    """Name the first and the last proposal."""
    first, *others = proposed.values()
    return f"{first} to {others[-1]}" if others else first


def _all_failed(ledger: "Ledger", **filters: Any) -> "Iterator[Operation]":
    """Yield every failed operation that the filters choose, newest first."""
    from worker.ledger import search

    before = None
    while page := search(ledger, state=State.FAILED, **filters, before=before, limit=_PAGE):
        yield from page
        before = page[-1].id


def _paced(keys: list[str], rate: float | None) -> Iterator[list[str]]:
    """Yield the keys in batches: with a rate, so many each second, or one each time that its second has come."""
    size = _PAGE if rate is None else max(1, int(rate))
    began = time.monotonic()
    for start in range(0, len(keys), size):
        if rate is not None and (early_s := began + start / rate - time.monotonic()) > 0:
            time.sleep(early_s)
        yield keys[start : start + size]
