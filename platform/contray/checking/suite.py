"""All checks of one method, in order: its file, a step, then the laws; several ranks compute meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import data, model
from ..config import RunConfig
from ..config.registry import EXPORTS, MethodFile, find, load_method, method_names, name_code, unlisted
from ..data.views import Pipeline
from ..errors import UserError, nearest
from ..methods._base import Batch, Method
from ..model import optim
from ..model.chunks import divide
from ..model.gradients import Gradients
from ..training.step import forward_backward
from . import draws, file, laws
from .findings import CHECKS, Finding, Findings, Wrong
from .places import Raised, line_of, line_where, raised
from .ranks import WORLDS, Asked, Case
from .steps import SAMPLES, begun, clock_of, inputs_of, one_step, small, some_steps

FIRST = list(CHECKS)[: list(CHECKS).index("a step")]
TRIES, RATE = 15, 3e-3  # steps of AdamW on one batch of the digits, after which the loss is lower


def check(path: str | Path, *, preset: str = "") -> Findings:
    """Hold a method, a built-in one by its name or one's own by the path of its file, against all that the platform asks of it.

    preset: whose sizes it is tried with; else `digits`, where it has that, or the paper's on a small network. Raises UserError for a name or a
    preset that there is not.
    """
    name = str(path)
    if name.endswith(".py"):
        if not Path(name).expanduser().is_file():
            raise UserError(f"method {name!r}: there is no such file")
        name_code(name)
    elif name not in [*method_names(), *unlisted("method")]:
        raise UserError(f"method {name!r} is not known; {nearest(name, method_names())} (a path to a .py file works too)")
    return check_all([(name, preset)])[0]


def check_all(cases: Sequence[Case], only: Sequence[str] = ()) -> list[Findings]:
    """`check` of several methods; one start of the ranks serves them. only: of each the check that is made; those before a step are always."""
    begin, threads = time.perf_counter(), torch.get_num_threads()
    suites = [_Suite(*case, each) for case, each in zip(cases, only or [""] * len(cases), strict=True)]
    tried = [suite for suite in suites if suite.declared()]
    ranks = Asked([(suite.name, suite.found.preset) for suite in tried if suite.wants("ranks")])
    torch.set_num_threads(1)  # nets are tiny
    try:
        with torch.random.fork_rng(devices=[]):
            alive = [suite for suite in tried if suite.steps() and suite.wants("ranks")]
        results = ranks.results() if alive else {}
        for suite in alive:
            suite.ranks(results)
    finally:
        ranks.close()
        torch.set_num_threads(threads)
    for suite in suites:
        suite.found.seconds = time.perf_counter() - begin
    return [suite.found for suite in suites]


class _Suite:
    def __init__(self, name: str, preset: str, only: str = "") -> None:
        self.name, self.found, self.only = name, Findings(name, preset), only
        self.path = name  # of the method's file

    def wants(self, check: str) -> bool:
        return self.only in ("", check)

    def note(self, check: str, wrong: Sequence[Wrong], skipped: str = "") -> bool:
        self.found.findings.append(Finding(check, tuple(wrong), skipped))
        return not wrong

    def held(self, check: str, law: Callable[[], Sequence[Wrong]]) -> bool:
        """Note what a law says; what the method raises meanwhile is wrong too."""
        if not self.wants(check) and check not in FIRST:
            return True
        try:
            return self.note(check, law())
        except (Exception, SystemExit) as error:
            told = raised(error, self.path)
            return self.note(check, [Wrong(f"it raises {told.words}", "", told.line)])

    # ------------------------------------------------------------ the file

    def declared(self) -> bool:
        """Check the file; whether steps can be tried."""
        try:
            self.path = str(Path(find("method", self.name).__file__ or ""))
            self.file: MethodFile = load_method(self.name)
        except UserError as error:
            words = str(error).removeprefix(f"method {self.name}: ").removeprefix(f"method {self.path}: ")
            place = words.partition("line ")[2].partition(":")[0]
            line = (
                int(place)
                if place.isdigit()
                else line_of(self.path, "Config" if "Config" in words else "PRESETS" if "PRESETS" in words else "")
            )
            mend = f"a method's file defines {', '.join(EXPORTS)} and one Method; `contray new method NAME` writes one that does"
            self.note("exports", [Wrong(words, mend, line)])
            return False
        self.note("exports", [])
        if self.found.preset and self.found.preset not in self.file.presets:
            raise UserError(f"--preset: got {self.found.preset!r}; {nearest(self.found.preset, self.file.presets)}")
        digits = next((preset for preset in self.file.presets if preset.startswith("digits")), "paper")
        self.found.preset = self.found.preset or digits
        if not self.held("presets", lambda: file.presets(self.name, self.file)):
            return False
        try:
            self.config = small(self.name, self.found.preset)
        except UserError as error:
            self.note("presets", [Wrong(f"preset {self.found.preset}: {error}")])
            return False
        self.held("labels", lambda: file.labels(self.path, self.path, self.config))
        self.held("refusals", lambda: file.refusals(self.path, self.config, self.file.method))
        return True

    # ------------------------------------------------------------ steps of one rank

    def steps(self) -> bool:
        """Check what one rank computes; whether several can be held against it."""
        if self.only in FIRST:
            return True
        drawn = draws.states()
        try:
            method = model.build(self.config, SAMPLES)
        except (Exception, SystemExit) as error:
            return self._ends("building it", error)
        if draws.states()[1:] != drawn[1:]:  # torch's is seeded by the engine
            where = line_where(self.path, lambda: model.build(self.config, SAMPLES), lambda frame: draws.states()[1:])
            self.note(
                "draws",
                [
                    Wrong(
                        "weights are drawn by NumPy or random, other ones on each rank",
                        "draw them by torch, which the engine seeds",
                        where,
                    )
                ],
            )
            return False
        try:
            self.alone = some_steps(0, 1, self.config)
        except (Exception, SystemExit) as error:
            return self._ends("a step", error)
        self.note("a step", [])
        drawn, wrote = self._watched()
        steps = self.alone["steps"]
        self.held("negatives", lambda: file.negatives(self.path, method, self.file.paper.negatives))
        self.held(
            "encode",
            lambda: laws.encodes(
                small(self.name, self.found.preset, "fp32"),
                model.build(small(self.name, self.found.preset, "fp32"), SAMPLES).eval(),
                self.path,
            ),
        )
        self.held("losses", lambda: [*laws.finite(steps, self.path)])
        self.held("gradients", lambda: laws.trained(steps, self.path))
        self.note("draws", drawn)
        self.note("buffers", [*wrote, *laws.graphless(self.alone["graphs"], self.path)])
        self.held("checkpoints", lambda: [] if drawn else laws.goes_on(self.config, self.alone, self._changed, self.path))
        self.held("chunks", lambda: [] if drawn or wrote else self._chunks(method))
        self.held("average networks", lambda: self._targets(method))
        self.held("bf16", self._bf16)
        self.held("backbones", self._backbones)
        if self.wants("digits"):
            self._digits()
        return True

    def _ends(self, what: str, error: Exception | SystemExit) -> bool:
        told = raised(error, self.path)
        mend = (
            "there are no labels in a batch: its fields are views, index, slot, size, seed, step"
            if "'Batch'" in told.words or "'label" in told.words
            else ""
        )
        self.note("a step", [Wrong(f"{what} raises {told.words}", mend, told.line)])
        for check in list(CHECKS)[list(CHECKS).index("a step") + 1 :]:
            self.note(check, [], "no step can be made")
        return False

    def _step(self) -> tuple[Method, Callable[[Callable[[], None]], Any]]:
        """A method at its start, and what makes its first step with a function called before anything moves."""
        method = begun(self.config)
        optimizer = optim.build(self.config, method)
        return method, lambda between: one_step(self.config, method, optimizer, 0, between=between)

    def _watched(self) -> tuple[list[Wrong], list[Wrong]]:
        """What a step draws that it must not, and what is written before it may be."""
        method, step = self._step()
        before = draws.states()
        own = {name: buffer.clone() for name, buffer in laws.own_buffers(method)}
        early: list[str] = []

        def look() -> None:
            early.extend(name for name, buffer in laws.own_buffers(method) if not torch.equal(buffer, own[name]))

        step(look)
        after = draws.states()
        drawn = [self._draws(i) for i in range(len(after)) if before[i] != after[i]]
        return drawn, [self._early(name) for name in early]

    def _draws(self, i: int) -> Wrong:
        _, step = self._step()
        return Wrong(
            f"the global generator of {draws.NAMES[i]} is used, which draws otherwise on each rank and is in no checkpoint",
            "draw per row by batch.rand(name, shape), for the whole batch by batch.draw(name, shape): uniform in [0, 1), the same on any number of ranks",
            line_where(self.path, lambda: step(lambda: None), lambda frame: draws.states()[i]),
        )

    def _early(self, name: str) -> Wrong:
        method, step = self._step()
        buffer = dict(method.named_buffers())[name]
        line = line_where(self.path, lambda: step(lambda: None), lambda frame: (buffer._version, buffer.sum().item()))
        words = f"the buffer {name} is written in `represent` or `loss`, which may run in chunks and again"
        mend = "write it in `update`; `loss` may leave what that needs in `reps`"
        return Wrong(words, mend, line or line_of(self.path, name))

    def _changed(self) -> str:
        """What changes in a step and is in no state: attributes, generators, buffers that are not persistent."""
        method, step = self._step()
        before = draws.hidden(method)
        step(lambda: None)
        after = draws.hidden(method)
        changed = [name for name in after if before.get(name) != after[name]]
        return f"{' and '.join(changed)} changes, and is in no checkpoint" if changed else ""

    def _chunks(self, method: Method) -> list[Wrong]:
        return laws.whole_in_chunks(small(self.name, self.found.preset, size=24, groups=8), method, self.path)

    def _targets(self, method: Method) -> list[Wrong]:
        moved = begun(self.config)
        start = model.build(self.config, SAMPLES).state_dict()
        moved.load_state_dict(self.alone["states"][-1]["method"])
        found = [
            *laws.copies(method),
            *laws.exact_copies(method, self.file.paper.ema, self.path),
            *laws.forgotten_copies(moved, start, self.path),
        ]
        if any(True for _ in method.ema_pairs()):
            momenta = [method.ema_momentum(clock_of(step)) for step in (-500, 0, 499)]
            if not all(0 <= m <= 1 for m in momenta):
                words = f"ema_momentum gives {', '.join(f'{m:g}' for m in momenta)} along a run"
                found.append(Wrong(words, "it is within 0 and 1", line_of(self.path, "ema_momentum")))
        return found

    def _bf16(self) -> list[Wrong]:
        config = small(self.name, self.found.preset, "bf16")
        return laws.finite([one_step(config, method := begun(config), optim.build(config, method), 0)], self.path)

    def _backbones(self) -> list[Wrong]:
        """A step and features with a residual net and with a transformer, where it does not ask for one of these."""
        names = ["vit_mini"] if self.file.method.needs_vit(self.config.method) else ["resnet_small", "vit_mini"]
        found = []
        for backbone in names:
            if backbone == self.config.backbone.name:
                continue
            try:
                config = small(self.name, self.found.preset, "fp32", backbone=backbone)
                one_step(config, method := begun(config), optim.build(config, method), 0)
                found += [
                    Wrong(f"with {backbone}: {wrong.words}", wrong.mend, wrong.line)
                    for wrong in laws.encodes(config, method.eval(), self.path)
                ]
            except (Exception, SystemExit) as error:
                told = raised(error, self.path)
                mend = (
                    "a backbone gives (B, out_dim) features of images and nothing else; a method that needs patches in reach says so in needs_vit, "
                    "one that needs a feature map in needs_map"
                )
                found.append(Wrong(f"with {backbone} it raises {told.words}", mend, told.line))
        return found

    def _digits(self) -> None:
        """The loss of one batch of the built-in digits falls in a few steps."""
        config = small(self.name, self.found.preset, "fp32", size=32, groups=1).replace({"data.source": "digits"})
        try:
            split = data.open_source(config).train
            data.check_views(split, config.views)
        except UserError as error:
            self.note("digits", [], str(error))
            return
        self.held("digits", lambda: self._falls(config, split))

    def _falls(self, config: RunConfig, split: data.Split) -> list[Wrong]:
        method, size = begun(config, len(split)), config.train.batch_size
        pipeline, rng = Pipeline(config.views, config.augment.strength), np.random.default_rng
        rows = [pipeline(lambda column, _, i=i: split.value(i, column, rng(i)), (0, 0, i)) for i in range(size)]
        slot = torch.arange(size)
        batch, clock = Batch(inputs_of(config, rows), slot, slot, size, seed=1), clock_of(0)
        chunks = divide(method, size, 1, 0, 1, 0)
        optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], RATE, weight_decay=0.0)
        losses = []
        for _ in range(TRIES):
            _, out = forward_backward(config, method, batch, clock, chunks, Gradients(method))
            losses.append(out["loss"].item())
            method.after_backward(clock)
            optimizer.step()
            optimizer.zero_grad()
        if not min(losses[TRIES // 2 :]) < losses[0]:
            words = f"the loss of one batch of the digits does not fall in {TRIES} steps: {losses[0]:.4g}, then {min(losses[TRIES // 2 :]):.4g} at best"
            return [
                Wrong(
                    words,
                    "its gradient does not lead downhill: look for detached tensors and for what is rounded or sorted",
                    line_of(self.path, "loss"),
                )
            ]
        return []

    # ------------------------------------------------------------ several ranks

    def ranks(self, results: dict[tuple[Case, int, int], Any]) -> None:
        """Hold what several ranks computed against one."""
        case = (self.name, self.found.preset)
        if any(not each.ok for each in self.found.findings if each.check in ("draws", "losses")):
            self.note("ranks", [], "what it draws or loses differs already")
            return
        for world in sorted(WORLDS):
            together = [results[case, world, rank] for rank in range(world)]
            failed = sorted((each for each in together if isinstance(each, Raised)), key=lambda each: each.at)
            if failed or None in together:
                words = failed[0].words if failed else "a rank ended without a word"
                mend = "shares of a batch differ by a row, and every rank must take part in every gather, in the same order"
                self.note("ranks", [Wrong(f"on {world} ranks it raises {words}", mend, failed[0].line if failed else 0)])
                return
            names = [name for name, _ in model.build(self.config, SAMPLES).named_buffers()]
            found = laws.equal_buffers(together, names, self.path) or laws.same_on_ranks(together, self.alone, self.path)
            if found:
                self.note("ranks", found)
                return
        self.note("ranks", [])
