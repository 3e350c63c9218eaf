"""The trainer: steps, epochs, the watch after each, roll-backs, and a state on disk from which all goes on exactly.

Which images a step sees and every random draw follow from seed and step number, so a step that is repeated after a
kill is the same step. Time is measured, never used to decide anything but when to write.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from sparring.errors import ModelError, RecordsError
from sparring.files import write_whole
from sparring.hardening.data import Split
from sparring.hardening.draws import reseed, seed_of
from sparring.hardening.ema import Average, batch_norms, refresh
from sparring.hardening.history import Epoch, as_csv, from_plain
from sparring.hardening.method import Method
from sparring.hardening.modules import freeze, is_frozen, optimizer_for, train_mode
from sparring.hardening.parallel import Workers
from sparring.hardening.progress import Clock, TrainingProgress
from sparring.hardening.recipe import Recipe
from sparring.hardening.remedies import remedy
from sparring.hardening.spec import parse_method
from sparring.hardening.state import Snapshot, copied, load_state, save_state
from sparring.hardening.step import Stepper, in_pieces
from sparring.hardening.watch import GAP, Sight, collapsed, look, warnings
from sparring.threat import ThreatModel

SAVE_EVERY = 60.0
"""Seconds between two writes of the state within an epoch: what a kill may cost."""
REFRESHED = 20
"""Batches from which averaged weights get their batch-norm statistics."""


class Trainer:
    """Trains `module` in place; `finished` then holds the weights of the best epoch."""

    def __init__(
        self,
        module: nn.Module,
        split: Split,
        threat: ThreatModel,
        method: Method,
        recipe: Recipe,
        *,
        seed: int,
        workers: Workers,
        standard: nn.Module | None,
        out: Path | None,
        key: str,
        report: Callable[[TrainingProgress], None],
    ) -> None:
        self.module, self.split, self.threat, self.method, self.recipe = module, split, threat, method, recipe
        self.seed, self.workers, self.out, self.key, self._report = seed, workers, out, key, report
        freeze(module, recipe.freeze)
        self.per_step = cast(int, recipe.batch_size) // method.copies
        self.epochs = cast(int, recipe.epochs)
        self.per_epoch = split.steps(self.per_step)
        self.total = self.epochs * self.per_epoch
        self.optimizer = optimizer_for(module, recipe)
        self.average = Average(module, recipe.ema) if recipe.ema else None
        self.stepper = Stepper(module, workers.learner(module), workers, threat, seed, standard)
        self.step, self.history = 0, list[Epoch]()
        self._losses, self._seconds = torch.zeros((), device=workers.device), 0.0
        self._order: tuple[int, Tensor] = (-1, split.train)
        self._clock = Clock()
        self.best = self.safe = self._snapshot(-1.0)
        self._resume()
        if workers.decided(self.step) != self.step:
            raise RecordsError(f"process {workers.rank} does not see the state in {out}: all must see the same folder")

    @property
    def current(self) -> nn.Module:
        """The weights that would be returned now: the averaged ones, if any."""
        return self.module if self.average is None else self.average.module

    def run(self) -> None:
        """Train to the end, then put the best epoch's weights into `module`."""
        saved = time.monotonic()
        while self.step < self.total and not self._tired():
            self._train_step()
            if self.step % self.per_epoch == 0:
                self._end_epoch()
            elif time.monotonic() - saved < SAVE_EVERY:
                continue
            self._save()
            saved = time.monotonic()
        self.finish()

    def finish(self) -> nn.Module:
        """The best epoch's weights, in `module`."""
        chosen = self.best.module if self.best.average is None else self.best.average
        self.module.load_state_dict(chosen)
        return self.module.eval()

    def _tired(self) -> bool:
        if self.recipe.patience is None or self.step % self.per_epoch:
            return False
        return self.step // self.per_epoch - self.best.step // self.per_epoch >= self.recipe.patience

    def _train_step(self) -> None:
        started = time.perf_counter()
        progress = self.step / self.total
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate(progress)
        images, labels = self._read(self.step // self.method.repeats)
        reseed(seed_of(self.seed, "model", self.step, self.workers.rank), self.workers.device)
        train_mode(self.module)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.stepper.gradients(self.method, self.recipe, images, labels, self.step, progress)
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.module, self.step)
        self._losses = self._losses + loss
        self.step += 1
        seconds = time.perf_counter() - started
        self._seconds += seconds
        self._clock.stepped(seconds)
        self._tell()

    def _read(self, number: int) -> tuple[Tensor, Tensor]:
        """This process's share of batch `number`, counted from the very first."""
        epoch, position = divmod(number, self.per_epoch)
        if self._order[0] != epoch:
            self._order = (epoch, self.split.order(epoch))
        rows = self._order[1][position * self.per_step : (position + 1) * self.per_step]
        images, labels = self.split.read(self.workers.share(rows))
        return images.to(self.workers.device), labels.to(self.workers.device)

    def _end_epoch(self) -> None:
        started = time.perf_counter()
        self._check_loss()
        if self.average is not None and (learning := self._learning_norms(self.average.module)):
            refresh(self.average.module, learning, self._points())
        self.workers.same(self.current.buffers())
        sight = self.workers.decided(self._look() if self.workers.leads else None)
        if sight is None:
            raise ModelError("the leading process saw nothing")  # unreachable: it always looks
        kept = [epoch for epoch in self.history if epoch.kept]
        verdict = collapsed(sight, kept, self._eps())
        notes = [verdict] if verdict else warnings(sight, [epoch for epoch in kept if epoch.eps == self.threat.eps])
        change = remedy(self.method, self.recipe, self.threat) if verdict and self.recipe.recover else None
        if change is not None:
            notes.append(f"back to epoch {self.safe.step // self.per_epoch}, then: {change[2]}")
        seconds = time.perf_counter() - started
        self._clock.watched(seconds)
        self.history.append(self._record(sight, seconds, "; ".join(notes)))
        self._losses, self._seconds = torch.zeros_like(self._losses), 0.0
        if change is not None:
            self.method, self.recipe = change[:2]
            self._clock = Clock()  # the steps that follow cost something else
            self._restore(self.safe)
            self.best = self.safe if self.best.step > self.safe.step else self.best
        else:
            self._remember(sight)
        self._tell(self.history[-1])

    def _learning_norms(self, average: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
        """The layers of the averaged model whose twins in the learning one gather statistics."""
        pairs = zip(batch_norms(average), batch_norms(self.module), strict=True)
        return [layer for layer, twin in pairs if not is_frozen(twin)]

    def _look(self) -> Sight:
        """At the budget of the moment: a model must not be judged by one that it has not been trained for."""
        images, labels = self.split.read(self.split.watched)
        device = self.workers.device
        threat = self.threat.with_eps(self._eps())
        return look(self.current, images.to(device), labels.to(device), threat, self.seed)

    def _eps(self) -> float:
        """The budget of the step that was just taken."""
        return self.recipe.budget(self.threat.eps, (self.step - 1) / self.total)

    def _remember(self, sight: Sight) -> None:
        """Keep this epoch if it is the best so far, and as a place to go back to if it is sound.

        An accuracy under a larger budget is better than any under a smaller one.
        """
        better, safer = ((self._eps(), sight.pgd) >= (kept.eps, kept.pgd) for kept in (self.best, self.safe))
        now = self._snapshot(sight.pgd) if better or safer else self.best
        if better:
            self.best = now
        if safer and sight.fgsm - sight.pgd <= GAP:
            self.safe = now

    def _check_loss(self) -> None:
        if not bool(self._losses.isfinite()):
            raise ModelError(
                f"the training loss is not finite after epoch {self.step // self.per_epoch}: lower lr "
                f"(now {self.recipe.peak:g}), or grow the budget slowly with eps_warmup"
            )

    def _record(self, sight: Sight, seconds: float, note: str) -> Epoch:
        return Epoch(
            number=self.step // self.per_epoch,
            method=str(self.method),
            loss=float(self._losses) / self.per_epoch,
            rate=self.recipe.rate((self.step - 1) / self.total),
            eps=self._eps(),
            clean=sight.clean,
            fgsm=sight.fgsm,
            pgd=sight.pgd,
            aligned=sight.aligned,
            seconds=self._seconds,
            watch_seconds=seconds,
            note=note,
        )

    def _points(self) -> Iterator[Tensor]:
        """What the last batches showed to the model, for the averaged weights' batch-norm statistics.

        Made against the learning model: the averaged one has no statistics yet to be attacked with.
        """
        method, recipe, progress = self.method, self.recipe, (self.step - 1) / self.total
        for number in range(min(REFRESHED, self.per_epoch)):
            images, labels = self._read(max(0, self.step // method.repeats - 1 - number))
            for piece, (x, y) in enumerate(in_pieces(recipe, images, labels)):
                batch = self.stepper.batch(method, recipe, x, y, self.step + number, progress, piece)
                batch = dataclasses.replace(batch, memory=dict(batch.memory))
                yield method.shown(batch, method.craft(batch))

    def _snapshot(self, pgd: float) -> Snapshot:
        average = None if self.average is None else self.average.module.state_dict()
        return Snapshot(
            self.step,
            self._eps() if self.step else 0.0,
            pgd,
            copied(dict(self.module.state_dict())),
            copied(average if average is None else dict(average)),
            copied(self.optimizer.state_dict()),
            copied(self.stepper.memory),
        )

    def _restore(self, snapshot: Snapshot) -> None:
        self.step = snapshot.step
        self.module.load_state_dict(snapshot.module)
        if self.average is not None and snapshot.average is not None:
            self.average.module.load_state_dict(snapshot.average)
        self.optimizer.load_state_dict(copied(snapshot.optimizer))
        self.stepper.memory.clear()
        self.stepper.memory.update(copied(snapshot.memory))
        last = snapshot.step // self.per_epoch
        self.history = [dataclasses.replace(e, kept=e.kept and e.number <= last) for e in self.history]

    def _save(self) -> None:
        if self.out is None or not self.workers.leads:
            return
        content = {
            "now": self._snapshot(self.best.pgd).plain(),
            "best": self.best.plain(),
            "safe": self.safe.plain(),
            "method": str(self.method),
            "grad_align": self.recipe.grad_align,
            "history": [dataclasses.asdict(epoch) for epoch in self.history],
            "losses": self._losses,
            "seconds": self._seconds,
        }
        save_state(self.out / "state.pt", self.key, content)
        write_whole(self.out / "history.csv", as_csv(self.history).encode())

    def _resume(self) -> None:
        content = None if self.out is None else load_state(self.out / "state.pt", self.key, self.workers.device)
        if content is None:
            return
        if content["method"] != str(self.method):  # a method of the user's own has no name to be found by
            self.method = parse_method(content["method"])
        self.recipe = dataclasses.replace(self.recipe, grad_align=content["grad_align"])
        self.history = from_plain(content["history"])
        self.best, self.safe = Snapshot(**content["best"]), Snapshot(**content["safe"])
        kept = self.history
        self._restore(Snapshot(**content["now"]))
        if not self.workers.leads:
            self.stepper.memory.clear()  # what was saved is the first process's
        self.history = kept
        self._losses, self._seconds = content["losses"], content["seconds"]

    def _tell(self, ended: Epoch | None = None) -> None:
        watches = self.epochs - self.step // self.per_epoch
        self._report(
            TrainingProgress(
                -(-self.step // self.per_epoch) if ended is None else ended.number,
                self.epochs,
                self.step,
                self.total,
                self.history[-1].pgd if self.history else None,
                self._clock.left(self.total - self.step, watches),
                "" if ended is None else ended.note,
                ended is not None,
                self.history[-1].eps if self.history else None,
                len(self.split.watched),
            )
        )
