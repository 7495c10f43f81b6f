"""The progress of a compression: a bar on a terminal, lines of text elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from bsszoo.compression.events import Event


class CompressProgress:
    """A callback that shows events (``bsszoo.compression.events``), and counts the finished trials."""

    def __init__(self, console: Console) -> None:
        from bsszoo.cli.training_progress import Bars
        from bsszoo.compression.events import UNITS, LogLines

        self._units = UNITS
        self.trials, self.wanted = 0, 0
        self._terminal, self._phase, self._bars = console.is_terminal, "", Bars(console)
        self._lines = LogLines(self._bars.say)

    def __enter__(self) -> CompressProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take the bars away."""
        self._bars.close()

    def __call__(self, event: Event) -> None:
        """Show an event."""
        if event.phase == "search":
            self.trials, self.wanted = event.done, event.total
        if not self._terminal:
            self._lines(event)
            return
        if event.phase != self._phase:
            self._bars.close()
            self._phase = event.phase
        if event.inside is not None:
            self._show_training(*event.inside)
            return
        improved = event.trial is not None and event.trial is event.best
        if event.text and (improved or not event.minor):
            code = f"  {event.trial.code}" if improved and event.trial is not None else ""
            for line in f"{event.text}{code}".splitlines():
                self._bars.say(line)
        if event.done < event.total:
            words = event.text if event.minor else ""
            self._bars.show(
                event.phase, event.done, event.total, unit=self._units.get(event.phase, "steps"), words=words
            )
        else:
            self._bars.close()

    def _show_training(self, done: int, total: int) -> None:
        if done < total:
            self._bars.show("training", done, total, unit="updates")
        else:
            self._bars.remove("updates")
