"""``train``: a recipe's training from its first update to its last, readable from top to bottom.

Between two updates the state is: the weights, the optimiser's, the moving average's and the gradient scaler's state,
and the number of updates done. Everything drawn at random is a function of that number (``seeds``), so a checkpoint
holds the whole state, and a training that was killed anywhere resumes from its last checkpoint as an unbroken one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final, NoReturn

import torch
import torch.distributed as dist
from timm.utils import ModelEmaV3, distribute_bn
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from bsszoo.errors import DataError, RecipeError, RunError, StoppedError
from bsszoo.models.build import synchronised
from bsszoo.texts import one_line
from bsszoo.train.callbacks import NoCallback, Start, TrainingCallback, TrainingState
from bsszoo.train.checkpoint import BEST, LAST, Folder, Progress, Row, best_of, pack, unpack_progress, weights_sha256
from bsszoo.train.checkpoint_contents import contents_fault, optimizer_form, refusal, with_recipe_settings
from bsszoo.train.classification.recipe import Recipe
from bsszoo.train.classification.samples import plain
from bsszoo.train.classification.task import Classification
from bsszoo.train.classification.trained import with_trained
from bsszoo.train.detection.recipe import AnyRecipe
from bsszoo.train.devices import Process, joined
from bsszoo.train.events import Events
from bsszoo.train.optim import make_optimizer
from bsszoo.train.seeds import seed_generators
from bsszoo.train.signals import StopSignals
from bsszoo.train.task import Opener, Round, Task

# Seconds between two reports of the loss: reading it waits for the device.
_REPORT: Final = 1.0
#: Kinds of devices on which float16 is of use.
_FLOAT16: Final = ("cuda",)
_STOPPING: Final = "Stopping after this update, with a checkpoint. A second signal stops at once, without one."


def train(
    recipe: Recipe,
    data: str | Path | None,
    out: str | Path,
    *,
    device: str | None = None,
    callback: TrainingCallback | None = None,
    inherit: str | Path | None = None,
    teacher: str | Path | None = None,
) -> dict[str, Any]:
    """Train a recipe's network in a folder, or resume the training there; its summary.

    Started by ``torchrun`` the processes train one network together (DDP); each has to call this function.

    Args:
        recipe: What to train, and how.
        data: The folder of the images; None for ``synthetic``.
        out: The folder of the training: ``recipe.yaml``, ``last.pt`` (the checkpoint), ``metrics.csv``, and at the end
            ``model.safetensors`` with ``config.json`` (a folder that ``timm`` and ``bsszoo.create`` load) and
            ``summary.json``. A finished training is not trained again.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``; a GPU where there is one by default.
        callback: Called with the progress.
        inherit: A trained network of the family, as ``bsszoo.models.resolve`` takes it, whose weights the recipe's
            starts from, as far as shapes allow; on one device, or the first of several, layers are fitted to it.
        teacher: A trained network of the same classes, whose outputs are learnt as well.

    Raises:
        RecipeError, DataError, SettingsError: Something does not fit; raised before the first update where possible.
        CodeError, WeightsError, UnknownNameError: Of ``inherit`` and ``teacher``, as ``with_trained``.
        RunError: A loss that is not finite; its images are saved in the folder.
        StoppedError: SIGTERM or Ctrl-C; everything up to the last update is saved.
    """
    whole = with_trained(recipe, inherit=inherit, teacher=teacher)
    note = (callback or NoCallback()).note
    return run(
        whole,
        lambda process: Classification(whole, data, process, Path(out), note),
        out,
        device=device,
        callback=callback,
    )


def run(
    recipe: AnyRecipe,
    open_task: Opener,
    out: str | Path,
    *,
    device: str | None = None,
    callback: TrainingCallback | None = None,
) -> dict[str, Any]:
    """Train the network of any task; arguments, folder, summary and errors as ``train``.

    Args:
        recipe: The task's recipe.
        open_task: Opens the task's images in a process, and checks that all fits.
        out, device, callback: As ``train``.
    """
    callback = callback or NoCallback()
    folder = Folder(Path(out))
    with ExitStack() as stack:
        process = stack.enter_context(joined(device))
        if recipe.run.precision == "float16" and process.device.type not in _FLOAT16:
            raise RecipeError("run.precision is float16, which needs a GPU here. Use bfloat16 or float32.")
        task = open_task(process)
        if process.first:
            stack.enter_context(folder.locked(recipe))
        process.barrier()
        finished = folder.finished(task.row_kind) if process.first else None
        if process.broadcast(finished is not None):
            for note in folder.notes:
                callback.note(note)
            return finished or {}
        stopping = stack.enter_context(StopSignals(_STOPPING if process.first else ""))
        training = _Run(recipe, task, folder, process, callback, stopping)
        events = Events(folder.path, training.progress.rows, wanted=recipe.run.tensorboard and process.first)
        stack.callback(events.close)
        stack.callback(training.close)
        with _explained_errors():
            for row in training.rounds():
                if process.first:
                    callback.validated(row)
                    events.add(row)
            tested = training.measured(task.test) if task.has_test else None
        # The weights that are saved are those that were validated.
        if not process.first:
            return {}
        return task.conclude(training.validated_network, folder, training.progress.rows, tested)


class _Run:
    """A training in this process, and its progress."""

    def __init__(
        self,
        recipe: AnyRecipe,
        task: Task,
        folder: Folder,
        process: Process,
        callback: TrainingCallback,
        stopping: StopSignals,
    ) -> None:
        self.recipe, self.task, self.folder, self.process = recipe, task, folder, process
        self.callback, self.stopping = callback, stopping
        run = recipe.run
        self.division = task.division
        state = process.broadcast(folder.load() if process.first else None)
        if state is not None and state["data"] != task.fingerprint:
            raise RecipeError(
                f"{folder.path} holds a training on other data: {state['data']} there, {task.fingerprint} now. "
                "Give the images that it started with, or another --out. Version 0.1.0 read fewer kinds "
                "of files, and took hidden folders for classes."
            )

        # -- the network, on its device
        seed_generators(torch.device("cpu"), run.seed)
        self.model = task.network(fresh=state is None).to(process.device)
        if run.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)
        if run.sync_bn and process.world > 1 and process.device.type != "cuda":
            raise RecipeError("run.sync_bn needs GPUs: torch's SyncBatchNorm does not train on a CPU.")
        if run.sync_bn and process.grouped and process.device.type == "cuda":
            self.model = synchronised(self.model)
        self.optimizer = make_optimizer(recipe.optim, self.model)
        self.ema = (
            ModelEmaV3(self.model, decay=recipe.ema.decay, use_warmup=recipe.ema.warmup)
            if (recipe.ema.decay is not None)
            else None
        )
        self.scaler = torch.amp.GradScaler(process.device.type) if run.precision == "float16" else None
        self.progress = Progress()
        if state is not None:
            self._restore(state)
        task.to_device()

        # -- what runs it
        self.schedule = task.schedule(self.optimizer)
        self.forward: nn.Module = torch.compile(self.model) if run.compile else self.model  # type: ignore[assignment]
        if process.grouped:
            ids = [process.device.index] if process.device.type == "cuda" else None
            self.forward = DistributedDataParallel(self.forward, device_ids=ids)
        self.batches = task.batches()
        self.saved = time.monotonic()
        self.monitor = _LossMonitor(process, stopping)
        if process.first:
            callback.started(
                Start(
                    recipe,
                    task.train_images,
                    task.val_images,
                    self.division,
                    task.ends,
                    process,
                    self.progress.update,
                    folder.path,
                )
            )
            for note in (*task.notes, *folder.notes):
                callback.note(note)

    @property
    def validated_network(self) -> nn.Module:
        """The network that is validated and saved: the moving average where there is one."""
        return self.model if self.ema is None else self.ema.module

    def close(self) -> None:
        """End the processes that read images."""
        self.batches.close()
        self.task.close()

    def rounds(self) -> Iterator[Row]:
        """Train round after round, from the current progress on; a row after each."""
        progress, ends = self.progress, self.task.ends
        while (number := len(progress.rows)) < len(ends):
            begin, end = ends[number - 1] if number else 0, ends[number]
            if progress.update < end:
                self._train_round(begin, end)
            row = self._validate(begin, end)
            progress.rows.append(row)
            progress.loss_sum = progress.seconds = 0.0
            best = self.process.first and best_of(progress.rows) is row
            if best:
                # The checkpoint records the weights' checksum before they are written: a kill in between is noticed.
                self.folder.best = weights_sha256(self.validated_network.state_dict())
            self._save()
            if best:
                self.folder.save_weights(BEST, self.validated_network.state_dict())
            yield row

    def _train_round(self, begin: int, end: int) -> None:
        run, division, process, progress = self.recipe.run, self.division, self.process, self.progress
        start, first = time.monotonic(), progress.update
        reported, seconds_before = start, progress.seconds
        loss_sum = torch.full(
            (),
            progress.loss_sum,
            dtype=torch.float64 if process.device.type != "mps" else torch.float32,
            device=process.device,
        )
        self.forward.train()
        batches = self.batches.between(first, end)
        for update in range(first, end):
            lr = self._set_rate(update)
            loss = torch.zeros((), device=process.device)
            for micro_batch in range(division.micro_batches):
                batch = self._next(batches)
                seed_generators(process.device, run.seed, update, process.rank * division.micro_batches + micro_batch)
                # Gradients are averaged over the processes once, after the last micro-batch.
                last = micro_batch == division.micro_batches - 1
                quiet = nullcontext() if last or not process.grouped else self.forward.no_sync()  # type: ignore[operator]
                with quiet:
                    part = self.task.loss(self.forward, batch) / division.micro_batches
                    (part if self.scaler is None else self.scaler.scale(part)).backward()
                loss += part.detach()
            self._step(update)
            progress.update += 1
            loss_sum += loss

            # One update later: the device is not waited for.
            self.monitor.add(loss, update)
            self._refuse_lost(lr)
            now = time.monotonic()
            progress.seconds = seconds_before + now - start
            over = update == end - 1
            if over and process.grouped:
                for network in (self.model, *(() if self.ema is None else (self.ema.module,))):
                    distribute_bn(network, process.world, reduce=True)
            if (self.monitor.stop or self.monitor.save) and not over:
                progress.loss_sum = self._mean(loss_sum)
                if self.monitor.stop:
                    self._stop()
                self._save()
            self.monitor.due = now - self.saved > 60 * run.checkpoint_minutes
            if process.first and now - reported > _REPORT:
                reported, done = now, update + 1 - first
                self.callback.updated(
                    TrainingState(
                        progress.update,
                        float(loss_sum) / (update + 1 - begin),
                        lr,
                        done * self.recipe.optim.batch_size / (now - start),
                    )
                )
        self.monitor.settle()
        self._refuse_lost(lr)
        progress.loss_sum = self._mean(loss_sum)

    def _mean(self, value: torch.Tensor) -> float:
        return float(self.process.sum(value.clone())) / self.process.world

    def _next(self, batches: Iterator[Any]) -> Any:
        try:
            return next(batches)
        except StopIteration:
            raise RunError(
                "The training split ended before the epoch did: it holds fewer images than its length."
            ) from None

    def _set_rate(self, update: int) -> float:
        self.schedule.step_update(update)
        return float(self.optimizer.param_groups[0]["lr"])

    def _step(self, update: int) -> None:
        clip = self.recipe.optim.clip_grad
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        if clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), clip)
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update(self.model, step=update + 1)

    def measured(self, measure: Callable[..., Any]) -> Any:
        """What ``task.validate`` or ``task.test`` returns for the validated network."""
        figures = measure(
            self.validated_network,
            self.callback.validating if self.process.first else None,
            # Several processes have to count to the end together.
            (lambda: bool(self.stopping.received)) if self.process.world == 1 else None,
        )
        if figures is None:
            self._stop()
        return figures

    def _validate(self, begin: int, end: int) -> Row:
        start, progress = time.monotonic(), self.progress
        lr = self._set_rate(progress.update - 1)
        figures = self.measured(self.task.validate)
        return self.task.row(
            Round(
                number=len(progress.rows) + 1,
                update=progress.update,
                lr=lr,
                train_loss=progress.loss_sum / (end - begin),
                images_per_s=(end - begin) * self.recipe.optim.batch_size / max(progress.seconds, 1e-9),
                seconds=progress.seconds + time.monotonic() - start,
            ),
            figures,
        )

    # -- the checkpoint -------------------------------------------------------------------------------------------

    def _save(self) -> None:
        if self.process.first:
            self.folder.save(
                pack(
                    self.progress,
                    self.model,
                    self.optimizer,
                    ema=None if self.ema is None else self.ema.module,
                    scaler=self.scaler,
                    data=self.task.fingerprint,
                ),
                self.task.row_kind,
            )
        self.saved = time.monotonic()

    def _restore(self, state: dict[str, Any]) -> None:
        task, file = self.task, self.folder.path / LAST
        ema = None if self.ema is None else self.ema.module
        # A separate optimiser, which is stepped once; what that does to the weights is overwritten below.
        form = optimizer_form(make_optimizer(self.recipe.optim, self.model))
        fault = contents_fault(
            state, ends=task.ends, row_kind=task.row_kind, model=self.model, ema=ema, scaler=self.scaler, optimizer=form
        )
        if fault is not None:
            raise refusal(file, fault)
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(with_recipe_settings(state["optimizer"], form))
            if ema is not None:
                ema.load_state_dict(state["ema"])
            if self.scaler is not None:
                self.scaler.load_state_dict(state["scaler"])
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise refusal(file, f"{type(error).__name__}: {one_line(error)}") from None
        self.progress = unpack_progress(state, task.row_kind)
        if self.process.first:
            self.folder.restore(state, self.progress.rows, self.validated_network.state_dict())

    def _stop(self) -> NoReturn:
        self._save()
        error = StoppedError(
            f"Stopped after {self.progress.update} updates, which are saved in {self.folder.path}. "
            "The same command resumes from there."
        )
        error.signal = self.stopping.received or error.signal
        raise error

    def _refuse_lost(self, lr: float) -> None:
        if self.monitor.lost is None:
            return
        loss, number = self.monitor.lost
        if math.isfinite(loss):
            raise RunError("The loss of another process is not finite; its message says more.")
        text = (
            f"The loss of update {number} (round {len(self.progress.rows) + 1}) is {loss}, at a learning rate of "
            f"{lr:.4g}."
        )
        saved = [self.batches.reread(number, micro_batch) for micro_batch in range(self.division.micro_batches)]
        if any(saved):
            file = self.folder.path / f"lost_update{number}_process{self.process.rank}.pt"
            try:
                torch.save({"update": number, "lr": lr, "loss": loss, "passes": saved}, file)
                text += f" Its images are in {file}."
            except (OSError, RuntimeError):  # a full disk; the loss is what matters
                file.unlink(missing_ok=True)
        before = "the start" if self.progress.update <= 1 else "the last checkpoint"
        raise RunError(
            f"{text} What was trained up to {before} is saved. A lower optim.lr, a longer "
            "warm-up, optim.clip_grad or run.precision=float32 may help."
        )


@contextmanager
def _explained_errors() -> Iterator[None]:
    try:
        yield
    except DataError as error:
        raise plain(error) from None
    except torch.OutOfMemoryError as error:
        raise RunError(
            f"The device has too little memory: {str(error).splitlines()[0]} A lower run.device_batch "
            "needs less and computes the same batch in more micro-batches; run.precision=bfloat16 needs less "
            "too."
        ) from None
    except RuntimeError as error:
        if "DataLoader worker" not in str(error) or "killed by signal" not in str(error):
            raise
        raise RunError(
            f"A process that reads images died: {str(error).splitlines()[0]} Where memory is short, set "
            "run.workers lower. Everything up to the last checkpoint is saved."
        ) from None


class _LossMonitor:
    """Notices a loss that is not finite, a signal to stop and that a checkpoint is due, in any process.

    All processes get it at the same update. The value of an update is read after the next one was queued, so
    that the device always has work.
    """

    def __init__(self, process: Process, stopping: StopSignals) -> None:
        self._process, self._stopping = process, stopping
        self._pending: tuple[_Values, torch.Tensor, int] | None = None
        self.lost: tuple[float, int] | None = None
        self.stop = self.save = self.due = False

    def add(self, loss: torch.Tensor, update: int) -> None:
        """The loss of an update; ``lost``, ``stop`` and ``save`` are then of the one before."""
        # Filled on the device: a copy of numbers to a GPU waits until it has done all that is queued.
        asked = (bool(self._stopping.received), self.due and self._process.first)
        signal = torch.stack([(~torch.isfinite(loss)).to(loss), *(torch.full_like(loss, float(one)) for one in asked)])
        if self._process.grouped:
            dist.all_reduce(signal, op=dist.ReduceOp.MAX)
        values = _Values(signal)
        self.settle()
        self._pending = values, loss, update

    def settle(self) -> None:
        """Read the update that was added last."""
        if self._pending is None:
            return
        values, loss, update = self._pending
        self._pending = None
        bad, stop, save = (value > 0 for value in values.read())
        self.stop, self.save = self.stop or stop, save
        if bad:
            self.lost = float(loss), update


class _Values:
    """A tensor's numbers, read later without waiting for what a GPU was given after it.

    Reading a tensor of a GPU waits for everything queued there. So its copy to the CPU is queued at once, and ``read``
    waits for that copy alone.
    """

    def __init__(self, values: torch.Tensor) -> None:
        self._values, self._copied = values, None
        if values.device.type == "cuda":
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record(torch.cuda.current_stream(values.device))

    def read(self) -> list[float]:
        """The numbers."""
        if self._copied is not None:
            self._copied.synchronize()
        numbers: list[float] = self._values.tolist()
        return numbers
