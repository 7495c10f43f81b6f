"""How a compression goes on, as a person sees it: a bar on a terminal, lines of text elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from bsszoo.compression.events import Event


class CompressProgress:
    """A callback that shows events (``bsszoo.compression.events``), and counts the finished trials."""

    def __init__(self, console: Console) -> None:
        from bsszoo.compression.events import LogLines

        self.console, self.trials = console, 0
        self._lines = LogLines(self._line)
        self._phase = ""
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> CompressProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def __call__(self, event: Event) -> None:
        """Show an event."""
        if event.phase == "search":
            self.trials = event.done
        if not self.console.is_terminal:
            self._lines(event)
            return
        if event.phase != self._phase:
            self._stop()
            self._phase = event.phase
        if event.text and (not event.minor or (event.trial is not None and event.trial is event.best)):
            for line in event.text.splitlines():
                self._line(line)
        if event.total and event.done < event.total:
            self._move(event)

    def _line(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=not self.console.is_terminal)

    def _move(self, event: Event) -> None:
        if self._bar is None:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=self.console,
            )
            self._bar.start()
            self._task = self._bar.add_task(event.phase, total=event.total, completed=event.done)
        assert self._task is not None
        text = event.text.partition("\n")[0] if event.minor and event.text else event.phase
        self._bar.update(self._task, completed=event.done, total=event.total, description=text)

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None
